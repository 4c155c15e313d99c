"""What the images hold and how they run: not root, nothing of the build, the code of this tree and all that it imports."""

import re
import subprocess
from pathlib import Path

import pytest

from tokenmill.images import TAG

pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]
NAMES = sorted(path.parent.name for path in (ROOT / "images").glob("*/Dockerfile"))
every_image = pytest.mark.parametrize("name", NAMES)
MEGABYTES = {
    "curation": 900,
    "deployer": 1250,
    "evaluator": 1600,
    "trainer": 1550,
    "services": 950,
    "serving-cpu": 2200,
}
"""The most an image for CPUs may take."""
PHASES = {
    "curation": ("curation", "pretraining.tokenize", "pretraining.train_tokenizer", "sft.prepare", "pipelines.opening"),
    "trainer": (
        "pretraining.pretrain",
        "curation.select_long",
        "curation.fine_tune_scorer",
        "enhancement.enhance",
        "sft.train",
        "rlhf.ppo",
        "rlhf.dpo",
        "training",
        "launch",
    ),
    "evaluator": ("evaluation", "sandbox", "rlhf.probe"),
    "deployer": ("deployment", "pipelines", "cli"),
}
"""Modules and packages that an image must be able to import, all of what is below them too."""


def names(name):
    return f"tokenmill/{name}:{TAG}"


@every_image
def test_an_image_runs_as_nobody_in_particular_and_as_any_other_number(name, run):
    assert run(names(name), "id", "-u") == "10001\n"
    code = "import os, pathlib; print(os.getuid()); pathlib.Path('/tmp/here').touch()"
    assert run(names(name), "python3", "-c", code, user="123456:0", read_only=True, tmpfs={"/tmp": ""}) == "123456\n"


@every_image
def test_an_image_says_what_it_is_and_holds_neither_pip_nor_what_the_build_was_given(name, client, run):
    labels = client.images.get(names(name)).labels
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    said = {key: labels[f"org.opencontainers.image.{key}"] for key in ("title", "version", "revision", "licenses")}
    assert said == {
        "title": f"tokenmill/{name}", "version": TAG, "revision": head.stdout.strip(), "licenses": "Apache-2.0",
    }  # fmt: skip
    history = " ".join(layer["CreatedBy"] for layer in client.images.get(names(name)).history())
    assert not re.search(r"PIP_[A-Z]+=|BEGIN CERTIFICATE", history)
    look = "import importlib.util as u; print(u.find_spec('pip'))"
    assert name == "tools" or run(names(name), "python3", "-c", look) == "None\n"
    left = "find /run/secrets /etc/pip.conf /mnt /src -type f 2>/dev/null || true"
    assert run(names(name), "sh", "-c", left) == ""


@pytest.mark.parametrize(("name", "most"), MEGABYTES.items())
def test_an_image_is_no_larger_than_it_must_be(name, most, client):
    assert client.images.get(names(name)).attrs["Size"] <= most * 1e6


@pytest.mark.parametrize("name", ["curation", "services"])
def test_what_needs_no_torch_has_none(name, run):
    look = "import importlib.util as u; print([n for n in ('torch', 'deepspeed', 'vllm') if u.find_spec(n)])"
    assert run(names(name), "python3", "-c", look) == "[]\n"


@pytest.mark.parametrize(("name", "wanted"), PHASES.items())
def test_every_module_that_runs_in_an_image_imports_there(name, wanted, run):
    code = (
        "import importlib, pkgutil\n"
        f"for wanted in {wanted!r}:\n"
        "    module = importlib.import_module('tokenmill.' + wanted)\n"
        "    for below in pkgutil.walk_packages(getattr(module, '__path__', []), module.__name__ + '.'):\n"
        "        if not below.name.endswith('__main__'):\n"
        "            importlib.import_module(below.name)\n"
        "print('imported')\n"
    )
    assert run(names(name), "python3", "-W", "ignore", "-c", code).endswith("imported\n")


@pytest.mark.parametrize("name", ["curation", "evaluator", "services"])
def test_arrow_works_where_it_is_wanted(name, run):
    """It is imported only when a table comes, and it is what an image was made smaller by."""
    code = (
        "import io, pyarrow, pyarrow.parquet as parquet\n"
        "parquet.write_table(pyarrow.table({'text': ['a', 'b']}), file := io.BytesIO())\n"
        "print(parquet.read_table(file).to_pylist())\n"
    )
    assert run(names(name), "python3", "-c", code) == "[{'text': 'a'}, {'text': 'b'}]\n"


def test_the_deployer_has_helm_and_the_chart_that_it_installs(run):
    code = (
        "import subprocess\n"
        "from tokenmill.deployment.helm import inference_chart\n"
        "chart = inference_chart()\n"
        "values = ['-f', chart / 'ci/cpu-values.yaml']\n"
        "text = subprocess.run(['helm', 'template', 'chat', chart, *values], capture_output=True, text=True, check=True).stdout\n"
        "print('kind: Deployment' in text)\n"
    )
    restricted = {"read_only": True, "tmpfs": {"/tmp": ""}, "user": "123456:0", "environment": {"HOME": "/tmp"}}
    assert run(names("deployer"), "python3", "-c", code, **restricted) == "True\n"


def test_programs_that_a_model_wrote_run_in_the_sandbox_of_a_restricted_pod(run):
    """Without namespaces, which a container may not make: the first wall holds all by itself."""
    code = (
        "from tokenmill.sandbox import BASE, run\n"
        "ended = run('print(6 * 7); import socket; socket.socket()')\n"
        "print(BASE <= ended.held, ended.stdout.strip(), ended.status)\n"
    )
    restricted = {"cap_drop": ["ALL"], "security_opt": ["no-new-privileges"], "read_only": True, "tmpfs": {"/tmp": ""}}
    assert run(names("evaluator"), "python3", "-c", code, **restricted) == "True 42 error\n"
