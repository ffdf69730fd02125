"""benchmarks/utad_table.py: what the page says of the claim of two stages."""

from benchmarks.utad_table import COMPARED, WITH_M, utad_section, verdict


def a_set(two, impression, one, own, leak=0.2, seeds=1, masks=True):
    view = {"fidelity": 0.1, "sharpness": 0.4, "leak": 0.5}
    figure = "pixel_auroc" if masks else "image_auroc"

    def training(value, default=None):
        maps = {WITH_M: {figure: [value], "image_auroc": [value], "image_auroc_knn": [0.5], "image_auroc_both": [0.6]}}
        if default is not None:
            maps = {COMPARED["two stages"]: {**maps[WITH_M], figure: [default]}, **maps}
        pictures = {name: dict(view) for name in ("m", "x_hat", "x_rec", "m_hat")}
        pictures["x_hat"] |= {"sharpness": 0.7, "leak": leak}
        return {"maps": maps, "reconstructions": pictures, "seeds": seeds, "training_s": 60.0}

    return {
        "masks": masks,
        "baselines": {"mean grey": 0.6},
        "trainings": {
            "two stages": training(own, two),
            "impression only": training(impression),
            "one stage": training(one),
        },
    }


def test_each_set_is_said_and_the_counts_are_right():
    sets = {"brick": a_set(0.9, 0.8, 0.7, 0.85), "elpv": a_set(0.6, 0.7, 0.5, 0.65, leak=0.9, masks=False)}
    said = verdict(sets)
    assert "brick (pixel AUROC) 0.900 by two stages, 0.800 by the impression only, 0.700 by one stage, 0.850 by" in said
    assert "elpv (image AUROC) 0.600" in said
    assert (
        "Best in 1 of 2 sets; the expert's picture adds to its own impression's map in 1, is sharper than it in 2"
        in said
    )
    assert "than one stage in 1. Some rows have 1 seed: this is what was seen, no claim." in said
    assert said in utad_section({"sets": sets, "missing": []})
    assert "no claim" not in verdict({"brick": a_set(0.9, 0.8, 0.7, 0.85, seeds=3)})


def test_a_set_without_all_trainings_is_not_compared():
    part = a_set(0.9, 0.8, 0.7, 0.85)
    del part["trainings"]["one stage"]
    assert verdict({"brick": part}).startswith("The claim of two stages was not compared")
