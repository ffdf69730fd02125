"""What `xadflow score` and the nightly work read: any path that somebody names, or that was swapped since it was
checked.
"""

import os
from pathlib import Path

import pytest

from xadflow.errors import BadImage
from xadflow.images import ImageLimits, load_input, read_file


def test_a_plain_file_is_read_whole(tmp_path: Path, png) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    assert read_file(tmp_path / "a.png") == png(1)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(BadImage, match=r"not a plain file; got 'pipe\.png'"):
        read_file(tmp_path / "pipe.png")


def test_a_device_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (Path("/dev/zero"), tmp_path):
        with pytest.raises(BadImage, match="not a plain file"):
            read_file(path)


def test_a_file_over_the_limit_is_refused_by_its_size_alone(tmp_path: Path) -> None:
    with (tmp_path / "large.png").open("wb") as stream:
        stream.truncate(10**12)  # a hole: nobody has the memory to read it
    with pytest.raises(BadImage, match="too large; got '1000000000000 bytes'"):
        read_file(tmp_path / "large.png")


def test_a_missing_file_is_named_without_its_folder(tmp_path: Path) -> None:
    with pytest.raises(BadImage, match=r"got 'gone\.png: No such file or directory'") as refused:
        load_input(tmp_path / "gone.png", (8, 8), 1)
    assert str(tmp_path) not in str(refused.value)


def test_no_descriptor_stays_open_after_a_refusal(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        with pytest.raises(BadImage):
            read_file(tmp_path)
        with pytest.raises(BadImage):
            read_file(Path("/dev/zero"))
        with pytest.raises(BadImage):
            read_file(Path("/dev/null"), ImageLimits(max_bytes=1))
    assert len(os.listdir("/proc/self/fd")) == before
