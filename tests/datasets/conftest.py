"""Small image files and projects: nothing here is larger than a few hundred pixels."""

import io
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xadflow.settings import Home, Settings

Make = Callable[..., bytes]


def png(seed: int, height: int = 24, width: int = 32, mode: str = "L", fmt: str = "PNG") -> bytes:
    """An image that no other seed gives."""
    rng = np.random.default_rng(seed)
    shape = (height, width) if mode in ("L", "I;16") else (height, width, len(mode))
    if mode == "I;16":
        image = Image.fromarray(rng.integers(0, 65_536, shape, dtype=np.uint16))
    else:
        image = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8), mode=None if mode != "CMYK" else "CMYK")
    stream = io.BytesIO()
    image.save(stream, format=fmt)
    return stream.getvalue()


def huge_header() -> bytes:
    """A PNG of 60,000 x 60,000 pixels by its header, with no pixel in it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    header = (60_000).to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def mask_png(height: int, width: int) -> bytes:
    pixels = np.zeros((height, width), np.uint8)
    pixels[4:9, 5:11] = 255
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()


@pytest.fixture(name="png")
def png_fixture() -> Make:
    return png


@pytest.fixture(name="mask_png")
def mask_png_fixture() -> Make:
    return mask_png


@pytest.fixture(name="huge_header")
def huge_header_fixture() -> bytes:
    return huge_header()


@pytest.fixture
def put() -> Callable[[Path, bytes], Path]:
    def write(path: Path, content: bytes) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    return write


@pytest.fixture
def product(tmp_path: Path, put: Callable[[Path, bytes], Path]) -> Path:
    """MVTec-AD layout: 30 train normals, 6 test normals, 8 scratches with masks."""
    root = tmp_path / "users" / "bolt"
    for number in range(30):
        put(root / f"train/good/{number:03d}.png", png(number))
    for number in range(6):
        put(root / f"test/good/{number:03d}.png", png(100 + number))
    for number in range(8):
        put(root / f"test/scratch/{number:03d}.png", png(200 + number))
        put(root / f"ground_truth/scratch/{number:03d}_mask.png", mask_png(24, 32))
    return root


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "project", tmp_path / "project" / "var")


@pytest.fixture
def settings_with() -> Callable[..., Settings]:
    """Settings of a project whose only data set is `bolt`."""

    def build(source: str = "folder", **dataset: object) -> Settings:
        entry = {"source": source, "size_px": 32, "channels": 1, "known_used": 0, **dataset}
        return Settings.model_validate(
            {
                "catalogue": ["bolt"],
                "datasets": {"bolt": entry},
                "detectors": {"fcdd": {"method": "fcdd"}},
                "explainers": {"heatmap": {}},
                "retrain": {"datasets": ["bolt"], "detectors": ["fcdd"]},
                "explain": {"datasets": ["bolt"], "explainers": ["heatmap"]},
                "demo": {"dataset": "bolt"},
                "calibration": {"false_alarm_rate": 0.25},
            }
        )

    return build
