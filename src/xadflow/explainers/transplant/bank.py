"""The bank of donors: normal images of the product whose pixels a transplant may take.

It is chosen once, when a detector version is registered, and belongs to that version: `donors.json` and
`donors.safetensors` lie among the version's files and so under its hashes. They name the donors by image_id and hold no
pixels: those come from the data set, whose files are compared with their ids. A donor that was erased since is left
out; `missing` says how many are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from xadflow.digests import sha256_bytes, sha256_json
from xadflow.errors import BadWeights
from xadflow.settings.blocks import LARGE_PX

CARD, MAPS = "donors.json", "donors.safetensors"
Symmetries = Literal["none", "flips", "square"]


@dataclass(frozen=True)
class DonorList:
    """Which normals give pixels: what a detector version holds of its bank.

    `ids` are image_ids of train normals, in the order they were chosen; `symmetries` and `aligned` are the data set's
    at that time. `mean_map` float32 [H,W] is the detector's mean map of held-out normals, None for one without maps.
    `chosen_from` normals could have been taken; `apart` says that the judge was fitted on none of them.
    """

    ids: tuple[str, ...]
    symmetries: Symmetries
    aligned: bool
    chosen_from: int
    apart: bool
    mean_map: Tensor | None = None

    def save(self, folder: Path) -> None:
        """Write donors.json and, with a mean map, donors.safetensors into a detector's folder."""
        card = {
            "ids": list(self.ids),
            "symmetries": self.symmetries,
            "aligned": self.aligned,
            "chosen_from": self.chosen_from,
            "apart": self.apart,
        }
        (folder / CARD).write_text(json.dumps(card, sort_keys=True, indent=1), encoding="utf-8")
        if self.mean_map is not None:
            save_file({"mean_map": self.mean_map.to(torch.float32).contiguous().clone()}, folder / MAPS)

    @classmethod
    def load(cls, folder: Path) -> DonorList | None:
        """What a detector's folder holds; None for a version that was registered without donors.

        Raises BadWeights for a card that is not one.
        """
        path = folder / CARD
        if not path.is_file():
            return None
        try:
            card: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            ids = tuple(str(one) for one in card["ids"])
            symmetries = card["symmetries"]
            if symmetries not in ("none", "flips", "square"):
                raise ValueError(f"symmetries {symmetries!r}")
            maps = load_file(folder / MAPS)["mean_map"] if (folder / MAPS).is_file() else None
            return cls(
                ids,
                cast(Symmetries, symmetries),
                bool(card["aligned"]),
                int(card["chosen_from"]),
                bool(card["apart"]),
                maps,
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
            raise BadWeights(
                "the list of donors of this detector version cannot be read",
                seen=f"{CARD}: {err}"[:200],
                next_step="register the model again by `xadflow retrain`",
            ) from err


@dataclass(frozen=True)
class DonorBank:
    """A list of donors with their pixels, uint8 [N,C,H,W] in the order of `ids`; `missing` of the list are gone."""

    ids: tuple[str, ...]
    images: Tensor
    symmetries: Symmetries
    aligned: bool
    mean_map: Tensor | None = None
    missing: int = 0

    @property
    def digest(self) -> str:
        """Hex sha256 of everything that decides what is taken from it; the pixels are those that the ids name."""
        mean = None if self.mean_map is None else _told(self.mean_map)
        return sha256_json(
            {"ids": list(self.ids), "symmetries": self.symmetries, "aligned": self.aligned, "mean_map": mean}
        )

    @classmethod
    def of(cls, listed: DonorList, found: Sequence[str], images: Tensor) -> DonorBank:
        """The bank of a list, of whose ids `found` are still there; `images` are theirs, in that order."""
        return cls(
            tuple(found),
            images,
            listed.symmetries,
            listed.aligned,
            listed.mean_map,
            missing=len(listed.ids) - len(found),
        )

    def without(self, image_ids: Sequence[str]) -> DonorBank:
        """The same without some donors."""
        kept = [place for place, one in enumerate(self.ids) if one not in set(image_ids)]
        return replace(
            self,
            ids=tuple(self.ids[place] for place in kept),
            images=self.images[kept],
            missing=self.missing + len(self.ids) - len(kept),
        )


def _told(mean_map: Tensor) -> Any:
    """What a digest is made of: the numbers themselves, of a large map the digest of its bytes; as text it is 20 times
    as long as in memory.
    """
    if mean_map.numel() <= LARGE_PX:
        return mean_map.double().flatten().tolist()
    return sha256_bytes(mean_map.to(torch.float32).cpu().contiguous().numpy().tobytes())
