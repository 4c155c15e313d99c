"""Artifacts at pico size, made by hand: corpus, tokens, tokenizer, weights and conversations in milliseconds."""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson

from tokenmill.manifest import Draft, Manifest
from tokenmill.records import JSONL, write_jsonl
from tokenmill.steps import run_step
from tokenmill.steps.files import store_file
from tokenmill.store import ArtifactStore, open_store
from tokenmill.tracking import RunRef

Record = dict[str, Any]
WORDS = [
    *("the", "old", "king", "rode", "over", "hills", "and", "saw", "a", "bright", "river", "where"),
    *("many", "ships", "came", "home", "with", "corn", "wine", "silver"),
]


@dataclass
class Lab:
    """A store and a run; `issue` publishes what a step would have made."""

    folder: Path
    run: RunRef = field(default_factory=lambda: RunRef.new("test", "pico"))
    _documents: int = 0

    @cached_property
    def store(self) -> ArtifactStore:
        return open_store((self.folder / "store").as_uri())

    def issue(
        self,
        kind: str,
        files: Mapping[str, Iterable[Record] | Path],
        step: str = "test.made",
        facts: Mapping[str, Any] | None = None,
        counts: Mapping[str, int] | None = None,
        config: Mapping[str, Any] | None = None,
        **parents: Manifest | list[Manifest],
    ) -> Manifest:
        shards = []
        for name, content in files.items():
            path, records = content, 0
            if not isinstance(content, Path):
                path = self.folder / "records" / name
                _, records = write_jsonl(path, content)
            shards.append(store_file(self.store, path, name, records))
        listed = {role: given if isinstance(given, list) else [given] for role, given in parents.items()}
        draft = Draft(kind=kind, shards=tuple(shards), facts=dict(facts or {}), counts=dict(counts or {}))
        digests = {role: tuple(m.digest for m in manifests) for role, manifests in listed.items()}
        manifest = Manifest.issue(draft, parents=digests, step=step, version=1, config=dict(config or {}))
        self.store.put_manifest(manifest)
        return manifest

    def issue_folder(self, kind: str, folder: Path, **more: Any) -> Manifest:
        files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        return self.issue(kind, files, **more)

    def issue_json(self, kind: str, values: Mapping[str, Any], **more: Any) -> Manifest:
        """An artifact of JSON documents (and of texts, where a value is one)."""
        self._documents += 1
        folder = self.folder / f"documents-{self._documents}"
        folder.mkdir()
        for name, value in values.items():
            (folder / name).write_bytes(value.encode() if isinstance(value, str) else orjson.dumps(value))
        return self.issue_folder(kind, folder, **more)

    def step(self, name: str, config: Any, **inputs: Any) -> dict[str, Manifest]:
        return run_step(name, config, inputs, store=self.store, run=self.run)

    # ---- the usual artifacts -------------------------------------------------------------------------------------

    @cached_property
    def sources(self) -> Manifest:
        facts = {"sources": {"tales": {"licence": "CC0-1.0", "origin": "made for tests"}}}
        return self.issue("sources", {"web/tales/raw.jsonl.zst": [{"id": "raw"}]}, facts=facts)

    @cached_property
    def corpus(self) -> Manifest:
        return self.issue("corpus", {f"type=web/lang=en/part-00000{JSONL}": documents()}, sources=self.sources)

    def decontaminated(self, corpus: Manifest, question: str = "Which of these tales is asked about here", **rule: int):
        """All of a corpus, searched for one question: `corpus` and `decontamination`, as enhancement.prepare makes them."""
        from tokenmill.enhancement.config import PrepareConfig

        rows = [{"id": "q", "question": question, "answer": "1"}] if question else []
        questions = self.issue("questions", {f"generate/tales{JSONL}": rows})
        config = PrepareConfig(types=("web", "code", "math", "book"), **rule)
        return self.step("enhancement.prepare", config, corpus=corpus, questions=questions)

    @cached_property
    def tokens(self) -> Manifest:
        """Only the index: which documents are held out (every fourth)."""
        rows = [{"id": r["id"], "heldout": number % 4 == 0} for number, r in enumerate(documents())]
        return self.issue("tokens", {f"type=web/lang=en/part-00000.documents{JSONL}": rows}, corpus=self.corpus)

    @cached_property
    def conversations(self) -> Manifest:
        rows = [
            {"id": f"c{i}", "messages": chat(f"What is {i} + {i}?", f"{i} + {i} = {2 * i}."), "answer": str(2 * i)}
            for i in range(20)
        ]
        return self.issue("conversations", {f"part-00000{JSONL}": rows})

    @cached_property
    def tokenizer(self) -> Manifest:
        from tokenmill.model.tokenizer import Tokenizer

        folder = self.folder / "tokenizer"
        Tokenizer.train((r["text"] for r in documents()), vocab_size=512).save(folder)
        return self.issue_folder("tokenizer", folder, corpus=self.corpus)

    def weights(self, seed: int = 0, context: int = 128, **more: Any) -> Manifest:
        from tokenmill.model.config import InternLM2Config
        from tokenmill.model.folder import save_model
        from tokenmill.model.modeling import InternLM2ForCausalLM

        folder = self.folder / f"weights-{seed}"
        shape = replace(InternLM2Config.preset("pico"), max_position_embeddings=context)
        save_model(InternLM2ForCausalLM(shape, seed=seed), folder)
        return self.issue_folder("weights", folder, **({"tokens": self.tokens, "tokenizer": self.tokenizer} | more))


def chat(question: str, answer: str) -> list[Record]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def documents(n: int = 80, seed: int = 3) -> list[Record]:
    """Tales, a bit of code, and sums with answers; the same for one seed."""
    draw = random.Random(seed)

    def line(length: int = 9) -> str:
        return " ".join(draw.choice(WORDS) for _ in range(length)).capitalize() + "."

    def record(number: int, kind: str, lang: str, text: str, **more: str) -> Record:
        known = {"id": f"{kind}-{number:04d}", "text": text, "type": kind, "lang": lang, "source": "tales"}
        return known | {"path": f"{number}.txt", "scores": {}} | more

    made = [record(i, "web", "en", "\n".join(line() for _ in range(8))) for i in range(n // 2)]
    for i in range(n // 4):
        made.append(
            record(i, "code", "python", "\n".join(f"def {draw.choice(WORDS)}_{j}(x): return x" for j in range(8)))
        )
    for i in range(n // 4):
        a, b = draw.randrange(10, 90), draw.randrange(10, 90)
        question, answer = f"Please add the numbers {a} and {b} for me now", str(a + b)
        text = f"Question: {question}\nAnswer: {answer}"
        made.append(record(i, "math", "en", text, question=question, answer=answer))
    return made


@dataclass(frozen=True)
class Released:
    """What a release is made of, and the release."""

    weights: Manifest
    evaluation: Manifest
    verdict: Manifest
    release: Manifest


def released(
    lab: Lab,
    config: Any = None,
    *,
    passed: bool = True,
    foreign: str = "",
    seed: int = 0,
    context: int = 128,
    gate: str = "evaluation.gate",
    limits: Mapping[str, Any] | None = None,
    **more: Any,
) -> Released:
    """A release of random weights with made-up evidence; `foreign` evidence is about something else.

    Args:
        gate: step that made the verdict, by its `limits`.
        more: parents of the weights.
    """
    from tokenmill.deployment.config import BundleConfig
    from tokenmill.evaluation.config import CollectConfig

    rows = [{"id": "c", "messages": chat("Hi", "Hello")}]
    conversations = lab.issue("conversations", {f"part-00000{JSONL}": rows}, step="made.sft")
    weights = lab.weights(seed, context, **({"conversations": conversations} | more))
    suites = {"perplexity/en": {"metric": "perplexity", "value": 10.0, "ci_low": 9.0, "ci_high": 11.0, "n": 50}}
    measured = {
        "label": "chat",
        "model": "f" * 64 if foreign == "weights" else weights.content,
        "tokenizer": "f" * 64 if foreign == "tokenizer" else lab.tokenizer.content,
        "suites": suites,
    }
    exam = lab.issue(
        "sources", {"raw.jsonl.zst": [{"id": "exam"}]}, facts={"sources": {"exam": {"licence": "CC0-1.0"}}}
    )
    evaluation = lab.issue_json("evaluation", {"evaluation.json": measured}, questions=exam)
    checks = [{"name": "format/chat", "passed": passed}]
    judged = {"passed": passed, "label": "chat", "checks": checks}
    judged["candidate"] = "f" * 64 if foreign == "evaluation" else evaluation.content
    page = {"verdict.json": judged, "verdict.md": "# chat passed"}
    verdict = lab.issue_json("verdict", page, step=gate, config={"limits": dict(limits or {})})
    other = lab.weights(seed + 1) if foreign == "training_sets" else weights
    sets = lab.step("evaluation.collect_training_sets", CollectConfig(), weights=other)["output"]
    inputs = {"weights": weights, "tokenizer": lab.tokenizer, "evaluation": evaluation, "verdict": verdict}
    made = lab.step("deployment.bundle", config or BundleConfig(), **inputs, training_sets=sets)
    return Released(weights, evaluation, verdict, made["output"])
