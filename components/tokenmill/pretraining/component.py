"""KFP components of pretraining."""

from kfp import dsl

from tokenmill import images


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def register_ranks(run: str, ranks: dsl.Output[dsl.Dataset]) -> None:
    """The vocabulary that the tokenizer is built on, if the preset or the overrides name one."""
    from tokenmill.steps import run_component

    run_component("pretraining.register_ranks", run, outputs={"output": ranks})


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def train_tokenizer(
    run: str,
    corpus: dsl.Input[dsl.Dataset],
    tokenizer: dsl.Output[dsl.Artifact],
    ranks: dsl.Input[dsl.Dataset] = None,
) -> None:
    """Learn a byte-level BPE from a sample of the corpus; on registered ranks, its Chinese block."""
    from tokenmill.steps import run_component

    inputs = {"corpus": corpus, "ranks": ranks}
    run_component("pretraining.train_tokenizer", run, inputs=inputs, outputs={"output": tokenizer})


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def tokenize_corpus(
    run: str,
    corpus: dsl.Input[dsl.Dataset],
    tokenizer: dsl.Input[dsl.Artifact],
    tokens: dsl.Output[dsl.Dataset],
    task: str = "pretraining.tokenize",
) -> None:
    """Corpus → memory-mapped token shards with the document behind every token."""
    from tokenmill.steps import run_component

    inputs = {"corpus": corpus, "tokenizer": tokenizer}
    run_component("pretraining.tokenize", run, inputs=inputs, outputs={"output": tokens}, task=task)


@dsl.component(base_image=images.TRAINER, install_kfp_package=False)
def pretrain_short(
    run: str,
    tokens: dsl.Input[dsl.Dataset],
    tokenizer: dsl.Input[dsl.Artifact],
    checkpoint: dsl.Output[dsl.Model],
    log: dsl.Output[dsl.Artifact],
    state: dsl.Output[dsl.Artifact],
    kept: dsl.Output[dsl.Artifact],
) -> None:
    """Phase 1, "4K": from random weights, RoPE base 50,000."""
    from tokenmill.steps import run_component

    inputs = {"tokens": tokens, "tokenizer": tokenizer}
    outputs = {"weights": checkpoint, "training_log": log, "training_state": state, "kept": kept}
    run_component("pretraining.pretrain.short", run, inputs=inputs, outputs=outputs)


@dsl.component(base_image=images.TRAINER, install_kfp_package=False)
def pretrain_long(
    run: str,
    tokens: dsl.Input[dsl.Dataset],
    long: dsl.Input[dsl.Dataset],
    base: dsl.Input[dsl.Model],
    state: dsl.Input[dsl.Artifact],
    checkpoint: dsl.Output[dsl.Model],
    log: dsl.Output[dsl.Artifact],
    kept: dsl.Output[dsl.Artifact],
) -> None:
    """Phase 2, "32K": RoPE base 1,000,000, half of the tokens from short documents, half from `long`. Its result is Base."""
    from tokenmill.steps import run_component

    inputs = {"tokens": tokens, "long": long, "base": base, "state": state}
    outputs = {"weights": checkpoint, "training_log": log, "kept": kept}
    run_component("pretraining.pretrain.long", run, inputs=inputs, outputs=outputs)
