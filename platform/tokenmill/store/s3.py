"""A store in a bucket of anything that speaks S3, through the minio client.

Endpoint and keys come from the environment: TOKENMILL_S3_ENDPOINT, TOKENMILL_S3_REGION, AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN. No message repeats what the HTTP client said: it may hold a signed URL.
"""

import io
import math
import os
import random
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import SplitResult, urlsplit

import certifi
import urllib3
from minio import Minio
from minio.error import InvalidResponseError, S3Error, ServerError
from minio.helpers import check_bucket_name
from typing_extensions import Buffer
from urllib3.exceptions import HTTPError, MaxRetryError
from urllib3.response import BaseHTTPResponse

from tokenmill.errors import ConfigError, CredentialsError, StoreError
from tokenmill.store.backend import Entry, NotFoundError, check_key
from tokenmill.store.local import write_file

MIB = 1 << 20
PART_BYTES = 8 * MIB  # a larger object goes up in parts of this size, three at a time
MOST_PARTS = 10_000  # S3's limit
ATTEMPTS = 7
BACKOFF_S = 0.15  # doubled each time
JITTER_S = 0.3  # at most, at random, so that many ranks do not come back in step
WRONG_KEYS = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"}


def retry_policy() -> urllib3.Retry:
    """Seven attempts in some 10 s: again at once, then 0.3, 0.6, 1.2, 2.4, 4.8 s apart, plus up to 0.3 s at random."""
    return urllib3.Retry(
        total=ATTEMPTS - 1,
        backoff_factor=BACKOFF_S,
        backoff_jitter=JITTER_S,
        status_forcelist=(429, 500, 502, 503, 504),
        allowed_methods=None,  # whatever is sent here may be sent twice; `create` looks at what a second sending hides
        raise_on_status=False,
        redirect=False,
    )


class S3Backend:
    """One prefix of one bucket. Safe to share between threads, to pickle, and to use after a fork."""

    def __init__(self, bucket: str, prefix: str = ""):
        self.bucket = bucket
        self.prefix = f"{check_key(prefix)}/" if prefix else ""
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")
        self.endpoint = _endpoint()
        self._process = 0
        try:
            check_bucket_name(bucket)
        except ValueError as error:
            raise ConfigError(f"{self.uri}: {error}") from None
        self._connect()

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return S3Backend, (self.bucket, self.prefix.rstrip("/"))

    def get(self, key: str) -> bytes:
        with self.open(key) as stream:
            return stream.read()

    def open(self, key: str) -> BinaryIO:
        return cast(BinaryIO, io.BufferedReader(_Download(self, key, self._request(key, 0)), MIB))

    def fetch(self, key: str, path: Path) -> None:
        with self.open(key) as stream:
            write_file(path, stream)

    def put(self, key: str, data: bytes | Path) -> None:
        name = self._name(key)
        with io.BytesIO(data) if isinstance(data, bytes) else data.open("rb") as stream:
            size = stream.seek(0, io.SEEK_END)
            stream.seek(0)
            part = max(PART_BYTES, math.ceil(size / MOST_PARTS / MIB) * MIB)
            with self._explained(key):
                try:
                    self._connect().put_object(self.bucket, name, stream, size, part_size=part)
                except S3Error as error:
                    if error.code != "NoSuchUpload":  # which is what completing it a second time gives
                        raise
        if size > part and getattr(self.stat(key), "size", None) != size:
            raise StoreError(f"{self.uri}/{key} did not arrive whole: run the step again")

    def create(self, key: str, data: bytes) -> bool:
        # Not put_object(metadata={"If-None-Match": "*"}): that stores the header as metadata and overwrites in silence.
        while True:
            with self._explained(key):
                url = self._connect().presigned_put_object(self.bucket, self._name(key), timedelta(minutes=10))
                response = self._http.request("PUT", url, body=data, headers={"If-None-Match": "*"})
            if response.status == 200:
                return True
            if response.status == 412:
                repeated = bool(response.retries and response.retries.history)  # then the first may have won unheard
                return repeated and self.get(key) == data
            if response.status != 409:  # 409: two writers at the same moment; ask again who won
                code = re.search(rb"<Code>(\w+)</Code>", response.data)
                raise self._refusal(response.status, code[1].decode() if code else "", key)
            time.sleep(random.uniform(0.05, 0.2))

    def stat(self, key: str) -> Entry | None:
        try:
            with self._explained(key):
                found = self._connect().stat_object(self.bucket, self._name(key))
        except NotFoundError:
            return None
        return Entry(key, found.size or 0, _seconds(found.last_modified))

    def exists(self, key: str) -> bool:
        return self.stat(key) is not None

    def list(self, prefix: str = "") -> Iterator[Entry]:
        start = self.prefix + check_key(prefix, prefix=True)
        with self._explained(prefix):
            for found in self._connect().list_objects(self.bucket, start, recursive=True):
                if not found.is_dir:
                    name = cast(str, found.object_name).removeprefix(self.prefix)
                    yield Entry(name, found.size or 0, _seconds(found.last_modified))

    def delete(self, key: str) -> None:
        try:
            with self._explained(key):
                self._connect().remove_object(self.bucket, self._name(key))
        except NotFoundError:
            pass

    def sweep(self, min_age_s: float, dry_run: bool = False) -> int:
        count = 0
        with self._explained(""):
            client = self._connect()
            for upload in client._list_multipart_uploads(self.bucket, prefix=self.prefix).uploads:
                if time.time() - _seconds(upload.initiated_time) >= min_age_s:
                    count += 1
                    if not dry_run:
                        client._abort_multipart_upload(self.bucket, upload.object_name, upload.upload_id or "")
        return count

    def _name(self, key: str) -> str:
        return self.prefix + check_key(key)

    def _request(self, key: str, offset: int) -> BaseHTTPResponse:
        with self._explained(key):
            return self._connect().get_object(self.bucket, self._name(key), offset=offset)

    def _connect(self) -> Minio:
        """The client; a new one in a forked child, which must not talk on its parent's connections."""
        if self._process != os.getpid():
            access, secret, token = _keys()
            self._http = urllib3.PoolManager(
                maxsize=32,
                timeout=urllib3.Timeout(connect=10, read=60),
                ca_certs=os.environ.get("SSL_CERT_FILE") or certifi.where(),
                retries=retry_policy(),
            )
            self._client = Minio(
                self.endpoint.netloc,
                access,
                secret,
                token,
                secure=self.endpoint.scheme == "https",
                region=os.environ.get("TOKENMILL_S3_REGION", "us-east-1"),
                http_client=self._http,
            )
            self._process = os.getpid()
        return self._client

    @contextmanager
    def _explained(self, key: str) -> Iterator[None]:
        """Turn what the client raises into one line: what, where, what to do."""
        try:
            yield
        except S3Error as error:
            raise self._refusal(error.response.status, error.code or "", key) from None
        except ServerError as error:
            raise self._refusal(error.status_code, "", key) from None
        except InvalidResponseError as error:
            raise self._refusal(error._code, "", key) from None
        except HTTPError as error:
            cause = error.reason if isinstance(error, MaxRetryError) and error.reason else error
            words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(cause).__name__).removesuffix(" Error").lower()
            raise StoreError(
                f"cannot reach the object store at {self.endpoint.geturl()} ({words}; {ATTEMPTS} attempts): "
                "is it running, and is TOKENMILL_S3_ENDPOINT right?"
            ) from None

    def _refusal(self, status: int, code: str, key: str) -> StoreError:
        where, code = f"{self.uri} at {self.endpoint.geturl()}", code or f"HTTP {status}"
        if code == "RequestTimeTooSkewed":
            return StoreError(f"{where} refuses the request: this machine's clock is wrong; set it")
        if code in WRONG_KEYS or status in (401, 403):
            return CredentialsError(
                f"{where} refuses the credentials ({code}): check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                "and that they may read and write there"
            )
        if code == "NoSuchBucket":
            return StoreError(f"{where}: there is no such bucket; create it, or correct the store URI")
        if status == 404:
            return NotFoundError(f"{self.uri}/{key} is not in the store")
        if status == 501:
            return StoreError(f"{where} knows no conditional put (If-None-Match), which leases need: use another store")
        if status == 507 or "Full" in code or "Quota" in code:
            return StoreError(f"{where} is full ({code}): give it more space, or run `tokenmill store gc`")
        return StoreError(f"{where} failed on {key!r} ({code}, {ATTEMPTS} attempts): look at its log, then run again")


class _Download(io.RawIOBase):
    """An object's bytes; a connection that breaks half way is taken up again where it broke."""

    def __init__(self, backend: S3Backend, key: str, response: BaseHTTPResponse):
        self._backend, self._key, self._response, self._position = backend, key, response, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        view = memoryview(buffer).cast("B")
        for attempt in range(ATTEMPTS):
            try:
                data = self._response.read(len(view))
                break
            except HTTPError as error:
                self._response.close()
                if attempt == ATTEMPTS - 1:
                    with self._backend._explained(self._key):
                        raise error
                time.sleep(BACKOFF_S * 2**attempt + random.uniform(0, JITTER_S))
                self._response = self._backend._request(self._key, self._position)
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        self._response.close()
        super().close()


def _endpoint() -> SplitResult:
    """Where the object store listens; refuses keys in the URL and does not repeat them."""
    url = os.environ.get("TOKENMILL_S3_ENDPOINT") or "https://s3.amazonaws.com"
    parts = urlsplit(url if "://" in url else f"https://{url}")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ConfigError("TOKENMILL_S3_ENDPOINT must hold no keys: use AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    if parts.scheme not in ("http", "https") or parts.path.strip("/"):
        raise ConfigError(f"TOKENMILL_S3_ENDPOINT is {url!r}; write it as http://host:port or https://host:port")
    return parts


def _keys() -> tuple[str, str, str | None]:
    access, secret = (os.environ.get(name, "").strip() for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"))
    if not access or not secret:
        raise CredentialsError("an s3:// store needs AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment")
    return access, secret, os.environ.get("AWS_SESSION_TOKEN") or None


def _seconds(moment: datetime | None) -> float:
    """Whole seconds: of one object HEAD tells no more, while some servers' listings do."""
    return (moment or datetime.now(UTC)).timestamp() // 1
