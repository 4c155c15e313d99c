"""Signatures: Ed25519 over a DSSE envelope, the format in which in-toto and Sigstore sign statements.

A key's id is the public key itself. So a damaged signature shows even where no key is trusted, and trust is whether the
id is among the keys that were given. Private keys come from TOKENMILL_SIGNING_KEY (a file, or the PEM itself as a Secret
gives it), and no message repeats what that holds.
"""

import base64
import binascii
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Literal

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import Field

from tokenmill.errors import ConfigError, CorruptError
from tokenmill.manifest import Frozen

SIGNING_KEY, PUBLIC_KEY = "TOKENMILL_SIGNING_KEY", "TOKENMILL_PUBLIC_KEY"
IN_TOTO = "application/vnd.in-toto+json"
_PEM = re.compile(rb"-----BEGIN [A-Z ]+-----.+?-----END [A-Z ]+-----", re.DOTALL)


class Signature(Frozen):
    keyid: str = Field(description="`ed25519:` and the public key's 32 bytes in base64")
    sig: str = Field(description="64 bytes in base64, over the pre-authentication encoding of type and payload")


class Envelope(Frozen):
    """A DSSE envelope (secure-systems-lab/dsse 1.0)."""

    payload: str = Field(description="base64 of an in-toto statement")
    payloadType: Literal["application/vnd.in-toto+json"] = "application/vnd.in-toto+json"
    signatures: tuple[Signature, ...] = Field((), description="by key id; none: nobody vouches for the statement")


def signed(payload: bytes, key: Ed25519PrivateKey | None, earlier: Collection[Signature] = ()) -> Envelope:
    """An envelope around `payload`, signed with `key` beside `earlier` signatures of the same payload."""
    signatures = {one.keyid: one for one in earlier}
    if key:
        mine = key_id(key.public_key())
        signatures[mine] = Signature(keyid=mine, sig=_text(key.sign(_encoding(payload))))
    return Envelope(payload=_text(payload), signatures=tuple(signatures[keyid] for keyid in sorted(signatures)))


def signers(envelope: Envelope, where: str) -> tuple[str, ...]:
    """The ids of the keys that signed.

    Raises:
        CorruptError: a signature is not of its key, or not of this payload.
    """
    payload = base64.b64decode(envelope.payload)
    for one in envelope.signatures:
        kind, _, raw = one.keyid.partition(":")
        try:
            if kind != "ed25519" or _text(_bytes(raw)) != raw or _text(_bytes(one.sig)) != one.sig:
                raise ValueError
            Ed25519PublicKey.from_public_bytes(_bytes(raw)).verify(_bytes(one.sig), _encoding(payload))
        except (InvalidSignature, ValueError):
            raise CorruptError(f"{where}: the signature of {one.keyid} is not of what it stands under") from None
    return tuple(one.keyid for one in envelope.signatures)


def signing_key(given: str | None = None) -> Ed25519PrivateKey | None:
    """The private key that `given` or else TOKENMILL_SIGNING_KEY holds or names a file of; None if neither is set."""
    source = given or os.environ.get(SIGNING_KEY)
    if not source:
        return None
    try:
        key = serialization.load_pem_private_key(_pem(source, SIGNING_KEY), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(f"{SIGNING_KEY} is no unencrypted private key in PEM: `tokenmill release keygen`") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{SIGNING_KEY} is a key of another kind than Ed25519: `tokenmill release keygen`")
    return key


def trusted_keys(given: str | None = None) -> frozenset[str]:
    """Ids of the public keys in `given` or else TOKENMILL_PUBLIC_KEY: a file, or the PEM itself; any number of keys.

    Empty if neither is set: then signatures are not asked for.
    """
    source = given or os.environ.get(PUBLIC_KEY)
    if not source:
        return frozenset()
    try:
        keys = [serialization.load_pem_public_key(one) for one in _PEM.findall(_pem(source, PUBLIC_KEY))]
        if not keys:
            raise ValueError
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(
            f"{PUBLIC_KEY} holds no public key in PEM: give what `tokenmill release keygen` wrote"
        ) from None
    if wrong := [key for key in keys if not isinstance(key, Ed25519PublicKey)]:
        raise ConfigError(f"{PUBLIC_KEY} holds {len(wrong)} keys of another kind than Ed25519")
    return frozenset(key_id(key) for key in keys if isinstance(key, Ed25519PublicKey))


def generate(private: Path, public: Path) -> str:
    """Write a new pair of keys, the private one for this user's eyes only; its id.

    Raises:
        ConfigError: a file is there already. Nothing is overwritten: a lost key cannot be made again.
    """
    key = Ed25519PrivateKey.generate()
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    shown = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    if present := [path for path in (private, public) if path.exists()]:
        raise ConfigError(f"{present[0]} is there already: name another file")
    for path, data, mode in ((private, secret, 0o600), (public, shown, 0o644)):
        try:
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:  # noqa: PTH123  its mode
                file.write(data)
        except OSError as refused:
            raise ConfigError(f"{path} cannot be written: {refused.strerror}") from None
    return key_id(key.public_key())


def key_id(key: Ed25519PublicKey) -> str:
    return f"ed25519:{_text(key.public_bytes_raw())}"


def _encoding(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: what is signed."""
    return b"DSSEv1 %d %s %d %s" % (len(IN_TOTO), IN_TOTO.encode(), len(payload), payload)


def _pem(source: str, variable: str) -> bytes:
    if source.lstrip().startswith("-----BEGIN"):
        return source.encode()
    try:
        return Path(source).read_bytes()
    except (OSError, ValueError):
        raise ConfigError(f"{variable} is neither PEM nor a file that can be read (it is not shown)") from None


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError("not base64") from None
