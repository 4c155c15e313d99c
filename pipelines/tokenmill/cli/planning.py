"""`tokenmill plan`: what a preset's training stages need, before anything is launched."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from tokenmill.cli.inspecting import show
from tokenmill.cli.main import AsJson, Assignments, Preset, app
from tokenmill.errors import ConfigError
from tokenmill.model.config import Recompute

Stages = dict[str, dict[str, Any]]


@app.command("plan")
def plan_stages(
    preset: Preset = "internlm2-7b",
    gpus: Annotated[int, typer.Option(min=1, help="devices, one rank each")] = 8,
    gpu: Annotated[str, typer.Option(help="a100, h100, h200, b200 or l40s")] = "h100",
    mfu: Annotated[
        float, typer.Option(min=0.01, max=1.0, help="share of the device's peak; assumed, not measured")
    ] = 0.5,
    price: Annotated[float | None, typer.Option(min=0.0, help="of one device for one hour, in your currency")] = None,
    micro_batch_tokens: Annotated[
        int | None, typer.Option(min=1, help="tokens of a forward pass on one device [one sequence]")
    ] = None,
    recompute: Annotated[
        Recompute | None, typer.Option(help="none, selective or full [the preset's execution.recompute]")
    ] = None,
    assignments: Assignments = None,
    as_json: AsJson = False,
) -> None:
    """Memory of a device by part, tokens a second, time, cost and checkpoint size of every language-model stage."""
    from tokenmill.training.flops import accelerator
    from tokenmill.training.plan import Layout, plan

    device = accelerator(gpu)
    told: Stages = {}
    for name, (config, stage) in _stages(preset, assignments).items():
        layout = Layout(
            ranks=gpus,
            zero_stage=stage.execution.zero_stage,
            micro_batch_tokens=max(micro_batch_tokens or 0, stage.context),
            recompute=recompute or stage.execution.recompute,
            precision=stage.precision,
        )
        told[name] = asdict(plan(config, stage.context, stage.tokens, layout, device, mfu=mfu, price=price)) | {
            "model": stage_model(config),
            "context": stage.context,
            "tokens": stage.tokens,
            "layout": asdict(layout),
        }
    if as_json:
        show({"preset": preset, "gpu": asdict(device), "stages": told})
    else:
        _draw(preset, gpus, gpu, mfu, told)


def stage_model(config: Any) -> dict[str, int]:
    return {"parameters": config.parameter_count(), "layers": config.num_hidden_layers, "hidden": config.hidden_size}


def _stages(preset: str, assignments: list[str] | None) -> dict[str, tuple[Any, Any]]:
    """Step → model and settings of the preset's language-model stages; the later ones go on with the first one's model."""
    from tokenmill.cli.running import checked
    from tokenmill.config import load_preset, merge, nest
    from tokenmill.lifecycle_config import LifecycleConfig
    from tokenmill.model.config import InternLM2Config

    tree = LifecycleConfig.at("", merge(load_preset(preset), nest(checked(preset, assignments))))
    model = InternLM2Config.preset(tree.pretraining.pretrain.short.model)
    if tree.pretraining.pretrain.short.context > model.max_position_embeddings:
        raise ConfigError(f"pretraining.pretrain.short.context is beyond the model's {model.max_position_embeddings}")
    return {
        "pretraining.pretrain.short": (model, tree.pretraining.pretrain.short),
        "pretraining.pretrain.long": (model, tree.pretraining.pretrain.long),
        "enhancement.enhance": (model, tree.enhancement.enhance),
    }


def _draw(preset: str, gpus: int, gpu: str, mfu: float, stages: Stages) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{preset} on {gpus} × {gpu}, {mfu:.0%} of its peak assumed", title_justify="left")
    table.add_column("")
    for name in stages:
        table.add_column(name.replace(".", ".\n"), justify="right")
    for what, cell in _ROWS.items():
        table.add_row(what, *(cell(stage) for stage in stages.values()))
    console = Console(soft_wrap=True)
    console.print(table)
    for name, stage in stages.items():
        if not stage["fits"]:
            console.print(
                f"{name} does not fit {gpu}: more GPUs, a higher execution.zero_stage, or --recompute full takes less memory"
            )


def _gigabytes(value: float) -> str:
    return f"{value / 1e9:,.1f} GB"


_ROWS = {
    "tokens": lambda s: f"{s['tokens']:,.3g}",
    "context": lambda s: f"{s['context']:,}",
    "weights": lambda s: _gigabytes(s["memory"]["weights"]),
    "gradients": lambda s: _gigabytes(s["memory"]["gradients"]),
    "optimizer": lambda s: _gigabytes(s["memory"]["optimizer"]),
    "activations": lambda s: _gigabytes(s["memory"]["activations"]),
    "logits": lambda s: _gigabytes(s["memory"]["logits"]),
    "a device, in all": lambda s: _gigabytes(sum(s["memory"].values())),
    "fits": lambda s: "yes" if s["fits"] else "no",
    "tokens/s": lambda s: f"{s['tokens_per_s']:,.0f}",
    "HFU": lambda s: f"{s['hfu']:.0%}",
    "days": lambda s: f"{s['seconds'] / 86_400:,.1f}",
    "energy": lambda s: f"{s['energy'] / 3.6e9:,.1f} MWh",
    "cost": lambda s: "–" if s["cost"] is None else f"{s['cost']:,.0f}",
    "a checkpoint": lambda s: _gigabytes(s["checkpoint"]),
}
