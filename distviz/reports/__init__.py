"""One HTML file from any folder that distviz wrote, without network access; exports; notebooks.

`page` defines the content of a page, a module per kind of result builds its sections, `rendering`
makes the HTML, `html` writes the file. Nothing here needs torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
