"""A function takes at most seven parameters, or its docstring says why it takes more: `Many parameters: ...`.

self and cls do not count. A record is as a rule the better answer: what goes together through several functions is one
thing.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOST = 7
REASON = re.compile(r"Many parameters: \w.{15,}")


def too_many(source: str) -> Iterator[str]:
    """Names of functions in a module that take more than they may, or say."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            given = node.args
            named = [one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
            count = len([name for name in named if name not in ("self", "cls")])
            if count > MOST and not REASON.search(ast.get_docstring(node) or ""):
                yield node.name


def test_no_function_of_the_tree_takes_more_without_a_reason() -> None:
    files = [path for part in ("src", "flows", "tasks") for path in sorted((ROOT / part).rglob("*.py"))]
    assert len(files) > 200
    found = {f"{path.relative_to(ROOT).as_posix()}:{name}" for path in files for name in too_many(path.read_text())}
    assert not found, f"more than {MOST} parameters and no `Many parameters:` in the docstring: {found}"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def f(a, b, c, d, e, g, h): ...", []),
        ("def f(a, b, c, d, e, g, h, i): ...", ["f"]),
        ("class A:\n def f(self, a, b, c, d, e, g, h): ...", []),
        ("class A:\n def f(self, a, b, c, d, /, e, g, *, h, i=0): ...", ["f"]),
        ("async def f(*, a, b, c, d, e, g, h, i): ...", ["f"]),
        ('def f(a, b, c, d, e, g, h, i):\n "Many parameters: one for each option."', []),
        ('def f(a, b, c, d, e, g, h, i):\n "Many parameters: yes."', ["f"]),
    ],
)
def test_one_parameter_too_many_is_seen_and_a_reason_is_accepted(source: str, expected: list[str]) -> None:
    assert list(too_many(source)) == expected
