"""A document's history: what each stage did with it, for programs (JSON) and for a terminal (a tree)."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from rich.markup import escape
from rich.tree import Tree

from tokenmill.curation.text_changes import Change
from tokenmill.lineage import DocumentTrace

FateName = Literal["read", "made", "kept", "modified", "dropped", "joined", "absent"]
_DRAWN_CHANGES, _DRAWN_FILES = 4, 12


@dataclass(frozen=True)
class Fate:
    """What one stage did with the document."""

    step: str
    digest: str
    fate: FateName
    shard: str = ""
    record: int | None = None  # line of the shard, from 0
    reason: str = ""
    value: Any = None
    threshold: Any = None
    survivor: dict[str, Any] | None = None
    """Of a duplicate: id, source, path and dump of the copy that was kept."""
    within: dict[str, Any] | None = None
    """Of a file: id and path of the repository document it is part of, and its place in it."""
    changes: list[Change] = field(default_factory=list)
    changed_lines: int = 0
    scores: dict[str, float] = field(default_factory=dict)
    """Scores that this stage added or changed."""


@dataclass(frozen=True)
class Origin:
    """The raw file that a document was read from."""

    source: str
    path: str
    licence: str = ""
    origin: str = ""
    blob: str = ""
    bytes: int = 0
    digest: str = ""
    """Of the sources manifest that registered it."""


@dataclass(frozen=True)
class History:
    """A document's life; `stages` come parents first."""

    document: str
    about: dict[str, Any]
    origins: list[Origin]
    stages: list[Fate]
    trace: DocumentTrace
    files: list[dict[str, Any]] = field(default_factory=list)
    """Id and path of the files that a repository document was made of, in their order."""

    @property
    def tokens(self) -> list[Any]:
        return [sighting for sighting in self.trace.sightings if sighting.kind != "corpus"]

    def to_json(self) -> dict[str, Any]:
        return {
            "document": self.document,
            "about": self.about,
            "origins": [asdict(origin) for origin in self.origins],
            "files": self.files,
            "stages": [asdict(f) | {"changes": [c._asdict() for c in f.changes]} for f in self.stages],
            "used_in": [sighting._asdict() for sighting in self.tokens],
            "models": [model._asdict() for model in self.trace.models],
        }

    def tree(self) -> Tree:
        """For a terminal; what a document says is never read as markup."""
        about = " · ".join(f"{name} {value}" for name, value in self.about.items() if name != "excerpt")
        tree = Tree(f"document [bold]{escape(self.document)}[/bold] {escape(about)}")
        tree.add(f"[dim]“{escape(self.about.get('excerpt', ''))}”[/dim]")
        for origin in self.origins:
            size = f" [dim]{origin.bytes:,} bytes, blob {origin.blob[:12]}[/dim]" if origin.blob else ""
            licence = f", {origin.licence}, {origin.origin}" if origin.licence else ""
            tree.add(f"from {escape(f'{origin.source}/{origin.path}')}{size}{escape(licence)}")
        if self.files:
            parts = tree.add(f"made of {len(self.files)} files")
            for part in self.files[:_DRAWN_FILES]:
                parts.add(f"{escape(part['id'])} {escape(part['path'])}")
            if len(self.files) > _DRAWN_FILES:
                parts.add(f"[dim]… and {len(self.files) - _DRAWN_FILES:,} more[/dim]")
        for fate in self.stages:
            _branch(tree, fate)
        for seen in self.tokens:
            offset = f", token {seen.offset:,}" if seen.offset is not None else ""
            held = ", held out" if seen.held_out else ""
            tree.add(f"{seen.step} [dim]{seen.kind} {seen.digest[:12]}[/dim] {escape(seen.shard)}{offset}{held}")
        for model in self.trace.models:
            tree.add(f"reached {model.step} [dim]weights {model.digest[:12]}[/dim] through its {model.through}")
        if not self.trace.models:
            tree.add("reached no model")
        return tree


def _branch(tree: Tree, fate: Fate) -> None:
    colour = {"dropped": "red", "modified": "yellow", "joined": "cyan", "absent": "dim"}.get(fate.fate, "green")
    said = {"absent": "not among its records", "made": "made of files", "joined": "joined into"}.get(
        fate.fate, fate.fate
    )
    told = f"{fate.step} [dim]{fate.digest[:12]}[/dim] [{colour}]{said}[/{colour}]"
    if fate.fate == "dropped":
        told += f" by [bold]{escape(fate.reason)}[/bold]"
        told += escape(f": {_short(fate.value)}") if fate.value is not None else ""
        told += escape(f" against {_short(fate.threshold)}") if fate.threshold is not None else ""
    if fate.within:
        place = f"{fate.within['id']} ({fate.within['path']}), file {fate.within['position']} of {fate.within['files']}"
        told += f" {escape(place)}"
    if fate.scores:
        told += escape(" · scores " + ", ".join(f"{name} {value:g}" for name, value in sorted(fate.scores.items())))
    branch = tree.add(told)
    if fate.survivor:
        kept = " ".join(f"{name} {value}" for name, value in fate.survivor.items() if value and name != "id")
        branch.add(f"kept instead: {escape(fate.survivor['id'])} [dim]{escape(kept)}[/dim]")
    for change in fate.changes[:_DRAWN_CHANGES]:
        line = branch.add(f"line {change.line}")
        line.add(f"[red]- {escape(change.before)}[/red]")
        line.add(f"[green]+ {escape(change.after)}[/green]")
    if fate.changed_lines > _DRAWN_CHANGES:
        branch.add(f"[dim]… {fate.changed_lines:,} lines changed in all[/dim]")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else ", ".join(value) if isinstance(value, list) else str(value)
