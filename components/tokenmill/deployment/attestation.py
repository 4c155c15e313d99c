"""What vouches for a release beyond itself: an in-toto statement over its release.json and its SBOM, signed or not.

release.json pins every file of a release; the statement pins release.json and the SBOM, which tells of the environments
that made the release and therefore is no part of what the release is. One signature thus covers every byte. Without a
signature the statement still finds damage, but anybody could have written it: whoever must know gives a public key.

In a folder it lies beside the release; in the store it is an artifact made from it (`deployment.attest`).
"""

import base64
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from tokenmill.deployment.release import ATTESTATION, SBOM
from tokenmill.deployment.signing import Envelope, signed, signers
from tokenmill.errors import CorruptError
from tokenmill.manifest import Manifest, canonical
from tokenmill.store import ArtifactStore

KIND = "attestation"


@dataclass(frozen=True)
class Vouched:
    """What is known of a release's origin, once its attestation was held to its bytes."""

    attested: bool
    signers: tuple[str, ...] = ()
    """Ids of the keys whose signatures are sound."""
    trusted: bool = False
    """One of them is a key that was given."""

    def __str__(self) -> str:
        if self.trusted:
            return "signed by a key that you trust"
        if self.signers:
            return f"signed by {', '.join(self.signers)}; no public key was given to hold that to"
        return "not signed: nothing says who made it" if self.attested else "neither attested nor signed"


def statement(subjects: Mapping[str, str]) -> bytes:
    """An in-toto statement (v1) over name → sha256. It says nothing that its subjects do not: it can be made again."""
    return canonical(
        {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"name": name, "digest": {"sha256": sha}} for name, sha in sorted(subjects.items())],
            "predicateType": "urn:tokenmill:release:v1",
        }
    )


def check(where: str, subjects: Mapping[str, str], envelope: bytes | None, trusted: Collection[str]) -> Vouched:
    """Hold an attestation to what it is about.

    Args:
        where: what a message calls the release.
        subjects: name → sha256 of release.json and, if it is there, of the SBOM, as they are.
        envelope: the attestation's bytes; None: there is none.
        trusted: ids of public keys, one of which must have signed; empty: signatures are not asked for.

    Raises:
        CorruptError: a byte differs, or no trusted key signed it.
    """
    if envelope is None:
        if SBOM in subjects:
            raise CorruptError(f"{where} has {SBOM}, but no {ATTESTATION} that vouches for it: fetch the release again")
        found = Vouched(attested=False)
    else:
        read = _read(where, envelope)
        if read.payload.encode() != _payload(subjects):
            raise CorruptError(f"{where}: {ATTESTATION} {_difference(read, subjects)}: fetch the release again")
        by = signers(read, f"{where}: {ATTESTATION}")
        found = Vouched(True, by, not set(by).isdisjoint(trusted))
    if trusted and not found.trusted:
        said = f"only by {', '.join(found.signers)}" if found.signers else "by nobody"
        raise CorruptError(
            f"{where} is not signed by a key of TOKENMILL_PUBLIC_KEY, {said}: `tokenmill release sign` it, or do not use it"
        )
    return found


def resigned(where: str, subjects: Mapping[str, str], envelope: bytes | None, key: Ed25519PrivateKey) -> bytes:
    """An attestation with one more signature, in stored form."""
    check(where, subjects, envelope, ())
    earlier = _read(where, envelope).signatures if envelope else ()
    return canonical(signed(statement(subjects), key, earlier).model_dump())


def attestation_of(store: ArtifactStore, release: str, trusted: Collection[str] = ()) -> Manifest | None:
    """A release's attestation in the store: the newest that a trusted key signed, else the newest."""
    made = [m for m in map(store.get_manifest, store.children(release)) if m.kind == KIND]
    made.sort(key=lambda m: (not set(m.facts["signed_by"]).isdisjoint(trusted), str(m.observed.get("time"))))
    return made[-1] if made else None


def attestation_pin(attestation: Manifest) -> str:
    """Name of the pin that keeps one: of its own, for who signs later must not let an earlier signature be collected."""
    (release,) = attestation.parents["release"]
    return f"attestations/{release}/{attestation.digest}"


def _read(where: str, data: bytes) -> Envelope:
    try:
        envelope = Envelope.model_validate(orjson.loads(data))
    except (ValueError, ValidationError):
        envelope = None
    if envelope is None or canonical(envelope.model_dump()) != data:  # other bytes that mean the same are other bytes
        raise CorruptError(f"{where}: {ATTESTATION} is damaged: fetch the release again")
    return envelope


def _payload(subjects: Mapping[str, str]) -> bytes:
    return signed(statement(subjects), None).payload.encode()


def _difference(envelope: Envelope, subjects: Mapping[str, str]) -> str:
    """Which subject an attestation and the files disagree about."""
    try:
        told = {s["name"]: s["digest"]["sha256"] for s in orjson.loads(base64.b64decode(envelope.payload))["subject"]}
    except (ValueError, KeyError, TypeError):
        return "is damaged"
    for name in sorted(told.keys() | subjects.keys()):
        if name not in subjects:
            return f"vouches for {name}, which is missing"
        if told.get(name) != subjects[name]:
            return f"vouches for another {name}" if name in told else f"does not vouch for {name}"
    return "is damaged"
