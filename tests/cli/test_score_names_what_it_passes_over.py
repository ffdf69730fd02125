from pathlib import Path

import pytest

from xadflow.cli.score import _files


def test_each_file_of_a_folder_is_scored_or_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.png", "b.JFIF", "sub/c.pgm", "d.jp2", "Thumbs.db", "sub/e.heic"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "sub")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")  # a broken link is answered where it is opened
    taken = [path.relative_to(tmp_path).as_posix() for path in _files([tmp_path])]
    said = capsys.readouterr().err.splitlines()
    assert taken == ["a.png", "b.JFIF", "gone.png", "sub/c.pgm"]
    assert len(said) == 4
    assert any("d.jp2: not scored" in line and "convert .jp2" in line for line in said)
    assert any("link: not scored, a link to a folder" in line for line in said)
    assert any("Thumbs.db: not scored" in line for line in said)
