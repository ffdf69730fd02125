"""`xadflow data list` and `xadflow data remove`: what is there, what goes, what stays, and when it is refused."""

from __future__ import annotations

import fcntl
import io
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.terminal import called
from xadflow.cli.data.said import FIRST_LISTED, quarantined
from xadflow.datasets.in_use import users_of, using
from xadflow.datasets.manifest import ManifestRow, write_manifest, write_quarantine
from xadflow.datasets.sources import Refused
from xadflow.settings import Home, load_settings

PARAMS = """\
catalogue:
- bolts
- nuts   # the second
datasets:
  bolts: {source: folder, size_px: 64, channels: 1, known_used: 0, options: {path: users/bolts}}
  # nuts come from another line
  nuts: {source: folder, size_px: 64, channels: 1, known_used: 0, options: {path: gone}}
  photos: {source: folder, size_px: 64, channels: 1, known_used: 0, outliers: bolts, options: {path: gone}}
detectors: {fcdd: {method: fcdd}}
explainers: {heatmap: {}, diverse: {}}
retrain: {datasets: [bolts, nuts], detectors: [fcdd]}
explain: {datasets: [nuts], explainers: [heatmap]}
demo: {dataset: photos}
""".replace("- nuts   #", "- photos\n- nuts   #")
LOCK = "schema: '2.0'\nstages:\n" + "".join(
    f"  {stage}@{name}:\n    cmd: xadflow data {stage}\n"
    for name in ("bolts", "nuts")
    for stage in ("origin", "images", "manifest", "validate")
)
Run = Callable[..., subprocess.CompletedProcess[str]]


def row(number: int, split: str, label: int | None, mask: bool = False) -> ManifestRow:
    path = f"images/{split}/{number}.png"
    return ManifestRow(
        f"{number:064d}", path, split, label, "x", None, "masks/x.png" if mask else None, 8, 8, "made up", "none"
    )


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Data sets bolts (the outliers of photos) and nuts, both built, with an inbox, a night and one table's worth."""
    root = tmp_path / "plant"
    for name in ("bolts", "nuts"):
        folder = root / "data" / name
        (folder / "images").mkdir(parents=True)
        (folder / "images" / "index.parquet").write_bytes(b"x" * 1000)
        rows = [
            row(1, "train", 0),
            row(2, "train", 0),
            row(3, "test", 0),
            row(4, "test", 1, True),
            row(5, "test", None),
        ]
        write_manifest(folder / "manifest.parquet", rows)
        refused = [{"path": f"{n}.png", "reason": "empty" if n else "link", "detail": "x"} for n in range(3)]
        write_quarantine(folder / "quarantine.parquet", refused)
        (folder / "validation.json").write_text("{}")
        for path in (f"data/.origin/{name}.json", f"var/inbox/{name}/new.png", f"var/inbox-runs/{name}/old.png"):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text("{}")
    (root / "users" / "bolts").mkdir(parents=True)
    for name, text in (("params.yaml", PARAMS), ("dvc.lock", LOCK), ("dvc.yaml", "stages: {}\n")):
        (root / name).write_text(text)
    return Home(root, root / "var")


@pytest.fixture
def xadflow(home: Home, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr("sys.stdin", io.StringIO())  # a pipe that answers no question

    def run(*words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = called(list(words), home.project, {"XADFLOW_PROJECT": str(home.project), "COLUMNS": "200", "PATH": ""})
        assert done.returncode == status, done.stdout + done.stderr
        return done

    return run


def files(home: Home) -> dict[str, bytes]:
    kept = (path for path in home.project.rglob("*") if path.is_file())
    return {
        name: path.read_bytes()
        for path in kept
        if not (name := str(path.relative_to(home.project))).startswith((".dvc", "var/secrets", "var/in-use"))
    }


def test_each_data_set_is_listed_with_its_origin_counts_and_refused_files(home: Home, xadflow: Run) -> None:
    bolts, photos, nuts = map(json.loads, xadflow("data", "list", "--json").stdout.splitlines())
    assert (bolts["name"], bolts["origin"], bolts["is_there"]) == ("bolts", "users/bolts", True)
    assert bolts["counts"] == {"train": {"normal": 2}, "test": {"normal": 1, "anomalous": 1, "unlabelled": 1}}
    assert (bolts["masks"], bolts["quarantine"], bolts["champions"]) == (1, {"empty": 2, "link": 1}, [])
    assert bolts["built"].endswith("+00:00")
    assert (photos["built"], nuts["is_there"]) == (None, False)
    said = xadflow("data", "list").stdout
    assert "1 + 1, 1 unlabelled" in said
    assert "gone (not on this machine)" in said
    assert "not built" in said
    assert not (home.state / "mlflow.db").exists()  # looking makes no store
    (home.dataset("nuts") / "manifest.parquet").write_bytes(b"damaged")
    assert "cannot be read" in xadflow("data", "list").stdout


def test_a_removal_says_what_goes_and_takes_that_and_nothing_else(home: Home, xadflow: Run) -> None:
    before = files(home)
    dry = xadflow("data", "remove", "nuts", "--dry-run").stdout
    assert files(home) == before
    done = xadflow("data", "remove", "nuts", "--yes").stdout
    assert done.splitlines()[:-1] == dry.splitlines()[:-1]
    for said in (
        "params.yaml: catalogue, datasets, retrain.datasets, explain.datasets",
        "dvc.lock: origin@nuts, images@nuts, manifest@nuts, validate@nuts",
        "data/nuts: 4 files",
        "data/.origin/nuts.json: 1 file,",
        "var/inbox/nuts: 1 file,",
        "the folder it comes from: gone",
        "images of its nights: inbox-runs/nuts",
    ):
        assert said in done
    after = files(home)
    gone = {name for name in before if name not in after}
    assert gone == {name for name in before if name.startswith(("data/nuts/", "data/.origin/nuts", "var/inbox/nuts"))}
    assert {name for name in after if after[name] != before.get(name)} == {"params.yaml", "dvc.lock"}
    assert not home.dataset("nuts").exists()
    assert list(yaml.safe_load(after["dvc.lock"])["stages"]) == [
        f"{stage}@bolts" for stage in ("origin", "images", "manifest", "validate")
    ]
    settings = load_settings(home.params)
    assert settings.catalogue == ("bolts", "photos")
    assert (settings.retrain.datasets, settings.explain.datasets) == (("bolts",), ())
    assert "# nuts come from another line" in home.params.read_text()
    assert "no data set of that name" in xadflow("data", "remove", "nuts", "--yes", status=2).stderr


def test_without_an_answer_nothing_is_touched(home: Home, xadflow: Run) -> None:
    before = files(home)
    assert "say --yes" in xadflow("data", "remove", "nuts", status=2).stderr
    assert files(home) == before


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ("", "", "datasets.photos.outliers"),
        ("demo: {dataset: photos}", "demo: {dataset: bolts}", "demo.dataset"),
        ("demo: {dataset: photos}", "demo: {dataset: photos, diverse: {dataset: bolts}}", "demo.diverse.dataset"),
        (
            "retrain: {datasets: [bolts, nuts], detectors: [fcdd]}",
            "retrain: {datasets: [], detectors: [fcdd], "
            "explainers: {diverse: [{datasets: [bolts], detectors: [fcdd]}]}}",
            "retrain.explainers.diverse.datasets",
        ),
        ("", "prefect", "deployment nightly in prefect.yaml"),
    ],
)
def test_what_something_else_needs_stays(home: Home, xadflow: Run, old: str, new: str, where: str) -> None:
    if new == "prefect":
        deployed = {"deployments": [{"name": "nightly", "parameters": {"datasets": ["bolts"]}}, {"name": "weekly"}]}
        (home.project / "prefect.yaml").write_text(yaml.safe_dump(deployed))
    else:
        home.params.write_text(PARAMS.replace(old, new))
    before = files(home)
    refused = xadflow("data", "remove", "bolts", "--yes", status=2).stderr
    assert where in refused
    assert "Next:" in refused
    assert files(home) == before


def test_a_run_that_uses_it_keeps_it_and_a_dead_one_does_not(home: Home, xadflow: Run) -> None:
    before = files(home)
    with using(home, ["nuts"]):
        refused = xadflow("data", "remove", "nuts", "--yes", status=2).stderr
        assert "is in use" in refused
        assert "stops it" in refused
        assert "UTC" not in refused
        assert users_of(home, "bolts") == []
    assert files(home) == before
    left = home.state / "in-use" / "nuts" / "dead.json"
    left.write_text(json.dumps({"pid": 1, "host": "h", "command": "xadflow retrain", "since": "2026-01-01T00:00:00Z"}))
    with left.open() as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert len(users_of(home, "nuts")) == 1
    assert users_of(home, "nuts") == []  # the kernel gave the lock back
    assert not left.exists()
    xadflow("data", "remove", "nuts", "--yes")


@pytest.mark.parametrize("kind", ["write", "read"])
@pytest.mark.parametrize("place", ["nuts/images", "nuts", ".origin/nuts.json", "bolts/images"])
def test_a_dvc_started_by_hand_keeps_what_it_works_at(home: Home, xadflow: Run, kind: str, place: str) -> None:
    lock = home.project / ".dvc" / "tmp" / "rwlock"
    lock.parent.mkdir(parents=True)
    one = {"pid": os.getpid(), "cmd": "dvc repro"}
    entry = {str(home.project / "data" / place): one if kind == "write" else [one]}
    lock.write_text(json.dumps({kind: entry}))
    is_its = "nuts" in place
    done = xadflow("data", "remove", "nuts", "--yes", status=2 if is_its else 0)
    assert (f"dvc repro (process {os.getpid()}; " in done.stderr) == is_its


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"write": 3}', '{"write": {"x": {}}}', '{"read": {"x": [{"pid": 0}]}}']
)
def test_a_lock_of_dvc_that_tells_nothing_is_no_obstacle(home: Home, xadflow: Run, text: str) -> None:
    lock = home.project / ".dvc" / "tmp" / "rwlock"
    lock.parent.mkdir(parents=True)
    lock.write_text(text.replace("x", str(home.dataset("nuts"))))
    xadflow("data", "remove", "nuts", "--yes")


def test_what_a_kill_left_of_a_removal_is_taken_by_the_next(home: Home, xadflow: Run) -> None:
    home.params.write_text(
        PARAMS.replace("- nuts   # the second\n", "").replace(", nuts]", "]").replace("[nuts]", "[]")
    )
    text = home.params.read_text()
    home.params.write_text("".join(line for line in text.splitlines(True) if not line.startswith("  nuts:")))
    own = home.project / "data" / "nuts" / "train" / "good" / "mine.png"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"mine")
    done = xadflow("data", "remove", "nuts", "--yes").stdout
    assert "dvc.lock: origin@nuts" in done
    assert own.read_bytes() == b"mine"  # nothing says that it is ours
    assert not (home.dataset("nuts") / "images").exists()
    assert home.inbox("nuts").exists()
    assert "nuts" not in (home.project / "dvc.lock").read_text()


@pytest.mark.parametrize("name", ["../users", "..", "", ".origin", "a/b"])
def test_no_name_leads_out_of_the_folder_of_data(home: Home, xadflow: Run, name: str) -> None:
    for place in (home.project, home.project / "users", home.project / "data", home.project / "data" / ".origin"):
        (place / ".gitignore").write_text("x")  # what a data set's own folder may have too
        (place / "validation.json").write_text("x")
    before = files(home)
    xadflow("data", "remove", name, "--yes", status=2)
    assert files(home) == before


def test_quarantine_is_told_by_reason_with_the_first_names_and_where_all_of_it_is() -> None:
    refused = [Refused(f"{n}.png", "empty", "no byte") for n in range(30)]
    refused += [Refused("a\x1b[2J.png", "link", "leads to b.png")]
    lines = quarantined("bolts", refused, FIRST_LISTED)
    assert lines[0] == "bolts: 31 files in quarantine"
    assert [line.split()[:2] for line in lines[1:6]] == [
        *(["empty", f"{n}.png"] for n in range(3)),
        ["empty", "and"],
        ["link", "a\\x1b[2J.png"],
    ]
    assert lines[4].endswith("and 27 more")
    assert "data/bolts/quarantine.parquet" in lines[6]
    assert lines[7].startswith("Next:")
    assert quarantined("bolts", [], FIRST_LISTED) == []
    assert "All of them" not in "\n".join(quarantined("bolts", refused[:2], FIRST_LISTED))


def test_a_night_tells_its_refused_files_by_reason(capsys: pytest.CaptureFixture[str]) -> None:
    from flows.commands import say_explained

    night = {"figures": {"quarantined": 6}, "left_out": {}, "report": "r.html"}
    say_explained([{**night, "refused": {"empty": [5, ["a", "b\x1b", "c"]], "link": [1, ["d"]]}, "refused_list": "q"}])
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[1:4] == ["5 empty a, b\\x1b, c and 2 more", "1 link d", "all of them, with what was seen: q"]
    say_explained([{**night, "refused": {}, "refused_list": "q"}])
    assert "with what was seen" not in capsys.readouterr().out
