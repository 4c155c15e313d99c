"""A run on one page: self-contained HTML that a person who never saw the project can read."""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tokenmill.report.charts import Series, interval_bar, line_chart, number
from tokenmill.report.collect import RunData
from tokenmill.report.graph import lineage_chart
from tokenmill.report.templates import template

_SHADES = 8
_UNNAMED: RunData = {
    "key": "",
    "name": "",
    "preset": "",
    "store": "",
    "status": "running",
    "opened": 0.0,
    "seconds": 0.0,
}
_UNSERVED = {"name": "", "version": "", "question": "", "answer": "", "served": False, "reason": ""}
_NOTHING: RunData = {
    "steps": [],
    "funnel": [],
    "fertility": [],
    "conversations": None,
    "training": [],
    "rounds": [],
    "evaluations": [],
    "reward_models": [],
    "comparisons": [],
    "verdict": None,
    "served": None,
    "lineage": {"nodes": [], "edges": [], "sources": []},
}
_VERDICTS = {True: ("good", "Passed the gate"), False: ("bad", "Did not pass the gate")}
_CURVES = {
    "reward": "Reward an answer",
    "kl": "KL an answer",
    "length": "Tokens an answer",
    "entropy": "Entropy a token",
    "clipped": "Share of tokens beyond the clip",
    "value_loss": "Value loss",
    "explained_variance": "Explained variance of the critic",
}
"""Fields of a policy's log that are drawn, where it has them."""
_STATUS = {
    "succeeded": ("good", "Finished"),
    "failed": ("bad", "Failed"),
    "cancelled": ("bad", "Cancelled"),
    "running": ("neutral", "Still running when this page was written"),
}


def render(run_data: RunData) -> str:
    """The page, as HTML that needs nothing from anywhere. What the run does not have is left out."""
    data = _NOTHING | run_data | {"run": _UNNAMED | run_data["run"]}
    page = template(Path(__file__).with_name("report.html.j2"), number=number, duration=duration, moment=_moment)
    return page.render(
        run=data["run"],
        headline=_headline(data),
        tiles=_tiles(data),
        funnel=_funnel(data["funnel"]),
        fertility=data["fertility"],
        conversations=data["conversations"],
        training=[_panel(stage) for stage in data["training"] if _points(stage["log"], "loss")],
        rounds=_rounds(data["rounds"]),
        evaluation=_evaluation(data["evaluations"], data["verdict"]),
        reward_models=[_reward_model(one) for one in data["reward_models"]],
        comparisons=[_comparison(one) for one in data["comparisons"]],
        verdict=data["verdict"],
        served=data["served"] and _UNSERVED | data["served"],
        lineage=lineage_chart(data["lineage"]["nodes"], data["lineage"]["edges"]),
        sources=data["lineage"]["sources"],
        steps=_steps(data["steps"]),
        absent=_absent(data),
    )


def duration(seconds: float | None) -> str:
    """`0.4 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds is None:
        return "–"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%d %B %Y, %H:%M UTC}"


def _headline(data: RunData) -> dict[str, str]:
    """What a person wants to know first. A failed run is told before a passed gate."""
    run, verdict = data["run"], data["verdict"]
    if verdict is None or run["status"] in {"failed", "cancelled"}:
        tone, words = _STATUS.get(run["status"], ("neutral", str(run["status"])))
        failed = [row for row in data["steps"] if row["status"] == "failed"]
        why = run.get("message") or "; ".join(f"{row['task']}: {row['message']}" for row in failed[:2])
        return {"tone": tone, "words": words, "why": why}
    tone, words = _VERDICTS[bool(verdict["passed"])]
    failed_checks = [check["name"] for check in verdict["checks"] if not check["passed"]]
    total = len(verdict["checks"])
    passed = "its one check passed" if total == 1 else f"all {total} checks passed"
    why = f"{len(failed_checks)} of {total} checks failed" if failed_checks else passed
    served = data["served"] or {}
    if tone == "good" and served.get("served") and served.get("reason"):
        return {"tone": "bad", "words": f"{words}, but not the smoke test", "why": served["reason"]}
    return {"tone": tone, "words": words, "why": why}


LONG_HALF = "curation.select_long"
"""It takes documents out of a corpus for the long stage of pretraining, and drops none of the corpus."""


def _tiles(data: RunData) -> list[dict[str, str]]:
    """The run in a few numbers."""
    tiles = []
    if funnel := data["funnel"]:
        corpus = [stage for stage in funnel if stage["step"] != LONG_HALF] or funnel
        came, kept = funnel[0]["in"], corpus[-1]["kept"]
        tiles.append({"value": number(kept), "name": "documents kept", "note": f"of {number(came)} read"})
    trained = [stage for stage in data["training"] if _points(stage["log"], "loss")]
    if trained:
        tokens = max(x for stage in trained for x, _ in _points(stage["log"], "loss"))
        tiles.append({"value": number(tokens), "name": "tokens seen", "note": f"in {len(trained)} training stages"})
    if data["rounds"]:
        gains = [r["probe"]["gain"] for r in data["rounds"] if r["probe"] and r["probe"].get("gain") is not None]
        note = f"reward gained {number(gains[-1])} in the last" if gains else "of reinforcement learning"
        tiles.append({"value": str(len(data["rounds"])), "name": "RLHF rounds", "note": note})
    if verdict := data["verdict"]:
        passed = sum(check["passed"] for check in verdict["checks"])
        tiles.append({"value": f"{passed} / {len(verdict['checks'])}", "name": "checks passed", "note": "at the gate"})
    if steps := data["steps"]:
        cached = sum(row["cache"] == "hit" for row in steps)
        note = f"{cached} of {len(steps)} steps came from the cache"
        tiles.append({"value": duration(data["run"]["seconds"]), "name": "wall time", "note": note})
    return tiles


def _funnel(stages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Bars on one scale: what was kept, and what was dropped for which reason, the most frequent first."""
    widest = max((stage["in"] for stage in stages), default=1) or 1
    bars = []
    for stage in stages:
        reasons = sorted(stage["dropped"].items(), key=lambda item: -item[1])
        shown, rest = reasons[:6], sum(count for _, count in reasons[6:])
        shown += [(f"{len(reasons) - 6} other reasons", rest)] if rest else []
        shown += [("joined with others", stage["joined"])] if stage.get("joined", 0) > 0 else []
        bars.append(
            {
                "name": str(stage["step"]).partition(".")[2].replace("_", " "),
                "cached": stage["cached"],
                "in": stage["in"],
                "kept": stage["kept"],
                "lost": _share(stage["in"] - stage["kept"], stage["in"]),
                "kept_percent": 100 * stage["kept"] / widest,
                "reasons": [
                    {
                        "name": name.replace("_", " ").replace(":", ": "),
                        "count": count,
                        "percent": 100 * count / widest,
                        "shade": i % _SHADES + 1,
                    }
                    for i, (name, count) in enumerate(shown)
                ],
            }
        )
    return bars


def _panel(stage: Mapping[str, Any]) -> dict[str, Any]:
    """One training stage: its loss, what held-out text says, and the tokens of each source."""
    log = stage["log"]
    phase, _, name = str(stage["task"]).partition(".")
    series = [Series("training", _points(log, "loss"), 1)]
    held = _points(log, "heldout/loss")
    if held:
        series.append(Series("held out", held, 2, dots=True))
    domains = sorted({key for record in log for key in record if key.startswith("heldout/")} - {"heldout/loss"})
    ledger = [
        {"source": source, "planned": row.get("planned", 0), "seen": row.get("seen", 0)}
        for source, row in sorted((stage.get("ledger") or {}).items(), key=lambda item: -item[1].get("seen", 0))
    ]
    last = {domain.removeprefix("heldout/"): _points(log, domain)[-1][1] for domain in domains if _points(log, domain)}
    return {
        "title": f"{phase}: {name.replace('.', ' ').replace('_', ' ')}",
        "chart": line_chart(series, x_label="tokens seen"),
        "first": series[0].points[0][1],
        "last": series[0].points[-1][1],
        "steps": len(series[0].points),
        "domains": last,
        "ledger": ledger,
    }


def _rounds(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """What PPO logs over all rounds, on one axis of optimizer steps, and a row a round."""
    if not rounds:
        return None
    curves: dict[str, list[Series]] = {field: [] for field in _CURVES}
    at = 0
    for i, one in enumerate(rounds):
        log = [record for record in one["log"] if "reward" in record]
        name = f"round {one['round']}" if len(rounds) > 1 else "policy"
        for field, lines in curves.items():
            points = [(at + j, record[field]) for j, record in enumerate(log) if field in record]
            lines.append(Series(name, points, i % _SHADES + 1))
        at += len(log)
    x_label = "optimizer steps over all rounds"
    charts = [
        {"name": _CURVES[field], "chart": line_chart(lines, x_label=x_label, y_zero=field == "kl")}
        for field, lines in curves.items()
    ]
    return {
        "charts": [one for one in charts if one["chart"]],
        "rows": [{"round": one["round"], **_round_numbers(one)} for one in rounds],
        "examples": [
            {"round": one["round"], **example}
            for one in rounds
            for example in ((one["probe"] or {}).get("examples") or [])[:1]
        ],
    }


def _round_numbers(one: Mapping[str, Any]) -> dict[str, Any]:
    """Mean reward of the log's first and last quarter (a step's is noise); what the probe found on fresh queries."""
    rewards = [record["reward"] for record in one["log"] if "reward" in record]
    divergences = [record["kl"] for record in one["log"] if "kl" in record]
    probe, quarter = one["probe"] or {}, max(1, len(rewards) // 4)
    return {
        "reward_first": _mean(rewards[:quarter]),
        "reward_last": _mean(rewards[-quarter:]),
        "kl": _mean(divergences[-quarter:]),
        "gain": probe.get("gain"),
        "gain_lower_bound": probe.get("gain_lower_bound"),
        "scores": [
            {"name": name, "before": probe[f"{name}_before"], "after": probe[f"{name}_after"]}
            for name in ("gold", "format")
            if f"{name}_after" in probe
        ],
        "decision": one.get("decision"),
        "checks": probe.get("checks") or {},
        "hacks": [
            hack.get("pattern", str(hack)) if isinstance(hack, Mapping) else str(hack)
            for hack in probe.get("hacks", [])
        ],
    }


def _evaluation(evaluations: Sequence[Mapping[str, Any]], verdict: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A row a suite, a column a model, the gate's candidate last; its interval is drawn on the row's own scale."""
    if not evaluations and not verdict:
        return None
    evaluations = sorted(evaluations, key=lambda e: e.get("label") == (verdict or {}).get("label"))
    labels = [str(e.get("label") or f"model {str(e.get('model', ''))[:8]}") for e in evaluations]
    checks = {check["name"]: check for check in (verdict or {}).get("checks", [])}
    rows = []
    for name in sorted({name for e in evaluations for name in e["suites"]}):
        cells = [e["suites"].get(name) for e in evaluations]
        known = [cell for cell in cells if cell and _is_number(cell.get("value"))]
        if not known:
            continue
        last = known[-1]
        shown = cells[-1] if cells[-1] in known else None
        numbers = [c[k] for c in known for k in ("value", "ci_low", "ci_high") if _is_number(c.get(k))]
        margin = max(numbers) - min(numbers)
        share = min(numbers) >= 0 and max(numbers) <= 1
        domain = (0.0, 1.0) if share else (min(numbers) - margin, max(numbers) + margin)
        rows.append(
            {
                "suite": name,
                "metric": last.get("metric", ""),
                "n": last.get("n"),
                "cells": [number(c["value"]) if c and _is_number(c.get("value")) else "–" for c in cells],
                "interval": f"{number(shown['ci_low'])} … {number(shown['ci_high'])}"
                if shown and _is_number(shown.get("ci_low"))
                else "",
                "bar": interval_bar(shown["value"], shown.get("ci_low"), shown.get("ci_high"), domain) if shown else "",
                "check": checks.get(name),
            }
        )
    ordered = sorted((verdict or {}).get("checks", []), key=lambda check: bool(check["passed"]))
    return {"labels": labels, "rows": rows, "checks": ordered}


def _comparison(comparison: Mapping[str, Any]) -> dict[str, Any]:
    """A row a group: before, after, and the difference with two standard errors, drawn better to the right."""
    rows = []
    for group in comparison["groups"]:
        difference, error = group["difference"], group["se"]
        known = _is_number(difference) and _is_number(error)
        sign = -1 if group["measure"] == "loss" else 1
        reach = max(abs(difference) + 2 * error, 1e-9) if known else 1.0
        low, high = sorted((sign * difference - 2 * error, sign * difference + 2 * error)) if known else (None, None)
        rows.append(
            {
                "name": group["name"],
                "measure": group["measure"],
                "n": group["n"],
                "before": number(group["before"]) if known else "–",
                "after": number(group["after"]) if known else "–",
                "difference": f"{difference:+.3g} ± {error:.2g}" if known else "–",
                "word": {True: "better", False: "worse", None: ""}[group["better"]],
                "bar": interval_bar(sign * difference, low, high, (-reach, reach)) if known else "",
            }
        )
    labels = [str(comparison[side].get("label") or side) for side in ("before", "after")]
    return {"labels": labels, "rows": rows}


def _reward_model(report: Mapping[str, Any]) -> dict[str, Any]:
    """A row a domain: what the model is worth with the domain's prompt, and without."""
    given, without = report["with_prompts"], report["without_prompts"]
    names = ("accuracy", "margin", "ece", "conflict_accuracy")
    rows = [
        {
            "domain": domain,
            "pairs": values["pairs"],
            "conflicts": values["conflicts"],
            "cells": [
                [_or_dash(one[name]) for one in (values, without["domains"].get(domain, values))] for name in names
            ],
        }
        for domain, values in given["domains"].items()
    ]
    flips = None if given["flips"] is None else (number(given["flips"]), number(without["flips"]))
    return {"rows": rows, "flips": flips}


def _or_dash(value: float | None) -> str:
    return "–" if value is None else number(value)


def _steps(steps: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    longest = max([row["seconds"] or 0.0 for row in steps], default=0.0) or 1.0
    shown = []
    for row in steps:
        budget, seconds = row.get("budget_s"), row["seconds"]
        over = bool(budget and seconds and seconds > budget)
        outputs = [f"{output['kind'].replace('_', ' ')} {output['digest'][:8]}" for output in row["outputs"].values()]
        shown.append(
            dict(row) | {"percent": 100 * (seconds or 0.0) / longest, "over": over, "made": ", ".join(outputs)}
        )
    return shown


def _absent(data: RunData) -> list[str]:
    """Which parts of a model's life this run did not touch."""
    phases = {row["phase"] for row in data["steps"]}
    known = ("curation", "pretraining", "enhancement", "sft", "rlhf", "evaluation", "deployment")
    return [phase for phase in known if phase not in phases]


def _points(log: Sequence[Mapping[str, Any]], field: str) -> list[tuple[float, float]]:
    """(tokens, value) of the records that have the field. A number that is none is left out."""
    return [
        (float(record.get("tokens", record.get("step", i))), float(record[field]))
        for i, record in enumerate(log)
        if _is_number(record.get(field))
    ]


def _share(part: int, whole: int) -> str:
    """`−3.5%`; a share that would round to nothing is said to be small, not zero."""
    if not part:
        return "all kept"
    return f"−{part / whole:.1%}" if part / whole >= 0.0005 else "−<0.1%"


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
