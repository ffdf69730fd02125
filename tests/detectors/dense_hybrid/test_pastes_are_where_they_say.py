"""Pasted scenes: labels, masks and pixels agree, shapes are drawn as stated, everything follows from the
seed (test 5).
"""

from __future__ import annotations

import pytest
import torch

from xadflow.detectors.base import VOID
from xadflow.detectors.dense_hybrid.pasting import Mixed, Negatives, brightness_bands, mixed, sides
from xadflow.detectors.dense_hybrid.scenes import moved
from xadflow.detectors.dense_hybrid.settings import PasteSettings, StageSettings

SIZE = torch.Size((48, 72))
WHITE = Negatives(torch.full((5, 1, 64, 64), 255, dtype=torch.uint8))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def plain(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scene i is i / 1000 bright, of class i all over, void in its first rows."""
    ids = torch.arange(count).view(-1, 1, 1).expand(count, *SIZE)
    labels = ids.clone()
    labels[:, :3] = VOID
    return ids[:, None] / 1000, labels


def pasted_into(count: int, seed: int = 0, negatives: Negatives = WHITE, **settings: object) -> Mixed:
    return mixed(*plain(count), negatives, PasteSettings(**settings), generator(seed))  # type: ignore[arg-type]


@pytest.mark.parametrize("shapes", ["blobs", "polygons", "regions"])
def test_labels_masks_and_pixels_agree_and_nothing_changes_outside(shapes: str):
    images, labels = plain(40)
    found = pasted_into(40, shapes=shapes)
    assert torch.equal(found.pasted, found.images[:, 0] > 0.9)
    assert (found.labels[found.pasted] == VOID).all()
    assert torch.equal(found.labels[~found.pasted], labels[~found.pasted])
    assert torch.equal(found.images[:, 0][~found.pasted], images[:, 0][~found.pasted])
    assert found.pasted.flatten(1).any(1).all()
    assert 0.02 < found.pasted.float().mean() < 0.5
    assert torch.equal(plain(40)[0], images)  # the scenes given stay as they are


@pytest.mark.parametrize("shapes", ["blobs", "polygons"])
def test_half_of_the_pastes_are_rectangles_with_sides_in_steps_of_eight(shapes: str):
    found = pasted_into(900, pastes=1, shapes=shapes, largest=1.0).pasted
    rows, columns = found.any(2), found.any(1)
    high, wide = rows.sum(1), columns.sum(1)
    is_rectangle = found.flatten(1).sum(1) == high * wide
    share = is_rectangle.double().mean().item()
    assert abs(share - 0.5) < 3 * (0.25 / 900) ** 0.5
    allowed = {16, 24, 32, 40}  # below the shorter side of 48
    assert set(sides(PasteSettings(largest=1.0), SIZE)) == allowed
    assert set(high[is_rectangle].tolist()) == set(wide[is_rectangle].tolist()) == allowed
    tops = rows[is_rectangle].int().argmax(1)
    assert tops.min() == 0
    assert (tops + high[is_rectangle]).max() == SIZE[0]


def test_the_same_seed_gives_the_same_pastes_and_another_gives_others():
    one, again, other = (pasted_into(6, seed, control=0.4, feather_px=2) for seed in (1, 1, 2))
    assert all(torch.equal(getattr(one, name), getattr(again, name)) for name in ("images", "labels", "pasted"))
    assert not torch.equal(one.pasted, other.pasted)


def test_pieces_of_other_scenes_keep_their_own_class_and_are_no_outliers():
    found = pasted_into(400, pastes=1, control=0.6)
    known = found.labels != VOID
    torch.testing.assert_close(found.images[:, 0][known] * 1000, found.labels[known].float(), rtol=0, atol=0.01)
    foreign = found.pasted.flatten(1).any(1)
    assert abs(foreign.float().mean().item() - 0.4) < 3 * (0.24 / 400) ** 0.5
    borrowed = (found.labels == (torch.arange(400) - 1).remainder(400).view(-1, 1, 1)).flatten(1).any(1)
    assert not (foreign & borrowed).any()
    assert (foreign | borrowed).float().mean() > 0.97  # a small piece may lie in a void row, or bring one


def test_a_seam_is_void_and_fades_and_nothing_changes_beyond_it():
    hard, soft = (pasted_into(30, pastes=1, rectangle=1.0, feather_px=width) for width in (0, 3))
    images, labels = plain(30)
    changed = soft.images[:, 0] != images[:, 0]
    seam = changed & ~soft.pasted
    assert seam.flatten(1).any(1).all()
    assert (soft.labels[changed] == VOID).all()
    assert torch.equal(soft.labels[~changed], labels[~changed])
    assert (soft.images[:, 0] - images[:, 0])[seam].max() < 0.5
    assert (soft.pasted & ~hard.pasted).sum() == 0
    assert soft.pasted.sum() > 0.7 * hard.pasted.sum()


def test_the_seam_of_a_later_piece_is_no_outlier_even_where_an_earlier_paste_was():
    settings = {"control": 0.5, "rectangle": 1.0, "largest": 1.0, "feather_px": 3}
    first, both = (pasted_into(200, pastes=number, **settings) for number in (1, 2))
    changed = first.images[:, 0] != both.images[:, 0]
    piece = ((both.labels != VOID) & changed).flatten(1).any(1)  # the second paste is a piece of another scene
    assert (first.pasted & changed)[piece].any()
    assert not (both.pasted & changed)[piece].any()


def test_later_pastes_lie_on_top_of_earlier_ones():
    found = pasted_into(60, pastes=6, control=0.5, rectangle=1.0, largest=1.0)
    assert torch.equal(found.pasted, found.images[:, 0] > 0.9)
    assert not (found.pasted & (found.labels != VOID)).any()


def test_regions_of_the_negative_are_kept_whole_where_it_brings_them():
    stripes = (torch.arange(64) // 8).view(1, 1, 1, 64).expand(3, 1, 64, 64)
    bank = Negatives((stripes * 30 + 40).to(torch.uint8), stripes[:, 0].contiguous())
    found = mixed(
        *plain(50), bank, PasteSettings(pastes=1, rectangle=0.0, shapes="regions", zoom=(1.0, 1.0)), generator()
    )
    counts = []
    for image, mask in zip(found.images[:, 0], found.pasted, strict=True):
        nearest_stripe = ((image[mask] * 255 - 40) / 30).round()  # between two stripes brightness is a mixture
        counts.append(len(nearest_stripe.unique()))
    assert set(counts) == {1, 2}
    bands = brightness_bands(torch.linspace(0, 1, 64).view(1, 1, 1, 64).expand(2, 1, 16, 64))
    assert bands.flatten().bincount().tolist() == [512, 512, 512, 512]


def test_borrowed_tone_takes_brightness_and_contrast_of_another_scene_under_the_same_shape():
    g = generator(5)
    images = 0.4 + 0.05 * torch.randn(30, 1, *SIZE, generator=g) + torch.arange(30).view(-1, 1, 1, 1) / 100
    noise = Negatives((torch.rand(9, 1, 64, 64, generator=g) * 255).to(torch.uint8))
    found = mixed(images, plain(30)[1], noise, PasteSettings(pastes=1, tone="borrowed"), generator())
    for number, mask in enumerate(found.pasted):
        own, donor = found.images[number, 0][mask], images[number - 1, 0][mask]
        assert own.mean().item() == pytest.approx(donor.mean().item(), abs=0.01)
        assert own.std().item() == pytest.approx(donor.std().item(), rel=0.1)


@pytest.mark.parametrize("settings", [{"jitter": (0.5, 2.0)}, {"crop_px": 32}, {"jitter": (0.5, 2.0), "crop_px": 40}])
def test_labels_move_with_their_images_and_what_lies_outside_is_void(settings: dict[str, object]):
    y, x = torch.meshgrid(torch.arange(SIZE[0]), torch.arange(SIZE[1]), indexing="ij")
    labels = (x // 24 + 3 * (y // 24)).expand(50, *SIZE)
    given = StageSettings(**settings)  # type: ignore[arg-type]
    images, ids = moved(labels[:, None] / 10, labels, given, generator(1))
    side = given.crop_px
    assert images.shape[2:] == ids.shape[1:] == ((side, side) if side else SIZE)
    known = ids != VOID
    exact = (images[:, 0] * 10 - ids).abs() < 1e-3
    assert exact[known].float().mean() > 0.85  # between two blocks the image is a mixture
    assert ((images[:, 0] * 10 - ids).abs()[known] < 3.01).all()
    assert bool((~known).any()) == ("jitter" in settings)
    assert len(ids[known].unique()) == 6
    assert not torch.equal(ids[0], ids[1])


def test_a_scene_smaller_than_the_smallest_paste_still_gets_one():
    found = mixed(
        torch.zeros(4, 1, 12, 12), torch.zeros(4, 12, 12, dtype=torch.int64), WHITE, PasteSettings(), generator()
    )
    assert found.pasted.flatten(1).any(1).all()
    assert torch.equal(found.pasted, found.images[:, 0] > 0.9)
