"""JSON Schemas of what TokenMill writes and reads as JSON or YAML, made of the models that the code itself uses.

`tokenmill schemas` writes them; they are published in docs/schemas/.
"""

import json
from collections.abc import Callable
from typing import Any

from pydantic import TypeAdapter, with_config

from tokenmill.deployment.release import Release
from tokenmill.lifecycle_config import LifecycleConfig
from tokenmill.manifest import Manifest
from tokenmill.store.artifacts import SHARD_LISTS
from tokenmill.tracking.event_data import KINDS
from tokenmill.training.messages import Failure, Result, Spec

DIALECT = "https://json-schema.org/draft/2020-12/schema"
JSONSchema = dict[str, Any]


def as_files() -> dict[str, str]:
    """File name → the text of the schema."""
    return {
        f"{name}.schema.json": json.dumps({"$schema": DIALECT} | make(), indent=2, ensure_ascii=False) + "\n"
        for name, make in SCHEMAS.items()
    }


def preset() -> JSONSchema:
    """A preset's YAML: any part of the config tree, and the preset that it is laid upon."""
    schema = LifecycleConfig.model_json_schema()
    extends = {"type": "string", "description": "name of the preset that this one changes"}
    return schema | {"title": "Preset", "properties": {"extends": extends} | schema["properties"]}


def manifest() -> JSONSchema:
    """A manifest as stored: with its two digests, and long lists of shards as blobs of their own."""
    schema = Manifest.model_json_schema()
    blob = _object(blob={"type": "string"}, count={"type": "integer"})
    digests = {
        "content": {"type": "string", "description": "what it is: kind and content of every shard"},
        "digest": {"type": "string", "description": "how a run came to it: content, parents, step, version, config…"},
    }
    lists = {name: {"anyOf": [schema["properties"][name], blob]} for name in SHARD_LISTS}
    return schema | {
        "properties": schema["properties"] | lists | digests,
        "required": [*schema["properties"], *digests],
    }


def events() -> JSONSchema:
    """A file under runs/<run>/events/<task>/."""
    kinds: list[JSONSchema] = []
    definitions: JSONSchema = {}
    for kind, data in KINDS.items():
        schema = TypeAdapter(with_config(extra="forbid", use_attribute_docstrings=True)(data)).json_schema()
        definitions |= schema.pop("$defs", {})
        kinds.append(
            _object(kind={"const": kind}, time={"type": "number", "description": "seconds since 1970"}, data=schema)
        )
    return _object(events={"type": "array", "items": {"anyOf": kinds}}) | {"title": "Events", "$defs": definitions}


def _object(**properties: JSONSchema) -> JSONSchema:
    required = list(properties)
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


SCHEMAS: dict[str, Callable[[], JSONSchema]] = {
    "preset": preset,
    "manifest": manifest,
    "release": Release.model_json_schema,
    "spec": Spec.model_json_schema,
    "result": Result.model_json_schema,
    "failure": Failure.model_json_schema,
    "events": events,
}
