"""`models promote NAME VERSION` and `models promote NAME/VERSION` mean the same; an alias or no version is refused."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from xadflow.cli import models
from xadflow.errors import WrongUse
from xadflow.models.service import Moved


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What the registry was asked to put into service."""
    versions: list[tuple[str, int]] = []

    def put(registry: object, name: str, version: int) -> Moved:
        versions.append((name, version))
        return Moved(name, version, None, {})

    monkeypatch.setattr("xadflow.models.service.put_in_service", put)
    monkeypatch.setattr(models, "_writable_registry", lambda: None)
    return versions


@pytest.mark.parametrize("words", [("xad.a.fcdd", "3"), ("xad.a.fcdd/3",)])
def test_both_ways_name_the_version(asked: list[tuple[str, int]], words: tuple[str, ...]) -> None:
    done = CliRunner().invoke(models.promote, list(words), catch_exceptions=False)
    assert done.exit_code == 0
    assert asked == [("xad.a.fcdd", 3)]


@pytest.mark.parametrize("word", ["xad.a.fcdd", "xad.a.fcdd@champion", "xad.a.fcdd/", "/3", "xad.a.fcdd/three"])
def test_anything_else_is_refused_with_the_command_to_run(asked: list[tuple[str, int]], word: str) -> None:
    with pytest.raises(WrongUse, match="xadflow models promote|name@alias or name/3"):
        CliRunner().invoke(models.promote, [word], catch_exceptions=False)
    assert asked == []
