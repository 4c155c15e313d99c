"""Attesting a release: what it was made from and in which environments, under the signature of whoever releases it."""

import orjson

from tokenmill.deployment.attestation import KIND, statement
from tokenmill.deployment.config import AttestConfig
from tokenmill.deployment.release import ATTESTATION, RELEASE, SBOM
from tokenmill.deployment.sbom import bill_of
from tokenmill.deployment.signing import signed, signing_key
from tokenmill.lineage import upstream
from tokenmill.manifest import Draft, Manifest, canonical, sha256
from tokenmill.steps import StepContext, effect


@effect("deployment.attest", version=2, kinds={"release": "release"})
def attest(config: AttestConfig, release: Manifest, ctx: StepContext) -> Draft:
    """An SBOM of what the release was made from and of the environments that made it, and a statement over both.

    It is signed where TOKENMILL_SIGNING_KEY holds a key. The same key gives the same bytes, on whatever machine.
    """
    key = signing_key()
    index = ctx.store.bytes_of(release.shard(RELEASE))
    bill = bill_of(orjson.loads(index), sha256(index), upstream(ctx.store, release.digest), ctx.store)
    envelope = signed(statement({RELEASE: sha256(index), SBOM: sha256(bill)}), key)
    folder = ctx.workdir / KIND
    folder.mkdir()
    (folder / SBOM).write_bytes(bill)
    (folder / ATTESTATION).write_bytes(canonical(envelope.model_dump()))
    by = [one.keyid for one in envelope.signatures]
    if not by:
        ctx.log.warning("the release is not signed: set TOKENMILL_SIGNING_KEY", release=release.digest)
    return ctx.write_files(KIND, folder, counts={"signatures": len(by)}, facts={"signed_by": by})
