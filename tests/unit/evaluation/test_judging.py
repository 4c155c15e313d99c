"""What becomes of a judge's words, and of a dataset whose answers it grades."""

import json
from pathlib import Path
from typing import Any

import pytest

from tokenmill.errors import ConfigError, InputError
from tokenmill.evaluation.compare import flips
from tokenmill.evaluation.config import EvaluateConfig
from tokenmill.evaluation.dataset import Dataset
from tokenmill.evaluation.evaluate import summary
from tokenmill.evaluation.grading import graded_as
from tokenmill.evaluation.judging import _graded, judge_of, wanted
from tokenmill.evaluation.measured import scored
from tokenmill.evaluation.rendering import rendered
from tokenmill.evaluation.statistics import Bootstrap

ASKED = {"name": "open", "description": "d", "language": "en", "licence": "MIT", "group": "instructions"}
ASKED |= {"inferencer": "generate", "metric": "judge", "template": "{instruction}"}
RATED, PAIRED = {"question": "Why?"}, {"question": "Why?", "baseline": "because"}


def longer(prompt: str) -> str:
    a, b = (prompt.partition(f"[Answer of {x}]\n")[2].partition(f"\n[End of {x}]")[0] for x in "AB")
    return f"[[{'A' if len(a) > len(b) else 'B'}]]"


@pytest.mark.parametrize(
    ("record", "said", "judge", "score"),
    [
        (RATED, "Since.", lambda _: "As in [[5]]: [[8]]", 0.8),
        (RATED, "Since.", lambda _: "Well.", None),
        (PAIRED, "because of the rain", longer, 1.0),
        (PAIRED, "no", longer, 0.0),
        (PAIRED, "because of the rain", lambda _: "[[A]]", 0.5),  # it likes what it reads first: no difference
        (PAIRED, "because of the rain", lambda _: "Well.", None),
    ],
)
def test_a_grade_is_a_share_and_the_judges_words_are_kept(record: Any, said: str, judge: Any, score: Any) -> None:
    found = _graded(record, said, judge)
    assert found["score"] == score
    assert len(found["judge"]) == (2 if record is PAIRED else 1) and all(found["judge"])


def test_an_answer_without_a_verdict_is_left_out_and_counted() -> None:
    rows: list[dict[str, Any]] = [{"id": str(i), "score": score} for i, score in enumerate((0.8, None, 0.4))]
    found = summary(graded_as("generate", [{"metric": "judge"}]), rows, Bootstrap(100))
    assert (found["metric"], found["ungraded"], found["n"]) == ("judge's rating", 1, 3)
    assert found["value"] == pytest.approx(0.6)
    other = [row | {"score": score} for row, score in zip(rows, (0.7, 0.9, 0.9), strict=True)]
    assert scored(zip(rows, other, strict=True)) == [(0.8, 0.7), (0.4, 0.9)]
    before, after = ({row["id"]: row for row in one} for one in (rows, other))
    assert flips(before, after) == {"gained": ["2"], "lost": ["0"]}
    assert graded_as("generate", [{"metric": "judge", "baseline": "x"}]) == "win rate"


def test_a_dataset_for_a_judge_needs_no_right_answer(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text(json.dumps({"instruction": "Why {so}?", "output": "because"}))
    shard, (rated,) = rendered(Dataset.at("dataset.yaml", ASKED), tmp_path)
    _, (paired,) = rendered(Dataset.at("dataset.yaml", ASKED | {"baseline": "{output}"}), tmp_path)
    assert shard == "generate/open.jsonl.zst"
    assert rated == {"id": "00000", "question": "Why {so}?", "metric": "judge", "shots": ""}
    assert paired == rated | {"baseline": "because"} and wanted([paired])
    for wrong, said in (
        ({"inferencer": "ppl", "choices": "output"}, "a judge grades what is written"),
        ({"choices": "output"}, "a judge grades what is written"),
        ({"metric": "same", "baseline": "{output}"}, "say `metric: judge`"),
    ):
        with pytest.raises(ConfigError, match=said):
            Dataset.at("dataset.yaml", ASKED | wrong)


def test_the_judges_name_is_the_evaluations_and_its_place_is_not() -> None:
    with pytest.raises(InputError, match=r"name it, evaluation\.evaluate\.judge\.model"):
        judge_of(EvaluateConfig())
    given = {"judge": {"model": "m"}, "execution": {"judge": {"url": "http://here"}}}
    assert EvaluateConfig.at("evaluation.evaluate", given).identity() == {"judge": {"model": "m"}}
