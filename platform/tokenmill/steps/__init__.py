"""Steps, effects and the action cache: resume is rerun.

`@step`, `@effect` and `@training_step` declare work; `run_step` does it, or finds that it has been done; `run_component` is
what a KFP component calls. The same function runs in a test, on a laptop and in a container.
"""

from tokenmill.steps.component import run_component
from tokenmill.steps.context import StepContext
from tokenmill.steps.outcomes import Drop, Keep, Reject
from tokenmill.steps.registry import Definition, configured, effect, find, load_phase, step, training_step
from tokenmill.steps.runner import action_key, run_step

__all__ = [
    "Definition",
    "Drop",
    "Keep",
    "Reject",
    "StepContext",
    "action_key",
    "configured",
    "effect",
    "find",
    "load_phase",
    "run_component",
    "run_step",
    "step",
    "training_step",
]
