"""What release.json says of a release that a test made up."""

FACTS = {
    "name": "reciter",
    "weights": "w" * 64,
    "tokenizer": "t" * 64,
    "evaluation": {"content": "e" * 64, "label": "chat", "suites": {}},
    "verdict": {"content": "v" * 64, "passed": True, "checks": 1, "policy": "p" * 64},
    "lineage": None,
    "rope_theta": 10000.0,
    "max_position_embeddings": 512,
}
