"""Tiles of an image larger than memory: equal to the whole image where the net has a reach, near it where
it has none.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from xadflow.detectors.dense_hybrid.networks import build_net, enlarged
from xadflow.detectors.dense_hybrid.tiling import reach_px, score_tiled, windows_of
from xadflow.errors import BadInput
from xadflow.images import as_float


def settled(name):
    """A net whose batch normalisation knows what its random weights give, so that no layer explodes or dies."""
    torch.manual_seed(0)
    net = build_net(name, 4, 3, pretrained=False)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean of all batches
    with torch.no_grad():
        net.train()(as_float(torch.stack([noise(64, 64, seed=seed) for seed in range(1, 9)])))
    return net.eval()


def noise(height, width, seed=0):
    """Soft and sharp noise uint8 [3,H,W]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, -(-height // 16), -(-width // 16), generator=generator)
    soft = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")[0]
    return ((0.7 * soft + 0.3 * torch.rand(3, height, width, generator=generator)) * 255).to(torch.uint8)


def maps_of(net):
    return lambda images: torch.cat([enlarged(part, images.shape[2:]) for part in net(images)], dim=1)


@pytest.fixture(scope="module")
def mobile():
    return settled("mobile")


@pytest.fixture(scope="module")
def reach(mobile):
    with torch.no_grad():  # as whoever scores has it
        return reach_px(mobile)


@pytest.mark.parametrize("size", [(64, 704), (704, 64)])
def test_tiles_equal_the_whole_image_at_every_pixel(mobile, reach, size):
    image = noise(*size)
    with torch.no_grad():
        whole = maps_of(mobile)(as_float(image[None]))[0].numpy()
    assert whole.std() > 0.01
    tiled = score_tiled(maps_of(mobile), image.numpy(), stride=16, margin_px=reach, tile_px=96)
    np.testing.assert_allclose(tiled, whole, atol=1e-4)
    seen = score_tiled(maps_of(mobile), image, stride=16, margin_px=0, tile_px=96)
    apart = np.abs(seen - whole).max(axis=(0, 1) if size[1] > size[0] else (0, 2))
    assert apart.max() > 0.01, "without a margin there are seams"


def test_the_reach_is_as_far_as_a_pixel_sees_and_no_farther(mobile, reach):
    images = as_float(noise(32, 2 * reach + 96)[None]).requires_grad_(True)
    start = (reach + 32) // 16 * 16
    farthest = 0
    for pixel in range(start, start + 16):
        (gradient,) = torch.autograd.grad(maps_of(mobile)(images)[0, :, 16, pixel].square().sum(), images)
        seen = (gradient[0].abs().sum(dim=(0, 1)) > 0).nonzero().flatten()
        farthest = max(farthest, int(pixel - seen[0]), int(seen[-1]) - pixel)
    assert reach - 32 < farthest <= reach  # activations of 0 hide some of the way


def test_sides_that_are_no_multiple_of_the_stride_are_continued(mobile, reach):
    image = noise(70, 410)
    continued = torch.nn.functional.pad(image[None].float(), (0, 6, 0, 10), mode="replicate").to(torch.uint8)
    with torch.no_grad():
        whole = maps_of(mobile)(as_float(continued))[0, :, :70, :410].numpy()
    tiled = score_tiled(maps_of(mobile), image, stride=16, margin_px=reach, tile_px=50)
    assert tiled.shape == (6, 70, 410)
    np.testing.assert_allclose(tiled, whole, atol=1e-4)


@pytest.mark.parametrize("name", ["ladder_densenet121", "deeplab_resnet50"])
def test_nets_with_global_context_have_no_reach_and_tiles_only_come_near(name):
    net = settled(name)
    assert reach_px(net) is None
    image = noise(64, 384)
    with torch.no_grad():
        whole = maps_of(net)(as_float(image[None]))[0].numpy()
    predict, margins = maps_of(net), {"wide": 64, "none": 0}
    apart = {
        key: np.abs(score_tiled(predict, image, stride=net.stride, margin_px=margin, tile_px=96) - whole).mean()
        for key, margin in margins.items()
    }
    assert 1e-3 * whole.std() < apart["wide"] < apart["none"]


def test_a_memory_map_is_read_and_written_in_pieces_with_progress(tmp_path):
    image = np.memmap(tmp_path / "image", dtype=np.uint8, mode="w+", shape=(3, 3000, 5000))
    image[:, 1234, 4321] = 255
    out = np.memmap(tmp_path / "map", dtype=np.float32, mode="w+", shape=(3000, 5000))
    sizes, calls = set(), []

    def predict(images):
        sizes.add(tuple(images.shape))
        return images.mean(dim=1)

    found = score_tiled(
        predict,
        image,
        stride=32,
        margin_px=40,
        tile_px=1000,
        out=out,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert found is out
    assert np.array_equal(np.argwhere(out), [[1234, 4321]])
    assert sizes == {(1, 3, 1024 + 2 * 64, 1024 + 2 * 64)}
    assert calls == [(done, 15) for done in range(1, 16)]


@pytest.mark.parametrize(
    ("height", "width", "margin", "tile"), [(64, 64, 0, 64), (100, 333, 50, 64), (31, 900, 16, 100)]
)
def test_windows_keep_each_pixel_once_with_its_margin(height, width, margin, tile):
    windows = list(windows_of(height, width, stride=16, margin_px=margin, tile_px=tile))
    high, wide = -(-height // 16) * 16, -(-width // 16) * 16
    count = np.zeros((high, wide), dtype=int)
    for window in windows:
        count[window.kept] += 1
        for read, kept, side in zip(window.read, window.kept, (high, wide), strict=True):
            assert read.start % 16 == 0
            assert read.start == 0 or read.start <= kept.start - margin
            assert read.stop == side or read.stop >= kept.stop + margin
            assert 0 <= read.start < read.stop <= side
    assert (count == 1).all()
    assert (
        len(
            {
                (window.read[0].stop - window.read[0].start, window.read[1].stop - window.read[1].start)
                for window in windows
            }
        )
        == 1
    )


def test_what_does_not_fit_is_refused(mobile):
    image = np.zeros((3, 64, 64), dtype=np.uint8)
    with pytest.raises(BadInput, match="is uint8 of shape"):
        score_tiled(maps_of(mobile), image.astype(np.float32), stride=16, margin_px=0)
    with pytest.raises(BadInput, match="resolution of its input"):
        score_tiled(lambda images: mobile(images)[0], image, stride=16, margin_px=0)
    with pytest.raises(BadInput, match=r"give float32 of shape \(6, 64, 64\)"):
        score_tiled(maps_of(mobile), image, stride=16, margin_px=0, out=np.zeros((64, 64), dtype=np.float32))
    with pytest.raises(BadInput, match="margin that is not negative"):
        score_tiled(maps_of(mobile), image, stride=16, margin_px=-1)
