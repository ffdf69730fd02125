"""Every bad input that the border has to refuse, and the odd but sound ones it has to take, put into a folder of
images.

The folder is in MVTec-AD layout, with train/good, test/good and test/scratch filled already.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

BOMB_PX = 40_000
VANISHING = "test/good/vanishing.png"
OUTSIDE = "outside-the-root"

REASONS = {
    "train/good/truncated.png": "undecodable",
    "train/good/empty.png": "empty",
    "train/good/text.png": "not-an-image",
    "test/good/bomb.png": "too-many-pixels",
    "train/good/link.png": "link",
    "test/good/linked-folder": "link",
    "train/good/..\\..\\up.png": "path",
    "train/good/up..up.png": "path",
    "train/good/same-as-a-test-image.png": "duplicate-across-splits",
    "test/scratch/odd-mask.png": "mask-size",
    VANISHING: "vanished",
}
SOUND = (
    "train/good/deep.png",
    "train/good/print.jpg",
    *(f"test/scratch/deep-{n}.png" for n in range(3)),
    *(f"test/scratch/print-{n}.jpg" for n in range(3)),
)


def add_hostile_files(root: Path, seed: int = 11) -> None:
    """Put one file for each of REASONS and SOUND into the folder; links lead to a folder beside it."""
    rng = np.random.default_rng(seed)
    pictures = sorted((root / "test/good").glob("0*.png"))
    outside = root.parent / OUTSIDE
    (outside / "more").mkdir(parents=True, exist_ok=True)

    def picture() -> np.ndarray:
        """A crop of one of the folder's own pictures, so that it looks like them and equals none."""
        pixels = np.asarray(Image.open(pictures[int(rng.integers(len(pictures)))]).convert("L"))
        return pixels[1 : -1 - int(rng.integers(3)), 1 : -1 - int(rng.integers(3))].copy()

    def scratched() -> tuple[np.ndarray, np.ndarray]:
        pixels = picture()
        mask = np.zeros_like(pixels)
        y, x = (int(rng.integers(4, side // 2)) for side in pixels.shape)
        mask[y : y + pixels.shape[0] // 3, x : x + pixels.shape[1] // 3] = 255
        pixels[mask > 0] = 255
        return pixels, mask

    def save_mask(mask: np.ndarray, stem: str) -> None:
        Image.fromarray(mask).save(root / f"ground_truth/scratch/{stem}_mask.png")

    Image.fromarray(picture()).save(outside / "secret.png")
    Image.fromarray(picture()).save(outside / "more" / "secret.png")
    (root / "train/good/link.png").symlink_to(outside / "secret.png")
    (root / "test/good/linked-folder").symlink_to(outside / "more")
    whole = outside / "whole.png"
    Image.fromarray(picture()).save(whole)
    (root / "train/good/truncated.png").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (root / "train/good/empty.png").write_bytes(b"")
    (root / "train/good/text.png").write_text("I am a text that somebody has named .png\n")
    (root / "test/good/bomb.png").write_bytes(bomb())
    for name in ("..\\..\\up.png", "up..up.png"):
        Image.fromarray(picture()).save(root / "train/good" / name)
    (root / "train/good/same-as-a-test-image.png").write_bytes(pictures[0].read_bytes())
    pixels, mask = scratched()
    Image.fromarray(pixels).save(root / "test/scratch/odd-mask.png")
    save_mask(mask[:-2, :-3], "odd-mask")
    Image.fromarray(picture()).save(root / VANISHING)

    Image.fromarray(picture().astype(np.uint16) * 257).save(root / "train/good/deep.png")
    _save_cmyk(picture(), root / "train/good/print.jpg")
    for number in range(3):
        pixels, mask = scratched()
        Image.fromarray(pixels.astype(np.uint16) * 257).save(root / f"test/scratch/deep-{number}.png")
        save_mask(mask, f"deep-{number}")
        pixels, mask = scratched()
        _save_cmyk(pixels, root / f"test/scratch/print-{number}.jpg")
        save_mask(mask, f"print-{number}")


def bomb(side: int = BOMB_PX) -> bytes:
    """A whole, valid PNG of 40,000 x 40,000 pixels, one bit each: 200 KB that would become 1.6 GB."""
    deflate = zlib.compressobj(1)
    row = b"\0" * (1 + (side + 7) // 8)
    content = b"".join(deflate.compress(row * 100) for _ in range(side // 100)) + deflate.flush()
    header = side.to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", content) + _chunk(b"IEND", b"")


def write_vanishing_act(folder: Path, root: Path) -> Path:
    """A folder for PYTHONPATH: in every Python process the file VANISHING goes at the moment the border opens it.

    The border has listed it by then, and opens it by its bare name below the folder that it has open. The file is back
    when the process ends, as on a network share that stumbled, so that DVC sees the same folder afterwards.
    """
    folder.mkdir(parents=True, exist_ok=True)
    victim, hidden = root / VANISHING, root.parent / OUTSIDE / "hidden.png"
    (folder / "sitecustomize.py").write_text(
        "import atexit, os, sys\n"
        f"victim, hidden = {str(victim)!r}, {str(hidden)!r}\n"
        "def back():\n"
        "    if os.path.exists(hidden):\n"
        "        os.rename(hidden, victim)\n"
        "def gone(event, told):\n"
        f"    if event == 'open' and told[0] == {os.path.basename(VANISHING)!r} and os.path.exists(victim):\n"
        "        os.rename(victim, hidden)\n"
        "        atexit.register(back)\n"
        "sys.addaudithook(gone)\n"
    )
    return folder


def _save_cmyk(grey: np.ndarray, path: Path) -> None:
    Image.fromarray(np.stack([grey] * 3, -1)).convert("CMYK").save(path, quality=95)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")
