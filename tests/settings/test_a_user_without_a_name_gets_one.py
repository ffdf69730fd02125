"""A container run with `--user`, or a folder whose owner this machine does not know: DVC asks for a name."""

from __future__ import annotations

import getpass

import pytest

from xadflow.settings import environment


@pytest.mark.parametrize("error", [KeyError("getpwuid(): uid not found: 12345"), OSError("No username set")])
def test_who_has_no_name_gets_one(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def nameless() -> str:
        raise error

    monkeypatch.delenv("LOGNAME", raising=False)
    with monkeypatch.context() as patch:
        patch.setattr(getpass, "getuser", nameless)
        environment.name_the_user()
    try:
        assert getpass.getuser().startswith("uid-")
    finally:
        monkeypatch.delenv("LOGNAME")


def test_a_name_that_is_there_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ada")
    environment.name_the_user()
    assert getpass.getuser() == "ada"
