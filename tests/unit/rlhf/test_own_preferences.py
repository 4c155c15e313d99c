"""A user's folder of pairs: from its files to what the reward model, PPO and the probe are given."""

import json
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from pico import Lab

from tokenmill.curation.source_config import IngestConfig, RegisterSourcesConfig
from tokenmill.errors import ConfigError, InputError
from tokenmill.manifest import Manifest
from tokenmill.records import read_jsonl
from tokenmill.rlhf.annotation_formats import write
from tokenmill.rlhf.annotations import pairs_of, preferences
from tokenmill.rlhf.answering import Answers
from tokenmill.rlhf.conditional import Query, conditional_prompts, prompts_of, reward_input
from tokenmill.rlhf.config import CollectPreferencesConfig, ReadPreferencesConfig
from tokenmill.rlhf.patches import patch, responses
from tokenmill.takedown import take_down


def question(number: int) -> str:
    return f"Which of the {number} ships came home over the bright river with silver and wine?"


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict:
    return {"role": "assistant", "content": text}


def pair(number: int, domain: str = "helpful") -> dict:
    return {"prompt": question(number), "chosen": f"Number {number}.", "rejected": "Who knows.", "domain": domain}


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path / "lab")


def lines(path: Path, *rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))


def registered(lab: Lab, folder: Path, fields: dict | None = None) -> Manifest:
    spec = {"name": "mine", "uri": str(folder), "type": "preferences", "licence": "CC0-1.0", "origin": "me"}
    return lab.step("curation.register_sources", RegisterSourcesConfig(sources=[spec | {"fields": fields}]))["output"]


def read(lab: Lab, folder: Path, fields: dict | None = None, questions: Manifest | None = None, **config) -> Manifest:
    inputs = {"sources": registered(lab, folder, fields)} | ({"questions": questions} if questions else {})
    return lab.step("rlhf.read_preferences", ReadPreferencesConfig(**config), **inputs)["output"]


def records(lab: Lab, manifest: Manifest, shards=None) -> list[dict]:
    found = manifest.shards if shards is None else shards
    return [record for shard in found for record in read_jsonl(lab.store.blob_path(shard.blob))]


FORMS = {
    "texts": {"prompt": "Do you open?", "chosen": "At nine.", "rejected": "No."},
    "messages": {"prompt": [user("Do you open?")], "chosen": [assistant("At nine.")], "rejected": [assistant("No.")]},
    "whole dialogues": {
        "chosen": [user("Do you open?"), assistant("At nine.")],
        "rejected": [user("Do you open?"), assistant("No.")],
    },
    "a prompt that the sides repeat": {
        "prompt": [user("Do you open?")],
        "chosen": [user("Do you open?"), assistant("At nine.")],
        "rejected": [user("Do you open?"), assistant("No.")],
    },
    "the question beside whole dialogues": {
        "prompt": "Do you open?",
        "chosen": [user("Do you open?"), assistant("At nine.")],
        "rejected": [user("Do you open?"), assistant("No.")],
    },
}


def test_the_forms_that_people_keep_pairs_in_are_one_pair(lab, tmp_path):
    lines(tmp_path / "mine.jsonl", *(row | {"domain": "helpful"} for row in FORMS.values()))
    made = read(lab, tmp_path / "mine.jsonl")
    (kept,) = records(lab, made)
    assert (kept["prompt"], kept["chosen"], kept["rejected"]) == ([user("Do you open?")], "At nine.", "No.")
    assert made.dropped == {"duplicate": len(FORMS) - 1}


def test_a_source_names_its_domain_and_its_fields_once(lab, tmp_path):
    lines(
        tmp_path / "mine.jsonl", {"question": "Do you open?", "good": "At nine.", "bad": "No.", "system": "Be brief."}
    )
    fields = {"prompt": "question", "chosen": "good", "rejected": "bad"}
    (kept,) = records(lab, read(lab, tmp_path / "mine.jsonl", fields, domains={"mine": "harmless"}))
    assert kept["domain"] == "harmless"
    assert kept["prompt"] == [{"role": "system", "content": "Be brief."}, user("Do you open?")]


BAD = [
    ('{"prompt": "half', "not JSON"),
    ({"prompt": "Q?", "chosen": "a", "domain": "helpful"}, "no rejected (a text or messages"),
    ({"prompt": "Q?", "chosen": "a", "rejected": " a ", "domain": "helpful"}, "equal sides"),
    ({"chosen": "a", "rejected": "b", "domain": "helpful"}, "no prompt (in the field `prompt`"),
    ({"prompt": "Q?", "chosen": "a", "rejected": "b"}, "no domain (name one in the record, or in rlhf.read_pref"),
    (
        {"prompt": "Q?", "chosen": "a", "rejected": "b", "domain": "poetry"},
        "unknown domain ('poetry'; known: helpful, harmless",
    ),
    (
        {"prompt": "Q?", "chosen": "a", "rejected": "b", "domain": ["math"]},
        "unknown domain (['math']; known: helpful, harmless",
    ),
    ({"prompt": [assistant("Hi.")], "chosen": "a", "rejected": "b", "domain": "helpful"}, "begins with the assistant"),
    (
        {"prompt": "Q?", "chosen": [assistant("a"), user("b")], "rejected": "b", "domain": "math"},
        "chosen that is not one",
    ),
    (
        {"prompt": [user("Q?"), assistant("A")], "chosen": "a", "rejected": "b", "domain": "math"},
        "a prompt that ends with",
    ),
]


VERSE = "You judge whether the answer is a good verse."


@pytest.mark.parametrize(
    ("prompts", "why"),
    [
        ({"helpful": VERSE}, "'helpful' has a prompt in rm_prompts.yaml"),
        ({"verse": " "}, "the prompt of 'verse' is empty"),
        ({"诗": VERSE, "verse & rhyme": VERSE}, "'verse & rhyme' cannot name a domain"),
    ],
)
def test_a_prompt_that_says_nothing_or_says_another_thing_is_refused(lab, tmp_path, prompts, why):
    lines(tmp_path / "mine.jsonl", pair(1))
    with pytest.raises(ConfigError, match=why):
        read(lab, tmp_path / "mine.jsonl", prompts=prompts)


def test_what_is_no_pair_is_set_aside_with_its_file_line_and_reason(lab, tmp_path):
    rows = [row if isinstance(row, str) else json.dumps(row) for row, _ in BAD]
    lines(tmp_path / "mine" / "bad.jsonl", *(f"{row}\n" for row in rows), *map(pair, range(20)))
    made = read(lab, tmp_path / "mine", max_rejected=0.5)
    rejected = records(lab, made, [shard for shard in made.aside if shard.name.startswith("rejected/")])
    assert [r["where"] for r in rejected] == [f"mine/bad.jsonl line {n}" for n in range(1, len(BAD) + 1)]
    for (_, why), record in zip(BAD, rejected, strict=True):
        assert record["reason"].startswith(why)
    assert made.counts["records"] == 20
    with pytest.raises(InputError, match=r"mine/bad.jsonl line 1: not JSON.* 10 of 30 records set aside"):
        read(lab, tmp_path / "mine")


def test_pairs_that_hold_a_question_of_evaluation_are_left_out(lab, tmp_path):
    lines(tmp_path / "mine.jsonl", *map(pair, range(9)), pair(9) | {"rejected": f"You ask: {question(100)}"})
    asked = lab.issue("questions", {"generate/q.jsonl.zst": [{"id": n, "question": question(n)} for n in (3, 100)]})
    made = read(lab, tmp_path / "mine.jsonl", questions=asked, max_sharing=2)
    assert made.dropped == {"asked_by_evaluation": 2}
    assert [r["prompt"][0]["content"] for r in records(lab, made)] == [question(n) for n in range(9) if n != 3]
    assert made.facts["decontamination"]["looked_for"] == 2


def test_a_pair_that_was_taken_down_is_left_out_and_curation_passes_them_over(lab, tmp_path):
    lines(tmp_path / "mine.jsonl", *map(pair, range(3)))
    gone = records(lab, read(lab, tmp_path / "mine.jsonl"))[1]
    take_down(lab.store, gone["id"], "asked for")
    made = read(lab, tmp_path / "mine.jsonl")
    assert made.dropped == {"taken_down": 1}
    assert gone["chosen"] not in [r["chosen"] for r in records(lab, made)]
    with pytest.raises(InputError, match="no record left of 0"):
        lab.step("curation.ingest", IngestConfig(), sources=registered(lab, tmp_path / "mine.jsonl"))


def collected(lab: Lab, own: Manifest, **config) -> dict[str, Manifest]:
    conversations = lab.issue("conversations", {"none.jsonl.zst": []})
    inputs = {"conversations": conversations, "own": own, "tokenizer": lab.tokenizer}
    return lab.step("rlhf.collect_preferences", CollectPreferencesConfig(**config), **inputs)


def test_own_pairs_alone_are_split_by_their_question_and_asked_by_ppo_or_the_probe(lab, tmp_path):
    rows = [pair(number, domain) for number in range(60) for domain in ("helpful", "harmless")]
    lines(tmp_path / "mine.jsonl", *rows)
    made = collected(lab, read(lab, tmp_path / "mine.jsonl"), heldout_own=0.2, heldout_queries=0.4, judge_share=0)
    train, heldout = ({r["prompt"][0]["content"] for r in records(lab, made[role])} for role in ("train", "heldout"))
    assert train | heldout == {question(number) for number in range(60)} and not train & heldout
    assert len(heldout) == 12
    assert sum(made[role].counts["records"] for role in ("train", "judge", "heldout")) == 120
    asked, probed = (records(lab, made[role]) for role in ("queries", "heldout_queries"))
    unseen = made["heldout_queries"].counts["of_heldout_templates"]
    assert {q["messages"][0]["content"] for q in probed[:unseen]} == heldout  # judged by these
    assert {q["messages"][0]["content"] for q in [*probed[unseen:], *asked]} == train
    assert len(probed) == 48 and len({(q["id"], q["domain"]) for q in [*asked, *probed]}) == 120


def test_own_pairs_of_one_question_are_refused(lab, tmp_path):
    lines(tmp_path / "mine.jsonl", pair(0), pair(0) | {"rejected": "None."})
    with pytest.raises(InputError, match="all 2 own pairs are of one question"):
        collected(lab, read(lab, tmp_path / "mine.jsonl"))


def test_a_judge_learns_pairs_of_questions_that_no_rounds_reward_model_learns(lab, tmp_path):
    lines(tmp_path / "mine.jsonl", *map(pair, range(100)))
    own = read(lab, tmp_path / "mine.jsonl")
    made = collected(lab, own, judge_share=0.3)
    parts = [{r["prompt"][0]["content"] for r in records(lab, made[role])} for role in ("train", "judge", "heldout")]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 100
    assert 15 < len(parts[1]) < 45 and len(parts[2]) == 10
    asked = {r["messages"][0]["content"] for role in ("queries", "heldout_queries") for r in records(lab, made[role])}
    assert asked == parts[0] | parts[2], "a patch of a judge's question would teach the others what it learned"
    assert collected(lab, own, judge_share=0)["judge"].counts["records"] == 0


def test_a_domain_of_ones_own_is_judged_under_its_own_prompt_wherever_its_pairs_lead(lab, tmp_path, tokenizer):
    lines(tmp_path / "mine.jsonl", *(pair(n, "verse" if n % 2 else "helpful") for n in range(60)))
    own = read(lab, tmp_path / "mine.jsonl", prompts={"verse": VERSE})
    made = collected(lab, own, heldout_own=0.2, judge_share=0)
    helpful = conditional_prompts()["helpful"]
    rows = [r for role in ("train", "heldout", "queries", "heldout_queries") for r in records(lab, made[role])]
    assert len(rows) == 120 and prompts_of(rows) == {"helpful": helpful, "verse": VERSE}

    query = next(Query.of(r) for r in records(lab, made["queries"]) if r["domain"] == "verse")
    said = Answers([[1]], [[2]], [[0.0]], ["an answer"], [1.0])
    (response,) = responses([query], {"policy": said, "sft": replace(said, texts=["another"])}, slice(None))
    (shown,) = pairs_of("b" * 64, [response])
    labelled, _ = preferences({shown.id: shown}, {shown.id: {"a": 1}}, 1)
    patched = patch("a hack", query, chosen="a", rejected="b")
    assert orjson.loads(write([shown], "jsonl"))["instruction"] == VERSE
    for record in (patched, *labelled):
        assert Query.of(record).condition == VERSE
        told, untold = (
            reward_input(Query.of(record), [], tokenizer, max_length=512, conditional=so) for so in (True, False)
        )
        assert VERSE in tokenizer.decode(told) and VERSE not in tokenizer.decode(untold)
    with pytest.raises(InputError, match="domain 'verse' has two prompts, 'You judge whether"):
        prompts_of([patched, patched | {"condition": "You judge rhymes."}])
