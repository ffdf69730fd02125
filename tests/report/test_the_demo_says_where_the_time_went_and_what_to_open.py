"""The last lines of the demo: the seconds of each part, and a report that shows something."""

from types import SimpleNamespace

import pyarrow as pa
import pytest

from flows import demo
from xadflow.progress import PartTimes
from xadflow.settings import Home, load_settings


def test_each_part_is_said_with_its_seconds_in_the_order_of_the_work(capsys) -> None:
    times = PartTimes()
    times.seconds.update({"data": (23.44, 19.0), "training": (31.0, 55.26), "night": (60.0, 110.0)})
    demo._say_times(times, 131.2)
    said = capsys.readouterr().out.splitlines()
    assert [line.split() for line in said[1:]] == [
        ["data", "23.4", "19.0"],
        ["training", "31.0", "55.3"],
        ["night", "60.0", "110.0"],
        ["work", "131", "s"],
    ]


@pytest.fixture
def project(tmp_path, monkeypatch) -> Home:
    """A state folder with the reports of three nights of the champion, version 2, and of one of version 1."""
    home = Home(tmp_path, tmp_path / "var")
    home.reports.mkdir(parents=True)
    rows = [
        {"model_name": "xad.elpv.fcdd", "model_version": version, "run_date": day, "run_id": run, "created_at": day}
        for version, day, run in (
            (2, "2026-11-01", "aaaaaaaa-1"),
            (2, "2026-11-03", "bbbbbbbb-1"),
            (1, "2026-11-04", "cccccccc-1"),
        )
    ]
    for row in rows:
        (home.reports / f"elpv-fcdd-{row['run_date']}-{row['run_id'][:8]}.html").touch()
    return SimpleNamespace(
        home=home,
        registry=SimpleNamespace(champion=lambda name: SimpleNamespace(name=name, version=2)),
        store=SimpleNamespace(read=lambda table, columns: pa.Table.from_pylist(rows).select(columns)),
    )


def test_a_night_with_images_shows_its_own_report(project: SimpleNamespace) -> None:
    night = {"report": "/somewhere/tonight.html", "figures": {"images": 3}}
    assert demo._report_to_open(project, "elpv", "fcdd", night).name == "tonight.html"


def test_a_night_without_images_shows_the_newest_report_that_the_champion_explained_something_in(
    project: SimpleNamespace,
) -> None:
    night = {"report": "/somewhere/tonight.html", "figures": {"images": 0}}
    assert demo._report_to_open(project, "elpv", "fcdd", night).name == "elpv-fcdd-2026-11-03-bbbbbbbb.html"
    (project.home.reports / "elpv-fcdd-2026-11-03-bbbbbbbb.html").unlink()
    assert demo._report_to_open(project, "elpv", "fcdd", night).name == "elpv-fcdd-2026-11-01-aaaaaaaa.html"


def test_the_demo_trains_no_generator_and_the_other_one_does() -> None:
    settings = load_settings(Home.find().params)
    plain, diverse = settings.demo, settings.demo.diverse
    assert settings.trained_explainers(plain.dataset, settings.retrain.detectors[0]) == []
    assert diverse is not None
    assert diverse.detector is not None
    assert settings.trained_explainers(diverse.dataset, diverse.detector) == ["diverse"]
    assert plain.anomalies >= 150  # about three of four are flagged, and a hundred are to be explained
