"""Sources of images, one file each: `elpv`, `folder`, `one_vs_rest`, `photo_crops`, `textures`."""

from xadflow.data.sources.base import Candidate, Refused, Source, open_source

__all__ = ["Candidate", "Refused", "Source", "open_source"]
