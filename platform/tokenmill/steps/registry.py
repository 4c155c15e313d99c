"""Steps and effects: typed functions that the platform can find by name.

A step is pure: `(config, inputs: manifests) → outputs: drafts`, cached by what goes in. An effect reads or changes the
outside world, is never cached, is idempotent and converges to the wanted state. A training step names a `build` that runs in
every rank; its work is launching them.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points
from typing import Any, Literal, get_type_hints

from tokenmill.config import StepConfig, resolve
from tokenmill.errors import ConfigError

Reproducible = Literal["exact", "same_platform"]
Kinds = Mapping[str, str | tuple[str, ...]]
"""Role → the kind of artifact it takes, or several."""


@dataclass(frozen=True)
class Role:
    """One named input of a step."""

    name: str
    many: bool = False
    optional: bool = False
    kinds: tuple[str, ...] = ()
    """Kinds of artifact the role takes; empty = any."""


@dataclass(frozen=True)
class Definition:
    """A registered step, effect or training step."""

    name: str
    version: int
    function: Callable[..., Any]
    config: type[StepConfig]
    roles: tuple[Role, ...]
    nature: Literal["step", "effect", "training"]
    reproducible: Reproducible = "exact"
    libraries: tuple[str, ...] = ()
    """Distributions whose version changes what comes out; their versions are part of `steps.lock`."""
    needs_registry: bool = False
    """The model registry must answer before the work starts."""
    shared_section: str = ""
    """Section of the config tree that several steps read, each the fields of its class; a step has its own by default."""
    stages: Mapping[str, type[StepConfig]] = field(default_factory=dict)
    """Of a step that is done stage after stage, each with a section of its own below the step's: stage → config."""
    stage: str = ""
    """Which one this is."""
    check: Callable[..., None] | None = None
    """`(config, inputs…, store)`: raises where they do not go together, before any work and whatever is cached."""

    @property
    def address(self) -> str:
        """What `find` finds it by: its name, and the stage."""
        return f"{self.name}.{self.stage}" if self.stage else self.name

    @property
    def section(self) -> str:
        return self.shared_section or self.address

    def identity(self, config: StepConfig) -> dict[str, Any]:
        """What of the config is hashed; a stage is a part of what a step does."""
        return config.identity() | ({"stage": self.stage} if self.stage else {})

    @property
    def phase(self) -> str:
        return self.name.partition(".")[0]


_DEFINITIONS: dict[str, Definition] = {}


def step(
    name: str,
    *,
    version: int,
    reproducible: Reproducible = "exact",
    libraries: tuple[str, ...] = (),
    kinds: Kinds | None = None,
    section: str = "",
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a pure step. Its version is explicit: a changed comment must not cost three weeks of pretraining.

    Steps that do one thing together name one `section` of the config tree, so that an option is set once.
    """
    return _register(
        name, version, "step", kinds, reproducible=reproducible, libraries=libraries, shared_section=section
    )


def effect(
    name: str,
    *,
    version: int,
    needs_registry: bool = False,
    kinds: Kinds | None = None,
    section: str = "",
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register an effect: never cached, idempotent. `section` as a step's."""
    return _register(name, version, "effect", kinds, needs_registry=needs_registry, shared_section=section)


def training_step(
    name: str,
    *,
    version: int,
    kinds: Kinds | None = None,
    stages: Mapping[str, type[StepConfig]] | None = None,
    check: Callable[..., None] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a training step: `build(config, inputs…, ctx) -> TrainingRun`, called in every rank of the worker.

    Args:
        stages: of a schedule that the step does one stage at a time, each found as `<name>.<stage>`; their configs are what
            `build` takes. A stage's result depends on its own options alone.
        check: `(config, inputs…, store)`, called once before the ranks are started.
    """
    traits = {"stages": dict(stages or {}), "check": check}
    return _register(
        name, version, "training", kinds, reproducible="same_platform", libraries=("torch", "deepspeed"), **traits
    )


def _register(
    name: str, version: int, nature: Any, kinds: Kinds | None, **traits: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        known = _DEFINITIONS.get(name)
        if known and known.function.__module__ != function.__module__:
            raise ConfigError(f"two steps are named {name!r}: {known.function.__module__} and {function.__module__}")
        config, roles = _signature(name, function, kinds or {})
        _DEFINITIONS[name] = Definition(name, version, function, config, roles, nature, **traits)
        return function

    return register


def _signature(name: str, function: Callable[..., Any], kinds: Kinds) -> tuple[type[StepConfig], tuple[Role, ...]]:
    """Read config class and input roles off `(config, role: Manifest | list[Manifest] | None…, ctx)`."""
    parameters = list(inspect.signature(function).parameters)
    if len(parameters) < 2 or parameters[0] != "config" or parameters[-1] != "ctx":
        raise ConfigError(f"step {name!r}: expected (config, inputs…, ctx), got ({', '.join(parameters)})")
    hints = get_type_hints(function, localns=_lazy_types())
    roles = []
    for role in parameters[1:-1]:
        hint = str(hints[role])
        accepted = kinds.get(role, ())
        roles.append(
            Role(role, "list[" in hint, "None" in hint, (accepted,) if isinstance(accepted, str) else tuple(accepted))
        )
    return hints["config"], tuple(roles)


def _lazy_types() -> dict[str, Any]:
    """Types that step modules name only under TYPE_CHECKING, so that finding a step never imports torch."""
    return {"TrainingRun": Any, "WorkerContext": Any}


def find(name: str) -> Definition:
    """The definition of a step, importing its phase if need be.

    `curation.filter` is looked for in `tokenmill.curation`, whose `STEP_MODULES` names the modules that register steps;
    other packages announce a phase through the entry-point group `tokenmill.steps`. A step in stages is asked for one of
    them: `pretraining.pretrain.long`.
    """
    phase = name.partition(".")[0]
    known = _addresses(phase)
    if name not in known:
        load_phase(phase)
        known = _addresses(phase)
    if name not in known:
        raise ConfigError(f"no step named {name!r}; {phase} has: {', '.join(sorted(known))}")
    return known[name]


def _addresses(phase: str) -> dict[str, Definition]:
    """Address → step, or one stage of it."""
    found = [d for d in _DEFINITIONS.values() if d.phase == phase]
    stages = (replace(d, config=config, stage=stage) for d in found for stage, config in d.stages.items())
    return {d.address: d for d in (*(d for d in found if not d.stages), *stages)}


def load_phase(phase: str) -> list[Definition]:
    """Import the modules of a phase that register steps; returns its definitions by name."""
    announced = {point.name: point.value for point in entry_points(group="tokenmill.steps")}
    package_name = announced.get(phase, f"tokenmill.{phase}")
    try:
        package = importlib.import_module(package_name)
    except ModuleNotFoundError as missing:
        if missing.name != package_name:
            raise
        raise ConfigError(f"no phase named {phase!r} (looked for {package_name})") from None
    for module in getattr(package, "STEP_MODULES", ()):
        importlib.import_module(f"{package_name}.{module}")
    return [d for n, d in sorted(_DEFINITIONS.items()) if n.startswith(phase + ".")]


def configured(
    definition: Definition, preset: str, overrides: Mapping[str, Any], given: Mapping[str, Any] | None = None
) -> Any:
    """A step's config: of its section in preset and overrides, and what the pipeline itself has `given`."""
    shared = bool(definition.shared_section)
    return resolve(definition.config, definition.section, preset, overrides, given, shared=shared)
