"""Datasets as data: what a model is asked, checked by eye; what is wrong is refused where it stands."""

import gzip
import json

import pytest
import yaml

from tokenmill.errors import ConfigError, InputError
from tokenmill.evaluation import hub
from tokenmill.evaluation.config import GROUPS, EvaluateConfig
from tokenmill.evaluation.dataset import SHIPPED, Dataset, load
from tokenmill.evaluation.evaluate import EVALUATION
from tokenmill.evaluation.rendering import rendered, version

BASE = {"name": "capitals", "description": "where is it", "language": "en", "licence": "CC0-1.0", "group": "qa"}
CHOICE = BASE | {
    "inferencer": "ppl", "choices": ["A", "B"], "template": "Q: {question}\n{lettered}\nAnswer:", "option": " {letter}",
}  # fmt: skip
RECORDS = [
    {"id": "fr", "question": "Capital of {France}?", "A": "Rome", "B": "Paris", "answer": "B"},
    {"id": "it", "question": "Capital of Italy?", "A": "Rome", "B": "Paris", "answer": "A"},
]
DEV = [{"question": f"Capital {i}?", "A": f"a{i}", "B": f"b{i}", "answer": "A"} for i in range(6)]


@pytest.fixture
def folder(tmp_path):
    def make(options, records=RECORDS, examples=DEV):
        (tmp_path / "dataset.yaml").write_text(yaml.safe_dump(options))
        for name, rows in (("test.jsonl", records), ("train.jsonl", examples)):
            (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path

    return make


def questions(path):
    return rendered(load(path), path)


def test_options_are_filled_in_lettered_and_the_right_one_is_found(folder):
    shard, (first, second) = questions(folder(CHOICE))
    assert shard == "choice/capitals.jsonl.zst"
    asked = "Q: Capital of {France}?\nA. Rome\nB. Paris\nAnswer:"  # braces of a value are no field
    assert first == {"id": "fr", "question": asked, "choices": [f"{asked} A", f"{asked} B"], "answer": 1, "shots": ""}
    assert (second["id"], second["answer"]) == ("it", 0)


@pytest.mark.parametrize(
    ("answer", "place"), [("Paris", 1), ("b", None), ("B", 1), (1, 1), ("0", 0), ("2", None), ("Oslo", None)]
)
def test_the_right_option_is_told_by_text_letter_or_index(folder, answer, place):
    path = folder(CHOICE, [RECORDS[0] | {"answer": answer}])
    if place is None:
        with pytest.raises(InputError, match=r"test\.jsonl line 1: the right answer '.+' is none of 2 options"):
            questions(path)
    else:
        assert questions(path)[1][0]["answer"] == place


def test_examples_come_first_the_same_for_all_and_by_their_seed(folder):
    def shots(**few):
        path = folder(CHOICE | {"few_shot": {"n": 2, **few}})
        found = {record["shots"] for record in questions(path)[1]}
        assert len(found) == 1
        return found.pop()

    expected = "Q: Capital 0?\nA. a0\nB. b0\nAnswer: A\n\nQ: Capital 1?\nA. a1\nB. b1\nAnswer: A\n\n"
    assert shots() == expected
    assert shots(separator="\n") == expected.replace("A\n\n", "A\n")
    drawn = {shots(seed=seed) for seed in range(8)}
    assert len(drawn) > 4 and shots(seed=3) == shots(seed=3) and all(text.count("Answer: A") == 2 for text in drawn)
    with pytest.raises(InputError, match="holds 6 examples; few_shot.n is 7"):
        questions(folder(CHOICE | {"few_shot": {"n": 7}}))


def test_written_answers_have_what_of_them_counts(folder):
    options = BASE | {
        "inferencer": "generate", "template": "{question}", "answer_extraction": "hash", "extraction": "number",
        "few_shot": {"n": 1},
    }  # fmt: skip
    rows = [{"question": "2 + 2?", "answer": "Two and two.\n#### 4"}]
    path = folder(options, rows, [{"question": "1 + 1?", "answer": "One, one.\n#### 2"}])
    shard, (record,) = questions(path)
    assert shard == "generate/capitals.jsonl.zst"
    assert record == {
        "id": "00000", "question": "2 + 2?", "answer": "4", "extraction": "number", "metric": "same",
        "shots": "1 + 1? One, one.\n#### 2\n\n",
    }  # fmt: skip
    with pytest.raises(InputError, match="line 1: the right answer has nothing that answer_extraction=hash finds"):
        questions(folder(options, [{"question": "?", "answer": "4"}]))


def test_a_written_choice_is_answered_by_its_letter(folder):
    options = CHOICE | {"inferencer": "generate", "extraction": "option"}
    assert [record["answer"] for record in questions(folder(options))[1]] == ["B", "A"]


def test_code_and_loss_alone(folder):
    code = BASE | {"inferencer": "code", "template": "{prompt}", "test": "{test}\ncheck({entry})"}
    path = folder(code, [{"prompt": "def f():\n", "test": "def check(f): pass", "entry": "f"}])
    assert questions(path)[1][0]["test"] == "def check(f): pass\ncheck(f)"
    path = folder(
        BASE | {"inferencer": "ppl_only", "template": "{question} {answer}"}, [{"question": "a", "answer": "b"}]
    )
    assert questions(path) == ("perplexity/capitals.jsonl.zst", [{"id": "00000", "text": "a b"}])


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"colour": "red"}, r"dataset\.yaml\.colour"),
        ({"inferencer": "guess"}, r"dataset\.yaml\.inferencer"),
        ({"name": "../etc"}, r"dataset\.yaml\.name"),
        ({"group": "sports"}, r"dataset\.yaml\.group"),
        ({"choices": None}, "ppl chooses among options"),
    ],
)
def test_a_wrong_option_of_the_yaml_is_named(folder, change, line):
    with pytest.raises(ConfigError, match=line):
        load(folder(CHOICE | change))


@pytest.mark.parametrize(
    ("record", "line"),
    [
        ({"A": "x", "B": "y", "answer": "A"}, "test.jsonl line 1: no field 'question'"),
        ({"question": "?", "A": "x", "answer": "A"}, "test.jsonl line 1: no field 'B' with options"),
        ([1], "test.jsonl line 1: no object"),
    ],
)
def test_a_record_that_does_not_fit_is_named_by_its_line(folder, record, line):
    with pytest.raises(InputError, match=line):
        questions(folder(CHOICE, [record]))


def test_what_cannot_be_read_is_said(folder, tmp_path):
    with pytest.raises(InputError, match=r"there is no dataset\.yaml in "):
        load(tmp_path)
    path = folder(CHOICE)
    (path / "test.jsonl").write_text('{"question": \n')
    with pytest.raises(InputError, match=r"test\.jsonl line 1: no JSON"):
        questions(path)
    (path / "test.jsonl").write_text("\n")
    with pytest.raises(InputError, match="holds no question"):
        questions(path)
    with pytest.raises(InputError, match="ids repeat"):
        questions(folder(CHOICE, [RECORDS[0], RECORDS[0]]))
    with pytest.raises(InputError, match=r"no nosuch\.yaml in .*; TokenMill ships agieval, "):
        load(path, shipped="nosuch")


def test_the_version_is_of_the_records_however_they_are_stored(folder):
    path = folder(CHOICE)
    first = version(load(path), path)
    (path / "test.jsonl.gz").write_bytes(gzip.compress((path / "test.jsonl").read_bytes()))
    zipped = load(folder(CHOICE | {"records": "test.jsonl.gz"}))
    assert version(zipped, path) == first
    folder(CHOICE, RECORDS[:1])
    assert version(load(path), path) != first
    assert version(load(folder(CHOICE | {"few_shot": {"n": 1}}, RECORDS[:1], RECORDS[1:])), path) != first
    folder(CHOICE)
    with pytest.raises(InputError, match="the records are version .*, not 0000 as dataset.yaml says"):
        questions(folder(CHOICE | {"digest": "0000"}))
    assert questions(folder(CHOICE | {"digest": first}))


SHOTS = {"mmlu": 5, "cmmlu": 5, "ceval": 5, "gsm8k": 4, "math": 4, "triviaqa": 4, "nq": 5, "c3": 5, "mbpp": 5}
"""Spec §8.2, the headers of the tables; all others are asked without examples."""
FIGURE_12 = {
    "coding": {"humaneval", "mbpp"},
    "reasoning": {"math", "gsm8k", "bbh"},
    "qa": {"hellaswag", "winogrande", "nq", "triviaqa"},
    "exam": {"mmlu", "agieval", "ceval"},
}
"""Spec §8.9, what of it is shipped."""


def shipped():
    return {path.stem: load(SHIPPED, shipped=path.stem) for path in SHIPPED.glob("*.yaml")}


def test_every_shipped_benchmark_is_asked_as_often_as_the_report_says():
    assert {name: one.few_shot.n if one.few_shot else 0 for name, one in shipped().items()} == {
        name: SHOTS.get(name, 0) for name in shipped()
    }
    assert all(one.name == name for name, one in shipped().items())
    for name in ("triviaqa", "nq", "c3", "flores"):  # spec §0.3: the report contradicts itself
        assert "contradicts itself" in shipped()[name].notes
    assert "43.3 on its model card" in shipped()["humaneval"].notes


def test_the_groups_are_the_reports():
    for name, one in shipped().items():
        own = name.removesuffix("-gen")
        grouped = [group for group, patterns in GROUPS.items() if f"*/{name}" in patterns]
        assert grouped == [group for group, members in FIGURE_12.items() if own in members], name
        assert not grouped or one.group == grouped[0]


def test_the_suites_hold_the_reports_scores():
    """A value of every table and of every column of models (spec §8.5), and no reference that a suite does not show."""
    base, chat = (hub.suite(name) for name in ("base", "chat"))
    found = {name: one.reference for name, one in shipped().items()}
    assert found["gsm8k"] == {
        "7B-Base": 36.0, "7B": 70.8, "20B-Base": 54.3, "20B": 76.1,
        "7B-SFT": 68.8, "7B-Chat": 70.7, "20B-SFT": 77.1, "20B-Chat": 79.6,
    }  # fmt: skip
    assert found["flores"]["20B"] == 6.5 and found["agieval"]["7B"] == 49.9 and found["mbpp-cn"]["20B-Base"] == 44.4
    assert (
        found["mmlu-gen"]["20B-SFT"] == 66.5 and found["c3-gen"]["7B-SFT"] == 91.7 and found["nq"]["20B-Chat"] == 25.9
    )
    assert not {"20B-Base"} & (found["mmlu"].keys() | found["agieval"].keys() | found["ceval"].keys())  # spec §0.3
    assert set(base.names) | set(chat.names) == set(found)
    shown = {name: set(suite.models) for suite in (base, chat) for name in suite.names}
    assert {name for name, models in shown.items() if not found[name].keys() & models} == {"humaneval-x-python"}
    assert found["mathbench-en"]["7B-Base"] == 18.5 and found["mathbench-cn-gen"]["20B-Chat"] == 48.0
    assert found["gaokao"] == {
        "7B-Base": 40.7, "7B": 58.6, "20B": 57.1, "7B-SFT": 57.3, "7B-Chat": 58.0, "20B-SFT": 58.6, "20B-Chat": 58.3
    }  # fmt: skip
    assert {model for scores in found.values() for model in scores} == {*base.models, *chat.models}


def test_a_published_record_of_each_layout_is_read(tmp_path):
    """Invented records in the published layouts."""
    made = {
        "gsm8k": {"question": "Ann has 3 pens and buys 4. How many?", "answer": "3 + 4 = <<3+4=7>>7\n#### 7"},
        "hellaswag": {"ctx": "She opens the door and", "endings": ["leaves.", "blue.", "seven.", "the."], "label": 0},
        "mmlu": {"question": "2 + 2?", "A": "3", "B": "4", "C": "5", "D": "6", "answer": "B"},
        "math": {"problem": "Half of one?", "solution": r"It is \boxed{\frac{1}{2}}.", "level": "Level 1"},
        "agieval": {"question": "2 + 2?", "options": ["3", "4"], "label": "B"},
        "race": {
            "article": "Ann has a cat.",
            "question": "What has Ann?",
            "options": ["A dog.", "A cat."],
            "answer": "B",
        },
        "c3": {"document": "甲：你好。", "question": "谁说话？", "choice": ["乙", "甲"], "answer": "甲"},
        "nq": {"question": "who wrote hamlet", "answer": ["Shakespeare", "William Shakespeare"]},
        "winogrande": {
            "before": "The cup broke the ",
            "after": " as it fell.",
            "option1": "cup",
            "option2": "plate",
            "answer": "1",
        },
        "bbh": {"input": "not True is", "target": "False"},
        "theoremqa": {"Question": "How many edges has K4?", "Answer": 6},
        "flores": {"source": "Hello.", "target": "Bonjour.", "from": "English", "to": "French"},
        "mmlu-gen": {"question": "2 + 2?", "A": "3", "B": "4", "C": "5", "D": "6", "answer": "B"},
        "hellaswag-gen": {"ctx": "She opens the door and", "endings": ["leaves.", "blue."], "label": 1},
    }
    right = {
        "gsm8k": "7", "hellaswag": 0, "mmlu": 1, "math": r"\frac{1}{2}", "agieval": 1, "race": 1, "c3": 1,
        "nq": ["Shakespeare", "William Shakespeare"], "winogrande": 1, "bbh": "False", "theoremqa": "6",
        "flores": "Bonjour.", "mmlu-gen": "B", "hellaswag-gen": "B",
    }  # fmt: skip
    for name, record in made.items():
        for file in ("test.jsonl", "train.jsonl", "dev.jsonl"):
            (tmp_path / file).write_text(
                (json.dumps(record) + "\n") * 5 if file != "test.jsonl" else json.dumps(record)
            )
        (found,) = rendered(load(tmp_path, shipped=name), tmp_path)[1]
        assert found["answer"] == right[name]
        if name == "nq":
            assert found["shots"].endswith("Answer: Shakespeare\n\n")
        if name == "winogrande":
            assert found["choices"][1] == "The cup broke the plate as it fell."
        if name == "hellaswag":
            assert found["choices"][0] == "She opens the door and leaves."


def test_an_added_dataset_is_evaluated_like_any_questions_and_its_licence_follows_it(lab, folder):
    path = folder(CHOICE | {"few_shot": {"n": 1}})
    added = hub.add(lab.store, load(path), path)
    again = hub.add(lab.store, load(path), path)
    assert again.questions.digest == added.questions.digest and [one.name for one in hub.listed(lab.store)] == [
        "capitals"
    ]
    assert added.suite == "choice/capitals" and added.facts["licence"] == "CC0-1.0"
    (source,) = added.questions.parents["source"]
    assert lab.store.get_manifest(source).facts["sources"]["capitals"]["licence"] == "CC0-1.0"
    config = EvaluateConfig(label="chat", resamples=100, answer_tokens=4)
    made = lab.step(
        "evaluation.evaluate", config, weights=lab.weights(), tokenizer=lab.tokenizer, questions=added.questions
    )
    facts = json.loads(lab.store.get_blob(made["output"].shard(EVALUATION).blob))
    assert facts["suites"]["choice/capitals"]["n"] == 2 and facts["questions"] == added.questions.content


def test_dataset_defaults_are_described():
    assert all(field.description for field in Dataset.model_fields.values())


def test_ifevals_layout_is_read_and_an_unknown_instruction_is_named(tmp_path):
    record = {"key": 1, "prompt": "Say it twice.", "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
              "kwargs": [{}, {"relation": "at least", "num_words": 3, "keyword": None}]}  # fmt: skip
    (tmp_path / "test.jsonl").write_text(json.dumps(record))
    mode, (found,) = rendered(load(tmp_path, shipped="ifeval"), tmp_path)
    assert mode.startswith("instructions/ifeval") and found["question"] == "Say it twice."
    assert found["instructions"][1]["parameters"] == {"relation": "at least", "num_words": 3}
    (tmp_path / "test.jsonl").write_text(
        json.dumps(record | {"instruction_id_list": ["no:such", "punctuation:no_comma"]})
    )
    with pytest.raises(InputError, match=r"line 1: no instruction of kind 'no:such' is known"):
        rendered(load(tmp_path, shipped="ifeval"), tmp_path)


def test_drawn_programs_are_counted_for_pass_at_k(folder):
    """The suite says how many; fewer than k are refused where the YAML is read."""
    few = {"name": "f", "description": "d", "language": "en", "licence": "MIT", "group": "coding", "inferencer": "code"}
    asked = few | {"template": "{q}", "samples": 5, "k": 2, "temperature": 0.5}
    _, (found,) = questions(folder(asked, [{"q": "def f():", "test": "f()"}]))
    assert (found["samples"], found["k"], found["temperature"]) == (5, 2, 0.5)
    with pytest.raises(ConfigError, match=r"pass@6 wants 6 samples at least: raise `samples`"):
        load(folder(asked | {"k": 6}))


SPLITS = BASE | {"inferencer": "deltas", "template": "{question}", "splits": {"train": "train.jsonl"}}


def test_splits_are_problems_with_their_answers_and_count_in_the_version(folder):
    path = folder(SPLITS, RECORDS, DEV)
    shard, records = questions(path)
    assert shard == "contamination/capitals.jsonl.zst"
    assert [record["split"] for record in records] == ["test"] * 2 + ["train"] * 6
    assert records[0] == {"id": "test/fr", "question": "Capital of {France}?", "answer": "B", "split": "test"}
    assert records[2]["id"] == "train/00000"
    before = version(load(path), path)
    assert version(load(folder(SPLITS, RECORDS, DEV[:5])), path) != before


@pytest.mark.parametrize("wrong", [{"splits": {}}, {"inferencer": "generate"}, {"splits": {"dev": "train.jsonl"}}])
def test_deltas_and_splits_go_together(folder, wrong):
    with pytest.raises(ConfigError, match="splits"):
        load(folder(SPLITS | wrong))


def test_both_deltas_of_a_dataset_are_measured_and_told(folder, lab):
    """A random model has no favourites: both are within chance, and no score is made up."""
    from tokenmill.cli.evaluating import _line, _suites

    path = folder(SPLITS | {"splits": {"train": "train.jsonl", "reference": "test.jsonl"}}, RECORDS, DEV)
    added = hub.add(lab.store, load(path), path)
    inputs = {"weights": lab.weights(), "tokenizer": lab.tokenizer, "questions": added.questions}
    ((suite, row),) = _suites(lab.store, "evaluation.evaluate", "pico", EvaluateConfig(), inputs)
    assert (suite, row["metric"], row["value"]) == ("contamination/capitals", "Δ1", 0.0)  # the same problems
    assert row["splits"]["train"]["n"] == 6 and row["splits"]["delta2"]["se"] > 0
    told = _line({"dataset": "capitals"} | row)
    assert "Δ1" in told and "Δ2" in told
