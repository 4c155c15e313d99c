"""Tasks of EleutherAI's lm-eval on our backends: its prompts, its metrics, our model. Needs the extra `lm-eval`.

A task's samples become predictions as any suite's, under `lm-eval/<task>`, so that `compare` and `board` take them. Its data
are where its YAML says; what it reads from there is the outside world, so nothing of it comes from the cache.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from lm_eval import evaluator, utils
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

from tokenmill.errors import InputError
from tokenmill.evaluation.backend import Sample, Sampling
from tokenmill.evaluation.config import LmEvalConfig
from tokenmill.evaluation.scoring import Predictions, Subject
from tokenmill.manifest import canonical, sha256
from tokenmill.model import IGNORE

MODE = "lm-eval"


def measured(subject: Subject, config: LmEvalConfig) -> tuple[dict[str, tuple[str, Predictions]], str]:
    """Suite → its metric and predictions; and a digest of what was asked: tasks' versions, documents and prompts."""
    manager = TaskManager(include_path=config.execution.include_path or None)
    if unknown := [task for task in config.tasks if not manager.match_tasks([task])]:
        raise InputError(f"lm-eval has no task {', '.join(unknown)}; give --include-path for tasks of your own")
    found = evaluator.simple_evaluate(
        model=_Adapter(subject),
        tasks=list(config.tasks),
        num_fewshot=config.num_fewshot,
        limit=config.limit,
        bootstrap_iters=0,  # intervals are ours
        task_manager=manager,
        log_samples=True,
    )
    suites = {
        f"{MODE}/{task}": _predictions(samples, found["results"][task])
        for task, samples in sorted(found["samples"].items())
    }
    asked = {
        task: [found["versions"].get(task), [(s["doc_hash"], s["prompt_hash"], s["target_hash"]) for s in samples]]
        for task, samples in sorted(found["samples"].items())
    }
    return suites, sha256(canonical(asked))


def _predictions(samples: Sequence[dict[str, Any]], told: Mapping[str, Any]) -> tuple[str, Predictions]:
    """A task's first metric that is a mean over its samples, and what the model answered; by the first of its filters.

    Args:
        told: the task's results by lm-eval, under `metric,filter`.
    """
    first = samples[0]["filter"]
    rows = sorted((s for s in samples if s["filter"] == first), key=lambda sample: sample["doc_id"])
    for metric in samples[0]["metrics"]:
        scores = [s[metric] for s in rows if isinstance(s.get(metric), int | float)]
        if len(scores) == len(rows) and math.isclose(fmean(scores), told[f"{metric},{first}"], rel_tol=1e-6):
            return metric, [
                {"id": f"{s['doc_id']:06d}", "said": _plain(s["filtered_resps"]), "score": float(s[metric])}
                for s in rows
            ]
    raise InputError(f"lm-eval's {samples[0]['metrics']} are of no single answer: they have no interval here")


def _plain(answer: Any) -> Any:
    """lm-eval's answers as JSON: tuples as lists, log-likelihoods with seven digits."""
    if isinstance(answer, list | tuple):
        return [_plain(one) for one in answer]
    return float(f"{answer:.7g}") if isinstance(answer, float) else answer


class _Adapter(LM):
    """A subject as lm-eval asks its models."""

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        self.subject = subject

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        pairs = [self._encoded(*request.args) for request in requests]
        found = self.subject.losses([_sample(before, rest) for before, rest in pairs])
        greedy = self._greedy(pairs) if _wants_greedy(requests) else [False] * len(pairs)
        return [(-loss.total, same) for loss, same in zip(found, greedy, strict=True)]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        totals = []
        for request in requests:
            ids = self.subject.tokenizer.encode(request.args[0])
            windows = utils.get_rolling_token_windows(
                ids, self.subject.tokenizer.bos_id, max_seq_len=self.subject.context - 1, context_len=1
            )
            samples = [_sample(*utils.make_disjoint_window(window)) for window in windows]
            totals.append(-sum(loss.total for loss in self.subject.losses(samples)))
        return totals

    def generate_until(self, requests: list[Instance]) -> list[str]:
        said = []
        for request in requests:  # each has sampling options of its own; prompts that share them could go together
            prompt, options = request.args
            until = options.get("until") or []
            tokens = int(options.get("max_gen_toks", self.subject.config.answer_tokens))
            ids = [self.subject.tokenizer.bos_id, *self.subject.tokenizer.encode(prompt)]
            room = max(1, self.subject.context - tokens)
            ids = ids if len(ids) <= room else [ids[0], *ids[len(ids) - room + 1 :]]
            temperature = float(options.get("temperature", 0.0)) if options.get("do_sample") else 0.0
            sampling = Sampling(tokens, self.subject.tokenizer.stop_ids, temperature, self.subject.config.seed)
            (answer,) = self.subject.backend.answers([ids], sampling)
            text = self.subject.tokenizer.decode(answer.tokens, skip_special=True)  # as lm-eval reads its own models
            for end in [until] if isinstance(until, str) else until:
                text = text.partition(end)[0] if end else text
            said.append(text)
        return said

    def _encoded(self, before: str, rest: str) -> tuple[list[int], list[int]]:
        """Ids before and of a continuation, as lm-eval cuts them: spaces at a context's end belong to what follows."""
        words = self.subject.tokenizer
        kept = before.rstrip()
        rest = before[len(kept) :] + rest
        context = [words.bos_id, *words.encode(kept)]
        whole = [words.bos_id, *words.encode(kept + rest)]
        start = min(len(context), len(whole) - 1)
        cut = max(0, len(whole) - self.subject.context)  # from the left, as lm-eval does
        return whole[cut:start], whole[start:]

    def _greedy(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[bool]:
        """Whether each continuation is what the model would have written."""
        longest = max(len(rest) for _, rest in pairs)
        sampling = Sampling(longest, self.subject.tokenizer.stop_ids)
        made = self.subject.backend.answers([before for before, _ in pairs], sampling)
        return [answer.tokens[: len(rest)] == rest for answer, (_, rest) in zip(made, pairs, strict=True)]


def _sample(before: Sequence[int], rest: Sequence[int]) -> Sample:
    return Sample([*before, *rest], [IGNORE] * len(before) + list(rest))


def _wants_greedy(requests: Sequence[Instance]) -> bool:
    """Options of one document are compared; a continuation that stands alone is asked whether it is the likeliest."""
    documents = [(request.task_name, request.doc_id) for request in requests]
    return len(set(documents)) == len(documents)
