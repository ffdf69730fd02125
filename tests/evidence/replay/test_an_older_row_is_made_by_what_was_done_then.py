"""A setting that came after a row was written is, for that row, what the code did before there was one."""

from types import SimpleNamespace

import pytest

from xadflow.evidence.replay.lineages import Notes
from xadflow.evidence.replay.sources import Sources
from xadflow.explainers.transplant import TransplantSettings


@pytest.mark.parametrize("given", [{}, {"alternatives": 2}, {"complete": 0.3}, {"complete": 0.0}])
def test_the_explainer_of_a_row_has_the_version_of_the_row(given: dict[str, object]) -> None:
    then = TransplantSettings(**{"complete": 0.0, **given})
    row = {"explainer": "transplant", "explainer_version": then.version("1")}
    nothing = SimpleNamespace()
    built = Sources(nothing, nothing, nothing, nothing)._untrained(row, {"explainer_settings": given}, Notes())
    assert built.version == row["explainer_version"]
    assert built.settings == then
