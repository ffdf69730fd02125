"""Losses against closed forms and brute force in float64; shapes of docs/explanation/methods.md, on the meta
device.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from xadflow.detectors.utad import losses
from xadflow.detectors.utad.maps import nearest_distance
from xadflow.detectors.utad.settings import PUBLISHED, UtadSettings, utad_settings
from xadflow.detectors.utad.training import ExpertPlayers, ImpressionPlayers
from xadflow.errors import BadInput, BadSettings


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_divergence_is_half_a_code_number_at_mean_one():
    one = torch.ones(3, 7, dtype=torch.float64)
    assert losses.prior_divergence(one, torch.zeros_like(one)).item() == pytest.approx(0.5 * 7, rel=1e-15)
    assert losses.prior_divergence(0 * one, 0 * one).item() == 0.0
    mu, logvar = draw(4, 5), draw(4, 5, seed=1) - 0.5
    prior = torch.distributions.Normal(torch.zeros_like(mu), torch.ones_like(mu))
    own = torch.distributions.Normal(mu, (0.5 * logvar).exp())
    expected = torch.distributions.kl_divergence(own, prior).sum(1).mean()
    torch.testing.assert_close(losses.prior_divergence(mu, logvar), expected, rtol=1e-12, atol=0)
    assert losses.prior_divergence(mu, logvar + 1e4).isfinite()


def test_information_loss_of_a_judge_that_knows_nothing_is_two_ln_two():
    undecided = torch.zeros(6, dtype=torch.float64)
    assert losses.information_loss(undecided, undecided).item() == pytest.approx(2 * math.log(2), rel=1e-15)
    own, foreign = 4 * draw(9) - 2, 4 * draw(9, seed=1) - 2
    expected = -(own.sigmoid().log().mean() + (1 - foreign.sigmoid()).log().mean())
    torch.testing.assert_close(losses.information_loss(own, foreign), expected, rtol=1e-12, atol=0)
    assert losses.information_loss(own - 1e5, foreign + 1e5).isfinite()  # no logarithm of 0


def test_least_squares_of_both_sides_at_nought_and_one():
    nought, one = torch.zeros(2, 3, 4, 4, dtype=torch.float64), torch.ones(2, 3, 2, 2, dtype=torch.float64)
    assert losses.judge_loss([one], [0 * one]).item() == 0.0
    assert losses.judge_loss([nought, nought], [nought + 1, nought + 1]).item() == 4.0  # two scales, each 1 + 1
    assert losses.maker_loss([nought, one]).item() == 1.0
    assert losses.maker_loss([one, one]).item() == 0.0


def test_similarity_is_that_of_scikit_image_inside_the_border():
    first, second = draw(24, 26), draw(24, 26, seed=1)
    _, expected = structural_similarity(
        first.numpy(),
        second.numpy(),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=1.0,
        full=True,
    )
    found = losses.similarity(first[None, None], second[None, None])[0, 0].numpy()
    np.testing.assert_allclose(found[6:-6, 6:-6], expected[6:-6, 6:-6], rtol=1e-7, atol=1e-9)
    assert losses.similarity(first[None, None], first[None, None]).min().item() == pytest.approx(1.0, abs=1e-12)


def test_edge_loss_ignores_a_shift_of_all_values_and_is_one_slope():
    first = draw(2, 1, 16, 16)
    torch.testing.assert_close(
        losses.edge_loss(first, first + 0.3), torch.zeros((), dtype=torch.float64), rtol=0, atol=1e-15
    )
    slope = torch.arange(16, dtype=torch.float64).expand(1, 1, 16, 16)
    expected = np.mean(
        [0.5 * 1, 0.5 * 2, 0.5 * 4]
    )  # the steps of a slope double with each halving; only one direction has it
    assert losses.edge_loss(slope, 0 * slope).item() == pytest.approx(expected, rel=1e-12)
    assert losses.total_variation(slope).item() == pytest.approx(0.5, rel=1e-12)


def test_a_blur_keeps_the_mean_of_a_constant_and_has_its_sigma():
    assert losses.gaussian_blur(torch.full((1, 2, 9, 9), 0.7, dtype=torch.float64), 1.3).std().item() < 1e-15
    point = torch.zeros(1, 1, 41, 41, dtype=torch.float64)
    point[..., 20, 20] = 1.0
    spread = losses.gaussian_blur(point, 2.0, 15)[0, 0]
    rows = (torch.arange(41.0, dtype=torch.float64) - 20).square()
    assert (spread.sum(1) * rows).sum().sqrt().item() == pytest.approx(2.0, rel=1e-3)
    assert torch.equal(losses.gaussian_blur(point, 0.0), point)


@pytest.mark.parametrize("side", [256, 128, 64])
def test_published_networks_have_the_published_shapes(side: int):
    settings = utad_settings({"configuration": "published"}, "utad")
    with torch.device("meta"):
        players = ImpressionPlayers((3, side, side), settings.impression)
        experts = ExpertPlayers((3, side, side), settings.expert)
        x = torch.empty(2, 3, side, side)
        seen = players.net(x)
        cells = side // players.net.stride
        assert seen.m.shape == x.shape
        assert seen.z.shape == (2, 512, cells, cells)
        assert {256: 8, 128: 4, 64: 4}[side] == cells
        assert seen.mu.shape == seen.logvar.shape == (2, 128)
        assert experts.expert.content(x).shape == (2, 256, side // 4, side // 4)
        code = experts.expert.detail(x)
        assert code.shape == (2, 8, 1, 1)
        assert experts.expert.image(seen.m, code.flatten(1)).shape == x.shape
        assert experts.expert.impression(x, torch.empty(6, 8)).shape == (6, 3, side, side)
        assert experts.expert.copy(x).shape == x.shape
        scales = players.judge(x)
        assert len(scales) == 3
        assert all(one.shape[1] == 32 for one in scales)
        local, whole = players.codes(seen.mu, seen.z)
        assert (local.shape, whole.shape) == ((2 * cells * cells,), (2,))


@pytest.mark.parametrize(
    ("shape", "stride", "numbers"),
    [
        ((1, 64, 64), 16, 256),
        ((1, 96, 96), 16, 576),
        ((3, 128, 64), 16, 3 * 512),
        ((1, 28, 28), 4, 49),
        ((1, 40, 24), 8, 60),
    ],
)
def test_the_compact_net_has_a_bottleneck_of_a_sixteenth_of_the_pixels(shape, stride, numbers):
    with torch.device("meta"):
        players = ImpressionPlayers(shape, UtadSettings().impression)
        x = torch.empty(2, *shape)
        seen = players.net(x)
    assert players.net.stride == stride
    assert seen.z[0].numel() == numbers == x[0].numel() // 16
    assert seen.m.shape == x.shape
    with torch.device("meta"):
        expert = ExpertPlayers(shape, UtadSettings().expert).expert
        assert expert.detail(x).shape == (2, 8, 1, 1)
        assert expert.image(seen.m, torch.empty(6, 8)).shape == (6, *shape)


@pytest.mark.parametrize(
    ("form", "shape", "seen"),
    [
        ("compact", (1, 30, 32), "(30, 32)"),
        ("compact", (1, 4, 64), "(4, 64)"),
        ("published", (3, 100, 100), "(100, 100)"),
    ],
)
def test_sides_that_the_stride_does_not_divide_are_refused(form: str, shape: tuple[int, int, int], seen: str):
    settings = utad_settings({"configuration": form}, "utad")
    with pytest.raises(BadInput, match=r"multiples of its stride.*size_px") as caught:
        ImpressionPlayers(shape, settings.impression)
    assert str(caught.value.seen) == seen


def test_nearest_distances_are_those_of_brute_force_and_nought_from_oneself():
    bank, codes = draw(20, 6), draw(5, 6, seed=1)
    expected = torch.cdist(codes, bank).square().sort(dim=1).values
    torch.testing.assert_close(nearest_distance(codes, bank, 4), expected[:, :4].mean(1), rtol=1e-10, atol=0)
    assert torch.equal(nearest_distance(bank, bank, 1), torch.zeros(20, dtype=torch.float64))
    assert (nearest_distance(bank, bank, 2) > 0).all()


def test_the_published_configuration_has_the_released_weights_and_a_setting_wins_over_it():
    published = utad_settings({"configuration": "published", "expert": {"paired_image": 10.0}}, "utad")
    first, second = published.impression, published.expert
    assert (first.reconstruction, first.variation, first.adversarial, first.mi_local, first.mi_global, first.prior) == (
        100.0,
        0.0,
        0.1,
        1.5,
        0.5,
        0.1,
    )
    assert (second.adversarial, second.reconstruction, second.code, second.content, second.edges) == (
        1.0,
        10.0,
        1.0,
        1.0,
        0.0,
    )
    assert (second.paired_image, second.paired_impression) == (10.0, 0.0)
    assert published.map.terms == PUBLISHED["map"]["terms"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"expert": {"pared_image": 1.0}}, "paired_image"),
        ({"map": {"terms": {"var-x_hat": -1.0}}}, "samples"),
        ({"map": {"terms": {"x-x_hat": 0.0}}}, "weight"),
        ({"map": {"distance": "perceptual"}}, "network"),
        ({"score": {"map": 0.0}}, "weight"),
        ({"expert": {"paired_image": 0, "paired_impression": 0, "code": 0}}, "paired_image"),
        ({"configuration": "published", "map": 3}, "block"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(given: dict[str, object], said: str):
    with pytest.raises(BadSettings, match=said):
        utad_settings(given, "utad")
