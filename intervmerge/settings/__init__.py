"""Values of the user: from files to plain values, and from these to frozen dataclasses.

What is read is what was meant: a key that stands twice, and whatever two versions of YAML read differently, is refused.
"""

from intervmerge.settings.plain import DEPTH, LARGEST, Lines, printable, read_json, read_yaml, shortened
from intervmerge.settings.typed import described, read_file, read_settings, settings

__all__ = [
    "DEPTH",
    "LARGEST",
    "Lines",
    "described",
    "printable",
    "read_file",
    "read_json",
    "read_settings",
    "read_yaml",
    "settings",
    "shortened",
]
