"""Reading files. Oracles: texts that were encoded by Python's own codecs, and lines broken on purpose."""

import gzip
import json
import random

import pytest
import zstandard

from tokenmill.curation.encoding import decode
from tokenmill.curation.ingest import SourceFile, read_source_file
from tokenmill.language import language
from tokenmill.steps import Drop, Keep, Reject

ENGLISH = "The café was closed, and the naïve tourist went home: “What a pity”, he said, and so did all of the others."
CHINESE = "海水每天涨落两次，是因为月亮吸引着海水。满月和新月的时候，太阳和月亮在一条线上，潮水最高。" * 3


@pytest.fixture
def read(tmp_path):
    def read(name: str, data: bytes | str, kind: str = "web", source: str = "src", dump: str | None = None) -> list:
        path = tmp_path / "blob"
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return list(read_source_file(SourceFile(path, kind, source, name, dump)))

    return read


def test_a_text_file_is_one_record_with_all_the_fields_of_the_contract(read):
    (kept,) = read("notes/a.txt", ENGLISH, kind="book", dump="2023-40")
    assert isinstance(kept, Keep)
    record = kept.record
    identifier = record.pop("id")
    assert record == {
        "text": ENGLISH, "type": "book", "lang": "en", "source": "src", "path": "notes/a.txt", "scores": {},
        "dump": "2023-40",
    }  # fmt: skip
    assert len(identifier) == 16


def test_ids_are_stable_and_differ_by_source_path_ordinal_and_text(read):
    line = json.dumps({"text": ENGLISH})
    twice = read("a.jsonl", f"{line}\n{line}\n")
    others = [
        *read("b.jsonl", line),
        *read("a.jsonl", line, source="other"),
        *read("a.jsonl", json.dumps({"text": "Hi"})),
    ]
    ids = [kept.record["id"] for kept in (*twice, *others)]
    assert len(set(ids)) == 5
    assert ids[:2] == [kept.record["id"] for kept in read("a.jsonl", f"{line}\n{line}\n")]


def test_bad_lines_of_jsonl_are_rejected_with_their_place_and_the_others_kept(read):
    good, other = {"text": ENGLISH, "url": "https://a.b"}, {"content": CHINESE, "title": "潮"}
    lines = [json.dumps(good), "{broken", "", '{"title": "no text"}', "[1]", json.dumps(other), '{"text": 5}']
    outcomes = read("x.jsonl", "\n".join(lines))
    assert [type(o).__name__ for o in outcomes] == ["Keep", "Reject", "Reject", "Reject", "Keep", "Reject"]
    rejects = [o for o in outcomes if isinstance(o, Reject)]
    assert [r.where for r in rejects] == [f"src/x.jsonl line {n}" for n in (2, 4, 5, 7)]
    assert rejects[0].reason.startswith("not JSON (") and "no text" in rejects[1].reason
    assert outcomes[0].record["url"] == "https://a.b"
    assert outcomes[4].record["lang"] == "zh" and outcomes[4].record["title"] == "潮"


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
def test_compressed_jsonl(read, compress):
    suffix = "gz" if compress is gzip.compress else "zst"
    (kept,) = read(f"x.jsonl.{suffix}", compress(json.dumps({"text": ENGLISH}).encode()))
    assert kept.record["text"] == ENGLISH
    (broken,) = read(f"x.jsonl.{suffix}", b"not compressed at all")
    assert isinstance(broken, Reject) and broken.reason.startswith("not decompressible")


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
def test_of_a_torn_file_the_whole_lines_are_kept_and_the_rest_is_one_reject(read, compress):
    suffix = "gz" if compress is gzip.compress else "zst"
    draw = random.Random(5)
    halves = [
        "".join(json.dumps({"text": f"{ENGLISH} {draw.getrandbits(64)}"}) + "\n" for _ in range(400)).encode()
        for _ in range(2)
    ]
    packed = [compress(half) for half in halves]
    texts = [json.loads(line)["text"] for half in halves for line in half.splitlines()]
    assert [o.record["text"] for o in read(f"x.jsonl.{suffix}", b"".join(packed))] == texts
    for torn, at_least in ((packed[0][: len(packed[0]) // 2], 0), (packed[0] + packed[1][:-200], 400)):
        *kept, broken = read(f"x.jsonl.{suffix}", torn)
        assert at_least <= len(kept) < 800
        assert [o.record["text"] for o in kept] == texts[: len(kept)]
        assert isinstance(broken, Reject) and broken.reason.startswith("not decompressible")
        assert broken.where == (f"src/x.jsonl.{suffix} after line {len(kept)}" if kept else f"src/x.jsonl.{suffix}")


def test_a_list_of_texts_or_records_in_json(read):
    outcomes = read("x.json", json.dumps([ENGLISH, {"text": CHINESE}]))
    assert [o.record["lang"] for o in outcomes] == ["en", "zh"]
    assert [type(o) for o in read("x.json", "{}")] == [Reject]


@pytest.mark.parametrize(
    ("text", "encoding"),
    [(ENGLISH, "utf-8-sig"), (ENGLISH, "cp1252"), (ENGLISH, "utf-16"), (CHINESE, "gb18030"), (CHINESE, "utf-16"),
     (ENGLISH, "utf-32"), (CHINESE, "utf-32"),
     (CHINESE.replace("两", "兩"), "utf-8")],
)  # fmt: skip
def test_encodings_in_use_for_english_and_chinese_are_detected(text, encoding):
    assert decode(text.encode(encoding)) == text


@pytest.mark.parametrize("data", [bytes(range(256)) * 8, b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(60), b"abc\0def"])
def test_an_undecodable_file_is_rejected(read, data):
    (rejected,) = read("x.txt", data)
    assert rejected == Reject("undecodable text", "src/x.txt")


def test_html_gives_its_main_text_without_menus(read):
    body = "".join(f"<p>Paragraph {n}. {ENGLISH}</p>" for n in range(4))
    page = f"<title>Cafés</title><body><nav>Home About</nav><article>{body}</article><footer>(c)</footer></body>"
    (kept,) = read("x.html", page)
    assert "Paragraph 3" in kept.record["text"] and "naïve" in kept.record["text"]
    assert "Home About" not in kept.record["text"] and "<p>" not in kept.record["text"]
    assert kept.record["title"] == "Cafés"


def test_the_page_of_a_python_package(read):
    (kept,) = read(
        "p.dist-info/METADATA", f"Metadata-Version: 2.4\nName: p\nProject-URL: Home, https://p.org\n\n{ENGLISH}\n"
    )
    assert kept.record["text"].strip() == ENGLISH
    assert (kept.record["title"], kept.record["url"]) == ("p", "https://p.org")


def test_code_goes_by_file_name_and_unknown_formats_are_dropped_not_lost(read):
    assert [read(f"a.{s}", "x = 1", "code")[0].record["lang"] for s in ("py", "rs", "md", "h")] == [
        "python",
        "rust",
        "markdown",
        "c",
    ]
    for name, kind in (("logo.png", "code"), ("table.csv", "web"), ("Makefile", "web")):
        (dropped,) = read(name, "x", kind)
        assert isinstance(dropped, Drop) and dropped.reason == "unsupported_format"
    (empty,) = read("__init__.py", "\n", "code")
    assert isinstance(empty, Drop) and empty.reason == "empty"


def test_language_is_english_or_chinese_and_a_stated_one_is_believed():
    assert language(ENGLISH) == "en"
    assert language(CHINESE) == "zh"
    assert language("12 + 30 = 42") in ("en", "zh")
    assert language(ENGLISH, "zh") == "zh"
    assert language(ENGLISH, "fr") == "en"
