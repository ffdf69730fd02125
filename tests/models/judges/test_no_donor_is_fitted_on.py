from __future__ import annotations

import hashlib

from xadflow.datasets.manifest import ManifestRow
from xadflow.models.judges import donor_half
from xadflow.models.judges.halves import FEWEST_APART


def normals(count: int) -> list[ManifestRow]:
    ids = sorted(hashlib.sha256(f"image {number}".encode()).hexdigest() for number in range(count))
    return [
        ManifestRow(one, f"images/{one}.png", "train", 0, "plates", None, None, 8, 8, "drawn", "none") for one in ids
    ]


def test_the_halves_are_disjoint_complete_and_about_equal():
    rows = normals(400)
    half = donor_half(rows)
    assert half.apart
    assert set(half.donors) | set(half.judged) == set(rows)
    assert not set(half.donors) & set(half.judged)
    assert 160 < len(half.donors) < 240
    assert list(half.donors) == [row for row in rows if row in set(half.donors)]


def test_no_image_changes_sides_when_others_come_go_or_are_shuffled():
    rows = normals(400)
    donors, judged, _ = donor_half(rows)
    fewer = donor_half(rows[::-1][::2])
    assert set(fewer.donors) <= set(donors)
    assert set(fewer.judged) <= set(judged)


def test_of_few_normals_both_use_all_and_it_is_said():
    rows = normals(FEWEST_APART - 1)
    assert donor_half(rows) == (tuple(rows), tuple(rows), False)
    assert donor_half(normals(FEWEST_APART)).apart
    assert donor_half([]) == ((), (), False)
