"""A run on one page: the funnel, the losses, the rewards, the evaluation, the verdict, the lineage, the steps."""

from tokenmill.report.collect import RunData, collect
from tokenmill.report.report import render

STEP_MODULES = ("step",)

__all__ = ["STEP_MODULES", "RunData", "collect", "render"]
