"""Losses and answers, against computations that share no code with them."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from pico import Lab, chat

from tokenmill.errors import InputError
from tokenmill.evaluation import scoring
from tokenmill.evaluation.backend import Answer
from tokenmill.evaluation.config import EvaluateConfig, EvaluateExecution
from tokenmill.evaluation.in_process import InProcess
from tokenmill.evaluation.scoring import Subject
from tokenmill.model.tokenizer import Tokenizer
from tokenmill.steps.files import materialise

CONFIG = EvaluateConfig(answer_tokens=8)


@pytest.fixture(scope="module")
def module_lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module")
def subject(module_lab: Lab) -> Subject:
    lab = module_lab
    weights = materialise(lab.store, lab.weights(), lab.folder / "w")
    tokenizer = materialise(lab.store, lab.tokenizer, lab.folder / "t")
    made = InProcess.load(weights, CONFIG.execution)
    with torch.no_grad():
        made.model.output.weight.mul_(20)  # an untrained model has hardly a preference; this one has
    return Subject.of(made, tokenizer, CONFIG)


def loss_by_hand(subject: Subject, ids: list[int], begin: int = 1) -> float:
    """Mean −log p of tokens `begin`… of one sequence, from the logits."""
    with torch.no_grad():
        logprobs = subject.backend.model(torch.tensor(ids)).double().log_softmax(-1)
    return -sum(float(logprobs[i - 1, ids[i]]) for i in range(begin, len(ids))) / (len(ids) - begin)


def test_perplexity_counts_every_token_of_a_document_after_the_first(subject: Subject) -> None:
    text = "The old king rode over hills"
    ids = [subject.tokenizer.bos_id, *subject.tokenizer.encode(text)]
    (found,) = scoring.perplexity(subject, [{"id": "a", "text": text}])
    assert found["tokens"] == len(ids) - 1
    assert math.isclose(found["loss"] / found["tokens"], loss_by_hand(subject, ids), rel_tol=1e-5)


def test_perplexity_of_a_conversation_counts_the_assistant_only(subject: Subject) -> None:
    (found,) = scoring.perplexity(subject, [{"id": "a", "messages": chat("corn?", "wine and silver")}])
    said = subject.tokenizer.encode("wine and silver")
    assert found["tokens"] == len(said) + 1  # and <|im_end|>
    prompt = scoring.encode_prompt([{"role": "user", "content": "corn?"}], subject.tokenizer)
    ids = [*prompt, *said, subject.tokenizer.im_end_id]
    assert math.isclose(found["loss"] / found["tokens"], loss_by_hand(subject, ids, len(prompt)), rel_tol=1e-5)


def test_the_bytes_of_a_text_are_the_same_in_any_tokenizers_words(subject: Subject) -> None:
    """What a special token says is no text; of a text that the context cuts only what was read counts."""
    text, said = "Der alte König ritt über Hügel, 语言模型 🦊", "wine and\n silver"
    asked = [{"id": "a", "text": text}, {"id": "b", "messages": [*chat("corn?", said), *chat("and?", "ü")]}]
    bytewise = Tokenizer.train(["nothing"], subject.tokenizer.vocab_size)
    other = replace(subject, tokenizer=bytewise, special=frozenset(bytewise.special.values()))
    ours, theirs = scoring.perplexity(subject, asked), scoring.perplexity(other, asked)
    assert [row["bytes"] for row in ours] == [row["bytes"] for row in theirs] == [len(text.encode()), len(said) + 2]
    assert [row["tokens"] for row in ours] != [row["tokens"] for row in theirs]
    long = "x y " * subject.context
    (cut,) = scoring.perplexity(other, [{"id": "c", "text": long}])
    assert cut["bytes"] == len(bytewise.decode(bytewise.encode(long)[: subject.context - 1])) < len(long)


@pytest.mark.parametrize("losses", [[math.nan, math.nan], [math.nan, 1.0], [math.inf, math.inf]])
def test_a_diverged_model_chooses_nothing(losses: list[float]) -> None:
    """The least of what is no number would be the first option, which is right as often as chance."""
    assert scoring._chosen(losses, {"answer": 0}) == {"chosen": None, "score": 0.0}


def test_choice_is_the_lowest_mean_loss_not_the_lowest_sum(subject: Subject) -> None:
    """A long option has the higher sum; what is compared is the mean over the whole filled template."""
    texts = ["home", "home with corn wine and silver and a bright river", "over", "many ships came home"]
    records = [{"id": str(i), "choices": [f"ships came {text}" for text in texts], "answer": i} for i in range(4)]
    means = [
        loss_by_hand(subject, [subject.tokenizer.bos_id, *subject.tokenizer.encode(text)])
        for text in records[0]["choices"]
    ]
    best = means.index(min(means))
    found = scoring.choice(subject, records)
    assert all(prediction["chosen"] == best for prediction in found)
    assert [prediction["score"] for prediction in found] == [float(i == best) for i in range(4)]
    assert all(math.isclose(a, b, rel_tol=1e-5) for a, b in zip(found[0]["losses"], means, strict=True))


def test_losses_do_not_depend_on_who_shares_a_pass(subject: Subject) -> None:
    records = [{"id": str(i), "text": f"the king saw {i} ships and {i * 7} hills"} for i in range(20)]
    alone = [scoring.perplexity(subject, [record])[0]["loss"] for record in records]
    together = [found["loss"] for found in scoring.perplexity(subject, records)]
    assert all(math.isclose(a, b, rel_tol=1e-5) for a, b in zip(alone, together, strict=True))


def says(monkeypatch: pytest.MonkeyPatch, answers: list[Answer]) -> list[list[int]]:
    """Let the model answer so; returns what it is asked."""
    asked: list[list[int]] = []

    def answer(self: InProcess, prompts: list[list[int]], sampling: Any) -> list[Answer]:
        asked.extend(prompts)
        assert sampling.temperature == 0
        return answers

    monkeypatch.setattr(InProcess, "answers", answer)
    return asked


def test_generated_answers_are_read_and_compared(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    end = subject.tokenizer.im_end_id
    texts = ["2 + 3 = 5.", "I think\n#### 6"]
    says(monkeypatch, [Answer([*subject.tokenizer.encode(t), end], True) for t in texts])
    found = scoring.generated(subject, [{"id": str(i), "question": "What is 2 + 3?", "answer": "5"} for i in range(2)])
    assert [(p["found"], p["score"]) for p in found] == [("5.", 1.0), ("6", 0.0)]


def test_a_base_model_is_asked_in_its_own_form_and_read_up_to_the_line_end(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Subject(subject.backend, subject.tokenizer, subject.special, EvaluateConfig(form="plain", answer_tokens=8))
    said = Answer(subject.tokenizer.encode(" 5\nQuestion: what is 1 + 1?\nAnswer: 2"), False)
    asked = says(monkeypatch, [said])
    (found,) = scoring.generated(plain, [{"id": "a", "question": "What is 2 + 3?", "answer": "5"}])
    assert subject.tokenizer.decode(asked[0][1:]) == "Question: What is 2 + 3?\nAnswer:"
    assert (found["found"], found["score"]) == ("5", 1.0)


def test_well_formed_share(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    words, end = subject.tokenizer.encode("fine"), subject.tokenizer.im_end_id
    reward = subject.tokenizer.reward_id
    said = [
        Answer([*words, end], True),
        Answer(words, False),
        Answer([*words, reward, end], True),
        Answer([3 + 0xC3, end], True),  # the byte C3 alone is no UTF-8
        Answer([*words, subject.tokenizer.eos_id], True),
    ]
    says(monkeypatch, said)
    prompts = [{"id": str(i), "messages": [{"role": "user", "content": "hi"}]} for i in range(5)]
    found = scoring.well_formed(subject, prompts)
    assert [prediction["score"] for prediction in found] == [1.0, 0.0, 0.0, 0.0, 0.0]
    assert found[2]["faults"] == ["special token inside"]
    assert found[3]["faults"] == ["not UTF-8"]


def test_a_long_prompt_keeps_its_end(subject: Subject) -> None:
    long = [subject.tokenizer.bos_id, *range(300, 300 + 200)]
    (answer,) = subject.answer([long])
    assert 1 <= len(answer.tokens) <= CONFIG.answer_tokens


def test_another_models_tokenizer_is_refused(module_lab: Lab) -> None:
    lab = module_lab
    from tokenmill.model.tokenizer import Tokenizer

    other = lab.folder / "other"
    Tokenizer.train(["some text"], vocab_size=384).save(other)
    with pytest.raises(InputError, match="512 token ids, the tokenizer 384"):
        Subject.of(InProcess.load(lab.folder / "w", CONFIG.execution), other, CONFIG)


def test_batching_changes_no_answer(subject: Subject) -> None:
    prompts = [[subject.tokenizer.bos_id, *subject.tokenizer.encode(f"the king {i}")] for i in range(6)]
    rows = InProcess(subject.backend.model, EvaluateExecution(batch_rows=2))
    small = Subject(rows, subject.tokenizer, subject.special, CONFIG)
    assert [a.tokens for a in subject.answer(prompts)] == [a.tokens for a in small.answer(prompts)]


def test_likelihood_is_of_the_option_alone_after_the_examples(subject: Subject) -> None:
    """Sums over the option's tokens; those of examples and question are no part of them."""
    shots, question = "the old king saw hills\n\n", "many ships came"
    options = [" home with corn", " over", " where the bright river"]
    record = {"id": "a", "shots": shots, "question": question, "choices": [question + o for o in options], "answer": 1}
    sums = []
    for option in options:
        before = [subject.tokenizer.bos_id, *subject.tokenizer.encode(shots + question)]
        ids = [subject.tokenizer.bos_id, *subject.tokenizer.encode(shots + question + option)]
        sums.append(loss_by_hand(subject, ids, len(before)) * (len(ids) - len(before)))
    (found,) = scoring.likelihood(subject, [record])
    assert all(math.isclose(a, b, rel_tol=1e-4) for a, b in zip(found["losses"], sums, strict=True))
    assert found["chosen"] == sums.index(min(sums)) and found["score"] == float(found["chosen"] == 1)


def test_examples_that_leave_no_room_are_refused_not_cut(subject: Subject) -> None:
    record = {"id": "a7", "shots": "ships came home " * 400, "question": "", "choices": ["over", "under"], "answer": 0}
    for mode in (scoring.choice, scoring.likelihood):
        with pytest.raises(
            InputError, match=r"question a7 has \d+ tokens with its examples, the model reads \d+: lower few_shot"
        ):
            mode(subject, [record])


def test_examples_stand_before_every_option(subject: Subject) -> None:
    record = {"id": "a", "question": "", "choices": ["ships came home", "over the hills"], "answer": 0}
    shown = "the old king rode\n\n"
    (found,) = scoring.choice(subject, [record | {"shots": shown}])
    (whole,) = scoring.choice(subject, [record | {"choices": [shown + text for text in record["choices"]]}])
    assert found["losses"] == whole["losses"] != scoring.choice(subject, [record])[0]["losses"]


def test_a_datasets_question_is_put_as_it_stands(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(self: Subject, prompts: Any) -> list[Answer]:
        asked.extend(self.tokenizer.decode(prompt) for prompt in prompts)
        return [Answer(self.tokenizer.encode(" So 3, or\n(B)\n\nQ: next"), False) for _ in prompts]

    monkeypatch.setattr(Subject, "answer", answer)
    plain = Subject(subject.backend, subject.tokenizer, subject.special, EvaluateConfig(form="plain"))
    records = [
        {"id": "ours", "question": "1 + 2?", "answer": "3"},
        {
            "id": "theirs",
            "shots": "Q: 0\nA\n\n",
            "question": "Q: 1",
            "answer": "B",
            "extraction": "option",
            "metric": "same",
        },
    ]
    found = scoring.generated(plain, records)
    assert [text.removeprefix("<s>") for text in asked] == ["Question: 1 + 2?\nAnswer:", "Q: 0\nA\n\nQ: 1"]
    assert [(one["said"], one["found"], one["score"]) for one in found] == [
        ("So 3, or", "3,", 1.0),
        ("So 3, or\n(B)", "B", 1.0),
    ]


def test_drawn_programs_give_pass_at_k_and_one_is_greedy(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four programs of the first question one passes, of the second none: 1 - C(3, 2) / C(4, 2) = 0.5, and 0."""
    programs = iter(["right", "wrong", "wrong", "wrong", "wrong", "wrong", "wrong", "wrong"])
    asked: list[float] = []

    def answer(self: InProcess, prompts: Any, sampling: Any) -> list[Answer]:
        asked.append(sampling.temperature)
        return [Answer(subject.tokenizer.encode(next(programs)), False) for _ in prompts]

    def check(question: str, said: str, test: str) -> Any:
        return scoring.programs.Outcome(said == "right", "ran")

    monkeypatch.setattr(InProcess, "answers", answer)
    monkeypatch.setattr(scoring.programs, "check", check)
    drawn = {"samples": 4, "k": 2, "temperature": 0.7}
    records = [{"id": str(i), "question": "def f():", "test": "f()"} | drawn for i in range(2)]
    assert [one["score"] for one in scoring.code(subject, records)] == [0.5, 0.0]
    programs = iter(["right"])
    (alone,) = scoring.code(subject, [{"id": "a", "question": "def f():", "test": "f()"}])
    assert (alone["score"], alone["said"], asked) == (1.0, "right", [0.7, 0.0])


def test_instructions_are_judged_strictly_and_loosely(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """An asterisk of Markdown is forgiven loosely only; a comma never."""
    kinds = [{"kind": "punctuation:no_comma", "parameters": {}}, {"kind": "startend:quotation", "parameters": {}}]
    texts = ['"no more"', '*"no more"*', '"no, more"']
    says(monkeypatch, [Answer(subject.tokenizer.encode(text), False) for text in texts])
    records = [{"id": str(i), "question": "Say so.", "instructions": kinds} for i in range(3)]
    found = scoring.instructed(subject, records)
    assert [one["strict"] for one in found] == [[True, True], [True, False], [False, True]]
    assert [one["loose"] for one in found] == [[True, True], [True, True], [False, True]]
    assert [one["score"] for one in found] == [1.0, 0.0, 0.0]
