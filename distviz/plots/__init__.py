"""Figures: functions take a `Run` or a `Comparison`, return a `matplotlib.figure.Figure`.

They never save, show or change what they are given, and keep no global state of pyplot, so they
are safe in threads and notebooks. What is drawn is computed apart, as plain data.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
