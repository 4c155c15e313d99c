"""Thresholds of long documents, a type and language at a time: what holds for papers does not for novels (report §3.1.3)."""

from collections.abc import Mapping

from tokenmill.curation.config import Range

RANGES: Mapping[str, Mapping[str, Range | None]] = {
    "*/*": {"segment_ttr": (0.1, 0.9), "newline_rate": (None, 0.1), "bar_rate": (None, 0.03)},
    "*/en": {"connective_rate": (0.01, None), "alphabetic_share": (0.5, None)},
    "*/zh": {"connective_rate": (0.008, None), "alphabetic_share": (0.5, None)},
    # code joins its lines in another way; its documents are Markdown with English around it
    "code/*": {"connective_rate": None, "alphabetic_share": None, "bar_rate": None, "segment_ttr": (0.03, None)},
}
"""What is kept, by type and language. Wide on purpose (the thresholds are unpublished: ours): on nano's books, articles and
code connectives are 1 to 6% of the characters, on lists and tables none; a list of words has a line break every 8."""


def ranges(kind: str, lang: str, changes: Mapping[str, Mapping[str, Range | None]]) -> dict[str, Range]:
    """What statistics may be in a domain: defaults and changes, the less special first; none where it does not apply."""
    merged: dict[str, Range | None] = {}
    for table in (RANGES, changes):
        for key in ("*/*", f"*/{lang}", f"{kind}/*", f"{kind}/{lang}"):
            merged |= table.get(key, {})
    return {name: allowed for name, allowed in merged.items() if allowed is not None}


def perplexity_threshold(kind: str, lang: str, thresholds: Mapping[str, float]) -> float:
    """τ of a domain: the most special one that is set, else 0."""
    keys = (f"{kind}/{lang}", f"{kind}/*", f"*/{lang}", "*/*")
    return next((thresholds[key] for key in keys if key in thresholds), 0.0)


def beyond(value: float, allowed: Range) -> float | None:
    """The limit that a value breaks."""
    low, high = allowed
    if low is not None and value < low:
        return low
    return high if high is not None and value > high else None
