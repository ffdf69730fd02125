"""The figures of a trained explainer as the demo prints them: what was measured, and what was not."""

from flows.demo import _say_generator

MEASURED = {
    "fit.seconds": 201.4,
    "gate.share_normal": 0.9,
    "gate.share_normal_of.0": 0.95,
    "gate.share_normal_of.1": 0.9,
    "gate.frechet": 45.25,
    "gate.likeness": 0.31,
    "gate.apart": 0.02,
    "gate.change_of_normals": 0.4,
    "gate.anomalies": 120.0,
    "gate.normals": 100.0,
    "score": 3.0,
}


def test_every_measure_is_said_with_its_concept_and_its_unit(capsys) -> None:
    _say_generator("diverse", MEASURED)
    said = capsys.readouterr().out
    assert "diverse, on the gate split (120 anomalies, 100 normals), trained in 201 s" in said
    for words in (
        "0: 0.950, 1: 0.900",
        "45.2 % of that of the anomalies",
        "0.31 (cosine)",
        "0.02 mean difference",
        "0.4 of that of the anomalies",
        "no other detector of this data set is in service",
    ):
        assert words in said
    _say_generator("diverse", {**MEASURED, "gate.share_normal_by.hsc": 0.75})
    assert "hsc: 0.750" in capsys.readouterr().out


def test_what_was_not_measured_is_left_out(capsys) -> None:
    _say_generator("diverse", {"gate.anomalies": 0.0})
    said = capsys.readouterr().out
    assert "0 anomalies" in said
    assert "cosine" not in said
