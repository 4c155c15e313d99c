"""The DeepSpeed engine: one code path for gloo on CPU and nccl on GPU."""

import logging
import os
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from tokenmill.model.modeling import InternLM2Model
from tokenmill.training.run import ParameterGroup, TrainingRun
from tokenmill.training.schedule import learning_rate
from tokenmill.training.settings import OptimConfig, TrainingConfig

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def default_groups(model: torch.nn.Module) -> list[ParameterGroup]:
    """Decay on matrices, none on norms and vectors."""
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices, vectors = [p for p in trained if p.ndim >= 2], [p for p in trained if p.ndim < 2]
    groups = [ParameterGroup(matrices)] if matrices else []
    return groups + ([ParameterGroup(vectors, weight_decay=0.0)] if vectors else [])


class Engine:
    """A model under DeepSpeed ZeRO with AdamW; rates are set per step from the schedule."""

    def __init__(self, run: TrainingRun, config: TrainingConfig, micro_batches: int, *, regrouped: bool) -> None:
        deepspeed = _import_deepspeed()
        run.model.to(DTYPES[config.precision])  # whatever the precision of the weights it starts from
        for body in run.model.modules():
            if isinstance(body, InternLM2Model):
                body.recompute, body.kernel = config.execution.recompute, config.execution.attention
        self.run, self.groups = run, run.groups or default_groups(run.model)
        optimizer = torch.optim.AdamW(
            [
                {
                    "params": group.parameters,
                    "weight_decay": run.optim.weight_decay if group.weight_decay is None else group.weight_decay,
                }
                for group in self.groups
            ],
            lr=0.0,  # set before every step; DeepSpeed takes one of zero gradients itself, which must not decay weights
            betas=run.optim.betas,
            eps=run.optim.eps,
            fused=not torch.cuda.is_available(),  # a third of the time on a CPU; on a GPU it wants its counters there
        )
        self.micro_batches = micro_batches
        self.begin: Callable[[str], None] = lambda phase: None
        """Told of each phase of a step."""
        self._untold = config.precision == "fp32" and not config.execution.zero_stage
        """Whether DeepSpeed has no optimizer of its own around AdamW: then it clips, and forgets the norm."""
        self._norm = torch.zeros(())
        self.engine, self.optimizer, _, _ = deepspeed.initialize(
            model=run.model,
            optimizer=optimizer,
            config=_deepspeed_config(run.optim, config, micro_batches) | {"checkpoint": {"load_universal": regrouped}},
        )

        for state in adam_of(self.engine).state.values():
            state["step"] = torch.zeros_like(state["step"])  # that one does not count

    @property
    def device(self) -> torch.device:
        return torch.device(self.engine.device)

    def step(self, step: int, micro_batches: list[Any], weight: float) -> dict[str, torch.Tensor]:
        """One optimizer step; returns this rank's metric sums, `loss` among them, in fp64 where they were computed."""
        if len(micro_batches) != self.micro_batches:
            raise AssertionError(
                f"expected {self.micro_batches} micro-batches a rank and step, got {len(micro_batches)}"
            )
        for group, parameters in zip(self.groups, self.optimizer.param_groups, strict=True):
            rate = learning_rate(self.run.optim, step, len(self.run.batches))
            parameters["lr"] = 0.0 if step < group.frozen_steps else rate * group.lr_scale
        sums: dict[str, torch.Tensor] = {}
        for micro_batch in micro_batches:
            self.begin("forward")
            output = self.run.loss(self.engine, micro_batch)
            self.begin("backward")
            # DeepSpeed averages over ranks and accumulated micro-batches; a sum over the global weight is wanted.
            self.engine.backward(output.loss * (dist.get_world_size() * self.micro_batches / weight))
            for name, value in {"loss": output.loss.detach(), **output.metrics}.items():
                # no float(): it would make Python wait for the GPU after every micro-batch
                value = torch.as_tensor(value, dtype=torch.float64, device=self.device)
                sums[name] = sums[name] + value if name in sums else value
            self.begin("optimizer")
            if self._untold and self.engine.is_gradient_accumulation_boundary():
                self._norm = self._own_norm()
            self.engine.step()
        return sums

    def gather(self) -> None:
        """Give rank 0 the whole weights, where ZeRO stage 3 left each rank a share; one tensor at a time on the device.

        Every rank takes part. It ends the training: rank 0's tensors are on the CPU then.
        """
        if self.engine.zero_optimization_stage() < 3:
            return
        from deepspeed.runtime.zero import GatheredParameters

        for parameter in self.run.model.parameters():
            with GatheredParameters([parameter]):
                whole = parameter.detach().cpu().clone() if dist.get_rank() == 0 else None
            if whole is not None:
                parameter.data = whole

    def grad_norm(self) -> float:
        """Of the whole gradient of the last step, over all ranks, before it was clipped."""
        return float(self._norm if self._untold else self.engine.get_global_grad_norm())

    def _own_norm(self) -> torch.Tensor:
        """Of the gradients as they are, which every rank has whole and averaged."""
        gradients = [p.grad for p in self.run.model.parameters() if p.grad is not None]
        return torch.nn.utils.get_total_norm(gradients)


def adam_of(engine: Any) -> torch.optim.Optimizer:
    """AdamW itself, under whatever DeepSpeed put around it."""
    optimizer = engine.optimizer
    while not isinstance(optimizer, torch.optim.Optimizer):
        optimizer = optimizer.optimizer
    return optimizer


def _import_deepspeed() -> Any:
    """DeepSpeed without what costs seconds and is not used: its JIT builds and its autotuner's MLflow.

    A build takes minutes, and a killed one leaves a lock that later runs hang on; importing mlflow doubles a rank's start.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "error")
    mlflow = sys.modules.get("mlflow")
    sys.modules["mlflow"] = None  # type: ignore[assignment] # `import mlflow` fails, as where it is not installed
    try:
        import deepspeed
        import deepspeed.ops
    finally:
        if mlflow:
            sys.modules["mlflow"] = mlflow
        else:
            del sys.modules["mlflow"]
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    if not torch.cuda.is_available():
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _deepspeed_config(optim: OptimConfig, config: TrainingConfig, micro_batches: int) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": config.execution.zero_stage}
    if config.execution.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": micro_batches,
        "gradient_clipping": optim.clip,
        "steps_per_print": 1_000_000_000,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": config.precision == "bf16"},
    }
