"""The ranks of a vocabulary of other making, registered as a source: with licence and origin, which follow the model."""

from pathlib import Path
from urllib.parse import urlsplit

from tokenmill.errors import InputError
from tokenmill.manifest import Draft
from tokenmill.model.vocabulary import read_ranks
from tokenmill.pretraining.config import RegisterRanksConfig
from tokenmill.steps import StepContext, effect
from tokenmill.steps.files import store_file


@effect("pretraining.register_ranks", version=1)
def register_ranks(config: RegisterRanksConfig, ctx: StepContext) -> Draft:
    """Register a rank file in tiktoken's format; without one, nothing: the tokenizer is then learned from the corpus."""
    if not config.file:
        return Draft(kind="sources", shards=(), counts={"records": 0}, facts={"sources": {}})
    path = _path(config.file)
    for field in ("licence", "origin"):
        if not getattr(config, field).strip():
            raise InputError(
                f"{config.file} has no {field}: give pretraining.register_ranks.{field}; it follows the model"
            )
    tokens = len(read_ranks(path))
    shard = store_file(ctx.store, path, f"ranks/{path.stem}/{path.name}")
    told = {"type": "ranks", "licence": config.licence, "origin": config.origin}
    counts = {"files": 1, "bytes": shard.size, "tokens": tokens}
    return Draft(kind="sources", shards=(shard,), counts=counts, facts={"sources": {path.stem: told}})


def _path(file: str) -> Path:
    """A local file, by its path or as a file: URI."""
    uri = urlsplit(file)
    if len(uri.scheme) > 1 and uri.scheme != "file":
        raise InputError(f"cannot read ranks at {uri.scheme}: URIs; copy {file} to a folder and name that")
    path = Path(uri.path if uri.scheme == "file" else file).expanduser()
    if not path.is_file():
        raise InputError(f"no rank file at {path}: pretraining.register_ranks.file names one in tiktoken's format")
    return path
