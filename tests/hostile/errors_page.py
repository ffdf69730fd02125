"""docs/reference/errors.md: what the user types and what the program answers, both taken from a run of the tests."""

from __future__ import annotations

import re
from collections.abc import Mapping

from situations import SITUATIONS, Situation
from small_works import Answer

from tests.checkout import PROJECT

PAGE = PROJECT / "docs/reference/errors.md"

HEAD = """\
# Errors, as you see them

Every answer here was given by the program in a test; `make errors-page` writes this page anew, and the tests fail when it is
no longer true. Do not edit it.

An error is one line: what was wrong, the value seen, and after *Next* what to do. Exit status 1 means that the work failed, 2
that the request was wrong. There is no traceback for a mistake of yours; if you see one, it is ours: please report it.
`xadflow doctor` looks at everything and names the command that mends what it finds.

Paths and digests that differ between machines are shortened: `~/plant` is the project, `~/bolts` a folder of images.
"""  # noqa: E501


def page(answers: Mapping[str, Answer]) -> str:
    """The whole page from the answer to each situation, by title."""
    groups: dict[str, list[Situation]] = {}
    for one in SITUATIONS:
        groups.setdefault(one.group, []).append(one)
    lines = [HEAD]
    for group, members in groups.items():
        lines.append(f"- [{group}](#{anchor(group)})")
        lines += [f"  - [{one.title}](#{anchor(one.title)})" for one in members]
    lines.append("")
    for group, members in groups.items():
        lines.append(f"## {group}\n")
        lines += [section(one, answers[one.title]) for one in members]
    return "\n".join(lines).rstrip() + "\n"


def section(situation: Situation, answer: Answer) -> str:
    """One situation: what happened, the command, the answer, the exit status."""
    return (
        f"### {situation.title}\n\n{situation.happened}\n\n```console\n$ {situation.typed}\n{answer.said}\n```\n\n"
        f"Exit status {answer.status}.\n"
    )


def anchor(title: str) -> str:
    """The address that a heading gets on the usual hosts of Markdown."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
