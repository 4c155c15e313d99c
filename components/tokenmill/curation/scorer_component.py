"""KFP components of scorers and annotation rounds, for pipelines of one's own: what makes and checks what `score` applies."""

from kfp import dsl

from tokenmill import images


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def train_scorer(run: str, scorer: dsl.Output[dsl.Model]) -> None:
    """Fit a linear scorer to the labels that come with TokenMill."""
    from tokenmill.steps import run_component

    run_component("curation.train_scorer", run, inputs={}, outputs={"output": scorer})


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def train_scorer_on_labels(run: str, labels: dsl.Input[dsl.Dataset], scorer: dsl.Output[dsl.Model]) -> None:
    """Fit a linear scorer to labels of your own."""
    from tokenmill.steps import run_component

    run_component("curation.train_scorer", run, inputs={"labels": labels}, outputs={"output": scorer})


@dsl.component(base_image=images.TRAINER, install_kfp_package=False)
def fine_tune_scorer(
    run: str,
    checkpoint: dsl.Input[dsl.Dataset],
    labels: dsl.Input[dsl.Dataset],
    scorer: dsl.Output[dsl.Model],
) -> None:
    """Fine-tune a registered folder of a BERT to labels → a BERT scorer."""
    from tokenmill.steps import run_component

    inputs, outputs = {"checkpoint": checkpoint, "labels": labels}, {"output": scorer}
    run_component("curation.fine_tune_scorer", run, inputs=inputs, outputs=outputs)


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def import_scorer(run: str, checkpoint: dsl.Input[dsl.Dataset], scorer: dsl.Output[dsl.Model]) -> None:
    """A registered folder of a sequence classifier → a BERT scorer."""
    from tokenmill.steps import run_component

    run_component("curation.import_scorer", run, inputs={"checkpoint": checkpoint}, outputs={"output": scorer})


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def export_samples(run: str, corpus: dsl.Input[dsl.Dataset], samples: dsl.Output[dsl.Dataset]) -> None:
    """Documents for people to label: the confident extremes, or the borderline."""
    from tokenmill.steps import run_component

    run_component("curation.export_samples", run, inputs={"corpus": corpus}, outputs={"output": samples})


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def import_labels(run: str, files: dsl.Input[dsl.Dataset], labels: dsl.Output[dsl.Dataset]) -> None:
    """Registered files of labels → labels."""
    from tokenmill.steps import run_component

    run_component("curation.import_labels", run, inputs={"files": files}, outputs={"output": labels})


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def validate_scorer(
    run: str, scorer: dsl.Input[dsl.Model], labels: dsl.Input[dsl.Dataset], validation: dsl.Output[dsl.Dataset]
) -> None:
    """Which earlier labels a scorer gets wrong, and the languages in which it agrees with people."""
    from tokenmill.steps import run_component

    run_component(
        "curation.validate_scorer", run, inputs={"scorer": scorer, "labels": labels}, outputs={"output": validation}
    )


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def choose_thresholds(
    run: str, labels: dsl.Input[dsl.Dataset], scorers: dsl.Input[list[dsl.Model]], thresholds: dsl.Output[dsl.Dataset]
) -> None:
    """The threshold of each language, type and score at the wanted precision."""
    from tokenmill.steps import run_component

    run_component(
        "curation.choose_thresholds", run, inputs={"labels": labels, "scorers": scorers}, outputs={"output": thresholds}
    )
