"""The curation phase in the containers of a cluster, under `kfp.local.DockerRunner`: no network, not root."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from kfp import dsl, local

from tokenmill import images
from tokenmill.store import open_store
from tokenmill.tracking import read_events

docker = pytest.importorskip("docker", reason="the Docker SDK is not installed (extra: dev)")

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]


@pytest.fixture(scope="session")
def engine():
    """The address of a Docker engine: the one that answers, or a private one if we are root."""
    found = subprocess.run([ROOT / "images/engine.sh"], capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip(found.stderr.strip().splitlines()[-1])
    return found.stdout.strip().removeprefix("export DOCKER_HOST=")


@pytest.fixture(scope="session")
def image(engine):
    """The curation image, built from this tree; seconds when only the tree changed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", engine)
        if not docker.from_env().images.list(name="python:3.11-slim-bookworm") and not shutil.which("mmdebstrap"):
            pytest.skip("no base image, and no mmdebstrap to make one")
        for script in (["images/base.sh"], ["images/build.sh", "curation"]):
            done = subprocess.run([ROOT / script[0], *script[1:]], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr[-3000:]
    return images.CURATION


@pytest.fixture
def client(engine):
    client = docker.DockerClient(base_url=engine)
    yield client
    client.close()


@pytest.fixture
def shared(tmp_path):
    """A folder with `store` and `outputs`, which the container's user, whoever that is, may write to."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and "pytest" in str(folder):
            folder.chmod(0o711)
    for name in ("store", "outputs"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o777)
    return tmp_path


def run(client, image, *command, **more):
    return client.containers.run(image, list(command), remove=True, network_mode="none", **more).decode()


def test_the_image_is_small_and_runs_as_nobody_in_particular(client, image):
    assert client.images.get(image).attrs["Size"] < 1e9  # 967 MB: llvmlite 173, pyarrow 156; 900 MB is the aim
    assert int(run(client, image, "id", "-u")) >= 1000


def test_the_image_holds_neither_torch_nor_pip_nor_what_the_build_was_given(client, image):
    look = "import importlib.util as u; print([n for n in ('torch', 'deepspeed', 'pip', 'vllm') if u.find_spec(n)])"
    assert run(client, image, "python3", "-c", look) == "[]\n"
    history = " ".join(layer["CreatedBy"] for layer in client.images.get(image).history())
    assert "PIP_" not in history
    assert run(client, image, "sh", "-c", "ls /run/secrets /etc/pip.conf 2>/dev/null || true") == ""


def test_every_module_of_the_phase_imports_in_the_image(client, image):
    code = (
        "import importlib, pkgutil, tokenmill.curation as phase\n"
        "for module in pkgutil.walk_packages(phase.__path__, phase.__name__ + '.'):\n"
        "    importlib.import_module(module.name)\n"
        "import tokenmill.pipelines.opening, tokenmill.tracking.delivery\n"
        "print('imported')\n"
    )
    assert run(client, image, "python3", "-W", "ignore", "-c", code) == "imported\n"


def test_curation_runs_in_containers_and_leaves_its_artifacts_in_the_store(client, image, engine, shared, monkeypatch):
    from tokenmill.pipelines.phases import curation
    from tokenmill.pipelines.run import close_run, open_run

    store = shared / "store"

    @dsl.pipeline(name="curation-in-containers")
    def pipeline(sources: list = []):
        run = open_run(name="containers", preset="pico", overrides={}, job_id="containers-1").output
        with dsl.ExitHandler(close_run(job_id="containers-1")):
            curation(run=run, sources=sources)

    monkeypatch.setenv("DOCKER_HOST", engine)
    local.init(
        runner=local.DockerRunner(
            environment={"TOKENMILL_STORE": store.as_uri()},
            mounts=[docker.types.Mount(target=str(store), source=str(store), type="bind")],
            network_mode="none",  # what the image lacks cannot be fetched
        ),
        pipeline_root=str(shared / "outputs"),
    )
    pipeline()

    events = list(read_events(open_store(store.as_uri()), "containers-1"))
    finished = [event.data["step"] for event in events if event.kind == "step_finished"]
    assert finished[0] == "curation.register_sources" and finished[-1] == "curation.funnel"
    assert {"curation.ingest", "curation.filter", "curation.deduplicate", "curation.order_code"} < set(finished)
    assert [event.data["status"] for event in events if event.kind == "run_closed"] == ["succeeded"]
    owners = {path.stat().st_uid for path in store.rglob("*") if path.is_file()}
    assert owners == {10001}

    monkeypatch.setenv("TOKENMILL_STORE", (shared / "here").as_uri())
    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(shared / "outputs-here"))
    pipeline()
    here = read_events(open_store((shared / "here").as_uri()), "containers-1")
    assert digests(here) == digests(events)


def digests(events):
    """Step → digests of what it made."""
    finished = (event.data for event in events if event.kind == "step_finished")
    return {data["step"]: {role: made["digest"] for role, made in data["outputs"].items()} for data in finished}
