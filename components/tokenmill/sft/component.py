"""KFP components of supervised fine-tuning."""

from kfp import dsl

from tokenmill import images


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def prepare_conversations(
    run: str,
    sources: dsl.Input[dsl.Dataset],
    conversations: dsl.Output[dsl.Dataset],
    heldout: dsl.Output[dsl.Dataset],
) -> None:
    """The user's conversations, dialogues, questions with verifiable answers and requests, deduplicated and split."""
    from tokenmill.steps import run_component

    outputs = {"train": conversations, "heldout": heldout}
    run_component("sft.prepare", run, inputs={"sources": sources}, outputs=outputs)


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def decontaminate_conversations(
    run: str,
    conversations: dsl.Input[dsl.Dataset],
    questions: dsl.Input[dsl.Dataset],
    unasked: dsl.Output[dsl.Dataset],
) -> None:
    """Leave out the conversations that hold what evaluation asks."""
    from tokenmill.steps import run_component

    inputs = {"conversations": conversations, "questions": questions}
    run_component("sft.decontaminate", run, inputs=inputs, outputs={"output": unasked})


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def data_card(
    run: str,
    conversations: dsl.Input[dsl.Dataset],
    heldout: dsl.Input[dsl.Dataset],
    page: dsl.Output[dsl.HTML],
) -> None:
    """What the model is fine-tuned on: sources, licences, topics, languages, lengths, and what was left out."""
    from tokenmill.steps import run_component

    inputs = {"conversations": conversations, "heldout": heldout}
    run_component("sft.card", run, inputs=inputs, outputs={"output": page})


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def repository_conversations(
    run: str,
    corpus: dsl.Input[dsl.Dataset],
    tokenizer: dsl.Input[dsl.Artifact],
    repositories: dsl.Output[dsl.Dataset],
) -> None:
    """Files of code, before they are joined, as long conversations; hand them to fine_tune."""
    from tokenmill.steps import run_component

    inputs = {"corpus": corpus, "tokenizer": tokenizer}
    run_component("sft.repositories", run, inputs=inputs, outputs={"output": repositories})


@dsl.component(base_image=images.TRAINER, install_kfp_package=False)
def fine_tune(
    run: str,
    conversations: dsl.Input[dsl.Dataset],
    heldout: dsl.Input[dsl.Dataset],
    base: dsl.Input[dsl.Model],
    tokenizer: dsl.Input[dsl.Artifact],
    tokens: dsl.Input[dsl.Dataset],
    checkpoint: dsl.Output[dsl.Model],
    log: dsl.Output[dsl.Artifact],
    repositories: dsl.Input[dsl.Dataset] = None,
) -> None:
    """One epoch of ChatML conversations from Base; loss on what the assistant says."""
    from tokenmill.steps import run_component

    inputs = {
        "conversations": conversations,
        "heldout": heldout,
        "base": base,
        "tokenizer": tokenizer,
        "tokens": tokens,
        "repositories": repositories,
    }
    run_component("sft.train", run, inputs=inputs, outputs={"weights": checkpoint, "training_log": log})
