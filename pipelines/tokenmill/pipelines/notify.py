"""A word to a channel when a run ends: that it failed, what the gate said, what was promoted. Slack's webhook format.

The address is a secret, so it comes from the environment (`TOKENMILL_NOTIFY`, on a cluster from the Secret
`tokenmill-notify`) and is in no config, no event and no message. Whatever goes wrong here costs the run nothing.
"""

import os
import re
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import orjson
import requests

from tokenmill.logs import Log
from tokenmill.store import ArtifactStore
from tokenmill.tracking import read_run
from tokenmill.tracking.event_files import read_events

NOTIFY = "TOKENMILL_NOTIFY"
"""Environment: address of a webhook that takes `{"text": …}`, as Slack's, Mattermost's and Teams' workflows do."""
PAUSES_S = (1.0, 5.0, 15.0)
_KEYS = re.compile(r"KEY|SECRET|TOKEN(?!MILL_)|PASSWORD|CREDENTIAL")
_NO_KEYS = frozenset({"TOKENMILL_RUN_KEY", "TOKENMILL_PUBLIC_KEY"})
"""Called so, and everybody may know them."""
_USERINFO = re.compile(r"//[^/@\s]*@")
_LONGEST = 600


def notify(store: ArtifactStore, key: str, *, sleep: Callable[[float], None] = time.sleep) -> bool:
    """Tell the webhook how a run ended; whether it took it. Without an address nothing is told."""
    address, log = os.environ.get(NOTIFY, ""), Log({"run": key})
    if not address:
        return False
    try:
        text = message(store, key)
    except Exception as unreadable:  # a word less must not fail a run
        log.warning(f"not notified, the run's events cannot be read: {unreadable!r}")
        return False
    why = ""
    for pause_s in (*PAUSES_S, None):
        try:
            answer = requests.post(address, json={"text": text}, timeout=10, allow_redirects=False)
            if answer.ok:
                return True
            why = f"HTTP {answer.status_code}"
            if answer.status_code < 500 and answer.status_code != 429:  # it will not take it later either
                break
        except (requests.RequestException, ValueError) as away:  # its text would name the address
            why = type(away).__name__
        if pause_s is not None:
            sleep(pause_s)
    log.warning(f"not notified: {urlsplit(address).hostname} did not take it ({why})")
    return False


def message(store: ArtifactStore, key: str) -> str:
    """What a person in a channel wants to know, a line each; keys and secrets of the environment are blotted out."""
    run = read_run(store, key)
    name = " ".join(part for part in (run.name, run.preset) if part)
    return blotted("\n".join([*_lines(store, key, name), f"run {key}"]))


def _lines(store: ArtifactStore, key: str, name: str) -> Iterator[str]:
    ended, failed, told = "unknown", list[str](), list[str]()
    for event in read_events(store, key):
        if event.kind == "run_closed":
            ended, why = event.data["status"], event.data["message"]
            failed += [why] if why and ended == "failed" else []
        elif event.kind == "step_failed":
            failed.insert(0, f"{event.data['step']}: {event.data['message']}")
        elif event.kind == "step_finished" and (said := _SAY.get(event.data["step"])):
            told += said(_document(store, event.data["outputs"]["output"]["digest"]))
    yield f"{'✅' if ended == 'succeeded' else '❌'} *{name}* {ended}"
    yield from (line[:_LONGEST] for line in failed[:1] if ended != "succeeded")
    yield from told


def _document(store: ArtifactStore, digest: str) -> dict[str, Any]:
    manifest = store.get_manifest(digest)
    shard = next(shard for shard in manifest.shards if shard.name.endswith(".json"))
    return dict(orjson.loads(store.get_blob(shard.blob)))


def _of_gate(verdict: dict[str, Any]) -> list[str]:
    checks = verdict["checks"]
    wrong = [check["name"] for check in checks if not check["passed"]]
    if verdict["passed"]:
        return [f"gate: {verdict['label']} passed {len(checks)} checks"]
    return [f"gate: {verdict['label']} refused, {len(wrong)} of {len(checks)} checks: {', '.join(wrong[:5])}"]


def _of_deployment(deployment: dict[str, Any]) -> list[str]:
    if not deployment["served"]:
        return [f"not served: {deployment['reason']}"]
    what = f"{deployment['name']}/{deployment['version']}"
    return [f"served: {what}, smoke test passed" if deployment["ok"] else f"{what} not served: {deployment['reason']}"]


def _of_promotion(promotion: dict[str, Any]) -> list[str]:
    stands = f"{promotion['before'] or 'none'} → {promotion['version'] or 'none'}"
    return [f"{promotion['name']}@{promotion['alias']} {promotion['action']}: {stands}"]


_SAY: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "evaluation.gate": _of_gate,
    "deployment.deploy": _of_deployment,
    "deployment.promote": _of_promotion,
}


def blotted(text: str) -> str:
    """`text` without the userinfo of addresses, and without any value that the environment holds as a key."""
    named = ((name, value) for name, value in os.environ.items() if name not in _NO_KEYS and len(value) >= 6)
    secrets = {value for name, value in named if _KEYS.search(name)}
    for secret in sorted(secrets | {os.environ.get(NOTIFY) or "\0"}, key=len, reverse=True):
        text = text.replace(secret, "•••")
    return _USERINFO.sub("//•••@", text)
