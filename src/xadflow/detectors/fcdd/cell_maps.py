"""From a trunk's stages to a low-resolution map and on to pixels, and how the response in between is trained.

FCDD has one such map for its score; where its heatmap comes from finer stages it has a second one for that.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn

from xadflow.detectors.fcdd.feature_bank import BankBatch, FeatureBank, drawn_rows
from xadflow.detectors.fcdd.heads import HeatmapHead, Whitening, kept_channels
from xadflow.detectors.fcdd.settings import FCDDSettings
from xadflow.detectors.losses import image_level_loss, pixel_level_loss, pooled
from xadflow.networks.pretrained import Trunk
from xadflow.networks.upsampling import GaussianUpsampling
from xadflow.training.splitting import Network, Problem

STATISTIC_FLOOR = 1e-6  # of the image statistic inside the anomaly term while training


class CellMap(nn.Module):
    """One low-resolution map of the stages `settings.stages`: whitening and head, and its Gaussian upsampling.

    The trunk is not part of it: it takes what `Trunk.stage_features` found.
    """

    def __init__(
        self,
        settings: FCDDSettings,
        trunk: Trunk,
        whitening: Whitening,
        shape: tuple[int, int, int],
        generator: Generator,
    ) -> None:
        super().__init__()
        _, height, width = shape
        self.stages, self.grid = settings.stages, trunk.spec.grid(settings.stages, height, width)
        self.head = HeatmapHead(settings, whitening, generator)
        sigma = settings.sigma_px or 0.75 * max(height / self.grid[0], width / self.grid[1])
        self.upsampling = GaussianUpsampling.over_grid((height, width), self.grid, sigma, settings.upsampling)

    def cells(self, trunk: Trunk, found: Sequence[Tensor]) -> Tensor:
        """A [B,P] >= 0, float32, of the stages' features, P = u * v cells row by row."""
        maps: Tensor = self.head(trunk.joined(found, self.stages))
        return maps

    def pixels(self, cells: Tensor) -> Tensor:
        """[B,P] to [B,H,W]."""
        heat: Tensor = self.upsampling(self.on_grid(cells))
        return heat

    def on_grid(self, cells: Tensor) -> Tensor:
        """[B,P] to [B,u,v]."""
        return cells.view(len(cells), *self.grid)


def new_whitening(settings: FCDDSettings, trunk: Trunk, shape: tuple[int, int, int]) -> Whitening:
    """For `settings.stages` of the trunk at that input shape, not fitted."""
    s = settings
    grid = trunk.spec.grid(s.stages, *shape[1:])
    return Whitening(trunk.spec.width(s.stages), grid, s.whitening, s.whitening_floor, s.shrinkage)


def response_problem(settings: FCDDSettings, cell_map: CellMap, bank: FeatureBank) -> Problem[BankBatch]:
    """What the training of a map's response on a whitened bank minimises, at image or at pixel level."""
    s, channels = settings, len(cell_map.head.whitening.mean)

    def draw(generator: Generator) -> BankBatch:
        batch = drawn_rows(bank, s, generator)
        return BankBatch(batch, kept_channels(sum(map(len, batch.values())), channels, s.dropout, generator))

    def cost(response: Network, batch: BankBatch, part: slice) -> Tensor:
        rows = batch.part(part)
        z = torch.cat([bank.group(name)[chosen] for name, chosen in rows.items()])  # (b, P, C)
        maps = torch.split(response(z.float(), batch.kept[part]), [len(chosen) for chosen in rows.values()])
        return torch.cat(
            [_loss(s, cell_map, name, some, rows[name], bank) for name, some in zip(rows, maps, strict=True)]
        )

    return Problem(draw, cost)


def _loss(s: FCDDSettings, cell_map: CellMap, name: str, maps: Tensor, rows: Tensor, bank: FeatureBank) -> Tensor:
    """Loss of each of the low-resolution maps [B,P] of one group."""
    if s.level == "image":
        is_anomaly = torch.full((len(maps),), name != "normal", device=maps.device)
        return image_level_loss(pooled(maps, s.pool()), is_anomaly, STATISTIC_FLOOR)
    up = cell_map.pixels(maps)
    masks = {"synthetic": bank.synthetic_masks, "known": bank.known_masks}
    defect = masks[name][rows] if name in masks else torch.zeros_like(up, dtype=torch.bool)
    return pixel_level_loss(up, defect, s.defect_area, STATISTIC_FLOOR)
