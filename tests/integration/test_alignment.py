"""SFT and RLHF at pico size: every training step on two real ranks, every artifact through the store."""

import math
import os
import re
import shutil
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import orjson
import psutil
import pytest
import yaml
from pico import Lab

from tokenmill.cli import annotating
from tokenmill.errors import Interrupted
from tokenmill.lineage import upstream
from tokenmill.manifest import Draft, Manifest
from tokenmill.model.config import InternLM2Config
from tokenmill.model.exchange import export_model
from tokenmill.model.folder import load_model, read_config, save_model
from tokenmill.model.modeling import InternLM2ForCausalLM, InternLM2ForRewardModel
from tokenmill.model.tokenizer import Tokenizer
from tokenmill.pretraining.config import TokenizeConfig, TokenizerConfig
from tokenmill.records import read_jsonl
from tokenmill.rlhf.annotation_store import retire
from tokenmill.rlhf.conditional import conditional_prompts
from tokenmill.rlhf.config import (
    CollectPreferencesConfig,
    DecideConfig,
    DPOConfig,
    EvaluateRewardModelConfig,
    PPOConfig,
    PPOExecution,
    ProbeConfig,
    RewardModelConfig,
    SamplingConfig,
    SnapshotAnnotationsConfig,
)
from tokenmill.rlhf.pairs import encode_pairs, sound_pairs
from tokenmill.rlhf.scoring import reward_scores
from tokenmill.rlhf.train_reward_model import kept_apart
from tokenmill.serving import serving_available
from tokenmill.sft.config import PrepareConfig, SFTTrainConfig
from tokenmill.steps.files import materialise
from tokenmill.training.settings import OptimConfig, TrainingExecution

pytestmark = pytest.mark.integration

SERVING, WHY_NOT = serving_available()
TWO_RANKS = TrainingExecution(ranks=2, checkpoint_every=1000)
SAMPLING = SamplingConfig(max_new_tokens=12)


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Lab:
    return Lab(tmp_path_factory.mktemp("alignment"))


@pytest.fixture(scope="module")
def records(lab):
    """All records of an artifact."""
    return lambda manifest: [r for shard in manifest.shards for r in read_jsonl(lab.store.blob_path(shard.blob))]


@pytest.fixture(scope="module")
def document(lab):
    """The JSON document of an artifact."""
    return lambda manifest, name: orjson.loads(lab.store.get_blob(manifest.shard(name).blob))


@pytest.fixture(scope="module")
def sources(lab):
    talk = [[{"text": "Hello there"}, {"text": "how are you?"}], [{"text": "I am fine, thanks"}]]
    path = lab.folder / "dataset.json"
    path.write_bytes(
        orjson.dumps(
            {f"d{i}": {"messages": [*talk, [{"text": f"It is day {i}"}], [{"text": "Yes"}]]} for i in range(9)}
        )
    )
    facts = {"sources": {"chitchat": {"licence": "MIT", "origin": "made for tests"}}}
    return lab.issue("sources", {"qa/chitchat/dataset.json": path}, facts=facts)


@pytest.fixture(scope="module")
def conversations(lab, sources):
    config = PrepareConfig(dialogues=8, arithmetic=12, requests=40, heldout_share=0.15, one_sided=0.2)
    return lab.step("sft.prepare", config, sources=sources)


@pytest.fixture(scope="module")
def tokens(lab, conversations, records):
    """Pretraining tokens and tokenizer, from the words of the conversations."""
    rows = [
        {
            "id": r["id"],
            "type": "qa",
            "lang": "en",
            "source": r["source"],
            "text": " ".join(m["content"] for m in r["messages"]),
        }
        for r in records(conversations["train"])
    ]
    corpus = lab.issue("corpus", {"type=qa/lang=en/part-00000.jsonl.zst": rows})
    tokenizer = lab.step("pretraining.train_tokenizer", TokenizerConfig(vocab_size=512, spare_tokens=16), corpus=corpus)
    made = tokenizer["output"]
    return lab.step("pretraining.tokenize", TokenizeConfig(), corpus=corpus, tokenizer=made)["output"], made


@pytest.fixture(scope="module")
def base(lab):
    folder = lab.folder / "base"
    save_model(InternLM2ForCausalLM(InternLM2Config.preset("pico"), seed=0), folder)
    return lab.issue_folder("weights", folder, counts={"tokens_seen": 1000})


SFT = SFTTrainConfig(
    context=128,
    packs_per_step=4,
    pretraining_types=("qa",),
    precision="fp32",
    optim=OptimConfig(lr=3e-3, warmup_ratio=0.1),
    execution=TWO_RANKS,
)


@pytest.fixture(scope="module")
def sft(lab, conversations, base, tokens):
    inputs = {"conversations": conversations["train"], "heldout": conversations["heldout"], "tokens": tokens[0]}
    return lab.step("sft.train", SFT, base=base, tokenizer=tokens[1], **inputs)


@pytest.fixture(scope="module")
def preferences(lab, conversations, tokens):
    config = CollectPreferencesConfig(heldout_templates=4, judge_share=0)
    return lab.step("rlhf.collect_preferences", config, conversations=conversations["train"], tokenizer=tokens[1])


def test_sft_that_ruins_a_model_leaves_the_weights_of_the_smallest_heldout_loss(
    lab, conversations, sft, tokens, records
):
    """At a rate that ruins it the best model is the one that it starts as."""
    ruinous = OptimConfig(lr=0.1, final_lr_ratio=1.0, warmup_ratio=0.0)
    config = SFT.model_copy(update={"evaluations": 3, "optim": ruinous})
    inputs = {"conversations": conversations["train"], "heldout": conversations["heldout"], "tokens": tokens[0]}
    made = lab.step("sft.train", config, base=sft["weights"], tokenizer=tokens[1], **inputs)
    losses = {r["step"]: r["heldout/loss"] for r in records(made["training_log"]) if "heldout/loss" in r}
    assert len(losses) == 3 and losses[0] == min(losses.values()) < max(losses.values())
    assert made["weights"].facts["best"] == {"step": 0, "heldout/loss": losses[0]}
    assert made["weights"].content == sft["weights"].content


REWARD_MODEL = RewardModelConfig(
    batch_tokens=1024, max_length=128, precision="fp32", optim=OptimConfig(lr=1e-3), execution=TWO_RANKS
)


@pytest.fixture(scope="module")
def reward_model(lab, preferences, sft, tokens):
    patches = lab.issue("preferences", {"part-00000.jsonl.zst": []})
    inputs = {"preferences": preferences["train"], "patches": [patches], "sft": sft["weights"], "tokenizer": tokens[1]}
    return lab.step("rlhf.train_reward_model", REWARD_MODEL, **inputs)


PPO = PPOConfig(
    iterations=3,
    evaluations=0,
    critic_warmup=1,
    answers=8,
    block=4,
    sampling=SAMPLING,
    max_length=128,
    pretrain_context=32,
    critic_lr=5e-4,
    precision="fp32",
    optim=OptimConfig(lr=1e-4, final_lr_ratio=1.0, warmup_ratio=0.0, weight_decay=0.0),
    execution=PPOExecution(**TWO_RANKS.model_dump()),
)


@pytest.fixture(scope="module")
def ppo_inputs(preferences, sft, reward_model, tokens):
    return {
        "queries": preferences["queries"],
        "sft": sft["weights"],
        "reward_model": reward_model["weights"],
        "tokenizer": tokens[1],
        "tokens": tokens[0],
    }


@pytest.fixture(scope="module")
def ppo(lab, ppo_inputs):
    return lab.step("rlhf.ppo", PPO, **ppo_inputs)


def test_conversations_are_split_whole(conversations, records):
    train, heldout = records(conversations["train"]), records(conversations["heldout"])
    groups = [{r["id"].partition("#")[0] for r in rows} for rows in (train, heldout)]
    assert not groups[0] & groups[1]
    assert len(groups[0] | groups[1]) == 8 + 12 + 40


def test_a_licence_that_changed_is_told_by_the_lineage_and_nothing_made_of_it_tells_the_old_one(lab, sources):
    config = PrepareConfig(dialogues=8, arithmetic=12, requests=40, heldout_share=0.15, one_sided=0.2)
    told = {"sources": {"chitchat": {"licence": "CC-BY-NC-4.0", "origin": "made for tests"}}}
    draft = Draft(kind="sources", shards=sources.shards, facts=told)
    other = Manifest.issue(draft, parents={}, step="test.made", version=1, config={})
    lab.store.put_manifest(other)
    free, bound = (lab.step("sft.prepare", config, sources=given)["train"] for given in (sources, other))
    assert free.content == bound.content and free.digest != bound.digest
    assert [s.licence for s in upstream(lab.store, bound.digest).sources] == ["CC-BY-NC-4.0"]
    assert "MIT" not in str(bound.facts)
    assert all(
        "licence" not in record for shard in bound.shards for record in read_jsonl(lab.store.blob_path(shard.blob))
    )


def test_fine_tuning_lowers_the_heldout_loss(sft, records):
    losses = [r["heldout/loss"] for r in records(sft["training_log"]) if "heldout/loss" in r]
    assert len(losses) == 2
    assert losses[1] < losses[0] - 0.5
    assert sft["weights"].counts["tokens_seen"] > 1000  # what the base had seen counts on


def test_templates_and_lengths_of_preferences(preferences, records):
    train, heldout = records(preferences["train"]), records(preferences["heldout"])
    assert len({r["template"] for r in heldout}) == 4
    assert not {r["template"] for r in train} & {r["template"] for r in heldout}
    for manifest in (preferences["train"], preferences["heldout"]):
        means = manifest.facts["mean_tokens"]
        assert means["chosen"] == pytest.approx(means["rejected"], rel=0.1)
    asked = records(preferences["queries"]) + records(preferences["heldout_queries"])
    assert {r["domain"] for r in asked} == {"helpful", "harmless"}
    assert all(r["messages"][-1]["role"] == "user" for r in asked)


def test_ppo_asks_no_query_of_a_held_out_template_and_the_probe_judges_by_these(preferences, records):
    learned, held = ([r["template"] for r in records(preferences[name])] for name in ("train", "heldout"))
    asked, probed = ([r["template"] for r in records(preferences[name])] for name in ("queries", "heldout_queries"))
    unseen = preferences["heldout_queries"].counts["of_heldout_templates"]
    assert not set(asked) & set(held)
    assert set(probed[:unseen]) == set(held) and not set(probed[unseen:]) & set(held)
    assert set(probed[unseen:]) <= set(learned) | set(asked)


def test_reward_model_is_trained_and_judged(lab, preferences, reward_model, tokens, sft, document, records):
    folder = lab.folder / "rm"
    for shard in reward_model["weights"].shards:
        path = folder / shard.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(lab.store.get_blob(shard.blob))
    assert read_config(folder).reward_token_id is not None
    assert orjson.loads((folder / "config.json").read_bytes())["architectures"] == ["InternLM2ForRewardModel"]
    load_model(folder, InternLM2ForRewardModel)
    log = records(reward_model["training_log"])
    assert {"loss", "accuracy", "margin"} <= set(log[0])

    config = EvaluateRewardModelConfig(max_length=128)
    inputs = {"heldout": preferences["heldout"], "reward_model": reward_model["weights"], "tokenizer": tokens[1]}
    judged = lab.step("rlhf.evaluate_reward_model", config, control=reward_model["weights"], **inputs)["output"]
    report = document(judged, "reward_model.json")
    assert set(report["with_prompts"]["accuracy"]) == {"helpful", "harmless"}
    assert {"accuracy", "margin", "ece", "conflicts", "curve"} <= set(report["with_prompts"]["domains"]["helpful"])
    assert report["without_prompts"]["flips"] == 0  # nothing tells the domains apart
    assert report["without_prompts"]["conflict_accuracy"] == pytest.approx(0.5, abs=0.01)
    assert report["shuffled_labels"] == report["with_prompts"]
    assert "control_at_chance" in report["checks"]


def test_ppo_is_on_policy_and_reports_every_iteration(ppo, sft, records):
    log = records(ppo["training_log"])
    assert [r["step"] for r in log] == [0, 1, 2]
    names = {
        "reward",
        "kl",
        "length",
        "entropy",
        "policy_loss",
        "value_loss",
        "pretrain_loss",
        "ratio_error",
        "clipped",
    }
    names |= {"reward/helpful", "reward/harmless", "kl_coefficient", "explained_variance", "unfinished"}
    assert all(names <= set(record) for record in log)
    assert all(r["ratio_error"] < 1e-3 and r["clipped"] == 0 for r in log)
    assert [abs(r["kl"]) > 1e-4 for r in log] == [False, False, True]  # the actor stood still in the warm-up
    assert (
        len({m.content for m in (sft["weights"], ppo["early"], ppo["weights"])}) == 2
    )  # of 3 iterations early is the 1st


def test_the_reward_model_that_leaves_is_the_most_accurate_on_questions_it_does_not_learn(
    lab, preferences, sft, tokens, records
):
    """And it says under which prompts it learned, those of a domain of people's own among them; so does its export."""
    learned, verse = records(preferences["train"]), {"domain": "verse", "condition": "You judge the verse."}
    own = [r | verse for r in learned if r["domain"] == "helpful"][::3]
    inputs = {"preferences": preferences["train"], "sft": sft["weights"], "tokenizer": tokens[1]}
    inputs["patches"] = [lab.issue("preferences", {"part-00000.jsonl.zst": own})]
    update = {"evaluations": 5, "validation_share": 0.3, "batch_tokens": 256, "optim": OptimConfig(lr=3e-3)}
    config = REWARD_MODEL.model_copy(update=update)
    made = lab.step("rlhf.train_reward_model", config, **inputs)
    told = [r for r in records(made["training_log"]) if "validation/accuracy" in r]
    best = max(told, key=lambda row: row["validation/accuracy"])  # the first of equals
    assert made["weights"].facts["best"] == {k: best[k] for k in ("step", "validation/accuracy")}
    assert len(told) == 5 and len({row["validation/accuracy"] for row in told}) > 1

    there, words_at = lab.folder / "best", materialise(lab.store, tokens[1], lab.folder / "best-words")
    model = load_model(materialise(lab.store, made["weights"], there), InternLM2ForRewardModel)
    words = Tokenizer.load(words_at)
    export_model(there, words_at, lab.folder / "exported")
    for folder in (there, lab.folder / "exported"):
        told = yaml.safe_load((folder / "rm_prompts.yaml").read_text())
        assert told == {d: conditional_prompts()[d] for d in ("helpful", "harmless")} | {"verse": verse["condition"]}
    pairs, _, _ = sound_pairs([*learned, *own], words, 128)
    _, measured = kept_apart(pairs, pairs, 0.3)
    right = [chosen > rejected for chosen, rejected in evaluated(model, encode_pairs(measured, words, 128))]
    assert sum(right) / len(right) == pytest.approx(best["validation/accuracy"], abs=1e-6)


def evaluated(model, pairs):
    """Scores of both sides, one side at a time."""
    return [[float(reward_scores(model, [side])) for side in pair] for pair in pairs]


def test_ppo_learns_the_same_with_its_optimizer_on_the_cpu_and_gradients_sharded(lab, ppo_inputs, ppo, records):
    offloaded = PPO.execution.model_copy(update={"zero_stage": 2, "offload_optimizer": True})
    inputs = ppo_inputs | {
        "queries": copy_of(lab, ppo_inputs["queries"], records)
    }  # other bytes: execution is no identity
    made = lab.step("rlhf.ppo", PPO.model_copy(update={"execution": offloaded}), **inputs)
    assert made["weights"].observed["time"] != ppo["weights"].observed["time"]
    for one, other in zip(records(made["training_log"]), records(ppo["training_log"]), strict=True):
        for name in ("reward", "kl", "value_loss", "policy_loss", "pretrain_loss", "grad_norm"):
            assert one[name] == pytest.approx(other[name], rel=1e-3, abs=1e-5), (one["step"], name)


def copy_of(lab, manifest, records):
    """The same records in another shard."""
    return lab.issue(manifest.kind, {"part-00000.jsonl.zst": [r | {"copied": True} for r in records(manifest)]})


def test_the_policy_that_leaves_is_the_one_worth_most_on_queries_that_are_never_asked(lab, ppo_inputs, sft, records):
    """At a rate that ruins the actor the best policy is SFT's, which it starts as; nothing else is as it is without."""
    ruinous = OptimConfig(lr=0.03, final_lr_ratio=1.0, warmup_ratio=0.0, weight_decay=0.0)
    config = PPO.model_copy(update={"evaluations": 3, "validation_queries": 8, "critic_warmup": 0, "optim": ruinous})
    made = lab.step("rlhf.ppo", config, **ppo_inputs)
    worth = {r["step"]: r["validation/worth"] for r in records(made["training_log"]) if "validation/worth" in r}
    assert list(worth) == [0, 2, 3] and worth[0] > max(worth[2], worth[3])
    assert made["weights"].facts["best"] == {"step": 0, "validation/worth": worth[0]}
    assert made["weights"].content == sft["weights"].content
    (last,) = [r for r in records(made["training_log"]) if r["step"] == 3]
    assert last["validation/worth"] == pytest.approx(last["validation/reward"] - 0.01 * last["validation/kl"])


def test_the_actor_is_the_same_to_the_bit_through_fifty_iterations_of_the_critic_alone(lab, ppo_inputs, sft, records):
    """The report's 50: after them the actor is SFT, after one more it is not; the critic has learned meanwhile."""
    config = PPO.model_copy(
        update={"critic_warmup": 50, "answers": 4, "block": 4, "execution": PPOExecution(ranks=1, zero_stage=0)}
    )
    alone, then = (lab.step("rlhf.ppo", config.model_copy(update={"iterations": n}), **ppo_inputs) for n in (50, 51))
    contents = [m["weights"].shard("model.safetensors").content for m in (sft, alone, then)]
    assert contents[0] == contents[1] != contents[2]
    losses = [r["value_loss"] for r in records(alone["training_log"])]
    assert sum(losses[-10:]) < sum(losses[:10]) / 2


@pytest.mark.skipif(not SERVING, reason=WHY_NOT)
def test_vllm_draws_for_all_ranks_and_what_it_drew_is_learned_from_on_policy(lab, ppo_inputs, sft, records):
    made = lab.step("rlhf.ppo", PPO.model_copy(update={"rollouts": "vllm"}), **ppo_inputs)
    log = records(made["training_log"])
    assert len(log) == 3
    assert all(r["ratio_error"] < 1e-4 and 0 < r["engine_error"] < 1e-2 for r in log)  # of ours, of the engine's
    assert [abs(r["kl"]) > 1e-4 for r in log] == [False, False, True]  # it had the actor's new weights at once
    assert made["weights"].content != sft["weights"].content


def test_dpo_learns_one_domains_preferences_from_the_same_pairs(lab, preferences, sft, tokens, records):
    config = DPOConfig(
        domain="helpful",
        batch_tokens=1024,
        max_length=128,
        precision="fp32",
        optim=OptimConfig(lr=1e-3, warmup_ratio=0.0),
        execution=TWO_RANKS,
    )
    inputs = {"preferences": preferences["train"], "patches": [], "sft": sft["weights"], "tokenizer": tokens[1]}
    made = lab.step("rlhf.dpo", config, **inputs)
    log = records(made["training_log"])
    assert log[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)  # the policy is the reference
    assert log[0]["margin"] == pytest.approx(0, abs=1e-4)
    assert log[-1]["margin"] > 0 and log[-1]["loss"] < log[0]["loss"]
    assert made["weights"].content != sft["weights"].content


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ppo_stopped_within_an_iteration_ends_it_and_goes_on_exactly(lab, ppo_inputs, records, tmp_path):
    """The second pass over some answers is no place to stop: there the actor is not the one that drew them."""
    config = PPO.model_copy(update={"passes": 2, "iterations": 3, "critic_warmup": 0, "kl_target": 0.5})
    shutil.copytree(lab.folder / "store", tmp_path / "store")
    elsewhere = Lab(tmp_path)
    with ThreadPoolExecutor(1) as stopper:
        stopping = stopper.submit(stop_ranks, str(tmp_path), 2)
        with pytest.raises(Interrupted, match="stopped by SIGTERM after step 2"):
            elsewhere.step("rlhf.ppo", config, **ppo_inputs)
        stopping.result()
    resumed, undisturbed = (where.step("rlhf.ppo", config, **ppo_inputs) for where in (elsewhere, lab))
    assert resumed["weights"].content == undisturbed["weights"].content
    steered = [r["kl_coefficient"] for r in records(undisturbed["training_log"])][::2]
    assert steered[0] == 0.01 and steered[1] == pytest.approx(0.0098)  # no KL yet: it went down, and a checkpoint knew


def stop_ranks(store, ranks):
    """SIGTERM to the ranks that train in a store, once they all listen, which is before their first step."""
    deadline = time.monotonic() + 60
    while len(listening := [pid for pid in psutil.pids() if listens(pid, store)]) < ranks:
        assert time.monotonic() < deadline, "the ranks did not start"
        time.sleep(0.01)
    for pid in listening:
        os.kill(pid, signal.SIGTERM)


def listens(pid, store):
    """Whether a process is a rank in this store that catches SIGTERM."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return False
    rank = "tokenmill.training.worker" in command and "torch.distributed.run" not in command and store in command[-2]
    return rank and bool(int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


@pytest.fixture(scope="module")
def probed(lab, preferences, sft, ppo, reward_model, tokens):
    config = ProbeConfig(queries=4, gold_questions=6, sampling=SAMPLING, max_length=128)
    return lab.step(
        "rlhf.probe",
        config,
        queries=preferences["heldout_queries"],
        gold=preferences["gold"],
        sft=sft["weights"],
        before=sft["weights"],
        policy=ppo["weights"],
        reward_model=reward_model["weights"],
        tokenizer=tokens[1],
    )


def test_the_gold_set_is_questions_with_answers_that_nobody_is_shown(preferences, records):
    gold = records(preferences["gold"])
    assert gold and all(r["answer"].isdigit() and [m["role"] for m in r["messages"]] == ["user"] for r in gold)
    assert {"max_words", "ends_with", "contains"} == set(gold[0]["form"])


def test_probe_compares_and_leaves_patches_and_answers_for_people(probed, preferences, document, records):
    report = document(probed["evaluation"], "probe.json")
    assert {"reward_grew", "kl_within_limit", "length_kept", "gold_kept", "format_kept"} < set(report["checks"])
    assert report["gain"] == pytest.approx(report["reward_after"] - report["reward_before"], abs=1e-6)
    assert report["gain_over_last"] == report["gain"]  # before the first round there was SFT
    assert report["gold_questions"] == 6 and 0 <= report["format_after"] <= 1
    assert probed["patches"].kind == "preferences"
    asked = [r["id"] for r in records(preferences["heldout_queries"])]
    said = records(probed["responses"])
    assert [r["id"] for r in said] == asked[4:]  # what is judged is never labelled
    assert all(set(r["answers"]) == {"sft", "policy"} for r in said)


def decided(lab, probed, ppo, sft, **config):
    inputs = {"evaluation": probed["evaluation"], "patches": probed["patches"], "training_log": ppo["training_log"]}
    return lab.step("rlhf.decide", DecideConfig(**config), policy=ppo["weights"], before=sft["weights"], **inputs)


def test_the_policy_that_is_handed_on_is_one_of_those_that_came_in(lab, probed, ppo, sft, document):
    """A few iterations gain nothing: the rule refuses the policy, unless it is told to require nothing."""
    refused, taken = (decided(lab, probed, ppo, sft, **given) for given in ({}, {"required": (), "needs_gain": False}))
    assert (refused["policy"].digest, taken["policy"].digest) == (sft["weights"].digest, ppo["weights"].digest)
    told = document(refused["decision"], "decision.json")
    assert not told["accepted"] and not told["goes_on"] and "within chance" in told["reason"]
    assert (taken["decision"].counts["accepted"], taken["decision"].counts["goes_on"]) == (1, 1)
    html = lab.store.get_blob(refused["page"].shard("round.html").blob).decode()
    assert told["reason"].split(":")[0] in html and "Reward an answer" in html


def test_what_people_labelled_trains_the_next_reward_model_and_lineage_says_so(
    lab, probed, preferences, sft, tokens, records, capsys
):
    """Pairs leave by the command line, labels come back by it; the snapshot is a parent of the reward model."""
    store = ["--store", lab.store.uri]
    given = lab.folder / "pairs.jsonl"
    tokenmill("annotations", "export", lab.run.key, "-o", str(given), *store)
    rows = [orjson.loads(line) for line in given.read_bytes().splitlines()]
    assert {row["batch"] for row in rows} == {probed["responses"].digest}
    assert len(rows) > 3 and not any(word in given.read_text() for word in ("policy", "sft"))
    filled = [
        orjson.dumps(row | {"choice": choice, "annotator": who, "time": "2026-03-14T09:15:00Z"})
        for row in rows
        for who, choice in (("eva@example.org", "a"), ("tom", "tie" if row is rows[0] else "a"))
    ]
    given.write_bytes(b"\n".join(filled))
    for _ in range(2):
        tokenmill("annotations", "import", str(given), *store)
    said = capsys.readouterr().out
    told = f"{len(rows)} pairs labelled by 2 people; {len(rows) - 1} preferences, 1 no majority"
    assert told in said and "imported before" in said
    assert not any(b"eva" in lab.store.backend.get(e.key) for e in lab.store.backend.list("annotations/"))

    labelled = lab.step("rlhf.snapshot_annotations", SnapshotAnnotationsConfig())["output"]
    chosen = {(r["chosen"], r["rejected"]) for r in records(labelled)}
    assert chosen == {(row["a"], row["b"]) for row in rows[1:]}
    inputs = {"preferences": labelled, "patches": [labelled], "sft": sft["weights"], "tokenizer": tokens[1]}
    config = REWARD_MODEL.model_copy(update={"max_pairs": 4})
    trained = lab.step("rlhf.train_reward_model", config, **inputs)["weights"]
    assert labelled.digest in {e.parent for e in upstream(lab.store, trained.digest).parents(trained.digest)}
    assert retire(lab.store, days=0, now=time.time() + 60) == 1
    assert b"annotator-" not in b"".join(
        lab.store.backend.get(e.key) for e in lab.store.backend.list("annotations/") if not e.key.endswith("/key")
    )
    kept = lab.step("rlhf.snapshot_annotations", SnapshotAnnotationsConfig())["output"]
    assert kept.content == labelled.content  # the pairs stay


def tokenmill(*arguments):
    annotating.app(list(arguments), prog_name="tokenmill", standalone_mode=False)
