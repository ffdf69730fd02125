"""`audit show` and `audit export` say whose pixels fill a counterfactual, how much of it, and what judges say."""

from __future__ import annotations

import hashlib
import json

import pytest
from click.testing import CliRunner

from tests.evidence.evidence_rows import image_id, publish_shard, store_in
from xadflow.cli import audit as audit_commands
from xadflow.evidence import decisions
from xadflow.evidence import export as exporting
from xadflow.evidence.transplants import donor_files, donor_paths, said
from xadflow.settings import Home

CONTENT = b"the bytes of a donor's file"
DONOR = hashlib.sha256(CONTENT).hexdigest()
JUDGES = [{"name": "xad.plates.judge", "version": 2, "score": 1.5, "threshold": 1.25, "is_normal": False}]


def row(share: float | None = 0.124, **answer) -> dict:
    one = {
        "concept": 0,
        "image": None,
        "score": 0.25,
        "is_normal": True,
        "changed_fraction": 0.004,
        "donor_id": DONOR,
        "judges": JUDGES,
        **answer,
    }
    metrics = [] if share is None else [{"name": "region_share.0", "value": share}]
    return {"dataset": "plates", "counterfactuals": [one], "metrics": metrics, "images": []}


@pytest.fixture
def home(tmp_path) -> Home:
    """A data set `plates` with one train normal, the donor."""
    from xadflow.datasets.manifest import ManifestRow, write_manifest

    folder = tmp_path / "data" / "plates"
    (folder / "images/train/good").mkdir(parents=True)
    (folder / "images/train/good/7.PNG").write_bytes(CONTENT)
    write_manifest(
        folder / "manifest.parquet",
        [ManifestRow(DONOR, "images/train/good/7.PNG", "train", 0, "plates", None, None, 8, 8, "drawn", "none")],
    )
    (tmp_path / "params.yaml").touch()
    (tmp_path / "dvc.yaml").touch()
    return Home(tmp_path, tmp_path / "var")


def test_the_sentence_names_the_donor_the_share_and_every_verdict(home) -> None:
    assert said(row(), donor_paths(home, [row()])) == [
        f"counterfactual 0: filled with what image {DONOR[:12]} (images/train/good/7.PNG) shows there; 12 % of the "
        "image replaced; under 1 % of the pixels changed; the detector calls it normal; judge xad.plates.judge "
        "version 2 calls it anomalous (score 1.5, threshold 1.25)"
    ]
    blind = {**row(), "metrics": [{"name": "judge_flags", "value": 0.0}]}
    assert "threshold 1.25; it calls the image itself normal too)" in said(blind, {})[0]
    (whole,) = said(row(0.97, judges=None), {})
    assert f"image {DONOR[:12]} shows there; 97 % of the image replaced: the whole image differs" in whole
    assert "judge" not in whole
    (unknown,) = said(row(None), {})
    assert "replaced" not in unknown
    (judged,) = said(row(None, donor_id=None), {})
    assert judged.startswith("counterfactual 0: under 1 % of the pixels changed; the detector calls it normal; judge")
    assert said(row(None, donor_id=None, judges=None), {}) == []
    assert said({"score": 1.0}, {}) == []


def test_a_part_of_the_region_mended_alone_has_a_sentence_of_its_own() -> None:
    parts = {**row(judges=None), "images": [{"name": "transplant.part.0", "image": {"bytes": b"PNG", "path": None}}]}
    parts["metrics"] = [{"name": "part.0.score", "value": 7.5}, {"name": "part.0.is_normal", "value": 0.0}]
    assert said(parts, {})[1:] == [
        "part 0 of the region of counterfactual 0 mended alone: the detector calls it anomalous (score 7.5)"
    ]
    parts["metrics"].append({"name": "region_share.0", "value": 0.97})  # there is no region to speak of
    assert len(said(parts, {})) == 1


def test_a_donors_file_is_found_only_while_its_bytes_are_those_of_its_id(home) -> None:
    assert donor_files(home, [row()], checked=True)[DONOR][1].read_bytes() == CONTENT
    assert donor_files(home, [{**row(), "dataset": "../elsewhere"}, {**row(), "dataset": "gone"}], checked=True) == {}
    file = home.dataset("plates") / "images/train/good/7.PNG"
    file.write_bytes(b"other")
    assert donor_files(home, [row()], checked=True) == {}
    assert set(donor_paths(home, [row()])) == {DONOR}
    file.unlink()
    assert donor_paths(home, [row()]) == {}


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Rows whose first counterfactual took pixels from the donor; the tables hold its id."""
    from tests.evidence import evidence_rows

    plain = evidence_rows.explanation_row

    def taking(number, **options):
        made = plain(number, **options)
        made["counterfactuals"][0] |= {"donor_id": DONOR, "judges": JUDGES}
        made["metrics"].append({"name": "region_share.0", "value": 0.25})
        return {**made, "dataset": "plates"}

    monkeypatch.setattr(evidence_rows, "explanation_row", taking)
    store = store_in(tmp_path / "var")
    store.prepare()
    publish_shard(store, range(2))
    return store


def test_show_says_it_first_and_writes_the_donors_file_beside_the_pictures(home, store, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("XADFLOW_PROJECT", str(home.project))
    monkeypatch.delenv("XADFLOW_HOME", raising=False)
    run = CliRunner().invoke(audit_commands.audit, ["show", image_id(0), "--images", str(tmp_path / "out")])
    assert run.exit_code == 0, run.output
    assert f"filled with what image {DONOR[:12]} (images/train/good/7.PNG) shows there; 25 % of the image" in run.output
    assert (tmp_path / "out" / "donors" / f"{DONOR}.png").read_bytes() == CONTENT
    shown = decisions.show(store, image_id(0), home)
    assert ["said" in one for one in shown] == [False, True]
    (home.dataset("plates") / "images/train/good/7.PNG").write_bytes(b"changed")
    written = decisions.export_images(store, image_id(0), tmp_path / "again", home)
    assert not [path for path in written if "donors" in path.parts]


@pytest.mark.parametrize("with_donors", [False, True])
def test_an_export_names_the_donor_and_hands_it_out_only_when_asked(home, store, tmp_path, with_donors) -> None:
    exporting.export(store, image_id(0), tmp_path / "out", store.ledger.head(), home=home, with_donors=with_donors)
    rows = json.loads((tmp_path / "out" / "rows.json").read_text())
    (words,) = [one["said"] for one in rows if "said" in one]
    assert "images/train/good/7.PNG" in words[0]
    assert str(tmp_path) not in (tmp_path / "out" / "rows.json").read_text()
    readme = (tmp_path / "out" / "README.txt").read_text()
    file = tmp_path / "out" / "donors" / f"{DONOR}.png"
    assert file.is_file() == with_donors
    assert ("donors/  " in readme) == with_donors
    if with_donors:
        assert hashlib.sha256(file.read_bytes()).hexdigest() == file.stem
        assert f"donors/{DONOR}.png" in (tmp_path / "out" / "SHA256SUMS").read_text()
