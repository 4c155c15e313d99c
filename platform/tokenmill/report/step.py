"""The page as an artifact of the run it tells of."""

from tokenmill.config import StepConfig
from tokenmill.manifest import Draft
from tokenmill.report.collect import collect
from tokenmill.report.report import render
from tokenmill.steps import StepContext, effect

PAGE = "report.html"


class ReportConfig(StepConfig):
    """The page has no options."""


@effect("report.render", version=1)
def render_run(config: ReportConfig, ctx: StepContext) -> Draft:
    """Write the run's page so far. An effect: it reads events, which no digest covers."""
    ctx.events.flush()
    folder = ctx.workdir / "report"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PAGE).write_text(render(collect(ctx.store, ctx.run.key)), "utf-8")
    draft = ctx.write_files("report", folder)
    ctx.events.artifact(PAGE, draft.shards[0].blob, on="run")
    return draft
