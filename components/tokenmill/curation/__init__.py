"""Corpus curation (report §3.1): sources → ingest → filter → deduplicate → score → screen → grade → order_code.

The report's names for the states: Format → Clean → Dedup → Safe → High-quality. Every step says what it dropped and
why, and asserts that nothing went missing: in = kept + Σ dropped(reason) + rejected.
"""

STEP_MODULES = (
    *("sources", "plan", "ingest", "filter", "boilerplate", "deduplicate", "gather"),
    *(
        "block_list",
        "labels",
        "train_scorer",
        "bert_scorer",
        "fine_tune_scorer",
        "scorers",
        "score",
        "annotate",
        "screen",
        "grade",
    ),
    *("tier_code", "order_code", "merge", "funnel", "select_long", "retrieve"),
)
