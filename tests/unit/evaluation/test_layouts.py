"""Benchmarks in their public layouts, made by hand, before backends that answer by a rule: what is right counts as right."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pico import Lab

from tokenmill.errors import ConfigError
from tokenmill.evaluation.backend import Answer, Ids, Loss, Sample, Sampling
from tokenmill.evaluation.config import ContaminationConfig, EvaluateConfig
from tokenmill.evaluation.dataset import SHIPPED, Dataset, load
from tokenmill.evaluation.evaluate import summary
from tokenmill.evaluation.grading import counted, graded_as
from tokenmill.evaluation.rendering import rendered
from tokenmill.evaluation.scoring import MODES, Subject
from tokenmill.evaluation.search import Search
from tokenmill.evaluation.statistics import Bootstrap
from tokenmill.model.tokenizer import Tokenizer
from tokenmill.steps.files import materialise

SUMS = [
    {"question": "2 + 2?", "options": ["3", "4", "5", "6"], "answer": "B", "topic": "sums"},
    {"question": "7 - 4?", "options": ["3", "4", "5", "6"], "answer": "A", "topic": "sums"},
]


@dataclass(frozen=True)
class Ruled:
    """Answers what a rule says; of a filled template it likes what ends so."""

    tokenizer: Tokenizer
    rule: Callable[[str], str]
    context: int = 4096

    def check(self, tokenizer: Tokenizer) -> None:
        pass

    def losses(self, samples: Sequence[Sample]) -> list[Loss]:
        texts = [self.tokenizer.decode(sample.ids[1:]) for sample in samples]
        return [Loss(0.0 if text[-1] == self.rule(text[:-1]) else 9.0 * len(text), len(text)) for text in texts]

    def answers(self, prompts: Sequence[Ids], sampling: Sampling) -> list[Answer]:
        said = [self.rule(self.tokenizer.decode(prompt)) for prompt in prompts]
        return [Answer([*self.tokenizer.encode(one), sampling.stop_ids[0]], True) for one in said]


def knows(asked: str) -> str:
    """The letter before which the sum's result stands."""
    result = "4" if "2 + 2" in asked else "3"
    return next(line[0] for line in asked.splitlines() if line[1:] == f". {result}")


def first(asked: str) -> str:
    return "A"


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lab = Lab(tmp_path_factory.mktemp("lab"))
    return materialise(lab.store, lab.tokenizer, lab.folder / "words")


def measured(name: str, rows: Sequence[dict[str, Any]], rule: Callable[[str], str], words: Path, folder: Path) -> Any:
    """(predictions, the suite's numbers) of a shipped benchmark's records."""
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shard, records = rendered(load(folder, shipped=name), folder)
    mode = shard.partition("/")[0]
    subject = Subject.of(Ruled(Tokenizer.load(words), rule), words, EvaluateConfig())
    found = counted(MODES[mode](subject, records), records)
    return found, summary(graded_as(mode, records), found, Bootstrap(100))


@pytest.mark.parametrize("name", ["mathbench-cn", "mathbench-en", "mathbench-cn-gen", "mathbench-en-gen"])
def test_mathbench_wants_every_turn_right(name: str, words: Path, tmp_path: Path) -> None:
    found, suite = measured(name, SUMS, knows, words, tmp_path)
    assert (suite["metric"], suite["value"], suite["n"]) == ("circular accuracy", 1.0, 2)
    assert [len(one["turns"]) for one in found] == [4, 4]
    found, suite = measured(name, SUMS, first, words, tmp_path)
    assert suite["value"] == 0.0
    assert [sum(turn["score"] for turn in one["turns"]) for one in found] == [1, 1]  # right once, where it stands first


def test_a_turned_question_is_one_question_to_the_contamination_check(tmp_path: Path) -> None:
    """Four copies of it would be taken for wording that questions share, which counts for none."""
    long = "How many apples are left of nine that a farmer brought to the market of the old town on a wet Monday"
    (tmp_path / "test.jsonl").write_text(json.dumps(SUMS[0] | {"question": long}))
    (record,) = rendered(load(tmp_path, shipped="mathbench-en"), tmp_path)[1]
    search = Search(ContaminationConfig())
    search.add("choice/mathbench-en", record)
    search.build()
    assert search.find(f"They asked: {long}? Nobody knew.") == {f"choice/mathbench-en#{record['id']}": "input"}


def test_gaokao_reads_the_letter_of_a_written_answer(words: Path, tmp_path: Path) -> None:
    rows = [
        {"question": "1. 下列各数中最大的是（ ）\nA. 1\nB. 4\nC. 3\nD. 2", "answer": "B", "year": "2010", "score": 5},
        {"question": "2. 2 + 2 = （ ）\nA. 4\nB. 5\nC. 6\nD. 7", "answer": "A", "year": "2011", "score": 5},
    ]
    says = {"最大": "因为4比3大，所以答案是B。", "2 + 2": "C"}
    rule = lambda asked: next(said for part, said in says.items() if part in asked)  # noqa: E731
    found, suite = measured("gaokao", rows, rule, words, tmp_path)
    assert [(one["found"], one["score"]) for one in found] == [("B", 1.0), ("C", 0.0)]
    assert (suite["metric"], suite["value"]) == ("accuracy", 0.5)


def test_what_has_no_options_cannot_be_turned_round() -> None:
    values = load(SHIPPED, shipped="gsm8k").model_dump(exclude_unset=True) | {"circular": True}
    with pytest.raises(ConfigError, match="circular turns options round: say in `choices` where they are"):
        Dataset.at("dataset.yaml", values)
