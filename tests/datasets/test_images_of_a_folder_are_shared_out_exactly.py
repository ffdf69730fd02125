"""Exactly the shares of a new folder's images, with which threshold, training and gate get what they need."""

from __future__ import annotations

import hashlib

import pytest

from xadflow.datasets.manifest import ManifestRow, Split
from xadflow.datasets.shares import Counts, Shares, count_images, shares_of
from xadflow.datasets.stages import carve
from xadflow.errors import TooFewNormals
from xadflow.images import ImageLimits
from xadflow.settings import DatasetSettings


def row(name, split, label):
    image_id = hashlib.sha256(name.encode()).hexdigest()
    return ManifestRow(image_id, f"images/{name}", split, label, "x", None, None, 8, 8, "folder", "not stated")


def carved(counts, shares, seed=0, *, exact=True):
    rows = [row(f"{seed}/n{number}", "train", 0) for number in range(counts.train_normals)]
    rows += [row(f"{seed}/t{number}", "test", 0) for number in range(counts.test_normals)]
    rows += [row(f"{seed}/d{number}", "test", 1) for number in range(counts.test_defects)]
    settings = DatasetSettings(source="folder", val_share=shares.val, gate_share=shares.gate, exact_shares=exact)
    found = carve(rows, settings)
    return {
        (split, label): sum(one.split == split and one.label == label for one in found)
        for split, label in ((Split.TRAIN, 0), (Split.VAL, 0), (Split.GATE, 0), (Split.GATE, 1), (Split.TEST, 1))
    }


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("counts", [Counts(44, 9, 15), Counts(29, 8, 0), Counts(30, 40, 8), Counts(37, 0, 20)])
def test_every_part_gets_what_it_needs_whatever_the_hashes_say(counts, seed):
    found = carved(counts, shares_of(counts, 0.05, train=10, gate_images=5), seed)
    assert found[Split.VAL, 0] >= 19
    assert found[Split.TRAIN, 0] >= 10
    assert found[Split.GATE, 0] >= 5
    assert found[Split.GATE, 1] >= min(5, counts.test_defects)


@pytest.mark.parametrize(("there", "share", "val"), [(60, 0.5, 30), (19, 0.3, 6), (44, 0.432, 19), (1000, 0.2, 200)])
def test_a_share_is_exactly_that_share(there, share, val):
    assert carved(Counts(there, 3, 3), Shares(share, 0.3))[Split.VAL, 0] == val


def test_without_exact_shares_adding_images_moves_no_other():
    before, after = ([row(f"n{number}", "train", 0) for number in range(count)] for count in (40, 60))
    settings = DatasetSettings(source="folder")
    tests = [row("t", "test", 0), row("u", "test", 0), row("v", "test", 1), row("w", "test", 1)]
    first = {one.image_id: one.split for one in carve([*before, *tests], settings)}
    second = {one.image_id: one.split for one in carve([*after, *tests], settings)}
    assert first.items() <= second.items()


def test_a_part_is_never_emptied_by_a_share_and_one_image_stays_where_it_is():
    assert carved(Counts(60, 2, 2), Shares(0.99, 0.99))[Split.TEST, 1] == 1
    assert carved(Counts(60, 2, 2), Shares(0.01, 0.01))[Split.GATE, 1] == 1
    assert carved(Counts(60, 2, 1), Shares(0.5, 0.5))[Split.TEST, 1] == 1


@pytest.mark.parametrize(
    ("counts", "rate", "told"),
    [
        (Counts(28, 6, 3), 0.05, "add 1 or more to train/good, or raise calibration.false_alarm_rate in params.yaml"),
        (Counts(35, 0, 3), 0.05, "28 in train/good (7 more are held out for test)"),
        (Counts(8, 6, 3), 0.05, "add 21 or more to train/good"),
        (Counts(100, 6, 3), 0.01, "needs 99 normal images"),
    ],
)
def test_too_few_are_refused_with_how_many_there_are_and_a_way_out_that_works(counts, rate, told):
    with pytest.raises(TooFewNormals) as caught:
        shares_of(counts, rate, train=10, gate_images=5)
    assert told in str(caught.value)
    if "to 0." in caught.value.next_step:
        raised = float(caught.value.next_step.split(" to ")[-1])
        assert carved(counts, shares_of(counts, raised, train=10, gate_images=5))[Split.TRAIN, 0] == 10


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_a_stated_share_that_cannot_be_is_answered_with_one_that_can(share):
    with pytest.raises(TooFewNormals) as caught:
        shares_of(Counts(44, 9, 15), 0.05, train=10, gate_images=5, val_share=share)
    advised = float(caught.value.next_step.split()[2].rstrip(","))
    assert shares_of(Counts(44, 9, 15), 0.05, train=10, gate_images=5, val_share=advised).val == advised


def test_copies_and_broken_files_are_no_normals_to_share_out(product, put, png):
    put(product / "train/good/copy.png", png(0))
    put(product / "train/good/broken.png", png(900)[:40])
    put(product / "train/good/Thumbs.db", b"x")
    assert count_images(product, ImageLimits(), known_per_defect=3) == Counts(30, 6, 5)
