"""Two packages that register one name are refused: nobody takes the place of a detector or explainer in silence."""

from __future__ import annotations

from importlib.metadata import Distribution, EntryPoint
from typing import Any

import pytest

from xadflow import plugins
from xadflow.errors import WrongUse
from xadflow.plugins import registered


class Package(Distribution):
    def __init__(self, name: str) -> None:
        self._named = name

    def read_text(self, filename: str) -> str | None:
        return f"Name: {self._named}\nVersion: 1\n" if filename == "METADATA" else None

    def locate_file(self, path: Any) -> Any:
        return path


def entry(name: str, value: str, package: str | None, group: str) -> EntryPoint:
    made = EntryPoint(name, value, group)
    return made if package is None else made._for(Package(package))  # type: ignore[attr-defined]


@pytest.mark.parametrize("group", ["xadflow.detectors", "xadflow.explainers"])
@pytest.mark.parametrize(("theirs", "said"), [("dup-ones", "dup-ones"), (None, "an unknown package")])
@pytest.mark.parametrize("first", [True, False])
def test_a_second_package_with_the_name_is_refused_whichever_comes_first(monkeypatch, group, theirs, said, first):
    pair = [entry("fcdd", "xadflow.detectors.fcdd:Fcdd", "xadflow", group), entry("fcdd", "dup:Fcdd", theirs, group)]
    monkeypatch.setattr(plugins, "entry_points", lambda group: pair if first else pair[::-1])
    registered.cache_clear()
    try:
        with pytest.raises(WrongUse) as raised:
            registered(group)
    finally:
        registered.cache_clear()
    assert "'fcdd'" in raised.value.wrong
    assert f"dup:Fcdd of {said}" in raised.value.seen
    assert "of xadflow" in raised.value.seen


def test_the_same_package_found_twice_is_one(monkeypatch):
    twice = [entry("fcdd", "xadflow.detectors.fcdd:Fcdd", "xadflow", "g")] * 2
    monkeypatch.setattr(plugins, "entry_points", lambda group: twice)
    registered.cache_clear()
    try:
        assert list(registered("g")) == ["fcdd"]
    finally:
        registered.cache_clear()
