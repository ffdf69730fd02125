"""What a network's name stands for, for one image shape: one of the paper's (published.py) or a cut trunk
(cut.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from xadflow.networks.cut import SIGMA_PER_STRIDE, dense_trunk, trunk_fields, vector_trunk
from xadflow.networks.cut_settings import TrunkSettings
from xadflow.networks.outline import is_trunk, statistics_of
from xadflow.networks.published import dense_network, fields_of, network_spec, vector_network
from xadflow.networks.upsampling import Field


@dataclass(frozen=True)
class Design:
    """A network for images of `shape` (C, H, W), and how its map lies on them. Raises UnknownName, BadSettings,
    BadInput.
    """

    network: str
    shape: tuple[int, int, int]
    trunk: TrunkSettings | None = None

    @property
    def fields(self) -> tuple[Field, Field]:
        """Receptive fields of the dense network's cells along rows and columns."""
        if not is_trunk(self.network):
            return fields_of(self.network, *self.shape[1:])
        return trunk_fields(self.network, self._trunk.steps(self.network)[0], *self.shape[1:])

    @property
    def sigma_px(self) -> float:
        """Of the heatmap's Gaussians: the published one, for a trunk 1.5 strides."""
        if not is_trunk(self.network):
            return network_spec(self.network).sigma_px
        return SIGMA_PER_STRIDE * max(field.stride for field in self.fields)

    @property
    def extents(self) -> tuple[int, int]:
        """Sides of the Gaussians' windows: the receptive fields, for a trunk at least what leaves no pixel without a
        cell.
        """
        if not is_trunk(self.network):
            return self.fields[0].extent, self.fields[1].extent
        rows, columns = (_covering(field, side) for field, side in zip(self.fields, self.shape[1:], strict=True))
        return rows, columns

    @property
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Mean and standard deviation that a trunk's weights were trained with."""
        return statistics_of(self.network) if is_trunk(self.network) else None

    def dense(self) -> nn.Sequential:
        """Images to one response a cell, [B,1,u,v]."""
        if is_trunk(self.network):
            return dense_trunk(self.network, self._trunk)
        return dense_network(self.network, self.shape[0])

    def vector(self, outputs: int | None, *, bias: bool = True) -> nn.Sequential:
        """Images to vectors [B,d]; without `bias` nothing is learned that answers the same to every image."""
        if is_trunk(self.network):
            return vector_trunk(self.network, self._trunk, outputs, bias=bias)
        return vector_network(self.network, self.shape[0], outputs, bias=bias)

    @property
    def _trunk(self) -> TrunkSettings:
        return self.trunk or TrunkSettings()


def _covering(field: Field, side: int) -> int:
    """The field's extent, or the next of its parity that reaches both ends: unpadded networks pass over some pixels
    there.
    """
    farthest = max(field.start, side - 1 - field.start - field.stride * (field.cells - 1), field.stride / 2)
    extent = field.extent
    while (extent - 1) / 2 < farthest:
        extent += 2
    return extent
