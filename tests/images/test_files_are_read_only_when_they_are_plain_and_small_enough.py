"""What `xadflow score` and the nightly work read: any path that somebody names, or that was swapped since it was
checked.
"""

import copy
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from xadflow.errors import BadImage
from xadflow.images import ImageLimits, encode_png, load_input, read_file

CONTENT = encode_png(np.zeros((8, 8), np.uint8))


def test_a_plain_file_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(CONTENT)
    assert read_file(tmp_path / "a.png") == CONTENT


def test_a_file_with_other_bytes_than_its_image_id_says_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(CONTENT)
    image_id = hashlib.sha256(CONTENT).hexdigest()
    assert read_file(tmp_path / "a.png", image_id=image_id) == CONTENT
    (tmp_path / "a.png").write_bytes(CONTENT + b"\0")  # the same pixels, even
    with pytest.raises(BadImage, match="other bytes than its manifest says") as refused:
        read_file(tmp_path / "a.png", image_id=image_id)
    assert refused.value.reason == "changed"


def test_a_link_below_a_folder_of_strangers_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(CONTENT)
    (tmp_path / "inbox" / "inner").mkdir(parents=True)
    (tmp_path / "inbox" / "link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "inbox" / "up").symlink_to(tmp_path)
    for path in ("link.png", "up/secret.png", "inner/../../secret.png"):
        with pytest.raises(BadImage) as refused:
            read_file(tmp_path / "inbox" / path, root=tmp_path / "inbox")
        assert refused.value.reason in ("link", "path")


def test_what_quarantine_says_survives_the_border_of_a_process() -> None:
    # copy takes the same way through __reduce__ as pickle does
    sent = copy.copy(BadImage("it is", seen=1, next_step="go", reason="empty", detail="so", size=3))
    assert (sent.wrong, sent.reason, sent.detail, sent.size) == ("it is", "empty", "so", 3)


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
