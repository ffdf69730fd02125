from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.checkout import PROJECT
from xadflow.cli.main import cli
from xadflow.evidence.anchor_file import AnchorLine
from xadflow.evidence.signing import load_public_key, load_signing_key
from xadflow.settings import EvidenceSettings

PAGE = (PROJECT / "docs" / "explanation" / "threat-model.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.M | re.S)


def commands() -> list[str]:
    return [line for block in blocks("console") for line in re.findall(r"^\$ (.*)$", block, flags=re.M)]


def test_its_commands_exist_with_their_options() -> None:
    verify = cli.get_command(None, "audit").commands["verify"]
    known = {option for parameter in verify.params for option in parameter.opts}
    ours = [line for line in commands() if "xadflow" in line.split("--")[0]]
    assert len(ours) >= 3
    for line in ours:
        assert "xadflow audit verify " in line
        assert set(re.findall(r"--[a-z-]+", line)) <= known, line


@pytest.mark.skipif(shutil.which("openssl") is None, reason="this machine has no openssl")
def test_its_key_pair_signs_and_checks(tmp_path: Path) -> None:
    for line in commands():
        if line.startswith(("openssl ", "chmod ")):
            subprocess.run(line.split(), cwd=tmp_path, check=True, capture_output=True)
    signature = load_signing_key(tmp_path / "signing.pem").sign(b"a head")
    public = load_public_key(tmp_path / "signing.pub.pem")
    assert public.verifies(b"a head", signature)
    assert not public.verifies(b"another", signature)


def test_its_settings_and_its_line_are_accepted() -> None:
    for block in blocks("yaml"):
        EvidenceSettings.model_validate(yaml.safe_load(block)["evidence"])
    (line,) = blocks("json")
    assert AnchorLine.decode(line.strip().encode()).seq == 1204


def test_files_that_it_names_are_there() -> None:
    for name in re.findall(r"`((?:src|tests|docs)/[^`]+)`", PAGE):
        assert (PROJECT / name).exists(), name
    for target in re.findall(r"\]\(([^)#]+)[)#]", PAGE):
        assert (PROJECT / "docs" / "explanation" / target).exists(), target
