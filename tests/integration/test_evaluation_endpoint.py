"""One suite, two backends: a model in this process and the same model behind vLLM agree item by item.

The model is a pico of random weights, five times their usual size, so that its choices are not all alike.
"""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
import torch
from pico import Lab, chat, documents

from tokenmill.deployment.server import VLLMServer
from tokenmill.errors import InputError, UserError
from tokenmill.evaluation import hub
from tokenmill.evaluation.config import EndpointConfig, EvaluateConfig
from tokenmill.evaluation.dataset import load
from tokenmill.evaluation.endpoint import Endpoint
from tokenmill.manifest import Manifest
from tokenmill.model.config import InternLM2Config
from tokenmill.model.exchange import export_model
from tokenmill.model.folder import save_model
from tokenmill.model.modeling import InternLM2ForCausalLM
from tokenmill.model.tokenizer import Tokenizer
from tokenmill.records import JSONL, read_jsonl
from tokenmill.serving import serving_available
from tokenmill.steps.files import materialise
from tokenmill.tracking import read_events

AVAILABLE, REASON = serving_available()
pytestmark = [pytest.mark.integration, pytest.mark.skipif(not AVAILABLE, reason=REASON)]
OPTIONS = {"label": "twice", "answer_tokens": 16, "resamples": 100}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    torch.set_num_threads(1)
    return Lab(tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module")
def weights(lab: Lab) -> Manifest:
    model = InternLM2ForCausalLM(InternLM2Config.preset("pico"), seed=7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter *= 5
    save_model(model, lab.folder / "model")
    return lab.issue_folder("weights", lab.folder / "model", step="test.train", tokenizer=lab.tokenizer)


@pytest.fixture(scope="module")
def served(lab: Lab, weights: Manifest) -> Iterator[VLLMServer]:
    words = materialise(lab.store, lab.tokenizer, lab.folder / "words")
    export_model(lab.folder / "model", words, lab.folder / "twice")
    with VLLMServer(lab.folder / "twice", log=lab.folder / "vllm.log") as server:
        yield server


@pytest.fixture(scope="module")
def questions(lab: Lab) -> Manifest:
    tales = [record["text"] for record in documents()][:24]
    shots = "What did the king see?\nA. hills\nB. ships\nAnswer: B\n\n"
    asked = [
        {
            "id": f"{i:02d}",
            "shots": shots,
            "question": text[:60],
            "choices": [text[:60] + end for end in (text[60:75], " wine", " a bright river over the hills", " no")],
            "answer": i % 4,
        }
        for i, text in enumerate(tales)
    ]
    written = [{"id": f"{i}", "question": f"What is {i} + 3?", "answer": str(i + 3)} for i in range(8)]
    program = {"question": "def f(x):\n", "test": "assert f(2) == 4"}
    return lab.issue(
        "questions",
        {
            f"perplexity/tales{JSONL}": [
                {"id": f"{i}", "text": text * 3} for i, text in enumerate(tales)
            ],  # beyond the context
            f"perplexity/chat{JSONL}": [{"id": "c", "messages": chat("corn?", "wine and silver")}],
            f"choice/next{JSONL}": asked,
            f"likelihood/next{JSONL}": asked,
            f"generate/sums{JSONL}": written,
            f"code/squares{JSONL}": [{"id": "a", **program}, {"id": "b", "shots": "x = 1\n\n", **program}],
            f"format/chat{JSONL}": [
                {"id": f"{i}", "messages": chat(text[:30], "")[:1]} for i, text in enumerate(tales)
            ],
        },
    )


def evaluated(lab: Lab, manifest: Manifest) -> tuple[dict[str, Any], dict[tuple[str, str], dict[str, Any]]]:
    facts = orjson.loads(lab.store.get_blob(manifest.shard("evaluation.json").blob))
    rows = read_jsonl(lab.store.blob_path(manifest.shard(f"predictions{JSONL}").blob))
    return facts, {(row["suite"], row["id"]): row for row in rows}


@pytest.mark.parametrize("form", ["chat", "plain"])
def test_both_backends_agree_item_by_item(
    lab: Lab, weights: Manifest, questions: Manifest, served: VLLMServer, form: str
) -> None:
    inputs = {"weights": weights, "tokenizer": lab.tokenizer, "questions": questions}
    here = lab.step("evaluation.evaluate", EvaluateConfig(form=form, **OPTIONS), **inputs)["output"]
    config = EndpointConfig(form=form, model=served.name, execution={"url": served.url}, **OPTIONS)
    there = lab.step("evaluation.evaluate_endpoint", config, **inputs)["output"]
    (facts, mine), (other, theirs) = evaluated(lab, here), evaluated(lab, there)
    assert mine.keys() == theirs.keys() and len(mine) > 90
    for item, row in mine.items():
        losses = {"loss", "losses"} & row.keys()
        assert {k: v for k, v in row.items() if k not in losses} == {
            k: v for k, v in theirs[item].items() if k not in losses
        }
        for name in losses:
            assert theirs[item][name] == pytest.approx(row[name], rel=1e-4)
    assert len({row["chosen"] for row in mine.values() if "chosen" in row}) > 1  # a real choice, not always the first
    assert facts["model"] == other["model"] == weights.content and other["served_as"] == served.name
    for name, suite in facts["suites"].items():
        assert other["suites"][name]["value"] == pytest.approx(suite["value"], rel=1e-4)


def test_a_pipeline_asks_each_dataset_in_a_task_and_a_wrong_one_is_told_before_any(
    lab: Lab, weights: Manifest, questions: Manifest, served: VLLMServer
) -> None:
    """As a user runs it: the same numbers as the step alone, of a dataset by name and of questions by digest."""
    rows = (f'{{"q": "the king saw {i}", "options": [" ships", " hills"], "answer": {i % 2}}}\n' for i in range(8))
    folder = lab.folder / "which"
    folder.mkdir()
    (folder / "test.jsonl").write_text("".join(rows))
    (folder / "dataset.yaml").write_text(
        "{name: which, description: d, language: en, licence: MIT, group: qa, inferencer: ppl, choices: options, "
        "template: '{q}', option: '{choice}'}"
    )
    which = hub.add(lab.store, load(folder), folder).questions
    arguments = [f"url={served.url}", f"model={served.name}", "form=plain"]
    options = [f"evaluation.evaluate.{name}={value}" for name, value in OPTIONS.items()]

    def run(*datasets: str) -> subprocess.CompletedProcess[str]:
        given = [f"--arg={one}" for one in (*arguments, f"datasets=[{', '.join(datasets)}]")]
        command = ["run", "benchmark", "--preset", "pico", *given, *(f"--set={one}" for one in options)]
        command += [f"--store={lab.store.uri}", f"--input=weights={weights.digest[:16]}", "--json"]
        command = [sys.executable, "-m", "tokenmill.cli", *command]
        return subprocess.run(command, cwd=lab.folder, capture_output=True, text=True, timeout=240)

    unknown = run("witch")
    assert unknown.returncode == 2 and "no dataset witch in the store, which has which" in unknown.stderr

    done = run("which", questions.digest[:16])
    assert done.returncode == 0, done.stderr[-2000:]
    events = list(read_events(lab.store, orjson.loads(done.stdout)["run"]))
    made = {e.task: e.data["outputs"]["output"]["content"] for e in events if e.kind == "step_finished"}
    config = EndpointConfig(form="plain", model=served.name, execution={"url": served.url}, **OPTIONS)
    for name, asked in (("which", which), (questions.digest[:12], questions)):
        inputs = {"weights": weights, "tokenizer": lab.tokenizer, "questions": asked}
        alone = lab.step("evaluation.evaluate_endpoint", config, **inputs)["output"]
        assert made[f"evaluation.evaluate_endpoint.{name}"] == alone.content
    assert "evaluation.board" in made


def test_another_tokenizer_another_name_and_nobody_are_told_in_a_line(
    lab: Lab, served: VLLMServer, tmp_path: Any
) -> None:
    endpoint = Endpoint.at(served.name, EndpointConfig(execution={"url": served.url + "/v1"}).execution)
    endpoint.check(Tokenizer.load(lab.folder / "words"))
    with pytest.raises(InputError, match=f"give the tokenizer that {served.name} was trained with"):
        endpoint.check(Tokenizer.train(["Another old king altogether rode over other hills"] * 9, vocab_size=512))
    with pytest.raises(InputError, match="serves twice, not 'thrice'"):
        _ = Endpoint.at("thrice", endpoint_execution(served.url)).context
    with pytest.raises(UserError, match="endpoint at http://127.0.0.1:9 does not answer"):
        _ = Endpoint.at("twice", endpoint_execution("http://127.0.0.1:9")).context


def endpoint_execution(url: str) -> Any:
    return EndpointConfig(execution={"url": url, "tries": 1}).execution
