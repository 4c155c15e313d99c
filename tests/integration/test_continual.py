"""Somebody's model on somebody's texts, at pico: one command after an import, and an account of what it gave."""

import os
import subprocess
import sys
from collections import Counter

import orjson
import pytest
import toy
from foreign import foreign_llama

from tokenmill.lineage import upstream
from tokenmill.records import read_jsonl
from tokenmill.store import open_store
from tokenmill.tracking import read_events

pytestmark = [pytest.mark.integration, pytest.mark.timeout(290)]


def tokenmill(folder, *arguments):
    command = [sys.executable, "-m", "tokenmill.cli", *map(str, arguments), "--json"]
    env = os.environ | {"TOKENMILL_STORE": f"file://{folder}/store"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return orjson.loads(done.stdout)


def test_an_imported_model_learns_a_folder_of_texts(tmp_path):
    tales = toy.write_folder(tmp_path / "tales", documents=60)
    model = foreign_llama(tmp_path / "tiny")
    source = f"{{name: tales, uri: {tales}, type: book, licence: CC0-1.0, origin: made for tests}}"
    corpus = tokenmill(tmp_path, "run", "curation", "--preset", "pico", "--arg", f"sources=[{source}]")["outputs"][
        "corpus"
    ]
    base = tokenmill(tmp_path, "model", "import", model, "--licence", "Apache-2.0", "--tokens-seen", 5000)
    given = {"corpus": corpus, "base": base["weights"], "tokenizer": base["tokenizer"]}
    inputs = [part for name, digest in given.items() for part in ("--input", f"{name}={digest}")]
    settings = (
        "enhancement.enhance.optim.lr=0.003",
        "enhancement.enhance.tokens=16384",
        "enhancement.enhance.lora.rank=8",
    )
    result = tokenmill(
        tmp_path, "run", "continual", "--preset", "pico", *inputs, *(p for s in settings for p in ("--set", s))
    )

    store = open_store(f"file://{tmp_path}/store")
    tasks = {e.task: e.data["outputs"] for e in read_events(store, result["run"]) if e.kind == "step_finished"}
    enhanced = store.get_manifest(result["outputs"]["enhanced"])
    assert enhanced.parents["base"] == (base["weights"],) and enhanced.counts["tokens_seen"] > 5000
    assert {s.name for s in upstream(store, enhanced.digest).sources} == {"tales", "tiny"}

    # no document that evaluation reads was learned
    questions = store.get_manifest(tasks["evaluation.prepare"]["output"]["digest"])
    (read,) = (s for s in questions.shards if s.name.startswith("perplexity/"))
    asked = {row["id"].partition("@")[0] for row in read_jsonl(store.blob_path(read.blob))}
    domain = store.get_manifest(tasks["enhancement.prepare"]["corpus"]["digest"])
    learned = {row["id"] for s in domain.shards for row in read_jsonl(store.blob_path(s.blob))}
    assert asked and learned and not asked & learned
    assert len(learned) + sum(domain.dropped.values()) == store.get_manifest(corpus).counts["records"]

    compared = store.get_manifest(tasks["evaluation.compare.enhanced"]["output"]["digest"])
    told = orjson.loads(store.get_blob(compared.shard("comparison.json").blob))
    (language,) = [g for g in told["groups"] if (g["name"], g["measure"]) == ("language", "loss")]
    assert language["better"] is True and language["difference"] < -0.3
    assert Counter(g["measure"] for g in told["groups"])["score"] > 0
