"""Studies that take several measurements: compare, filler, sweep, what-if, generate, inspect."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
