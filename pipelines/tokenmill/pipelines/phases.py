"""One nested pipeline a phase: the seven boxes that open in the KFP UI.

`lifecycle.py` chains them, `parts.py` runs each alone; a pipeline of one's own can take any of them, with
`import_manifest` for what exists.
"""

from typing import Any, NamedTuple

from kfp import dsl

from tokenmill.curation import component as curation_tasks
from tokenmill.deployment import component as deployment_tasks
from tokenmill.enhancement import component as enhancement_tasks
from tokenmill.evaluation import component as evaluation_tasks
from tokenmill.pretraining import component as pretraining_tasks
from tokenmill.rlhf import component as rlhf_tasks
from tokenmill.sft import component as sft_tasks

Tasks = dict[str, Any]
"""Arguments of tasks, or tasks, by name: what KFP hands on has no types of its own."""
ROUNDS = 3
"""Rounds of online RLHF that a package can run at most: as many as the report ran (§4.2.2)."""
_FEWER_ROUNDS = {"pico": 2, "nano": 2}


def usual_rounds(preset: str) -> int:
    """Rounds that a package of this preset runs where nobody asks for others: a laptop has two, to end in minutes."""
    return _FEWER_ROUNDS.get(preset, ROUNDS)


class Curated(NamedTuple):
    sources: dsl.Dataset
    corpus: dsl.Dataset


@dsl.pipeline(name="curation", description="Format → Clean → Dedup → Safe → High-quality; code in dependency order.")
def curation(run: str, sources: list, scorers: list) -> Curated:
    registered = curation_tasks.register_sources(run=run, sources=sources).outputs["registered"]
    with dsl.ParallelFor(curation_tasks.plan_sources(run=run, sources=registered).output, name="read") as group:
        raw = curation_tasks.ingest_group(run=run, group=group.digest, suffix=group.suffix).outputs["corpus"]
        clean = curation_tasks.filter_corpus(run=run, corpus=raw, suffix=group.suffix).outputs["clean"]

    groups = curation_tasks.plan_corpora(run=run, corpora=dsl.Collected(clean), task="curation.plan.clean").output
    with dsl.ParallelFor(groups, name="lines") as group:
        lines = curation_tasks.count_lines_group(run=run, group=group.digest, suffix=group.suffix).outputs["lines"]
    repeated = curation_tasks.find_boilerplate(run=run, lines=dsl.Collected(lines)).outputs["boilerplate"]
    with dsl.ParallelFor(groups, name="strip") as group:
        stripped = curation_tasks.strip_boilerplate_group(
            run=run, group=group.digest, boilerplate=repeated, suffix=group.suffix
        ).outputs["stripped"]

    regrouped = curation_tasks.regroup(run=run, corpora=dsl.Collected(stripped), task="curation.merge.stripped")
    read, groups = regrouped.outputs["corpus"], regrouped.outputs["Output"]
    with dsl.ParallelFor(groups, name="fingerprint") as group:
        prints = curation_tasks.fingerprint_group(run=run, group=group.digest, suffix=group.suffix)
    index = curation_tasks.gather(run=run, parts=dsl.Collected(prints.outputs["fingerprints"])).outputs["gathered"]
    with dsl.ParallelFor(curation_tasks.plan_exchange(run=run, fingerprints=index).output, name="exchange") as part:
        pairs = curation_tasks.exchange(run=run, fingerprints=index, part=part).outputs["pairs"]
    found = curation_tasks.cluster(run=run, corpus=read, fingerprints=index, pairs=dsl.Collected(pairs))

    chosen = curation_tasks.choose_scorers(run=run, given=scorers).outputs["scorers"]
    with dsl.ParallelFor(groups, name="judge") as group:
        unique = curation_tasks.deduplicate_group(
            run=run, group=group.digest, duplicates=found.outputs["duplicates"], suffix=group.suffix
        ).outputs["unique"]
        scored = curation_tasks.score(run=run, corpus=unique, scorers=chosen, suffix=group.suffix).outputs["scored"]
        safe = curation_tasks.screen(run=run, corpus=scored, suffix=group.suffix).outputs["safe"]
        graded = curation_tasks.grade(run=run, corpus=safe, suffix=group.suffix).outputs["graded"]
        tiered = curation_tasks.tier_code(run=run, corpus=graded, suffix=group.suffix).outputs["tiered"]
    judged = curation_tasks.merge(run=run, corpora=dsl.Collected(tiered), task="curation.merge.tiered")
    ordered = curation_tasks.order_code(run=run, corpus=judged.outputs["corpus"]).outputs["ordered"]
    curation_tasks.funnel(
        run=run,
        raw=dsl.Collected(raw),
        clean=dsl.Collected(clean),
        stripped=dsl.Collected(stripped),
        unique=dsl.Collected(unique),
        scored=dsl.Collected(scored),
        safe=dsl.Collected(safe),
        graded=dsl.Collected(graded),
        tiered=dsl.Collected(tiered),
        ordered=ordered,
    )
    return Curated(sources=registered, corpus=ordered)


class Pretrained(NamedTuple):
    tokenizer: dsl.Artifact
    tokens: dsl.Dataset
    base: dsl.Model
    kept_short: dsl.Artifact
    kept_long: dsl.Artifact


@dsl.pipeline(
    name="pretraining", description="Tokenizer, token shards, the 4K stage; long documents, the 32K stage: Base."
)
def pretraining(run: str, corpus: dsl.Input[dsl.Dataset]) -> Pretrained:
    ranks = pretraining_tasks.register_ranks(run=run).outputs["ranks"]
    tokenizer = pretraining_tasks.train_tokenizer(run=run, corpus=corpus, ranks=ranks).outputs["tokenizer"]
    tokens = pretraining_tasks.tokenize_corpus(run=run, corpus=corpus, tokenizer=tokenizer).outputs["tokens"]
    first = pretraining_tasks.pretrain_short(run=run, tokens=tokens, tokenizer=tokenizer).outputs
    short = first["checkpoint"]
    far = curation_tasks.select_long(run=run, corpus=corpus, weights=short, tokenizer=tokenizer).outputs["long"]
    long = pretraining_tasks.tokenize_corpus(
        run=run, corpus=far, tokenizer=tokenizer, task="pretraining.tokenize.long"
    ).outputs["tokens"]
    second = pretraining_tasks.pretrain_long(
        run=run, tokens=tokens, long=long, base=short, state=first["state"]
    ).outputs
    return Pretrained(
        tokenizer=tokenizer,
        tokens=tokens,
        base=second["checkpoint"],
        kept_short=first["kept"],
        kept_long=second["kept"],
    )


class Asked(NamedTuple):
    questions: dsl.Dataset


@dsl.pipeline(
    name="questions", description="Suites drawn from what no model is trained on, and a reference of the same kind."
)
def questions(
    run: str, corpus: dsl.Input[dsl.Dataset], tokens: dsl.Input[dsl.Dataset], conversations: dsl.Input[dsl.Dataset]
) -> Asked:
    registered = curation_tasks.register_reference(run=run).outputs["registered"]
    reference = curation_tasks.ingest(run=run, sources=registered, task="curation.ingest.reference").outputs["corpus"]
    asked = evaluation_tasks.prepare_questions(
        run=run, corpus=corpus, tokens=tokens, reference=reference, conversations=conversations
    )
    return Asked(questions=asked.outputs["questions"])


class Enhanced(NamedTuple):
    checkpoint: dsl.Model


@dsl.pipeline(name="enhancement", description="A decontaminated domain set; a short stage at a low rate from Base.")
def enhancement(
    run: str,
    corpus: dsl.Input[dsl.Dataset],
    questions: dsl.Input[dsl.Dataset],
    tokenizer: dsl.Input[dsl.Artifact],
    tokens: dsl.Input[dsl.Dataset],
    base: dsl.Input[dsl.Model],
) -> Enhanced:
    chosen = enhancement_tasks.prepare_domain(run=run, corpus=corpus, questions=questions)
    domain = pretraining_tasks.tokenize_corpus(
        run=run, corpus=chosen.outputs["domain"], tokenizer=tokenizer, task="enhancement.tokenize"
    ).outputs["tokens"]
    enhanced = enhancement_tasks.enhance(
        run=run, tokens=domain, base=base, decontamination=chosen.outputs["decontamination"], rehearsal=tokens
    )
    return Enhanced(checkpoint=enhanced.outputs["checkpoint"])


class FineTuned(NamedTuple):
    conversations: dsl.Dataset
    checkpoint: dsl.Model


@dsl.pipeline(
    name="sft",
    description="Conversations that evaluation does not ask; ChatML, loss on the assistant's words, from Base.",
)
def sft(
    run: str,
    conversations: dsl.Input[dsl.Dataset],
    heldout: dsl.Input[dsl.Dataset],
    questions: dsl.Input[dsl.Dataset],
    base: dsl.Input[dsl.Model],
    tokenizer: dsl.Input[dsl.Artifact],
    tokens: dsl.Input[dsl.Dataset],
) -> FineTuned:
    unasked = sft_tasks.decontaminate_conversations(run=run, conversations=conversations, questions=questions).outputs[
        "unasked"
    ]
    sft_tasks.data_card(run=run, conversations=unasked, heldout=heldout)
    tuned = sft_tasks.fine_tune(
        run=run, conversations=unasked, heldout=heldout, base=base, tokenizer=tokenizer, tokens=tokens
    )
    return FineTuned(conversations=unasked, checkpoint=tuned.outputs["checkpoint"])


class Aligned(NamedTuple):
    chat: dsl.Model
    reward_model: dsl.Model


def _optimise(start: Tasks, turn: Tasks, asked: Tasks, reward_model: Any, before: Any, patches: Any) -> tuple[Any, ...]:
    """PPO against a round's reward model, probe, decision: the policy handed on, the rounds there are, all patches so far."""
    tuned = rlhf_tasks.ppo(
        **start, **turn, queries=asked["queries"], before=before, reward_model=reward_model, tokens=asked["tokens"]
    )
    made = {"before": before, "policy": tuned.outputs["policy"]}
    probed = rlhf_tasks.probe(
        **start,
        **turn,
        **made,
        early=tuned.outputs["early"],
        queries=asked["heldout_queries"],
        gold=asked["gold"],
        reward_model=reward_model,
        judge=asked["judge"],
        **({"earlier": patches} if patches is not None else {}),
    )
    found = {name: probed.outputs[name] for name in ("evaluation", "patches")}
    decided = rlhf_tasks.decide(run=start["run"], **turn, **made, **found, log=tuned.outputs["log"])
    _name(turn["number"], {"PPO": tuned, "probe": probed, "decide": decided})
    return decided.outputs["accepted"], decided.outputs["Output"], found["patches"]


def _name(number: int, tasks: Tasks) -> None:
    for what, task in tasks.items():
        task.set_display_name(f"round {number}: {what}")


@dsl.pipeline(
    name="alignment", description="Conditional reward model, PPO, probe and patch, decide; round after round."
)
def alignment(
    run: str,
    rounds: int,
    sources: dsl.Input[dsl.Dataset],
    questions: dsl.Input[dsl.Dataset],
    conversations: dsl.Input[dsl.Dataset],
    sft: dsl.Input[dsl.Model],
    tokenizer: dsl.Input[dsl.Artifact],
    tokens: dsl.Input[dsl.Dataset],
) -> Aligned:
    own = rlhf_tasks.read_preferences(run=run, sources=sources, questions=questions).outputs["own"]
    collected = rlhf_tasks.collect_preferences(
        run=run, conversations=conversations, own=own, tokenizer=tokenizer
    ).outputs
    start: Tasks = {"run": run, "sft": sft, "tokenizer": tokenizer}
    labelled = rlhf_tasks.snapshot_annotations(run=run, number=1, rounds=rounds)
    learned = {"preferences": collected["preferences"], "annotations": labelled.outputs["annotations"]}
    judged = rlhf_tasks.train_first_reward_model(**start, **learned)
    control = rlhf_tasks.train_first_reward_model(**start, **learned, shuffle_labels=True)
    control.set_display_name("reward model: control")
    judge = rlhf_tasks.train_judge(**start, preferences=collected["judged_by"]).outputs["judge"]
    policy, asked = sft, {**collected, "judge": judge, "tokens": tokens}
    for number in range(1, ROUNDS + 1):
        turn = {"number": number, "rounds": rounds}
        if number > 1:
            labelled = rlhf_tasks.snapshot_annotations(run=run, **turn)
            learned["annotations"] = labelled.outputs["annotations"]
            judged = rlhf_tasks.train_reward_model(**start, **turn, **learned, before=judged.outputs["reward_model"])
        _name(number, {"annotations": labelled, "reward model": judged})
        rewarding = judged.outputs["reward_model"]
        policy, rounds, learned["patches"] = _optimise(start, turn, asked, rewarding, policy, learned.get("patches"))
    rlhf_tasks.evaluate_reward_model(
        run=run,
        heldout=collected["heldout"],
        reward_model=rewarding,
        control=control.outputs["reward_model"],
        tokenizer=tokenizer,
    )
    return Aligned(chat=policy, reward_model=rewarding)


class Judged(NamedTuple):
    evaluation: dsl.Artifact
    training_sets: dsl.Artifact
    verdict: dsl.Artifact
    passed: bool


@dsl.pipeline(
    name="evaluation", description="Every checkpoint on every suite; what enhancement changed; contamination; the gate."
)
def evaluation(
    run: str,
    questions: dsl.Input[dsl.Dataset],
    tokenizer: dsl.Input[dsl.Artifact],
    base: dsl.Input[dsl.Model],
    enhanced: dsl.Input[dsl.Model],
    sft: dsl.Input[dsl.Model],
    chat: dsl.Input[dsl.Model],
) -> Judged:
    def score(label: str, form: str, weights: dsl.Model) -> dsl.Artifact:
        return evaluation_tasks.evaluate(
            run=run, label=label, form=form, weights=weights, tokenizer=tokenizer, questions=questions
        ).outputs["evaluation"]

    reference = score("base", "plain", base)
    after = score("enhanced", "plain", enhanced)
    evaluation_tasks.compare(run=run, task="evaluation.compare.enhanced", before=reference, after=after)
    tuned = score("sft", "chat", sft)
    candidate = score("chat", "chat", chat)
    training_sets = evaluation_tasks.collect_training_sets(run=run, weights=chat).outputs["training_sets"]
    contamination = evaluation_tasks.check_contamination(
        run=run, training_sets=training_sets, questions=questions
    ).outputs["contamination"]
    in_use = evaluation_tasks.current_model(run=run, candidate=chat, tokenizer=tokenizer).outputs
    current = evaluation_tasks.evaluate(
        run=run,
        task="current",
        label="chat",
        form="chat",
        weights=in_use["weights"],
        tokenizer=in_use["words"],
        questions=questions,
    )
    current.set_display_name("evaluate: current")
    judged = evaluation_tasks.gate(
        run=run,
        candidate=candidate,
        base=reference,
        sft=tuned,
        current=current.outputs["evaluation"],
        contamination=contamination,
        training_sets=training_sets,
        tokenizer=tokenizer,
    )
    return Judged(
        evaluation=candidate,
        training_sets=training_sets,
        verdict=judged.outputs["verdict"],
        passed=judged.outputs["Output"],
    )


@dsl.pipeline(name="deployment", description="Bundle, attest, register, serve with vLLM, smoke test, promote.")
def deployment(
    run: str,
    alias: str,
    deploy: bool,
    chat: dsl.Input[dsl.Model],
    base: dsl.Input[dsl.Model],
    reward_model: dsl.Input[dsl.Model],
    tokenizer: dsl.Input[dsl.Artifact],
    evaluation: dsl.Input[dsl.Artifact],
    training_sets: dsl.Input[dsl.Artifact],
    verdict: dsl.Input[dsl.Artifact],
) -> None:
    release = deployment_tasks.bundle(
        run=run,
        weights=chat,
        tokenizer=tokenizer,
        evaluation=evaluation,
        verdict=verdict,
        training_sets=training_sets,
    ).outputs["release"]
    attestation = deployment_tasks.attest(run=run, release=release).outputs["attestation"]
    registration = deployment_tasks.register_release(
        run=run, alias=alias, release=release, verdict=verdict, attestation=attestation
    ).outputs["registration"]
    deployment_tasks.register_weights(run=run, role="base", alias=alias, weights=base)
    deployment_tasks.register_weights(run=run, role="reward", alias=alias, weights=reward_model)
    served = deployment_tasks.deploy(run=run, go=deploy, release=release, registration=registration)
    deployment_tasks.promote(run=run, go=deploy, registration=registration, deployment=served.outputs["deployment"])
