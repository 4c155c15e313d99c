"""lm-eval's tasks as an evaluation like any other."""

from importlib.util import find_spec

from tokenmill.errors import InputError
from tokenmill.evaluation.config import LmEvalConfig
from tokenmill.evaluation.evaluate import in_process, summary, write_evaluation
from tokenmill.evaluation.grading import NAMES
from tokenmill.evaluation.statistics import Bootstrap
from tokenmill.manifest import Draft, Manifest
from tokenmill.steps import StepContext, effect


@effect(
    "evaluation.lm_eval",
    version=1,
    section="evaluation.evaluate",
    kinds={"weights": "weights", "tokenizer": "tokenizer"},
)
def lm_eval(config: LmEvalConfig, weights: Manifest | None, tokenizer: Manifest, ctx: StepContext) -> Draft:
    """Run tasks of lm-eval on a model, in this process or served. Their data are the outside world: never cached."""
    if find_spec("lm_eval") is None:
        raise InputError("lm-eval is not installed: pip install 'tokenmill[lm-eval]'")
    if not config.tasks:
        raise InputError("name tasks of lm-eval")
    from tokenmill.evaluation.endpoint import Endpoint
    from tokenmill.evaluation.lm_eval import measured
    from tokenmill.evaluation.scoring import Subject

    if config.execution.url:
        subject = Subject.of(Endpoint.at(config.model, config.execution), ctx.files(tokenizer), config)
    elif weights:
        subject = Subject.of(in_process(config, weights, ctx), ctx.files(tokenizer), config)
    else:
        raise InputError("no model: give weights, or an endpoint")
    found, asked = measured(subject, config)
    config = config.model_copy(update={"form": "plain"})
    bootstrap = Bootstrap(config.resamples, config.confidence, config.seed)
    suites = {name: summary(NAMES.get(metric, metric), rows, bootstrap) for name, (metric, rows) in found.items()}
    predictions = [{"suite": name, **row} for name, (_, rows) in found.items() for row in rows]
    told = {"model": weights.content if weights else config.model, "questions": asked}
    return write_evaluation(ctx, config, tokenizer, told, suites, predictions)
