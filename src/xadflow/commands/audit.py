"""`xadflow audit verify|show`: check the evidence, and look at what is known of one image."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xadflow.errors import AuditFailed

if TYPE_CHECKING:
    from xadflow.audit import AuditResult
    from xadflow.evidence.ledger import LedgerHead
    from xadflow.settings import Home

_MOST_LINES = 100


@click.group()
def audit() -> None:
    """Verify the evidence tables, or show what is known of one image."""


@audit.command()
@click.option("--since-anchor", is_flag=True,
              help="Read only data files of commits after the head that MLflow holds; of older ones check presence, "
              "size, order and log entry.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def verify(since_anchor: bool, as_json: bool) -> None:
    """Recompute everything that the ledger attests and compare; exit status 1 if anything differs."""
    from xadflow import audit as auditing
    from xadflow.progress import progress_board, track
    from xadflow.settings import Home
    from xadflow.store import EvidenceStore

    home = Home.find()
    with progress_board(), track("verify") as update:
        result = auditing.verify(
            EvidenceStore(home.tables, home.ledger), _anchored_head(home), since_anchor,
            lambda done, total: update(done, total, {}),
        )  # fmt: skip
    if as_json:
        click.echo(json.dumps({**asdict(result), "ok": result.ok}, sort_keys=True))
    else:
        _report(result)
    if not result.ok:
        raise AuditFailed("the evidence does not verify", seen=f"{len(result.problems)} problems",
                          next_step="keep var/tables and var/ledger as they are; compare with a backup")  # fmt: skip


@audit.command()
@click.argument("image_id")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a row.")
@click.option("--images", type=click.Path(path_type=Path, file_okay=False), help="Also write its pictures as PNG here.")
def show(image_id: str, as_json: bool, images: Path | None) -> None:
    """Every row of one image; IMAGE_ID may be shortened to its first 6 digits or more."""
    from xadflow.evidence import decisions
    from xadflow.settings import Home
    from xadflow.store import EvidenceStore

    home = Home.find()
    store = EvidenceStore(home.tables, home.ledger)
    image_id = decisions.find_image(store, image_id)
    for row in decisions.show(store, image_id):
        if as_json:
            click.echo(json.dumps(row, sort_keys=True))
        else:
            click.echo(f"{row.pop('table')}")
            click.echo("\n".join(_indented(row, 1)))
    if images is not None:
        written = decisions.export_images(store, image_id, images)
        click.echo(f"{len(written)} pictures in {images}", err=as_json)


def _anchored_head(home: Home) -> LedgerHead | None:
    from xadflow.evidence.ledger import LedgerHead
    from xadflow.registry import Registry

    head = Registry(home.mlflow_uri, home.mlflow_artifacts).anchored_head()
    return None if head is None else LedgerHead(int(head["seq"]), str(head["digest"]))


def _report(result: AuditResult) -> None:
    for problem in result.problems[:_MOST_LINES]:
        click.secho(str(problem), fg="red")
    if len(result.problems) > _MOST_LINES:
        click.echo(f"and {len(result.problems) - _MOST_LINES} more; --json lists all")
    head = "no ledger" if result.head is None else f"head {result.head.seq} {result.head.digest[:12]}"
    click.echo(f"{result.commits} commits, {result.rows} rows recomputed in {result.seconds:.1f} s; {head}")
    if result.unanchored:
        click.secho(f"{result.unanchored} commits are not covered by the anchor in MLflow; the next run anchors them",
                    fg="yellow")  # fmt: skip
    if result.ok:
        click.secho("the evidence verifies", fg="green")


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
