"""The share of train normals that becomes val, where a chance for each image would leave one part too small."""

from __future__ import annotations

import hashlib

import pytest

from xadflow.datasets.manifest import ManifestRow, Split
from xadflow.datasets.stages import carve, share_leaving
from xadflow.settings import DatasetSettings


def ids_of(count, seed):
    return [hashlib.sha256(f"{seed}/{number}".encode()).hexdigest() for number in range(count)]


def carved(ids, share, has_test_normals):
    others = [("test", 0)] * 6 if has_test_normals else []
    rows = [ManifestRow(one, f"images/{one}", "train", 0, "x", "good", None, 8, 8, "folder", "") for one in ids]
    rows += [
        ManifestRow(one, f"images/{one}", split, label, "x", "good", None, 8, 8, "folder", "")
        for one, (split, label) in zip(ids_of(6, "test"), others, strict=False)
    ]
    rows += [
        ManifestRow(one, f"images/{one}", "test", 1, "x", "bad", None, 8, 8, "folder", "") for one in ids_of(6, "bad")
    ]
    found = carve(rows, DatasetSettings(source="folder", val_share=share))
    return [sum(row.split == split and row.label == 0 for row in found) for split in (Split.VAL, Split.TRAIN)]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(("count", "has_test_normals"), [(30, True), (29, True), (34, True), (60, True), (60, False)])
def test_val_and_train_get_what_they_need(seed, count, has_test_normals):
    ids = ids_of(count, seed)
    share = share_leaving(ids, 0.5, val=19, train=10, has_test_normals=has_test_normals)
    val, train = carved(ids, share, has_test_normals)
    assert val >= 19
    assert train >= 10


def test_a_share_that_does_stays_as_it_was():
    assert share_leaving(ids_of(200, 0), 0.2, val=19, train=10, has_test_normals=True) == 0.2


def test_too_few_for_both_stay_as_they_were_and_the_validation_says_so():
    assert share_leaving(ids_of(28, 0), 0.5, val=19, train=10, has_test_normals=True) == 0.5
