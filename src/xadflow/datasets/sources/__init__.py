"""Sources of images, one file each: `coloured_mnist`, `elpv`, `folder`, `letters`, `mosaic`, `one_vs_rest`,
`photo_crops`, `scenes`, `textures`."""

from xadflow.datasets.sources.base import Candidate, Refused, Source, open_source

__all__ = ["Candidate", "Refused", "Source", "open_source"]
