"""How a command prints names and tables; times are :func:`xadflow.progress.moment_text`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

_PIPE_WIDTH = 240  # a pipe has no width to fit a table into


def printable(text: str) -> str:
    """`text` with everything escaped that is no printable character: a name may hold bytes that are no text, or codes
    that move a terminal's cursor."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def print_table(table: Table) -> None:
    """A table as wide as the terminal, or in a pipe as wide as it is."""
    from rich.console import Console

    console = Console()
    (console if console.is_terminal else Console(width=_PIPE_WIDTH)).print(table)
