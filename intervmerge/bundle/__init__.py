"""A point of a study as a folder of its own, and predictions with it; needs none of the libraries that search."""

from intervmerge.bundle.exporting import ExportedStudy, export
from intervmerge.bundle.model import Bundle, load_bundle

__all__ = ["Bundle", "ExportedStudy", "export", "load_bundle"]
