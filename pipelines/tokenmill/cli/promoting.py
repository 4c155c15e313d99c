"""Commands that move a registered model's aliases, and show who moved them: promote, rollback, audit."""

from typing import TYPE_CHECKING, Annotated

import typer

from tokenmill.cli.inspecting import existing_store, show
from tokenmill.cli.main import AsJson, StoreUri, app
from tokenmill.errors import InputError

if TYPE_CHECKING:
    from tokenmill.deployment.audit import Record
    from tokenmill.tracking import Registry

Alias = Annotated[str, typer.Option("--alias", help="which of its aliases")]
Reason = Annotated[str, typer.Option(help="why, for the record")]


def _registry(store: str | None) -> "Registry":
    from tokenmill.tracking import Registry

    registry = Registry(existing_store(store))
    registry.registry_ready()
    return registry


@app.command()
def promote(
    version: Annotated[str, typer.Argument(metavar="MODEL@VERSION", help="chat@3, chat@candidate or models:/chat/3")],
    to: Annotated[str, typer.Option("--to", metavar="ALIAS", help="alias that moves to it")] = "production",
    reason: Reason = "",
    force: Annotated[bool, typer.Option("--force", help="also without a passed verdict; needs --reason")] = False,
    gate_policy: Annotated[
        str | None,
        typer.Option(
            metavar="DIGEST", help="of the limits that judged it, or its start [that of the version which stands there]"
        ),
    ] = None,
    store: StoreUri = None,
    as_json: AsJson = False,
) -> None:
    """Move an alias to a version that the gate passed, and leave a record of it."""
    from tokenmill.deployment.alias import move, named_version

    if force and not reason.strip():
        raise InputError("--force promotes what no gate passed: say why with --reason")
    registry = _registry(store)
    model, number = named_version(registry, version)
    why = reason.strip() or "promoted by hand"
    record = move(registry, model, to, number, action="promoted", why=why, forced=force, policy=gate_policy)
    _tell(record, f"{model}@{to} is version {number} already", as_json)


@app.command()
def rollback(
    model: Annotated[str, typer.Argument(help="registered name")],
    alias: Alias = "production",
    reason: Reason = "",
    store: StoreUri = None,
    as_json: AsJson = False,
) -> None:
    """Move an alias back to the version that it came from, and leave a record of it."""
    from tokenmill.deployment.alias import roll_back

    why = reason.strip() or "rolled back by hand"
    _tell(roll_back(_registry(store), model, alias, why=why), "", as_json)


@app.command()
def audit(
    model: Annotated[str, typer.Argument(help="registered name")],
    alias: Annotated[str, typer.Option("--alias", help="only this one [all]")] = "",
    accept: Annotated[
        bool, typer.Option("--accept", help="give MLflow the copies that it lacks, as after a restore of an older one")
    ] = False,
    store: StoreUri = None,
    as_json: AsJson = False,
) -> None:
    """Every move of a model's aliases: who, when, from, to, why, by which verdict; and where they stand now.

    Exits with 2 if a record was changed or taken away, the newest too: MLflow has copies; and if an alias does not stand where
    the records say.
    """
    from tokenmill.deployment.audit import AuditLog

    registry = _registry(store)
    log = AuditLog(registry, model)
    accepted = log.accept() if accept else 0
    records = [r for r in log.moves() if alias in ("", r.alias)]
    stands = {name: registry.alias_version(model, name) for name in sorted({r.alias for r in records})}
    ends = {r.alias: _ends(r) for r in records}
    past = {name: ends[name][0] for name, version in stands.items() if version not in ends[name]}
    if as_json:
        show({"model": model, "aliases": stands, "moved_past": past, "records": [r.model_dump() for r in records]})
    else:
        _tell_all(model, alias, records, stands, accepted if accept else None)
    for name, version in past.items():
        raise InputError(
            f"{model}@{name} is version {stands[name] or 'none'}; by the records it should be {version or 'none'}: "
            f"somebody moved it past TokenMill. `tokenmill promote {model}@VERSION --to {name}` moves it properly"
        )


def _tell_all(
    model: str, alias: str, records: "list[Record]", stands: dict[str, str | None], accepted: int | None
) -> None:
    if not records:
        raise InputError(f"no alias of {model!r} was ever moved in this registry{f' ({alias})' if alias else ''}")
    if accepted is not None:
        typer.echo(f"{accepted} copies given to MLflow")
    for record in records:
        typer.echo(_line(record))
    for name, version in stands.items():
        typer.echo(f"{model}@{name} is version {version or 'none'}")


def _ends(record: "Record") -> tuple[str | None, ...]:
    """Where an alias may stand by the record of its last move."""
    return {"moved": (record.after,), "not moved": (record.before,), "begun": (record.after, record.before)}[
        record.state
    ]


def _tell(record: "Record | None", otherwise: str, as_json: bool) -> None:
    if as_json:
        show(record.model_dump() if record else None)
    else:
        typer.echo(_line(record) if record else otherwise)


def _line(record: "Record") -> str:
    moved = f"{record.before or 'none'} → {record.after or 'none'}"
    judged = f"verdict {record.verdict[:12]}" if record.verdict else "no verdict"
    ended = {"moved": record.action, "not moved": "NOT MOVED", "begun": "UNFINISHED"}[record.state]
    forced = "FORCED, " if record.forced else ""
    return f"{record.time}  {record.alias:<12} {moved:<12} {ended:<12} {forced}{judged}  {record.who}: {record.why}"
