"""Commands about releases: `tokenmill release verify | show | sign | keygen | sbom`."""

import os
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from tokenmill.cli.inspecting import show as show_json
from tokenmill.cli.main import AsJson, StoreUri, app, use_store
from tokenmill.errors import ConfigError

release_app = typer.Typer(help="Is a release what was released, and who says so?", no_args_is_help=True)
app.add_typer(release_app, name="release")

Where = Annotated[
    str, typer.Argument(metavar="PATH|URI", help="folder, s3://…, models:/name@alias, or a release's digest or prefix")
]
_DIGEST = re.compile(r"[0-9a-f]{4,64}$")


def _address(where: str, store: str | None) -> tuple[str, str]:
    """URI and digest, as `tokenmill.deployment.listing` takes them. A folder wins over a digest of the same name."""
    from tokenmill.lineage import resolve
    from tokenmill.store import open_store

    if Path(where).is_dir():
        return Path(where).resolve().as_uri(), ""
    uri = use_store(store)
    return ("store:", resolve(open_store(uri), where)) if _DIGEST.match(where) else (where, "")


@release_app.command()
def verify(
    where: Where,
    digest: Annotated[str, typer.Option(help="what it must be, as the registry or a chart's values pin it")] = "",
    public_key: Annotated[
        str,
        typer.Option(envvar="TOKENMILL_PUBLIC_KEY", help="file of public keys, or their PEM; one must have signed it"),
    ] = "",
    store: StoreUri = None,
    as_json: AsJson = False,
) -> None:
    """Find any byte that was changed, taken away or added since it was released. Exits with 2 if there is one."""
    from tokenmill.deployment.signing import trusted_keys
    from tokenmill.deployment.verify import verify_stored

    trusted = trusted_keys(public_key)
    uri, named = _address(where, store)
    found = verify_stored(uri, digest or named, trusted)
    if as_json:
        vouched = {"attested": found.vouched.attested, "signers": found.vouched.signers}
        show_json(
            {"name": found.release["name"], "digest": found.digest} | vouched | {"trusted": found.vouched.trusted}
        )
        return
    files, tensors = len(found.release["files"]), len(found.release["tensors"])
    typer.echo(f"{found.release['name']} {found.digest}: {files} files, {tensors} tensors as released")
    typer.echo(str(found.vouched))


@release_app.command()
def show(where: Where, store: StoreUri = None, as_json: AsJson = False) -> None:
    """What a release says of itself; its weights are not read."""
    from tokenmill.deployment.listing import listing
    from tokenmill.deployment.release import RELEASE, parse

    wanted = listing(*_address(where, store))
    index = next((file for file in wanted.files if file.name == RELEASE), None)
    if index is None:
        raise ConfigError(f"{where} is no release: it has no {RELEASE}")
    release = parse(wanted.backend.get(index.key), where)
    if as_json:
        show_json(release | {"digest": wanted.digest, "signers": wanted.vouched.signers})
        return
    for title, told in _told(release).items():
        typer.echo(f"{title:<12}{told}")
    typer.echo(f"{'digest':<12}{wanted.digest}")
    typer.echo(f"{'origin':<12}{wanted.vouched}")
    for file in wanted.files:
        typer.echo(f"  {file.name:<28}{file.size:>16,}  {file.sha256}")


def _told(release: dict[str, Any]) -> dict[str, str]:
    sources = release["lineage"]["sources"] if release["lineage"] else []
    licences = sorted({source["licence"] for source in sources})
    return {
        "name": release["name"],
        "context": f"{release['max_position_embeddings']:,} tokens, RoPE base {release['rope_theta']:,.0f}",
        "weights": f"{release['weights'][:12]}, {len(release['tensors'])} tensors",
        "gate": "passed, {checks} checks by policy {policy:.12}, verdict {content:.12}".format(**release["verdict"]),
        "evaluation": f"{len(release['evaluation']['suites'])} suites, {release['evaluation']['content'][:12]}",
        "data": f"{len(sources)} sources, {', '.join(licences) or 'no licence known'}",
    }


@release_app.command()
def sign(
    where: Where,
    key: Annotated[str, typer.Option(envvar="TOKENMILL_SIGNING_KEY", help="file of the private key")] = "",
    store: StoreUri = None,
) -> None:
    """Verify a release and sign it, beside whoever signed it before."""
    from tokenmill.deployment.publish import sign_folder
    from tokenmill.deployment.signing import SIGNING_KEY, key_id, signing_key
    from tokenmill.deployment.verify import verify_stored

    secret = signing_key(key)
    if secret is None:
        raise ConfigError(
            f"there is no key to sign with: --key FILE or {SIGNING_KEY}; `tokenmill release keygen` makes one"
        )
    uri, digest = _address(where, store)
    found = verify_stored(uri, digest)
    if uri.startswith(("s3://", "file://")):
        sign_folder(uri, found.digest, secret)
    else:
        os.environ[SIGNING_KEY] = key or os.environ[SIGNING_KEY]
        _attest(found.digest, store)
    typer.echo(f"{found.release['name']} {found.digest}: signed by {key_id(secret.public_key())}")


def _attest(digest: str, store: str | None) -> None:
    from tokenmill.deployment.attestation import attestation_pin
    from tokenmill.deployment.config import AttestConfig
    from tokenmill.steps import run_step
    from tokenmill.store import open_store
    from tokenmill.tracking import RunRef

    opened = open_store(use_store(store))
    release = {"release": opened.get_manifest(digest)}
    made = run_step("deployment.attest", AttestConfig(), release, store=opened, run=RunRef.new("release-sign"))
    opened.pin(attestation_pin(made["output"]), made["output"].digest)


@release_app.command()
def keygen(
    private: Annotated[Path, typer.Option(help="the secret: readable by you alone")] = Path("release.key"),
    public: Annotated[Path, typer.Option(help="what others verify with")] = Path("release.pub"),
) -> None:
    """Make a pair of Ed25519 keys. Keep the private one where only releases are made, and a copy in a safe."""
    from tokenmill.deployment.signing import generate

    name = generate(private, public)
    typer.echo(f"{private}: private key, for TOKENMILL_SIGNING_KEY or --key")
    typer.echo(f"{public}: public key {name}, for TOKENMILL_PUBLIC_KEY or --public-key")


@release_app.command()
def sbom(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="file [standard output]")] = None,
    site: Annotated[
        Path | None, typer.Option("--site-packages", help="of another environment, such as a server's [this one]")
    ] = None,
) -> None:
    """The packages of this environment as CycloneDX 1.6: run it in an image to have the image's."""
    from tokenmill.deployment.sbom import bill_of_environment
    from tokenmill.environment import environment, other_environment

    if site and not next(site.glob("*.dist-info"), None):
        raise ConfigError(f"{site} holds no package of Python: give a folder site-packages")
    held = other_environment(str(site)) if site else environment(image=os.environ.get("TOKENMILL_IMAGE", ""))
    bill = bill_of_environment(held)
    if output:
        output.write_bytes(bill)
        typer.echo(output)
    else:
        typer.echo(bill.decode())
