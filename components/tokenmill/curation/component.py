"""KFP components of corpus curation. Each is a door: a typed signature and one call."""

from kfp import dsl

from tokenmill import images


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def register_sources(run: str, sources: list, registered: dsl.Output[dsl.Dataset]) -> None:
    """List the raw files with size, sha256, licence and origin. Without `sources`, the preset's."""
    from tokenmill.steps import run_component

    config = {"sources": sources} if sources else {}
    run_component("curation.register_sources", run, outputs={"output": registered}, config=config)


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def register_reference(run: str, registered: dsl.Output[dsl.Dataset]) -> None:
    """Problems like the corpus's own, made with another seed: what contamination is measured against."""
    from tokenmill.steps import run_component

    run_component("curation.register_reference", run, outputs={"output": registered})


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def ingest(
    run: str, sources: dsl.Input[dsl.Dataset], corpus: dsl.Output[dsl.Dataset], task: str = "curation.ingest"
) -> None:
    """Raw files → JSONL documents by type and language (the report's Format)."""
    from tokenmill.steps import run_component

    run_component("curation.ingest", run, inputs={"sources": sources}, outputs={"output": corpus}, task=task)


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def filter_corpus(run: str, corpus: dsl.Input[dsl.Dataset], clean: dsl.Output[dsl.Dataset]) -> None:
    """Keep the documents that pass every rule; every drop has a rule, a value and a threshold (Clean)."""
    from tokenmill.steps import run_component

    run_component("curation.filter", run, inputs={"corpus": corpus}, outputs={"output": clean})


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def deduplicate(run: str, corpus: dsl.Input[dsl.Dataset], unique: dsl.Output[dsl.Dataset]) -> None:
    """Drop exact and near duplicates; the newest dump survives (Dedup)."""
    from tokenmill.steps import run_component

    run_component("curation.deduplicate", run, inputs={"corpus": corpus}, outputs={"output": unique})


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def screen(run: str, corpus: dsl.Input[dsl.Dataset], safe: dsl.Output[dsl.Dataset]) -> None:
    """Drop blocked domains and words, and what was scored unsafe (Safe)."""
    from tokenmill.steps import run_component

    run_component("curation.screen", run, inputs={"corpus": corpus}, outputs={"output": safe})


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def grade(run: str, corpus: dsl.Input[dsl.Dataset], graded: dsl.Output[dsl.Dataset]) -> None:
    """Score fluency and advertisement; drop below the thresholds (High-quality)."""
    from tokenmill.steps import run_component

    run_component("curation.grade", run, inputs={"corpus": corpus}, outputs={"output": graded})


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def order_code(run: str, corpus: dsl.Input[dsl.Dataset], ordered: dsl.Output[dsl.Dataset]) -> None:
    """Repositories as Markdown documents, dependencies before dependants."""
    from tokenmill.steps import run_component

    run_component("curation.order_code", run, inputs={"corpus": corpus}, outputs={"output": ordered})


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def funnel(
    run: str,
    raw: dsl.Input[dsl.Dataset],
    clean: dsl.Input[dsl.Dataset],
    unique: dsl.Input[dsl.Dataset],
    safe: dsl.Input[dsl.Dataset],
    graded: dsl.Input[dsl.Dataset],
    ordered: dsl.Input[dsl.Dataset],
    page: dsl.Output[dsl.HTML],
) -> None:
    """What each stage kept, and what it dropped for which reason; stops where the numbers do not add up."""
    from tokenmill.steps import run_component

    stages = [raw, clean, unique, safe, graded, ordered]
    run_component("curation.funnel", run, inputs={"stages": stages}, outputs={"output": page})
