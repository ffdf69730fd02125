"""`xadflow score`: image files in, raw score, threshold and p-value out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click

from xadflow.cli.printing import printable
from xadflow.errors import BadImage, WrongUse
from xadflow.project import Project

THREADS = 4


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--model",
    "spec",
    help="Registered model, e.g. xad.elpv.fcdd@champion or xad.elpv.fcdd/3 [default: the only champion there is].",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def score(paths: tuple[Path, ...], spec: str | None, as_json: bool) -> int:
    """Score image files or folders of them with a registered model; writes no table.

    Exit status 1 when a file could not be scored; the others are scored all the same.

    \b
    Examples:
      xadflow score cell.png
      xadflow score /camera/today --json --model xad.elpv.fcdd@champion
    """
    project = Project.open()
    settings = project.settings
    files = _files(paths)
    if spec is None:
        from xadflow.models.lookup import only_champion

        spec = only_champion(project.registry, settings.datasets, next(iter(settings.explain.datasets), "NAME"))
    failed = False
    for line in score_files(project, spec, files, settings.explain.batch_size):
        failed |= "error" in line
        if as_json:
            click.echo(json.dumps(line))
        elif "error" in line:
            click.secho(f"{printable(line['path'])}: {line['error']}", fg="red", err=True)
        else:
            verdict = "ANOMALOUS" if line["is_anomaly"] else "normal"
            click.echo(
                f"{printable(line['path'])}  {verdict}  score {line['score']:.4f}  threshold {line['threshold']:.4f}  "
                f"p {line['p_value']:.4f}"
            )
    return 1 if failed else 0


def _files(paths: Sequence[Path]) -> list[Path]:
    from xadflow.images import IMAGE_SUFFIXES

    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            there = sorted(one for one in path.rglob("*") if not one.is_dir() or one.is_symlink())
            images = [one for one in there if one.suffix.lower() in IMAGE_SUFFIXES and not one.is_dir()]
            found += images
            _name_others(sorted({*there} - {*images}))
        else:
            found.append(path)
    if not found:
        raise WrongUse(
            "no image file in what was named",
            seen=[str(path) for path in paths][:3],
            next_step=f"name files or folders with {sorted(IMAGE_SUFFIXES)}",
        )
    return found


def _name_others(others: Sequence[Path]) -> None:
    """Say on stderr what of a folder is not scored, and why: no file is passed over in silence."""
    from xadflow.images.reading import unread

    for one in others:
        why = "a link to a folder is not followed" if one.is_dir() else unread(one.name)
        click.echo(f"{printable(str(one))}: not scored, {why}", err=True)


def score_files(project: Project, spec: str, files: Sequence[Path], batch_size: int) -> Iterator[dict[str, Any]]:
    """One dict a file, in order, as `xadflow score --json` prints it: contract (docs/explanation/architecture.md)."""
    import numpy as np
    import torch

    from xadflow.detectors.base import bit_depth_of
    from xadflow.detectors.scoring import open_detector, score_images
    from xadflow.digests import sha256_bytes
    from xadflow.images import ImageLimits, decode_image, read_file, to_input
    from xadflow.models.lookup import find_detector
    from xadflow.settings.blocks import fitting

    ref, folder = find_detector(project.registry, spec)
    detector = open_detector(folder, project.device)
    limits = ImageLimits(**project.settings.limits.model_dump(), max_bits=bit_depth_of(detector))
    channels, height, width = detector.input_shape
    batch_size = fitting(batch_size, detector.input_shape, project.settings.explain.batch_px)

    def load(path: Path) -> tuple[str, Any] | str:
        try:
            content = read_file(path, limits)
            return sha256_bytes(content), to_input(decode_image(content, limits), (height, width), channels)
        except BadImage as err:
            return str(err)

    with ThreadPoolExecutor(THREADS) as pool:
        for some in _batched(files, batch_size):
            loaded = list(pool.map(load, some))
            good = [one[1] for one in loaded if not isinstance(one, str)]
            stacked = np.stack(good) if good else np.zeros((0, channels, height, width), np.uint8)
            scores = score_images(detector, torch.from_numpy(stacked), batch_size, project.device)
            p_values = detector.calibration.p_value(scores)
            position = 0
            for path, one in zip(some, loaded, strict=True):
                if isinstance(one, str):
                    yield {"path": str(path), "error": one}
                    continue
                value, threshold = float(scores[position]), detector.calibration.threshold
                yield {
                    "path": str(path),
                    "image_id": one[0],
                    "model_name": ref.name,
                    "model_version": ref.version,
                    "score": value,
                    "threshold": threshold,
                    "p_value": float(p_values[position]),
                    "is_anomaly": value > threshold,
                }
                position += 1


def _batched(files: Sequence[Path], size: int) -> Iterator[Sequence[Path]]:
    for start in range(0, len(files), size):
        yield files[start : start + size]
