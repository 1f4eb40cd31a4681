"""Text of users where not every character may stand, or some would be read as markup, as commands, or tell a secret.

Names are quoted one to one: two names stay two, whatever a view can carry.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from hashlib import sha256

_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What would move a terminal's cursor, colour it or turn its direction; and what no encoding has."""
_SECRETS = (
    (re.compile(r"(?<=://)(?:[^/\s@:]*@|[^/\s@:]*:[^\s@]*@)"), "***@"),
    (re.compile(r"(?i)([?&;][\w.-]*(?:pass|pwd|secret|token|key|sig|credential|auth)[\w.-]*=)[^&;#\s'\"]*"), r"\1***"),
)
"""Of a URI: who asks and by which password, and values of its query that are passwords by their names."""
_MARKUP = re.compile(r"([\\`*_\[\]<>|~&$#!])")
_LEADING = re.compile(r"(?m)^(\s*)(?:([-+=])|(\d+)([.)]))")
"""What makes a heading, a list or a rule of a line of Markdown."""


def quoted(name: str, stays: Callable[[str], object], mark: str, most: int) -> str:
    """A name in which all but some characters are written as `mark` and two hex digits a byte, as `%20`; one to one.

    Args:
        name: any text.
        stays: whether a character stands for itself; for `mark` it is not asked.
        mark: begins what is quoted; alone it is the empty name.
        most: bytes of the result in UTF-8; a longer one is cut, and ends in two marks and the hash of the name.
    """
    only_dots = set(name) == {"."}  # a folder's own names
    parts = [char if char != mark and stays(char) and not only_dots else _hex(char, mark) for char in name] or [mark]
    if len("".join(parts).encode()) <= most:
        return "".join(parts)
    end = f"{mark}{mark}{sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()}"
    while len("".join([*parts, end]).encode()) > most:
        parts.pop()
    return "".join([*parts, end])


def _hex(char: str, mark: str) -> str:
    return "".join(f"{mark}{byte:02X}" for byte in char.encode("utf-8", "surrogatepass"))


def as_file(name: str) -> str:
    """A name as that of one file or folder, readable: `ViT-B%2F32`."""
    return quoted(name, lambda char: char.isprintable() and char != "/", "%", 120)


def as_key(name: str) -> str:
    """A name as one part of a key of MLflow, of letters, digits, `_`, `.`, `-`, spaces: `C:23 :28digits:29`."""
    return quoted(name, re.compile(r"[\w.\- ]").fullmatch, ":", 200)


def as_text(text: str) -> str:
    r"""A text that leaves a terminal as it is: control characters as `\x1b`; tabs and ends of lines stay."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def as_markdown(text: str) -> str:
    """A text as one line of Markdown that shows it as it is, in a cell of a table too."""
    line = _MARKUP.sub(r"\\\1", " ".join(as_text(text).split()))
    return _LEADING.sub(lambda found: f"{found[1]}{found[3] or ''}\\{found[2] or found[4]}", line)


def without_secrets(text: str) -> str:
    """A text whose URIs tell neither users nor passwords nor tokens: `http://***@host/?token=***`."""
    for secret, instead in _SECRETS:
        text = secret.sub(instead, text)
    return text
