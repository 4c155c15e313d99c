"""Commands about tokenizers: `tokenmill tokenizer fertility`."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tokenmill.cli.inspecting import existing_store, show
from tokenmill.cli.main import AsJson, StoreUri, app
from tokenmill.errors import InputError

if TYPE_CHECKING:
    from tokenmill.manifest import Manifest
    from tokenmill.model.tokenizer import Tokenizer
    from tokenmill.store import ArtifactStore

tokenizer_app = typer.Typer(help="Look into a tokenizer.", no_args_is_help=True)
app.add_typer(tokenizer_app, name="tokenizer")

Domains = dict[tuple[str, str], list[str]]
"""Type and language → texts."""
_FILES = {"tokenizer": "folder with one", "corpus": "text file"}
RATIOS = {
    "characters_per_token": "characters/token",
    "bytes_per_token": "bytes/token",
    "tokens_per_word": "tokens/word",
    "fallback_share": "single bytes",
}


@tokenizer_app.callback()
def tokenizer() -> None:
    """Look into a tokenizer."""


@tokenizer_app.command()
def fertility(
    tokenizer: Annotated[
        str, typer.Argument(help="a folder with tokenizer.json or tokenizer.model; or a tokenizer by digest or prefix")
    ],
    text: Annotated[
        str, typer.Argument(help="a text file; or a corpus by digest or prefix: a row a type and language")
    ],
    beside: Annotated[list[str] | None, typer.Option(help="another tokenizer; may be given several times")] = None,
    sample_mb: Annotated[
        float, typer.Option(min=0.001, help="MB of text read of each type and language, at most")
    ] = 5.0,
    store: StoreUri = None,
    as_json: AsJson = False,
) -> None:
    """How finely tokenizers cut a text or a corpus, by type and language, side by side."""
    from tokenmill.model.fertility import measure

    named = list(dict.fromkeys([tokenizer, *(beside or [])]))
    domains = _texts(text, store, int(sample_mb * 1e6))
    with ExitStack() as laid_out:
        contestants = {name: _opened(name, store, laid_out) for name in named}
        rows = [
            {"type": kind, "lang": lang, "tokenizer": name, **measure(one, texts, lang).to_json()}
            for (kind, lang), texts in domains.items()
            for name, one in contestants.items()
        ]
    if as_json:
        show(rows)
    else:
        _tell(rows)


def _tell(rows: list[dict[str, Any]]) -> None:
    widest = max(len(row["tokenizer"]) for row in rows)
    typer.echo(f"{'text':<18}{'tokenizer':<{widest}}" + "".join(f"{title:>18}" for title in RATIOS.values()))
    for row in rows:
        values = [row[name] for name in RATIOS]
        cells = [
            "–" if v is None else f"{v:.2%}" if name == "fallback_share" else f"{v:.3f}"
            for name, v in zip(RATIOS, values, strict=True)
        ]
        domain = "/".join(part for part in (row["type"], row["lang"]) if part)
        typer.echo(f"{domain:<18}{row['tokenizer']:<{widest}}" + "".join(f"{cell:>18}" for cell in cells))


def _opened(name: str, store: str | None, laid_out: ExitStack) -> "Tokenizer":
    """A tokenizer of any making, from a folder or the store."""
    from tokenmill.model.tokenizer import Tokenizer
    from tokenmill.steps.files import materialise, scratch

    folder = Path(name)
    if not folder.is_dir():
        opened = existing_store(store)
        folder = materialise(opened, _manifest(opened, name, "tokenizer"), laid_out.enter_context(scratch()))
    return Tokenizer.adopt(folder)[0]


def _texts(source: str, store: str | None, most: int) -> Domains:
    """The texts of a file, or of a corpus by type and language, `most` bytes of each."""
    if Path(source).is_file():
        try:
            return {(Path(source).name, ""): [Path(source).read_text("utf-8").encode()[:most].decode(errors="ignore")]}
        except UnicodeDecodeError as broken:
            raise InputError(
                f"{source} is no UTF-8 text ({broken.reason} at byte {broken.start}): give a text file"
            ) from None
    from tokenmill.records import read_jsonl

    opened = existing_store(store)
    corpus = _manifest(opened, source, "corpus")
    domains: Domains = {}
    room: dict[tuple[str, str], int] = {}
    for shard in corpus.shards:
        for record in read_jsonl(opened.blob_path(shard.blob)):
            domain = (record["type"], record["lang"])
            if room.setdefault(domain, most) <= 0:
                continue
            room[domain] -= len(record["text"].encode())
            domains.setdefault(domain, []).append(record["text"])
    if not domains:
        raise InputError(f"corpus {corpus.digest[:12]} has no document")
    return domains


def _manifest(store: "ArtifactStore", reference: str, kind: str) -> "Manifest":
    from tokenmill.lineage import resolve

    manifest = store.get_manifest(resolve(store, reference))
    if manifest.kind != kind:
        raise InputError(f"{reference} is {manifest.kind}: give a {kind}, or a {_FILES[kind]}")
    return manifest
