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
def plan_sources(run: str, sources: dsl.Input[dsl.Dataset]) -> list:
    """Groups of raw files, each the work of one task of a loop: their digests, and suffixes of the tasks' names."""
    from tokenmill.curation.plan import loop_items
    from tokenmill.steps import run_component

    return loop_items(run_component("curation.plan", run, inputs={"whole": sources}, task="curation.plan.sources"))


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def plan_corpus(run: str, corpus: dsl.Input[dsl.Dataset]) -> list:
    """Groups of a corpus's shards."""
    from tokenmill.curation.plan import loop_items
    from tokenmill.steps import run_component

    return loop_items(run_component("curation.plan", run, inputs={"whole": corpus}))


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def merge(run: str, corpora: dsl.Input[list[dsl.Dataset]], corpus: dsl.Output[dsl.Dataset], task: str) -> None:
    """What the tasks of a loop made, as one corpus."""
    from tokenmill.steps import run_component

    run_component("curation.merge", run, inputs={"corpora": corpora}, outputs={"output": corpus}, task=task)


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def ingest_group(run: str, group: str, corpus: dsl.Output[dsl.Dataset], suffix: str = "") -> None:
    """Raw files → JSONL documents by type and language (the report's Format), of one group."""
    from tokenmill.steps import run_component

    task = f"curation.ingest{suffix}"
    run_component("curation.ingest", run, inputs={"sources": group}, outputs={"output": corpus}, task=task)


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def ingest(
    run: str, sources: dsl.Input[dsl.Dataset], corpus: dsl.Output[dsl.Dataset], task: str = "curation.ingest"
) -> None:
    """Raw files → JSONL documents by type and language (the report's Format)."""
    from tokenmill.steps import run_component

    run_component("curation.ingest", run, inputs={"sources": sources}, outputs={"output": corpus}, task=task)


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def filter_corpus(run: str, corpus: dsl.Input[dsl.Dataset], clean: dsl.Output[dsl.Dataset], suffix: str = "") -> None:
    """Keep the documents that pass every rule; every drop has a rule, a value and a threshold (Clean)."""
    from tokenmill.steps import run_component

    task = f"curation.filter{suffix}"
    run_component("curation.filter", run, inputs={"corpus": corpus}, outputs={"output": clean}, task=task)


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def deduplicate(run: str, corpus: dsl.Input[dsl.Dataset], unique: dsl.Output[dsl.Dataset]) -> None:
    """Drop exact and near duplicates; the newest dump survives (Dedup)."""
    from tokenmill.steps import run_component

    run_component("curation.deduplicate", run, inputs={"corpus": corpus}, outputs={"output": unique})


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def screen_group(run: str, group: str, safe: dsl.Output[dsl.Dataset], suffix: str = "") -> None:
    """Drop blocked domains and words, and what was scored unsafe (Safe), of one group."""
    from tokenmill.steps import run_component

    task = f"curation.screen{suffix}"
    run_component("curation.screen", run, inputs={"corpus": group}, outputs={"output": safe}, task=task)


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def grade(run: str, corpus: dsl.Input[dsl.Dataset], graded: dsl.Output[dsl.Dataset], suffix: str = "") -> None:
    """Score fluency and advertisement; drop below the thresholds (High-quality)."""
    from tokenmill.steps import run_component

    task = f"curation.grade{suffix}"
    run_component("curation.grade", run, inputs={"corpus": corpus}, outputs={"output": graded}, task=task)


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def order_code(run: str, corpus: dsl.Input[dsl.Dataset], ordered: dsl.Output[dsl.Dataset]) -> None:
    """Repositories as Markdown documents, dependencies before dependants."""
    from tokenmill.steps import run_component

    run_component("curation.order_code", run, inputs={"corpus": corpus}, outputs={"output": ordered})
