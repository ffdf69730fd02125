"""The names of MLflow's tags are a contract (tests/golden), and stand in one module alone."""

from __future__ import annotations

import ast
from pathlib import Path

import xadflow
from xadflow.models import tags


def test_no_other_module_spells_a_tag_out() -> None:
    """A move of modules once renamed two tags: in other modules they look like the name of a module."""
    names = {value for value in vars(tags).values() if isinstance(value, str) and value.startswith("xadflow.")}
    names -= {tags.__name__, tags.__package__}
    package, spelled = Path(xadflow.__file__).parent, set()
    for file in package.rglob("*.py"):
        if file != Path(tags.__file__):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and node.value in names:
                    spelled.add(f"{file.relative_to(package)}: {node.value}")
    assert len(names) == 20
    assert not spelled
