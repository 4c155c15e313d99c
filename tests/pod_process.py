"""A pod of the inference chart as processes of this machine: its init container, then its engine. No container, no kubelet.

Environment, ConfigMap and Secret come from the objects that Helm applied; the paths of its mounts become folders here.
"""

import base64
import os
import subprocess
import sys
import time
from pathlib import Path

import requests

from tokenmill.deployment.server import ENGINE
from tokenmill.serving import serve_python

CACHE = Path.home() / ".cache" / "vllm"
"""What vLLM finds out about a model's class, in 7 s, it keeps: one cache for all pods of all tests."""


class PodProcess:
    """Runs a Deployment's pod; the one before it ends when the next one is started, as a rollout without surge does."""

    def __init__(self, api, room, port):
        self.api, self.room, self.port, self.process, self.number = api, room, port, None, 0

    def __call__(self, deployment):
        """Start it and wait until it is healthy; whether it is."""
        self.stop()
        self.number += 1
        room = self.room / f"pod-{self.number}"
        (room / "etc").mkdir(parents=True)
        spec = deployment["spec"]["template"]["spec"]
        for volume in spec["volumes"]:
            if named := volume.get("configMap"):
                for name, text in self.api.of("ConfigMap")[named["name"]]["data"].items():
                    (room / "etc" / name).write_text(text)

        def here(argument):
            for there, local in (
                ("/models", room / "models"),
                ("/etc/tokenmill", room / "etc"),
                ("0.0.0.0", "127.0.0.1"),
            ):
                argument = argument.replace(there, str(local))
            return argument.replace("--port=8000", f"--port={self.port}")

        for first in spec["initContainers"]:
            ours = {"PYTHONPATH": os.pathsep.join(sys.path)}
            command = [sys.executable, *first["command"][1:], *map(here, first["args"])]
            done = subprocess.run(
                command, env=self._environment(first, here, room) | ours, capture_output=True, text=True, check=False
            )
            (room / "init.log").write_text(done.stderr)
            if done.returncode:
                return False
        engine = spec["containers"][0]
        with (room / "vllm.log").open("wb") as log:
            self.process = subprocess.Popen(
                [str(serve_python()), "-m", ENGINE, *map(here, engine["args"])],
                env=self._environment(engine, here, room), stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if requests.get(f"http://127.0.0.1:{self.port}/health", timeout=5).ok:
                    return True
            except requests.RequestException:
                time.sleep(0.3)
        return False

    def stop(self):
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, 9)
            self.process.wait()

    def _environment(self, container, here, room):
        values = {"PATH": os.environ["PATH"]}
        for variable in container["env"]:
            if "value" in variable:
                values[variable["name"]] = here(variable["value"])
            elif named := variable["valueFrom"].get("secretKeyRef"):
                held = self.api.of("Secret")[named["name"]]["data"][named["key"]]
                values[variable["name"]] = base64.b64decode(held).decode()
            else:
                named = variable["valueFrom"]["configMapKeyRef"]
                held = self.api.of("ConfigMap")[named["name"]]["data"].get(named["key"])
                if held is not None:
                    values[variable["name"]] = held
        return values | {"HOME": str(room), "VLLM_CACHE_ROOT": str(CACHE)}
