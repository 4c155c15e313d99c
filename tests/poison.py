"""Batches that spoil a training, planted in its ranks: their interpreter finds a `sitecustomize` that we put in its path."""

from pathlib import Path

SITE = """
import os

if "RANK" in os.environ and os.environ.get("TOKENMILL_TEST_POISON"):
    import json

    import tokenmill.training.data as data
    import tokenmill.training.prefetch as prefetch

    steps = {int(step): float(by) for step, by in json.loads(os.environ["TOKENMILL_TEST_POISON"]).items()}
    at, loss, now = prefetch.Prefetched.at, data.next_token_loss, {}

    def noted(self, step, rank, world):
        now["by"] = steps.get(step, 1.0) if rank == world - 1 else 1.0  # one rank's data is bad
        return at(self, step, rank, world)

    def poisoned(model, pack):
        out = loss(model, pack)
        return data.LossOutput(out.loss * now["by"], out.metrics) if model.training else out

    prefetch.Prefetched.at, data.next_token_loss = noted, poisoned
"""


def poisoned(folder: Path, steps: dict[int, float]) -> dict[str, str]:
    """Environment in which the last rank's loss at these steps is so many times what it is."""
    import json

    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(SITE)
    return {"PYTHONPATH": str(folder), "TOKENMILL_TEST_POISON": json.dumps({str(k): str(v) for k, v in steps.items()})}
