"""Wherever `xadflow data add` fails, the project is as it was, byte for byte, and the error is the failure's own."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from xadflow.datasets import adding, removing
from xadflow.datasets.adding import Wishes, add_folder
from xadflow.datasets.in_use import users_of
from xadflow.datasets.removing import STAGES
from xadflow.errors import CannotWrite, StageFailed, Stopped
from xadflow.settings import Home, load_settings

LOCK = "schema: '2.0'\nstages:\n  images@elpv:\n    cmd: xadflow data images\n"
PARAMS = """\
seed: 0   # a short one: reading ours takes longer than all else here
catalogue: [elpv]
datasets:
  elpv: {source: elpv, size_px: 128, channels: 1, known_used: 20}
detectors: {fcdd: {method: fcdd}}
explainers: {heatmap: {}}
retrain: {datasets: [elpv], detectors: [fcdd]}
explain: {datasets: [elpv], explainers: [heatmap]}
demo: {dataset: elpv}
calibration: {false_alarm_rate: 0.25}
"""


class Planted(Exception):
    """A failure that no code of ours expects."""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    root = tmp_path / "plant"
    (root / "data").mkdir(parents=True)
    (root / "dvc.lock").write_text(LOCK)
    (root / "params.yaml").write_text(PARAMS)
    return Home(root, root / "var")


@pytest.fixture(autouse=True)
def _looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of these tests add the same images: what they look like and how many there are is asked once."""
    for name in ("look_at", "count_images"):
        monkeypatch.setattr(adding, name, _once(getattr(adding, name)))


def _once(function: Callable[..., object]) -> Callable[..., object]:
    def asked(*arguments: object) -> object:
        if function not in ANSWERS:
            ANSWERS[function] = function(*arguments)
        return ANSWERS[function]

    return asked


ANSWERS: dict[object, object] = {}


def everything(home: Home) -> dict[str, bytes | None]:
    """Each file and folder of the project but the empty ones that locks lie in."""
    kept = {}
    for path in sorted(home.project.rglob("*")):
        name = path.relative_to(home.project).as_posix()
        if not name.startswith((".dvc", "var")) or (path.is_file() and path.stat().st_size):
            kept[name] = path.read_bytes() if path.is_file() else None
    return kept


def built_until(home: Home, stage: str, failure: BaseException) -> Callable[[Path, str], None]:
    """A `dvc repro` that writes what the stages before `stage` do, half of its own, and fails there."""

    def reproduce(project: Path, target: str) -> None:
        assert target == "validate@bolt"
        assert users_of(home, "bolt")  # nobody removes it meanwhile
        folder = home.dataset("bolt")
        made = {
            "origin": [home.dataset(".origin") / "bolt.json"],
            "images": [folder / "images" / "index.parquet", folder / "images" / "train" / "good" / "000.png"],
            "manifest": [folder / "manifest.parquet", folder / "quarantine.parquet"],
            "validate": [folder / "validation.json"],
        }
        lock = yaml.safe_load(LOCK)
        for one in STAGES:
            for path in made[one]:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"made")
            if one == stage:
                (folder / ".images.partial" / "x").mkdir(parents=True)
                (folder / "validation.partial").write_bytes(b"half")
                raise failure
            lock["stages"][f"{one}@bolt"] = {"cmd": f"xadflow data {one}"}
            (project / "dvc.lock").write_text(yaml.safe_dump(lock, sort_keys=False))

    return reproduce


def locked(home: Home) -> object:
    return yaml.safe_load((home.project / "dvc.lock").read_text())


FAILED = StageFailed("the DVC stage failed", seen="x", next_step="y")


@pytest.mark.parametrize(
    ("stage", "failure"),
    [
        *((stage, FAILED) for stage in STAGES),
        ("images", CannotWrite("the disk is full", seen="x", next_step="y")),
        ("images", Stopped("asked to stop", seen="SIGTERM", next_step="y")),
        ("manifest", KeyboardInterrupt()),
        ("validate", Planted("a bug")),
        ("validate", OSError(errno.ENOSPC, "No space left on device")),
    ],
    ids=str,
)
def test_a_stage_that_fails(
    home: Home, product: Path, monkeypatch: pytest.MonkeyPatch, stage: str, failure: BaseException
) -> None:
    before = everything(home)
    monkeypatch.setattr(adding, "reproduce", built_until(home, stage, failure))
    with pytest.raises(type(failure)) as raised:
        add_folder(home, "bolt", product, Wishes())
    if failure is FAILED:  # `dvc repro` has nothing to run any more
        assert raised.value.__cause__ is failure
        assert (raised.value.seen, "`xadflow data add` again" in str(raised.value)) == (failure.seen, True)
    else:
        assert raised.value is failure
    after = everything(home)
    assert after.keys() == before.keys()
    assert {name for name in before if after[name] != before[name]} <= {"dvc.lock"}  # rewritten by the stand-in
    assert locked(home) == yaml.safe_load(LOCK)
    assert users_of(home, "bolt") == []


def whole(home: Home) -> Callable[[Path, str], None]:
    build = built_until(home, "none", Planted())
    return lambda project, target: build(project, target)


@pytest.mark.parametrize("step", ["with_dataset", "with_name_in", "_warning", "replace_params"])
def test_a_step_of_our_own_that_fails(home: Home, product: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    before, real, calls = everything(home), adding.replace_params, []

    def broken(*arguments: object) -> None:
        calls.append(step)
        if step == "replace_params" and len(calls) == 1:  # it works at first, and the disk is full for the second
            real(*arguments)
            return
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(adding, "reproduce", whole(home))
    monkeypatch.setattr(adding, step, broken)
    with pytest.raises((OSError, CannotWrite)):
        add_folder(home, "bolt", product, Wishes())
    after = everything(home)
    assert calls
    assert after.keys() == before.keys()
    assert after["params.yaml"] == before["params.yaml"]
    assert locked(home) == yaml.safe_load(LOCK)


def test_what_could_not_be_taken_away_is_said_with_the_command_that_does(
    home: Home, product: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise CannotWrite("params.yaml could not be written: no room", seen="x", next_step="y")

    monkeypatch.setattr(adding, "reproduce", built_until(home, "images", StageFailed("z", seen="x", next_step="y")))
    monkeypatch.setattr(removing, "replace_params", full)
    with pytest.raises(StageFailed) as raised:
        add_folder(home, "bolt", product, Wishes())
    assert "`xadflow data remove bolt` does that" in raised.value.__notes__[0]
    monkeypatch.undo()
    removing.remove(home, removing.plan_removal(home, "bolt"))
    assert "bolt" not in load_settings(home.params).datasets
    assert not home.dataset("bolt").exists()


def test_what_somebody_else_wrote_into_params_meanwhile_stays(
    home: Home, product: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = home.params.read_text()

    def edited(project: Path, target: str) -> None:
        home.params.write_text(home.params.read_text().replace("seed: 0", "seed: 7", 1))
        raise StageFailed("z", seen="x", next_step="y")

    monkeypatch.setattr(adding, "reproduce", edited)
    with pytest.raises(StageFailed):
        add_folder(home, "bolt", product, Wishes())
    assert home.params.read_text() == before.replace("seed: 0", "seed: 7", 1)


def test_a_data_set_that_was_there_stays_when_bringing_it_up_to_date_fails(
    home: Home, product: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adding, "reproduce", whole(home))
    monkeypatch.setattr(adding, "_warning", lambda *_: None)
    add_folder(home, "bolt", product, Wishes())
    before = everything(home)
    monkeypatch.setattr(adding, "reproduce", lambda *_: (_ for _ in ()).throw(Planted()))
    with pytest.raises(Planted):
        add_folder(home, "bolt", product, Wishes())
    assert everything(home) == before


@pytest.mark.parametrize("place", ["bolt", "bolt/images"])
def test_the_users_own_folder_stays_where_ours_would_be(
    home: Home, product: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    own = home.project / "data" / place
    shutil.copytree(product, own)
    before = {path: path.read_bytes() for path in own.rglob("*") if path.is_file()}
    monkeypatch.setattr(adding, "reproduce", built_until(home, "origin", Planted()))
    with pytest.raises(Planted):
        add_folder(home, "bolt", own, Wishes())
    assert {path: path.read_bytes() for path in own.rglob("*") if path.is_file()} == before
