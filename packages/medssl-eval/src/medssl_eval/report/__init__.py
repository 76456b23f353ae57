"""Reports: records of all packages as one page that opens from the disk, or as plain tables.

It reads records and the pictures that they name; it imports none of the packages that made them.
"""

from medssl_eval.report.content import Content, Entry, published_content, read_content
from medssl_eval.report.exports import FORMATS, export
from medssl_eval.report.page import write_page

__all__ = [
    "FORMATS",
    "Content",
    "Entry",
    "export",
    "published_content",
    "read_content",
    "write_page",
]
