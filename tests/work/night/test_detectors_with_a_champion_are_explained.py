"""Whose champions a night explains: those named, or the detectors of retrain.detectors that have one."""

from types import SimpleNamespace

import pytest

from tasks import explaining
from xadflow.errors import NoChampion


class Registry:
    """Champions of some models of data set `plates`."""

    def __init__(self, *in_service: str) -> None:
        self._names = {f"xad.plates.{name}" for name in in_service}

    def prepare(self) -> None:
        """Nothing to make."""

    def alias(self, name: str, alias: str) -> str | None:
        assert alias == "champion"
        return name if name in self._names else None

    def champion(self, name: str) -> str:
        if name not in self._names:
            raise NoChampion("no champion", seen=name, next_step="run `xadflow retrain`")
        return name


def found(monkeypatch: pytest.MonkeyPatch, in_service: tuple[str, ...], named: list[str] | None) -> list[str]:
    settings = SimpleNamespace(retrain=SimpleNamespace(detectors=["fcdd", "hsc", "bce"]))
    project = SimpleNamespace(registry=Registry(*in_service), settings=settings)
    monkeypatch.setattr(explaining.Project, "open", lambda: project)
    return explaining.detectors_in_service.fn("plates", named)


@pytest.mark.parametrize(
    ("in_service", "named", "expected"),
    [
        (("fcdd", "bce"), None, ["fcdd", "bce"]),
        (("bce",), None, ["bce"]),
        (("fcdd", "hsc", "ae"), None, ["fcdd", "hsc"]),
        (("fcdd", "ae"), ["ae"], ["ae"]),
        (("fcdd", "hsc"), ["hsc", "fcdd"], ["hsc", "fcdd"]),
    ],
)
def test_every_detector_in_service_is_explained_in_order(monkeypatch, in_service, named, expected):
    assert found(monkeypatch, in_service, named) == expected


@pytest.mark.parametrize(
    ("in_service", "named", "missing"),
    [((), None, "fcdd"), (("fcdd",), ["fcdd", "hsc"], "hsc"), (("ae",), None, "fcdd")],
)
def test_one_that_was_named_or_all_of_them_without_a_champion_is_an_error(monkeypatch, in_service, named, missing):
    with pytest.raises(NoChampion, match=f"xad.plates.{missing}"):
        found(monkeypatch, in_service, named)
