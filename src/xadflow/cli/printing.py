"""What a command may print of a file's name."""

from __future__ import annotations


def printable(text: str) -> str:
    """`text` with everything escaped that is no printable character: a name may hold bytes that are no text, or codes
    that move a terminal's cursor."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
