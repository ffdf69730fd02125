"""benchmarks/study.py and tables.py: what is kept is not made again, what is half made is not there; rows, blanks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from benchmarks.study import Study, kept, ratios, turns
from benchmarks.tables import Spread, averaged, row, said, table


@dataclass(frozen=True)
class Cell:
    method: str
    seed: int


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setattr(Study, "place", tmp_path)
    return Study("tried", ("progress.py",), ("study.py",))


CELLS = [Cell(method, seed) for method in ("bce", "hsc") for seed in (0, 1)]


def measured(study, made):
    def make(cell):
        made.append(cell)
        return {"figure": cell.seed}

    return study.measure(CELLS, lambda cell: study.path(f"{cell.method}-{cell.seed}.json", cell=str(cell)), make)


def test_a_cell_is_made_once_and_only_names_which(study):
    made: list[Cell] = []
    study.given.only = ["hsc", "1"]
    assert list(measured(study, made)) == made == [Cell("hsc", 1)]
    study.given.only = []
    found = measured(study, made)
    assert len(made) == len(found) == 4
    assert found[Cell("hsc", 1)]["figures"] == {"figure": 1}
    study.given.minutes = -1.0
    assert measured(study, made) == found
    assert len(made) == 4


def test_no_cell_is_started_when_time_is_up(study):
    study.given.minutes = -1.0
    assert measured(study, []) == {}


def test_the_name_of_a_cell_hangs_on_settings_code_and_own_files(study, monkeypatch):
    names = {study.path("cell.npz", k=1).name, study.path("cell.npz", k=2).name, study.trained("cell.npz", k=1).name}
    names |= {Study("tried", ("errors.py",), ("study.py",)).path("cell.npz", k=1).name}
    names |= {Study("tried", ("progress.py",), ("tables.py",)).path("cell.npz", k=1).name}
    assert len(names) == 5
    assert all(name.endswith(".npz") for name in names)


def test_what_is_half_made_is_not_there(tmp_path):
    def broken():
        raise KeyboardInterrupt

    path = tmp_path / "cell.npz"
    with pytest.raises(KeyboardInterrupt):
        kept(path, broken)
    np.testing.assert_array_equal(kept(path, lambda: {"a": np.arange(3)})["a"], [0, 1, 2])
    np.testing.assert_array_equal(kept(path, broken)["a"], [0, 1, 2])
    assert [one.name for one in tmp_path.iterdir()] == ["cell.npz"]


def test_turns_and_their_ratios_are_round_by_round():
    spent = turns({"a": lambda: None, "b": lambda: None}, rounds=2, least_s=0.0)
    assert [len(spent[arm][of]) for arm in "ab" for of in ("clock", "cpu")] == [2] * 4
    assert ratios({"clock": [2.0, 9.0]}, {"clock": [1.0, 3.0]}) == [2.0, 3.0]


def test_a_row_has_intervals_lists_and_blanks():
    figures = {"auroc": {"value": 0.5, "low": 0.25, "high": 1.0}, "each": [1, 2], "of": {"a b": 0.125}}
    assert row("| {auroc:+.2f} | {each:.1f} | {each!c} | {of[a b]:.1%} |", figures) == (
        "| +0.50 [+0.25, +1.00] | 1.0 / 2.0 | 1, 2 | 12.5% |"
    )
    assert row("| {missing} | {of[c]} x | {name} |", figures, name="n") == "|  |  | n |"
    assert table("| a | b |", "| {a} | {b} |", [{"a": 1}]) == ["| a | b |", "|---|---|", "| 1 |  |"]
    with pytest.raises(KeyError):
        said("{missing}", figures)


def test_means_of_seeds_keep_the_structure():
    seeds = [{"a": 1.0, "b": [0, 2], "c": {"d": True}}, {"a": 2.0, "b": [2, 4], "c": {"d": True}}]
    assert averaged(seeds) == {"a": 1.5, "b": [1, 3], "c": {"d": True}}
    assert f"{Spread(0.5, 0.125):.1%}" == "50.0 ± 12.5"


def test_defaults_of_a_benchmarks_own_options_hold(study, monkeypatch):
    monkeypatch.setattr("sys.argv", ["tried"])
    given = study.start("doc", "quick", only={"default": ""}, seeds={"type": int, "default": 3})
    assert (given.only, given.seeds, given.quick, given.jobs) == ("", 3, False, 0)
    monkeypatch.setattr("sys.argv", ["tried", "--only", "brick", "--quick"])
    given = study.start("doc", "quick", only={"default": ""})
    assert (given.only, given.quick) == ("brick", True)
