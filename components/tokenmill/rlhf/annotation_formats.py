"""Files that annotation tools take and give: JSON lines, Label Studio, Argilla.

| format | what is written | what is read back |
|---|---|---|
| jsonl | a row a pair, to fill in `choice`, `annotator` and `time` | the same rows; several people's may follow each other |
| label-studio | tasks for its JSON import, for the labelling interface `LABEL_STUDIO` | its JSON export |
| argilla | records for `Dataset.records.from_json`, with a label question `choice` | what `Dataset.records.to_json` writes |
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson

from tokenmill.errors import InputError
from tokenmill.rlhf.annotations import CHOICES, Label, Pair, told
from tokenmill.rlhf.conditional import conditional_prompts

LABEL_STUDIO = """<View>
  <Header value="$instruction"/>
  <Text name="prompt" value="$prompt"/>
  <View style="display: grid; grid-template-columns: 1fr 1fr; gap: 1em">
    <Text name="a" value="$a"/>
    <Text name="b" value="$b"/>
  </View>
  <Choices name="choice" toName="prompt" choice="single" showInline="true">
    <Choice value="a"/><Choice value="b"/><Choice value="tie"/>
  </Choices>
</View>
"""
"""The labelling interface that the tasks are made for; who cannot tell uses Label Studio's own Skip."""
Row = Mapping[str, Any]
_MOST_TOLD = 5


def shown(pair: Pair) -> dict[str, str]:
    """What of a pair an annotator sees, and the two names it is found again by."""
    return {
        "id": pair.id,
        "batch": pair.batch,
        "instruction": pair.condition or conditional_prompts()[pair.domain],
        "prompt": told(pair.prompt),
        "a": pair.a,
        "b": pair.b,
    }


def write(pairs: Sequence[Pair], form: str) -> bytes:
    """The file of one format."""
    rows = [shown(pair) for pair in pairs]
    if form == "jsonl":
        blank = {"choice": None, "annotator": None, "time": None}
        return b"".join(orjson.dumps(row | blank, option=orjson.OPT_APPEND_NEWLINE) for row in rows)
    if form == "label-studio":
        tasks: list[Any] = [{"data": row} for row in rows]
    else:
        names = ("instruction", "prompt", "a", "b")
        tasks = [
            {
                "id": row["id"],
                "fields": {name: row[name] for name in names},
                "metadata": {"batch": row["batch"]},
                "suggestions": {},
                "responses": {},
                "vectors": {},
            }
            for row in rows
        ]
    return orjson.dumps(tasks, option=orjson.OPT_INDENT_2)


def read(
    data: bytes, name: str, known: Callable[[str], Mapping[str, Pair]], pseudonym: Callable[[str], str]
) -> list[Label]:
    """Every label of a file of any of the formats, each checked against the pair it names.

    Args:
        data: the file.
        name: its name, for messages.
        known: digest of a batch → its pairs.
        pseudonym: an annotator's name → what it is called here.

    Raises:
        InputError: a row is not what was exported, or says nothing that can be read: the first few, and nothing is taken.
    """
    labels, wrong = [], []
    for where, row in _rows(data, name):
        try:
            labels += [_checked(answer, known, pseudonym) for answer in _answers(row)]
        except (InputError, KeyError, TypeError, ValueError) as reason:
            what = f"no field {reason}" if isinstance(reason, KeyError) else str(reason)
            wrong.append(f"{where}: {what}")
    if wrong:
        more = f" ({len(wrong) - _MOST_TOLD} more)" if len(wrong) > _MOST_TOLD else ""
        raise InputError(
            "; ".join(wrong[:_MOST_TOLD]) + more + ". Nothing was imported: mend the file, import it again"
        )
    return labels


def _rows(data: bytes, name: str) -> Iterator[tuple[str, Row]]:
    """(where, row): lines of JSON, or one JSON list."""
    if data.lstrip()[:1] == b"[":
        try:
            rows = orjson.loads(data)
        except orjson.JSONDecodeError as broken:
            raise InputError(f"{name}: not JSON ({broken})") from None
        yield from ((f"{name} record {number}", row) for number, row in enumerate(rows, 1))
        return
    for number, line in enumerate(data.splitlines(), 1):
        where = f"{name} line {number}"
        if not line.strip():
            continue
        try:
            yield where, orjson.loads(line)
        except orjson.JSONDecodeError as broken:
            raise InputError(
                f"{where}: not JSON ({broken}). Nothing was imported: mend the file, import it again"
            ) from None


def _answers(row: Row) -> Iterable[Row]:
    """What people said of one row, whatever its format: `{id, batch, choice, annotator, time}`."""
    if not isinstance(row, Mapping):
        raise InputError("not an object")
    if "data" in row:  # Label Studio's task
        for one in row.get("annotations") or ():
            author = one.get("completed_by")
            author = author.get("email", author.get("id")) if isinstance(author, Mapping) else author
            yield {**row["data"], "choice": _chosen(one), "annotator": author, "time": one.get("created_at")}
    elif "fields" in row:  # Argilla's record, which has no times
        now = datetime.now(UTC).isoformat(timespec="seconds")
        for one in (row.get("responses") or {}).get("choice") or ():
            found = {"choice": one["value"], "annotator": one["user_id"], "time": now}
            yield {"id": row["id"], **row["metadata"], **found}
    elif row.get("choice") is not None:
        yield row


def _chosen(annotation: Row) -> str | None:
    """The choice in a Label Studio annotation; nothing if there is none."""
    if annotation.get("was_cancelled"):
        return "skip"
    results = [one for one in annotation.get("result") or () if one.get("type") == "choices"]
    return str(results[0]["value"]["choices"][0]) if results else None


def _checked(answer: Row, known: Callable[[str], Mapping[str, Pair]], pseudonym: Callable[[str], str]) -> Label:
    """The label, if it is of a pair that was exported, by somebody, at a time, and one of the choices."""
    pair = known(answer["batch"]).get(answer["id"])
    if not pair:
        raise InputError(f"pair {answer['id']!r} is none of batch {str(answer['batch'])[:12]}")
    if changed := [side for side in ("a", "b") if side in answer and answer[side] != getattr(pair, side)]:
        raise InputError(
            f"answer {changed[0]!r} of pair {pair.id} is not what was exported: leave the texts as they are"
        )
    if answer["choice"] not in CHOICES:
        raise InputError(f"choice {answer['choice']!r} is none of {', '.join(CHOICES)}")
    if answer.get("annotator") in (None, ""):
        raise InputError("no annotator: a name or number is needed, and is kept as a pseudonym only")
    try:
        time = datetime.fromisoformat(answer["time"])
    except (TypeError, ValueError):
        raise InputError(f"time {answer.get('time')!r} is no ISO 8601 time, as 2026-03-14T09:15:00Z") from None
    moment = time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    told_at = moment.isoformat(timespec="seconds")
    return Label(pair.id, pair.batch, pseudonym(str(answer["annotator"])), told_at, answer["choice"])
