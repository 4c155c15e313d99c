"""S3's own troubles: wrong keys, servers that fail, answers that are lost."""

import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3
from servers import S3Server, faulty_proxy, free_ports

from tokenmill.errors import ConfigError, CredentialsError, StoreError
from tokenmill.store import s3
from tokenmill.store.s3 import S3Backend

SECRET = "planted-secret-0123456789"


@pytest.fixture
def backend(s3_environment: S3Server, request: pytest.FixtureRequest) -> S3Backend:
    return S3Backend(s3_environment.bucket, request.node.name.replace("[", "-").replace("]", ""))


@pytest.fixture
def faulty(s3_environment: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[S3Backend, list[str]]]:
    monkeypatch.setattr(s3, "BACKOFF_S", 0.01)
    monkeypatch.setattr(s3, "JITTER_S", 0.01)
    with faulty_proxy(s3_environment) as (server, faults):
        monkeypatch.setenv("TOKENMILL_S3_ENDPOINT", server.endpoint)
        yield S3Backend(server.bucket, f"faulty-{time.monotonic_ns()}"), faults


@pytest.mark.parametrize("wrong", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
@pytest.mark.parametrize("operation", ["get", "put", "create", "list", "stat", "delete"])
def test_wrong_credentials_are_refused_at_once_in_one_line(
    s3_environment: S3Server, monkeypatch: pytest.MonkeyPatch, wrong: str, operation: str
) -> None:
    monkeypatch.setenv(wrong, SECRET)
    backend = S3Backend(s3_environment.bucket)
    calls = {
        "get": lambda: backend.get("k"),
        "put": lambda: backend.put("k", b"v"),
        "create": lambda: backend.create("k", b"v"),
        "list": lambda: list(backend.list()),
        "stat": lambda: backend.stat("k"),
        "delete": lambda: backend.delete("k"),
    }
    started = time.monotonic()
    with pytest.raises(CredentialsError) as error:
        calls[operation]()
    assert time.monotonic() - started < 1
    assert "\n" not in str(error.value)
    assert "AWS_SECRET_ACCESS_KEY" in str(error.value)
    shown = "".join(traceback.format_exception(error.value))
    assert not [secret for secret in (SECRET, s3_environment.secret_key) if secret in shown]


def test_missing_keys_and_keys_in_the_endpoint_are_told(
    s3_environment: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKENMILL_S3_ENDPOINT", f"http://key:{SECRET}@127.0.0.1:1")
    with pytest.raises(ConfigError, match="must hold no keys") as error:
        S3Backend("bucket")
    assert SECRET not in str(error.value)
    monkeypatch.setenv("TOKENMILL_S3_ENDPOINT", s3_environment.endpoint)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(CredentialsError, match="AWS_ACCESS_KEY_ID"):
        S3Backend("bucket")


def test_a_missing_bucket_is_named(s3_environment: S3Server) -> None:
    with pytest.raises(StoreError, match=r"nowhere.*no such bucket"):
        S3Backend("nowhere").get("k")


def test_large_objects_go_up_in_parts_and_abandoned_parts_are_swept(backend: S3Backend, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * (12 << 20))
    backend.put("large", tmp_path / "large")
    client = backend._connect()
    etag = client.stat_object(backend.bucket, f"{backend.prefix}large").etag
    assert etag is not None and etag.endswith("-2"), "two parts of 8 MiB at most"
    client._create_multipart_upload(backend.bucket, f"{backend.prefix}abandoned", {})
    assert backend.sweep(3600) == 0
    assert backend.sweep(0, dry_run=True) == 1
    assert backend.sweep(0) == 1
    assert backend.sweep(0) == 0
    assert [entry.key for entry in backend.list()] == ["large"]


def test_retries_back_off_and_give_up_after_some_ten_seconds() -> None:
    policy, waits_s = s3.retry_policy(), []
    while policy.total:
        policy = policy.increment("POST", "/", response=urllib3.HTTPResponse(status=503))
        waits_s.append(policy.get_backoff_time())
    assert len(waits_s) == 6
    assert waits_s[0] < waits_s[1] < waits_s[3] < waits_s[5] < 6
    assert 9 < sum(waits_s) < 12
    assert s3.retry_policy().is_retry("POST", 503)
    assert not s3.retry_policy().is_retry("PUT", 403), "wrong credentials are not tried again"


@pytest.mark.parametrize("fault", ["503", "500", "429", "reset", "lost"])
def test_a_server_that_fails_twice_is_asked_again(faulty: tuple[S3Backend, list[str]], fault: str) -> None:
    backend, faults = faulty
    faults[:] = [fault] * 2
    backend.put("k", b"value")
    faults[:] = [fault] * 2
    assert backend.get("k") == b"value"
    faults[:] = [fault] * 2
    assert backend.exists("k")
    faults[:] = [fault] * 2
    assert [entry.key for entry in backend.list()] == ["k"]
    faults[:] = [fault] * 2
    backend.delete("k")
    assert not faults
    assert not backend.exists("k")


@pytest.mark.parametrize("fault", ["503", "lost"])
def test_parts_are_sent_again_too(faulty: tuple[S3Backend, list[str]], fault: str) -> None:
    backend, faults = faulty
    data = b"0123456789" * 1_250_000
    faults[:] = [fault, "pass", fault, "pass", fault, "pass", fault]  # create, two parts, complete
    backend.put("large", data)
    assert not faults
    assert backend.get("large") == data


def test_an_upload_that_was_completed_unheard_is_looked_up(faulty: tuple[S3Backend, list[str]]) -> None:
    """AWS knows no upload that it has completed already; this server would complete it again."""
    backend, faults = faulty
    data = b"0123456789" * 1_250_000
    faults[:] = ["pass", "pass", "pass", "lost", "NoSuchUpload"]  # create, two parts, complete twice
    backend.put("large", data)
    assert not faults
    assert backend.get("large") == data
    faults[:] = ["pass", "pass", "pass", "NoSuchUpload"]
    with pytest.raises(StoreError, match="did not arrive"):
        backend.put("never arrived", data)


def test_who_created_is_known_even_when_the_answer_is_lost(faulty: tuple[S3Backend, list[str]]) -> None:
    backend, faults = faulty
    faults[:] = ["lost"]
    assert backend.create("k", b"mine"), "the first sending won; the second finds our own bytes"
    faults[:] = ["lost"]
    assert not backend.create("k", b"another's")
    assert not backend.create("k", b"mine"), "without a repetition, the same bytes are somebody else's"
    assert backend.get("k") == b"mine"


def test_a_download_that_breaks_is_taken_up_where_it_broke(faulty: tuple[S3Backend, list[str]], tmp_path: Path) -> None:
    backend, faults = faulty
    data = bytes(range(256)) * 20_000
    backend.put("k", data)
    faults[:] = ["half", "half"]
    backend.fetch("k", tmp_path / "k")
    assert (tmp_path / "k").read_bytes() == data
    assert not faults


def test_a_server_that_stays_down_is_one_clear_line(
    s3_environment: S3Server, faulty: tuple[S3Backend, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "retry_policy", lambda: urllib3.Retry(2, status_forcelist=[503], raise_on_status=False))
    backend, faults = faulty
    backend._process = 0  # connect anew
    faults[:] = ["503"] * 3
    with pytest.raises(StoreError, match="HTTP 503"):
        backend.get("k")
    monkeypatch.setenv("TOKENMILL_S3_ENDPOINT", f"http://127.0.0.1:{free_ports(1)[0]}")
    for call in (S3Backend("bucket").get, lambda key: S3Backend("bucket").create(key, b"")):
        with pytest.raises(StoreError, match=r"cannot reach .*new connection.*TOKENMILL_S3_ENDPOINT") as error:
            call("k")
        assert "Signature" not in "".join(traceback.format_exception(error.value))
