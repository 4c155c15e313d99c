"""lm-eval's own tasks on our backend give what its Hugging Face backend gives, sample by sample.

Skipped unless it is installed: `make peers`.
"""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
from pico import WORDS, Lab

from tokenmill.evaluation.config import LmEvalConfig
from tokenmill.model.config import InternLM2Config
from tokenmill.model.exchange import export_model
from tokenmill.model.folder import save_model
from tokenmill.model.modeling import InternLM2ForCausalLM
from tokenmill.records import JSONL, read_jsonl
from tokenmill.steps.files import materialise

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(find_spec("lm_eval") is None, reason="no lm-eval: make peers"),
]
HEAD = """task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
num_fewshot: 0
metadata: {{version: 1.0}}
"""
TASKS = {
    "which_word": """output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{options}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
""",
    "what_follows": """output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{options[0]}}"
generation_kwargs: {until: ["."], max_gen_toks: 12, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
filter_list:
  - {name: as_said, filter: [{function: take_first}]}
  - {name: in_small_letters, filter: [{function: lowercase}, {function: take_first}]}
""",
    "last_word": """output_type: loglikelihood
doc_to_text: "{{question}}"
doc_to_target: "{{options[answer % 3]}}"
metric_list:
  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}
  - {metric: acc, aggregation: mean, higher_is_better: true}
""",
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    torch.set_num_threads(1)
    return Lab(tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module")
def tasks(lab: Lab) -> Path:
    folder = lab.folder / "tasks"
    folder.mkdir()
    rows = [
        {
            "question": f"The {WORDS[i % 20]} {WORDS[(3 * i) % 20]} over the {WORDS[(7 * i + 2) % 20]}",
            "options": [" " + WORDS[(i + j) % 20] for j in range(3)] + [f" {WORDS[i % 20]} and many ships"],
            "answer": i % 4,
        }
        for i in range(20)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, task in TASKS.items():
        (folder / f"{name}.yaml").write_text(HEAD.format(name=name, data=folder / "rows.jsonl") + task)
    return folder


def test_a_task_is_answered_as_by_lm_evals_own_backend(lab: Lab, tasks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(lab.folder / "hub"))
    model = InternLM2ForCausalLM(InternLM2Config.preset("pico"), seed=7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter *= 5  # a random model has hardly a preference; this one has
    save_model(model, lab.folder / "model")
    weights = lab.issue_folder("weights", lab.folder / "model", step="test.train", tokenizer=lab.tokenizer)
    config = LmEvalConfig(tasks=tuple(TASKS), answer_tokens=16, resamples=100, execution={"include_path": str(tasks)})
    made = lab.step("evaluation.lm_eval", config, weights=weights, tokenizer=lab.tokenizer)["output"]
    suites = orjson.loads(lab.store.get_blob(made.shard("evaluation.json").blob))["suites"]
    rows = list(read_jsonl(lab.store.blob_path(made.shard(f"predictions{JSONL}").blob)))

    theirs = by_lm_eval(lab, tasks)
    assert suites.keys() == {f"lm-eval/{task}" for task in TASKS}
    assert suites["lm-eval/which_word"]["metric"] == "acc" and suites["lm-eval/which_word"]["n"] == 20
    assert suites["lm-eval/last_word"]["metric"] == "acc"  # its perplexity is no mean over samples
    for task, metric, kind in (("which_word", "acc", "none"), ("what_follows", "exact_match", "as_said")):
        mine = [row for row in rows if row["suite"] == f"lm-eval/{task}"]
        own = sorted((s for s in theirs["samples"][task] if s["filter"] == kind), key=lambda sample: sample["doc_id"])
        assert [row["score"] for row in mine] == [sample[metric] for sample in own]
        assert suites[f"lm-eval/{task}"]["value"] == pytest.approx(theirs["results"][task][f"{metric},{kind}"])
        for row, sample in zip(mine, own, strict=True):
            if task == "what_follows":
                assert row["said"] == sample["filtered_resps"]
            else:
                said, wanted = (
                    [float(one[0]) for one in answers] for answers in (row["said"], sample["filtered_resps"])
                )
                assert said == pytest.approx(wanted, rel=1e-4)
    assert len({row["score"] for row in rows}) == 2


def by_lm_eval(lab: Lab, tasks: Path) -> Any:
    from lm_eval import evaluator
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    words = materialise(lab.store, lab.tokenizer, lab.folder / "words")
    export_model(lab.folder / "model", words, lab.folder / "exported")
    peer = HFLM(pretrained=str(lab.folder / "exported"), device="cpu", dtype="float32", batch_size=4)
    return evaluator.simple_evaluate(
        model=peer,
        tasks=list(TASKS),
        bootstrap_iters=0,
        task_manager=TaskManager(include_path=str(tasks)),
        log_samples=True,
    )
