"""Whitening and heads against independent computations in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from xadflow.detectors.fcdd.heads import HeatmapHead, MahalanobisHead, ScalarHead, Whitening, kept_channels
from xadflow.detectors.fcdd.settings import FCDDSettings
from xadflow.errors import BadWeights

CHANNELS, GRID = 6, (3, 4)


def features(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(CHANNELS, CHANNELS, generator=generator)
    raw = torch.randn(count, *GRID, CHANNELS, generator=generator) @ mixing + torch.arange(CHANNELS)
    return raw.permute(0, 3, 1, 2)  # (N, C, u, v)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small_head(settings: FCDDSettings, seed: int = 0) -> HeatmapHead:
    whitening = Whitening(CHANNELS, GRID, settings.whitening, settings.whitening_floor, settings.shrinkage)
    return HeatmapHead(settings, whitening, seeded(seed))


@pytest.mark.parametrize("shrinkage", [0.0, 0.4, 1.0])
def test_whitened_norm_is_the_mahalanobis_distance_of_the_location(shrinkage: float):
    normals, new = features(50), features(5, seed=1)
    whitening = Whitening(CHANNELS, GRID, "location", 0.03, shrinkage)
    whitening.fit(normals)
    ours = whitening(new).square().sum(dim=-1)  # (B, P)

    x = normals.double().flatten(2).numpy()
    mean, scale = x.mean(axis=(0, 2)), x.std(axis=(0, 2))
    standard = (x - mean[:, None]) / scale[:, None]
    covariances = [np.cov(standard[:, :, p], rowvar=False) for p in range(standard.shape[2])]
    pooled = np.mean(covariances, axis=0)
    for p, own in enumerate(covariances):
        covariance = (1 - shrinkage) * own + shrinkage * pooled + 0.03 * np.eye(CHANNELS)
        s = (new.double().flatten(2).numpy()[:, :, p] - mean) / scale - standard[:, :, p].mean(axis=0)
        expected = np.einsum("bi,ij,bj->b", s, np.linalg.inv(covariance), s)
        np.testing.assert_allclose(ours[:, p].numpy(), expected, rtol=2e-4)  # float32 Cholesky


def test_channel_whitening_only_standardises():
    normals = features(40)
    whitening = Whitening(CHANNELS, GRID, "channel", 0.03, 0.0)
    whitening.fit(normals)
    z = whitening(normals)
    torch.testing.assert_close(z.mean(dim=(0, 1)), torch.zeros(CHANNELS), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.flatten(0, 1).std(dim=0, correction=0), torch.ones(CHANNELS), atol=1e-5, rtol=0)


def test_fewer_normals_than_channels_still_whiten():
    whitening = Whitening(CHANNELS, GRID, "location", 0.03, 0.0)
    whitening.fit(features(3))
    assert whitening(features(4, seed=2)).isfinite().all()


def test_a_constant_channel_does_not_divide_by_zero():
    normals = features(30)
    normals[:, 2] = 1.5
    whitening = Whitening(CHANNELS, GRID, "location", 0.03, 0.0)
    whitening.fit(normals)
    assert whitening(normals).isfinite().all()


def test_the_learned_head_starts_in_the_order_of_the_mahalanobis_distance():
    z = torch.randn(200, 1, 64, generator=seeded()) * torch.linspace(0.5, 3, 200)[:, None, None]
    head = MahalanobisHead(64, 16, seeded(1))
    mahalanobis = z.square().mean(dim=-1)[:, 0]
    ours = head(z)[:, 0].detach()
    ranks = [tensor.argsort().argsort().double() for tensor in (mahalanobis, ours)]
    assert torch.corrcoef(torch.stack(ranks))[0, 1] > 0.999


def test_the_learned_head_has_the_recipe_s_formula():
    head = MahalanobisHead(5, 3, seeded())
    with torch.no_grad():
        head.channel_weight.copy_(torch.tensor([1.0, 2.0, 0.5, 0.0, -1.0]))
        head.bias.copy_(torch.tensor([0.3, -0.2, 0.0]))
        head.log_gain.fill_(0.2)
    z = torch.randn(2, 3, 5, generator=seeded(1))
    w, v, b = (p.detach().double().numpy() for p in (head.channel_weight, head.projection, head.bias))
    x = z.double().numpy()
    d = np.sqrt((x**2 * w**2).mean(-1) + ((x @ v.T + b) ** 2).sum(-1) / 3 + 1e-6)
    phi = np.exp(0.2) * np.log1p(np.exp(4 * (d - 1.3)))
    np.testing.assert_allclose(head(z).detach().numpy(), np.sqrt(phi**2 + 1) - 1, rtol=1e-5)


def test_the_scalar_head_with_no_hidden_layer_is_one_linear_response():
    head = ScalarHead(5, 0, seeded())
    z = torch.randn(2, 3, 5, generator=seeded(1))
    phi = z @ head.last_weight[0] + head.last_bias
    torch.testing.assert_close(head(z), (phi.square() + 1).sqrt() - 1, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "head", [MahalanobisHead(5, 3, seeded()), ScalarHead(5, 4, seeded()), ScalarHead(5, 0, seeded())]
)
def test_dropout_is_that_of_the_channels_of_z(head: MahalanobisHead | ScalarHead):
    z = torch.randn(4, 3, 5, generator=seeded(1))
    kept = kept_channels(4, 5, 0.5, seeded(7))
    assert set(kept.flatten().tolist()) == {0.0, 2.0}
    assert torch.equal(kept, kept_channels(4, 5, 0.5, seeded(7)))
    assert not torch.equal(kept, kept_channels(4, 5, 0.5, seeded(8)))
    torch.testing.assert_close(head(z, kept), head(z * kept[:, None]))
    assert torch.equal(head(z), head(z))


@pytest.mark.parametrize("settings", [{}, {"whitening": "channel"}, {"head": "scalar", "hidden": 0}])
def test_packing_and_unpacking_gives_the_same_maps(settings: dict[str, object]):
    head, other = small_head(FCDDSettings(**settings)), small_head(FCDDSettings(**settings), seed=5)
    head.whitening.fit(features(20))
    other.unpack(head.packed())
    assert torch.equal(head(features(4, seed=3)), other(features(4, seed=3)))


def test_tensors_of_another_head_are_refused():
    head = small_head(FCDDSettings())
    packed = head.packed()
    with pytest.raises(BadWeights, match="do not fit"):
        head.unpack({**packed, "response.bias": torch.zeros(3)})
    del packed["whitening.mean"]
    with pytest.raises(BadWeights, match=r"whitening\.mean"):
        head.unpack(packed)


def test_with_fewer_images_than_channels_all_locations_share_one_covariance() -> None:
    few = torch.randn(CHANNELS - 1, CHANNELS, *GRID, generator=torch.Generator().manual_seed(5))
    many = torch.randn(CHANNELS + 1, CHANNELS, *GRID, generator=torch.Generator().manual_seed(5))
    for features, same in ((few, 1.0), (many, 0.0)):
        chosen, given = (Whitening(CHANNELS, GRID, "location", 0.03, amount) for amount in (None, same))
        chosen.fit(features)
        given.fit(features)
        torch.testing.assert_close(chosen.inverse, given.inverse)
    chosen.fit(few)
    torch.testing.assert_close(chosen.inverse[0], chosen.inverse[-1])
