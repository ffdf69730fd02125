"""What the stages of dvc.yaml run: origin, images, manifest, validate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from xadflow.cli.data.said import MOST_LISTED, counted, quarantined, summary
from xadflow.cli.printing import printable
from xadflow.project import Project
from xadflow.settings import dvc_stage


def _named_by_dvc(context: click.Context, parameter: click.Parameter, name: str | None) -> str:
    """NAME as it was given, or that of the stage which DVC runs us for."""
    found = name or dvc_stage().partition("@")[2]
    if not found:
        raise click.MissingParameter(ctx=context, param=parameter)
    return found


_stage_argument = click.argument("name", required=False, callback=_named_by_dvc)


@click.command()
@_stage_argument
def origin(name: str) -> None:
    """Write down what the images of data set NAME come from (DVC stage `origin`).

    Where that is not on this machine, what a colleague pushed and `dvc pull --allow-missing` brought is used.
    """
    from xadflow.datasets.reproducing import NOTE, check_params
    from xadflow.datasets.stages import write_origin

    project = Project.open()
    home, settings = project.home, project.settings
    check_params(
        home.project
    )  # the first stage: `dvc repro --quiet` swallows what DVC itself finds before the next one
    if note := write_origin(home, settings, name):
        click.echo(f"{NOTE}{printable(note)}", err=True)


@click.command()
@_stage_argument
def images(name: str) -> None:
    """Bring the images of data set NAME through the border checks into data/NAME/images (DVC stage `images`).

    \b
    Example:
      xadflow data images elpv
    """
    from xadflow.datasets.stages import collect_images, reasons

    project = Project.open()
    home, settings = project.home, project.settings
    with _progress(f"checking images of {name}") as progress:
        admission = collect_images(home, settings, name, progress)
    refused = reasons(admission.refused)
    click.echo(f"{name}: {len(admission.rows)} images" + (f"; quarantine {counted(refused)}" if refused else ""))


@click.command()
@_stage_argument
def manifest(name: str) -> None:
    """Write manifest.parquet and quarantine.parquet of data set NAME and list what is in quarantine (DVC stage
    `manifest`).

    \b
    Example:
      xadflow data manifest elpv
    """
    from xadflow.datasets.stages import build_manifest, read_quarantine

    project = Project.open()
    home, settings = project.home, project.settings
    rows = build_manifest(home, settings, name)
    click.echo(f"{name}: manifest of {len(rows)} images")
    click.echo("\n".join(quarantined(name, read_quarantine(home, name), MOST_LISTED)), nl=False)


@click.command()
@_stage_argument
def validate(name: str) -> None:
    """Check the manifest of data set NAME by Great Expectations; writes validation.json (DVC stage `validate`).

    \b
    Example:
      xadflow data validate elpv
    """
    from xadflow.datasets.stages import validate_dataset

    project = Project.open()
    home, settings = project.home, project.settings
    validate_dataset(home, settings, name)
    click.echo(summary(home, name))


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    from xadflow.progress import progress_board, track

    with progress_board(), track(what) as update:
        yield lambda done, total: update(done, total, {})


COMMANDS = (origin, images, manifest, validate)
