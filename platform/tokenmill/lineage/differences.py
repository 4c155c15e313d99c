"""What differs between two histories: causes first, then what followed from them."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import NamedTuple

from rich.markup import escape
from rich.tree import Tree

from tokenmill.config import flatten
from tokenmill.errors import InputError
from tokenmill.lineage.graph import resolve
from tokenmill.manifest import JSON, Manifest
from tokenmill.store import ArtifactStore


class Change(NamedTuple):
    """One thing that differs: `what` is step, version, config, facts, counts, dropped, inputs, content or output."""

    what: str
    field: str
    before: JSON
    after: JSON


@dataclass(frozen=True)
class NodeDiff:
    """Two artifacts that play the same part in two histories."""

    path: str
    """Roles from the end product to here, e.g. `base ← corpus`."""
    step: str
    before: str
    after: str
    changes: list[Change]
    same_content: bool

    same_inputs: bool

    @property
    def is_cause(self) -> bool:
        """Something was changed here; otherwise it differs only because its inputs do."""
        return self.same_inputs or any(
            c.what in {"step", "version", "config", "inputs", "output"} for c in self.changes
        )


@dataclass(frozen=True)
class Diff:
    """What changed from one history to another: causes first, then what followed from them."""

    before: str
    after: str
    nodes: list[NodeDiff]

    @property
    def causes(self) -> list[NodeDiff]:
        return [node for node in self.nodes if node.is_cause]

    @property
    def consequences(self) -> list[NodeDiff]:
        return [node for node in self.nodes if not node.is_cause]

    def to_json(self) -> dict[str, JSON]:
        def as_json(node: NodeDiff) -> dict[str, JSON]:
            return asdict(node) | {"changes": [change._asdict() for change in node.changes]}

        return {
            "before": self.before,
            "after": self.after,
            "causes": [as_json(node) for node in self.causes],
            "consequences": [as_json(node) for node in self.consequences],
        }

    def tree(self) -> Tree:
        tree = Tree(f"{self.before[:24]} → {self.after[:24]}")
        if not self.nodes:
            tree.add("no difference")
        for title, nodes in (("changed", self.causes), ("differs because of that", self.consequences)):
            branch = tree.add(f"[bold]{title}[/bold]") if nodes else tree
            for node in nodes:
                note = " [green]same bytes[/green]" if node.same_content else ""
                where = f"{node.path}  " if node.path not in {"", node.step} else ""
                digests = f"{node.before[:12] or 'absent'} → {node.after[:12] or 'absent'}"
                leaf = branch.add(f"{node.step}{note} [dim]{where}{digests}[/dim]")
                for c in node.changes:
                    what = f"{c.what} {c.field}".rstrip()
                    leaf.add(escape(f"{what}: {_short(c.before)} → {_short(c.after)}"))
        return tree


def diff(store: ArtifactStore, before: str, after: str) -> Diff:
    """What changed between two artifacts, or between two runs (`run:<key>`), anywhere in their histories.

    Both graphs are walked from the end, role by role; where two digests agree, everything above them agrees.
    """
    if before.startswith("run:") != after.startswith("run:"):
        raise InputError(f"{before} and {after}: compare two artifacts, or two runs (run:<key>)")
    a, b = _roots(store, before), _roots(store, after)
    found: list[tuple[int, NodeDiff]] = []
    seen: set[tuple[str, str]] = set()
    waiting = [(0, name, a[name], b[name]) for name in b if name in a]
    while waiting:
        depth, path, one, other = waiting.pop(0)
        if one == other or (one, other) in seen:
            continue
        seen.add((one, other))
        old, new = store.get_manifest(one), store.get_manifest(other)
        pairs, unmatched = _match_parents(store, old, new)
        changes = [*_changes(old, new), *unmatched]
        same_inputs = all(x == y for _, x, y in pairs)
        same_content = old.content == new.content
        if same_inputs and not same_content:
            changes.append(Change("content", "", old.content[:12], new.content[:12]))
        found.append((depth, NodeDiff(path, new.step, one, other, changes, same_content, same_inputs)))
        waiting += [(depth + 1, f"{path} ← {role}" if path else role, x, y) for role, x, y in pairs]
    for name, digest in [*((n, d) for n, d in a.items() if n not in b), *((n, d) for n, d in b.items() if n not in a)]:
        manifest = store.get_manifest(digest)
        told = [f"{manifest.kind} {digest[:12]}" if name in side else None for side in (a, b)]
        only = Change("output", "", *told)
        found.append((0, NodeDiff(name, manifest.step, a.get(name, ""), b.get(name, ""), [only], False, False)))
    found.sort(key=lambda item: -item[0])  # the earliest step first: there it began
    return Diff(before, after, [node for _, node in found])


def _roots(store: ArtifactStore, reference: str) -> dict[str, str]:
    """Name → digest: one artifact, or every output of a run's tasks."""
    if not reference.startswith("run:"):
        return {"": resolve(store, reference)}
    from tokenmill.tracking.event_files import read_events
    from tokenmill.tracking.run import read_run

    run = read_run(store, reference.removeprefix("run:"))
    finished = [event for event in read_events(store, run.key) if event.kind == "step_finished"]
    return {
        event.task if role == "output" else f"{event.task}/{role}": output["digest"]
        for event in finished
        for role, output in event.data["outputs"].items()
        if output["kind"] not in {"training_log", "report"}  # they say how it went, not what was made
    }


def _match_parents(
    store: ArtifactStore, old: Manifest, new: Manifest
) -> tuple[list[tuple[str, str, str]], list[Change]]:
    """Parents that play the same part (role, then step, then place in the list), and those that have no counterpart."""
    pairs, unmatched = [], []
    for role in sorted(old.parents.keys() | new.parents.keys()):
        before, after = list(old.parents.get(role, ())), list(new.parents.get(role, ()))
        for digest in [d for d in before if d in after]:
            before.remove(digest)
            after.remove(digest)
            pairs.append((role, digest, digest))
        for digest in list(before):
            step = store.get_manifest(digest).step
            partner = next((d for d in after if store.get_manifest(d).step == step), None)
            if partner:
                before.remove(digest)
                after.remove(partner)
                pairs.append((role, digest, partner))
        if before or after:
            plain = [[f"{store.get_manifest(d).step} {d[:12]}" for d in side] for side in (before, after)]
            unmatched.append(Change("inputs", role, *plain))
    return pairs, unmatched


def _changes(old: Manifest, new: Manifest) -> Iterator[Change]:
    for name in ("step", "version"):
        if getattr(old, name) != getattr(new, name):
            yield Change(name, "", getattr(old, name), getattr(new, name))
    for name in ("config", "facts", "counts", "dropped"):
        before, after = dict(flatten(getattr(old, name))), dict(flatten(getattr(new, name)))
        for path in sorted(before.keys() | after.keys()):
            if before.get(path) != after.get(path):
                yield Change(name, path, before.get(path), after.get(path))


def _short(value: JSON) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "…"
