"""KFP components of conditional online RLHF. Rounds are unrolled: past the last one a task hands its input on."""

from kfp import dsl

from tokenmill import images


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def collect_preferences(
    run: str,
    conversations: dsl.Input[dsl.Dataset],
    tokenizer: dsl.Input[dsl.Artifact],
    preferences: dsl.Output[dsl.Dataset],
    heldout: dsl.Output[dsl.Dataset],
    queries: dsl.Output[dsl.Dataset],
    heldout_queries: dsl.Output[dsl.Dataset],
) -> None:
    """Pairs for the reward model and queries for PPO, some of each held out by template."""
    from tokenmill.steps import run_component

    inputs = {"conversations": conversations, "tokenizer": tokenizer}
    outputs = {"train": preferences, "heldout": heldout, "queries": queries, "heldout_queries": heldout_queries}
    run_component("rlhf.collect_preferences", run, inputs=inputs, outputs=outputs)


@dsl.component(base_image=images.TRAINER, install_kfp_package=False)
def train_first_reward_model(
    run: str,
    preferences: dsl.Input[dsl.Dataset],
    sft: dsl.Input[dsl.Model],
    tokenizer: dsl.Input[dsl.Artifact],
    reward_model: dsl.Output[dsl.Model],
    log: dsl.Output[dsl.Artifact],
    shuffle_labels: bool = False,
) -> None:
    """The conditional reward model of round 1; with `shuffle_labels` the control that must learn nothing."""
    from tokenmill.steps import run_component

    inputs = {"preferences": preferences, "sft": sft, "tokenizer": tokenizer}
    outputs = {"weights": reward_model, "training_log": log}
    task = "rlhf.reward_model.control" if shuffle_labels else "rlhf.reward_model.round-1"
    config = {"shuffle_labels": True} if shuffle_labels else {}
    run_component("rlhf.train_reward_model", run, inputs=inputs, outputs=outputs, config=config, task=task)


@dsl.component(base_image=images.TRAINER, install_kfp_package=False)
def train_reward_model(
    run: str,
    number: int,
    rounds: int,
    preferences: dsl.Input[dsl.Dataset],
    patches: dsl.Input[dsl.Dataset],
    before: dsl.Input[dsl.Model],
    sft: dsl.Input[dsl.Model],
    tokenizer: dsl.Input[dsl.Artifact],
    reward_model: dsl.Output[dsl.Model],
    log: dsl.Output[dsl.Artifact],
) -> None:
    """The reward model of a later round: all preferences so far, and the patches against hacks of the round before."""
    from tokenmill.steps import run_component

    inputs = {"preferences": preferences, "patches": patches, "sft": sft, "tokenizer": tokenizer}
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
    log: dsl.Output[dsl.Artifact],
) -> None:
    """One round of PPO from SFT against the round's reward model; past the last round, the policy before."""
    from tokenmill.steps import run_component

    inputs = {"queries": queries, "sft": sft, "reward_model": reward_model, "tokenizer": tokenizer, "tokens": tokens}
    outputs, otherwise = {"weights": policy, "training_log": log}, {"weights": before, "training_log": before}
    task, go = f"rlhf.ppo.round-{number}", number <= rounds
    run_component("rlhf.ppo", run, inputs=inputs, outputs=outputs, task=task, go=go, otherwise=otherwise)


@dsl.component(base_image=images.EVALUATOR, install_kfp_package=False)
def probe(
    run: str,
    number: int,
    rounds: int,
    queries: dsl.Input[dsl.Dataset],
    sft: dsl.Input[dsl.Model],
    policy: dsl.Input[dsl.Model],
    reward_model: dsl.Input[dsl.Model],
    tokenizer: dsl.Input[dsl.Artifact],
    evaluation: dsl.Output[dsl.Artifact],
    patches: dsl.Output[dsl.Dataset],
) -> None:
    """Held-out reward before and after, lengths, KL; hacks become patches for the next round's reward model."""
    from tokenmill.steps import run_component

    inputs = {"queries": queries, "sft": sft, "policy": policy, "reward_model": reward_model, "tokenizer": tokenizer}
    outputs, otherwise = {"evaluation": evaluation, "patches": patches}, {"evaluation": queries, "patches": queries}
    task, go = f"rlhf.probe.round-{number}", number <= rounds
    run_component("rlhf.probe", run, inputs=inputs, outputs=outputs, task=task, go=go, otherwise=otherwise)
