"""Whatever bytes a file holds, ingest ends, raises nothing, and accounts for what it read."""

import gzip
import json
from pathlib import PurePosixPath

import zstandard
from formats import PAGES, REPOSITORY, crawl, parquet, pdf, tar, zipped
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tokenmill.curation.ingest import SourceFile, read_source_file
from tokenmill.steps import Drop, Keep, Reject
from tokenmill.streams import Limits, Opened, TooLong, UnreadableError

WHOLE = {
    "x.warc": b"".join(crawl(*PAGES)),
    "x.warc.gz": b"".join(crawl(*PAGES, packed=True)),
    "x.tar": tar(*REPOSITORY),
    "x.tar.gz": tar(*REPOSITORY, compress=gzip.compress),
    "x.zip": zipped(*REPOSITORY),
    "x.parquet": parquet(text=["One", "Two", "Three"]),
    "x.pdf": pdf("A river."),
    "x.jsonl.gz": gzip.compress(b'{"text": "One"}\n{"text": "Two"}\n'),
    "x.jsonl.zst": zstandard.compress(b'{"text": "One"}\n{"text": "Two"}\n'),
    "x.html": PAGES[0][2].encode(),
    "x.txt": "Café".encode(),
}
calm = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def sound(tmp_path, name: str, data: bytes) -> list:
    path = tmp_path / "fuzzed"
    path.write_bytes(data)
    limits = Limits(document_bytes=1_000_000, archive_bytes=10_000_000, archive_files=1_000)
    outcomes = list(read_source_file(SourceFile(path, "web", "src", name, limits=limits)))
    for outcome in outcomes:
        assert isinstance(outcome, Keep | Drop | Reject)
        json.dumps(outcome.reason if isinstance(outcome, Reject) else outcome.record).encode()
        if isinstance(outcome, Reject):
            assert outcome.where.startswith(f"src/{name}") and outcome.reason
    return outcomes


@calm
@given(st.sampled_from(sorted(WHOLE)), st.binary(max_size=400))
def test_any_bytes_under_any_name(tmp_path, name, data):
    outcomes = sound(tmp_path, name, data)
    assert outcomes or not data.strip(b"\r\n\0") or name == "x.tar" or name.startswith("x.warc")


@calm
@given(st.sampled_from(sorted(WHOLE)), st.data())
def test_a_whole_file_with_bytes_overwritten_cut_off_or_put_in(tmp_path, name, data):
    whole = bytearray(WHOLE[name])
    at = data.draw(st.integers(0, len(whole) - 1))
    match data.draw(st.sampled_from(["overwrite", "cut", "insert"])):
        case "overwrite":
            whole[at : at + 8] = data.draw(st.binary(min_size=1, max_size=8))
        case "cut":
            del whole[at:]
        case "insert":
            whole[at:at] = data.draw(st.binary(min_size=1, max_size=64))
    sound(tmp_path, name, bytes(whole))


@given(st.lists(st.text(max_size=30), max_size=20), st.integers(1, 40), st.sampled_from(["", "gz", "zst"]))
@settings(max_examples=40)
def test_lines_are_those_of_a_split_and_the_long_ones_are_told_by_their_size(lines, limit, compression):
    expected = [line.encode() for line in "\n".join(lines).removeprefix("\ufeff").split("\n")]
    data = "\n".join(lines).encode()
    packed = {"gz": gzip.compress, "zst": zstandard.compress}.get(compression, bytes)(data)
    opened = Opened(PurePosixPath("x"), packed, compression, limits=Limits(document_bytes=limit))
    found = [TooLong(line.size) if isinstance(line, TooLong) else line for line in opened.lines()]
    wanted = [line if len(line) <= limit else TooLong(len(line)) for line in expected]
    assert found == (wanted if wanted[-1] != b"" else wanted[:-1])


@given(st.binary(min_size=1, max_size=3_000), st.integers(0, 100), st.sampled_from(["gz", "zst"]))
@settings(max_examples=40)
def test_of_a_torn_stream_what_is_read_is_the_start_of_it_and_the_tear_is_told(data, cut, compression):
    packed = (
        gzip.compress(data) if compression == "gz" else zstandard.ZstdCompressor(write_checksum=True).compress(data)
    )
    torn = packed[: max(1, len(packed) - 1 - cut)]
    read = b""
    try:
        for piece in Opened(PurePosixPath("x"), torn, compression).pieces():
            read += piece
    except UnreadableError:
        assert data.startswith(read)
    else:
        raise AssertionError("a tear was not told")
