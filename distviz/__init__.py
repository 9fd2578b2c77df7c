"""distviz: exact activation distributions of transformer MLPs, before and after redistribution.

Names are loaded when they are first used, so reading a run never imports torch.
"""

from typing import Any

import lazy_loader

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("distviz")
    return _load(name)
