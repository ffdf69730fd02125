"""`compile` runs the network through torch.compile; where that cannot be, the log says so and the training goes on."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import lightning_fabric  # noqa: F401 it wraps torch.compile when it is loaded: before a test here puts another there
import pytest
import torch

from tests.detectors.small_problems import Limited, same_weights, trained
from xadflow.detectors import build_detector
from xadflow.training.checkpoints import CHECKPOINT, write_checkpoint


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "xadflow.training.compiling"]


def test_a_compiled_training_is_the_plain_one_but_for_rounding_and_resumes_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """What a kill at step 12 leaves is the checkpoint of that step, which is put aside as it is written.

    Graphs are captured as always and run by PyTorch itself: a C++ compiler would need a minute for the same answers.
    """
    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))

    def write(path: Path, identity: str, state: dict[str, object]) -> None:
        write_checkpoint(path, identity, state)
        if path.parent.name == "compiled" and state["step"] == 12:
            write_checkpoint(tmp_path / "killed" / CHECKPOINT, identity, state)

    monkeypatch.setattr("xadflow.training.loop.write_checkpoint", write)
    plain, compiled, resumed = (Limited() for _ in range(3))
    expected = trained(plain, tmp_path / "plain")
    with caplog.at_level(logging.WARNING, "xadflow.training.compiling"):
        report = trained(compiled, tmp_path / "compiled", compile=True)
    assert not warnings_of(caplog)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0  # else it was not compiled at all
    for mine, other in zip(report.history, expected.history, strict=True):
        assert mine[2] == pytest.approx(other[2], rel=1e-4)
    again = trained(resumed, tmp_path / "killed", compile=True)
    assert again.resumed_from == 12
    assert again.history == report.history
    assert same_weights(compiled, resumed)
    saved = torch.load(tmp_path / "compiled" / CHECKPOINT, weights_only=True)["module"]
    assert saved.keys() == plain.state_dict().keys()  # a checkpoint does not tell whether it was compiled


def test_without_a_compiler_the_plain_network_is_trained_and_the_log_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    import torch._inductor.config as inductor

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))  # nothing that was compiled before
    torch.compiler.reset()
    monkeypatch.setattr(inductor.cpp, "cxx", ("/nowhere/c++",))
    plain, fallen_back = Limited(), Limited()
    expected = trained(plain, tmp_path / "plain")
    with caplog.at_level(logging.WARNING, "xadflow.training.compiling"):
        report = trained(fallen_back, tmp_path / "compiled", compile=True)
    (said,) = warnings_of(caplog)
    assert "the network runs as it is" in said
    assert report.history == expected.history
    assert same_weights(plain, fallen_back)


def test_it_is_off_unless_asked_for():
    assert build_detector("hsc").settings.compile is False  # type: ignore[attr-defined]
