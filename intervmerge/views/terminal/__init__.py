"""Where people read: a terminal or a pipe. What is printed is text, never markup."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from intervmerge.quoting import as_text

PIPE_WIDTH = 170
"""Columns of a pipe, which has no width of its own: tables stay whole there."""


class Terminal(Console):
    """Prints every string as it is: `[red]` and `:smile:` are names of users, and control characters are shown."""

    def __init__(self) -> None:
        super().__init__(markup=False, emoji=False, highlight=False)
        if not self.is_terminal:
            self.width = PIPE_WIDTH

    def render_str(self, text: str, **style: Any) -> Text:
        """See Console."""
        return super().render_str(as_text(text), **{**style, "markup": False, "emoji": False})

    def say(self, text: str) -> None:
        """Print one line, however long."""
        self.print(text, soft_wrap=True)
