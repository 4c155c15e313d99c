"""Rows of any shape under any mapping. Oracle: looking a path up in plain Python, and rows that were made of known documents."""

import io
import json
from pathlib import PurePosixPath

import orjson
import pyarrow
import pyarrow.parquet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tokenmill.curation.fields import from_row
from tokenmill.curation.found import Document, Unreadable
from tokenmill.curation.ingest import SourceFile, read_source_file
from tokenmill.curation.readers import reader_for
from tokenmill.steps import Drop, Keep, Reject
from tokenmill.streams import Opened

calm = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
PLAIN = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
NAMES = st.sampled_from(
    ["text", "content", "body", "meta", "link", "meta.link", "tox", "url", "id", "language", "scores"]
)
VALUES = st.recursive(
    PLAIN | TEXTS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4)
)
ROWS = st.fixed_dictionaries(
    {"body": TEXTS},
    optional={
        **{"text": TEXTS | VALUES, "content": TEXTS, "meta.link": TEXTS, "language": TEXTS, "id": TEXTS | VALUES},
        **{"meta": st.fixed_dictionaries({}, optional={"link": VALUES, "body": TEXTS}) | VALUES},
        **{"tox": st.floats(-0.5, 1.5) | st.integers(-1, 2) | VALUES, "url": VALUES, "scores": VALUES},
    },
)
PATHS = st.sampled_from(["body", "meta.link", "tox", "meta", "meta.body", "url", "nowhere", ".", ""])
MAPPINGS = st.fixed_dictionaries(
    {},
    optional={
        "text": st.sampled_from(["body", "body", "body", "meta.body", "tox"]),
        "scores.toxic": st.just("tox") | PATHS,
        **dict.fromkeys(("title", "url", "lang", "scores.porn", "board"), PATHS),
    },
)


def looked_up(row: dict, path: str):
    """A field of that very name, else the nested one."""
    if path in row:
        return row[path]
    for part in path.split("."):
        if not isinstance(row, dict) or part not in row:
            return None
        row = row[part]
    return row


def is_score(value) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1


@given(ROWS | ROWS | ROWS | VALUES, MAPPINGS)
@settings(max_examples=300)
def test_a_row_is_the_document_that_its_mapping_names_or_is_told(row, mapping):
    found = from_row(row, " line 1", mapping)
    if isinstance(row, str):
        assert found == Document(row)
        return
    text = None
    if isinstance(row, dict):
        text = looked_up(row, mapping["text"]) if "text" in mapping else row.get("text", row.get("content"))
    named = {ours: looked_up(row, path) for ours, path in mapping.items()} if isinstance(row, dict) else {}
    scores = {n.removeprefix("scores."): v for n, v in named.items() if n.startswith("scores.") and v is not None}
    if not isinstance(text, str) or not all(map(is_score, scores.values())):
        assert isinstance(found, Unreadable) and found.place == " line 1"
        return
    assert isinstance(found, Document) and found.text == text and found.fields["scores"] == scores
    for ours in ("title", "url", "lang"):
        if ours in mapping and not (ours == "lang" and "content" in row):
            assert found.fields[ours] == named[ours]
    board = named.get("board")
    if isinstance(board, str | int | float) and not isinstance(board, bool):
        assert found.fields["extra"]["board"] == board
    assert all(isinstance(value, str | int | float) for value in found.fields["extra"].values())


@calm
@given(st.lists(st.tuples(ROWS, st.sampled_from(["", "{", "[1", '"a', "\xff"])), max_size=8), MAPPINGS)
def test_every_line_of_a_mapped_file_comes_out_once_and_can_be_written(tmp_path, lines, mapping):
    written = [(broken if broken else json.dumps(row, ensure_ascii=False)).encode() for row, broken in lines]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(written))
    outcomes = list(read_source_file(SourceFile(path, "web", "mine", "rows.jsonl", fields=mapping)))
    assert len(outcomes) == len(lines)
    for number, ((_, broken), outcome) in enumerate(zip(lines, outcomes, strict=True), 1):
        if isinstance(outcome, Reject):
            assert f"line {number}" in outcome.where or "document" in outcome.where
        else:
            assert isinstance(outcome, Keep | Drop) and not broken
            assert orjson.loads(orjson.dumps(outcome.record))["source"] == "mine"


@calm
@given(
    st.lists(st.tuples(TEXTS | st.none(), st.floats() | st.none(), st.integers(-(2**63), 2**63 - 1)), max_size=6),
    st.dictionaries(
        st.sampled_from(["text", "scores.toxic", "board", "url"]), st.sampled_from(["body", "tox", "meta.link", "meta"])
    ),
)
def test_every_row_of_a_mapped_table_comes_out_once(tmp_path, rows, mapping):
    meta = pyarrow.array([{"link": n, "other": text} for text, _, n in rows], pyarrow.struct(
        [("link", pyarrow.int64()), ("other", pyarrow.string())]
    ))  # fmt: skip
    columns = {
        "body": pyarrow.array([text for text, _, _ in rows], pyarrow.string()),
        "tox": pyarrow.array([score for _, score, _ in rows], pyarrow.float64()),
        "meta": meta,
    }
    data = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), data)
    path = tmp_path / "rows.parquet"
    path.write_bytes(data.getvalue())
    outcomes = list(read_source_file(SourceFile(path, "web", "mine", "rows.parquet", fields=mapping)))
    assert len(outcomes) == len(rows)
    for (text, score, link), outcome in zip(rows, outcomes, strict=True):
        wanted = {"body": text, "tox": score, "meta.link": link, "meta": {"link": link, "other": text}}
        toxic = wanted[mapping["scores.toxic"]] if "scores.toxic" in mapping else None
        readable = isinstance(wanted.get(mapping.get("text", "")), str) and (toxic is None or is_score(toxic))
        if not isinstance(outcome, Reject):
            assert readable and isinstance(outcome, Keep | Drop)
            orjson.dumps(outcome.record)
            if isinstance(outcome, Keep):
                assert outcome.record["text"] == text
                assert outcome.record["scores"] == ({} if toxic is None else {"toxic": toxic})
        else:
            assert not readable or "\0" in text


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "id": st.text("abcdef0123456789", min_size=1, max_size=9),
                "content": TEXTS,
                "toxic_score": st.floats(0, 1),
                "porn_score": st.floats(0, 1),
                "fluency_score": st.none() | st.floats(0, 1),
                "not_ad_score": st.floats(0, 1),
                "token_num": st.integers(0, 10**6),
                "line_num": st.integers(0, 10**6),
            },
            optional={"language": st.sampled_from(["en", "zh"]), "title": TEXTS, "image": st.lists(TEXTS, max_size=2)},
        ),
        max_size=6,
    )
)
@settings(max_examples=60)
def test_rows_of_wanjuan_keep_scores_counts_and_language_under_our_names(rows):
    data = b"\n".join(map(orjson.dumps, rows))
    opened = Opened.named(PurePosixPath("wanjuan.jsonl"), data, type="web")
    reader = reader_for(opened.name, "web")
    assert reader is not None
    found = list(reader(opened))
    assert len(found) == len(rows)
    for row, one in zip(rows, found, strict=True):
        assert isinstance(one, Document) and one.text == row["content"]
        scores = {"toxic": "toxic_score", "porn": "porn_score", "fluency": "fluency_score", "not_ad": "not_ad_score"}
        assert one.fields["scores"] == {o: row[t] for o, t in scores.items() if row[t] is not None}
        assert one.fields["extra"] == {name: row[name] for name in ("id", "token_num", "line_num")}
        assert one.fields.get("lang") == row.get("language") and one.fields.get("title") == row.get("title")
