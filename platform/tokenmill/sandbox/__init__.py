"""Running code that nobody trusts: `run(code, limits=…) -> Result`. It refuses to run with less isolation than is required."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenmill.sandbox.launch import SandboxError, run
from tokenmill.sandbox.limits import ALL, BASE, NAMESPACES, Isolation, Limits, Result

__all__ = ["ALL", "BASE", "NAMESPACES", "Isolation", "Limits", "Result", "SandboxError", "run"]


def __getattr__(name: str) -> Any:
    """The caller's half: the processes that it starts do without its imports."""
    if name in ("run", "SandboxError"):
        from tokenmill.sandbox import launch

        return getattr(launch, name)
    raise AttributeError(name)
