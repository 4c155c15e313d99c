"""The one training loop: pretraining, enhancement, SFT, reward model and PPO differ in batches and loss alone."""

import signal
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from tokenmill.errors import BudgetSpent, ConfigError, Interrupted, RolledBack, UserError
from tokenmill.steps.files import scratch
from tokenmill.training.anomaly import Detector, Verdict, left_out, read_incidents, record
from tokenmill.training.budget import Meter, Stop
from tokenmill.training.checkpoint import Checkpoints
from tokenmill.training.cursor import Cursor
from tokenmill.training.engine import Engine
from tokenmill.training.exports import Exports
from tokenmill.training.history import History
from tokenmill.training.optimizer_state import load_optimizer, save_optimizer
from tokenmill.training.resume import Complete, count_start
from tokenmill.training.rng import seed_everything
from tokenmill.training.run import Best, StepBatch, TrainingRun
from tokenmill.training.schedule import learning_rate
from tokenmill.training.settings import TrainingConfig
from tokenmill.training.timing import STEP_PHASES, Stopwatch, peak_memory
from tokenmill.training.utilization import device_of, used
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
        self.watch = Stopwatch()
        self.accelerator = device_of(self.execution)
        self.meter = Meter(self.execution.budget, self.world, self.accelerator)
        self.log = History(checkpoints.store, checkpoints.key)
        self.exports = Exports(checkpoints.store, checkpoints.key)
        self.best: tuple[int, float] | None = None
        """Step and value of the best evaluation so far, where one chooses the weights."""
        self.cursor = Cursor(tokens=run.tokens_before)
        self.facts = run.facts
        """Of the weights; at the end with the ledger of the mixture."""
        self.saved = 0
        """Step of the last checkpoint."""
        self.restarts = count_start(checkpoints.store, checkpoints.key) if self.rank == 0 else 0
        """Times that it was begun before, which rank 0 tells."""
        self.memory = float(peak_memory())
        """Bytes, of the rank that has most."""
        self.stop = self.spent = Stop.NONE
        """What a signal asks for, and what a budget does."""
        self.detector = Detector(config.anomaly)
        self.incidents = read_incidents(checkpoints.store, checkpoints.key)
        self.skipped = left_out(self.incidents)
        """Steps whose batches are not learned: they spoiled an earlier attempt."""

    def train(self) -> torch.nn.Module:
        """Run all optimizer steps; returns the bare module, whose weights are whole on rank 0."""
        signal.signal(signal.SIGTERM, self._on_sigterm)
        self._begin("load")
        found = self.checkpoints.newest()
        regrouped = found is not None and found.layout != self.checkpoints.layout
        engine = Engine(self.run, self.config, self.run.batches.accumulation(self.world), regrouped=regrouped)
        engine.begin = self._begin
        if self.run.optimizer and not found:
            load_optimizer(engine.engine, self.run.model, self.run.optimizer)
        self.saved = start = self._resume(engine, found)
        self._tell_incidents(start)
        if spent := self.meter.judge():
            raise BudgetSpent(f"at step {start}: {self.meter.why(spent)}")
        for step in range(start, len(self.run.batches)):
            self.check()
            if step in {*self.run.milestones.values(), *(self.run.kept_at or ())}:
                self._export(step)
            self._evaluate(engine, step)
            own = self._skip(step) if step in self.skipped else self._step(engine, step)
            stop, verdict = self._agree(engine.device, own)
            self.heart.end_step(step)
            if verdict == Verdict.ANOMALY:
                self._roll_back()
            if step + 1 < len(self.run.batches):
                self._save_or_stop(engine, step + 1, stop, suspect=verdict == Verdict.SUSPECT)
        self._evaluate(engine, len(self.run.batches))
        self._begin("end")
        self.checkpoints.wait()
        if self.run.optimizer_out:
            save_optimizer(engine.engine, self.run.model, self.run.optimizer_out)
        engine.gather()
        if self.run.plan:
            self.facts = self.facts | {"ledger": self.run.plan.ledger(self.cursor)}
        return self.run.model

    @property
    def tokens(self) -> int:
        """Tokens the model has seen."""
        return self.cursor.tokens

    def _begin(self, phase: str) -> None:
        self.heart.begin(phase)
        self.watch.begin(phase)

    def _step(self, engine: Engine, step: int) -> Verdict:
        self._begin("data")
        batch = self.run.batches.at(step, self.rank, self.world)
        sums = engine.step(step, batch.micro_batches, batch.weight)
        self._begin("metrics")
        names = sorted(sums)
        totals = torch.stack([sums[name] for name in names])
        dist.all_reduce(totals)
        weights = [batch.weights.get(name, batch.weight) for name in names]
        reduced = zip(names, totals.tolist(), weights, strict=True)
        values = {name: total / weight for name, total, weight in reduced if weight}
        self.cursor.take(batch)
        values |= {
            "lr": learning_rate(self.run.optim, step, len(self.run.batches)),
            "grad_norm": engine.grad_norm(),
        }
        if self.run.on_step:
            values |= self.run.on_step(step)
        self.log.append({"step": step, "tokens": self.tokens} | values)
        speed = self._measure(batch)
        if step % self.execution.log_every == 0:
            self.report(values | speed, self.tokens)
        return self.detector.look(step, values["loss"], values["grad_norm"])

    def _measure(self, batch: StepBatch) -> dict[str, float]:
        """Speed, split time, use of the device and spending since the end of the step before.

        A checkpoint or evaluation that lies between is in the split and the spending; speed is that of the step itself.
        """
        spent = self.watch.lap()
        seconds = sum(spent.get(phase, 0.0) for phase in STEP_PHASES)
        per_device = batch.tokens / seconds / self.world
        use = used(self.run.model, self.accelerator, batch.attended, per_device, self.execution.recompute)
        self.spent = self.meter.count(sum(spent.values()), use.get("perf/mfu"))
        return {
            "perf/tokens_per_s": per_device * self.world,
            "perf/tokens_per_s_per_device": per_device,
            "perf/data_wait_ratio": spent.get("data", 0.0) / seconds,
            "perf/memory_gib": self.memory / 2**30,
            **{f"perf/step/{phase}_s": value for phase, value in spent.items()},
            **use,
            **self.meter.values(),
        }

    def _skip(self, step: int) -> Verdict:
        """Go past a step without its batch: rate and position move on, weights and tokens do not."""
        self.cursor.skip(step, self.run.plan.of_step(step) if self.run.plan else {})
        self.log.append({"step": step, "tokens": self.tokens, "skipped": True})
        self._tell_incidents(step + 1)
        return Verdict.FINE

    def _tell_incidents(self, upto: int) -> None:
        """What has happened to the training before a step."""
        seen = {
            "incidents/restarts": self.restarts,
            "incidents/rollbacks": len(self.incidents),
            "incidents/skipped_steps": sum(step < upto for step in self.skipped),
        }
        self.report({name: float(count) for name, count in seen.items()}, self.tokens)

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
            self._begin("evaluation")
            self.run.model.eval()
            with torch.no_grad():
                values = self.run.evaluate(self.run.model)
            self.run.model.train()
            self.log.append({"step": step, "tokens": self.tokens} | values)
            self.report(values, self.tokens)
            by = self.run.best_by
            if by and self._is_best(step, values[by.metric], by, engine.device):
                self._export(step)

    def _is_best(self, step: int, own: float, by: Best, device: torch.device) -> bool:
        """Whether the weights before `step` are the best so far; rank 0's value says so.

        Ranks whose values differ in the last bit could disagree, and all of them meet in the export.
        """
        first = torch.tensor(own, dtype=torch.float64, device=device)
        dist.broadcast(first, src=0)
        if self.best and not by.better(first.item(), than=self.best[1]):
            return False
        self.best = (step, first.item())
        return True

    def _export(self, step: int) -> None:
        """Keep the weights as they are before `step`.

        The other ranks wait for rank 0 here, in a phase that may take long: within a step they would be taken for stuck.
        """
        self._begin("export")
        if self.execution.zero_stage > 2:
            raise ConfigError("weights of the way are written whole: set execution.zero_stage to 2 or less")
        if self.rank == 0:
            with scratch() as folder:
                self.run.export(self.run.model, folder)
                self.exports.keep(step, folder, self.tokens)
        dist.barrier()

    def _save_or_stop(self, engine: Engine, step: int, stop: Stop, suspect: bool) -> None:
        """Take the checkpoint that is due before `step`, at the next step that can be gone on from.

        None is taken of what may have to be gone back before.
        """
        every = self.execution.checkpoint_every
        if suspect:
            if stop == Stop.SIGTERM:
                self.checkpoints.wait()
                raise Interrupted(f"stopped by SIGTERM before step {step}; rerun to go on from the newest checkpoint")
            return
        if self.run.batches.resumable(step) and (stop or step // every > self.saved // every):
            self._begin("checkpoint")
            piece, rows = self.log.seal()
            state = {
                "cursor": self.cursor.saved(step, self.run.batches),
                "log": self.log.last,
                "losses": list(self.detector.losses),
                "device_s": self.meter.device_s,
                "kept": self.run.kept.state_dict() if self.run.kept else None,
                "best": self.best,
            }
            self.checkpoints.save(engine.engine, step, state, before={piece: rows} if self.rank == 0 else {})
            self.saved = step
            if stop:
                self.checkpoints.wait()
                raise self._stopped(stop, step)

    def _stopped(self, stop: Stop, step: int) -> UserError:
        if stop == Stop.SIGTERM:
            return Interrupted(f"stopped by SIGTERM after step {step}; rerun to go on from there")
        return BudgetSpent(f"stopped after step {step}, which is saved: {self.meter.why(stop)}, and rerun to go on")

    def _resume(self, engine: Engine, found: Complete | None) -> int:
        seed_everything(0)
        if not found:
            return 0
        state = self.checkpoints.load(engine.engine, found)
        self.cursor = Cursor.restored(state["cursor"], self.run.batches)
        self.log = History(self.checkpoints.store, self.checkpoints.key, state["log"])
        self.detector = Detector(self.config.anomaly, state["losses"])
        self.meter.device_s = state["device_s"]
        self.best = tuple(state["best"]) if state["best"] else None
        if self.run.kept:
            self.run.kept.load_state_dict(state["kept"])
        return self.cursor.step

    def _on_sigterm(self, *_: Any) -> None:
        self.stop = Stop.SIGTERM

    def _agree(self, device: torch.device, own: Verdict) -> tuple[Stop, Verdict]:
        """Whether to stop, and rank 0's verdict: every rank must do the same after the same step. And memory's maximum.

        A signal may come to any rank; losses, money and speed are rank 0's to judge.
        """
        first = self.rank == 0
        stop = max(self.stop, self.spent if first else Stop.NONE)
        flags = [float(stop), float(own if first else 0), float(peak_memory())]
        agreed = torch.tensor(flags, dtype=torch.float64, device=device)  # nccl takes no CPU tensor
        dist.all_reduce(agreed, op=dist.ReduceOp.MAX)
        self.memory = agreed[2].item()
        return Stop(int(agreed[0])), Verdict(int(agreed[1]))
