"""`xadflow data add`: a folder of one's own becomes a data set."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from xadflow.cli.data.said import FIRST_LISTED, quarantined, summary

if TYPE_CHECKING:
    from xadflow.datasets.adding import Added
    from xadflow.settings import Home, Settings

_SYMMETRIES = {
    "none": "none, only an image as it is counts as normal",
    "flips": "flips, a mirrored image is normal too",
    "square": "square, an image mirrored or turned by quarters is normal too",
}
Command = TypeVar("Command", bound=Callable[..., Any])


def _count(name: str, said: str) -> Callable[[Command], Command]:
    """An option that counts images, 0 by default."""
    return click.option(name, type=click.IntRange(0), default=0, show_default=True, help=said)


@click.command()
@click.argument("name")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--size-px",
    type=click.IntRange(16, 4096),
    help="Shorter side of what a detector sees; the shape of the images is kept [default: guessed].",
)
@click.option(
    "--tile-px",
    type=click.IntRange(16, 1024),
    help="Look at large images at full size, window by window, with windows of this side, e.g. 128.",
)
@click.option("--channels", type=click.Choice(["1", "3"]), help="1 grey, 3 RGB [default: guessed].")
@_count("--known-per-defect", "Images of each kind of defect that leave test and may be trained on.")
@_count("--known-used", "How many of the defects known that way train; the others fit P(normal).")
@click.option(
    "--bit-depth",
    type=click.IntRange(8, 16),
    help="Bits that the camera fills of grey values stored with 16 [default: guessed from all images].",
)
@click.option(
    "--aligned/--not-aligned",
    default=None,
    help="The same place of two images shows the same part of the product, or not [default: guessed].",
)
@click.option(
    "--symmetries",
    type=click.Choice(["none", "flips", "square"]),
    help="Which copies of a normal image are normal too: none, mirrored and upside down, quarter turns as well "
    "[default: guessed].",
)
@click.option(
    "--val-share",
    type=click.FloatRange(0.0, 1.0, min_open=True, max_open=True),
    help="Share of the train normals that is held out for the threshold [default: about 40 images].",
)
def add(name: str, folder: Path, channels: str | None, **stated: Any) -> None:
    """Make data set NAME from FOLDER in MVTec-AD layout, check every file, and list it for retrain and explain.

    FOLDER holds train/good/, optionally test/<defect>/, test/good/ and ground_truth/<defect>/. It is only read. Run the
    command again after adding images. Without any defect the gate cannot measure detection: you promote by hand.

    What is guessed is said; it decides how large an image a detector sees, and where transplants look for normal pixels
    to fill a defect with.

    \b
    Examples:
      xadflow data add screws ~/screws
      xadflow data add cables /mnt/cables --size-px 256 --known-per-defect 5 --known-used 10
      xadflow data add fabric ~/fabric --not-aligned --symmetries flips
      xadflow data add panels ~/panels --tile-px 128        chips of 10 px in photos of 2400 x 1600
    """
    from xadflow.datasets.adding import Wishes, add_folder
    from xadflow.datasets.stages import read_quarantine
    from xadflow.progress import progress_board
    from xadflow.settings import Home, load_settings

    if not folder.is_dir():
        raise click.BadParameter(f"{str(folder)!r} is not a folder.", param_hint="FOLDER")
    home = Home.find()
    with progress_board():
        added = add_folder(home, name, folder, Wishes(channels=int(channels) if channels else None, **stated))
    click.echo(summary(home, name))
    if refused := quarantined(name, read_quarantine(home, name), FIRST_LISTED):
        click.echo("\n" + "\n".join(refused[:-1]))
    click.echo("\n" + "\n".join([*_told(name, added, stated), *_not_measured(home, load_settings(home.params), name)]))
    click.echo(f"Next: xadflow retrain --dataset {name}")


def _told(name: str, added: Added, stated: Mapping[str, Any]) -> list[str]:
    """What a detector will see, how the product lies in it, whether that was guessed of what, and where to
    change it.
    """
    entry, pose = added.entry, added.look.pose if added.look else None
    size, tile = entry["size_px"], entry.get("tile_px")
    shown = f"{size[0]} x {size[1]} px (height x width)" if isinstance(size, list | tuple) else f"{size} px"
    by_windows = f", in windows of {tile} px" if tile else ""
    lines = [f"A detector sees {shown}{by_windows}, {'grey' if entry['channels'] == 1 else 'RGB'}."]
    lines += [added.warning] if added.warning else []
    if (bits := entry.get("bit_depth", 16)) != 16:
        how = " (guessed: the largest value of all images)" if added.look and stated["bit_depth"] is None else ""
        lines.append(f"Grey values stored with 16 bits hold {bits}{how}; an image beyond that is refused and named.")
    lies = "the same place shows the same part" if entry["aligned"] else "the same place shows different parts of it"
    why = ""
    if pose is not None and stated["aligned"] is None:
        why = (
            f" (guessed: images are like their mean by {pose.likeness:.2f}, turned by 45 degrees by {pose.turned:.2f})"
            if math.isfinite(pose.likeness)
            else " (assumed: too few images to tell)"
        )
    lines.append(f"The product is {'aligned' if entry['aligned'] else 'not aligned'}: {lies}{why}.")
    guessed = " (guessed)" if pose is not None and stated["symmetries"] is None else ""
    lines.append(f"Symmetries: {_SYMMETRIES[str(entry['symmetries'])]}{guessed}.")
    lines.append(
        f"Change any of it under datasets.{name} in params.yaml: size_px, channels, bit_depth, aligned, symmetries."
    )
    return lines


def _not_measured(home: Home, settings: Settings, name: str) -> list[str]:
    """What the gate cannot measure on a new data set as it is; nothing where it can."""
    counts = json.loads((home.dataset(name) / "validation.json").read_text(encoding="utf-8"))["counts"]
    kinds = {"normals": counts["gate/normal"], "defects": counts["gate/anomalous"]}
    few = [f"{count} {kind}" for kind, count in kinds.items() if count < settings.gate.min_images]
    if not few:
        return []
    return [
        f"The gate has only {' and '.join(few)}; of fewer than {settings.gate.min_images} (gate.min_images) it "
        "measures no detection, and you decide:",
        f"look at what `xadflow retrain` says, then run `xadflow models promote xad.{name}.DETECTOR VERSION`.",
    ]
