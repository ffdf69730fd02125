"""Folders that real teams have, through every command: `python -m benchmarks.cases --scripts FOLDER [--only WORD ...]`.

FOLDER is that of scripts that draw them (make_screws.py and the others): textures of scikit-image with painted
defects. Each folder goes through `data add`, `retrain`, `explain`, `score` and `audit show` of a small project of its
own, as a new user types them. The page says what each command answered: its status and its own line, never a judgement.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.kit.commands import command, explained_image
from benchmarks.results import write_results
from benchmarks.small_project import make_project
from benchmarks.study import Study

STUDY = Study("cases", own=("cases.py",))
LIMIT = 1800  # seconds a command
NAME = "parts"


@dataclass(frozen=True)
class Case:
    """A folder: where the scripts put it, what is odd about it, and what a user does beside the five commands.

    `changes` are made to params.yaml first, as a message asks for; `options` go to `data add`; `inbox` is a folder of
    one night.
    """

    folder: str
    holds: str
    changes: Mapping[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    inbox: str = ""


CASES = (
    Case("screws", "the plain case: 96 px, two kinds of defects, masks"),
    Case("rgb", "the same in colour"),
    Case("variants/no-defects", "no defects yet"),
    Case("variants/no-test", "no test folder"),
    Case("variants/few", "5 normals, 3 defects"),
    Case("variants/only-anomalies", "no normal image in test"),
    Case("variants/deep12", "12-bit values in 16-bit files, masks of 16 bit with 0 and 1"),
    Case("variants/deep12-nomask", "12-bit values in 16-bit files, no masks"),
    Case("variants/jpeg-masks", "masks stored as JPEG"),
    Case("variants/mask01", "masks of 0 and 1"),
    Case("variants/mask-names", "masks of six namings"),
    Case("variants/names", "odd file names, folders in folders"),
    Case("phone", "half of the photos stored turned, with EXIF orientation"),
    Case("screws", "a camera's inbox: half a file, copies, links, odd formats, a lens cap", inbox="inbox"),
    Case("hires", "2400 x 1600 px, chips of 10 px"),
    Case("scanner", "strips of 24,000 x 512 px, spots of 12 px"),
)


def main() -> None:
    """Draw the folders, run the commands, write benchmarks/results/cases.json after each folder."""
    given = STUDY.start(
        __doc__,
        "the plain case alone",
        "only",
        scripts={"type": Path, "required": True, "help": "folder of the scripts that draw the folders"},
    )
    place = STUDY.place
    cases = [case for case in CASES if not given.only or any(word in said(case) for word in given.only)]
    path = place / "rows.json"
    rows: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    for case in cases[:1] if given.quick else cases:
        draw(given.scripts, place, case)
        rows[said(case)] = {"case": asdict(case), "commands": list(tried(place, case))}
        path.write_text(json.dumps(rows))
        STUDY.note(f"{said(case)}: {[one['status'] for one in rows[said(case)]['commands']]}")
        measured = {"cases": [rows[said(one)] for one in CASES if said(one) in rows]}
        write_results(STUDY.name, measured, seeds=[0], seconds=STUDY.seconds, quick=given.quick)


def said(case: Case) -> str:
    """Its name on the page."""
    return f"{case.folder}, {case.inbox}" if case.inbox else case.folder


def draw(scripts: Path, place: Path, case: Case) -> None:
    """The folders of a case, where they are not there yet."""
    for folder, script, *args in (
        ("screws", "make_screws.py"),
        ("rgb", "make_screws.py", "60", "30", "rgb"),
        ("variants", "make_variants.py", "screws"),
        ("phone", "make_phone.py"),
        ("inbox", "make_inbox.py", "", "screws"),
        ("hires", "make_hires.py"),
        ("scanner", "make_scanner.py"),
    ):
        wanted = {"screws", case.folder.split("/")[0], case.inbox}
        if folder in wanted and not (place / folder).exists():
            place.mkdir(parents=True, exist_ok=True)
            if script == "make_variants.py":
                order = [args[0], folder]
            else:
                order = [folder, *filter(None, args)]
            subprocess.run([sys.executable, str(scripts.resolve() / script), *order], cwd=place, check=True)


def tried(place: Path, case: Case) -> Iterator[dict[str, Any]]:
    """What each command of a new user answered."""
    project = place / "project"
    shutil.rmtree(project, ignore_errors=True)
    make_project(project, case.changes)
    folder = place / case.folder
    night = ("--inbox", str(place / case.inbox), "--only-inbox") if case.inbox else ()
    added = command(project, "data", "add", NAME, str(folder), *case.options)
    yield added
    if added["status"]:
        return  # a new user reads the message first
    yield command(project, "retrain", "--dataset", NAME)
    promoted = command(project, "models", "list")
    if "champion" not in promoted["text"]:
        yield command(project, "models", "promote", f"xad.{NAME}.fcdd", "1")
    yield command(project, "explain", "--dataset", NAME, *night)
    tests = folder / "test" if (folder / "test").is_dir() else folder
    image = next(iter(sorted(path for path in tests.rglob("*") if path.suffix.lower() in (".png", ".jpg"))), folder)
    yield command(project, "score", str(image), "--model", f"xad.{NAME}.fcdd@champion")
    yield command(project, "audit", "show", explained_image(project))


if __name__ == "__main__":
    main()
