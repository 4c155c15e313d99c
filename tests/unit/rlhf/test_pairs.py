"""Batches of preference pairs: whole pairs, the budget kept, the same loss on any number of ranks."""

import pytest
import torch

from tokenmill.errors import InputError
from tokenmill.model.chat import answer_ids
from tokenmill.rlhf.conditional import Query, conditional_prompts, reward_input, sound_queries
from tokenmill.rlhf.config import RewardModelConfig
from tokenmill.rlhf.pairs import RewardBatches, encode_pairs, reward_loss, sound_pairs, with_shuffled_labels
from tokenmill.rlhf.reward import pair_loss
from tokenmill.rlhf.scoring import reward_scores
from tokenmill.rlhf.train_reward_model import kept_apart


@pytest.fixture
def records(written):
    direct, careful = written
    made = []
    for number in range(24):
        helpful = number % 2 == 0
        made.append(
            {
                "id": f"r{number // 2}#{'helpful' if helpful else 'harmless'}",
                "domain": "helpful" if helpful else "harmless",
                "prompt": [{"role": "user", "content": f"How do I paint the wall at home?{' please' * (number % 5)}"}],
                "chosen": direct if helpful else careful,
                "rejected": careful if helpful else direct,
                "template": "ask",
                "conflict": True,
            }
        )
    return made


def test_the_reward_model_reads_condition_dialogue_answer_and_reward_token(records, tokenizer):
    query = Query.of(records[0])
    answer = answer_ids(records[0]["chosen"], tokenizer)
    ids = reward_input(query, answer, tokenizer, max_length=512)
    text = tokenizer.decode(ids)
    assert ids[0] == tokenizer.bos_id and ids[-2:] == [tokenizer.im_end_id, tokenizer.reward_id]
    assert text.startswith(f"<s><|im_start|>system\n{conditional_prompts()['helpful']}<|im_end|>\n<|im_start|>user\n")
    assert ids.count(tokenizer.reward_id) == 1
    without = reward_input(query, answer, tokenizer, max_length=512, conditional=False)
    assert conditional_prompts()["helpful"] not in tokenizer.decode(without)
    assert reward_input(query, answer, tokenizer, max_length=20)[-1] == tokenizer.reward_id


def test_every_pair_once_and_no_batch_over_its_budget(records, tokenizer):
    pairs = encode_pairs(records, tokenizer, max_length=128)
    for budget in range(260, 460, 20):
        batches = RewardBatches(pairs, batch_tokens=budget, seed=5, micro_batch_tokens=4096)
        assert sorted(index for step in batches.bins for index in step) == list(range(len(pairs)))
        assert all(batches.at(step, 0, 1).tokens <= budget for step in range(len(batches)))
    other = RewardBatches(pairs, batch_tokens=440, seed=6, micro_batch_tokens=4096)
    assert batches.bins[0] != other.bins[0]


def test_the_mean_over_pairs_does_not_depend_on_ranks_or_micro_batches(records, tokenizer, judge):
    config = RewardModelConfig(batch_tokens=4096, max_length=128)
    pairs, loss = encode_pairs(records, tokenizer, 128), reward_loss(config)

    def gradient(world, micro_batch_tokens=4096):
        batches = RewardBatches(pairs, 700, seed=0, micro_batch_tokens=micro_batch_tokens)
        judge.zero_grad()
        total = 0.0
        for rank in range(world):
            share = batches.at(0, rank, world)
            assert len(share.micro_batches) == batches.accumulation(world)
            for micro_batch in share.micro_batches:
                output = loss(judge, micro_batch)
                (output.loss / share.weight).backward()
                total += float(output.loss.detach()) / share.weight
        return total, judge.v_head.weight.grad.clone()

    alone = gradient(1)
    for other in (gradient(5), gradient(1, micro_batch_tokens=200), gradient(2, micro_batch_tokens=1)):
        assert alone[0] == pytest.approx(other[0], abs=1e-6)
        torch.testing.assert_close(alone[1], other[1], atol=1e-6, rtol=1e-4)

    batches = RewardBatches(pairs, 700, seed=0, micro_batch_tokens=200)
    assert batches.accumulation(1) > 2
    sides = [pairs[index] for index in batches.bins[0]]
    chosen, rejected = (reward_scores(judge, [pair[side] for pair in sides]) for side in (0, 1))
    assert alone[0] == pytest.approx(float(pair_loss(chosen, rejected).mean()), abs=1e-5)


def test_shuffled_labels_leave_nothing_to_learn(records, written):
    shuffled = with_shuffled_labels(records, seed=1)
    swapped = [a["chosen"] != b["chosen"] for a, b in zip(records, shuffled, strict=True)]
    for domain in ("helpful", "harmless"):
        members = [s for s, r in zip(swapped, records, strict=True) if r["domain"] == domain]
        assert sum(members) == len(members) / 2
    assert {(r["chosen"], r["rejected"]) for r in shuffled} == {written, written[::-1]}
    bare = [{k: r[k] for k in ("id", "domain", "prompt", "chosen", "rejected")} for r in records]  # a user's own
    assert [r["chosen"] for r in with_shuffled_labels(bare, seed=1)] == [r["chosen"] for r in shuffled]


def test_pairs_that_say_nothing_are_set_aside_with_their_reason(records, tokenizer):
    good = records[0]
    longest = max(len(side) for side in encode_pairs([good], tokenizer, 512)[0])
    bad = {
        "equal": good | {"rejected": f" {good['chosen']}\n"},
        "long": good | {"rejected": good["rejected"] + " Sure."},
        "domain": good | {"domain": "poetry"},
        "silent": good | {"prompt": [], "messages": []},
        "role": good | {"prompt": [{"role": "narrator", "content": "Once."}]},
        "first": good | {"prompt": [{"role": "assistant", "content": "Hello."}, *good["prompt"]]},
        "empty": good | {"prompt": [*good["prompt"], {"role": "user", "content": " "}]},
        "empty too": good | {"prompt": [{"role": "user", "content": ""}]},
        "none": good | {"prompt": [{"role": "user", "content": None}]},
        "text": good | {"prompt": "How do I paint the wall?"},
        "half": {key: value for key, value in good.items() if key != "rejected"},
        "number": good | {"chosen": 3},
    }
    given = [good, *(record | {"id": name} for name, record in bad.items())]
    kept, pairs, aside = sound_pairs(given, tokenizer, max_length=longest)
    assert kept == [good] and pairs == encode_pairs([good], tokenizer, longest)
    assert {name: reason for reason, names in aside.reasons.items() for name in names}.keys() == bad.keys()
    told = aside.facts()["set_aside"]
    assert told["with equal sides"] == {"records": 1, "first": ["equal"]}
    assert told[f"longer than max_length = {longest} tokens"]["first"] == ["long"]
    assert told["without 'rejected'"]["first"] == ["half"]
    assert told["that are no dialogue: unknown role"]["first"] == ["role"]
    assert told["that are no dialogue: begins with the assistant"]["first"] == ["first"]
    assert told["that are no dialogue: empty turn"] == {"records": 2, "first": ["empty", "empty too"]}
    with pytest.raises(InputError, match=r"12 of 13 records cannot be used: .*\(equal\).*more than 50.0% \(option\)"):
        aside.require_few(len(given), 0.5, "option")
    aside.require_few(len(given), 0.95, "option")


def test_nothing_is_told_of_sound_pairs(records, tokenizer):
    kept, _, aside = sound_pairs(records, tokenizer, max_length=512)
    assert kept == records and not aside and aside.facts() == {}
    aside.require_few(0, 0.0, "option")


def test_queries_that_cannot_be_judged_are_set_aside(records, tokenizer):
    asked = {"id": "q", "domain": "helpful", "messages": records[0]["prompt"]}
    long = [{"role": "user", "content": "paint the wall " * 40}]
    given = [asked, asked | {"id": "poem", "domain": "poetry"}, asked | {"id": "long", "messages": long}]
    given += [asked | {"id": "empty", "messages": [{"role": "user", "content": ""}]}, {"id": "half"}]
    queries, aside = sound_queries(given, tokenizer, context=128, max_length=512)
    assert [query.id for query in queries] == ["q"]
    assert sorted(name for names in aside.reasons.values() for name in names) == ["empty", "half", "long", "poem"]
    read = len(reward_input(queries[0], [], tokenizer, max_length=512))
    for room, asked_still in ((read, 0), (read + 1, 1)):  # one token of an answer must be read too
        assert len(sound_queries([asked], tokenizer, context=128, max_length=room)[0]) == asked_still


def test_a_pair_that_no_batch_holds_is_refused(records, tokenizer):
    pairs = encode_pairs(records, tokenizer, 128)
    longest = max(len(chosen) + len(rejected) for chosen, rejected in pairs)
    RewardBatches(pairs, longest, seed=0, micro_batch_tokens=1)
    with pytest.raises(InputError, match=f"a pair has {longest} tokens, more than a batch may have"):
        RewardBatches(pairs, longest - 1, seed=0, micro_batch_tokens=1)


def test_a_question_is_learned_or_measured_with_all_its_pairs():
    asked = [f"Question {number // 3}?" for number in range(30)]
    records = [{"prompt": [{"role": "user", "content": text}]} for text in asked]
    learned, measured = kept_apart(records, list(enumerate(asked)), 0.2)
    assert sorted(learned + measured) == list(enumerate(asked)) and len(measured) == 6
    assert not {text for _, text in learned} & {text for _, text in measured}
    assert kept_apart(records, asked, 0) == (asked, [])
    assert len(kept_apart(records[:6], asked[:6], 0.9)[0]) == 3  # one question is always left to learn
    with pytest.raises(InputError, match="all pairs are of one question"):
        kept_apart(records[:3], asked[:3], 0.5)
