"""What somebody can do who owns tables, ledger and MLflow, and what the anchor file and its signatures find of it."""

from __future__ import annotations

import json
import shutil
import sqlite3
import traceback
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from evidence_rows import publish_shard, scores, store_in

from tests.checkout import PROJECT
from xadflow.cli import audit as audit_commands
from xadflow.errors import AuditFailed, BadSettings, StoreBroken, WrongUse
from xadflow.evidence.anchor_file import AnchorFile, AnchorLine, examine
from xadflow.evidence.ledger import LedgerHead
from xadflow.evidence.signing import load_public_key, load_signing_key
from xadflow.evidence.verify import verify
from xadflow.project import Project
from xadflow.settings import load_settings

PARAMS = PROJECT / "params.yaml"


def key_pair(folder: Path, name: str, key=None, passphrase: bytes | None = None) -> tuple[Path, Path]:
    """Paths of a private and a public key in PEM form."""
    key = key or Ed25519PrivateKey.generate()
    sealed = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    private.touch(mode=0o600)
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, sealed))
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


@pytest.fixture
def keys(tmp_path):
    return key_pair(tmp_path, "quality")


def anchored_store(folder: Path, file: AnchorFile):
    """A store whose one anchor is a file."""
    store = store_in(folder, anchor=file.append, anchored=lambda: [file.head()])
    store.prepare()
    return store


def anchored_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def written_anew(folder: Path):
    """Tables and ledger of `folder` replaced by others that are whole in themselves: what their owner can do."""
    for name in ("tables", "ledger"):
        shutil.rmtree(folder / name)
    store = store_in(folder)
    store.prepare()
    publish_shard(store, range(4), run_id="the nicer run")
    publish_shard(store, range(4, 8))
    return store


def problems(store, head: LedgerHead | None, **options) -> list[str]:
    return [str(problem) for problem in verify(store, head, **options).problems]


@pytest.fixture
def sealed(tmp_path, keys):
    """(folder, anchor file, public key) of a store with two shards, whose heads are in a signed anchor file."""
    path = tmp_path / "heads.jsonl"
    store = anchored_store(tmp_path / "var", AnchorFile(path, load_signing_key(keys[0])))
    for first in (0, 4):
        publish_shard(store, range(first, first + 4))
    result = verify(store, store.ledger.head(), anchor_file=path, public_key=load_public_key(keys[1]))
    assert (result.problems, result.unanchored, result.signatures, result.signatures_checked) == ((), 0, 5, True)
    return tmp_path / "var", path, load_public_key(keys[1])


def test_every_commit_leaves_its_head_with_its_time(tmp_path):
    path = tmp_path / "heads.jsonl"
    store = anchored_store(tmp_path / "var", AnchorFile(path))
    publish_shard(store, range(4))
    store.prepare()  # the same head again
    lines = anchored_lines(path)
    assert [(line["seq"], line["digest"]) for line in lines] == [
        (line.head.seq, line.head.digest) for line in store.ledger.lines()[1:]
    ]
    for line in lines:
        assert abs(datetime.now(UTC) - datetime.fromisoformat(line["time"])) < timedelta(hours=1)
        assert line["signature"] is None
    result = verify(store, None, anchor_file=path)
    assert (result.problems, result.unanchored) == ((), 0)
    assert result.anchors == {"MLflow": None, "anchor file": store.ledger.head()}


def test_a_ledger_written_anew_with_its_mlflow_anchor_is_found_by_the_anchor_file(sealed):
    folder, path, _ = sealed
    store = written_anew(folder)
    assert problems(store, store.ledger.head()) == [], "tables, ledger and MLflow in one hand say nothing"
    (what,) = problems(store, store.ledger.head(), anchor_file=path)
    assert what.startswith("anchor file: line 1 holds ledger line 2 as of 20")
    assert what.endswith("which is not the one in the ledger; so it is with 4 more lines")


def test_an_anchor_file_written_anew_is_found_by_its_signatures(sealed, tmp_path):
    folder, path, public = sealed
    original = path.read_bytes()
    store = written_anew(folder)
    head, heads = store.ledger.head(), [line.head for line in store.ledger.lines()]
    thief = load_signing_key(key_pair(tmp_path, "thief")[0])
    for key, what in ((None, "has no signature"), (thief, "has a signature that the public key does not verify")):
        path.unlink()
        for each in heads:
            AnchorFile(path, key).append(each)
        assert problems(store, head, anchor_file=path) == [], "without the key the false file fits the false ledger"
        (found,) = problems(store, head, anchor_file=path, public_key=public)
        assert found == f"anchor file: line 1 {what}, and so have 5 more"
    signatures = [line["signature"] for line in map(json.loads, original.splitlines())]
    taken = [
        AnchorLine(each.seq, each.digest, "2026-11-21T01:02:03+00:00", None, signature)
        for each, signature in zip(heads[1:], signatures, strict=True)
    ]
    path.write_bytes(b"".join(line.encode() + b"\n" for line in taken))
    assert any("does not verify" in what for what in problems(store, head, anchor_file=path, public_key=public))


def test_every_flipped_bit_of_a_signed_anchor_file_is_found(sealed):
    folder, path, public = sealed
    heads = [line.head for line in store_in(folder).ledger.lines()]
    whole = path.read_bytes()
    assert examine(path, heads, public).problems == ()
    for place in range(len(whole) // 5 + 1):  # one line with its newline: the others are made alike
        for bit in (0, 5):
            content = bytearray(whole)
            content[place] ^= 1 << bit
            path.write_bytes(bytes(content))
            assert examine(path, heads, public).problems, f"bit {bit} of byte {place}"


def test_removed_and_moved_anchors_are_found(sealed):
    folder, path, _ = sealed
    store = store_in(folder)
    head = store.ledger.head()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[::-1]))
    assert any("goes back from ledger line 6 to 5" in what for what in problems(store, head, anchor_file=path))
    path.write_bytes(b"".join(lines)[:-20])
    assert any("ends in half a line" in what for what in problems(store, head, anchor_file=path))
    path.write_bytes(b"")
    assert "anchor file: it is empty" in problems(store, head, anchor_file=path)
    path.unlink()
    assert any(
        "anchor file: it cannot be read: No such file" in what for what in problems(store, head, anchor_file=path)
    )
    path.write_bytes(b"".join(lines[:2]))  # its end taken away: it is only older, which the result tells
    result = verify(store, head, anchor_file=path)
    assert (result.ok, result.unanchored) == (True, 3)


def test_since_the_anchor_means_since_the_older_of_two(sealed):
    folder, path, _ = sealed
    store = store_in(folder)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))  # up to ledger line 4
    assert verify(store, store.ledger.head(), since_anchor=True).rows == 0
    assert verify(store, store.ledger.head(), since_anchor=True, anchor_file=path).rows == 2 + 4
    false = LedgerHead(4, "0" * 64)
    assert verify(store, false, since_anchor=True, anchor_file=path).rows == 4 + 8, (
        "an anchor that lies vouches for nothing"
    )


def test_a_ledger_that_lacks_an_anchored_head_is_not_written_on(sealed, keys):
    folder, path, _ = sealed
    written_anew(folder)
    file = AnchorFile(path, load_signing_key(keys[0]))
    before = path.read_bytes()
    for mlflow in (None, store_in(folder).ledger.head()):  # the other anchor may have been rewritten too
        store = store_in(folder, anchor=file.append, anchored=lambda mlflow=mlflow: [mlflow, file.head()])
        with pytest.raises(StoreBroken, match="does not contain the head"):
            store.publish("scores", scores([99]), app="x")
        with pytest.raises(StoreBroken, match="does not contain the head"):
            store.prepare()
    assert path.read_bytes() == before


def test_a_new_anchor_file_begins_with_the_present_head_and_says_so(tmp_path, caplog):
    heads: list[LedgerHead] = []
    store = store_in(tmp_path / "var", anchor=heads.append)
    store.prepare()
    publish_shard(store, range(4))
    file = AnchorFile(tmp_path / "heads.jsonl")
    later = store_in(tmp_path / "var", anchor=file.append, anchored=lambda: [heads[-1], file.head()])
    later.prepare()
    assert file.head() == store.ledger.head()
    assert "a new one begins with ledger line 4" in caplog.text
    assert str(tmp_path) not in caplog.text


@pytest.mark.parametrize("left", [1, 90, -1, 0])
def test_a_line_that_a_power_cut_left_is_ended_and_told_of(sealed, keys, left):
    folder, path, public = sealed
    *lines, last = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines) + (last[:left] if left else last[:-1]))
    store = anchored_store(folder, AnchorFile(path, load_signing_key(keys[0])))
    assert store.ledger.alarms.vouch() == 1  # of the line that was cut: here is no intent, as a real cut leaves one
    head = store.ledger.head()
    assert problems(store, head, anchor_file=path, public_key=public) == []
    publish_shard(store, range(8, 12))
    assert problems(store, store.ledger.head(), anchor_file=path, public_key=public) == []
    rest = path.read_bytes().splitlines(keepends=True)
    del rest[4]  # the piece
    path.write_bytes(b"".join(rest))
    assert any("does not follow the piece" in what for what in problems(store, None, anchor_file=path))


def test_a_file_that_cannot_be_written_stops_the_run_before_and_after(tmp_path):
    file = AnchorFile(tmp_path / "not mounted" / "heads.jsonl")
    store = store_in(tmp_path / "var", anchor=file.append, anchored=lambda: [file.head()])
    with pytest.raises(StoreBroken, match="No such file.*evidence.anchor_file") as caught:
        store.prepare()
    assert str(tmp_path) not in str(caught.value)


def test_lines_of_other_keys_are_never_mixed(sealed, tmp_path, keys):
    _, path, _ = sealed
    other = load_signing_key(key_pair(tmp_path, "other")[0])
    for key in (None, other):
        with pytest.raises(BadSettings, match="was not signed as evidence.signing_key says.*name a new file"):
            AnchorFile(path, key).append(LedgerHead(7, "a" * 64))
    bare = tmp_path / "bare.jsonl"
    AnchorFile(bare).append(LedgerHead(1, "a" * 64))
    with pytest.raises(BadSettings, match="name a new file"):
        AnchorFile(bare, load_signing_key(keys[0])).append(LedgerHead(2, "a" * 64))


def test_a_wrong_key_is_refused_and_never_shown(tmp_path, keys, caplog):
    private, public = keys
    sealed, _ = key_pair(tmp_path, "sealed", passphrase=b"open sesame")
    other_kind, other_public = key_pair(tmp_path, "rsa", rsa.generate_private_key(65537, 2048))
    broken = tmp_path / "broken.pem"
    broken.write_bytes(private.read_bytes().replace(b"MC4C", b"MC5C"))
    secrets = [
        line
        for path in (private, sealed, other_kind, broken)
        for line in path.read_text().splitlines()
        if "-----" not in line
    ]
    for path, what in (
        (tmp_path / "none.pem", "cannot be read"),
        (sealed, "passphrase"),
        (other_kind, "Ed25519"),
        (broken, "no private key"),
        (public, "no private key"),
    ):
        with pytest.raises(BadSettings, match=what) as caught:
            load_signing_key(path)
        shown = "".join(traceback.format_exception(caught.value)) + caplog.text
        assert not any(secret in shown for secret in secrets)
    for path, what in (
        (tmp_path / "none.pem", "cannot be read"),
        (private, "a private key"),
        (PARAMS, "no public key"),
        (other_public, "Ed25519"),
    ):
        with pytest.raises(WrongUse, match=what) as caught:
            load_public_key(path)
        assert not any(secret in "".join(traceback.format_exception(caught.value)) for secret in secrets)
    key = load_signing_key(private)
    assert not any(secret in repr(key) + repr(key.public) for secret in secrets)
    assert "chmod" not in caplog.text
    private.chmod(0o644)
    load_signing_key(private)
    assert "chmod 600" in caplog.text


def settings_with(folder: Path, **evidence) -> Path:
    raw = yaml.safe_load(PARAMS.read_text())
    raw["evidence"] = evidence
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def test_a_key_without_a_file_to_sign_is_refused(tmp_path):
    with pytest.raises(BadSettings, match="evidence.*signing_key signs the lines of anchor_file"):
        load_settings(settings_with(tmp_path, signing_key="signing.pem"))
    with pytest.raises(BadSettings, match="anchor_fil.*did you mean 'anchor_file'"):
        load_settings(settings_with(tmp_path, anchor_fil="x"))


def run(*arguments: str):
    return CliRunner().invoke(audit_commands.audit, ["verify", *arguments])


def test_the_command_checks_the_file_of_the_settings_or_the_one_named(sealed, keys, tmp_path, monkeypatch):
    folder, path, _ = sealed
    project = folder.parent
    settings_with(project)
    (project / "dvc.yaml").touch()
    monkeypatch.setenv("XADFLOW_PROJECT", str(project))
    monkeypatch.delenv("XADFLOW_HOME", raising=False)
    mlflow = store_in(folder).ledger.head()
    monkeypatch.setattr(audit_commands, "_anchored_head", lambda home: mlflow)

    assert run().exit_code == 0
    assert set(json.loads(run("--json").stdout)["anchors"]) == {"MLflow"}
    no_file = run("--public-key", str(keys[1])).exception
    assert isinstance(no_file, WrongUse)
    assert "--anchor-file" in no_file.next_step
    named = run("--anchor-file", str(path))
    assert named.exit_code == 0
    assert "5 signatures of the anchor file were not checked" in named.output
    settings_with(project, anchor_file=path.name)  # relative to the project
    found = json.loads(run("--json", "--public-key", str(keys[1])).stdout)
    assert found["anchors"]["anchor file"] == {"seq": mlflow.seq, "digest": mlflow.digest}
    assert (found["ok"], found["signatures"], found["signatures_checked"]) == (True, 5, True)
    mlflow = written_anew(folder).ledger.head()
    assert isinstance(run().exception, AuditFailed)
    mlflow = None
    settings_with(project)
    lone = run()
    assert isinstance(lone.exception, AuditFailed)
    assert "no anchor outside holds a head" in lone.output


def test_an_auditors_copy_without_mlflow_verifies_by_the_anchor_file(sealed, keys, monkeypatch):
    folder, path, _ = sealed
    settings_with(folder.parent)
    (folder.parent / "dvc.yaml").touch()
    monkeypatch.setenv("XADFLOW_PROJECT", str(folder.parent))
    for name in ("XADFLOW_HOME", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    before = {path.relative_to(folder) for path in folder.rglob("*")}
    result = run("--anchor-file", str(path), "--public-key", str(keys[1]))
    assert result.exit_code == 0, result.output
    assert "MLflow holds no head" in result.output
    alone = run()
    assert isinstance(alone.exception, AuditFailed)
    assert "no anchor outside holds a head" in alone.output
    assert {path.relative_to(folder) for path in folder.rglob("*")} == before, "verifying writes nothing"


def test_the_help_tells_every_key_of_the_object(sealed, monkeypatch, tmp_path):
    folder, path, _ = sealed
    settings_with(folder.parent)
    (folder.parent / "dvc.yaml").touch()
    monkeypatch.setenv("XADFLOW_PROJECT", str(folder.parent))
    monkeypatch.setattr(audit_commands, "_anchored_head", lambda home: None)
    help_text = run("--help").output
    for key in json.loads(run("--json", "--anchor-file", str(path)).stdout):
        assert f" {key}" in help_text
    assert "xadflow audit verify --since-anchor" in help_text


def test_a_project_anchors_in_both_places_and_finds_a_rewritten_mlflow(
    tmp_path, monkeypatch, keys, put_mlflow_database
):
    """Opened as a night opens it, with a real MLflow database."""
    settings_with(tmp_path, anchor_file="share/heads.jsonl", signing_key=keys[0].name)
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "share").mkdir()
    monkeypatch.setenv("XADFLOW_PROJECT", str(tmp_path))
    for name in ("XADFLOW_HOME", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    put_mlflow_database(tmp_path / "var")
    store = Project.open().store
    store.prepare()
    publish_shard(store, range(4))
    before = json.loads(run("--json", "--public-key", str(keys[1])).stdout)
    assert before["ok"]
    assert before["anchors"]["MLflow"] == before["anchors"]["anchor file"] == before["head"]

    forged = written_anew(tmp_path / "var").ledger.lines()
    with sqlite3.connect(tmp_path / "var" / "mlflow.db") as database:
        for line in forged:
            database.execute("update params set value = ? where key = ?", (line.head.digest, f"head.{line.seq:09d}"))
    database.close()
    failed = run("--public-key", str(keys[1]))
    assert isinstance(failed.exception, AuditFailed)
    assert "which is not the one in the ledger" in failed.output
    assert "the one that the anchor holds" not in failed.output, "MLflow agrees with the forger"
