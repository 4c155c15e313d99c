"""The model card: what a release is, how it is served, what was measured and trained on, what it may be used for.

It says what release.json and the lineage say and nothing that nobody wrote down: what is not known stands as such.
"""

from collections.abc import Iterable, Sequence
from typing import Any


def card(facts: dict[str, Any], shape: dict[str, Any], parameters: int) -> str:
    """The page.

    Args:
        facts: of release.json, without its files and tensors.
        shape: config.json.
        parameters: how many weights it has.
    """
    return "\n".join(
        [
            f"# {facts['name']}",
            "",
            f"{parameters:,} parameters, context {shape['max_position_embeddings']:,} tokens, RoPE base "
            f"{shape['rope_theta']:,.0f}, weights in {shape['torch_dtype']}. InternLM2 in LLaMA's layout: vLLM serves it and",
            "transformers reads it without `trust_remote_code`.",
            "",
            "```",
            "tokenmill release verify .         # is it what was released, and who signed it?",
            f"vllm serve . --dtype {shape['torch_dtype']}",
            "```",
            "",
            *_measured(facts),
            *_trained(facts["lineage"]),
            *_limits(facts, shape),
            *_licences(facts["lineage"]),
        ]
    )


def _measured(facts: dict[str, Any]) -> list[str]:
    rows = [
        (name, suite["metric"], _number(suite["value"]), _interval(suite), suite["n"])
        for name, suite in sorted(facts["evaluation"]["suites"].items())
    ]
    return [
        "## Measured",
        "",
        *_table(("suite", "metric", "value", "95% interval", "n"), rows),
        f"The gate passed it: {facts['verdict']['checks']} checks by policy `{facts['verdict']['policy'][:12]}`, see",
        "[verdict.md](verdict.md); every number is in [evaluation.json](evaluation.json).",
        "",
    ]


def _trained(lineage: dict[str, Any] | None) -> list[str]:
    if not lineage:
        return ["## Trained on", "", "Nobody wrote down what it was trained on.", ""]
    sources = {(s["name"], s["licence"], s["origin"]) for s in lineage["sources"]}
    sets = [(s["step"], s["kind"], f"{s['records']:,}", f"`{s['digest'][:12]}`") for s in lineage["sets"]]
    stages = [
        (t["step"], f"{t['tokens']:,}", f"{t['flops']:.3g}", f"`{t['digest'][:12]}`")
        for t in lineage.get("trainings", ())
    ]
    return [
        "## Trained on",
        "",
        *_table(("source", "licence", "origin"), sorted(sources)),
        *_table(("training set", "kind", "records", "digest"), sets),
        *(_table(("training", "tokens", "FLOP", "weights"), stages) if stages else ()),
    ]


def _limits(facts: dict[str, Any], shape: dict[str, Any]) -> list[str]:
    suites = facts["evaluation"]["suites"]
    safety = [name for name in suites if "safety" in name]
    said = [
        f"It reads {shape['max_position_embeddings']:,} tokens at most; longer requests are refused by the server.",
        "What no suite above names was not measured. The intervals are of the sampling of questions alone.",
        f"Safety was measured by {', '.join(sorted(safety))}." if safety else "Its safety was not measured.",
        "It states falsehoods as fluently as facts, and repeats what its training data holds.",
    ]
    return ["## Limits", "", *(f"- {line}" for line in said), ""]


def _licences(lineage: dict[str, Any] | None) -> list[str]:
    found: dict[str, list[str]] = {}
    for source in lineage["sources"] if lineage else ():
        found.setdefault(source["licence"], []).append(source["name"])
    rows = [(licence or "not stated", ", ".join(sorted(set(names)))) for licence, names in sorted(found.items())]
    told = _table(("licence", "of the data"), rows) if rows else ["The licences of its data are not known.", ""]
    return [
        "## Licences",
        "",
        *told,
        "Whoever publishes the weights states their licence; it is not derived from the data's.",
        "",
    ]


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return [*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows), ""]


def _interval(suite: dict[str, Any]) -> str:
    return f"{_number(suite['ci_low'])} – {_number(suite['ci_high'])}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
