"""Ordinary files are decoded in this process; one that would keep it busy, or fill its memory, in a child that is ended
at its limits: one clear refusal, and the next file works.
"""

from __future__ import annotations

import io
import os
import signal
import struct
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xadflow.datasets.border import admit
from xadflow.datasets.manifest import Split
from xadflow.datasets.sources.base import Candidate
from xadflow.errors import BadImage
from xadflow.images import ImageLimits, children, costs, decode_image, decode_mask, decoding
from xadflow.images.decoding import deepest_value, has_further_frames

RNG = np.random.default_rng(0)
SEEN = RNG.integers(0, 256, (12, 20, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 1 << 12, (12, 20)).astype(np.uint16)


def file_of(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def of(pixels: np.ndarray, form: str = "PNG", **options: object) -> bytes:
    return file_of(Image.fromarray(pixels), form, **options)


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


ORDINARY = {
    "png": of(SEEN),
    "png 16 bit": of(DEEP),
    "png with alpha": file_of(Image.fromarray(SEEN).convert("RGBA")),
    "jpeg": of(SEEN, "JPEG"),
    "jpeg progressive": of(SEEN, "JPEG", progressive=True, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"),
    "webp": of(SEEN, "WEBP"),
    "webp lossless": of(SEEN, "WEBP", lossless=True),
    "tiff": of(SEEN, "TIFF"),
    "tiff lzw": of(SEEN, "TIFF", compression="tiff_lzw"),
    "tiff big, deflate": of(SEEN, "TIFF", compression="tiff_adobe_deflate", big_tiff=True),
    "bmp": of(SEEN, "BMP"),
    "ppm": of(SEEN, "PPM"),
    "pgm of 12 bits": b"P5\n# a camera\n20 12\n4095\n" + DEEP.astype(">u2").tobytes(),
    "no image": b"no image at all",
    "cut off": of(SEEN)[:20],
    "jpeg cut off": of(SEEN, "JPEG")[:30],
    "tiff cut off": of(SEEN, "TIFF")[:12],
}


def tiled(side: int) -> bytes:
    """A TIFF of 16 x 16 pixels in one tile of `side` x `side`."""
    tags = {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side, 324: 200, 325: 40}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + struct.pack("<I", 0)
    return head.ljust(200, b"\0") + zlib.compress(bytes(1000)).ljust(40, b"\0")


def strips(count: int) -> bytes:
    """A TIFF that says where each of `count` strips begins."""
    entry = struct.pack("<HHII", 273, 4, count, 100)
    return struct.pack("<2sHIH", b"II", 42, 8, 1) + entry + bytes(4)


COSTLY_TO_OPEN = {
    "png of a million chunks": of(SEEN)[:33] + chunk(b"abCd") * 3000 + of(SEEN)[33:],
    "png of a million empty pixels": of(SEEN)[:33] + chunk(b"IDAT") * 3000 + of(SEEN)[33:],
    "jpeg of a million segments": of(SEEN, "JPEG")[:2] + b"\xff\xfe\0\2" * 3000 + of(SEEN, "JPEG")[2:],
    "jpeg with stuff between segments": of(SEEN, "JPEG")[:20] + bytes(3000) + of(SEEN, "JPEG")[20:],
    "jpeg with fill bytes": of(SEEN, "JPEG")[:2] + b"\xff" * 3000 + of(SEEN, "JPEG")[2:],
    "tiff of a million strips": strips(1_000_000),
    "pgm with a long comment": b"P5\n#" + b"a" * 5000 + b"\n20 12\n255\n" + bytes(240),
    "pgm with a long number": b"P5 " + b"0" * 5000 + b"20 12 255\n" + bytes(240),
}
COSTLY_TO_DECODE = {
    "a tile larger than the image": tiled(8192),
    "jpeg in tiff": of(SEEN, "TIFF", compression="jpeg"),
    "lzma in tiff": of(SEEN, "TIFF", compression="lzma"),
    "pgm that Pillow reads in Python": b"P5\n1000 1000\n4095\n",
    "plain pgm": b"P2\n1000 1000\n255\n",
    "many pixels": of(SEEN)[:8] + chunk(b"IHDR", struct.pack(">II5B", 6000, 6000, 8, 2, 0, 0, 0)) + of(SEEN)[33:],
}


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_files_stay_in_this_process(name: str) -> None:
    content = ORDINARY[name]
    assert costs.opens_cheaply(content)
    if "off" not in name and name != "no image":
        with Image.open(io.BytesIO(content)) as image:
            assert costs.decodes_cheaply(image, scans=10)


@pytest.mark.parametrize("name", COSTLY_TO_OPEN)
def test_what_is_costly_to_open_is_not_opened(monkeypatch, name: str) -> None:
    monkeypatch.setattr(decoding, "in_a_child", lambda *_: SEEN)
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("it was opened"))
    for look in (decode_image, decode_mask, has_further_frames, lambda it: deepest_value(it, ImageLimits())):
        with monkeypatch.context() as patch:
            if look not in (decode_image, decode_mask):
                patch.setattr(decoding, "in_a_child", lambda *_: np.int64(3))
            look(COSTLY_TO_OPEN[name])


@pytest.mark.parametrize("name", COSTLY_TO_DECODE)
def test_what_is_costly_to_decode_is_not_decoded(monkeypatch, name: str) -> None:
    monkeypatch.setattr(decoding, "in_a_child", lambda *_: SEEN)
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("it was decoded"))
    assert decode_image(COSTLY_TO_DECODE[name]) is SEEN


def test_scans_are_part_of_the_cost() -> None:
    with Image.open(io.BytesIO(of(np.zeros((2000, 2000), np.uint8), "JPEG"))) as image:
        assert costs.decodes_cheaply(image, scans=60)
        assert not costs.decodes_cheaply(image, scans=80)


@pytest.fixture
def all_in_children(monkeypatch) -> None:
    monkeypatch.setattr(costs, "CHEAP_PIXELS", 0)


LOOKS: dict[str, Callable[[bytes], object]] = {
    "image": decode_image,
    "mask": decode_mask,
    "12 bits": lambda content: decode_image(content, ImageLimits(max_bits=12)),
    "8 bits": lambda content: decode_image(content, ImageLimits(max_bits=8)),
    "deepest": lambda content: deepest_value(content, ImageLimits()),
}


def told(look: Callable[[bytes], object], content: bytes) -> object:
    try:
        found = look(content)
    except BadImage as err:
        return {**vars(err), "seen": str(err.seen)}
    return found.tolist() if isinstance(found, np.ndarray) else found


@pytest.mark.parametrize("name", LOOKS)
def test_a_child_answers_as_this_process_does(monkeypatch, name: str) -> None:
    files = [content for kind, content in ORDINARY.items()]
    here = [told(LOOKS[name], content) for content in files]
    monkeypatch.setattr(decoding, "opens_cheaply", lambda _: False)
    there = [told(LOOKS[name], content) for content in files]
    assert there == here
    frames = of(SEEN, "TIFF", save_all=True, append_images=[Image.fromarray(SEEN)])
    assert [has_further_frames(frames), has_further_frames(files[0])] == [True, False]


def slow() -> bytes:
    """Ten seconds or more in Pillow's own Python on any machine of today, of which one is allowed."""
    return b"P5\n3000 3000\n4095\n" + bytes(18_000_000)


def test_a_child_that_does_nothing_is_ended_by_the_clock(monkeypatch, all_in_children) -> None:
    decode_image(ORDINARY["png"])
    monkeypatch.setattr(children, "_CLOCK", 0.001)
    (idle,) = children._children._idle
    os.kill(idle.process.pid, signal.SIGSTOP)
    with pytest.raises(BadImage, match="too slow"):
        decode_image(ORDINARY["png"])
    monkeypatch.undo()
    assert decode_image(COSTLY_TO_DECODE["lzma in tiff"]).tolist() == SEEN.tolist()


def test_a_file_that_needs_too_much_memory_is_refused_and_its_child_goes_on(all_in_children) -> None:
    large = of(np.zeros((4000, 4000), np.uint8))
    with pytest.raises(BadImage, match=r"too much memory to decode.*max_decode_mb = 8") as refused:
        decode_image(large, ImageLimits(max_decode_mb=8))
    assert refused.value.reason == "too-much-memory"
    (idle,) = children._children._idle
    assert decode_image(large, ImageLimits(max_decode_mb=500)).shape == (4000, 4000)
    assert children._children._idle == [idle]


@pytest.mark.parametrize("program", ["import os; os._exit(3)", "import os; os.kill(os.getpid(), 11)"])
def test_a_decoder_that_crashes_takes_nobody_with_it(monkeypatch, all_in_children, program: str) -> None:
    children._children.end()
    monkeypatch.setattr(children, "_PROGRAM", program)
    with pytest.raises(BadImage, match="the image ends its decoder"):
        decode_image(ORDINARY["png"])
    monkeypatch.undo()
    assert decode_image(COSTLY_TO_DECODE["lzma in tiff"]).tolist() == SEEN.tolist()


def test_a_child_that_was_ended_by_others_is_replaced(all_in_children) -> None:
    for _ in range(2):
        assert decode_image(ORDINARY["png"]).tolist() == SEEN.tolist()
        (idle,) = children._children._idle
        idle.process.kill()
        idle.process.wait()


def ended_at_work(monkeypatch, folder: Path, signals: list[int]) -> None:
    """The first children end by these signals once they have a request, as if somebody sent them; then real ones."""
    children._children.end()
    program, left = children._PROGRAM, folder / "left"
    left.write_text(" ".join(map(str, signals)))
    monkeypatch.setattr(
        children,
        "_PROGRAM",
        f"""
import os, pathlib, sys
left = pathlib.Path({str(left)!r})
signals = left.read_text().split()
if signals:
    left.write_text(" ".join(signals[1:]))
    sys.stdin.buffer.readline()
    os.kill(os.getpid(), int(signals[0]))
{program}""",
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_that_others_end_at_work_says_nothing_about_the_file(
    monkeypatch, all_in_children, tmp_path: Path, number: int
) -> None:
    ended_at_work(monkeypatch, tmp_path, [number])
    assert decode_image(ORDINARY["png"]).tolist() == SEEN.tolist()
    ended_at_work(monkeypatch, tmp_path, [number, number])
    with pytest.raises(BadImage, match=f"was killed, twice, and not by xadflow; got '{signal.Signals(number).name}'"):
        decode_image(ORDINARY["png"])


def test_a_lower_limit_of_processor_time_of_the_person_stays(monkeypatch, all_in_children) -> None:
    children._children.end()
    lower = "import resource; resource.setrlimit(resource.RLIMIT_CPU, (20, 20)); "
    monkeypatch.setattr(children, "_PROGRAM", lower + children._PROGRAM)
    assert decode_image(ORDINARY["png"]).tolist() == SEEN.tolist()
    children._children.end()


def test_threads_share_a_few_children(all_in_children) -> None:
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(decode_image(ORDINARY["png"]).tolist())) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert found == [SEEN.tolist()] * 8
    assert 1 <= len(children._children._idle) <= 4


def test_a_file_that_takes_too_long_is_refused_at_the_border_and_the_others_are_admitted(tmp_path: Path) -> None:
    files = {"a.png": ORDINARY["png"], "b.pgm": slow(), "c.tif": of(SEEN[::-1], "TIFF", compression="lzma")}
    offered = [Candidate(name, name, files[name], Split.TRAIN, 0, "c", None, "s", "l") for name in files]
    admission = admit(offered, tmp_path, ImageLimits(max_decode_s=1))
    assert [row.path for row in admission.rows] == ["images/a.png", "images/c.tif"]
    (refused,) = admission.refused
    assert (refused.path, refused.reason) == ("b.pgm", "too-slow")
    assert refused.detail == "the image is too slow to decode: more than limits.max_decode_s = 1"
