"""dvc.lock is written in place: who reads it beside a `dvc repro` waits until it is whole."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from xadflow import lineage
from xadflow.errors import WorkFailed
from xadflow.lineage import dvc_hashes

WHOLE = """schema: '2.0'
stages:
  images@plates:
    cmd: xadflow data images plates
    outs:
    - path: data/plates/images
      hash: md5
      md5: 1111.dir
  manifest@plates:
    cmd: xadflow data manifest plates
    outs:
    - path: data/plates/manifest.parquet
      hash: md5
      md5: '2222'
"""
HASHES = {"images": "1111.dir", "manifest": "2222"}
CUTS = range(0, len(WHOLE) - 1, 3)  # in the middle of a key, of a value, of an md5, and between two stages


def test_half_a_file_is_read_again_until_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "dvc.lock"
    monkeypatch.setattr(lineage.time, "sleep", lambda _: path.write_text(WHOLE))
    for cut in (*CUTS, *(place + 1 for place, letter in enumerate(WHOLE) if letter == "\n")):
        path.write_text(WHOLE[:cut])
        assert dvc_hashes(tmp_path, "plates") == HASHES, cut


@pytest.mark.parametrize("broken", ["stages: [", "stages:\n  a: b: c", "nonsense", "- 1", "stages: 3", "\udcff"])
def test_one_that_stays_broken_is_said_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    (tmp_path / "dvc.lock").write_bytes(broken.encode(errors="surrogateescape"))
    monkeypatch.setattr(lineage, "_PAUSES_S", (0.0,))
    with pytest.raises(WorkFailed, match="dvc.lock cannot be read; got .* Next: run `git checkout dvc.lock`") as failed:
        dvc_hashes(tmp_path, "plates")
    assert "\n" not in str(failed.value)


def test_a_reader_beside_a_writer_sees_whole_files_alone(tmp_path: Path) -> None:
    path, ended = tmp_path / "dvc.lock", threading.Event()
    path.write_text(WHOLE)

    def write() -> None:
        while not ended.is_set():
            with path.open("w") as file:
                for line in WHOLE.splitlines(keepends=True):
                    file.write(line)
                    file.flush()
                    time.sleep(0.0005)
            time.sleep(0.02)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert [dvc_hashes(tmp_path, "plates") for _ in range(20)] == [HASHES] * 20
    finally:
        ended.set()
        writer.join()


def test_nothing_is_read_where_nothing_is_built(tmp_path: Path) -> None:
    assert dvc_hashes(tmp_path, "plates") == {}
    (tmp_path / "dvc.lock").write_text(WHOLE)
    assert dvc_hashes(tmp_path, "bolts") == {}
