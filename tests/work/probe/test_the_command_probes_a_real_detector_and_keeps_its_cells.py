import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image

from tests.checkout import PROJECT
from tests.work.probe.conftest import SIDE, gravel
from xadflow.cli.probe import probe
from xadflow.datasets.manifest import ManifestRow, write_manifest
from xadflow.digests import sha256_file
from xadflow.errors import BadManifest, UnknownName, WrongUse
from xadflow.work.probe import ProbePlan

SHORT = {"network": "cnn28", "min_steps": 6, "epochs": 0.01, "batch_size": 16}
PARTS = (("train", 0, 40), ("val", 0, 24), ("test", 0, 12), ("test", 1, 12))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one tiny data set, as DVC would have built it."""
    (tmp_path / "dvc.yaml").write_bytes((PROJECT / "dvc.yaml").read_bytes())
    params = yaml.safe_load((PROJECT / "params.yaml").read_text())
    params["datasets"]["tiny"] = {"source": "folder", "size_px": SIDE, "channels": 1, "known_used": 0}
    params["catalogue"].append("tiny")
    for method in ("hsc", "dsvdd"):
        params["detectors"][method] = {"method": method, "settings": SHORT}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    outs = {"manifest@tiny": {"outs": [{"path": "data/tiny/manifest.parquet", "md5": "0" * 32}]}}
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"stages": outs}))
    folder, rows = tmp_path / "data/tiny", []
    for number, (split, label, count) in enumerate(PARTS):
        for index, pixels in enumerate(gravel(count, number)[:, 0].numpy()):
            path = folder / f"images/{split}-{label}-{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(255 - pixels if label else pixels).save(path)
            rows.append(
                ManifestRow(
                    sha256_file(path),
                    str(path.relative_to(folder)),
                    split,
                    label,
                    "tiny",
                    None,
                    None,
                    SIDE,
                    SIDE,
                    "drawn",
                    "none",
                )
            )
    write_manifest(folder / "manifest.parquet", rows)
    monkeypatch.setenv("XADFLOW_PROJECT", str(tmp_path))
    monkeypatch.delenv("XADFLOW_HOME", raising=False)
    return tmp_path


def said(*words: str):
    return CliRunner().invoke(probe, ["--dataset", "tiny", *words], catch_exceptions=False)


def test_it_trains_measures_draws_and_does_not_train_twice(project: Path):
    first = said("--detector", "hsc", "--rate", "0.5")
    assert first.exit_code == 0
    assert "2 trained, 0 kept" in first.output
    assert "40 defects drawn beforehand" in first.output
    folder = project / "var/probe/tiny-hsc"
    with Image.open(folder / "probe.png") as picture:
        assert np.asarray(picture).std() > 10
    report = json.loads((folder / "probe.json").read_text())
    assert [row["rate"] for row in report["rates"]] == [0.0, 0.5]
    assert report["rates"][1]["planted"] == {"known": [20, 40]}
    assert report["test"] == {"normals": 12, "anomalies": 12}
    assert report["rates"][0]["alarm"] == []
    assert not list(folder.rglob("checkpoint.pt"))
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("cell.npz")}

    again = said("--detector", "hsc", "--rate", "0", "0.5", "1", "--json")
    assert json.loads(again.output)["rates"][:2] == report["rates"]
    assert len(list(folder.rglob("cell.npz"))) == 3
    assert all(path.stat().st_mtime_ns == before for path, before in times.items())

    params = project / "params.yaml"
    params.write_text(params.read_text().replace("min_steps: 6", "min_steps: 7"))
    assert "2 trained, 0 kept" in said("--detector", "hsc", "--rate", "0.5").output


def test_what_cannot_work_is_said_before_any_training(project: Path):
    with pytest.raises(UnknownName, match="use 'tiny'"):
        CliRunner().invoke(probe, ["--dataset", "tini", "--detector", "hsc"], catch_exceptions=False)
    with pytest.raises(UnknownName, match="use 'hsc'"):
        said("--detector", "hscc")
    with pytest.raises(WrongUse, match="--side normals"):
        said("--detector", "dsvdd")
    with pytest.raises(WrongUse, match=r"rates in \(0, 1\]"):
        said("--detector", "hsc", "--rate", "1.5")
    with pytest.raises(WrongUse, match="rates"):
        said("--detector", "hsc", "--rate", "0")
    with pytest.raises(WrongUse, match="without an option"):
        said("--detector", "hsc", "0.5")
    with pytest.raises(BadManifest, match="dvc repro validate@textures-brick"):
        CliRunner().invoke(probe, ["--dataset", "textures-brick", "--detector", "hsc"], catch_exceptions=False)
    assert not list(project.rglob("cell.npz"))
    assert said("--detector", "hsc", "--side", "both").exit_code == 2


def test_the_control_is_always_there_and_rates_are_in_order():
    assert ProbePlan("tiny", "hsc", rates=(1.0, 0.2, 1.0)).checked().rates == (0.0, 0.2, 1.0)


def test_the_help_names_what_is_written():
    text = CliRunner().invoke(probe, ["--help"]).output
    for word in ("--side", "--rate", "--seeds", "--quick", "probe.json", "probe.png", "Examples"):
        assert word in text


def test_the_commands_of_the_page_are_understood_and_its_pictures_are_there():
    page = PROJECT / "docs/how-to/probe-for-shortcuts.md"
    text = page.read_text(encoding="utf-8")
    commands = re.findall(r"^\$ xadflow probe (.*)$", text, flags=re.M)
    assert len(commands) >= 3
    for words in commands:
        assert probe.make_context("probe", words.split()).params["dataset"]
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)
    assert pictures
    for picture in pictures:
        assert (page.parent / picture).is_file()
