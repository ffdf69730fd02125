"""What many batches cost on a CPU: side by side, each on one of torch's threads, and the results those of
one by one.
"""

import threading

import pytest
import torch

from xadflow.training.lanes import portions, side_by_side

CPU, ELSEWHERE = torch.device("cpu"), torch.device("meta")


@pytest.fixture(autouse=True)
def _three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_as_many_are_at_work_as_torch_has_threads_and_each_has_one():
    together = threading.Barrier(3, timeout=20)

    def work(number: int) -> tuple[int, int]:
        together.wait()  # goes on only when three are here
        return number, torch.get_num_threads()

    assert list(side_by_side(work, range(6), CPU)) == [(number, 1) for number in range(6)]


@pytest.mark.parametrize(("most", "seen"), [(1, 1), (2, 2), (8, 3)])
def test_no_more_are_at_work_than_memory_is_for(most, seen):
    at_work, together = [0], []
    lock, full = threading.Lock(), threading.Barrier(seen, timeout=20)

    def work(number: int) -> int:
        with lock:
            at_work[0] += 1
            together.append(at_work[0])
        full.wait()  # goes on only when as many are here as may be
        with lock:
            at_work[0] -= 1
        full.wait()
        return number

    assert list(side_by_side(work, range(6), CPU, most)) == list(range(6))
    assert max(together) == seen


def test_the_caller_and_threads_begun_later_keep_their_number():
    list(side_by_side(lambda number: number, range(4), CPU))
    seen: list[int] = [torch.get_num_threads()]
    thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert seen == [3, 3]


def test_lanes_within_a_lane_do_not_multiply():
    def outer(_: int) -> set[int]:
        return {*side_by_side(lambda inner: threading.get_ident(), range(3), CPU), threading.get_ident()}

    assert [len(idents) for idents in side_by_side(outer, range(3), CPU)] == [1, 1, 1]
    assert torch.get_num_threads() == 3


def test_elsewhere_batches_go_one_by_one_in_the_callers_thread():
    here = threading.get_ident()
    assert set(side_by_side(lambda _: threading.get_ident(), range(4), ELSEWHERE)) == {here}


def test_an_error_is_raised_and_nothing_more_is_begun():
    begun: list[int] = []
    release = threading.Event()

    def work(number: int) -> int:
        begun.append(number)
        if number == 0:
            raise ValueError("this batch")
        release.wait(20)
        return number

    threading.Timer(0.2, release.set).start()
    with pytest.raises(ValueError, match="this batch"):
        list(side_by_side(work, range(50), CPU))
    assert len(begun) < 50


@pytest.mark.parametrize("count", [0, 1, 3, 7, 20, 32, 67, 100])
def test_portions_hold_every_item_once_and_are_nearly_equal(count):
    cut = portions(list(range(count)), 32, CPU)
    assert [item for portion in cut for item in portion] == list(range(count))
    sizes = [len(portion) for portion in cut]
    assert not sizes or (max(sizes) <= 32 and max(sizes) - min(sizes) <= 1 and min(sizes) > 0)
    if count >= 12:
        assert len(cut) % 3 == 0


def test_elsewhere_portions_are_as_few_as_may_be():
    assert [len(portion) for portion in portions(list(range(67)), 32, ELSEWHERE)] == [23, 22, 22]
