"""A training goes on from its checkpoint only when every byte of it is the one that was written."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from xadflow.detectors import FitRun
from xadflow.training.checkpoints import CHECKPOINT
from xadflow.training.loop import run_stage
from xadflow.training.minimising import Schedule, minimising
from xadflow.training.progress import Progress
from xadflow.training.splitting import Problem

STEPS = 20


def trained(folder, steps=STEPS):
    """Weights after training towards zero, and the step that a checkpoint gave."""
    torch.manual_seed(0)
    module = nn.Linear(400, 1)

    problem = Problem(
        lambda generator: SimpleNamespace(weights={"loss": torch.ones(2) / 2}),
        lambda network, batch, rows: network(torch.ones(2, 400)).square().sum(dim=1)[rows],
    )
    run = FitRun(folder, seed=0, false_alarm_rate=0.1, device="cpu")
    stage = minimising(module, problem, Schedule(STEPS, 1e-2, 0.0), run.seed, torch.device("cpu"))
    report = run_stage(stage, folder, "id", Progress(run, steps))
    return module.weight.detach().clone(), report.resumed_from


@pytest.mark.parametrize("place", [random.Random(0).uniform(0.1, 0.7) for _ in range(6)])
def test_one_flipped_bit_starts_the_training_over(tmp_path, place):
    whole, _ = trained(tmp_path)
    content = bytearray((tmp_path / CHECKPOINT).read_bytes())
    content[int(place * len(content))] ^= 1
    (tmp_path / CHECKPOINT).write_bytes(content)
    again, resumed_from = trained(tmp_path)
    # A bit between two records carries nothing: the checkpoint may then be continued. The weights are right either way.
    assert torch.equal(again, whole)
    assert resumed_from in (0, STEPS)


def test_a_bit_of_the_weights_is_noticed(tmp_path):
    whole, _ = trained(tmp_path)
    content = (tmp_path / CHECKPOINT).read_bytes()
    stored = whole.numpy().tobytes()
    assert stored in content
    place = content.index(stored) + len(stored) // 2
    (tmp_path / CHECKPOINT).write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    again, resumed_from = trained(tmp_path)
    assert resumed_from == 0
    assert torch.equal(again, whole)
