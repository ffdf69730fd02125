"""The losses of both stages, as plain functions. All are means over the batch.

Sources: released weights and options of UTAD (utad.md, sections 2 and 3); the mutual-information bound is Deep
InfoMax's Jensen-Shannon one (Hjelm et al., ICLR 2019), written with softplus on logits; LSGAN, Mao et al., ICCV 2017;
SSIM, Wang et al., 2004 (window 11, sigma 1.5).

Then the networks that judge while training and are gone afterwards: image discriminators, and two of mutual
information.

Image discriminators see the image at several scales, each the half of the one before, and give one map of scores a
scale; a scale is left out where the image is too small for its convolutions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOST_LOGVAR = 10.0  # log-variances are clamped to +-this
_C1, _C2 = 0.01**2, 0.03**2


def prior_divergence(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, sigma^2) || N(0, I)), summed over the code [B,N].

    >>> float(prior_divergence(torch.ones(1, 3), torch.zeros(1, 3)))
    1.5
    """
    bounded = logvar.clamp(-MOST_LOGVAR, MOST_LOGVAR)
    return 0.5 * (mu.square() + bounded.exp() - bounded - 1.0).sum(dim=1).mean()


def information_loss(own: Tensor, foreign: Tensor) -> Tensor:
    """-E[log T(own pair)] - E[log(1 - T(foreign pair))] of logits of any shape; 2 ln 2 where T knows nothing."""
    return F.softplus(-own).mean() + F.softplus(foreign).mean()


def judge_loss(real: Sequence[Tensor], made: Sequence[Tensor]) -> Tensor:
    """LSGAN of a discriminator: 1 for real, 0 for made, squared; summed over its scales."""
    scales = [(1.0 - one).square().mean() + other.square().mean() for one, other in zip(real, made, strict=True)]
    return torch.stack(scales).sum()


def maker_loss(made: Sequence[Tensor]) -> Tensor:
    """LSGAN of the network that made the images: wants 1; summed over scales."""
    return torch.stack([(1.0 - one).square().mean() for one in made]).sum()


def total_variation(images: Tensor) -> Tensor:
    """Mean |difference| of neighbouring pixels, rows and columns averaged."""
    rows, columns = _gradients(images)
    return 0.5 * (rows.abs().mean() + columns.abs().mean())


def edge_loss(first: Tensor, second: Tensor, levels: int = 3) -> Tensor:
    """Mean over halved sizes of the mean |difference of gradients|, the x and y halves averaged."""
    found = []
    for level in range(levels):
        if level:
            first, second = F.avg_pool2d(first, 2), F.avg_pool2d(second, 2)
        pairs = zip(_gradients(first), _gradients(second), strict=True)
        found.append(0.5 * torch.stack([(one - other).abs().mean() for one, other in pairs]).sum())
    return torch.stack(found).mean()


def similarity(first: Tensor, second: Tensor) -> Tensor:
    """SSIM at every pixel, [B,C,H,W] of images in [0,1]; borders are reflected. Clipped to [-1,1]."""
    mean_a, mean_b = (gaussian_blur(one, 1.5, 5) for one in (first, second))
    var_a = gaussian_blur(first.square(), 1.5, 5) - mean_a.square()
    var_b = gaussian_blur(second.square(), 1.5, 5) - mean_b.square()
    both = gaussian_blur(first * second, 1.5, 5) - mean_a * mean_b
    ssim = ((2 * mean_a * mean_b + _C1) * (2 * both + _C2)) / (
        (mean_a.square() + mean_b.square() + _C1) * (var_a + var_b + _C2)
    )
    return ssim.clamp(-1.0, 1.0)


def gaussian_blur(images: Tensor, sigma_px: float, radius: int | None = None) -> Tensor:
    """Each channel of [B,C,H,W] blurred, borders reflected; sigma 0 changes nothing. The radius is 3 sigma
    or as given.
    """
    if sigma_px <= 0:
        return images
    reach = min(radius or max(1, round(3 * sigma_px)), min(images.shape[2:]) - 1)
    offsets = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-offsets.square() / (2 * sigma_px**2))
    kernel = kernel / kernel.sum()
    flat = images.flatten(0, 1)[:, None]  # (B*C, 1, H, W)
    flat = F.conv2d(F.pad(flat, (0, 0, reach, reach), mode="reflect"), kernel.view(1, 1, -1, 1))
    flat = F.conv2d(F.pad(flat, (reach, reach, 0, 0), mode="reflect"), kernel.view(1, 1, 1, -1))
    return flat[:, 0].view_as(images)


def _gradients(images: Tensor) -> tuple[Tensor, Tensor]:
    return images[..., 1:, :] - images[..., :-1, :], images[..., 1:] - images[..., :-1]


SMALLEST_PX = 16  # side that four convolutions of stride 2 still make a map of


class Judge(nn.Module):
    """`scale()` builds the network of one scale. Images [B,C,H,W] to one map of scores for each scale."""

    def __init__(self, scale: Callable[[], nn.Module], scales: int, side_px: int) -> None:
        super().__init__()
        count = max(1, sum(side_px // 2**number >= SMALLEST_PX for number in range(scales)))
        self.scales = nn.ModuleList(scale() for _ in range(count))

    def forward(self, images: Tensor) -> list[Tensor]:
        """See the class."""
        found = []
        for number, network in enumerate(self.scales):
            if number:
                images = F.avg_pool2d(images, 3, stride=2, padding=1, count_include_pad=False)
            found.append(network(images))
        return found


def impression_judge(channels: int, side_px: int) -> Judge:
    """Of the first stage, as published: three scales, each with four convolutions k4 s2 of 32 channels, no one-channel
    end.
    """

    def scale() -> nn.Module:
        layers: list[nn.Module] = [nn.Conv2d(channels, 32, 4, 2, 1), nn.ReLU()]
        for _ in range(2):
            layers += [nn.Conv2d(32, 32, 4, 2, 1), nn.InstanceNorm2d(32), nn.ReLU()]
        return nn.Sequential(*layers, nn.Conv2d(32, 32, 4, 2, 1))

    return Judge(scale, 3, side_px)


def munit_judge(channels: int, side_px: int, width: int) -> Judge:
    """Of the second stage, published form: MUNIT's patches at three scales (Huang et al., ECCV 2018); size
    reconstructed.
    """

    def scale() -> nn.Module:
        layers: list[nn.Module] = []
        before, now = channels, width
        for _ in range(4):
            layers += [nn.Conv2d(before, now, 4, 2, 1), nn.LeakyReLU(0.2)]
            before, now = now, 2 * now
        return nn.Sequential(*layers, nn.Conv2d(before, 1, 1))

    return Judge(scale, 3, side_px)


def small_judge(channels: int, side_px: int, width: int) -> Judge:
    """Of the second stage, residual form: one scale, three convolutions."""

    def scale() -> nn.Module:
        layers: list[nn.Module] = []
        before = channels
        for now in (width // 2, width, 2 * width):
            layers += [nn.Conv2d(before, max(1, now), 4, 2, 1), nn.LeakyReLU(0.2)]
            before = max(1, now)
        return nn.Sequential(*layers, nn.Conv2d(before, 1, 1))

    return Judge(scale, 1, side_px)


class CodeJudge(nn.Module):
    """Whether a code and a bottleneck map belong together, as logits: cell by cell [B*u*v], and as a whole [B].

    The published judge takes code and map of equal channel counts, which 128 and 512 are not: both are projected to the
    code's size first. Each is three linear layers of 128 and one of 1.
    """

    def __init__(self, code: int, z_channels: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.project_code = nn.Linear(code, code)
        self.project_map = nn.Conv2d(z_channels, code, 1)
        self.cell = _three_layers(2 * code)
        self.whole = _three_layers(2 * code * grid[0] * grid[1])

    def forward(self, code: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Codes [B,N] and maps [B,c,u,v] to the logits of both."""
        maps = self.project_map(z)  # (B, N, u, v)
        tiled = self.project_code(code)[:, :, None, None].expand_as(maps)
        pairs = torch.cat([tiled, maps], dim=1)  # (B, 2N, u, v)
        cells = self.cell(pairs.permute(0, 2, 3, 1).flatten(0, 2))
        return cells.squeeze(1), self.whole(pairs.flatten(1)).squeeze(1)


def _three_layers(inputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, 128),
        nn.ReLU(),
        nn.Linear(128, 128),
        nn.ReLU(),
        nn.Linear(128, 128),
        nn.ReLU(),
        nn.Linear(128, 1),
    )
