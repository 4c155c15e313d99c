"""The one training loop: pretraining, enhancement, SFT, reward model and PPO differ in batches and loss alone."""

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import torch
import torch.distributed as dist

from tokenmill.errors import Interrupted, StepFailed
from tokenmill.training.checkpoint import Checkpoints
from tokenmill.training.cursor import Cursor
from tokenmill.training.engine import Engine
from tokenmill.training.resume import Complete
from tokenmill.training.run import TrainingRun
from tokenmill.training.schedule import learning_rate
from tokenmill.training.settings import TrainingConfig

Report = Callable[[dict[str, float], int], None]


class Loop:
    """Trains a `TrainingRun` to its end, from its newest checkpoint."""

    def __init__(
        self,
        run: TrainingRun,
        config: TrainingConfig,
        checkpoints: Checkpoints,
        report: Report,
        check: Callable[[], None],
    ) -> None:
        self.run, self.config, self.execution, self.checkpoints = run, config, config.execution, checkpoints
        self.report, self.check = report, check
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.log: list[dict[str, Any]] = []
        self.cursor = Cursor(tokens=run.tokens_before)
        self.facts = run.facts
        """Of the weights; at the end with the ledger of the mixture."""
        self.skipped: frozenset[int] = frozenset()
        """Steps whose batches are not learned."""
        self.saved = 0
        """Step of the last checkpoint, which stays until the next one is complete."""
        self.stop = False

    def train(self) -> torch.nn.Module:
        """Run all optimizer steps; returns the bare module, whose weights are whole on rank 0."""
        signal.signal(signal.SIGTERM, self._on_sigterm)
        found = self.checkpoints.newest()
        regrouped = found is not None and found.layout != self.checkpoints.layout
        engine = Engine(self.run, self.config, self.run.batches.accumulation(self.world), regrouped=regrouped)
        self.saved = start = self._resume(engine, found)
        for step in range(start, len(self.run.batches)):
            self.check()
            self._evaluate(engine, step)
            if step in self.skipped:
                self._skip(step)
            else:
                self._step(engine, step)
            if step + 1 < len(self.run.batches):
                self._save_or_stop(engine, step + 1)
        self._evaluate(engine, len(self.run.batches))
        self.checkpoints.wait()
        engine.gather()
        if self.run.plan:
            self.facts = self.facts | {"ledger": self.run.plan.ledger(self.cursor)}
        return self.run.model

    @property
    def tokens(self) -> int:
        """Tokens the model has seen."""
        return self.cursor.tokens

    def _step(self, engine: Engine, step: int) -> None:
        started = time.monotonic()
        batch = self.run.batches.at(step, self.rank, self.world)
        waited = time.monotonic() - started
        sums = engine.step(step, batch.micro_batches, batch.weight)
        names = sorted(sums)
        totals = torch.tensor([sums[name] for name in names], dtype=torch.float64, device=engine.device)
        dist.all_reduce(totals)
        values = {name: total / batch.weight for name, total in zip(names, totals.tolist(), strict=True)}
        if not numpy.isfinite(values["loss"]):
            raise StepFailed(
                f"loss is {values['loss']} at step {step}; lower optim.lr or look at the data of that step"
            )
        seconds = time.monotonic() - started
        self.cursor.take(batch)
        values |= {
            "lr": learning_rate(self.run.optim, step, len(self.run.batches)),
            "grad_norm": engine.grad_norm(),
        }
        if self.run.on_step:
            values |= self.run.on_step(step)
        self.log.append({"step": step, "tokens": self.tokens} | values)
        speed = {"perf/tokens_per_s": batch.tokens / seconds, "perf/data_wait_ratio": waited / seconds}
        if step % self.execution.log_every == 0:
            self.report(values | speed, self.tokens)

    def _skip(self, step: int) -> None:
        """Go past a step without its batch: rate and position move on, weights and tokens do not."""
        self.cursor.skip(step, self.run.plan.of_step(step) if self.run.plan else {})
        self.log.append({"step": step, "tokens": self.tokens, "skipped": True})

    def _evaluate(self, engine: Engine, step: int) -> None:
        if self.run.evaluate and step in self.run.evaluate_at:
            self.run.model.eval()
            with torch.no_grad():
                values = self.run.evaluate(self.run.model)
            self.run.model.train()
            self.log.append({"step": step, "tokens": self.tokens} | values)
            self.report(values, self.tokens)

    def _save_or_stop(self, engine: Engine, step: int) -> None:
        """Take the checkpoint that is due before `step`, at the next step that can be gone on from."""
        every = self.execution.checkpoint_every
        stopping = self._agree_to_stop(engine.device)
        if self.run.batches.resumable(step) and (stopping or step // every > self.saved // every):
            state = {"cursor": self.cursor.saved(step, self.run.batches), "log": self.log, "rng": _rng_state()}
            self.checkpoints.save(engine.engine, step, state)
            self.checkpoints.prune(keep=self.saved)
            self.saved = step
            if stopping:
                self.checkpoints.wait()
                raise Interrupted(f"stopped by SIGTERM after step {step}; rerun to go on from there")

    def _resume(self, engine: Engine, found: Complete | None) -> int:
        seed_everything(0)
        if not found:
            return 0
        state = self.checkpoints.load(engine.engine, found)
        self.cursor, self.log = Cursor.restored(state["cursor"], self.run.batches), state["log"]
        _restore_rng(state["rng"])
        return self.cursor.step

    def _on_sigterm(self, *_: Any) -> None:
        self.stop = True

    def _agree_to_stop(self, device: torch.device) -> bool:
        """Every rank must stop after the same step."""
        flag = torch.tensor([int(self.stop)], device=device)  # nccl takes no CPU tensor
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag.item())


def seed_everything(seed: int) -> None:
    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)


def _rng_state() -> dict[str, Any]:
    return {"python": random.getstate(), "numpy": numpy.random.get_state(), "torch": torch.get_rng_state()}


def _restore_rng(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    numpy.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])


def export(run: TrainingRun, folder: Path) -> None:
    """Write the weights folder on rank 0."""
    folder.mkdir(parents=True, exist_ok=True)
    run.export(run.model, folder)
