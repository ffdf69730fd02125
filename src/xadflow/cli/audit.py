"""`xadflow audit verify|accept|replay|show|export`: check the evidence, vouch for a commit that nobody announced, form
rows anew, look at one image or hand it out.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xadflow.errors import AuditFailed, RegistryUnavailable, WrongUse

if TYPE_CHECKING:
    from xadflow.evidence.ledger import LedgerHead
    from xadflow.evidence.replay import Replayed
    from xadflow.evidence.verify import AuditResult
    from xadflow.project import Project
    from xadflow.settings import Home

_MOST_LINES = 100


@click.group()
def audit() -> None:
    """Verify the evidence tables; replay, show or export what is known of one image."""


@audit.command()
@click.option(
    "--since-anchor",
    is_flag=True,
    help="Read only data files of commits after the head that the anchors hold; of older ones check presence, "
    "size, order and log entry.",
)
@click.option(
    "--anchor-file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Compare the ledger with this anchor file instead of evidence.anchor_file of params.yaml.",
)
@click.option(
    "--public-key",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Ed25519 public key, PEM: every line of the anchor file must carry its signature.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def verify(since_anchor: bool, anchor_file: Path | None, public_key: Path | None, as_json: bool) -> None:
    """Recompute everything that the ledger attests and compare; exit status 1 if anything differs.

    Compares every row digest, data file, log entry and ledger line, and the ledger with its anchors: MLflow and, where
    there is one, the anchor file. docs/explanation/threat-model.md says what this finds and what it cannot.

    \b
    Examples:
      xadflow audit verify                           everything, every byte
      xadflow audit verify --since-anchor            quick: reads no data file that is older than the anchors
      xadflow audit verify --json | jq .problems     for a program
      xadflow audit verify --anchor-file /worm/heads.jsonl --public-key quality.pub.pem

    \b
    The object of --json:
      ok             true when nothing differs
      problems       list of {table, version, what}; version is null when no one commit is meant
      since_anchor   whether older data files were left unread
      rows, bytes    how many were read and recomputed
      commits        lines of the ledger
      head           {seq, digest} of the ledger's last line
      anchors        {name: {seq, digest} or null} of MLflow and the anchor file
      unanchored     lines of the ledger after the lowest anchor
      signatures, signatures_checked
                     signed lines of the anchor file; whether --public-key was there to check them
      seconds
    """
    from xadflow.evidence import verify as auditing
    from xadflow.evidence.signing import load_public_key
    from xadflow.progress import progress_board, track
    from xadflow.project import Project

    project = Project.open()
    file = anchor_file or _anchor_file(project)
    if public_key is not None and file is None:
        raise WrongUse(
            "a public key checks the lines of an anchor file, and there is none",
            seen=public_key.name,
            next_step="give --anchor-file, or set evidence.anchor_file in params.yaml",
        )
    key = load_public_key(public_key) if public_key is not None else None
    with progress_board(), track("verify") as update:
        result = auditing.verify(
            project.records,
            _anchored_head(project),
            since_anchor,
            lambda done, total: update(done, total, {}),
            anchor_file=file,
            public_key=key,
            anchor_needed=True,
        )
    if as_json:
        click.echo(json.dumps({**asdict(result), "ok": result.ok}, sort_keys=True))
    else:
        _report(result)
    if not result.ok:
        raise AuditFailed(
            "the evidence does not verify",
            seen=f"{len(result.problems)} problems",
            next_step="keep var/tables and var/ledger as they are; compare with a backup",
        )


@audit.command()
@click.option("--yes", is_flag=True, help="You have looked at it, and vouch for it.")
def accept(yes: bool) -> None:
    """Vouch for a commit, or lines of the ledger, that this account did not announce: they are completed and anchored,
    and their alarms end.

    A run refuses them, since whoever can write to var/ can make them. They are your own when a run was killed under
    another account or on another machine, or when this account lost its secret (~/.local/state/xadflow). Look at
    `xadflow audit verify` first.

    \b
    Example:
      xadflow audit accept --yes
    """
    from xadflow.project import Project

    if not yes:
        raise WrongUse(
            "you would vouch for rows that nobody announced",
            seen="no --yes",
            next_step="look at them by `xadflow audit verify`, then run `xadflow audit accept --yes`",
        )
    store = Project.open().store
    before = len(store.ledger.lines())
    alarms = store.accept()
    click.echo(
        f"{len(store.ledger.lines()) - before} commits completed, {alarms} alarms vouched for; the ledger is anchored "
        "as it is"
    )


@audit.command()
@click.argument("image_id")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a row.")
@click.option(
    "--images",
    type=click.Path(path_type=Path, file_okay=False),
    help="Also write its pictures as PNG here, and the files of the images that its counterfactuals took pixels from.",
)
def show(image_id: str, as_json: bool, images: Path | None) -> None:
    """Every row of one image; IMAGE_ID may be shortened to its first 6 digits or more."""
    from xadflow.evidence import decisions
    from xadflow.project import Project

    project = Project.open()
    store = project.records
    image_id = decisions.find_image(store, image_id)
    for row in decisions.show(store, image_id, project.home):
        if as_json:
            click.echo(json.dumps(row, sort_keys=True))
        else:
            click.echo(f"{row.pop('table')}")
            for sentence in row.pop("said", ()):
                click.echo(f"  {sentence}")
            click.echo("\n".join(_indented(row, 1)))
    if images is not None:
        written = decisions.export_images(store, image_id, images, project.home)
        click.echo(f"{len(written)} pictures in {images}", err=as_json)


@audit.command()
@click.argument("image_id")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def replay(image_id: str, as_json: bool) -> None:
    """Form every row of one image anew from its lineage and compare; exit status 1 unless all come out as stored.

    Loads the model version that the row names (its files must be those of the lineage), the explainer in the row's
    version and the stored 8-bit image, computes on the recorded device with the recorded threads and batch, and
    compares every column: pictures by their pixels, figures exactly. IMAGE_ID may be shortened to its first 6 digits or
    more.

    \b
    Answers, row by row:
      identical                everything is the same, to the bit
      identical under an assumption
                               the same, but something had to be taken on trust, and it says what: that the stored
                               original shows the image, where its file is gone or has other bytes
      equal within tolerance   not all of the lineage could be put back (it says what: threads, a library, the batch),
                               and what differs is small: figures by 1e-4 of their size, p-values by one rank, maps by
                               one of 255 levels; counterfactuals must be the same
      differs                  which columns, and by how much
      cannot be replayed       what is missing: the model, the explainer's code, the image

    \b
    Examples:
      xadflow audit replay 3fa94c1b
      xadflow audit replay 3fa94c1b --json | jq '.rows[] | {explainer, outcome}'

    \b
    The object of --json:
      image_id, ok
      rows           list of {table, model_name, model_version, explainer, explainer_version, outcome, differences,
                     conditions, assumed, missing}
      differences    list of {column, stored, replayed, size, within}
      conditions     {name: what could not be as the lineage says};  assumed: what the lineage does not tell
    """
    from xadflow.evidence import decisions
    from xadflow.evidence.replay import replay as replay_rows
    from xadflow.progress import progress_board, track
    from xadflow.project import Project

    project = Project.open()
    store = project.records
    image_id = decisions.find_image(store, image_id)
    if _without_mlflow(project.home):
        raise RegistryUnavailable(
            "a replay needs the registered models, and there is no MLflow store",
            seen="no mlflow.db",
            next_step="run it where the models are, or set MLFLOW_TRACKING_URI",
        )
    with progress_board(), track(f"replay {image_id[:12]}") as update:
        told = replay_rows(
            project.home,
            project.settings,
            project.registry,
            store,
            image_id,
            lambda done, total: update(done, total, {}),
        )
    bad = [one for one in told if not one.ok]
    if as_json:
        rows = [{**asdict(one), "differences": [asdict(each) for each in one.differences]} for one in told]
        click.echo(json.dumps({"image_id": image_id, "ok": not bad, "rows": rows}, sort_keys=True))
    else:
        for one in told:
            _report_replayed(one)
    if bad:
        if all(one.missing is not None for one in bad):
            raise AuditFailed(
                "not every row could be formed again",
                seen=f"{len(bad)} of {len(told)} rows",
                next_step="bring back what is said to be missing; `xadflow doctor` looks at models and data sets",
            )
        raise AuditFailed(
            "not every row came out as it is stored",
            seen=f"{len(bad)} of {len(told)} rows",
            next_step="run `xadflow audit verify`: it says whether stored rows were changed since",
        )


@audit.command()
@click.argument("image_id")
@click.option(
    "--to",
    "destination",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Folder to make, or .zip file; default: decision-<first 12 digits>. It must not be there yet.",
)
@click.option(
    "--with-donors",
    is_flag=True,
    help="Also hand out the files of the images that its counterfactuals took pixels from, as they are.",
)
def export(image_id: str, destination: Path | None, with_donors: bool) -> None:
    """Write one decision as a folder or .zip for somebody outside: rows, pictures, lineage, and the proof by the
    ledger.

    README.txt inside says what each file is and how to check it without xadflow. Only what verifies is written. A
    transplant shows part of another image, its donor, and names it; the donor itself is handed out only if asked for,
    under the licence of the data set.

    \b
    Examples:
      xadflow audit export 3fa94c1b
      xadflow audit export 3fa94c1b --to ~/for-the-customer/cell-17.zip
    """
    from xadflow.evidence import decisions
    from xadflow.evidence import export as exporting
    from xadflow.project import Project

    project = Project.open()
    store = project.records
    image_id = decisions.find_image(store, image_id)
    done = exporting.export(
        store,
        image_id,
        destination or Path(f"decision-{image_id[:12]}"),
        _anchored_head(project),
        _anchor_file(project),
        home=project.home,
        with_donors=with_donors,
    )
    held = f"held by {' and '.join(done.anchors)}" if done.anchors else "not yet held by any anchor"
    click.echo(f"{done.path}: {done.rows} rows, {done.pictures} pictures, {done.lines} lines of the ledger, {held}")


def _anchored_head(project: Project) -> LedgerHead | None:
    from xadflow.evidence.ledger import LedgerHead

    if _without_mlflow(project.home):
        return None  # an auditor's copy has none, and verifying makes none
    head = project.registry.anchored_head()
    return None if head is None else LedgerHead(int(head["seq"]), str(head["digest"]))


def _without_mlflow(home: Home) -> bool:
    from xadflow.models.tracking_store import sqlite_file, sqlite_revision

    return home.mlflow_uri.startswith("sqlite:") and sqlite_revision(sqlite_file(home.mlflow_uri)) is None


def _anchor_file(project: Project) -> Path | None:
    named = project.settings.evidence.anchor_file
    return None if named is None else project.home.project / named


def _report(result: AuditResult) -> None:
    for problem in result.problems[:_MOST_LINES]:
        click.secho(str(problem), fg="red")
    if len(result.problems) > _MOST_LINES:
        click.echo(f"and {len(result.problems) - _MOST_LINES} more; --json lists all")
    head = "no ledger" if result.head is None else f"head {result.head.seq} {result.head.digest[:12]}"
    click.echo(f"{result.commits} commits, {result.rows} rows recomputed in {result.seconds:.1f} s; {head}")
    for name, anchored in result.anchors.items():
        click.echo(
            f"{name} holds " + ("no head" if anchored is None else f"head {anchored.seq} {anchored.digest[:12]}")
        )
    if result.signatures and not result.signatures_checked:
        click.secho(
            f"{result.signatures} signatures of the anchor file were not checked; --public-key FILE does it",
            fg="yellow",
        )
    if result.unanchored:
        click.secho(
            f"{result.unanchored} commits are not covered by every anchor; the next run anchors them", fg="yellow"
        )
    if result.ok:
        click.secho("the evidence verifies", fg="green")


def _report_replayed(one: Replayed) -> None:
    whose = f"{one.table}, {one.model_name} version {one.model_version}"
    if one.explainer is not None:
        whose += f", {one.explainer} {one.explainer_version}"
    click.secho(f"{whose}: {one.outcome}", fg="green" if one.ok else "red")
    if one.missing is not None:
        click.echo(f"  {one.missing}")
    for difference in one.differences[:_MOST_LINES]:
        click.echo(f"  {difference}")
    if len(one.differences) > _MOST_LINES:
        click.echo(f"  and {len(one.differences) - _MOST_LINES} more; --json lists all")
    for name, what in one.conditions.items():
        click.echo(f"  not as then: {name}: {what}")
    for what in one.assumed:
        click.echo(f"  assumed: {what}")


def _indented(value: Any, depth: int) -> list[str]:
    """Nested plain values as indented `name: value` lines."""
    lines: list[str] = []
    entries = value.items() if isinstance(value, dict) else ((str(place), item) for place, item in enumerate(value))
    for name, inner in entries:
        if isinstance(inner, dict | list) and inner:
            lines += [f"{'  ' * depth}{name}:", *_indented(inner, depth + 1)]
        else:
            lines.append(f"{'  ' * depth}{name}: {inner}")
    return lines
