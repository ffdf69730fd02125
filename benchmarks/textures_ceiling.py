"""How far the textures' defects can be seen at all: `python -m benchmarks.textures_ceiling`.

The rows of benchmarks/textures.py know nothing, or five masks, of the defects that they are tested on. Here the same
network is trained on several hundred defects of the test's own generator with their masks, drawn on the train band:
supervised segmentation by the loss of FCDD. What it leaves is not a matter of anomaly detection but of the picture. It
is no detector that anyone could have, and no row of the comparison.
"""

from __future__ import annotations

from benchmarks import textures
from benchmarks.study import Study

STUDY, MASKS = Study("textures-ceiling"), 400
SUPERVISED = {**textures.CONV, "anomalies": ("known",), "min_steps": 600}


def main() -> None:
    """Train on each texture and write benchmarks/results/textures-ceiling.json."""
    given = STUDY.start(__doc__, "brick alone", masks={"type": int, "default": MASKS, "help": "it learns from"})
    row = textures.Row("ceiling", "fcdd_conv", SUPERVISED, known=True)
    found = {}
    for name in textures.TEXTURES[: 1 if given.quick else None]:
        texture = textures.texture_of(name, textures.MIDDLE, known=given.masks)
        measured = textures.measured(texture, textures.score_of(row, texture, 0))
        found[name] = {key: float(measured[key]) for key in ("image_auroc", "pixel_auroc", "aupro")}
        STUDY.note(f"{name:<7} {found[name]}")
    figures = {"rung": textures.MIDDLE, "masks": given.masks, "steps": SUPERVISED["min_steps"], "textures": found}
    STUDY.write(figures, [0])


if __name__ == "__main__":
    main()
