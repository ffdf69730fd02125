"""Donors are chosen at registration, belong to the version's hashed files, and are opened from the data set by their
ids.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from xadflow.datasets.loading import load_images
from xadflow.datasets.manifest import read_manifest, write_manifest
from xadflow.errors import BadWeights
from xadflow.explainers.transplant.bank import DonorList
from xadflow.models.donors import open_bank, opened_bank
from xadflow.settings import load_settings
from xadflow.work.week import register


def test_the_list_is_among_the_hashed_files_of_the_version_and_names_ids_only(built) -> None:
    assert {"donors.json", "donors.safetensors"} <= set(built.ref.files)
    assert built.ref.tags["xadflow.donors"] == "12"
    listed = DonorList.load(built.folder)
    assert len(listed.ids) == 12
    assert listed.mean_map.shape == (28, 28)
    text = (built.folder / "donors.json").read_text()
    assert str(built.home.project) not in text
    assert "images/" not in text
    assert built.registry.figures(built.ref)["donors.chosen"] == 12
    train = {row.image_id for row in read_manifest(built.home.dataset("plates")).rows("train", label=0)}
    assert set(listed.ids) < train


def test_a_changed_list_is_refused_as_a_changed_weight_is(built) -> None:
    path = built.folder / "donors.json"
    before = path.read_bytes()
    path.write_bytes(before.replace(b"true", b"false"))
    try:
        with pytest.raises(BadWeights, match=r"donors.json"):
            built.registry.detector_folder(built.ref)
    finally:
        path.write_bytes(before)


def test_registering_the_same_training_again_makes_no_version_unless_the_bank_has_another_size(
    built, monkeypatch
) -> None:
    again = register.register_trained(built, built.order)
    assert again.version == built.ref.version
    asked = []
    monkeypatch.setattr(register, "score_split", lambda *_: asked.append("evaluated") or pytest.fail("enough"))
    larger = built.settings.model_copy(update={"explainers": {**built.settings.explainers, "patch": {"bank": 20}}})
    with pytest.raises(pytest.fail.Exception):
        register.register_trained(SimpleNamespace(**{**vars(built), "settings": larger}), built.order)
    assert asked == ["evaluated"]
    without = built.settings.model_copy(update={"explainers": {"heatmap": {}}})
    project = SimpleNamespace(**{**vars(built), "settings": without})
    assert register.register_trained(project, built.order).version == built.ref.version


def test_the_bank_holds_the_pixels_of_its_ids_in_their_order(built) -> None:
    bank = open_bank(built.home, built.settings, built.folder, "plates")
    listed = DonorList.load(built.folder)
    manifest = read_manifest(built.home.dataset("plates"))
    rows = {row.image_id: row for row in manifest.rows()}
    expected = load_images(manifest, [rows[one] for one in listed.ids], built.settings.dataset("plates"))
    assert (bank.ids, bank.missing, bank.symmetries) == (listed.ids, 0, "flips")
    assert torch.equal(bank.images, expected)


def test_a_moved_checkout_opens_the_same_bank_at_the_size_that_the_detector_sees(built, copied) -> None:
    params = copied.home.params
    params.write_text(params.read_text().replace("size_px: 28", "size_px: 40"))
    moved = open_bank(copied.home, load_settings(params), copied.folder, "plates")
    there = open_bank(built.home, built.settings, built.folder, "plates")
    assert moved.digest == there.digest
    assert torch.equal(moved.images, there.images)


def test_donors_that_are_gone_changed_or_no_train_normals_any_more_are_left_out_and_counted(copied) -> None:
    whole = open_bank(copied.home, copied.settings, copied.folder, "plates")
    folder = copied.home.dataset("plates")
    manifest = read_manifest(folder)
    rows = {row.image_id: row for row in manifest.rows()}
    gone, changed, moved = (rows[one] for one in (whole.ids[0], whole.ids[5], whole.ids[11]))
    (folder / gone.path).unlink()
    shutil.copy(folder / rows[whole.ids[1]].path, folder / changed.path)
    write_manifest(
        folder / "manifest.parquet", [replace(row, split="test") if row is moved else row for row in rows.values()]
    )
    left = open_bank(copied.home, copied.settings, copied.folder, "plates")
    kept = [place for place in range(12) if place not in (0, 5, 11)]
    assert left.ids == tuple(whole.ids[place] for place in kept)
    assert torch.equal(left.images, whole.images[kept])
    assert left.missing == 3
    assert left.digest != whole.digest


def test_without_a_bank_the_reason_names_what_to_do(copied, tmp_path) -> None:
    old = tmp_path / "old"
    shutil.copytree(copied.folder, old)
    (old / "donors.json").unlink()
    reasons = {"before donors were kept": opened_bank(copied.home, copied.settings, old, "plates")}
    (old / "donors.json").write_text((copied.folder / "donors.json").read_text())
    card = json.loads((old / "donors.json").read_text())
    (old / "donors.json").write_text(json.dumps({**card, "ids": []}))
    reasons["No train normal could be a donor"] = opened_bank(copied.home, copied.settings, old, "plates")
    for path in (copied.home.dataset("plates") / "images").glob("train-*"):
        path.unlink()
    reasons["All of its 12 donors are gone"] = opened_bank(copied.home, copied.settings, copied.folder, "plates")
    (copied.home.dataset("plates") / "manifest.parquet").unlink()
    reasons["dvc repro validate@plates"] = opened_bank(copied.home, copied.settings, copied.folder, "plates")
    for words, opened in reasons.items():
        assert opened.bank is None
        assert words in opened.why_none


def test_a_list_that_is_none_is_an_error(copied, tmp_path) -> None:
    odd = tmp_path / "odd"
    shutil.copytree(copied.folder, odd)
    (odd / "donors.json").write_text('{"ids": 3}')
    with pytest.raises(BadWeights, match="list of donors"):
        open_bank(copied.home, copied.settings, odd, "plates")
