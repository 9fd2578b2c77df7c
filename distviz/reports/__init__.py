"""One HTML file from any folder that distviz wrote: opens from disk, asks nothing of the network.

`page` says what a page consists of, the ``*_sections`` rooms fill it from results, `rendering`
makes HTML of it, `writing` puts it into a file. Nothing here needs torch.
"""

from distviz.reports.html import page_of, report_folders, write_page

__all__ = ["page_of", "report_folders", "write_page"]
