"""Preparation of images, against NumPy in float64."""

import numpy as np
import pytest
import torch

from xadflow.detectors.one_class.inputs import preparation
from xadflow.errors import BadSettings

CHANNELS = 3


@pytest.fixture(scope="module")
def normals() -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(10, 200, (23, CHANNELS, 9, 7), dtype=np.uint8))


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(5, CHANNELS, 9, 7, generator=torch.Generator().manual_seed(1))


def contrast(images: np.ndarray) -> np.ndarray:
    centred = images - images.mean(axis=(1, 2, 3), keepdims=True)
    return centred / np.abs(centred).mean(axis=(1, 2, 3), keepdims=True)


def test_contrast_is_taken_out_of_each_image_and_train_normals_fill_the_range(normals, images) -> None:
    module = preparation("contrast", CHANNELS)
    module.fit(normals, 8)
    seen = contrast(normals.numpy() / 255.0)
    low, high = (ends(seen, axis=(0, 2, 3))[:, None, None] for ends in (np.min, np.max))
    wanted = (contrast(images.double().numpy()) - low) / (high - low)
    np.testing.assert_allclose(module(images).numpy(), wanted, atol=2e-5)
    of_normals = module(normals.float() / 255)
    assert of_normals.amin(dim=(0, 2, 3)).numpy() == pytest.approx(0.0, abs=1e-5)
    assert of_normals.amax(dim=(0, 2, 3)).numpy() == pytest.approx(1.0, abs=1e-5)
    np.testing.assert_allclose(module(0.4 * images + 0.3).numpy(), wanted, atol=5e-5)  # neither counts


def test_standard_keeps_brightness_and_contrast(normals, images) -> None:
    module = preparation("standard", CHANNELS)
    module.fit(normals, 8)
    seen = normals.numpy() / 255.0
    mean, deviation = (figure(seen, axis=(0, 2, 3))[:, None, None] for figure in (np.mean, np.std))
    np.testing.assert_allclose(module(images).numpy(), (images.double().numpy() - mean) / deviation, atol=2e-5)


@pytest.mark.parametrize("name", ["contrast", "standard"])
def test_flat_images_stay_finite_and_so_do_their_gradients(name: str) -> None:
    module = preparation(name, 1)
    module.fit(torch.full((4, 1, 6, 6), 90, dtype=torch.uint8), 8)
    flat = torch.full((2, 1, 6, 6), 90 / 255, requires_grad=True)
    prepared = module(flat)
    prepared.square().sum().backward()
    assert torch.isfinite(prepared).all()
    assert torch.isfinite(flat.grad).all()
    assert prepared.abs().max() < 1e-2


@pytest.mark.parametrize("channels", [1, 3])
def test_pretrained_is_the_mean_and_deviation_that_are_given_and_three_channels(normals, images, channels: int) -> None:
    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    module = preparation("pretrained", channels, (mean, deviation))
    module.fit(normals[:, :channels], 8)
    wanted = (images[:, :channels].double().numpy() - np.reshape(mean, (3, 1, 1))) / np.reshape(deviation, (3, 1, 1))
    np.testing.assert_allclose(module(images[:, :channels]).numpy(), wanted, atol=2e-6)
    assert not module.state_dict()  # known by name: nothing of it is saved
    with pytest.raises(BadSettings, match="only a trunk"):
        preparation("pretrained", channels)
