"""One decision for somebody outside: its rows, pictures and proof as a folder or .zip that needs no xadflow to be read.

The proof goes from each row to an anchor: the row's digest is among those of its commit, their digest is in the
commit's line of the ledger, from there the lines chain to the last one, and the anchors outside hold heads of that
chain. Rows are read from the data files that the ledger names, byte for byte, never around it.
"""

from __future__ import annotations

import json
import math
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from xadflow.datasets.writing import writing
from xadflow.digests import sha256_bytes, sha256_file
from xadflow.errors import AuditFailed, WrongUse
from xadflow.evidence.anchor_file import AnchorLine, examine
from xadflow.evidence.commits import LOG, Commit, entry_path, read_commit, row_digests
from xadflow.evidence.decisions import donor_name, pictures_of, safe_name
from xadflow.evidence.ledger import LedgerHead, LedgerLine
from xadflow.evidence.store import EvidenceStore
from xadflow.evidence.tables import BY_NAME, rows_digest
from xadflow.evidence.transplants import donor_files, said
from xadflow.settings import Home

SUMS, ZIP = "SHA256SUMS", ".zip"
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # equal decisions give equal bytes
_README = """\
One decision of xadflow: image {image_id}
{count} rows, {pictures} pictures.

rows.json          every row: its table, its digest, the number of its line in the ledger, its columns. A picture is a file
                   of this folder with its sha256. NaN, Infinity and -Infinity are written as texts. `said` tells in words
                   whose pixels fill a counterfactual, and what other detectors say of it.
pictures/          those files: what the detector saw (original), the heatmap, the counterfactuals. Heatmaps are 8 bit:
                   heatmap_min and heatmap_max of the row give the raw values back.
lineage.json       what each explanation follows from: commit, data, model version, sha256 of its weights, libraries, batch.
                   It is the column `lineage` of rows.json, told again for reading, and not under any digest itself.
commits.json       for each commit of the tables that holds a row: the digests of all its rows.
ledger.jsonl       the ledger from the first of these commits to its last line, one commit a line.
anchors.json       heads of the ledger that were held outside of it when this was written{filed}.
{donors}SHA256SUMS         sha256 of each file here.

How to check it
1. The files are as written:        sha256sum -c SHA256SUMS
   That finds accidents. What follows finds a change that was made with care.
2. A row is in its commit:          its row_digest is in the list `row_digests` of its commit in commits.json. To form the
   digest of a row from its columns, see digests.py and tables.py of xadflow: sha256 over an encoding of every column
   except run_id, created_at and row_digest, each value with its type and length, floats as their eight bytes, pictures as
   their PNG bytes; a null `judges` or `donor_id` of a counterfactual is left out. So the columns of rows.json are proved,
   `lineage` among them; lineage.json and `said` are not: rely on what the columns say where they differ.
3. The commit is in the ledger:     `rows_digest` of its line is the digest, encoded alike, of its sorted row digests.
4. The ledger is one chain:         `previous` of each line is the sha256 of the line before it, without its newline.
5. An anchor holds the chain:       an anchor's `digest` is the sha256 of the line with the number `seq`. Compare it with
   the anchor itself, wherever it is kept; anchors.json is a copy.

The same with xadflow, where the tables are: `xadflow audit verify`. To form the rows anew from the registered model:
`xadflow audit replay {short}`.
"""  # noqa: E501
_DONORS = """\
donors/            the images that counterfactuals took pixels from, each named by its image_id, which is the sha256 of its
                   bytes.
"""  # noqa: E501
_FILED = """;
                   anchor-file.jsonl holds the lines of the anchor file, with their signatures"""


@dataclass(frozen=True)
class Exported:
    """Where a decision was written, what it holds, and the anchors whose head comes after all of its rows."""

    path: Path
    rows: int
    pictures: int
    lines: int
    anchors: tuple[str, ...]


@dataclass(frozen=True)
class _Covered:
    """A row of the image with the ledger line of its commit."""

    line: LedgerLine
    row: Mapping[str, Any]
    digest: str


def export(
    store: EvidenceStore,
    image_id: str,
    destination: Path,
    anchored_head: LedgerHead | None,
    anchor_file: Path | None = None,
    *,
    home: Home | None = None,
    with_donors: bool = False,
) -> Exported:
    """Write one decision to `destination`, which must not be there yet: a .zip if it is named so, else a folder.

    Args:
        anchored_head: the head that MLflow holds, None without one.
        anchor_file: its lines from the decision's first commit on are copied.
        home: where the data sets are; donors are then named by their path too.
        with_donors: the files of donors are copied as they are, where they are still there and unchanged.

    Raises:
        WrongUse: the destination is there already.
        AuditFailed: a row is not what the ledger says was written.
        StoreBroken: there are no tables yet, they cannot be read, or the ledger is not whole.
        CannotWrite: no room, or no right to write there.
    """
    with store.exclusive(reading=True):
        lines = store.ledger.lines()
        covered, commits = _covered(store, image_id, lines)
    first = min((one.line.seq for one in covered), default=len(lines) + 1)
    last = max((one.line.seq for one in covered), default=0)
    files: dict[str, bytes] = {}
    donors = donor_files(home, [one.row for one in covered], checked=with_donors) if home is not None else {}
    paths = {one: name for one, (name, _) in donors.items()}
    rows = [_row(files, number, one, paths) for number, one in enumerate(covered)]
    if with_donors:
        files |= {f"donors/{donor_name(one, name)}": file.read_bytes() for one, (name, file) in donors.items()}
    pictures = len(files)
    heads = [line.head for line in lines]
    anchors, filed = {"MLflow": anchored_head}, b""
    if anchor_file is not None:
        anchors["anchor file"], filed = examine(anchor_file, heads, None).head, _anchor_lines(anchor_file, first)
    files["rows.json"] = _json(rows)
    files["lineage.json"] = _json(
        [
            {"explainer": one.row["explainer"], "row_digest": one.digest, "lineage": _parsed(one.row["lineage"])}
            for one in covered
            if "lineage" in one.row
        ]
    )
    files["commits.json"] = _json(commits)
    files["ledger.jsonl"] = b"".join(line.encode() + b"\n" for line in lines if line.seq >= first)
    files["anchors.json"] = _json({name: asdict(head) if head else None for name, head in anchors.items()})
    if filed:
        files["anchor-file.jsonl"] = filed
    files["README.txt"] = _README.format(
        image_id=image_id,
        count=len(rows),
        pictures=pictures,
        short=image_id[:12],
        filed=_FILED if filed else "",
        donors=_DONORS if with_donors and donors else "",
    ).encode()
    files[SUMS] = "".join(f"{sha256_bytes(content)}  {name}\n" for name, content in sorted(files.items())).encode()
    _write(destination, files)
    holding = tuple(name for name, head in anchors.items() if head in heads and head is not None and head.seq >= last)
    return Exported(destination, len(rows), pictures, len(lines) + 1 - first, holding)


def _covered(
    store: EvidenceStore, image_id: str, lines: Sequence[LedgerLine]
) -> tuple[list[_Covered], list[dict[str, Any]]]:
    """Rows of an image by way of the ledger, and the commits that hold them with all their row digests."""
    found: list[_Covered] = []
    commits: list[dict[str, Any]] = []
    for name in BY_NAME:
        days = store.read(name, ["run_date"], where=pc.field("image_id") == image_id)["run_date"].to_pylist()
        before = len(found)
        for line in [one for one in lines if one.table == name and _touches(one, set(days))]:
            if not _may_hold(store.folder(name), line, image_id):
                continue
            each = list(row_digests(store.folder(name), _checked(store.folder(name), line)))
            digests = sorted(digest for _, digest in each)
            if rows_digest(digests) != line.rows_digest:
                raise _not_as_written(line, "its rows have another digest")
            mine = [_Covered(line, row, digest) for row, digest in each if row["image_id"] == image_id]
            if odd := [one for one in mine if one.row.get("row_digest", one.digest) != one.digest]:
                raise _not_as_written(line, f"row_digest {str(odd[0].row['row_digest'])[:16]} is not that of its row")
            found += mine
            commits.append(
                {
                    "ledger_line": line.seq,
                    "table": name,
                    "version": line.version,
                    "rows_digest": line.rows_digest,
                    "row_digests": digests,
                }
            )
        if len(found) - before != len(days):
            raise AuditFailed(
                f"the ledger does not cover every row of this image in {name}",
                seen=f"{len(days)} rows, {len(found) - before} of them covered",
                next_step="run `xadflow audit verify`",
            )
    return found, commits


def _touches(line: LedgerLine, days: set[date]) -> bool:
    return any(path.startswith(f"run_date={day.isoformat()}/") for day in days for path in line.files)


def _checked(folder: Path, line: LedgerLine) -> Commit:
    """The commit of a line, its files seen to be the bytes that the line names."""
    for path, digest in {
        **line.files,
        entry_path(folder, line.version).relative_to(folder).as_posix(): line.log_entry,
    }.items():
        file = folder / path
        if file.is_symlink() or not file.is_file() or sha256_file(file) != digest:
            raise _not_as_written(line, f"{path} is gone or changed")
    return read_commit(folder, line.version)


def _may_hold(folder: Path, line: LedgerLine, image_id: str) -> bool:
    """Whether a commit has rows of an image, by a look at one column: other commits of the day are not read
    as a whole.
    """
    try:
        each = [
            pq.read_table(folder / path, columns=["image_id"], partitioning=None)["image_id"]
            for path in line.files
            if not path.startswith(f"{LOG}/")
        ]
    except (OSError, pa.ArrowException):
        return True  # what is wrong with it is said by the check that follows
    return any(pc.any(pc.equal(ids, pa.scalar(image_id))).as_py() for ids in each)


def _not_as_written(line: LedgerLine, what: str) -> AuditFailed:
    return AuditFailed(
        f"commit {line.version} of {line.table} is not what ledger line {line.seq} says was written",
        seen=what,
        next_step="run `xadflow audit verify`; what does not verify is not handed out",
    )


def _row(files: dict[str, bytes], number: int, one: _Covered, paths: Mapping[str, str]) -> dict[str, Any]:
    """A row without pictures, which go to `files`; `paths` of donors by image_id."""
    names: dict[int, str] = {}
    whose = safe_name(f"{number:02d}-{one.row.get('explainer', '')}")
    for stem, picture in pictures_of(one.row) if "explainer" in one.row else ():
        if picture is not None and picture["bytes"] is not None:
            name = f"pictures/{whose}/{safe_name(stem)}.png"
            files[name] = picture["bytes"]
            names[id(picture)] = name
    words = {"said": told} if (told := said(one.row, paths)) else {}
    return {
        "table": one.line.table,
        "ledger_line": one.line.seq,
        "row_digest": one.digest,
        **words,
        "columns": {key: _told(value, names, files) for key, value in one.row.items()},
    }


def _told(value: Any, names: Mapping[int, str], files: Mapping[str, bytes]) -> Any:
    if isinstance(value, dict) and set(value) == {"bytes", "path"}:
        name = names.get(id(value))
        return None if name is None else {"file": name, "sha256": sha256_bytes(files[name]), "path": value["path"]}
    if isinstance(value, dict):
        return {key: _told(inner, names, files) for key, inner in value.items()}
    if isinstance(value, list):
        return [_told(inner, names, files) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value if value is None or isinstance(value, bool | int | float | str) else value.isoformat()


def _parsed(lineage: str) -> Any:
    try:
        return json.loads(lineage)
    except ValueError:
        return lineage


def _anchor_lines(path: Path | None, first: int) -> bytes:
    """Lines of an anchor file that hold a head from line `first` of the ledger on, as they are."""
    if path is None or not path.is_file():
        return b""
    return b"".join(raw + b"\n" for raw in path.read_bytes().split(b"\n") if _seq(raw) >= first)


def _seq(raw: bytes) -> int:
    try:
        return AnchorLine.decode(raw).seq
    except ValueError:
        return -1


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def _write(destination: Path, files: Mapping[str, bytes]) -> None:
    """All files or none. What is there already, a link included, is never written to."""
    with writing("the decision"):
        try:
            if destination.suffix.lower() == ZIP:
                _zip(destination, files)
            else:
                _fill(destination, files)
        except (FileExistsError, NotADirectoryError) as err:
            raise WrongUse(
                "what is there already is not overwritten",
                seen=destination.name,
                next_step="name another folder or .zip by --to, or remove that one",
            ) from err


def _fill(destination: Path, files: Mapping[str, bytes]) -> None:
    destination.mkdir(parents=True)
    try:
        for name, content in files.items():
            path = destination / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    except BaseException:
        shutil.rmtree(destination, ignore_errors=True)
        raise


def _zip(destination: Path, files: Mapping[str, bytes]) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    with destination.open("xb") as stream:
        try:
            with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, content in files.items():
                    archive.writestr(
                        zipfile.ZipInfo(f"{destination.stem}/{name}", _ZIP_TIME), content, zipfile.ZIP_DEFLATED
                    )
        except BaseException:
            destination.unlink(missing_ok=True)
            raise
