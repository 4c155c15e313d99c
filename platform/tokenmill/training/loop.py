"""The one training loop: pretraining, enhancement, SFT, reward model and PPO differ in batches and loss alone."""

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tokenmill.errors import Interrupted, RolledBack, UserError
from tokenmill.training.anomaly import Detector, Verdict, left_out, read_incidents, record
from tokenmill.training.checkpoint import Checkpoints
from tokenmill.training.cursor import Cursor
from tokenmill.training.engine import Engine
from tokenmill.training.history import History
from tokenmill.training.resume import Complete
from tokenmill.training.rng import seed_everything
from tokenmill.training.run import TrainingRun
from tokenmill.training.schedule import learning_rate
from tokenmill.training.settings import TrainingConfig
from tokenmill.training.watchdog import Heart

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
        heart: Heart,
    ) -> None:
        self.run, self.config, self.execution, self.checkpoints = run, config, config.execution, checkpoints
        self.report, self.check, self.heart = report, check, heart
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.log = History(checkpoints.store, checkpoints.key)
        self.cursor = Cursor(tokens=run.tokens_before)
        self.facts = run.facts
        """Of the weights; at the end with the ledger of the mixture."""
        self.saved = 0
        """Step of the last checkpoint."""
        self.stop = False
        self.detector = Detector(config.anomaly)
        self.incidents = read_incidents(checkpoints.store, checkpoints.key)
        self.skipped = left_out(self.incidents)
        """Steps whose batches are not learned: they spoiled an earlier attempt."""

    def train(self) -> torch.nn.Module:
        """Run all optimizer steps; returns the bare module, whose weights are whole on rank 0."""
        signal.signal(signal.SIGTERM, self._on_sigterm)
        self.heart.begin("load")
        found = self.checkpoints.newest()
        regrouped = found is not None and found.layout != self.checkpoints.layout
        engine = Engine(self.run, self.config, self.run.batches.accumulation(self.world), regrouped=regrouped)
        engine.begin = self.heart.begin
        self.saved = start = self._resume(engine, found)
        for step in range(start, len(self.run.batches)):
            self.check()
            self._evaluate(engine, step)
            own = self._skip(step) if step in self.skipped else self._step(engine, step)
            stopping, verdict = self._agree(engine.device, own)
            self.heart.end_step(step)
            if verdict == Verdict.ANOMALY:
                self._roll_back()
            if step + 1 < len(self.run.batches):
                self._save_or_stop(engine, step + 1, stopping, suspect=verdict == Verdict.SUSPECT)
        self._evaluate(engine, len(self.run.batches))
        self.heart.begin("end")
        self.checkpoints.wait()
        engine.gather()
        if self.run.plan:
            self.facts = self.facts | {"ledger": self.run.plan.ledger(self.cursor)}
        return self.run.model

    @property
    def tokens(self) -> int:
        """Tokens the model has seen."""
        return self.cursor.tokens

    def _step(self, engine: Engine, step: int) -> Verdict:
        self.heart.begin("data")
        started = time.monotonic()
        batch = self.run.batches.at(step, self.rank, self.world)
        waited = time.monotonic() - started
        sums = engine.step(step, batch.micro_batches, batch.weight)
        self.heart.begin("metrics")
        names = sorted(sums)
        totals = torch.tensor([sums[name] for name in names], dtype=torch.float64, device=engine.device)
        dist.all_reduce(totals)
        values = {name: total / batch.weight for name, total in zip(names, totals.tolist(), strict=True)}
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
        return self.detector.look(step, values["loss"], values["grad_norm"])

    def _skip(self, step: int) -> Verdict:
        """Go past a step without its batch: rate and position move on, weights and tokens do not."""
        self.cursor.skip(step, self.run.plan.of_step(step) if self.run.plan else {})
        self.log.append({"step": step, "tokens": self.tokens, "skipped": True})
        seen = {"incidents/skipped_steps": float(sum(s <= step for s in self.skipped))}
        self.report(seen | {"incidents/rollbacks": float(len(self.incidents))}, self.tokens)
        return Verdict.FINE

    def _roll_back(self) -> None:
        """End this attempt on every rank alike; rank 0 keeps what the next one is to leave out."""
        self.checkpoints.wait()
        outcome: list[UserError | None] = [None]
        if self.rank == 0:
            assert self.detector.incident
            try:
                place, most = self.checkpoints, self.execution.max_rollbacks
                outcome = [RolledBack(record(place.store, place.key, self.detector.incident, most))]
            except UserError as failure:
                outcome = [failure]
        dist.broadcast_object_list(outcome, src=0)
        assert outcome[0]
        raise outcome[0]

    def _evaluate(self, engine: Engine, step: int) -> None:
        if self.run.evaluate and step in self.run.evaluate_at:
            self.heart.begin("evaluation")
            self.run.model.eval()
            with torch.no_grad():
                values = self.run.evaluate(self.run.model)
            self.run.model.train()
            self.log.append({"step": step, "tokens": self.tokens} | values)
            self.report(values, self.tokens)

    def _save_or_stop(self, engine: Engine, step: int, stopping: bool, suspect: bool) -> None:
        """Take the checkpoint that is due before `step`, at the next step that can be gone on from.

        None is taken of what may have to be gone back before.
        """
        every = self.execution.checkpoint_every
        if suspect and stopping:
            self.checkpoints.wait()
            raise Interrupted(f"stopped by SIGTERM before step {step}; rerun to go on from the newest checkpoint")
        if suspect:
            return
        if self.run.batches.resumable(step) and (stopping or step // every > self.saved // every):
            self.heart.begin("checkpoint")
            piece, rows = self.log.seal()
            state = {
                "cursor": self.cursor.saved(step, self.run.batches),
                "log": self.log.last,
                "losses": list(self.detector.losses),
            }
            self.checkpoints.save(engine.engine, step, state, before={piece: rows} if self.rank == 0 else {})
            self.saved = step
            if stopping:
                self.checkpoints.wait()
                raise Interrupted(f"stopped by SIGTERM after step {step}; rerun to go on from there")

    def _resume(self, engine: Engine, found: Complete | None) -> int:
        seed_everything(0)
        if not found:
            return 0
        state = self.checkpoints.load(engine.engine, found)
        self.cursor = Cursor.restored(state["cursor"], self.run.batches)
        self.log = History(self.checkpoints.store, self.checkpoints.key, state["log"])
        self.detector = Detector(self.config.anomaly, state["losses"])
        return self.cursor.step

    def _on_sigterm(self, *_: Any) -> None:
        self.stop = True

    def _agree(self, device: torch.device, own: Verdict) -> tuple[bool, Verdict]:
        """Whether a rank was told to stop, and rank 0's verdict: every rank must do the same after the same step."""
        flags = torch.tensor([int(self.stop), own if self.rank == 0 else 0], device=device)  # nccl takes no CPU tensor
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        stop, verdict = flags.tolist()
        return bool(stop), Verdict(verdict)


def export(run: TrainingRun, folder: Path) -> None:
    """Write the weights folder on rank 0."""
    folder.mkdir(parents=True, exist_ok=True)
    run.export(run.model, folder)
