"""Published JSON Schemas are those of the code, and what the code writes is valid under them."""

from importlib import resources
from pathlib import Path

import orjson
import pytest
import yaml
from jsonschema import Draft202012Validator, ValidationError
from pico import Lab, released

from tokenmill.manifest import Draft, Manifest, Shard
from tokenmill.schemas import as_files
from tokenmill.store.artifacts import INLINE_SHARDS
from tokenmill.tracking import EventLog, RunRef
from tokenmill.training.messages import Failure, Result, Spec

PUBLISHED = Path(__file__).parents[2] / "docs" / "schemas"
FOLDER = resources.files("tokenmill") / "presets"
PRESETS = sorted((path for path in FOLDER.iterdir() if path.is_file()), key=lambda path: path.name)


def validate(name, value):
    schema = orjson.loads((PUBLISHED / f"{name}.schema.json").read_bytes())
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(value)


def refuse(name, value):
    with pytest.raises(ValidationError):
        validate(name, value)


def stored(store, prefix):
    return [orjson.loads(store.backend.get(entry.key)) for entry in store.backend.list(prefix)]


def test_what_is_published_is_up_to_date():
    published = {path.name: path.read_text() for path in PUBLISHED.glob("*.json")}
    assert published == as_files(), "run `tokenmill schemas`"


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.name)
def test_every_preset_is_valid(preset):
    validate("preset", yaml.safe_load(preset.read_text()))


def test_a_preset_with_an_unknown_option_or_a_wrong_value_is_not():
    validate("preset", {"extends": "nano", "rlhf": {"ppo": {"kl_coefficient": 0.02}}})
    refuse("preset", {"rlhf": {"ppo": {"kl_coeficient": 0.02}}})
    refuse("preset", {"rlhf": {"ppo": {"kl_coefficient": "little"}}})


def test_what_a_release_leaves_in_a_store_is_valid(tmp_path):
    lab = Lab(tmp_path)
    made = released(lab)
    manifests, files = stored(lab.store, "manifests/"), stored(lab.store, f"runs/{lab.run.key}/events/")
    assert {m["kind"] for m in manifests} >= {"weights", "training_sets", "release"}
    assert {event["kind"] for file in files for event in file["events"]} == {"step_started", "step_finished"}
    for one in manifests:
        validate("manifest", one)
    for file in files:
        validate("events", file)
    release = orjson.loads(lab.store.get_blob(made.release.shard("release.json").blob))
    validate("release", release)
    refuse("release", {name: value for name, value in release.items() if name != "tensors"})
    refuse("manifest", {name: value for name, value in manifests[0].items() if name != "digest"})
    refuse("manifest", manifests[0] | {"kinds": "weights"})


def test_a_manifest_whose_list_of_shards_is_a_blob_is_valid(tmp_path):
    store = Lab(tmp_path).store
    blob, size = store.put_blob(b"x")
    shards = tuple(Shard(name=f"{i:05d}", blob=blob, content=blob, size=size) for i in range(INLINE_SHARDS + 1))
    manifest = Manifest.issue(Draft(kind="corpus", shards=shards), parents={}, step="a.b", version=1, config={})
    store.put_manifest(manifest)
    (one,) = stored(store, "manifests/")
    assert one["shards"]["count"] == len(shards)
    validate("manifest", one)


def test_every_kind_of_event_is_valid(tmp_path):
    lab = Lab(tmp_path)
    with EventLog(lab.store, lab.run, "task") as log:
        log.run_opened(config={"curation": {}})
        log.step_started("a.b", 1, {}, {"corpus": ["0" * 64]}, tags={"round": "1"})
        log.metrics({"loss": float("nan"), "reward": float("-inf"), "kl": 1})
        log.params({"parameters": 7})
        log.artifact("report.html", "0" * 64, on="run")
        log.model("base", lab.corpus, metrics={"loss": float("inf")})
        log.step_finished("a.b", {"output": lab.corpus}, "miss", 1.5)
        log.step_failed("a.b", ValueError("no"))
        log.run_closed("failed", "no")
    files = stored(lab.store, f"runs/{lab.run.key}/events/")
    events = {event["kind"]: event for file in files for event in file["events"]}
    kinds = orjson.loads((PUBLISHED / "events.schema.json").read_bytes())["properties"]["events"]["items"]["anyOf"]
    assert events.keys() == {kind["properties"]["kind"]["const"] for kind in kinds}
    for event in events.values():
        validate("events", {"events": [event]})
        refuse("events", {"events": [event | {"kind": "run_paused"}]})
        for name in event["data"]:
            refuse("events", {"events": [event | {"data": {k: v for k, v in event["data"].items() if k != name}}]})


def test_what_launcher_and_ranks_tell_each_other_is_valid(tmp_path):
    corpus = Lab(tmp_path).corpus
    told = {
        "spec": Spec(
            store="file:///store",
            step="sft.train",
            version=1,
            config={"execution": {"ranks": 2}},
            inputs={"conversations": (corpus.digest,)},
            key="0" * 64,
            attempt="000001",
            run=RunRef.new("lifecycle", "pico"),
            task="sft.train",
        ),
        "result": Result(outputs={"weights": Draft.model_validate(corpus.body())}),
        "failure": Failure(rank=1, message="loss is nan", expected=True, retry=False, rollback=True, traceback=""),
    }
    for name, message in told.items():
        value = orjson.loads(message.model_dump_json())
        validate(name, value)
        assert type(message).model_validate_json(orjson.dumps(value)) == message
        for field in value:
            refuse(name, {k: v for k, v in value.items() if k != field})
