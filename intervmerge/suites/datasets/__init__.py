"""Images from where they lie to splits: `decode(open_source(folder), path, size, SplitRule())`."""

from intervmerge.suites.datasets.decode import Decoded, decode
from intervmerge.suites.datasets.sources.kinds import open_source
from intervmerge.suites.datasets.sources.source import Source
from intervmerge.suites.datasets.splits import SplitRule

__all__ = ["Decoded", "Source", "SplitRule", "decode", "open_source"]
