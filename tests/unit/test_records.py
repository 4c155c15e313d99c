"""Content digests look inside files."""

import numpy
import pytest
import zstandard
from safetensors.numpy import save_file

from tokenmill import records
from tokenmill.errors import CorruptError
from tokenmill.records import content_digest, read_jsonl, write_jsonl

ROWS = [{"id": str(i), "text": "词" * i} for i in range(50)]


def test_the_same_records_through_another_compressor_have_the_same_content(tmp_path):
    digest, count = write_jsonl(tmp_path / "a.jsonl.zst", ROWS)
    raw = zstandard.ZstdDecompressor().stream_reader((tmp_path / "a.jsonl.zst").open("rb")).read()
    (tmp_path / "b.jsonl.zst").write_bytes(zstandard.ZstdCompressor(level=19).compress(raw))
    assert count == 50 and (tmp_path / "a.jsonl.zst").read_bytes() != (tmp_path / "b.jsonl.zst").read_bytes()
    assert content_digest(tmp_path / "a.jsonl.zst") == content_digest(tmp_path / "b.jsonl.zst") == digest
    assert list(read_jsonl(tmp_path / "b.jsonl.zst")) == ROWS


@pytest.mark.parametrize("frame", [1, 100, 1 << 20])
def test_lines_are_read_across_the_frames_they_were_written_in(tmp_path, monkeypatch, frame):
    monkeypatch.setattr(records, "FRAME", frame)
    path = tmp_path / "a.jsonl.zst"
    digest, _ = write_jsonl(path, ROWS)
    assert list(read_jsonl(path)) == ROWS and content_digest(path) == digest
    assert write_jsonl(path, [])[1] == 0 and list(read_jsonl(path)) == []


def test_an_empty_frame_between_others_is_not_the_end(tmp_path):
    """As `cat` makes one of shards of which one is empty."""
    frames = [zstandard.compress(block) for block in (b'{"id": "a"}\n', b"", b'{"id": "b"}\n')]
    (tmp_path / "a.jsonl.zst").write_bytes(b"".join(frames))
    assert [row["id"] for row in read_jsonl(tmp_path / "a.jsonl.zst")] == ["a", "b"]


def test_tensors_are_what_a_weights_file_is(tmp_path):
    a, b = numpy.arange(6, dtype="f4").reshape(2, 3), numpy.ones(4, dtype="f4")
    save_file({"a": a, "b": b}, tmp_path / "x.safetensors", metadata={"format": "pt", "when": "now"})
    save_file({"b": b, "a": a}, tmp_path / "y.safetensors", metadata={"format": "pt"})
    save_file({"a": a.reshape(3, 2), "b": b}, tmp_path / "z.safetensors")
    x, y, z = (content_digest(tmp_path / f"{n}.safetensors") for n in "xyz")
    assert x == y != z


def test_a_torn_shard_is_one_clear_error(tmp_path):
    path = tmp_path / "a.jsonl.zst"
    write_jsonl(path, ROWS)
    path.write_bytes(b"not zstd at all")
    with pytest.raises(CorruptError, match="not a readable zstd stream"):
        list(read_jsonl(path))


@pytest.mark.parametrize("frame", [100, 1 << 20])
def test_a_shard_cut_anywhere_inside_a_frame_is_never_taken_for_whole(tmp_path, monkeypatch, frame):
    """A frame whose end is missing gives lines, and zstandard's own reader then says nothing."""
    monkeypatch.setattr(records, "FRAME", frame)
    path, torn = tmp_path / "a.jsonl.zst", tmp_path / "torn.jsonl.zst"
    write_jsonl(path, ROWS)
    data, ends, at = path.read_bytes(), {0}, 0
    while at < len(data):  # where one frame ends and the next begins, by another decompressor
        one = zstandard.ZstdDecompressor().decompressobj()
        one.decompress(data[at:])
        at = len(data) - len(one.unused_data)
        ends.add(at)
    for size in set(range(len(data))) - ends:
        torn.write_bytes(data[:size])
        with pytest.raises(CorruptError, match="not a readable zstd stream|not JSON"):
            list(read_jsonl(torn))
