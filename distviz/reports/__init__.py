"""One HTML file from any folder that distviz wrote: opens from disk, asks nothing of the network.

`page` says what a page consists of, the ``*_sections`` rooms fill it from results, `rendering`
makes HTML of it, `writing` puts it into a file. Nothing here needs torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
