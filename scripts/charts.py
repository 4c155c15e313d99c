"""What follows from a chart's values.yaml: values.schema.json, and the table of values in its README.md.

    python scripts/charts.py [--check]        --check writes nothing and exits 1 where a file is behind

A value is documented by the comment above it: `# -- what it is`, and what JSON Schema may say of it beyond the type of its
default: `# @schema {minimum: 0}`. A mapping with a description of its own is free in its keys; one without is a group whose
keys are all known, so that a misspelt one is refused.
"""

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHARTS = Path(__file__).resolve().parents[1] / "helm"
MARK = "<!-- values: scripts/charts.py -->"
NUMBER, SHARE = r"^[0-9]+(\.[0-9]+)?$", r"^(0(\.[0-9]+)?|1(\.0+)?)$"
TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}


@dataclass(frozen=True)
class Value:
    """One documented value."""

    path: tuple[str, ...]
    default: Any
    told: str
    schema: dict[str, Any]


def values(chart: Path) -> list[Value]:
    """Every value of a chart, in the file's order."""
    text = (chart / "values.yaml").read_text("utf-8")
    return list(_walk(yaml.compose(text, yaml.SafeLoader), yaml.safe_load(text), text.splitlines(), ()))


def _walk(node: Any, loaded: Any, lines: list[str], path: tuple[str, ...]) -> Iterator[Value]:
    for key, child in node.value:
        here, default = (*path, key.value), loaded[key.value]
        told, extra = _comment(lines, key.start_mark.line)
        if told:
            yield Value(here, default, told, _schema(".".join(here), default, extra) | {"description": told})
        elif isinstance(default, dict) and default:
            yield from _walk(child, default, lines, here)
        else:
            raise SystemExit(f"charts: {'.'.join(here)} has no description: write `# -- …` above it")


def _comment(lines: list[str], line: int) -> tuple[str, dict[str, Any]]:
    """Description and schema in the comment directly above a line."""
    told, extra = "", {}
    while line > 0 and (found := re.match(r"\s*# (-- |@schema )(.*)", lines[line - 1])):
        if found[1] == "-- ":
            return found[2].strip(), extra
        line, extra = line - 1, yaml.safe_load(found[2])
    return told, extra


def _schema(name: str, default: Any, extra: dict[str, Any]) -> dict[str, Any]:
    if default is None and "type" not in extra:
        raise SystemExit(f"charts: {name} is null: say its type, `# @schema {{type: [string, 'null']}}`")
    kind = {} if default is None or "enum" in extra else {"type": TYPES[type(default)]}
    found = kind | extra
    if found.get("type") == "number":  # `--set` makes a string of 0.5
        share = found.get("maximum") == 1
        found |= {"type": ["number", "string"], "pattern": SHARE if share else NUMBER}
    return found


def schema(chart: Path) -> dict[str, Any]:
    """The JSON Schema of a chart's values."""
    root: dict[str, Any] = {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object"}
    root |= {"additionalProperties": False, "properties": {"global": {"type": "object", "description": "Helm's own"}}}
    for value in values(chart):
        here = root
        for part in value.path[:-1]:
            group = {"type": "object", "additionalProperties": False, "properties": {}}
            here = here["properties"].setdefault(part, group)
        here["properties"][value.path[-1]] = value.schema
    return root


def table(chart: Path) -> str:
    """The values as a table for people."""
    lines = ["| value | default | what |", "|---|---|---|"]
    for value in values(chart):
        default = json.dumps(value.default, ensure_ascii=False)
        allowed = value.schema.get("enum")
        told = (
            value.told if not allowed or "`" in value.told else f"{value.told}: {', '.join(f'`{a}`' for a in allowed)}"
        )
        cells = (f"`{'.'.join(value.path)}`", f"`{default}`", told)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def generated(chart: Path) -> dict[Path, str]:
    """Every file that follows from values.yaml, and what it should say."""
    readme = chart / "README.md"
    prose = readme.read_text("utf-8").split(MARK)[0]
    return {
        chart / "values.schema.json": json.dumps(schema(chart), indent=2, ensure_ascii=False) + "\n",
        readme: f"{prose}{MARK}\n{table(chart)}",
    }


def main() -> None:
    """Write what is behind, or say so."""
    behind = [
        (path, text)
        for chart in sorted(path.parent for path in CHARTS.glob("*/Chart.yaml"))
        for path, text in generated(chart).items()
        if not path.exists() or path.read_text("utf-8") != text
    ]
    for path, text in behind:
        print(f"charts: {path.relative_to(CHARTS.parent)} {'is behind' if '--check' in sys.argv else 'written'}")
        if "--check" not in sys.argv:
            path.write_text(text, "utf-8")
    sys.exit(bool(behind) and "--check" in sys.argv)


if __name__ == "__main__":
    main()
