"""The board: every model once, the report's scores beside, what was not measured left open."""

import orjson
import pytest
from pico import Lab

from tokenmill.errors import InputError
from tokenmill.evaluation.board import BOARD, PAGE, TEXT
from tokenmill.evaluation.config import BoardConfig
from tokenmill.manifest import Manifest


def evaluation(lab: Lab, label: str, values: dict[str, float | None], **facts: str) -> Manifest:
    suites = {
        name: {"metric": "accuracy", "value": x, "ci_low": x and x - 0.1, "ci_high": x and x + 0.1, "n": 40}
        for name, x in values.items()
    }
    told = {"label": label, "form": "plain", "model": label * 9, "tokenizer": "t", "questions": "q", "suites": suites}
    return lab.issue_json("evaluation", {"evaluation.json": told | facts})


def shown(lab: Lab, suite: str, *evaluations: Manifest) -> tuple[dict, str, str]:
    made = lab.step("evaluation.board", BoardConfig(suite=suite), evaluations=list(evaluations))["output"]
    document, text, page = (lab.store.get_blob(made.shard(name).blob) for name in (BOARD, TEXT, PAGE))
    return orjson.loads(document), text.decode(), page.decode()


def test_models_stand_beside_the_reports_scores_as_shares(lab: Lab) -> None:
    mine = evaluation(lab, "ours", {"choice/mmlu": 0.31, "generate/gsm8k": None})
    document, text, page = shown(lab, "base", mine)
    rows = {row["model"]: row for row in document["rows"]}
    assert list(rows) == ["InternLM2-7B-Base", "InternLM2-7B", "InternLM2-20B-Base", "InternLM2-20B", "ours"]
    assert rows["InternLM2-7B"]["cells"]["choice/mmlu"]["value"] == pytest.approx(0.658)  # spec §8.5
    assert "choice/mmlu" not in rows["InternLM2-20B-Base"]["cells"]  # spec §0.3: the row repeats another
    assert document["columns"][:2] == ["choice/mmlu", "choice/cmmlu"] and len(document["columns"]) == 22
    line = next(line for line in text.splitlines() if line.startswith("| choice/mmlu"))
    assert line == "| choice/mmlu | accuracy | 0.64 | 0.658 | – | 0.677 | 0.31 [0.21, 0.41] |"
    assert "| diverged |" in next(line for line in text.splitlines() if line.startswith("| generate/gsm8k"))
    assert "0.21–0.41" in page and 'class="reference"' in page


def test_a_model_is_one_row_and_its_last_evaluation_counts(lab: Lab) -> None:
    first = evaluation(lab, "m", {"choice/a": 0.2, "choice/b": 0.5})
    later, chat = evaluation(lab, "m", {"choice/a": 0.6}), evaluation(lab, "m", {"choice/a": 0.9}, form="chat")
    document, _, _ = shown(lab, "", first, later, chat)
    found = {row["form"]: {name: cell["value"] for name, cell in row["cells"].items()} for row in document["rows"]}
    assert found == {"plain": {"choice/a": 0.6, "choice/b": 0.5}, "chat": {"choice/a": 0.9}}


def test_a_perplexity_stands_there_with_its_bits_a_byte(lab: Lab) -> None:
    suite = {"metric": "perplexity", "value": 12.5, "ci_low": 12.0, "ci_high": 13.0, "n": 4, "bits_per_byte": 1.0625}
    suites = {"choice/a": suite | {"metric": "accuracy", "bits_per_byte": None}, "perplexity/en": suite}
    told = {"label": "m", "form": "plain", "model": "m", "tokenizer": "t", "questions": "q", "suites": suites}
    document, text, page = shown(lab, "", lab.issue_json("evaluation", {"evaluation.json": told}))
    assert document["rows"][0]["cells"]["perplexity/en"]["bits_per_byte"] == 1.0625
    assert "| perplexity/en | perplexity | 12.5 [12, 13], 1.062 bits a byte |" in text.splitlines()
    assert page.count("<small>1.062 bits a byte</small>") == text.count("bits a byte") == 1


def test_a_name_is_no_markup_and_an_empty_board_is_refused(lab: Lab) -> None:
    _, _, page = shown(lab, "", evaluation(lab, "<b>bold</b>", {"choice/a": 0.2}))
    assert "&lt;b&gt;bold" in page and "<b>bold" not in page
    with pytest.raises(InputError, match="no evaluation of its datasets was found"):
        shown(lab, "", evaluation(lab, "m", {}))
    with pytest.raises(InputError, match="no suite 'bass'; there are base, chat"):
        shown(lab, "bass", evaluation(lab, "m", {"choice/a": 0.2}))
