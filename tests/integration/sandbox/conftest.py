"""Every way that a sandbox is built here."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from sandboxed import SYSTEM_PYTHON, Place, own

import tokenmill.sandbox as sandbox
from tokenmill.sandbox import ALL, BASE


@pytest.fixture(scope="module")
def readable_source():
    """The sandbox's own modules where anybody may read them; nothing else of ours is imported by it."""
    platform = Path(sandbox.__file__).parents[2]
    folder = Path(tempfile.mkdtemp(prefix="tokenmill-source-"))
    shutil.copytree(platform / "tokenmill" / "sandbox", folder / "tokenmill" / "sandbox")
    shutil.copy(platform / "tokenmill" / "errors.py", folder / "tokenmill")
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module", params=["all", "user-all", "user-base"])
def place(request, readable_source):
    wanted = BASE if request.param == "user-base" else ALL
    if os.geteuid() != 0:
        return own(wanted) if request.param != "all" else pytest.skip("the same as user-all: not root")
    if request.param == "all":
        return own(wanted)
    if not Path(SYSTEM_PYTHON).exists():
        pytest.skip(f"no {SYSTEM_PYTHON} that another user could run")
    return Place(wanted, readable_source)
