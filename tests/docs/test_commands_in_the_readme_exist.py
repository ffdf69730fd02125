import re
import subprocess

from tests.checkout import PROJECT
from xadflow.cli.main import cli

README = (PROJECT / "README.md").read_text()


def test_make_targets_of_the_readme_are_listed_and_do_their_own_set_up() -> None:
    targets = set(re.findall(r"^\$ make ([a-z-]+)", README, flags=re.M)) | set(re.findall(r"`make ([a-z-]+)`", README))
    assert {"demo", "test", "server"} <= targets
    listed = subprocess.run(["make", "help"], cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    makefile = (PROJECT / "Makefile").read_text()
    for target in targets:
        assert f"  {target} " in listed
        assert re.search(rf"^{target}: (setup|check)\b", makefile, flags=re.M), f"{target} does not set up by itself"


def test_xadflow_commands_of_the_readme_exist_with_their_options() -> None:
    for line in re.findall(r"^\$ xadflow (.*)$", README, flags=re.M):
        words = line.split()
        command = cli.get_command(None, words[0])
        assert command is not None, line
        if words[0] == "data":
            command = command.commands[words[1]]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, line


def test_every_command_of_the_contract_exists() -> None:
    for name in ("demo", "data", "retrain", "explain", "score", "models", "audit", "probe", "doctor"):
        assert cli.get_command(None, name) is not None
    for group, names in (
        ("data", ("add", "manifest", "validate")),
        ("models", ("list",)),
        ("audit", ("verify", "replay", "show", "export")),
    ):
        assert set(names) <= set(cli.get_command(None, group).commands)


def test_files_that_the_readme_links_to_are_there() -> None:
    for target in re.findall(r"\]\(((?!http)[^)]+)\)", README):
        assert (PROJECT / target).exists(), target
