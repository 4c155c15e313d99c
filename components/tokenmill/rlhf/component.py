"""KFP components of conditional online RLHF. Rounds are unrolled: past the last one a task hands its input on.

`rounds` is how many there are: what was asked for, until a decision ends them.
"""

from kfp import dsl

from tokenmill import images


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def read_preferences(
    run: str,
    sources: dsl.Input[dsl.Dataset],
    questions: dsl.Input[dsl.Dataset],
    own: dsl.Output[dsl.Dataset],
) -> None:
    """The pairs that people brought, checked line by line, without those that hold what evaluation asks."""
    from tokenmill.steps import run_component

    run_component(
        "rlhf.read_preferences", run, inputs={"sources": sources, "questions": questions}, outputs={"output": own}
    )


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def collect_preferences(
    run: str,
    conversations: dsl.Input[dsl.Dataset],
    own: dsl.Input[dsl.Dataset],
    tokenizer: dsl.Input[dsl.Artifact],
    preferences: dsl.Output[dsl.Dataset],
    judged_by: dsl.Output[dsl.Dataset],
    heldout: dsl.Output[dsl.Dataset],
    queries: dsl.Output[dsl.Dataset],
    heldout_queries: dsl.Output[dsl.Dataset],
    gold: dsl.Output[dsl.Dataset],
) -> None:
    """Pairs for the reward model and queries for PPO, some of each held out by template; questions with known answers."""
    from tokenmill.steps import run_component

    inputs = {"conversations": conversations, "own": own, "tokenizer": tokenizer}
    outputs = {"train": preferences, "heldout": heldout, "queries": queries, "heldout_queries": heldout_queries}
    outputs |= {"judge": judged_by, "gold": gold}
    run_component("rlhf.collect_preferences", run, inputs=inputs, outputs=outputs)


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def snapshot_annotations(run: str, number: int, rounds: int, annotations: dsl.Output[dsl.Dataset]) -> None:
    """What people have labelled so far: a round does not wait for those who are still at it."""
    from tokenmill.steps import run_component

    task, go = f"rlhf.snapshot_annotations.round-{number}", number <= rounds or number == 1
    run_component("rlhf.snapshot_annotations", run, outputs={"output": annotations}, task=task, go=go)


@dsl.component(base_image=images.TRAINER, install_kfp_package=False)
def train_first_reward_model(
    run: str,
    preferences: dsl.Input[dsl.Dataset],
    annotations: dsl.Input[dsl.Dataset],
    sft: dsl.Input[dsl.Model],
    tokenizer: dsl.Input[dsl.Artifact],
    reward_model: dsl.Output[dsl.Model],
    log: dsl.Output[dsl.Artifact],
    shuffle_labels: bool = False,
) -> None:
    """The conditional reward model of round 1; with `shuffle_labels` the control that must learn nothing."""
    from tokenmill.steps import run_component

    inputs = {"preferences": preferences, "patches": annotations, "sft": sft, "tokenizer": tokenizer}
    outputs = {"weights": reward_model, "training_log": log}
    task = "rlhf.reward_model.control" if shuffle_labels else "rlhf.reward_model.round-1"
    config = {"shuffle_labels": True} if shuffle_labels else {}
    run_component("rlhf.train_reward_model", run, inputs=inputs, outputs=outputs, config=config, task=task)


@dsl.component(base_image=images.TRAINER, install_kfp_package=False)
def train_judge(
    run: str,
    preferences: dsl.Input[dsl.Dataset],
    sft: dsl.Input[dsl.Model],
    tokenizer: dsl.Input[dsl.Artifact],
    judge: dsl.Output[dsl.Model],
    log: dsl.Output[dsl.Artifact],
) -> None:
    """A reward model of pairs that no round's learns, to tell when a reward rises alone; none without such pairs."""
    from tokenmill.steps import run_component

    inputs = {"preferences": preferences, "sft": sft, "tokenizer": tokenizer}
    outputs, go = {"weights": judge, "training_log": log}, preferences.metadata["count.records"] > 0
    run_component("rlhf.train_reward_model", run, inputs=inputs, outputs=outputs, task="rlhf.reward_model.judge", go=go)


@dsl.component(base_image=images.TRAINER, install_kfp_package=False)
def train_reward_model(
    run: str,
    number: int,
    rounds: int,
    preferences: dsl.Input[dsl.Dataset],
    patches: dsl.Input[dsl.Dataset],
    annotations: dsl.Input[dsl.Dataset],
    before: dsl.Input[dsl.Model],
    sft: dsl.Input[dsl.Model],
    tokenizer: dsl.Input[dsl.Artifact],
    reward_model: dsl.Output[dsl.Model],
    log: dsl.Output[dsl.Artifact],
) -> None:
    """The reward model of a later round: all preferences, what is labelled so far, patches against the last hacks."""
    from tokenmill.steps import run_component

    inputs = {"preferences": preferences, "patches": [annotations, patches], "sft": sft, "tokenizer": tokenizer}
    outputs = {"weights": reward_model, "training_log": log}
    task, go = f"rlhf.reward_model.round-{number}", number <= rounds
    otherwise = {"weights": before, "training_log": before}
    run_component("rlhf.train_reward_model", run, inputs=inputs, outputs=outputs, task=task, go=go, otherwise=otherwise)


@dsl.component(base_image=images.EVALUATOR, install_kfp_package=False)
def evaluate_reward_model(
    run: str,
    heldout: dsl.Input[dsl.Dataset],
    reward_model: dsl.Input[dsl.Model],
    control: dsl.Input[dsl.Model],
    tokenizer: dsl.Input[dsl.Artifact],
    evaluation: dsl.Output[dsl.Artifact],
) -> None:
    """Accuracy a domain on held-out templates, flips with the prompt, and two controls that must fail."""
    from tokenmill.steps import run_component

    inputs = {"heldout": heldout, "reward_model": reward_model, "control": control, "tokenizer": tokenizer}
    run_component("rlhf.evaluate_reward_model", run, inputs=inputs, outputs={"output": evaluation})


@dsl.component(base_image=images.TRAINER, install_kfp_package=False)
def ppo(
    run: str,
    number: int,
    rounds: int,
    queries: dsl.Input[dsl.Dataset],
    sft: dsl.Input[dsl.Model],
    before: dsl.Input[dsl.Model],
    reward_model: dsl.Input[dsl.Model],
    tokenizer: dsl.Input[dsl.Artifact],
    tokens: dsl.Input[dsl.Dataset],
    policy: dsl.Output[dsl.Model],
    early: dsl.Output[dsl.Model],
    log: dsl.Output[dsl.Artifact],
) -> None:
    """One round of PPO from SFT against the round's reward model; past the last round, the policy before."""
    from tokenmill.steps import run_component

    inputs = {"queries": queries, "sft": sft, "reward_model": reward_model, "tokenizer": tokenizer, "tokens": tokens}
    outputs = {"weights": policy, "early": early, "training_log": log}
    otherwise = dict.fromkeys(outputs, before)
    task, go = f"rlhf.ppo.round-{number}", number <= rounds
    run_component("rlhf.ppo", run, inputs=inputs, outputs=outputs, task=task, go=go, otherwise=otherwise)


@dsl.component(base_image=images.EVALUATOR, install_kfp_package=False)
def probe(
    run: str,
    number: int,
    rounds: int,
    queries: dsl.Input[dsl.Dataset],
    gold: dsl.Input[dsl.Dataset],
    sft: dsl.Input[dsl.Model],
    before: dsl.Input[dsl.Model],
    policy: dsl.Input[dsl.Model],
    early: dsl.Input[dsl.Model],
    reward_model: dsl.Input[dsl.Model],
    judge: dsl.Input[dsl.Model],
    tokenizer: dsl.Input[dsl.Artifact],
    evaluation: dsl.Output[dsl.Artifact],
    patches: dsl.Output[dsl.Dataset],
    responses: dsl.Output[dsl.Dataset],
    earlier: dsl.Input[dsl.Dataset] = None,
) -> None:
    """Held-out reward, gold and format score before and after, KL; hacks become patches; answers for people to compare."""
    from tokenmill.steps import run_component

    inputs = {"queries": queries, "gold": gold, "sft": sft, "before": before, "policy": policy}
    inputs |= {"early": early, "reward_model": reward_model, "judge": judge, "tokenizer": tokenizer}
    inputs |= {"earlier": earlier}
    outputs = {"evaluation": evaluation, "patches": patches, "responses": responses}
    run_component(
        "rlhf.probe", run, inputs=inputs, outputs=outputs, task=f"rlhf.probe.round-{number}", go=number <= rounds
    )


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def decide(
    run: str,
    number: int,
    rounds: int,
    evaluation: dsl.Input[dsl.Artifact],
    patches: dsl.Input[dsl.Dataset],
    policy: dsl.Input[dsl.Model],
    before: dsl.Input[dsl.Model],
    log: dsl.Input[dsl.Artifact],
    accepted: dsl.Output[dsl.Model],
    decision: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
) -> int:
    """The stop rule: hand on this policy or the one before it; returns how many rounds there are, this one if it ends."""
    from tokenmill.steps import run_component

    inputs = {"evaluation": evaluation, "patches": patches, "policy": policy, "before": before, "training_log": log}
    outputs = {"policy": accepted, "decision": decision, "page": page}
    task, go, otherwise = f"rlhf.decide.round-{number}", number <= rounds, {"policy": before}
    made = run_component("rlhf.decide", run, inputs=inputs, outputs=outputs, task=task, go=go, otherwise=otherwise)
    return rounds if not go or made["decision"].counts["goes_on"] else number
