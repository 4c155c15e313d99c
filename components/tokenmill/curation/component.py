"""KFP components of corpus curation (scorers': `scorer_component`). Each is a door: a typed signature and one call."""

from kfp import dsl

from tokenmill import images


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def register_sources(
    run: str, sources: list, registered: dsl.Output[dsl.Dataset], task: str = "curation.register_sources"
) -> None:
    """List the raw files with size, sha256, licence and origin. Without `sources`, the preset's."""
    from tokenmill.steps import run_component

    config = {"sources": sources} if sources else {}
    run_component("curation.register_sources", run, outputs={"output": registered}, config=config, task=task)


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
def plan_corpora(run: str, corpora: dsl.Input[list[dsl.Dataset]], task: str) -> list:
    """Groups of the shards that the tasks of a loop made."""
    from tokenmill.curation.plan import loop_items
    from tokenmill.steps import run_component

    return loop_items(run_component("curation.plan", run, inputs={"whole": corpora}, task=task))


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def regroup(run: str, corpora: dsl.Input[list[dsl.Dataset]], corpus: dsl.Output[dsl.Dataset], task: str) -> list:
    """What the tasks of a loop made, as one corpus, and its shards in groups anew."""
    from tokenmill.curation.plan import loop_items
    from tokenmill.steps import run_component

    merged = run_component("curation.merge", run, inputs={"corpora": corpora}, outputs={"output": corpus}, task=task)
    return loop_items(run_component("curation.plan", run, inputs={"whole": merged["output"].digest}))


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def merge(run: str, corpora: dsl.Input[list[dsl.Dataset]], corpus: dsl.Output[dsl.Dataset], task: str) -> None:
    """What the tasks of a loop made, as one corpus."""
    from tokenmill.steps import run_component

    run_component("curation.merge", run, inputs={"corpora": corpora}, outputs={"output": corpus}, task=task)


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def ingest_group(run: str, group: str, corpus: dsl.Output[dsl.Dataset], suffix: str = "") -> None:
    """Raw files → JSONL documents by type and language (the report's Format), of one group."""
    from tokenmill.steps import run_component

    run_component("curation.ingest", run, inputs={"sources": group}, outputs={"output": corpus}, part=suffix)


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

    run_component("curation.filter", run, inputs={"corpus": corpus}, outputs={"output": clean}, part=suffix)


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def count_lines_group(run: str, group: str, lines: dsl.Output[dsl.Dataset], suffix: str = "") -> None:
    """In how many documents of one group each line of a site stands. Nothing unless `max_documents` is set."""
    from tokenmill.steps import run_component

    run_component("curation.count_lines", run, inputs={"corpus": group}, outputs={"output": lines}, part=suffix)


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def find_boilerplate(run: str, lines: dsl.Input[list[dsl.Dataset]], boilerplate: dsl.Output[dsl.Dataset]) -> None:
    """The lines that a site puts on many of its pages, in whichever groups."""
    from tokenmill.steps import run_component

    run_component("curation.find_boilerplate", run, inputs={"lines": lines}, outputs={"output": boilerplate})


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def strip_boilerplate_group(
    run: str, group: str, boilerplate: dsl.Input[dsl.Dataset], stripped: dsl.Output[dsl.Dataset], suffix: str = ""
) -> None:
    """Take these lines out of the documents of one group."""
    from tokenmill.steps import run_component

    inputs, outputs = {"corpus": group, "boilerplate": boilerplate}, {"output": stripped}
    run_component("curation.strip_boilerplate", run, inputs=inputs, outputs=outputs, part=suffix)


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def fingerprint_group(run: str, group: str, fingerprints: dsl.Output[dsl.Dataset], suffix: str = "") -> None:
    """What is compared of the documents of one group."""
    from tokenmill.steps import run_component

    inputs, outputs = {"corpus": group}, {"output": fingerprints}
    run_component("curation.fingerprint", run, inputs=inputs, outputs=outputs, part=suffix)


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def gather(run: str, parts: dsl.Input[list[dsl.Dataset]], gathered: dsl.Output[dsl.Dataset]) -> None:
    """The fingerprints of all groups as one artifact, for the tasks of the next loop."""
    from tokenmill.steps import run_component

    run_component("curation.gather", run, inputs={"parts": parts}, outputs={"output": gathered})


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def plan_exchange(run: str, fingerprints: dsl.Input[dsl.Dataset]) -> list:
    """The parts that the bands are exchanged in: one task each."""
    from tokenmill.steps import run_component

    plan = run_component("curation.plan_exchange", run, inputs={"fingerprints": fingerprints})["output"]
    return list(range(plan.counts["parts"]))


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def exchange(run: str, fingerprints: dsl.Input[dsl.Dataset], part: int, pairs: dsl.Output[dsl.Dataset]) -> None:
    """Pairs of documents that meet in one part of the bands."""
    from tokenmill.steps import run_component

    inputs, outputs = {"fingerprints": fingerprints}, {"output": pairs}
    task = f"curation.exchange.part-{part:05d}"
    run_component("curation.exchange", run, inputs=inputs, outputs=outputs, config={"part": part}, task=task)


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
def deduplicate_group(
    run: str, group: str, duplicates: dsl.Input[dsl.Dataset], unique: dsl.Output[dsl.Dataset], suffix: str = ""
) -> None:
    """Drop exact and near duplicates of one group; the newest dump survives (Dedup)."""
    from tokenmill.steps import run_component

    inputs, outputs = {"corpus": group, "duplicates": duplicates}, {"output": unique}
    run_component("curation.deduplicate", run, inputs=inputs, outputs=outputs, part=suffix)


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def screen(run: str, corpus: dsl.Input[dsl.Dataset], safe: dsl.Output[dsl.Dataset], suffix: str = "") -> None:
    """Drop blocked domains and words, and what was scored unsafe (Safe)."""
    from tokenmill.steps import run_component

    run_component("curation.screen", run, inputs={"corpus": corpus}, outputs={"output": safe}, part=suffix)


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def grade(run: str, corpus: dsl.Input[dsl.Dataset], graded: dsl.Output[dsl.Dataset], suffix: str = "") -> None:
    """Score fluency and advertisement; drop below the thresholds (High-quality)."""
    from tokenmill.steps import run_component

    run_component("curation.grade", run, inputs={"corpus": corpus}, outputs={"output": graded}, part=suffix)


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def screen_by_lists(
    run: str, corpus: dsl.Input[dsl.Dataset], block_list: dsl.Input[dsl.Dataset], safe: dsl.Output[dsl.Dataset]
) -> None:
    """As screen, with a block list of any size."""
    from tokenmill.steps import run_component

    run_component("curation.screen", run, inputs={"corpus": corpus, "block_list": block_list}, outputs={"output": safe})


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def build_block_list(run: str, lists: dsl.Input[dsl.Dataset], block_list: dsl.Output[dsl.Dataset]) -> None:
    """Registered text lists → a block list that workers map into memory."""
    from tokenmill.steps import run_component

    run_component("curation.build_block_list", run, inputs={"lists": lists}, outputs={"output": block_list})


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def choose_scorers(run: str, given: list, scorers: dsl.Output[dsl.Model]) -> None:
    """The scorers of a run: those that are given, and for other scores small ones, trained here."""
    from tokenmill.curation.scorers import given_scorers, lacking
    from tokenmill.steps import run_component

    chosen = given_scorers(given)
    for score in lacking(run, chosen):
        config, task = {"score": score}, f"curation.train_scorer.{score}"
        chosen += run_component("curation.train_scorer", run, config=config, task=task).values()
    inputs = {"scorers": [scorer.digest for scorer in chosen]}
    run_component("curation.collect_scorers", run, inputs=inputs, outputs={"output": scorers})


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def score(
    run: str,
    corpus: dsl.Input[dsl.Dataset],
    scorers: dsl.Input[dsl.Model],
    scored: dsl.Output[dsl.Dataset],
    suffix: str = "",
) -> None:
    """Add scores to the records; nothing is dropped."""
    from tokenmill.steps import run_component

    inputs, outputs = {"corpus": corpus, "scorers": scorers}, {"output": scored}
    run_component("curation.score", run, inputs=inputs, outputs=outputs, part=suffix)


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def tier_code(run: str, corpus: dsl.Input[dsl.Dataset], tiered: dsl.Output[dsl.Dataset], suffix: str = "") -> None:
    """Code files in tiers, with their epochs; the low tier is dropped."""
    from tokenmill.steps import run_component

    run_component("curation.tier_code", run, inputs={"corpus": corpus}, outputs={"output": tiered}, part=suffix)


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def order_code(run: str, corpus: dsl.Input[dsl.Dataset], ordered: dsl.Output[dsl.Dataset]) -> None:
    """Repositories as Markdown documents, dependencies before dependants."""
    from tokenmill.steps import run_component

    run_component("curation.order_code", run, inputs={"corpus": corpus}, outputs={"output": ordered})


@dsl.component(base_image=images.TRAINER, install_kfp_package=False)
def select_long(
    run: str,
    corpus: dsl.Input[dsl.Dataset],
    weights: dsl.Input[dsl.Model],
    tokenizer: dsl.Input[dsl.Artifact],
    long: dsl.Output[dsl.Dataset],
    review: dsl.Output[dsl.Artifact],
) -> None:
    """Long documents whose far context helps, judged by a checkpoint; and a review of those near the threshold."""
    from tokenmill.steps import run_component

    inputs = {"corpus": corpus, "weights": weights, "tokenizer": tokenizer}
    run_component("curation.select_long", run, inputs=inputs, outputs={"corpus": long, "review": review})


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def retrieve(
    run: str,
    corpus: dsl.Input[dsl.Dataset],
    questions: dsl.Input[dsl.Dataset],
    retrieved: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.Artifact],
) -> None:
    """Documents that answer seed questions, by BM25; and what each question found."""
    from tokenmill.steps import run_component

    inputs = {"corpus": corpus, "questions": questions}
    run_component("curation.retrieve", run, inputs=inputs, outputs={"corpus": retrieved, "report": report})


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def funnel(
    run: str,
    raw: dsl.Input[list[dsl.Dataset]],
    clean: dsl.Input[list[dsl.Dataset]],
    stripped: dsl.Input[list[dsl.Dataset]],
    unique: dsl.Input[list[dsl.Dataset]],
    scored: dsl.Input[list[dsl.Dataset]],
    safe: dsl.Input[list[dsl.Dataset]],
    graded: dsl.Input[list[dsl.Dataset]],
    tiered: dsl.Input[list[dsl.Dataset]],
    ordered: dsl.Input[dsl.Dataset],
    page: dsl.Output[dsl.HTML],
) -> None:
    """What each stage kept, and what it dropped for which reason; stops where the numbers do not add up."""
    from tokenmill.steps import run_component

    stages = [raw, clean, stripped, unique, scored, safe, graded, tiered, ordered]
    run_component("curation.funnel", run, inputs={"stages": stages}, outputs={"output": page})
