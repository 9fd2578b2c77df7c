"""distviz: exact activation distributions of transformer MLPs, before and after redistribution.

Names are loaded when they are first used, so reading a run never imports torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distviz.arm.arm import ARM, Plan
    from distviz.errors import DistvizError
    from distviz.hooks.redistribute import redistribute
    from distviz.hooks.watch import WatchResult, watch
    from distviz.measure.measure import run
    from distviz.results.comparison import Comparison
    from distviz.results.run import Run
    from distviz.stats.sketch import Sketch
    from distviz.studies.compare import compare

__all__ = [
    "ARM",
    "Comparison",
    "DistvizError",
    "Plan",
    "Run",
    "Sketch",
    "WatchResult",
    "compare",
    "redistribute",
    "run",
    "watch",
]

_MODULES = {
    "ARM": "arm.arm",
    "Comparison": "results.comparison",
    "DistvizError": "errors",
    "Plan": "arm.arm",
    "Run": "results.run",
    "WatchResult": "hooks.watch",
    "Sketch": "stats.sketch",
    "compare": "studies.compare",
    "redistribute": "hooks.redistribute",
    "run": "measure.measure",
    "watch": "hooks.watch",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("distviz")
    if name not in _MODULES:
        raise AttributeError(f"module 'distviz' has no attribute {name!r}")
    value = getattr(import_module(f"distviz.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
