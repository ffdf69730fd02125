"""Choice and fit of donors against brute force, in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from xadflow.errors import BadWeights
from xadflow.explainers.transplant import DonorBank, DonorList
from xadflow.explainers.transplant import donors as choice
from xadflow.explainers.transplant.donors import GAINS, Donors
from xadflow.images import as_float

SIDE = 32


def pictures(count, seed, side=SIDE, channels=1):
    """Smooth random pictures, uint8 [N,C,side,side]."""
    rough = np.random.default_rng(seed).normal(size=(count, channels, side // 4, side // 4))
    smooth = np.kron(rough, np.ones((4, 4)))
    return torch.from_numpy((np.clip(0.5 + 0.15 * smooth, 0, 1) * 255).astype(np.uint8))


def bank_of(images, symmetries="none", aligned=True):
    return DonorBank(tuple(f"{place:064x}" for place in range(len(images))), images, symmetries, aligned)


def correlation(weights, first, second):
    w = weights / weights.sum()
    a, b = first - (w * first).sum(), second - (w * second).sum()
    return (w * a * b).sum() / np.sqrt((w * a * a).sum() * (w * b * b).sum())


def test_the_nearest_are_those_of_highest_weighted_correlation():
    bank, x = pictures(20, 0), as_float(pictures(3, 1))
    heat = torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    found = Donors(bank_of(bank), x.device).nearest(x, heat, 4)
    for row in range(3):
        weights = ((1 - heat[row]).square() + 1e-3).double().numpy()
        alike = [correlation(weights, x[row, 0].double().numpy(), as_float(one)[0].double().numpy()) for one in bank]
        assert found.places[row].tolist() == np.argsort(alike)[::-1][:4].tolist()


def test_what_is_hot_is_not_compared():
    bank = pictures(8, 2)
    x = bank[3:4].clone()
    x[..., :16] = pictures(1, 3)[..., :16]  # the left half is the defect
    heat = torch.zeros(1, SIDE, SIDE)
    heat[..., :16] = 1.0
    found = Donors(bank_of(bank), torch.device("cpu")).nearest(as_float(x), heat, 1)
    assert found.places.tolist() == [[3]]
    assert (found.pixels[0, 0][..., 16:] * 255).round().to(torch.uint8).equal(bank[3][..., 16:])


@pytest.mark.parametrize(
    ("symmetries", "turn", "is_found"),
    [
        ("none", lambda one: one.flip(-1), False),
        ("flips", lambda one: one.flip(-1), True),
        ("flips", lambda one: one.flip((-2, -1)), True),
        ("flips", lambda one: one.transpose(-2, -1), False),
        ("square", lambda one: one.transpose(-2, -1), True),
        ("square", lambda one: one.transpose(-2, -1).flip(-1), True),
    ],
)
def test_donors_are_turned_as_the_product_allows(symmetries, turn, is_found):
    bank = pictures(6, 4)
    x = as_float(turn(bank[2:3]))
    x[..., :4, :4] = 0.5  # else it is the donor itself, from which it takes nothing
    found = Donors(bank_of(bank, symmetries), x.device).nearest(x, torch.zeros(1, SIDE, SIDE), 1)
    is_same = bool((found.pixels[0, 0] - x[0])[..., 4:, 4:].abs().max() < 0.1)
    assert (int(found.places[0, 0]) == 2 and is_same) == is_found


def test_a_donor_of_a_texture_is_found_at_its_shift():
    large = pictures(1, 6, side=96)
    x, donor = (
        as_float(large[:, :, 32:64, 32:64]),
        large[:, :, 38:70, 29:61],
    )  # the same place, 6 px lower and 3 px to the left
    others = pictures(5, 7)
    heat = torch.zeros(1, SIDE, SIDE)
    heat[:, 12:20, 12:20] = 1.0
    found = Donors(bank_of(torch.cat([others, donor]), aligned=False), x.device).nearest(x, heat, 2)
    assert int(found.places[0, 0]) == 5
    assert (found.pixels[0, 0][:, 8:24, 8:24] - x[0][:, 8:24, 8:24]).abs().max() < 0.02


def test_correlation_at_shifts_is_that_of_loops():
    rng = np.random.default_rng(8)
    image, weights, donors = rng.random((6, 6)), rng.random((6, 6)), torch.from_numpy(rng.random((2, 6, 6))).float()
    padded = choice._mirrored(donors)
    fast = choice._alike_at_shifts(
        torch.from_numpy(image).float(), torch.from_numpy(weights).float(), choice._transforms(padded), padded.shape[1:]
    )
    for which in range(2):
        mirrored = np.pad(donors[which].numpy(), 3, mode="symmetric")
        for dy in range(7):
            for dx in range(7):
                slow = correlation(weights, image, mirrored[dy : dy + 6, dx : dx + 6].astype(float))
                assert float(fast[which, dy, dx]) == pytest.approx(slow, abs=1e-4)


def test_heat_in_the_mirrored_part_is_that_of_loops():
    heat = torch.rand(1, 6, 6, generator=torch.Generator().manual_seed(2))
    fast = choice._mirrored_heat(heat)
    real = np.pad(np.ones((6, 6)), 3)
    for dy in range(7):
        for dx in range(7):
            outside = float((heat[0].numpy() * (1 - real[dy : dy + 6, dx : dx + 6])).sum() / heat.sum())
            assert float(fast[0, dy, dx]) == pytest.approx(outside, abs=1e-5)


def test_a_shift_that_fills_the_heat_with_mirrored_pixels_is_avoided(monkeypatch):
    large = pictures(1, 15, side=96)
    x = as_float(large[:, :, 32:64, 32:64])
    donor = large[:, :, 32:64, 46:78]  # its own pixels fit the right half alone; the left would be a mirror image
    heat = torch.zeros(1, SIDE, SIDE)
    heat[:, 10:20, 2:8] = 1.0
    filled = {}
    for price in (0.0, 5.0):
        monkeypatch.setattr(choice, "MIRROR_PRICE", price)
        found = Donors(bank_of(donor, aligned=False), x.device)
        seen = []
        monkeypatch.setattr(choice, "_best_near", lambda alike, centre, reach, seen=seen: seen.append(centre) or centre)
        found.nearest(x, heat, 1)
        filled[price] = float(choice._mirrored_heat(choice._small(heat))[0, int(seen[0][0, 0]), int(seen[0][0, 1])])
    assert filled[5.0] < 0.1 < filled[0.0]


@pytest.mark.parametrize("channels", [1, 3])
def test_donors_are_brought_to_the_brightness_of_what_stays(channels):
    bank, x = pictures(4, 9, channels=channels), as_float(pictures(1, 10, channels=channels))
    x = (0.4 * x + 0.1 * torch.arange(1, channels + 1).view(-1, 1, 1)).mul(255).round() / 255
    heat = torch.rand(1, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
    found = Donors(bank_of(bank), x.device).nearest(x, heat, 2)
    w = ((1 - heat[0]).square() + 1e-3).double()
    w = w / w.sum()
    for place, pixels in zip(found.places[0].tolist(), found.pixels[0].double(), strict=True):
        raw = as_float(bank[place]).double()
        for channel in range(channels):
            mean_x, mean = (w * x[0, channel]).sum(), (w * raw[channel]).sum()
            spread_x = (w * (x[0, channel] - mean_x).square()).sum().sqrt()
            gain = (spread_x / (w * (raw[channel] - mean).square()).sum().sqrt()).clamp(*GAINS)
            expected = ((raw[channel] - mean) * gain + mean_x).clamp(0, 1)
            assert (pixels[channel] - expected).abs().max() < 0.51 / 255 + 1e-6


def test_an_image_takes_nothing_from_itself():
    bank = pictures(5, 12)
    for aligned in (True, False):
        found = Donors(bank_of(bank, aligned=aligned), torch.device("cpu")).nearest(
            as_float(bank[1:2]), torch.zeros(1, SIDE, SIDE), 3
        )
        assert 1 not in found.places[0].tolist()


def test_donors_as_they_are_keep_their_pixels():
    bank = pictures(5, 13)
    x = as_float(pictures(2, 14))
    found = Donors(bank_of(bank, "square", aligned=False), x.device).as_they_are(x, torch.zeros(2, SIDE, SIDE), 2)
    for row in range(2):
        for place, pixels in zip(found.places[row].tolist(), found.pixels[row], strict=True):
            assert pixels.equal(as_float(bank[place]))


def test_a_list_of_donors_comes_back_from_its_folder(tmp_path):
    assert DonorList.load(tmp_path) is None
    for mean_map in (None, torch.rand(4, 5)):
        listed = DonorList(("a" * 64, "b" * 64), "flips", False, 12, True, mean_map)
        listed.save(tmp_path)
        found = DonorList.load(tmp_path)
        assert (found.ids, found.symmetries, found.aligned, found.chosen_from, found.apart) == (
            listed.ids,
            "flips",
            False,
            12,
            True,
        )
        assert mean_map is None or found.mean_map.equal(mean_map)


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"ids": "x"}', '{"ids": [], "symmetries": "all", "aligned": true, "chosen_from": 0, "apart": true}'],
)
def test_a_broken_list_of_donors_is_refused(tmp_path, text):
    (tmp_path / "donors.json").write_text(text)
    with pytest.raises(BadWeights, match=r"xadflow retrain"):
        DonorList.load(tmp_path)


@pytest.mark.parametrize("size", [(1040, 1040), (300, 3600)])
def test_a_donor_of_a_large_texture_is_found_at_its_shift_where_the_image_is_hot(size):
    noise = torch.rand(1, 1, size[0] // 4, size[1] // 4, generator=torch.Generator().manual_seed(3))
    donor = (torch.nn.functional.interpolate(noise, size, mode="bilinear") * 255).byte()
    down, across = -9, 130
    image = as_float(donor.roll((down, across), (-2, -1)))
    heat = torch.zeros(1, *size)
    heat[0, size[0] // 2 - 8 : size[0] // 2 + 8, size[1] // 2 - 8 : size[1] // 2 + 8] = 1.0
    found = Donors(bank_of(donor, aligned=False), torch.device("cpu")).nearest(image, heat, 1).pixels[0, 0]
    middle = (slice(None), slice(size[0] // 2 - 60, size[0] // 2 + 60), slice(size[1] // 2 - 60, size[1] // 2 + 60))
    assert (found[middle] - image[0][middle]).abs().mean() < 0.02  # gain and rounding


def test_the_digest_of_a_bank_of_large_images_is_of_bytes_and_that_of_small_ones_of_numbers():
    small, large = torch.rand(8, 8), torch.rand(1100, 1000)
    banks = [
        DonorBank(("a",), torch.zeros(1, 1, *one.shape, dtype=torch.uint8), "none", True, one) for one in (small, large)
    ]
    assert banks[0].digest == DonorBank(("a",), banks[0].images, "none", True, small.clone()).digest
    other = large.clone()
    other[700, 300] += 1e-3
    assert banks[1].digest != DonorBank(("a",), banks[1].images, "none", True, other).digest
