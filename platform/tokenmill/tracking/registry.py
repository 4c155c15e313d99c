"""The model registry, for effects: versions that point at manifests, and aliases that move after the gate.

Unlike tracking, the registry may not be away: an effect calls `registry_ready` in its preflight, before any work.
"""

import re
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

import orjson

from tokenmill.errors import InputError
from tokenmill.manifest import Manifest, sha256
from tokenmill.store import ArtifactStore
from tokenmill.store.layout import registry_key
from tokenmill.tracking.connection import (
    MANIFEST_TAG,
    TrackingError,
    connect,
    once,
    one_line_errors,
    patiently,
    target_name,
    tracking_uri,
    without_userinfo,
)
from tokenmill.tracking.delivery import Delivery
from tokenmill.tracking.run import RunRef

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import RegisteredModel

_VERSIONS_TAG = "mlflow.modelVersions"  # what MLflow's pages link a model to its versions by
_MODEL_URI = re.compile(r"^models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))$")


class Registry:
    """MLflow's registered models, as TokenMill uses them: every version carries its manifest's digest."""

    def __init__(self, store: ArtifactStore, tracking_uri_: str | None = None):
        self.store = store
        self.uri = tracking_uri(store, tracking_uri_)

    @cached_property
    def client(self) -> "MlflowClient":
        return connect(self.uri)

    def registry_ready(self) -> None:
        """Preflight: `TrackingError` unless the registry answers."""
        with one_line_errors(self.uri):
            self.client.search_registered_models(max_results=1)

    def register_model(
        self, name: str, manifest: Manifest, *, run: RunRef, tags: Mapping[str, str] | None = None, kept: bool = True
    ) -> str:
        """The version of `name` that points at `manifest`; the same digest is the same version for ever.

        Args:
            name: kebab case, e.g. internlm2-chat-nano.
            manifest: of kind weights or release.
            run: the run that registers it; its MLflow run becomes the version's.
            tags: set on the version, e.g. `{"gate.status": "passed"}`.
            kept: from garbage collection, with all that it was made of.
        """
        if kept:
            self.store.pin(f"models/{name}/{manifest.digest[:16]}", manifest.digest)
        return patiently(
            self.uri, lambda: self._register(name, manifest, Delivery(self.store, run, self.uri), tags or {})
        )

    def _register(self, name: str, manifest: Manifest, delivery: Delivery, tags: Mapping[str, str]) -> str:
        def find() -> str | None:
            found = self.client.search_model_versions(
                f"name = '{name}' AND tags.`{MANIFEST_TAG}` = '{manifest.digest}'", max_results=1
            )
            return str(found[0].version) if found else None

        def create() -> str:
            # MLflow refuses local paths as a source, so a version points at the model that holds the pointer
            model_id = delivery.model_id(manifest, name=name.replace(".", "-"), config=manifest.config)
            model = self.client.get_logged_model(model_id)
            # only a server can look a model up by its id: the client would ask the process's default MLflow
            source = f"models:/{model_id}" if self.uri.startswith("http") else model.artifact_location
            version = self.client.create_model_version(
                name, source, delivery.parent_id(), model_id=model_id, await_creation_for=30
            ).version
            links = [*orjson.loads(model.tags.get(_VERSIONS_TAG, "[]")), {"name": name, "version": str(version)}]
            self.client.set_logged_model_tags(model_id, {_VERSIONS_TAG: orjson.dumps(links).decode()})
            return str(version)

        def discard(version: str) -> None:
            self.client.delete_model_version(name, version)

        def alive(version: str) -> bool:
            return self._has(name, version)

        self._ensure_registered_model(name)
        key = registry_key(target_name(self.uri), name, manifest.digest)
        version = once(self.store, key, find=find, create=create, discard=discard, alive=alive)
        own = {
            MANIFEST_TAG: manifest.digest,
            "tokenmill.content": manifest.content,
            "tokenmill.uri": self.store.manifest_uri(manifest.digest),
        }
        for tag, value in (own | dict(tags)).items():
            self.client.set_model_version_tag(name, version, tag, value)
        return version

    def set_alias(self, name: str, alias: str, version: str | None) -> None:
        """Move `alias` to `version`, or take it away. Who promotes leaves a record too: `tokenmill.deployment.alias`."""
        with one_line_errors(self.uri):
            if version is None:
                self.client.delete_registered_model_alias(name, alias)
            else:
                self.client.set_registered_model_alias(name, alias, version)

    def tag_model(self, name: str, tag: str, value: str) -> None:
        with one_line_errors(self.uri):
            self.client.set_registered_model_tag(name, tag, value)

    def version_tags(self, name: str, version: str) -> dict[str, str]:
        """A version's tags; `InputError` if there is no such version."""
        with one_line_errors(self.uri):
            if self._has(name, version):
                return dict(self.client.get_model_version(name, version).tags)
        raise InputError(self._unknown(name, f"version {version}"))

    def tagged_versions(self, name: str, tag: str, value: str) -> list[tuple[str, dict[str, str]]]:
        """Versions of a model that have a tag of that value, each with all its tags."""
        wanted, found, page = f"name = '{name}' AND tags.`{tag}` = '{value}'", [], None
        with one_line_errors(self.uri):
            while page != "":
                versions = self.client.search_model_versions(wanted, page_token=page)
                found += [(str(one.version), dict(one.tags)) for one in versions]
                page = versions.token or ""
        return found

    def identity(self, name: str) -> str:
        """Which registered model this is, 12 hexadecimal digits: the same by every address of an MLflow, and after a restore.

        Raises:
            InputError: there is none of that name.
        """
        return sha256(f"{name} {self._registered(name).creation_timestamp}".encode())[:12]

    def model_tags(self, name: str) -> dict[str, str]:
        """A registered model's own tags; `InputError` if there is none of that name."""
        return dict(self._registered(name).tags)

    def _registered(self, name: str) -> "RegisteredModel":
        from mlflow.exceptions import MlflowException

        with one_line_errors(self.uri):
            try:
                return self.client.get_registered_model(name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                raise InputError(f"no model {name!r} is registered in this MLflow") from None

    def alias_version(self, name: str, alias: str) -> str | None:
        """The version an alias stands at; None when nobody has set it."""
        from mlflow.exceptions import MlflowException

        with one_line_errors(self.uri):
            try:
                return str(self.client.get_model_version_by_alias(name, alias).version)
            except MlflowException as error:
                if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                    return None
                raise

    def model_version(self, uri: str) -> tuple[str, str]:
        """`models:/name@alias` or `models:/name/3` → name and version. An alias may move; a version stays what it is."""
        match = _MODEL_URI.match(uri)
        if not match:
            raise InputError(f"{uri!r} is no model: expected models:/name@alias or models:/name/3")
        name, version = match["name"], match["version"] or self.alias_version(match["name"], match["alias"])
        if version is None:
            raise InputError(self._unknown(name, f"alias {match['alias']!r}"))
        self.version_tags(name, version)  # it exists, or this says so
        return name, version

    def resolve_model(self, uri: str) -> str:
        """`models:/name@alias` or `models:/name/3` → the digest of its manifest."""
        name, version = self.model_version(uri)
        tags = self.version_tags(name, version)
        if MANIFEST_TAG not in tags:
            raise InputError(f"models:/{name}/{version} was not registered by TokenMill: it points at no manifest")
        return str(tags[MANIFEST_TAG])

    def _has(self, name: str, version: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            self.client.get_model_version(name, version)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        return True

    def _unknown(self, name: str, what: str) -> str:
        with one_line_errors(self.uri):
            known = [m.name for m in self.client.search_registered_models(max_results=100)]
        if name in known:
            return f"model {name!r} in MLflow at {without_userinfo(self.uri)} has no {what}"
        return f"MLflow at {without_userinfo(self.uri)} has no model {name!r}; it has {', '.join(known[:8]) or 'none'}"

    def _ensure_registered_model(self, name: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise


def registered_name(role: str, run: RunRef) -> str:
    """internlm2-chat-nano; of a released size internlm2-chat-7b; a team's own team-a-internlm2-chat-7b."""
    preset = run.preset.removeprefix("internlm2-")
    return "-".join(part for part in (run.team, "internlm2", role, preset) if part)


def registry_ready(store: ArtifactStore, tracking_uri_: str | None = None) -> None:
    """Preflight of every effect that registers or promotes: one clear line when the registry is away."""
    Registry(store, tracking_uri_).registry_ready()


__all__ = ["Registry", "TrackingError", "registered_name", "registry_ready"]
