"""Formats of a corpus. Oracles: files written by other programs' writers (warcio, pyarrow, tarfile, zipfile), and faults
planted in them by hand."""

import gzip
import io
import json
import tarfile
import zipfile

import pyarrow.parquet as pq
import pytest
import zstandard
from formats import ENGLISH, PAGES, REPOSITORY, crawl, parquet, pdf, tar, zipped

from tokenmill.curation.ingest import SourceFile, parts_of, read_source_file
from tokenmill.manifest import Shard
from tokenmill.steps import Drop, Keep, Reject
from tokenmill.streams import Limits

CHINESE = "海水每天涨落两次，是因为月亮吸引着海水。满月和新月的时候，太阳和月亮在一条线上，潮水最高。"


@pytest.fixture
def read(tmp_path):
    def read(name, data, kind="web", **more) -> list:
        path = tmp_path / "blob"
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return list(read_source_file(SourceFile(path, kind, "src", name, **more)))

    return read


def told(outcomes) -> list[str]:
    """One word an outcome: the text's first, or why there is none."""
    return [o.record["text"].split()[0] if isinstance(o, Keep) else o.reason.split(" (")[0] for o in outcomes]


# WARC ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst", " whole.gz"])
def test_a_crawl_gives_its_pages_with_url_date_and_dump_whatever_its_compression(read, suffix):
    data = b"".join(crawl(*PAGES, packed=suffix == ".gz"))
    data = {".zst": zstandard.compress, " whole.gz": gzip.compress}.get(suffix, bytes)(data)
    outcomes = read(f"x.warc{suffix.removeprefix(' whole')}", data)
    assert told(outcomes) == ["One", "Two", "unsupported_format", "http_status", "Five"]
    first = outcomes[0].record
    assert (first["url"], first["date"], first["dump"], first["title"]) == (
        "http://a.example/1", "2023-09-21T07:37:11Z", "2023-40", "One",
    )  # fmt: skip
    assert "Home" not in first["text"]
    assert outcomes[3].value == "404" and outcomes[2].value == "image/png"


def test_the_dump_is_the_source_s_then_the_file_name_s_then_the_warcinfo_s(read):
    data = b"".join(crawl(PAGES[0], isPartOf="CC-MAIN-2023-40"))
    assert read("x.warc", data)[0].record["dump"] == "2023-40"
    assert read("CC-MAIN-2022-05/x.warc", data)[0].record["dump"] == "2022-05"
    assert read("CC-MAIN-2022-05/x.warc", data, dump="2021-04")[0].record["dump"] == "2021-04"
    assert "dump" not in read("x.warc", b"".join(crawl(PAGES[0], isPartOf="ours")))[0].record


BREAKS = {
    "garbage between": lambda r: [*r[:3], b"garbage\r\nmore of it\r\n\r\n", *r[3:]],
    "length too large": lambda r: [*r[:3], r[3].replace(b"Content-Length: ", b"Content-Length: 1"), *r[4:]],
    "length no number": lambda r: [*r[:3], r[3].replace(b"Content-Length: ", b"Content-Length: x"), *r[4:]],
    "length too small": lambda r: [*r[:3], r[3].replace(b"Content-Length: ", b"Content-Length: 9\r\nX: "), *r[4:]],
    "no end of a header": lambda r: [*r[:3], b"WARC/1.0\r\nWARC-Type: response\r\n", *r[3:]],
}


@pytest.mark.parametrize("fault", BREAKS, ids=str)
def test_a_broken_record_costs_itself_only_and_its_place_is_told(read, fault):
    records = crawl(*PAGES)  # warcinfo, then response and request of each page
    outcomes = read("x.warc", b"".join(BREAKS[fault](records)))
    kept = [o.record["url"][-1] for o in outcomes if isinstance(o, Keep)]
    assert {"1", "5"} <= set(kept)
    rejects = [o for o in outcomes if isinstance(o, Reject)]
    assert rejects and all(r.where.startswith("src/x.warc record ") and " at byte " in r.where for r in rejects)
    offset = len(b"".join(records[:3]))
    assert f"at byte {offset}" in rejects[0].where


def test_a_damaged_gzip_member_costs_its_own_record_and_the_next_ones_are_read(read):
    records = crawl(*PAGES, packed=True)
    damaged = bytearray(records[3])
    damaged[len(damaged) // 2] ^= 0xFF
    outcomes = read("x.warc.gz", b"".join([*records[:3], bytes(damaged), *records[4:]]))
    assert [o.record["url"][-1] for o in outcomes if isinstance(o, Keep)] == ["1", "5"]
    assert [o.reason.split(" (")[0] for o in outcomes if isinstance(o, Reject)] == ["not decompressible"]


def test_a_crawl_that_breaks_off_keeps_what_came_whole(read):
    *whole, last = crawl(*PAGES, packed=True)[:-1]  # without the request that follows the last response
    outcomes = read("x.warc.gz", b"".join([*whole, last[: len(last) // 2]]))
    assert told(outcomes)[:2] == ["One", "Two"] and isinstance(outcomes[-1], Reject)
    plain = b"".join(crawl(*PAGES)[:-1])
    outcomes = read("x.warc", plain[:-200])
    assert told(outcomes)[-1] == "broken WARC record" and told(outcomes)[:2] == ["One", "Two"]


def test_arc(read):
    http = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n" + ENGLISH.encode()
    info = b"1 0 Archive\nURL IP-address Archive-date Content-type Archive-length\n"
    data = b"filedesc://x.arc 0.0.0.0 20230921000000 text/plain %d\n%s\n" % (len(info), info)
    for n in range(2):
        data += b"http://a.example/%d 1.2.3.4 20230921073711 text/plain %d\n%s\n" % (n, len(http), http)
    outcomes = read("x.arc", data)
    assert [o.record["url"] for o in outcomes] == ["http://a.example/0", "http://a.example/1"]
    assert outcomes[0].record["date"].startswith("2023-09-21T07:37:11")


def test_a_page_in_an_encoding_that_its_header_states(read):
    body = ("<html><body>" + "".join(f"<p>{CHINESE}{n}</p>" for n in range(6)) + "</body></html>").encode("gb2312")
    (kept,) = read("x.warc", b"".join(crawl(("http://z.example/", "text/html; charset=gb2312", body, "200 OK"))))
    assert CHINESE in kept.record["text"] and kept.record["lang"] == "zh"


# Rows ----------------------------------------------------------------------------------------------------------------


def test_parquet_gives_a_record_a_row_and_a_reject_a_row_without_text(read):
    data = parquet(text=["One " + ENGLISH, None, "Three " + CHINESE], url=["http://a", "http://b", None], n=[1, 2, 3])
    outcomes = read("t.parquet", data)
    assert told(outcomes) == ["One", "no text: a record needs the field `text` or `content`", "Three"]
    assert outcomes[1].where == "src/t.parquet row 2"
    assert outcomes[0].record["url"] == "http://a" and "url" not in outcomes[2].record and "n" not in outcomes[0].record


@pytest.mark.parametrize(
    "columns",
    [{"text": [1, 2, 3]}, {"body": ["a", "b", "c"]}, {"text": [["a"], ["b"], ["c"]]}, {"text": [b"\xff"] * 3}],
)
def test_parquet_of_the_wrong_types_is_rejected_row_by_row(read, columns):
    outcomes = read("t.parquet", parquet(**columns))
    assert [o.where for o in outcomes] == [f"src/t.parquet row {n}" for n in (1, 2, 3)]
    assert all(isinstance(o, Reject) and o.reason.startswith("no text") for o in outcomes)


def test_a_damaged_row_group_is_one_reject_and_the_others_are_read(read):
    data = bytearray(parquet(text=[f"{word} {ENGLISH}" for word in ("One", "Two", "Three", "Four", "Five", "Six")]))
    group = pq.ParquetFile(io.BytesIO(bytes(data))).metadata.row_group(1).column(0)
    start = group.dictionary_page_offset or group.data_page_offset
    data[start : start + group.total_compressed_size] = bytes(group.total_compressed_size)
    outcomes = read("t.parquet", bytes(data))
    assert told(outcomes) == ["One", "Two", "damaged row group", "Five", "Six"]
    assert outcomes[2].where == "src/t.parquet row group 1 from row 3"
    assert told(read("t.parquet", b"PAR1 no table")) == ["no readable Parquet"]


@pytest.mark.parametrize("form", ["jsonl", "parquet", "json"])
def test_a_mapping_says_what_the_fields_are_called_in_any_form_of_rows(read, form):
    rows = [{"body": ENGLISH, "meta": {"link": "http://a"}, "tox": 0.25, "board": "sea", "title": "T"}]
    data = {
        "jsonl": lambda: json.dumps(rows[0]).encode(),
        "json": lambda: json.dumps(rows).encode(),
        "parquet": lambda: parquet(**{key: [value] for key, value in rows[0].items()}),
    }[form]()
    fields = {"text": "body", "url": "meta.link", "scores.toxic": "tox", "forum": "board"}
    (kept,) = read(f"x.{form}", data, fields=fields)
    assert {key: kept.record[key] for key in ("text", "url", "scores", "extra", "title")} == {
        "text": ENGLISH, "url": "http://a", "scores": {"toxic": 0.25}, "extra": {"forum": "sea"}, "title": "T",
    }  # fmt: skip
    (rejected,) = read(f"x.{form}", data, fields={"text": "txet"})
    assert "no text: a record needs the field `txet`" in rejected.reason


WANJUAN_CC = {  # the columns of spec 1.2.1
    "id": "BkxQ", "content": ENGLISH, "title": "River", "language": "en", "date": "2023-09-21", "token_num": 24,
    "cbytes_num": 109, "line_num": 1, "char_num": 109, "toxic_score": 0.01, "porn_score": 0.02, "fluency_score": 0.9,
    "not_ad_score": 0.8,
}  # fmt: skip


def test_wanjuan_cc_brings_its_scores_its_statistics_and_its_language(read):
    (kept,) = read("x.jsonl", json.dumps(WANJUAN_CC))
    record = kept.record
    assert record["scores"] == {"toxic": 0.01, "porn": 0.02, "fluency": 0.9, "not_ad": 0.8}
    assert record["extra"] == {"id": "BkxQ", "token_num": 24, "cbytes_num": 109, "line_num": 1, "char_num": 109}
    assert (record["title"], record["date"], record["lang"]) == ("River", "2023-09-21", "en")
    assert len(record["id"]) == 16
    (table,) = read("x.parquet", parquet(**{key: [value] for key, value in WANJUAN_CC.items()}))
    assert table.record | {"id": "", "path": ""} == record | {"id": "", "path": ""}


@pytest.mark.parametrize("score", [1.5, -0.1, "high", True, [0.5]])
def test_a_score_that_is_none_is_a_bad_row(read, score):
    (rejected,) = read("x.jsonl", json.dumps(WANJUAN_CC | {"toxic_score": score}))
    assert rejected.reason.startswith("bad score (toxic is ") and rejected.where == "src/x.jsonl line 1"


def test_wanjuan_1_0_keeps_what_its_sources_add(read):
    row = {"id": "Bk1", "title": "潮汐", "content": CHINESE, "grade": "高中", "images": ["a.png"]}
    (kept,) = read("x.jsonl", json.dumps(row))
    assert kept.record["extra"] == {"id": "Bk1", "grade": "高中"}
    assert kept.record["title"] == "潮汐" and kept.record["lang"] == "zh" and kept.record["scores"] == {}


# PDF -----------------------------------------------------------------------------------------------------------------


def test_pdf_gives_its_text_layer_and_says_why_there_is_none(read):
    assert read("a.pdf", pdf("A river in a book."), "book")[0].record["text"] == "A river in a book."
    for data, reason in (
        (pdf(), "no text layer (1 pages, perhaps scanned: OCR comes first)"),
        (pdf("Secret", "sesame"), "encrypted PDF: remove its password first"),
        (pdf("Torn")[:120], "no readable PDF"),
        (b"\0" * 100, "no readable PDF"),
    ):
        (rejected,) = read("a.pdf", data, "book")
        assert isinstance(rejected, Reject) and rejected.reason.startswith(reason) and rejected.where == "src/a.pdf"


# Archives ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "data"),
    [("e.tar", tar(*REPOSITORY)), ("e.tar.gz", tar(*REPOSITORY, compress=gzip.compress)),
     ("e.tgz", tar(*REPOSITORY, compress=gzip.compress)), ("e.tar.zst", tar(*REPOSITORY, compress=zstandard.compress)),
     ("e.zip", zipped(*REPOSITORY))],
)  # fmt: skip
def test_a_packed_repository_gives_its_files_below_its_root_folder_and_names_its_licence(read, name, data):
    outcomes = read(name, data, "code")
    kept = [o.record for o in outcomes if isinstance(o, Keep)]
    assert [(r["path"], r["lang"], r["licence_file"]) for r in kept] == [
        (f"{name}!/src/main.py", "python", "LICENSE"), (f"{name}!/src/wheel.rs", "rust", "LICENSE"),
    ]  # fmt: skip
    assert [(o.record["path"], o.reason) for o in outcomes if isinstance(o, Drop)] == [
        (f"{name}!/LICENSE", "unsupported_format"), (f"{name}!/logo.png", "unsupported_format"),
    ]  # fmt: skip
    assert not [o for o in outcomes if isinstance(o, Reject)]


@pytest.mark.parametrize("pack", [tar, zipped])
@pytest.mark.parametrize("evil", ["/etc/passwd.py", "../up.py", "a/../../up.py", "..\\up.py", "C:\\up.py", "a\nb.py"])
def test_a_name_that_would_leave_the_archive_is_rejected_and_the_rest_read(read, pack, evil):
    name = f"x.{'tar' if pack is tar else 'zip'}"
    outcomes = read(name, pack(("a/good.py", b"x = 1"), (evil, b"bad = 1"), ("b/good.py", b"y = 1")), "code")
    assert told(outcomes) == ["x", "unsafe archive member", "y"]
    assert outcomes[1].where.startswith(f"src/{name}!/")


def test_links_and_devices_of_an_archive_are_never_followed(read):
    data = tar(
        ("loop.py", tarfile.SYMTYPE, "loop.py"), ("out.py", tarfile.SYMTYPE, "/etc/passwd"),
        ("hard.py", tarfile.LNKTYPE, "/etc/passwd"), ("null.py", tarfile.CHRTYPE, ""), ("a.py", b"x = 1"),
    )  # fmt: skip
    assert told(read("x.tar", data, "code")) == ["link", "link", "link", "unsafe archive member", "x"]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        link = zipfile.ZipInfo("link.py")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    assert told(read("x.zip", out.getvalue(), "code")) == ["link"]


@pytest.mark.parametrize("suffix", ["zip", "tar.gz", "tar.zst"])
def test_a_bomb_is_left_before_it_is_unpacked(read, suffix):
    members = [(f"{n}.txt", bytes(300_000)) for n in range(4)]
    compress = {"tar.gz": gzip.compress, "tar.zst": zstandard.compress}.get(suffix)
    data = tar(*members, compress=compress) if compress else zipped(*members)
    for limits in (Limits(archive_bytes=1_000_000), Limits(archive_files=3)):
        (rejected,) = read(f"bomb.{suffix}", data, limits=limits)
        assert rejected.reason.startswith("archive too large")
    outcomes = read(f"bomb.{suffix}", data, limits=Limits(document_bytes=100_000))
    assert told(outcomes) == ["too large"] * 4


def test_the_size_that_a_zip_states_may_be_a_lie(read):
    data = bytearray(zipped(("a.txt", b"x" * 200_000)))
    at = data.rindex(b"PK\x01\x02")
    data[at + 24 : at + 28] = (10).to_bytes(4, "little")
    (rejected,) = read("x.zip", bytes(data), limits=Limits(document_bytes=100_000))
    assert isinstance(rejected, Reject)


def test_a_torn_archive_keeps_what_came_whole(read):
    data = tar(*((f"{n}.py", b"x = 1\n" * 200) for n in range(9)))
    outcomes = read("x.tar", data[:6_000], "code")
    assert told(outcomes)[0] == "x" and isinstance(outcomes[-1], Reject)
    assert [type(o) for o in read("x.zip", zipped(("a.py", b"x = 1"))[:-20], "code")] == [Reject]


@pytest.mark.parametrize("kind", ["code", "web"])
@pytest.mark.parametrize("pack", [tar, zipped])
def test_an_archive_in_an_archive_stays_closed_and_says_so(read, pack, kind):
    inner = tar(("a.py", b"x = 1"), ("a.md", b"One"))
    closed = {
        "in.tar": inner, "in.tar.gz": gzip.compress(inner), "in.TGZ": gzip.compress(inner),
        "in.tar.zst": zstandard.compress(inner), "in.zip": zipped(("a.py", b"x = 1")),
    }  # fmt: skip
    outcomes = read(f"x.{'tar' if pack is tar else 'zip'}", pack(*closed.items(), ("b.md", b"Two")), kind)
    assert told(outcomes) == ["archive_in_archive"] * 5 + ["Two"]
    assert [o.value for o in outcomes[:5]] == [".tar", ".tar", ".tar", ".tar", ".zip"]
    assert {o.record["text"] for o in outcomes[:5]} == {""}


def test_whatever_is_passed_over_says_what_it_is_and_what_it_had_to_be(read):
    packed = tar(("a.png", b"PNG"), ("Makefile", b"all:"), ("b.txt", tarfile.SYMTYPE, "a.png"), ("c.zip", b"PK"))
    passed = [*read("x.tar", packed), *read("x.warc", b"".join(crawl(*PAGES))), *read("x.png", b"PNG")]
    assert [(o.reason, o.value, o.threshold) for o in passed if isinstance(o, Drop)] == [
        ("unsupported_format", ".png", "a known format"), ("unsupported_format", "Makefile", "a known format"),
        ("link", "a link", "a file of its own"),
        ("archive_in_archive", ".zip", "no archive in an archive: unpack it first"),
        ("unsupported_format", "image/png", "HTML or plain text"), ("http_status", "404", "200"),
        ("unsupported_format", ".png", "a known format"),
    ]  # fmt: skip


# Sizes ---------------------------------------------------------------------------------------------------------------


def test_a_line_that_is_too_long_is_set_aside_with_its_size_and_the_next_one_read(read):
    lines = [json.dumps({"text": word}) for word in ("One", "x" * 5_000_000, "Three")]
    outcomes = read(
        "x.jsonl.zst", zstandard.compress("\n".join(lines).encode()), limits=Limits(document_bytes=1_000_000)
    )
    assert told(outcomes) == ["One", "too large", "Three"]
    assert outcomes[1].where == "src/x.jsonl.zst line 2"
    assert outcomes[1].reason == f"too large (a line of {len(lines[1]):,} bytes; at most 1,000,000)"
    assert told(read("x.txt", "x" * 2_000_000, limits=Limits(document_bytes=1_000_000))) == ["too large"]


def test_parts_hold_every_file_once_in_order_and_do_not_grow(read):
    files = [
        Shard(name=f"web/s/{n:04d}", blob="", content="", size=size) for n, size in enumerate([3] * 600 + [9**8, 3])
    ]
    parts = list(parts_of(files))
    assert [file for part in parts for file in part] == files
    assert [len(part) for part in parts] == [250, 250, 100, 1, 1]


# Text that is none ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("x.jsonl", json.dumps({"text": "a\0b"}), "text with NUL characters"),
        ("x.jsonl", '{"text": "\\ud800"}', "not JSON"),
        ("x.jsonl", b"\xff\xfe" + json.dumps({"text": "a"}).encode("utf-16-le"), "not JSON"),
        ("x.jsonl", "[" * 100_000 + "]" * 100_000, "not JSON"),
        ("x.txt", "\u200b\u200d\ufeff" * 400 + "word", "zero_width_flood"),
        ("x.txt", "\u200b" * 4000, "zero_width_flood"),
        ("x.py", "\u200e\u202e" * 400 + "x = 1", "zero_width_flood"),
        ("x.txt", "word" + "\U000e0041" * 400, "zero_width_flood"),
        ("x.jsonl", json.dumps({"text": "w\ufe0f\u3164" * 400}), "zero_width_flood"),
        ("x.jsonl", json.dumps({"text": "One"}).encode("utf-32"), "not JSON"),
        ("x.txt", "One".encode("utf-32-le"), "undecodable text"),
        ("x.html", "<div>" * 100_000 + ENGLISH, "nested too deep"),
        ("x.html", "<html><body>" + "<a" * 100_000, "empty"),
        ("x.html", b"\0\0\0", "undecodable text"),
        ("x.html", "<p>" + ENGLISH * 90_000, "too large"),
    ],
    ids=range(15),
)
def test_what_is_no_text_is_set_aside_with_its_reason(read, name, data, reason):
    assert told(read(name, data, "code" if name.endswith("py") else "web")) == [reason]


@pytest.mark.parametrize(
    "text", ["می\u200cخواهم خانه\u200cها را ببینم", "❤\ufe0f I love it! 👨\u200d👩\u200d👧\u200d👦 1\ufe0f\u20e3"]
)
def test_joiners_and_selectors_where_people_write_them_are_no_flood(read, text):
    (kept,) = read("x.txt", text)
    assert isinstance(kept, Keep) and kept.record["text"] == text


def test_a_byte_order_mark_and_line_ends_of_windows_do_no_harm(read):
    rows = "\r\n".join(json.dumps({"text": word}) for word in ("One", "Two"))
    assert told(read("x.jsonl", b"\xef\xbb\xbf" + rows.encode())) == ["One", "Two"]
