"""`xadflow data remove`: a data set leaves the project."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from xadflow.cli.printing import printable
from xadflow.errors import RegistryUnavailable, StoreBroken, WrongUse
from xadflow.project import Project

if TYPE_CHECKING:
    from xadflow.datasets.removing import Removal


@click.command()
@click.argument("name")
@click.option("--dry-run", is_flag=True, help="Say what would go and what would stay; touch nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def remove(name: str, dry_run: bool, yes: bool) -> int:
    """Take data set NAME out of the project, with all that was made for it alone.

    That is its entry in params.yaml, its stages in dvc.lock, what was built below data/, and its inbox. Rows of
    evidence, registered versions, the images of its nights, your own folder and DVC's cache stay. It is refused while
    something else needs the data set, or a run uses it.

    \b
    Examples:
      xadflow data remove screws --dry-run
      xadflow data remove screws
    """
    from xadflow.datasets.removing import plan_removal
    from xadflow.datasets.removing import remove as take_away

    project = Project.open()
    removal = plan_removal(project.home, name)
    click.echo("\n".join([*_going(removal), *_staying(project, name)]))
    if dry_run:
        click.echo("Nothing was touched: --dry-run.")
        return 0
    if not yes and not _agreed(name):
        click.echo("Nothing was touched.")
        return 1
    take_away(project.home, plan_removal(project.home, name))  # a run may have begun while the question stood
    click.echo(f"{name} is removed.")
    return 0


def _going(removal: Removal) -> list[str]:
    lines = [f"Of data set {removal.name} this goes:"]
    lines += [f"  params.yaml: {', '.join(removal.params)}"] if removal.params else []
    lines += [f"  dvc.lock: {', '.join(removal.stages)}"] if removal.stages else []
    for one in removal.folders:
        files = "1 file" if one.files == 1 else f"{one.files} files"
        lines.append(f"  {printable(one.path)}: {files}, {one.bytes / 1e6:.1f} MB")
    return lines


def _staying(project: Project, name: str) -> list[str]:
    """What no removal touches, as far as there is any."""
    lines = []
    entry = project.settings.datasets.get(name)
    if entry is not None and (path := entry.options.get("path")) is not None:
        lines.append(f"  the folder it comes from: {printable(str(path))}")
    try:
        if versions := _versions(project, name):
            lines.append(f"  registered versions: {', '.join(versions)}")
        if rows := _rows(project, name):
            lines.append(
                f"  rows of evidence: {', '.join(rows)}; `xadflow audit verify` goes on to check them, and "
                "`xadflow audit replay` needs the images back"
            )
    except (RegistryUnavailable, StoreBroken, WrongUse) as err:
        lines.append(f"  versions and rows, which could not be counted: {err.wrong}")
    nights = project.home.state / "inbox-runs" / name
    if nights.is_dir():
        lines.append(f"  images of its nights: {nights.parent.name}/{name}, which rows point to")
    lines.append("  bytes in DVC's cache, so that an earlier commit can be checked out; `dvc gc` takes them away")
    return ["This stays:", *lines]


def _versions(project: Project, name: str) -> list[str]:
    from xadflow.models.lookup import count_versions

    return [f"{count} of {model}" for model, count in count_versions(project.registry, name).items()]


def _rows(project: Project, name: str) -> list[str]:
    """How many rows each table has of a data set."""
    if not project.home.tables.is_dir():
        return []
    import pyarrow.compute as pc

    counts = {
        table: project.records.read(table, columns=["image_id"], where=pc.field("dataset") == name).num_rows
        for table in ("scores", "explanations")
    }
    return [f"{count} in {table}" for table, count in counts.items() if count]


def _agreed(name: str) -> bool:
    try:
        return click.confirm(f"Remove data set {name}?", default=False)
    except click.Abort:
        raise WrongUse(
            "nobody answered whether to remove it, so nothing was touched",
            seen="no answer",
            next_step="say --yes, or look at --dry-run first",
        ) from None
