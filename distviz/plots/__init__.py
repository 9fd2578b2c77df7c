"""Figures: functions take a result and return a `matplotlib.figure.Figure`.

They never save, show or change their arguments and do not use pyplot, so they are safe in threads
and notebooks. The data of a figure are computed separately from drawing it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
