"""The documents of preset pico, and a source that a test adds to them."""

from pathlib import Path

import yaml

import tokenmill.curation

SOURCES = Path(tokenmill.curation.__file__).parent / "sources"


def pico_and(folder: Path, name: str, lines: str, **told: str) -> Path:
    """Write the source `name` of JSON lines, and the list of sources that a run is given."""
    known = yaml.safe_load((SOURCES / "pico.yaml").read_text())
    for source in known:
        paths = source["uri"] if isinstance(source["uri"], list) else [source["uri"]]
        source["uri"] = [str(SOURCES / path) for path in paths]
    (folder / f"{name}.jsonl").write_text(lines)
    made = {"licence": "CC0-1.0", "origin": "made for this test"} | told
    known.append({"name": name, "uri": str(folder / f"{name}.jsonl")} | made)
    (folder / "sources.yaml").write_text(yaml.safe_dump(known))
    return folder / "sources.yaml"
