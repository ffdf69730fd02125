"""The command `xadflow`: finds its subcommands by name and imports one only when it runs.

Commands that run flows (demo, retrain, explain) come from the entry-point group `xadflow.commands`, so that this
package never imports the orchestrator.
"""

from __future__ import annotations

import importlib
import os
import sys
from importlib.metadata import entry_points
from typing import Any

import click

import xadflow
from xadflow.errors import Stopped, XadflowError, no_room
from xadflow.stopping import stop_status, stoppable

_BUILT_IN = {
    "data": ("xadflow.cli.data.group:data", "Bring images in: add, list and remove data sets, or run one DVC stage."),
    "score": ("xadflow.cli.score:score", "Score image files with a registered model."),
    "models": ("xadflow.cli.models:models", "List, compare, promote and roll back registered models."),
    "audit": ("xadflow.cli.audit:audit", "Verify the evidence; replay, show or export one decision."),
    "probe": ("xadflow.cli.probe:probe", "Plant a watermark and measure how much a detector hangs on it."),
    "doctor": (
        "xadflow.cli.doctor.command:doctor",
        "Check versions, data, models and servers; says what mends each finding.",
    ),
}
_FROM_FLOWS = {
    "demo": "Run the whole loop on real solar-cell images, from data to audited explanations.",
    "retrain": "Train, evaluate, gate and register detectors.",
    "explain": "Score new images and explain the anomalous ones.",
}


class _LazyGroup(click.Group):
    """A group whose help needs no import of any subcommand."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*_FROM_FLOWS, *_BUILT_IN]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in _BUILT_IN or name in _FROM_FLOWS:
            _prepare_environment()
        if name in _BUILT_IN:
            module, attribute = _BUILT_IN[name][0].split(":")
            command: click.Command = getattr(importlib.import_module(module), attribute)
            return command
        for entry in entry_points(group="xadflow.commands", name=name):
            loaded: click.Command = entry.load()
            return loaded
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        summaries = {**_FROM_FLOWS, **{name: text for name, (_, text) in _BUILT_IN.items()}}
        with formatter.section("Commands"):
            formatter.write_dl(list(summaries.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(xadflow.__version__, prog_name="xadflow")
def cli() -> None:
    """Explainable visual anomaly detection: detect, explain, audit.

    \b
    First steps:
      xadflow demo                        the whole loop on real images
      xadflow data add screws ~/screws    your own folder becomes a data set
      xadflow retrain --dataset screws    train a detector on it
      xadflow explain --dataset screws    score and explain its images
      xadflow doctor                      what is missing, and what mends it
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; exit status 0 success, 1 the work failed, 2 wrong use; no traceback for a
    user's mistake.
    """
    try:
        with stoppable():
            result: Any = cli.main(args=arguments, standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as err:
        err.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt, Stopped):
        click.echo("stopped; run the same command again to go on where it was", err=True)
        sys.exit(stop_status() or 130)
    except XadflowError as err:
        _say(err)
        sys.exit(err.exit_status)
    except BrokenPipeError:  # `xadflow ... | head` closed the pipe: not an error of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as err:
        if (full := no_room(err)) is None:  # from any library: there is no place that could know all of them
            raise
        _say(full)
        sys.exit(1)
    sys.exit(result if isinstance(result, int) else 0)


def _say(err: XadflowError) -> None:
    """The error in one line, and one for each other piece of work that failed beside it or went on."""
    click.secho(f"xadflow: {err}", fg="red", err=True)
    for note in getattr(err, "__notes__", ()):
        click.echo(f"  {note}", err=True)


def _prepare_environment() -> None:
    from xadflow.errors import WrongUse
    from xadflow.settings.environment import Home, quiet_environment

    try:
        quiet_environment(Home.find())
    except WrongUse:  # help and version work anywhere; a command that needs the project says so itself
        return
