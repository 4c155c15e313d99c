"""What the environment of a process holds: recorded in the store once, so that a bill of materials can name it later.

A step runs in an image, or on a laptop in none. Which it was is observed, not hashed: the same component comes to the same
digests in either. A manifest's `observed.environment` names what stands here.
"""

import os
import platform
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from email import message_from_string
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import orjson
from pydantic import Field

from tokenmill.manifest import Frozen, canonical, sha256
from tokenmill.store import ArtifactStore
from tokenmill.store.layout import environment_key

LONGEST_LICENCE = 120
"""Characters; what is longer in a package's field `License` is the licence's text, not its name."""
_RECORDED: dict[tuple[str, str], str] = {}
"""Store and image → the name that is recorded there."""
_DPKG, _RELEASE = Path("/var/lib/dpkg/status"), Path("/etc/os-release")


class Package(Frozen):
    """An installed distribution of Python."""

    name: str = Field(description="normalised")
    version: str
    licence: str = Field(description="SPDX expression or name, as its metadata say; may be empty")
    classified: tuple[str, ...] = Field((), description="where it states none: the licences of its classifiers")
    needs: tuple[str, ...] = Field((), description="names of what it requires here, extras aside")


class SystemPackage(Frozen):
    """A package of the operating system."""

    name: str
    version: str
    architecture: str


class Environment(Frozen):
    """Python and its packages; in an image also those of its operating system."""

    image: str = Field(description="as TOKENMILL_IMAGE says; empty: no image, such as a laptop")
    commit: str = Field(description="as TOKENMILL_COMMIT says")
    python: str
    system: str = Field("", description="distribution of the operating system, e.g. debian-12")
    packages: tuple[Package, ...] = ()
    system_packages: tuple[SystemPackage, ...] = ()


def recorded(store: ArtifactStore) -> str:
    """The name of this process's environment, which the store then has."""
    known = store.uri, os.environ.get("TOKENMILL_IMAGE", "")
    if known not in _RECORDED:
        name = _name()
        key = environment_key(name)
        if not store.backend.exists(key):
            store.backend.create(key, canonical(environment(image=known[1]).model_dump()))
        _RECORDED[known] = name
    return _RECORDED[known]


def read_environment(store: ArtifactStore, name: str) -> Environment:
    """A recorded one; `NotFoundError` if the store has none of that name."""
    return Environment.model_validate(orjson.loads(store.backend.get(environment_key(name))))


@cache
def environment(*, image: str) -> Environment:
    """This process's environment; of an `image` with its operating system."""
    return Environment(
        image=image,
        commit=os.environ.get("TOKENMILL_COMMIT", ""),
        python=platform.python_version(),
        system=_system() if image else "",
        packages=tuple(_packages(metadata.distributions())),
        system_packages=tuple(_system_packages()) if image else (),
    )


def other_environment(site: str) -> Environment:
    """The packages in a folder `site-packages` of another, such as a server's."""
    return Environment(image="", commit="", python="", packages=tuple(_packages(metadata.distributions(path=[site]))))


def _name() -> str:
    """A digest of what decides an environment, in milliseconds: to read every package's metadata takes half a second."""
    folders = dict.fromkeys(Path(folder) for folder in sys.path if Path(folder).is_dir())
    found = [
        held for one in folders if (held := sorted(path.name for path in one.glob("*.*-info")))
    ]  # the first counts
    image = os.environ.get("TOKENMILL_IMAGE", "")
    system = sha256(_DPKG.read_bytes()) if image and _DPKG.is_file() else ""
    return sha256(canonical([image, os.environ.get("TOKENMILL_COMMIT", ""), platform.python_version(), system, found]))


def _packages(installed: Iterable[metadata.Distribution]) -> Iterator[Package]:
    """Every distribution; of two on the path the first is the one that is imported."""
    found: dict[str, Any] = {}
    for one in installed:
        about = message_from_string(_metadata(one))
        if about["Name"] and about["Version"]:  # else what an install that broke off left behind
            found.setdefault(_normal(about["Name"]), about)
    for name, about in sorted(found.items()):
        licence = about.get("License-Expression") or about.get("License") or ""
        if len(licence) > LONGEST_LICENCE or "\n" in licence or licence.upper() == "UNKNOWN":
            licence = ""
        classified = {c.rpartition(" :: ")[2] for c in about.get_all("Classifier") or () if c.startswith("License :: ")}
        yield Package(
            name=name,
            version=about["Version"],
            licence=licence,
            classified=() if licence else tuple(sorted(classified)),
            needs=tuple(need for need in _needs(about) if need in found),
        )


def _metadata(one: metadata.Distribution) -> str:
    """As the package has it; empty where it has none. `one.metadata` raises or not, by who finds it."""
    try:
        return one.read_text("METADATA") or one.read_text("PKG-INFO") or ""
    except UnicodeDecodeError as older:  # than the rule that it is UTF-8
        return older.object.decode("latin-1")


def _needs(about: Any) -> list[str]:
    from packaging.requirements import Requirement

    found = set()
    for line in about.get_all("Requires-Dist") or ():
        with suppress(ValueError):  # of a package older than the rules; no step fails for what it only records
            wanted = Requirement(line)
            if not wanted.marker or wanted.marker.evaluate({"extra": ""}):
                found.add(_normal(wanted.name))
    return sorted(found)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _system() -> str:
    told = (
        dict(re.findall(r'^(ID|VERSION_ID)="?([^"\n]*)"?$', _RELEASE.read_text(), re.MULTILINE))
        if _RELEASE.is_file()
        else {}
    )
    return "-".join(told[name] for name in ("ID", "VERSION_ID") if name in told)


def _system_packages() -> Iterator[SystemPackage]:
    """What dpkg has installed; nothing where there is none."""
    text = _DPKG.read_text("utf-8", "replace") if _DPKG.is_file() else ""
    for paragraph in text.split("\n\n"):
        told = dict(re.findall(r"^(Package|Status|Version|Architecture): (.*)$", paragraph, re.MULTILINE))
        if told.get("Status", "").endswith(" installed"):
            yield SystemPackage(name=told["Package"], version=told["Version"], architecture=told["Architecture"])
