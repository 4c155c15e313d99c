"""Configuration: typed, in two parts, resolved from a preset and a few overrides.

*Identity* fields decide what comes out and are hashed into the action key. *Execution* fields (the sub-model `execution`)
decide how and where it is computed and are never hashed: moving from a laptop to a cluster keeps every cache hit.
No config has a secret: endpoints and keys come from the environment.
"""

import difflib
import re
from collections.abc import Iterator, Mapping
from functools import reduce
from importlib import resources
from operator import truediv
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tokenmill.errors import ConfigError

_KEYS_IN_URI = re.compile(r"^[a-z0-9+.-]+://[^/@\s]+:[^/@\s]*@", re.IGNORECASE)
PRESETS = "presets"
BUDGETS = "budgets"


class Section(BaseModel):
    """A node of the config tree."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def at(cls, path: str, values: Mapping[str, Any]) -> Self:
        """Validate `values` as the section at `path`; every problem is one clear line."""
        _refuse_keys_in_uris(path, values)
        try:
            return cls.model_validate(values)
        except ValidationError as invalid:
            raise ConfigError("\n".join(_explain(cls, path, error) for error in invalid.errors())) from None


class Execution(Section):
    """How a step is computed; never part of its identity."""

    workers: int = Field(2, ge=1, description="processes over shards")


class StepConfig(Section):
    """The config of one step: identity fields beside one `execution` sub-model."""

    execution: Execution = Execution()

    def identity(self) -> dict[str, Any]:
        """What is hashed: no execution, no defaults, so that a new option with a default keeps every key."""
        return self.model_dump(mode="json", exclude={"execution"}, exclude_defaults=True)


def load_preset(name: str) -> dict[str, Any]:
    """The raw tree of a preset (`presets/<name>.yaml`), with its `extends` merged under it."""
    known = sorted(_presets())
    if name not in known:
        raise ConfigError(f"unknown preset {name!r}.{_nearest(name, known)} Presets: {', '.join(known)}")
    tree = yaml.safe_load(_presets()[name]) or {}
    base = tree.pop("extends", None)
    return merge(load_preset(base), tree) if base else tree


def step_budgets(preset: str) -> dict[str, float]:
    """Step → seconds that one run of it may take (`presets/budgets/<preset>.yaml`); empty where nothing was measured.

    A budget stops nothing and is no part of a config: it is what the actual time is shown against.
    """
    return yaml.safe_load(_yaml_files(PRESETS, BUDGETS).get(preset, "")) or {}


def _presets() -> dict[str, str]:
    return _yaml_files(PRESETS)


def _yaml_files(*path: str) -> dict[str, str]:
    """Name → text of the YAML files in a folder of the package."""
    folder = reduce(truediv, path, resources.files("tokenmill"))
    return {f.name.removesuffix(".yaml"): f.read_text() for f in folder.iterdir() if f.name.endswith(".yaml")}


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid upon `base`, mapping by mapping; lists and scalars replace."""
    merged = dict(base)
    for key, value in over.items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if nested else value
    return merged


def nest(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`{"a.b.c": 1}` → `{"a": {"b": {"c": 1}}}`.

    Raises:
        ConfigError: one of them gives a value to what another takes for a section.
    """
    tree: dict[str, Any] = {}
    for path, value in overrides.items():
        node = tree
        *parents, leaf = path.split(".")
        for part in parents:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise ConfigError(f"{path!r} is set, and so is {part!r} above it (to {node!r}): give one of them")
        if isinstance(node.get(leaf), dict) and not isinstance(value, Mapping):
            raise ConfigError(f"{path!r} is set (to {value!r}), and so is an option below it: give one of them")
        node[leaf] = merge(node.get(leaf) or {}, value) if isinstance(value, Mapping) else value
    return tree


def is_execution(path: str) -> bool:
    """Whether a dotted path is that of an execution field."""
    return "execution" in path.split(".")


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`{"a": {"b": 1}}` → `("a.b", 1)`."""
    for key, value in tree.items():
        path = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Mapping) and value:
            yield from flatten(value, path)
        else:
            yield path, value


def parse_assignments(assignments: list[str], option: str = "--set") -> dict[str, Any]:
    """`["a.b=0.02"]` → `{"a.b": 0.02}`; values are YAML."""
    overrides = {}
    for assignment in assignments:
        path, equals, value = assignment.partition("=")
        if not equals:
            wanted = "section.field=value" if option == "--set" else "name=value"
            raise ConfigError(f"{option} {assignment!r}: expected {wanted}")
        try:
            overrides[path.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as wrong:
            raise ConfigError(f"{option} {path.strip()}: {value!r} is no YAML value ({_first_words(wrong)})") from None
    return overrides


def _first_words(wrong: yaml.YAMLError) -> str:
    return str(getattr(wrong, "problem", None) or wrong).splitlines()[0]


def section(tree: Mapping[str, Any], path: str) -> dict[str, Any]:
    """The sub-tree at a dotted path; empty where the preset says nothing."""
    node: Any = tree
    for part in path.split("."):
        node = node.get(part) or {}
    return dict(node)


def resolve(
    config_class: type[Section],
    path: str,
    preset: str,
    overrides: Mapping[str, Any],
    given: Mapping[str, Any] | None = None,
    *,
    shared: bool = False,
) -> Any:
    """The section at `path` of preset and overrides, and over it what is `given`. Other sections' overrides are not
    looked at here: the whole tree is validated once, where a run opens.

    Args:
        shared: the section is of several classes; this one takes the fields it has.
    """
    tree = section(merge(load_preset(preset), nest(overrides)), path)
    if shared:
        tree = {name: value for name, value in tree.items() if name in config_class.model_fields}
    return config_class.at(path, merge(tree, given or {}))


def options(config_class: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every option's dotted name."""
    for name, field in config_class.model_fields.items():
        path = f"{prefix}.{name}" if prefix else name
        nested = field.annotation
        if isinstance(nested, type) and issubclass(nested, BaseModel):
            yield from options(nested, path)
        else:
            yield path


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def _explain(config_class: type[BaseModel], path: str, error: Any) -> str:
    full = ".".join(part for part in (path, *map(str, error["loc"])) if part)
    if error["type"] == "extra_forbidden":
        return f"unknown option {full!r}.{_nearest(full, list(options(config_class, path)))}"
    return f"{full}: {error['msg'].lower()} (got {error['input']!r})"


def _refuse_keys_in_uris(path: str, value: Any) -> None:
    if isinstance(value, Mapping):
        for key, nested in value.items():
            _refuse_keys_in_uris(f"{path}.{key}" if path else str(key), nested)
    elif isinstance(value, list):
        for nested in value:
            _refuse_keys_in_uris(path, nested)
    elif isinstance(value, str) and _KEYS_IN_URI.match(value):
        raise ConfigError(f"{path}: a URI must not hold keys; put them in the environment (see `tokenmill doctor`)")
