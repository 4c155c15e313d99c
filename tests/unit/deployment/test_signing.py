"""Signatures and bills of materials: held to other implementations, other processes and a published schema."""

import base64
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import orjson
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from tokenmill.deployment.attestation import statement
from tokenmill.deployment.sbom import bill_of_environment
from tokenmill.deployment.signing import (
    PUBLIC_KEY,
    SIGNING_KEY,
    Envelope,
    Signature,
    generate,
    key_id,
    signed,
    signers,
    signing_key,
    trusted_keys,
)
from tokenmill.environment import environment, other_environment
from tokenmill.errors import ConfigError, CorruptError

RFC_8032 = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")  # §7.1, test 2
PEM = serialization.Encoding.PEM


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SIGNING_KEY, raising=False)
    monkeypatch.delenv(PUBLIC_KEY, raising=False)


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path, str]:
    private, public = tmp_path / "release.key", tmp_path / "release.pub"
    return private, public, generate(private, public)


def test_what_is_signed_is_the_pre_authentication_encoding_of_dsse() -> None:
    """Verified by hand, by the words of DSSE 1.0: "DSSEv1" SP LEN(type) SP type SP LEN(body) SP body."""
    key = Ed25519PrivateKey.from_private_bytes(RFC_8032)
    body = statement({"release.json": "a" * 64})
    envelope = signed(body, key)
    (signature,) = envelope.signatures
    spelled = f"DSSEv1 28 application/vnd.in-toto+json {len(body)} ".encode() + body
    key.public_key().verify(base64.b64decode(signature.sig), spelled)
    assert signature.keyid == "ed25519:PUAXw+hDiVqStwqnTRt+vJyYLM8uxJaMwM1V8Sr0Zgw="  # of RFC 8032's public key
    assert orjson.loads(base64.b64decode(envelope.payload))["_type"] == "https://in-toto.io/Statement/v1"


def test_keys_are_files_that_only_their_owner_reads_and_nothing_is_overwritten(keys) -> None:
    private, public, name = keys
    assert private.stat().st_mode & 0o777 == 0o600
    assert key_id(signing_key(str(private)).public_key()) == name
    assert trusted_keys(str(public)) == {name}
    before = private.read_bytes()
    with pytest.raises(ConfigError, match="is there already"):
        generate(private, public.with_name("other.pub"))
    assert private.read_bytes() == before and not public.with_name("other.pub").exists()


def test_keys_come_as_a_file_or_as_the_pem_itself(keys, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    private, public, name = keys
    for value in (str(private), private.read_text()):
        monkeypatch.setenv(SIGNING_KEY, value)
        assert key_id(signing_key().public_key()) == name
    second = generate(tmp_path / "second.key", tmp_path / "second.pub")
    monkeypatch.setenv(PUBLIC_KEY, public.read_text() + (tmp_path / "second.pub").read_text())
    assert trusted_keys() == {name, second}  # while a key is replaced both are trusted
    monkeypatch.delenv(PUBLIC_KEY)
    monkeypatch.delenv(SIGNING_KEY)
    assert signing_key() is None and trusted_keys() == frozenset()


def of_another_kind() -> str:
    format = serialization.PrivateFormat.PKCS8
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(PEM, format, serialization.NoEncryption()).decode()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("/nowhere/hush-hush", "neither PEM nor a file"),
        ("hush-hush" * 900, "neither PEM nor a file"),
        ("-----BEGIN PRIVATE KEY-----\nhush-hush\n-----END PRIVATE KEY-----", "no unencrypted private key"),
        (of_another_kind(), "another kind than Ed25519"),
    ],
)
def test_a_key_that_cannot_be_used_is_said_and_never_shown(value: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        signing_key(value)
    assert "hush" not in str(refused.value) and refused.value.__cause__ is None


@pytest.mark.parametrize("value", ["", "no key at all", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"])
def test_a_file_without_a_public_key_trusts_nobody_by_failing(tmp_path: Path, value: str) -> None:
    """An empty file must not read as "ask for no signature"."""
    (tmp_path / "empty.pub").write_text(value)
    with pytest.raises(ConfigError, match="no public key in PEM"):
        trusted_keys(str(tmp_path / "empty.pub"))


def test_a_second_signature_stands_beside_the_first() -> None:
    one, two = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    body = statement({"release.json": "a" * 64})
    first = signed(body, one)
    both = signed(body, two, first.signatures)
    assert set(signers(both, "")) == {key_id(one.public_key()), key_id(two.public_key())}
    assert signed(body, one, both.signatures) == both


def test_a_signature_of_another_statement_or_key_is_refused() -> None:
    one, two = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    (mine,) = signed(b"a", one).signatures
    other = Envelope(payload=signed(b"b", None).payload, signatures=(mine,))
    lent = Envelope(
        payload=signed(b"a", None).payload, signatures=(Signature(keyid=key_id(two.public_key()), sig=mine.sig),)
    )
    for forged in (other, lent):
        with pytest.raises(CorruptError, match="is not of what it stands under"):
            signers(forged, "")
    assert isinstance(one.public_key(), Ed25519PublicKey)


# ---- bills of materials ------------------------------------------------------------------------------------------------


def test_a_bill_is_cyclonedx_and_lists_what_is_installed_with_what_it_needs() -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = bill_of_environment(environment(image="")).decode()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill = orjson.loads(text)
    listed = {c["name"]: c for c in bill["components"]}
    for name in ("numpy", "orjson", "cryptography", "tokenmill"):
        assert listed[name]["version"] == metadata.version(name)
        assert listed[name]["purl"] == f"pkg:pypi/{name}@{metadata.version(name)}"
    needs = {d["ref"]: d.get("dependsOn", []) for d in bill["dependencies"]}
    assert "numpy" in needs["pyarrow"] or "zstandard" in needs["tokenmill"]
    assert "orjson" in needs["tokenmill"] and "cffi" in needs["cryptography"]
    assert "sentencepiece" not in needs["tokenmill"]  # an extra's is no requirement


def test_a_bill_is_the_same_in_another_process() -> None:
    """Whatever the hash seed: an SBOM that changed from call to call could not be signed twice."""
    script = "from tokenmill.deployment.sbom import bill_of_environment as b; from tokenmill.environment import environment; "
    script += "import sys; sys.stdout.buffer.write(b(environment(image='')))"
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "7"}
    again = subprocess.run([sys.executable, "-c", script], env=variables, capture_output=True, check=True).stdout
    assert again == bill_of_environment(environment(image=""))


def test_a_bill_of_another_environment_lists_that_and_nothing_of_this_one(tmp_path: Path) -> None:
    about = "Metadata-Version: 2.4\nName: Some_Engine\nVersion: 1.2\nLicense-Expression: MIT OR Apache-2.0\n"
    (tmp_path / "some_engine-1.2.dist-info").mkdir()
    (tmp_path / "some_engine-1.2.dist-info" / "METADATA").write_text(
        about + "Requires-Dist: numpy\nRequires-Dist: a b\n"
    )
    (tmp_path / "~ngine-1.1.dist-info").mkdir()  # what an install that broke off leaves
    import importlib_metadata  # noqa: F401 (finds distributions of its own, once anybody imported it)

    bill = orjson.loads(bill_of_environment(other_environment(str(tmp_path))))
    (engine,) = bill["components"]
    assert (engine["purl"], engine["licenses"]) == (
        "pkg:pypi/some-engine@1.2",
        [{"expression": "MIT OR Apache-2.0"}],
    )


def test_an_environment_has_another_name_where_another_version_is_first_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokenmill.environment import _name

    for version in ("1.0", "2.0"):
        (tmp_path / version / f"some-{version}.dist-info").mkdir(parents=True)
    first, second = str(tmp_path / "1.0"), str(tmp_path / "2.0")
    names = []
    for path in ([first, second], [second, first], [first, str(tmp_path), first, second]):
        monkeypatch.setattr(sys, "path", [*path, *sys.path[-1:]])
        names.append(_name())
    assert names[0] == names[2] != names[1]


def test_packages_older_than_the_rules_are_listed_and_fail_nobody(tmp_path: Path) -> None:
    """Every step records its environment when its work is done: what another package's author wrote must not end it."""
    (tmp_path / "old-1.0.egg-info").mkdir()
    (tmp_path / "old-1.0.egg-info" / "PKG-INFO").write_bytes(
        "Name: old\nVersion: 1.0\nAuthor: José\n".encode("latin-1")
    )
    (tmp_path / "odd-2.0.dist-info").mkdir()
    (tmp_path / "odd-2.0.dist-info" / "METADATA").write_text(
        'Name: odd\nVersion: 2.0\nRequires-Dist: old\nRequires-Dist: new ; python_version ~= "three"\n'
    )
    odd, old = other_environment(str(tmp_path)).packages
    assert (odd.name, odd.needs, old.name, old.version) == ("odd", ("old",), "old", "1.0")


def test_the_bill_of_an_image_has_its_operating_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    from tokenmill import environment as module

    (tmp_path / "os-release").write_text('PRETTY_NAME="Debian GNU/Linux 12"\nVERSION_ID="12"\nID=debian\n')
    (tmp_path / "status").write_text(
        "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36-9+deb12u10\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 1\n"
    )
    monkeypatch.setattr(module, "_DPKG", tmp_path / "status")
    monkeypatch.setattr(module, "_RELEASE", tmp_path / "os-release")
    text = bill_of_environment(environment(image="tokenmill/test:1")).decode()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    listed = {c["purl"] for c in orjson.loads(text)["components"] if c["purl"].startswith("pkg:deb/")}
    assert listed == {"pkg:deb/debian/libc6@2.36-9%2Bdeb12u10?arch=amd64&distro=debian-12"}
