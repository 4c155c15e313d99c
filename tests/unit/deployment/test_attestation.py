"""Every byte of a release is vouched for: in a folder, in a store, and where serving fetches it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import Any

import orjson
import pytest
from pico import Lab, Released, released
from typer.testing import CliRunner

from tokenmill.deployment.attestation import attestation_of
from tokenmill.deployment.config import AttestConfig
from tokenmill.deployment.fetch import fetch, verify_in_place
from tokenmill.deployment.listing import listing, vouched_for
from tokenmill.deployment.publish import publish, sign_folder
from tokenmill.deployment.release import ATTESTATION, RELEASE, SBOM
from tokenmill.deployment.signing import PUBLIC_KEY, SIGNING_KEY, generate, signing_key, trusted_keys
from tokenmill.deployment.verify import verify, verify_stored
from tokenmill.errors import CorruptError, InputError
from tokenmill.manifest import Manifest
from tokenmill.steps.files import materialise
from tokenmill.store import ArtifactStore


class Made:
    """A release in a store, attested by a key, and laid out as a folder beside its attestation."""

    def __init__(self, root: Path, signed: bool):
        root.mkdir()
        self.lab, self.key = Lab(root), root / "release.key"
        self.name = generate(self.key, root / "release.pub")
        generate(root / "other.key", root / "other.pub")
        self.released: Released = released(self.lab)
        self.attestation = self.attest(self.key if signed else None)
        materialise(self.lab.store, self.released.release, root / "release")
        materialise(self.lab.store, self.attestation, root / "release")

    def copied(self, root: Path) -> "Made":
        """Of a test's own: its bill of materials takes a second to make."""
        shutil.copytree(self.lab.folder, root)
        mine = copy(self)
        mine.lab, mine.key = Lab(root, _documents=100), root / "release.key"
        return mine

    @property
    def folder(self) -> Path:
        return self.lab.folder / "release"

    @property
    def trusted(self) -> frozenset[str]:
        return trusted_keys(str(self.lab.folder / "release.pub"))

    @property
    def stranger(self) -> frozenset[str]:
        return trusted_keys(str(self.lab.folder / "other.pub"))

    def attest(self, key: Path | None) -> Manifest:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(SIGNING_KEY, str(key)) if key else patch.delenv(SIGNING_KEY, raising=False)
            return self.lab.step("deployment.attest", AttestConfig(), release=self.released.release)["output"]


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Made]:
    return {signed: Made(tmp_path_factory.mktemp("made") / "lab", signed) for signed in (True, False)}


@pytest.fixture
def own(originals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], Made]:
    def copied(signed: bool) -> Made:
        made = originals[signed].copied(tmp_path / "made")
        monkeypatch.setenv("TOKENMILL_STORE", made.lab.store.uri)
        monkeypatch.delenv(PUBLIC_KEY, raising=False)
        return made

    return copied


@pytest.fixture(params=[True, False], ids=["signed", "unsigned"])
def made(request: pytest.FixtureRequest, own) -> Made:
    return own(request.param)


@pytest.fixture
def signed(own) -> Made:
    return own(True)


@pytest.fixture
def unsigned(own) -> Made:
    return own(False)


def flips(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def places(path: Path) -> list[int]:
    """First, last and, spread over the file, eleven bytes in between."""
    size = path.stat().st_size
    return sorted({0, size - 1, *(size * n // 12 for n in range(1, 12))})


def test_any_flipped_byte_of_any_file_is_found_and_named(made: Made) -> None:
    """Release, tokenizer, template, card, evaluation, SBOM and attestation; signed or not, and with no key given."""
    verify(made.folder)
    names = {path.name for path in flips(made.folder)}
    assert {RELEASE, SBOM, ATTESTATION, "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= names
    assert {"README.md", "evaluation.json", "verdict.md", "generation_config.json"} <= names
    for path in flips(made.folder):
        for at in places(path):
            flip(path, at)
            with pytest.raises((CorruptError, InputError), match=r"release\.intoto\.json|" + path.name) as refused:
                verify(made.folder)
            assert "\n" not in str(refused.value)
            flip(path, at)
    verify(made.folder)


@pytest.mark.parametrize("name", [RELEASE, SBOM, ATTESTATION, "model.safetensors", "README.md", "tokenizer.json"])
def test_a_file_that_was_taken_away_is_missed(signed: Made, name: str) -> None:
    (signed.folder / name).unlink()
    with pytest.raises((CorruptError, InputError), match=name.replace(".", r"\.")):
        verify(signed.folder, trusted=signed.trusted)


@pytest.mark.parametrize("name", ["modeling.py", "tokenizer_config.json.bak", "sub/evil.py"])
def test_a_file_that_was_added_is_found(made: Made, name: str) -> None:
    (made.folder / name).parent.mkdir(exist_ok=True)
    (made.folder / name).write_bytes(b"")
    with pytest.raises(CorruptError, match="is not part of the release"):
        verify(made.folder)
    with pytest.raises(CorruptError, match="is not part of the release"):
        verify_stored(made.folder.as_uri())


def test_only_a_key_that_was_given_is_trusted(signed: Made) -> None:
    assert not verify(signed.folder).vouched.trusted
    assert verify(signed.folder).vouched.signers == (signed.name,)
    assert verify(signed.folder, trusted=signed.trusted).vouched.trusted
    assert verify(signed.folder, trusted=signed.trusted | signed.stranger).vouched.trusted
    with pytest.raises(CorruptError, match="is not signed by a key of TOKENMILL_PUBLIC_KEY, only by ed25519"):
        verify(signed.folder, trusted=signed.stranger)


def test_an_unsigned_release_is_refused_where_a_key_is_wanted(unsigned: Made) -> None:
    assert str(verify(unsigned.folder).vouched) == "not signed: nothing says who made it"
    with pytest.raises(CorruptError, match="TOKENMILL_PUBLIC_KEY, by nobody"):
        verify(unsigned.folder, trusted=unsigned.trusted)


def test_a_release_pinned_anew_does_not_keep_its_signature(signed: Made) -> None:
    """Planted: whoever changed the weights also wrote their new digest into release.json and into the statement."""
    from tokenmill.deployment.attestation import statement
    from tokenmill.deployment.release import sha256_of
    from tokenmill.deployment.signing import Envelope
    from tokenmill.deployment.signing import signed as sign
    from tokenmill.manifest import canonical

    weights, index, attestation = (signed.folder / n for n in ("model.safetensors", RELEASE, ATTESTATION))
    flip(weights, -1)
    pinned = orjson.loads(index.read_bytes())
    pinned["files"][weights.name]["sha256"] = sha256_of(weights)
    index.write_bytes(orjson.dumps(pinned, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2))
    about = statement({RELEASE: sha256_of(index), SBOM: sha256_of(signed.folder / SBOM)})
    kept = Envelope.model_validate(orjson.loads(attestation.read_bytes())).signatures
    attestation.write_bytes(canonical(sign(about, None, kept).model_dump()))
    with pytest.raises(CorruptError, match="is not of what it stands under"):
        verify(signed.folder)
    attestation.write_bytes(canonical(sign(about, None).model_dump()))  # the forger can only leave it unsigned
    verify(signed.folder)
    with pytest.raises(CorruptError, match="is not signed"):
        verify(signed.folder, trusted=signed.trusted)


def test_other_bytes_that_mean_the_same_are_other_bytes(made: Made) -> None:
    attestation = made.folder / ATTESTATION
    whole = attestation.read_bytes()
    for other in (whole + b"\n", whole.replace(b":", b": ", 1), orjson.dumps(orjson.loads(whole) | {"note": "hi"})):
        attestation.write_bytes(other)
        with pytest.raises(CorruptError, match="is damaged"):
            verify(made.folder)


def bill(store: ArtifactStore, attestation: Manifest) -> Any:
    return orjson.loads(store.bytes_of(attestation.shard(SBOM)))


def makers(told: Any) -> dict[str, tuple[set[str], set[str]]]:
    """Environment → the steps that ran in it, and its packages."""
    found = {}
    for one in told["components"]:
        if one["type"] in ("container", "platform"):
            properties = {p["name"]: p["value"] for p in one["properties"]}
            steps = set(properties["tokenmill:steps"].split())
            found[one["name"]] = steps, {package["name"] for package in one.get("components", ())}
    return found


def test_the_bill_is_of_what_made_the_release_whoever_signs_it_and_where(signed: Made, tmp_path: Path) -> None:
    """Planted: the signer's machine says that it is an image, and has a package that no step ran with."""
    (tmp_path / "site" / "signers_own-1.0.dist-info").mkdir(parents=True)
    (tmp_path / "site" / "signers_own-1.0.dist-info" / "METADATA").write_text("Name: signers-own\nVersion: 1.0\n")
    release, store = signed.released.release, signed.lab.store
    variables = {"TOKENMILL_STORE": store.uri, "TOKENMILL_IMAGE": "signers/laptop:1"}
    variables["PYTHONPATH"] = os.pathsep.join([*sys.path, str(tmp_path / "site")])
    command = [sys.executable, "-m", "tokenmill.cli", "release", "sign", release.digest]
    command += ["--key", str(signed.key.with_name("other.key"))]
    subprocess.run(command, env=os.environ | variables, check=True, capture_output=True, timeout=120)
    theirs = attestation_of(store, release.digest, signed.stranger)
    assert theirs and theirs.facts["signed_by"] == list(signed.stranger)
    assert theirs.shard(SBOM).content == signed.attestation.shard(SBOM).content
    assert "signers" not in str(bill(store, theirs))


def made_in(lab: Lab, curation: str, deployer: str, patch: pytest.MonkeyPatch) -> Released:
    patch.setenv("TOKENMILL_IMAGE", curation)
    kept = lab.decontaminated(lab.corpus)
    patch.setenv("TOKENMILL_IMAGE", deployer)
    return released(lab, corpus=kept["corpus"])


def test_the_bill_names_every_image_with_its_packages_and_the_steps_that_ran_in_it(
    lab: Lab, monkeypatch, tmp_path: Path
) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    sha = "sha256:" + "ab" * 32
    made = made_in(lab, "registry/tokenmill/curation:1", f"tokenmill/deployer@{sha}", monkeypatch)
    told = bill(lab.store, lab.step("deployment.attest", AttestConfig(), release=made.release)["output"])
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(orjson.dumps(told).decode()) is None
    found = makers(told)
    assert found["registry/tokenmill/curation"][0] == {"enhancement.prepare"}
    assert found["tokenmill/deployer"][0] == {"evaluation.collect_training_sets", "deployment.bundle"}
    for image in ("registry/tokenmill/curation", "tokenmill/deployer"):
        assert {"numpy", "orjson", "tokenmill"} <= found[image][1]
    assert found["unrecorded"] == ({"test.made", "made.sft", "evaluation.gate"}, set())  # by the tests' own hands
    containers = {c["name"]: c["version"] for c in told["components"] if c["type"] == "container"}
    assert containers == {"registry/tokenmill/curation": "1", "tokenmill/deployer": sha}

    for entry in list(lab.store.backend.list("environments/")):
        lab.store.backend.delete(entry.key)
    lost = bill(lab.store, lab.step("deployment.attest", AttestConfig(), release=made.release)["output"])
    assert makers(lost) == {name: (steps, set()) for name, (steps, _) in found.items()}  # the images are still named

    (tmp_path / "laptop").mkdir()
    laptop = made_in(Lab(tmp_path / "laptop"), "", "", monkeypatch)
    assert laptop.release.digest == made.release.digest  # where it was made is evidence beside what it is


def test_outside_any_image_the_bill_says_so(signed: Made) -> None:
    told = bill(signed.lab.store, signed.attestation)
    assert set(makers(told)) == {"no image", "unrecorded"}
    said = {c["name"]: c.get("description") for c in told["components"] if c["type"] == "platform"}
    assert said["no image"] == "what was installed where these steps ran, outside any image"


def test_the_same_key_attests_with_the_same_bytes(signed: Made) -> None:
    assert signed.attest(signed.key).content == signed.attestation.content
    assert signed.attest(None).content != signed.attestation.content


def test_the_key_is_in_no_manifest_event_or_blob(signed: Made) -> None:
    secret = signed.key.read_text().splitlines()[1].encode()
    stored = [path for path in (signed.lab.folder / "store").rglob("*") if path.is_file()]
    assert stored and not [path for path in stored if secret in path.read_bytes()]
    assert not [path for path in stored if str(signed.key).encode() in path.read_bytes()]


def test_the_bill_names_the_model_its_data_and_their_licences(signed: Made) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = (signed.folder / SBOM).read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill = orjson.loads(text)
    assert bill["metadata"]["component"]["type"] == "machine-learning-model"
    data = {c["name"]: c for c in bill["components"] if c["type"] == "data"}
    assert data["tales"]["licenses"] == [{"license": {"id": "CC0-1.0"}}]


# ---- serving -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def bucket(signed: Made, tmp_path: Path) -> Path:
    publish(signed.folder, (tmp_path / "bucket").as_uri())
    for path in (tmp_path / "bucket").rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return tmp_path / "bucket"


def test_serving_fetches_what_a_trusted_key_signed_from_bucket_and_store(signed: Made, bucket, tmp_path) -> None:
    for uri, digest in ((bucket.as_uri(), ""), ("store:", signed.released.release.digest)):
        folder = fetch(uri, digest, tmp_path / "node", signed.trusted)
        assert verify(folder, trusted=signed.trusted).vouched.trusted
    verify_in_place(bucket.as_uri(), "", signed.trusted)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "tokenizer.json", "chat_template.jinja", "README.md", RELEASE, SBOM, ATTESTATION]
)
def test_a_flipped_byte_is_caught_by_release_verify_and_by_serving(signed: Made, bucket, tmp_path, name) -> None:
    for at in places(bucket / name)[:: 4 if name == "model.safetensors" else 2]:
        flip(bucket / name, at)
        with pytest.raises((CorruptError, InputError)):
            verify_stored(bucket.as_uri(), "", signed.trusted)
        with pytest.raises((CorruptError, InputError)):
            fetch(bucket.as_uri(), "", tmp_path / "node", signed.trusted)
        with pytest.raises((CorruptError, InputError)):
            verify_in_place(bucket.as_uri(), "", signed.trusted)
        flip(bucket / name, at)
    assert not [p for p in (tmp_path / "node").glob("*") if not p.name.startswith(".")]  # nothing to serve was left
    verify_stored(bucket.as_uri(), "", signed.trusted)


def test_serving_refuses_what_no_trusted_key_signed(signed: Made, bucket, tmp_path) -> None:
    for uri, digest in ((bucket.as_uri(), ""), ("store:", signed.released.release.digest)):
        with pytest.raises(CorruptError, match="is not signed by a key of TOKENMILL_PUBLIC_KEY, only by ed25519"):
            fetch(uri, digest, tmp_path / "node", signed.stranger)
    (bucket / ATTESTATION).unlink()
    (bucket / SBOM).unlink()
    fetch(bucket.as_uri(), "", tmp_path / "laptop")
    with pytest.raises(CorruptError, match="is not signed"):
        fetch(bucket.as_uri(), "", tmp_path / "node", signed.trusted)


def test_the_init_container_reads_its_keys_from_the_environment(signed: Made, bucket, tmp_path, run_python) -> None:
    call = "from pathlib import Path; import os; from tokenmill.deployment.fetch import main; import typer, sys; "
    call += f"sys.argv = ['fetch', {bucket.as_uri()!r}, '--into', {str(tmp_path / 'node')!r}]; "
    run_python(call + f"os.environ[{PUBLIC_KEY!r}] = {str(signed.key.with_name('release.pub'))!r}; typer.run(main)")
    refused = f"os.environ[{PUBLIC_KEY!r}] = {str(signed.key.with_name('other.pub'))!r}\n"
    refused += "try:\n    typer.run(main)\nexcept SystemExit as end:\n    assert end.code == 2, end.code"
    run_python(call + refused)


def test_an_attestation_of_another_release_in_the_store_is_refused(signed: Made) -> None:
    """Whoever may write to the store can name any artifact an attestation of this release."""
    other = released(signed.lab, seed=5).release
    foreign = {f.name: signed.folder / f.name for f in (signed.folder / SBOM, signed.folder / ATTESTATION)}
    signed.lab.issue("attestation", foreign, facts={"signed_by": [signed.name]}, release=other)
    assert attestation_of(signed.lab.store, other.digest) is not None
    for trusted in ((), signed.trusted):
        with pytest.raises(CorruptError, match=r"vouches for another release\.json"):
            vouched_for(signed.lab.store, other, trusted)


@pytest.mark.parametrize("forged", ["chat_template.jinja", "model.safetensors", "modeling.py", ""])
def test_a_signature_does_not_cover_what_a_manifest_adds_changes_or_leaves_out(signed: Made, tmp_path, forged) -> None:
    """Planted: a manifest of its own around the signed release.json, as whoever may write to the registry can name one."""
    release, store = signed.released.release, signed.lab.store
    files = {file.name: file for file in (signed.folder / shard.name for shard in release.shards)}
    if forged:
        files[forged] = tmp_path / forged
        kept = (signed.folder / forged).read_bytes() if (signed.folder / forged).exists() else b""
        files[forged].write_bytes(kept[:-1] + b"!")
    else:
        del files["generation_config.json"]
    other = signed.lab.issue("release", files)
    beside = {name: signed.folder / name for name in (SBOM, ATTESTATION)}
    signed.lab.issue("attestation", beside, facts={"signed_by": [signed.name]}, release=other)
    assert vouched_for(store, other, signed.trusted)[0].trusted  # of release.json, which is the signed one
    with pytest.raises(CorruptError):
        verify_stored("store:", other.digest, signed.trusted)
    with pytest.raises(CorruptError):
        fetch("store:", other.digest, tmp_path / "node", signed.trusted)


def test_of_two_attestations_the_one_that_is_trusted_counts(signed: Made) -> None:
    signed.attest(signed.key.with_name("other.key"))
    signed.attest(None)
    release = signed.released.release
    for trusted in (signed.trusted, signed.stranger):
        assert listing("store:", release.digest, trusted).vouched.trusted


def test_a_folder_is_signed_beside_whoever_signed_it_before(signed: Made) -> None:
    second = signing_key(str(signed.key.with_name("other.key")))
    assert second
    sign_folder(signed.folder.as_uri(), verify(signed.folder).digest, second)
    for trusted in (signed.trusted, signed.stranger):
        assert verify(signed.folder, trusted=trusted).vouched.trusted


def test_who_signs_later_leaves_earlier_signatures_to_be_kept(unsigned: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    from tokenmill.cli.releasing import release_app

    monkeypatch.setenv(SIGNING_KEY, "")  # the command sets it for its step
    store, release = unsigned.lab.store, unsigned.released.release
    for key in (unsigned.key, unsigned.key.with_name("other.key")):
        command = ["sign", release.digest, "--key", str(key), "--store", store.uri]
        assert CliRunner().invoke(release_app, command, catch_exceptions=False).exit_code == 0
    kept = [store.get_manifest(digest) for name, digest in store.pins().items() if name.startswith("attestations/")]
    by = {keyid for attestation in kept for keyid in attestation.facts["signed_by"]}
    assert by == unsigned.trusted | unsigned.stranger


def test_a_release_that_was_swapped_after_it_was_verified_is_not_signed(unsigned: Made) -> None:
    key, verified = signing_key(str(unsigned.key)), verify(unsigned.folder).digest
    assert key
    for name in (ATTESTATION, SBOM):
        (unsigned.folder / name).unlink()
    index = unsigned.folder / RELEASE
    index.write_bytes(index.read_bytes() + b"\n")
    with pytest.raises(CorruptError, match="is not the one that was verified"):
        sign_folder(unsigned.folder.as_uri(), verified, key)
    assert not (unsigned.folder / ATTESTATION).exists()


def test_what_is_no_release_is_not_served_where_signatures_are_wanted(signed: Made, tmp_path: Path) -> None:
    adapter = signed.lab.issue_json("adapter", {"adapter_config.json": {}})
    with pytest.raises(CorruptError, match="only a release can"):
        fetch("store:", adapter.digest, tmp_path / "node", signed.trusted)
