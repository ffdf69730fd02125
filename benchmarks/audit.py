"""What it costs to verify the evidence, and to add to it as it grows: `python -m benchmarks.audit [--quick]`.

Rows are generated, pictures are drawn (smooth noise, 128 px grey, sizes like those of the real ELPV rows) and encoded
by the project's own code. A shard is 100 images, half of them anomalous with two explainers: 100 score rows and 100
explanation rows, one commit each; 500 shards make 100,000 rows. Each head goes to a signed anchor file; the head in
memory stands for MLflow's. Then:

1. one more shard is published without any anchor, and `verify(since_anchor=True)` reads just that;
2. `verify` reads everything, once in as many processes as there are cores, once in one.

Both compare every ledger line, every signature, every log entry, every file's presence and size, and every key. All
files were just written, so they are in the file cache: a cold disk adds the time to read the bytes.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.ndimage import gaussian_filter

from benchmarks.study import Study
from xadflow.digests import sha256_bytes
from xadflow.evidence.anchor_file import AnchorFile
from xadflow.evidence.signing import load_public_key, load_signing_key
from xadflow.evidence.store import EvidenceStore, shard_app
from xadflow.evidence.tables import EXPLANATIONS, SCHEMA_VERSION, SCORES
from xadflow.evidence.verify import AuditResult, verify
from xadflow.images import encode_png

SHARDS, SHARDS_QUICK = 500, 30
IMAGES = 100  # of a shard
MODEL, VERSION, SEED, SIDE = "xad.generated.fcdd", 1, 0, 128
TARGET_S = 60.0
CYCLE = 100  # commits between two checkpoints of Delta Lake: opening a table reads every log entry after the last one
AROUND = 10  # commits that one figure of the cost of a publish is the median of
Cost = tuple[float, float]  # seconds on the clock, and of all this process's threads together


def main() -> None:
    """Build the store, verify it, print a table and write benchmarks/results/audit.json."""
    study = Study("audit")
    shards = SHARDS_QUICK if study.start(__doc__, f"{SHARDS_QUICK} shards instead of {SHARDS}").quick else SHARDS
    folder = Path.cwd() / "var" / "bench-audit"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    private, public = _key_pair(folder)
    file = AnchorFile(folder / "heads.jsonl", load_signing_key(private))
    store = EvidenceStore(folder / "tables", folder / "ledger", anchor=file.append, anchored=lambda: [file.head()])
    generator = _Generator()
    store.prepare()
    costs: dict[str, list[Cost]] = {"explanations": [], "scores": []}
    for number in range(shards):
        _publish(store, generator, number, costs)
        if (number + 1) % 50 == 0:
            study.note(f"{(number + 1) * 2 * IMAGES:>7} rows written")
    head = store.ledger.head()
    outside: dict[str, Any] = {"anchor_file": folder / "heads.jsonl", "public_key": load_public_key(public)}
    _publish(EvidenceStore(store.tables, store.ledger.folder), generator, shards, {"explanations": [], "scores": []})
    quick = _checked(verify(store, head, since_anchor=True, **outside), 2 * IMAGES)
    full = _checked(verify(store, head, workers=os.cpu_count(), **outside), (shards + 1) * 2 * IMAGES)
    alone = _checked(verify(store, head, workers=1, **outside), (shards + 1) * 2 * IMAGES)
    figures = _figures(store, generator, costs, {"since_anchor": quick, "full": full, "full_one_process": alone})
    study.write(figures, [SEED])
    shutil.rmtree(folder)


class _Generator:
    """Rows like those of a night, from one seed."""

    def __init__(self) -> None:
        self.dice = np.random.default_rng(SEED)
        self.originals = [self._picture(8.0, 0.4) for _ in range(400)]
        self.altered = [self._picture(8.0, 0.4) for _ in range(400)]
        self.heatmaps = [self._picture(20.0, 0.0) for _ in range(400)]

    def _picture(self, blur: float, noise: float) -> bytes:
        smooth = gaussian_filter(self.dice.normal(size=(SIDE, SIDE)), blur)
        noisy = 120 + 40 * smooth / smooth.std() + self.dice.normal(scale=noise, size=(SIDE, SIDE))
        return encode_png(np.clip(noisy, 0, 255).astype(np.uint8))

    def shard(self, number: int) -> tuple[pa.Table, pa.Table]:
        """Scores and explanations of one shard; no picture twice in it."""
        day = date(2026, 1, 1) + timedelta(days=number // 10)  # a night has ten shards
        made = datetime(day.year, day.month, day.day, 1, number % 60, tzinfo=UTC)
        scores = [self._score(number * IMAGES + place, day, made, place % 2 == 0) for place in range(IMAGES)]
        chosen = self.dice.permutation(400)
        explanations = [
            self._explanation(row, explainer, chosen[2 * place + second])
            for place, row in enumerate(scores[::2])
            for second, explainer in enumerate(("heatmap", "sparse"))
        ]
        schema = pa.schema([field for field in EXPLANATIONS if field.name != "row_digest"])
        return pa.Table.from_pylist(scores, schema=SCORES), pa.Table.from_pylist(explanations, schema=schema)

    def _score(self, number: int, day: date, made: datetime, anomalous: bool) -> dict[str, Any]:
        score = float(self.dice.normal(9.0 if anomalous else 4.0, 0.5))
        return {
            "schema_version": SCHEMA_VERSION,
            "run_date": day,
            "run_id": f"run of {day}",
            "dataset": "generated",
            "image_id": sha256_bytes(f"image {number}".encode()),
            "image_path": f"generated/images/{number:08d}.png",
            "detector": "fcdd",
            "model_name": MODEL,
            "model_version": VERSION,
            "score": score,
            "threshold": 6.5,
            "p_value": float(self.dice.uniform()),
            "is_anomaly": anomalous,
            "created_at": made,
        }

    def _explanation(self, scored: dict[str, Any], explainer: str, which: int) -> dict[str, Any]:
        sparse = explainer == "sparse"
        figures = self.dice.uniform(size=20).tolist()
        return {
            **scored,
            "explainer": explainer,
            "explainer_version": "1-0a1b2c3d",
            "seed": SEED,
            "heatmap": {"bytes": self.heatmaps[which], "path": None},
            "heatmap_min": figures[0],
            "heatmap_max": 9.0 + figures[1],
            "original": {"bytes": self.originals[which], "path": None},
            "counterfactuals": [
                {
                    "concept": 0,
                    "image": {"bytes": self.altered[which], "path": None},
                    "score": figures[2],
                    "p_value": figures[3],
                    "is_normal": True,
                    "l1": figures[4],
                    "l2": figures[5],
                    "changed_fraction": figures[6],
                }
            ]
            if sparse
            else [],
            "images": [],
            "metrics": [{"name": f"metric_{n:02d}", "value": figures[n]} for n in range(11 if sparse else 8)],
            "lineage": json.dumps({"commit": "0" * 40, "weights": "f" * 64, "seed": SEED, "text": "x" * 620}),
        }


def _publish(store: EvidenceStore, generator: _Generator, number: int, costs: dict[str, list[Cost]]) -> None:
    scores, explanations = generator.shard(number)
    ids = scores["image_id"].to_pylist()
    for table, rows in (("explanations", explanations), ("scores", scores)):
        started, used = time.perf_counter(), time.process_time()
        published = store.publish(table, rows, app=shard_app(table, "generated", MODEL, VERSION, "both", ids))
        costs[table].append((time.perf_counter() - started, time.process_time() - used))
        if published.rows != rows.num_rows:
            sys.exit(f"{published.rows} rows were added to {table}, not {rows.num_rows}")


def _checked(result: AuditResult, rows: int) -> AuditResult:
    if not result.ok or result.rows != rows:
        sys.exit(f"{result.rows} rows were verified, not {rows}; problems: {[str(one) for one in result.problems[:5]]}")
    print(f"verified {rows} rows of {result.commits} commits in {result.seconds:.1f} s", flush=True)
    return result


def _key_pair(folder: Path) -> tuple[Path, Path]:
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key, private, public = Ed25519PrivateKey.generate(), folder / "signing.pem", folder / "signing.pub.pem"
    private.touch(mode=0o600)
    private.write_bytes(key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo))
    return private, public


def _figures(
    store: EvidenceStore, generator: _Generator, costs: dict[str, list[Cost]], audits: dict[str, AuditResult]
) -> dict[str, Any]:
    rows = {name: store.read(name, columns=["image_id"]).num_rows for name in costs}
    return {
        "rows": sum(rows.values()),
        "rows_by_table": rows,
        "commits": audits["full"].commits,
        "bytes_by_table": {
            name: sum(path.stat().st_size for path in store.folder(name).rglob("*.parquet")) for name in rows
        },
        "ledger_bytes": store.ledger.path.stat().st_size,
        "png_bytes_median": {
            name: int(median(map(len, pictures)))
            for name, pictures in (
                ("original", generator.originals),
                ("counterfactual", generator.altered),
                ("heatmap", generator.heatmaps),
            )
        },
        "load_average": os.getloadavg()[1],
        "picture_px": SIDE,
        "processes": os.cpu_count(),
        "target_since_anchor_seconds": TARGET_S,
        "audits": {
            name: {
                "seconds": one.seconds,
                "rows_recomputed": one.rows,
                "bytes_recomputed": one.bytes,
                "rows_per_second": one.rows / one.seconds,
            }
            for name, one in audits.items()
        },
        "publish_seconds": {
            name: [_around(each, commit) for commit in _places(len(each))] for name, each in costs.items()
        },
        "publish_rows": IMAGES,
        "publish_commits": len(costs["scores"]),
    }


def _places(commits: int) -> list[int]:
    """Commit 10, the last full window, and the like of each in the first and last cycle of checkpoints."""
    last = commits - AROUND // 2
    return sorted({AROUND, AROUND + CYCLE * ((last - AROUND) // CYCLE), last % CYCLE, last})


def _around(costs: list[Cost], commit: int) -> dict[str, float]:
    near = costs[commit - AROUND // 2 : commit + AROUND // 2]
    return {
        "commit": commit,
        "seconds": median(cost[0] for cost in near),
        "cpu_seconds": median(cost[1] for cost in near),
    }


if __name__ == "__main__":
    main()
