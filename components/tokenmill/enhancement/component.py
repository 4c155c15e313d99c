"""KFP components of domain enhancement."""

from kfp import dsl

from tokenmill import images


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def prepare_domain(
    run: str,
    corpus: dsl.Input[dsl.Dataset],
    questions: dsl.Input[dsl.Dataset],
    domain: dsl.Output[dsl.Dataset],
    decontamination: dsl.Output[dsl.Artifact],
    everything: bool = False,
) -> None:
    """The domain set and the best of the rest, or `everything`, without what evaluation asks."""
    from tokenmill.steps import run_component

    inputs = {"corpus": corpus, "questions": questions}
    outputs = {"corpus": domain, "decontamination": decontamination}
    config = {"types": (), "shares": None} if everything else None
    run_component("enhancement.prepare", run, inputs=inputs, outputs=outputs, config=config)


@dsl.component(base_image=images.TRAINER, install_kfp_package=False)
def enhance(
    run: str,
    tokens: dsl.Input[dsl.Dataset],
    base: dsl.Input[dsl.Model],
    decontamination: dsl.Input[dsl.Artifact],
    checkpoint: dsl.Output[dsl.Model],
    log: dsl.Output[dsl.Artifact],
    rehearsal: dsl.Input[dsl.Dataset] = None,
) -> None:
    """Continue Base on the domain set at a lower rate and batch; a share of the tokens may be what it read before."""
    from tokenmill.steps import run_component

    inputs = {"tokens": tokens, "base": base, "decontamination": decontamination, "rehearsal": rehearsal}
    run_component("enhancement.enhance", run, inputs=inputs, outputs={"weights": checkpoint, "training_log": log})
