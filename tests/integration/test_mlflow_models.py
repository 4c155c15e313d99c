"""MLflow's own client loads what we register, from a server and from the database beside a store. Random weights."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pandas
import pytest
import torch
from pico import Lab, Released, chat, released
from safetensors import safe_open
from servers import MLflowServer

from tokenmill.deployment.config import RegisterConfig
from tokenmill.errors import CorruptError, InputError
from tokenmill.manifest import Manifest
from tokenmill.model.chat import answer_ids, encode_prompt
from tokenmill.model.config import InternLM2Config
from tokenmill.model.folder import load_model, save_model
from tokenmill.model.generation import generate
from tokenmill.model.modeling import InternLM2ForRewardModel
from tokenmill.model.tokenizer import Tokenizer
from tokenmill.rlhf.conditional import Query, conditional_prompts, reward_input
from tokenmill.rlhf.scoring import reward_scores
from tokenmill.steps.files import materialise
from tokenmill.tracking.connection import tracking_uri

pytestmark = pytest.mark.integration
FILES = {
    *("MLmodel", "manifest.json", "card.md", "config.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens.json", "chat_template.jinja"),
}
CHATS = [
    chat("What is 7 + 5?", "12")[:1],
    [{"role": "system", "content": "Be brief."}, *chat("Hi", "Hello"), {"role": "user", "content": "And 8 + 8?"}],
]


@pytest.fixture(scope="module", params=["server", "database"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A store, and the MLflow that a user's process talks to."""
    torch.set_num_threads(1)
    lab = Lab(tmp_path_factory.mktemp("lab"))
    server = MLflowServer(tmp_path_factory.mktemp("mlflow"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "")  # recorded: mlflow.set_tracking_uri writes there too
        if request.param == "server":
            patch.setenv("MLFLOW_TRACKING_URI", server.start())
        before = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(tracking_uri(lab.store))
        yield lab
        mlflow.set_tracking_uri(before)
    server.stop()


@pytest.fixture(scope="module")
def made(lab: Lab) -> Released:
    made = released(lab)
    lab.step("deployment.register", RegisterConfig(), model=made.release, verdict=made.verdict)
    return made


def register(lab: Lab, weights: Manifest, role: str) -> str:
    name = f"internlm2-{role}-{weights.digest[:6]}"
    lab.step("deployment.register", RegisterConfig(role=role, name=name), model=weights)
    return f"models:/{name}@candidate"


def artifacts(uri: str) -> dict[str, bytes]:
    folder = Path(mlflow.artifacts.download_artifacts(uri))
    files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    files.pop("registered_model_meta")  # MLflow adds it to what it downloads
    return files


def answers(lab: Lab, weights: Manifest, prompts: list[list[int]], **sampling: Any) -> list[str]:
    """Our own generation, from the weights as they were trained."""
    tokenizer = Tokenizer.load(lab.folder / "tokenizer")
    model = load_model(materialise(lab.store, weights, lab.folder / "own" / weights.digest[:8]))
    made = generate(model, prompts, stop_ids=(tokenizer.eos_id, tokenizer.im_end_id), **sampling)
    ends = {tokenizer.eos_id, tokenizer.im_end_id}
    return [tokenizer.decode([token for token in one.tokens if token not in ends]) for one in made]


def prompts_of(lab: Lab, chats: list[Any]) -> list[list[int]]:
    tokenizer = Tokenizer.load(lab.folder / "tokenizer")
    return [encode_prompt(messages, tokenizer) for messages in chats]


def test_a_release_loads_by_its_alias_and_answers_as_our_own_generation_does(lab: Lab, made: Released) -> None:
    model = mlflow.pyfunc.load_model("models:/internlm2-chat-pico@candidate")
    greedy = answers(lab, made.weights, prompts_of(lab, CHATS), max_new_tokens=24, temperature=0)
    assert len(set(greedy)) == 2 and all(greedy)
    few = {"max_new_tokens": 24}
    assert model.predict(pandas.DataFrame({"messages": CHATS}), params=few) == greedy
    assert model.predict([{"messages": messages} for messages in CHATS], params=few) == greedy
    assert model.predict({"messages": CHATS[1]}, params=few) == greedy[1:]
    assert model.predict({"prompt": "What is 7 + 5?"}, params=few) == greedy[:1]
    drawn = {"max_new_tokens": 24, "temperature": 0.9, "top_p": 0.8, "seed": 3}
    assert model.predict(pandas.DataFrame({"messages": CHATS}), params=drawn) == answers(
        lab, made.weights, prompts_of(lab, CHATS), **drawn
    )
    assert answers(lab, released(lab, seed=5).weights, prompts_of(lab, CHATS), max_new_tokens=24) != greedy


def test_what_mlflow_holds_has_no_byte_of_the_weights(lab: Lab, made: Released) -> None:
    held = artifacts("models:/internlm2-chat-pico@candidate")
    assert set(held) == FILES | {"generation_config.json"}
    everything = b"".join(held.values())
    for manifest in (made.weights, made.release):
        path = lab.store.blob_path(manifest.shard("model.safetensors").blob)
        with safe_open(path, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (no mapping)
                assert tensors.get_tensor(name).numpy().tobytes()[:64] not in everything, name
    assert held["tokenizer.json"] == (lab.folder / "tokenizer" / "tokenizer.json").read_bytes()
    assert Manifest.from_json(held["manifest.json"]).digest == made.release.digest


def test_the_card_says_what_it_is_where_from_and_what_the_gate_said(lab: Lab, made: Released) -> None:
    card = artifacts("models:/internlm2-chat-pico@candidate")["card.md"].decode()
    for told in (
        "# internlm2-chat",
        "A chat model",
        "- tales: CC0-1.0 (made for tests)",
        f"- weights: test.made `{made.weights.digest[:12]}`",
        "Passed (1 checks)",
        "- perplexity/en: perplexity 10 [9, 11], n = 50",
        "at most 128 tokens",
    ):
        assert told in card, told
    assert "exam" not in card  # what it was measured with is not what it was trained on


def test_a_base_model_continues_text(lab: Lab) -> None:
    weights = lab.weights(seed=2, counts={"tokens_seen": 4_096})
    uri = register(lab, weights, "base")
    model = mlflow.pyfunc.load_model(uri)
    tokenizer = Tokenizer.load(lab.folder / "tokenizer")
    texts = ["The old king", "Many ships came home"]
    own = answers(lab, weights, [[1, *tokenizer.encode(text)] for text in texts], max_new_tokens=16, temperature=0)
    assert model.predict(pandas.DataFrame({"prompt": texts}), params={"max_new_tokens": 16}) == own
    card = artifacts(uri)["card.md"].decode()
    assert "A base model" in card and "tokens seen: 4,096" in card and "None has judged these weights" in card


def test_a_reward_model_scores_as_ppo_does(lab: Lab) -> None:
    folder = lab.folder / "reward"
    save_model(InternLM2ForRewardModel(InternLM2Config.preset("pico"), seed=7), folder)
    sft = lab.weights(seed=3, conversations=lab.conversations)
    weights = lab.issue_folder("weights", folder, sft=sft, tokenizer=lab.tokenizer)
    model = mlflow.pyfunc.load_model(register(lab, weights, "reward"))
    tokenizer = Tokenizer.load(lab.folder / "tokenizer")
    own = load_model(folder, InternLM2ForRewardModel)
    domain, condition = next(iter(conditional_prompts().items()))
    expected, rows = [], []
    for said in ("Twelve.", " No idea"):
        query = Query("q", domain, ({"role": "user", "content": "7+5?"},))
        ids = reward_input(query, answer_ids(said, tokenizer), tokenizer, max_length=10_000)
        expected.append(float(reward_scores(own, [ids])))
        rows.append([{"role": "system", "content": condition}, *chat("7+5?", said)])
    assert model.predict(pandas.DataFrame({"messages": rows})) == pytest.approx(expected, abs=1e-6)
    assert len(set(expected)) == 2
    with pytest.raises(InputError, match="only an assistant's answer has a score"):
        model.predict({"messages": rows[0][:-1]})


def test_weights_that_no_longer_are_what_was_registered_are_refused(lab: Lab) -> None:
    weights = lab.weights(seed=11)
    uri = register(lab, weights, "base")
    path = lab.store.blob_path(weights.shard("model.safetensors").blob)
    sound = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    with pytest.raises(CorruptError, match="is damaged"):
        mlflow.pyfunc.load_model(uri)
    path.write_bytes(sound)


def test_without_its_store_a_pointer_says_so_and_a_copy_of_the_store_will_do(lab: Lab, made: Released) -> None:
    uri = "models:/internlm2-chat-pico@candidate"
    copy = lab.folder / "copy"
    copy.mkdir()
    with pytest.raises(InputError, match="MLflow holds only a pointer"):
        mlflow.pyfunc.load_model(uri, model_config={"store": copy.as_uri()})
    shutil.copytree(lab.folder / "store", copy, dirs_exist_ok=True)
    model = mlflow.pyfunc.load_model(uri, model_config={"store": copy.as_uri()})
    greedy = answers(lab, made.weights, prompts_of(lab, CHATS[:1]), max_new_tokens=8, temperature=0)
    assert model.predict({"messages": CHATS[0]}, params={"max_new_tokens": 8}) == greedy


def test_input_that_is_no_chat_is_refused_in_one_line(lab: Lab, made: Released) -> None:
    model = mlflow.pyfunc.load_model("models:/internlm2-chat-pico@candidate")
    with pytest.raises(InputError, match="a column `messages`"):
        model.predict(["just a string"])
    with pytest.raises(InputError, match="row 1 has no messages"):
        model.predict(pandas.DataFrame({"messages": [CHATS[0], []]}))
