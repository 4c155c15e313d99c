"""What a digest names: every file of a release, where it lies, and what it must be.

URI                          digest                          files are listed by
models:/name@alias, …/3      the version's manifest          the manifest in TOKENMILL_STORE
store:                       the manifest                    the same, without asking the registry
s3://bucket/folder           sha256 of its release.json      release.json
file:///folder               sha256 of its release.json      release.json

The digest decides; a registry that is away, or whose alias has moved on, costs a warning and never a restart.
"""

from collections.abc import Collection
from dataclasses import dataclass

from tokenmill.deployment.attestation import Vouched, attestation_of, check
from tokenmill.deployment.release import ATTESTATION, BESIDE, RELEASE, SBOM, parse
from tokenmill.deployment.signing import PUBLIC_KEY
from tokenmill.errors import CorruptError, InputError, UserError
from tokenmill.logs import Log
from tokenmill.manifest import Manifest, Shard, sha256
from tokenmill.store import ArtifactStore, open_store
from tokenmill.store.backend import Backend, NotFoundError, check_key, open_backend
from tokenmill.store.layout import blob_key

log = Log({"program": "fetch"})


@dataclass(frozen=True)
class Wanted:
    """One file: its name in the release, where it lies, and what it must be."""

    name: str
    key: str
    sha256: str
    size: int
    content: str = ""
    """Of tensors whose bytes nothing pins: what they are, which the digest covers."""


@dataclass(frozen=True)
class Listing:
    """What a digest names: every file of the release, and where to fetch them."""

    digest: str
    backend: Backend
    files: tuple[Wanted, ...]
    vouched: Vouched


def listing(uri: str, digest: str, trusted: Collection[str] = ()) -> Listing:
    """The files that `digest` names.

    Args:
        uri: see the module.
        digest: 64 hexadecimal digits; empty takes whatever is there, which only a trial should.
        trusted: ids of public keys, one of which must have signed the release; empty: signatures are not asked for.

    Raises:
        InputError: `uri` names nothing that can be fetched.
        CorruptError: what lies there is not what `digest` names, or nobody who is trusted signed it.
    """
    if uri.startswith("models:/") or uri == "store:":
        return _of_manifest(_registered(uri, digest) if uri != "store:" else digest, trusted)
    if uri.startswith(("s3://", "file:///")):
        return _of_folder(uri, digest, trusted)
    raise InputError(f"model URI {uri!r} is none of models:/name@alias, models:/name/3, store:, s3://…, file:///…")


def _registered(uri: str, digest: str) -> str:
    """The digest that the registry names; a pinned one stands, whatever the registry says or does not say."""
    from tokenmill.tracking import Registry

    try:
        found = Registry(open_store()).resolve_model(uri)
    except UserError as unknown:
        if not digest:
            raise
        log.warning("the registry did not confirm the digest", uri=uri, digest=digest, reason=str(unknown))
        return digest
    if digest and found != digest:
        if "@" not in uri:  # a version never changes, so one of the two was written wrongly
            raise CorruptError(f"{uri} is {found}, the values pin {digest}: correct the version or the digest")
        log.warning("the alias has moved on; the pinned digest is served", uri=uri, digest=digest, alias=found)
    return digest or found


def _of_manifest(digest: str, trusted: Collection[str]) -> Listing:
    if not digest:
        raise InputError("store: names a release by its digest: give one")
    store = open_store()
    manifest = store.get_manifest(digest)
    if manifest.kind == "weights":  # whatever alias or digest leads there, and whether or not the registry can be asked
        raise InputError(
            f"weights {digest[:12]} are no release: no gate let them pass, or one refused them (`tokenmill lineage --down "
            f"{digest[:12]}`); `deployment.bundle` releases what passes"
        )
    pinned = _pinned(store, manifest)
    vouched, attestation = vouched_for(store, manifest, trusted)
    files = [_wanted(shard, pinned) for shard in manifest.shards]
    files += [_wanted(shard, {}) for shard in (attestation.shards if attestation else ())]
    return Listing(digest, store.backend, tuple(files), vouched)


def vouched_for(store: ArtifactStore, release: Manifest, trusted: Collection[str]) -> tuple[Vouched, Manifest | None]:
    """What the attestation of a release in a store says of it, and the attestation.

    Raises:
        CorruptError: it is about something else, or nobody who is trusted signed it.
    """
    where = f"{release.kind} {release.digest[:12]}"
    if release.kind != "release":
        if trusted:
            raise CorruptError(f"{where} cannot be signed, only a release can: serve it without {PUBLIC_KEY}")
        return Vouched(attested=False), None
    subjects, attestation = {RELEASE: release.shard(RELEASE).content}, attestation_of(store, release.digest, trusted)
    envelope = None
    if attestation:
        subjects[SBOM] = attestation.shard(SBOM).content
        envelope = store.bytes_of(attestation.shard(ATTESTATION))
    return check(where, subjects, envelope, trusted), attestation


def _pinned(store: ArtifactStore, manifest: Manifest) -> dict[str, str]:
    """Name → sha256 by the manifest's own release.json; empty for what is no release, such as an adapter.

    A signature covers release.json and nothing of the manifest: the files of a release are those that it pins.
    """
    index = next((shard for shard in manifest.shards if shard.name == RELEASE), None)
    if index is None:
        return {}
    data = store.backend.get(blob_key(index.blob))
    if sha256(data) != index.content:
        raise CorruptError(f"{RELEASE} of {manifest.digest} is not the one that the digest covers: restore that object")
    pinned = {name: str(file["sha256"]) for name, file in parse(data, manifest.digest)["files"].items()}
    if differ := pinned.keys() ^ ({shard.name for shard in manifest.shards} - {RELEASE}):
        raise CorruptError(
            f"manifest {manifest.digest} has other files than its {RELEASE} pins: {', '.join(sorted(differ))}"
        )
    return pinned


def _wanted(shard: Shard, pinned: dict[str, str]) -> Wanted:
    """A manifest's digest covers what a file is (`content`), not how it is stored (`blob`): only the first is trusted."""
    key = blob_key(shard.blob)
    if shard.name in pinned:
        return Wanted(shard.name, key, pinned[shard.name], shard.size)
    if not shard.name.endswith((".safetensors", ".zst")):  # then its content is its bytes
        return Wanted(shard.name, key, shard.content, shard.size)
    return Wanted(shard.name, key, shard.blob, shard.size, shard.content)


def _of_folder(uri: str, digest: str, trusted: Collection[str]) -> Listing:
    backend = open_backend(uri)
    index = _bytes(backend, RELEASE)
    if index is None:
        raise InputError(f"{uri} is no release: it has no {RELEASE} (python -m tokenmill.deployment.publish makes one)")
    found = sha256(index)
    if digest and found != digest:
        raise CorruptError(f"{uri}/{RELEASE} is {found}, wanted is {digest}: pin what is there, or fetch it again")
    beside = {name: data for name in BESIDE if (data := _bytes(backend, name)) is not None}
    subjects = {RELEASE: found} | ({SBOM: sha256(beside[SBOM])} if SBOM in beside else {})
    vouched = check(uri, subjects, beside.get(ATTESTATION), trusted)
    pinned = parse(index, uri)["files"]
    files = [Wanted(name, check_key(name), file["sha256"], file["size"]) for name, file in sorted(pinned.items())]
    files += [Wanted(name, name, sha256(data), len(data)) for name, data in ({RELEASE: index} | beside).items()]
    return Listing(found, backend, tuple(files), vouched)


def _bytes(backend: Backend, key: str) -> bytes | None:
    try:
        return backend.get(key)
    except NotFoundError:
        return None
