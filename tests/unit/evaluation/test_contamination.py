"""What a model was trained on, by its lineage; and which questions stand in that."""

from typing import Any

import orjson
import pytest
from pico import Lab, chat, documents

from tokenmill.config import Execution
from tokenmill.errors import InputError
from tokenmill.evaluation.config import CollectConfig, ContaminationConfig
from tokenmill.manifest import Manifest
from tokenmill.model.config import InternLM2Config
from tokenmill.records import JSONL, read_jsonl

ALONE = ContaminationConfig(execution=Execution(workers=1))
SECRET = "In the year of the great flood seven tall masons built one narrow bridge of grey stone for the queen"


def collect(lab: Lab, weights: Manifest) -> tuple[Manifest, Any]:
    made = lab.step("evaluation.collect_training_sets", CollectConfig(), weights=weights)["output"]
    return made, orjson.loads(lab.store.get_blob(made.shard("training_sets.json").blob))


def steps(found: Any) -> list[str]:
    return sorted(one["step"] for one in found["sets"])


def corpus(lab: Lab, name: str, *texts: str, **more: Any) -> Manifest:
    rows = [{"id": f"{name}{i}", "text": text} for i, text in enumerate(texts or (name,))]
    return lab.issue("corpus", {f"{name}/part-00000{JSONL}": rows}, step=f"made.{name}", **more)


def conversations(lab: Lab, name: str, answer: str) -> Manifest:
    rows = [{"id": name, "messages": chat("Tell me.", answer)}]
    return lab.issue("conversations", {f"{name}{JSONL}": rows}, step=f"made.{name}")


def questions(lab: Lab, **suites: list[dict[str, Any]]) -> Manifest:
    return lab.issue("questions", {f"{name.replace('__', '/')}{JSONL}": rows for name, rows in suites.items()})


def searched(lab: Lab, weights: Manifest, asked: Manifest) -> tuple[Any, dict[str, Any]]:
    """The report, and question → its row."""
    sets, _ = collect(lab, weights)
    made = lab.step("evaluation.contamination", ALONE, training_sets=sets, questions=asked)["output"]
    report = orjson.loads(lab.store.get_blob(made.shard("decontamination.json").blob))
    assert report["model"] == weights.content
    rows = read_jsonl(lab.store.blob_path(made.shard(f"items{JSONL}").blob))
    return report, {f"{row['suite']}#{row['id']}": row for row in rows}


def hits(lab: Lab, weights: Manifest, asked: Manifest) -> dict[str, int]:
    return {suite: row["hits"] for suite, row in searched(lab, weights, asked)[0]["suites"].items()}


def test_where_a_lineage_ends_at_a_model_or_at_what_is_gone_nobody_stated_a_licence(lab: Lab) -> None:
    """Planted: weights of another store that came without their sources; and a source that the store lost."""
    found = lab.issue_folder("weights", lab.folder / "weights-0", step="made.elsewhere") if lab.weights() else None
    assert found
    tuned = lab.weights(3, base=found)
    _, told = collect(lab, tuned)
    stated = {(s["name"], s["licence"]) for s in told["sources"]}
    assert stated == {("tales", "CC0-1.0"), (f"weights {found.digest[:12]} of made.elsewhere", "")}
    lab.store.backend.delete(f"manifests/{lab.sources.digest}")
    _, told = collect(lab, tuned)
    assert {s["licence"] for s in told["sources"]} == {""} and len(told["sources"]) == 2


def test_every_stage_of_a_models_life_is_walked(lab: Lab) -> None:
    """Base ← tokens ← corpus; enhanced; SFT on conversations; a reward model's preferences; PPO on prompts."""
    base = lab.weights(step="pretraining.train")
    enhanced = lab.weights(step="enhancement.enhance", base=base, corpus=corpus(lab, "maths"))
    heldout = conversations(lab, "heldout", "never trained on")
    sft = lab.weights(step="sft.train", base=enhanced, conversations=conversations(lab, "sft", "yes"), heldout=heldout)
    pairs = [
        {"id": "p", "prompt": [{"role": "user", "content": "hm"}], "chosen": chat("a", "b"), "rejected": chat("a", "c")}
    ]
    preferences = lab.issue("preferences", {f"p{JSONL}": pairs}, step="made.preferences")
    reward = lab.weights(step="rlhf.reward", base=sft, preferences=preferences)
    final = lab.weights(step="rlhf.ppo", actor=sft, reward=reward, prompts=conversations(lab, "prompts", "…"))
    _, found = collect(lab, final)
    assert steps(found) == ["made.maths", "made.preferences", "made.prompts", "made.sft", "test.made"]
    assert [source["licence"] for source in found["sources"]] == ["CC0-1.0"]


@pytest.mark.parametrize("tokenised", [True, False])
def test_what_a_filter_dropped_was_not_trained_on(lab: Lab, tokenised: bool) -> None:
    raw = corpus(lab, "raw", SECRET, "kept text")
    clean = corpus(lab, "clean", "kept text", corpus=raw)
    tokens = lab.issue("tokens", {f"d{JSONL}": [{"id": "clean0", "heldout": False}]}, corpus=clean)
    weights = lab.weights(tokens=tokens if tokenised else clean)
    assert steps(collect(lab, weights)[1]) == ["made.clean"]
    asked = questions(lab, generate__maths=[{"id": "q", "question": SECRET, "answer": "1"}])
    assert hits(lab, weights, asked) == {"generate/maths": 0}


@pytest.mark.parametrize("where", ["corpus", "conversations", "preferences"])
def test_a_planted_question_is_found_in_every_kind_of_training_set(lab: Lab, where: str) -> None:
    planted = {
        "corpus": lambda: corpus(lab, "bad", "other text", f"Once: {SECRET}. The end."),
        "conversations": lambda: conversations(lab, "bad", SECRET),
        "preferences": lambda: lab.issue(
            "preferences", {f"p{JSONL}": [{"id": "p", "prompt": SECRET, "chosen": "a", "rejected": "b"}]}
        ),
    }[where]()
    base = lab.weights()
    weights = lab.weights(base=base, data=planted)
    asked = questions(
        lab,
        generate__maths=[
            {"id": "q", "question": SECRET, "answer": "1"},
            {"id": "r", "question": SECRET[::-1], "answer": "1"},
        ],
        contamination__maths=[{"id": "q", "question": SECRET, "answer": "1", "split": "train"}],
    )
    assert hits(lab, weights, asked) == {"generate/maths": 1}
    assert hits(lab, base, asked) == {"generate/maths": 0}


def test_held_out_documents_of_a_tokenised_corpus_do_not_count(lab: Lab) -> None:
    rows = documents()
    heldout, trained = rows[0], rows[1]
    weights = lab.weights()
    both = questions(lab, perplexity__en=[{"id": r["id"], "text": r["text"]} for r in (heldout, trained)])
    assert hits(lab, weights, both) == {"perplexity/en": 1}
    assert hits(lab, weights, questions(lab, perplexity__en=[{"id": "h", "text": heldout["text"]}])) == {
        "perplexity/en": 0
    }


def test_the_same_weights_with_another_history_are_not_read_from_the_cache(lab: Lab) -> None:
    """Equal bytes, two lineages: only one of them saw the question."""
    clean, dirty = lab.weights(), lab.weights(data=corpus(lab, "bad", SECRET))
    assert clean.content == dirty.content
    asked = questions(lab, generate__maths=[{"id": "q", "question": SECRET, "answer": "1"}])
    assert [hits(lab, weights, asked)["generate/maths"] for weights in (clean, dirty)] == [0, 1]


@pytest.mark.parametrize("tokenised", [False, True])
def test_a_lineage_with_a_hole_is_refused(lab: Lab, tokenised: bool) -> None:
    lost = corpus(lab, "lost", "text")
    tokens = lab.issue("tokens", {f"d{JSONL}": [{"id": "lost0", "heldout": False}]}, corpus=lost)
    weights = lab.weights(data=tokens if tokenised else lost)
    lab.store.backend.delete(f"manifests/{lost.digest}")
    with pytest.raises(InputError, match="cannot be checked"):
        collect(lab, weights)


# ---- what is said of each question -----------------------------------------------------------------------------------

REWORDED = (
    "In the year of the great flood seven tall masons have built one narrow bridge made of grey stone for the old queen"
)
ELSE = (
    "Nothing of this has been asked by anyone and it goes on for a while, as texts do that were written on a slow day"
)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        (ELSE, "clean"),
        (REWORDED, "near"),
        (SECRET, "input"),
        (f"{SECRET}. How high was it? {ELSE}. It was forty two feet high.", "input"),  # the answer stands too far away
        (f"Problem: {SECRET}. Solution: it was forty two feet high.", "input+label"),
        (f"Forty two. {SECRET}", "input"),  # what stands before a question does not answer it
        (f"{SECRET}. {SECRET}: forty two. {ELSE}", "input+label"),
    ],
)
def test_a_question_is_labelled_by_what_the_data_give_away(lab: Lab, text: str, label: str) -> None:
    asked = questions(lab, generate__maths=[{"id": "q", "question": SECRET, "answer": "forty two"}])
    config = ALONE.model_copy(update={"label_words": 20})
    sets, _ = collect(lab, lab.weights(data=corpus(lab, "some", text)))
    made = lab.step("evaluation.contamination", config, training_sets=sets, questions=asked)["output"]
    (row,) = read_jsonl(lab.store.blob_path(made.shard(f"items{JSONL}").blob))
    assert row["label"] == label


def test_any_of_several_right_answers_gives_a_question_away(lab: Lab) -> None:
    asked = questions(lab, generate__maths=[{"id": "q", "question": SECRET, "answer": ["forty two", "42 feet"]}])
    for name, text, label in (("one", f"{SECRET}. 42 feet", "input+label"), ("none", f"{SECRET}. 43 feet", "input")):
        _, rows = searched(lab, lab.weights(data=corpus(lab, name, text)), asked)
        assert rows["generate/maths#q"]["label"] == label


def test_a_choice_is_given_away_where_the_right_option_follows(lab: Lab) -> None:
    choices = [f"{SECRET} {end}" for end in ("and her sister", "who never came", "of the north")]
    asked = questions(lab, choice__tales=[{"id": "q", "question": SECRET, "choices": choices, "answer": 1}])
    labels = {}
    for name, text in (("right", choices[1]), ("wrong", choices[0]), ("bare", SECRET)):
        _, rows = searched(lab, lab.weights(data=corpus(lab, name, text)), asked)
        labels[name] = rows["choice/tales#q"]["label"]
    assert labels == {"right": "input+label", "wrong": "input", "bare": "input"}


def test_the_training_set_that_holds_a_question_is_named(lab: Lab) -> None:
    """Two stages are clean, the third holds one question with its answer and rewords another."""
    other = (
        "Eleven small boats left the quiet harbour at dawn and nine of them came home before the evening bell was rung"
    )
    reworded = (
        "At dawn eleven small boats left the quiet harbour, and nine of them came home before the evening bell rang"
    )
    bad = corpus(lab, "bad", ELSE, f"{SECRET}: forty two", reworded)
    weights = lab.weights(base=lab.weights(data=corpus(lab, "good", ELSE)), data=bad)
    rows = [{"id": i, "question": text, "answer": "forty two"} for i, text in (("q", SECRET), ("r", other))]
    report, found = searched(lab, weights, questions(lab, generate__maths=rows))
    first, *others = report["sets"]
    assert (first["digest"], first["suites"]) == (bad.digest, {"generate/maths": {"input+label": 1, "near": 1}})
    assert [one["suites"] for one in others] == [{}] * len(others) and others
    assert found["generate/maths#q"]["found"] == [
        {"set": bad.digest, "label": "input+label", "where": f"bad/part-00000{JSONL} bad1"}
    ]
    assert (
        report["suites"]["generate/maths"] | {"hits": 1, "near": 1, "share": 0.5, "near_share": 0.5}
        == (report["suites"]["generate/maths"])
    )


def test_questions_that_cannot_be_looked_for_are_counted_by_reason(lab: Lab) -> None:
    """One is asked three times, one is common speech; all of them stand in the training data."""
    texts = [SECRET, SECRET, SECRET, "How are you?", "Nine brown hens sat by the barn"]
    rows = [{"id": f"{i}", "question": text, "answer": "7"} for i, text in enumerate(texts)]
    report, found = searched(lab, lab.weights(data=corpus(lab, "all", *texts)), questions(lab, generate__maths=rows))
    row = report["suites"]["generate/maths"]
    assert (row["template_only"], row["too_short"], row["hits"]) == (3, 1, 1)
    told = {name: one.get("unsearchable") for name, one in found.items()}
    assert [told[f"generate/maths#{i}"] for i in range(5)] == [*["template_only"] * 3, "too_short", None]


def test_leaks_of_the_train_split_the_test_split_and_of_a_paraphrase_are_told_apart(lab: Lab) -> None:
    """One problem a split; each is planted alone, then the test one reworded."""
    geese = "Five grey geese flew over the frozen lake towards the southern hills while two old foxes watched them go"
    told = {"train": ELSE, "test": SECRET, "reference": geese}
    rows = [{"id": split, "split": split, "question": text, "answer": "7"} for split, text in told.items()]
    asked = questions(lab, contamination__maths=rows)

    def leak(text: str) -> dict[str, tuple[int, int]]:
        report, _ = searched(lab, lab.weights(data=corpus(lab, "leak", text)), asked)
        assert set(report["suites"]) == {"contamination/maths"}  # what gates ask about is the test split alone
        return {split: (row["hits"], row["near"]) for split, row in report["splits"]["maths"].items()}

    assert leak(told["train"]) == {"train": (1, 0), "test": (0, 0), "reference": (0, 0)}
    assert leak(told["test"]) == {"train": (0, 0), "test": (1, 0), "reference": (0, 0)}
    assert leak(REWORDED) == {"train": (0, 0), "test": (0, 1), "reference": (0, 0)}


def test_trainings_are_counted_by_their_own_tokens(lab: Lab) -> None:
    """6 operations a weight and token (the input embedding is a look-up); SFT goes on from Base's count."""
    base = lab.weights(counts={"tokens_seen": 1_000})
    sft = lab.weights(step="sft.train", base=base, counts={"tokens_seen": 1_500})
    reward = lab.weights(step="rlhf.reward", sft=sft, counts={"tokens_seen": 1_600})
    _, found = collect(lab, lab.weights(step="rlhf.ppo", sft=sft, reward_model=reward, counts={"tokens_seen": 1_800}))
    shape = InternLM2Config.preset("pico")
    weights = shape.parameter_count() - shape.vocab_size * shape.hidden_size
    tokens = {one["step"]: one["tokens"] for one in found["trainings"]}
    assert tokens == {"test.made": 1_000, "sft.train": 500, "rlhf.reward": 100, "rlhf.ppo": 300}
    assert sum(one["flops"] for one in found["trainings"]) == 6 * weights * 1_900
