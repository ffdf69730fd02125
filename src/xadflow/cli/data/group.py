"""The group `xadflow data` and its commands, one file each; those that DVC runs together."""

from __future__ import annotations

import click

from xadflow.cli.data import stages
from xadflow.cli.data.add import add
from xadflow.cli.data.fetch import fetch
from xadflow.cli.data.list import list_command
from xadflow.cli.data.remove import remove


@click.group()
def data() -> None:
    """Bring images in: add a folder of your own, list and remove data sets, or run one DVC stage.

    \b
    Examples:
      xadflow data add screws ~/screws           a folder in MVTec-AD layout becomes a data set
      xadflow data list                          what there is, and which detector serves it
      xadflow data remove screws --dry-run       what would go, and what would stay
      dvc repro validate@elpv                    bring a data set up to date (runs the four commands below)
      xadflow data manifest elpv                 one stage by hand
    """


for command in (add, list_command, remove, fetch, *stages.COMMANDS):
    data.add_command(command)
