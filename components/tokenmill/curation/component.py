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
def strip_boilerplate(run: str, corpus: dsl.Input[dsl.Dataset], stripped: dsl.Output[dsl.Dataset]) -> None:
    """Take out lines that a site puts on many of its pages; nothing, unless `max_documents` is set."""
    from tokenmill.steps import run_component

    run_component("curation.strip_boilerplate", run, inputs={"corpus": corpus}, outputs={"output": stripped})


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def plan_deduplication(run: str, corpus: dsl.Input[dsl.Dataset], what: str) -> list:
    """Indices to run tasks over: the corpus's `groups` of shards, or the `parts` of the bands."""
    from tokenmill.steps import run_component

    task = f"curation.plan_deduplication.{what}"
    plan = run_component("curation.plan_deduplication", run, inputs={"corpus": corpus}, task=task)["output"]
    return list(range(plan.counts[what]))


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def fingerprint(run: str, corpus: dsl.Input[dsl.Dataset], group: int, fingerprints: dsl.Output[dsl.Dataset]) -> None:
    """What is compared of the documents of one group of shards."""
    from tokenmill.steps import run_component

    inputs, outputs = {"corpus": corpus}, {"output": fingerprints}
    task = f"curation.fingerprint.{group}"
    run_component("curation.fingerprint", run, inputs=inputs, outputs=outputs, config={"group": group}, task=task)


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def exchange(run: str, fingerprints: dsl.Input[dsl.Dataset], part: int, pairs: dsl.Output[dsl.Dataset]) -> None:
    """Pairs that one part of the bands finds."""
    from tokenmill.steps import run_component

    inputs, outputs = {"fingerprints": fingerprints}, {"output": pairs}
    run_component(
        "curation.exchange",
        run,
        inputs=inputs,
        outputs=outputs,
        config={"part": part},
        task=f"curation.exchange.{part}",
    )


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def cluster(
    run: str,
    corpus: dsl.Input[dsl.Dataset],
    fingerprints: dsl.Input[dsl.Dataset],
    pairs: dsl.Input[list[dsl.Dataset]],
    duplicates: dsl.Output[dsl.Dataset],
    index: dsl.Output[dsl.Dataset],
) -> None:
    """Who goes, and for whom; and the index that the next dump is compared with."""
    from tokenmill.steps import run_component

    inputs = {"corpus": corpus, "fingerprints": fingerprints, "pairs": pairs}
    run_component("curation.cluster", run, inputs=inputs, outputs={"output": duplicates, "index": index})


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def drop_duplicates(
    run: str,
    corpus: dsl.Input[dsl.Dataset],
    duplicates: dsl.Input[dsl.Dataset],
    group: int,
    unique: dsl.Output[dsl.Dataset],
) -> None:
    """Drop the duplicates of one group of shards."""
    from tokenmill.steps import run_component

    inputs, task = {"corpus": corpus, "duplicates": duplicates}, f"curation.deduplicate.{group}"
    run_component(
        "curation.deduplicate", run, inputs=inputs, outputs={"output": unique}, config={"group": group}, task=task
    )


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def gather(
    run: str,
    parts: dsl.Input[list[dsl.Dataset]],
    whole: dsl.Input[dsl.Dataset],
    gathered: dsl.Output[dsl.Dataset],
    task: str = "curation.gather",
) -> None:
    """The results of a corpus's groups as one artifact; a group that is missing is refused."""
    from tokenmill.steps import run_component

    inputs = {"parts": parts, "whole": whole}
    run_component("curation.gather", run, inputs=inputs, outputs={"output": gathered}, task=task)


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
