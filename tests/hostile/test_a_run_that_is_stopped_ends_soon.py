"""SIGTERM or Ctrl-C in mid-training: over at the next step, the slot free, and the person told how to go on."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from test_every_failure_in_a_flow_is_one_line import RETRAIN, ask, works  # noqa: F401 the fixture is used

from tasks import slots, training
from xadflow import stopping

pytestmark = [pytest.mark.slow, pytest.mark.server]


@pytest.fixture(autouse=True)
def _survives() -> Iterator[None]:
    """Were the signal handed on to what was there before, it would end pytest."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in stopping.SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    stopping._request.forget()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_training_ends_at_its_next_step(works, capsys, monkeypatch, number: signal.Signals) -> None:  # noqa: F811
    steps, began = [0], threading.Event()

    def train(project: Any, order: Any, update: Any) -> None:
        for step in range(10_000):
            time.sleep(0.01)
            steps[0] = step
            if step == 10:
                began.set()
            update(step, 10_000, {})

    monkeypatch.setattr(training, "slot", slots.slot)
    monkeypatch.setattr(training, "train_detector", train)

    def send() -> None:
        began.wait(60)
        os.kill(os.getpid(), number)

    threading.Thread(target=send).start()
    started = time.monotonic()
    status, said = ask(RETRAIN, capsys)
    assert began.is_set()
    assert status == 128 + number
    assert said[-1] == "stopped; run the same command again to go on where it was"
    assert steps[0] < 1_000
    assert time.monotonic() - started < 60
    with get_client(sync_client=True) as client:
        assert client.read_global_concurrency_limit_by_name(slots.GPU).active_slots == 0
    assert list(slots._holders().iterdir()) == []
