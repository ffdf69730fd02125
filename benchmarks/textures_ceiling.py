"""How far the textures' defects can be seen at all: `python -m benchmarks.textures_ceiling`.

The rows of benchmarks/textures.py know nothing, or five masks, of the defects that they are tested on. Here the same
network is trained on several hundred defects of the test's own generator with their masks, drawn on the train band:
supervised segmentation by the loss of FCDD. What it leaves is not a matter of anomaly detection but of the picture. It
is no detector that anyone could have, and no row of the comparison.
"""

from __future__ import annotations

import argparse
import time

from benchmarks import textures
from benchmarks.results import write_results

MASKS = 400
SUPERVISED = {**textures.CONV, "anomalies": ("known",), "min_steps": 600}


def main() -> None:
    """Train on each texture and write benchmarks/results/textures-ceiling.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--masks", type=int, default=MASKS, help=f"how many masks it learns from; default {MASKS}")
    masks = parser.parse_args().masks
    started = time.perf_counter()
    row = textures.Row("ceiling", "fcdd_conv", SUPERVISED, known=True)
    found = {}
    for name in textures.TEXTURES:
        texture = textures.texture_of(name, textures.MIDDLE, known=masks)
        measured = textures.measured(texture, textures.score_of(row, texture, 0))
        found[name] = {key: float(measured[key]) for key in ("image_auroc", "pixel_auroc", "aupro")}
        print(f"{time.perf_counter() - started:5.0f} s  {name:<7} {found[name]}", flush=True)
    figures = {"rung": textures.MIDDLE, "masks": masks, "steps": SUPERVISED["min_steps"], "textures": found}
    write_results("textures-ceiling", figures, seeds=[0], seconds=time.perf_counter() - started)


if __name__ == "__main__":
    main()
