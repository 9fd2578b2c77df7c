"""distviz: exact activation distributions of transformer MLPs, before and after redistribution.

Names are loaded when they are first used, so reading a run never imports torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from distviz.showable import when_defined

if TYPE_CHECKING:
    from distviz.arm import ARM, Plan
    from distviz.collect import run
    from distviz.comparing import compare
    from distviz.comparisons import Comparison
    from distviz.errors import DistvizError
    from distviz.hooks import redistribute
    from distviz.runs import Run
    from distviz.sketch import Sketch
    from distviz.watching import Seen, watch

__all__ = [
    "ARM",
    "Comparison",
    "DistvizError",
    "Plan",
    "Run",
    "Seen",
    "Sketch",
    "compare",
    "redistribute",
    "run",
    "watch",
]

_ROOMS = {
    "ARM": "arm",
    "Comparison": "comparisons",
    "DistvizError": "errors",
    "Plan": "arm",
    "Run": "runs",
    "Seen": "watching",
    "Sketch": "sketch",
    "compare": "comparing",
    "redistribute": "hooks",
    "run": "collect",
    "watch": "watching",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("distviz")
    if name not in _ROOMS:
        raise AttributeError(f"module 'distviz' has no attribute {name!r}")
    value = getattr(import_module(f"distviz.{_ROOMS[name]}"), name)
    globals()[name] = value
    return value


def _attach_display(kind: type) -> None:
    """Let plain data show itself in notebooks; nothing is drawn here."""
    import_module("distviz.displays").attach(kind)


when_defined(_attach_display)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
