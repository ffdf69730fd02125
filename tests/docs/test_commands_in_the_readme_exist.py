import re
import subprocess

from tests.checkout import PROJECT
from xadflow.cli.main import cli

README = (PROJECT / "README.md").read_text()


COMMANDS = {
    "demo",
    "doctor",
    "explain",
    "probe",
    "retrain",
    "score",
    *(f"audit {name}" for name in ("accept", "export", "replay", "show", "verify")),
    *(f"data {name}" for name in ("add", "fetch", "images", "list", "manifest", "origin", "remove", "validate")),
    *(f"models {name}" for name in ("compare", "list", "promote", "recalibrate", "rollback")),
}
LATER = {
    "erase",
    "retention",
    "review",
    "team",
    "data reviews",
    *(f"models {name}" for name in ("add", "export", "pull")),
    *(f"review {name}" for name in ("serve", "user add")),
    *(f"team {name}" for name in ("backup", "init", "migrate", "restore", "user add")),
}
"""Commands that the contract names and later issues bring."""


def commands() -> set[str]:
    """Every command there is, those of groups as "GROUP COMMAND"."""
    found = {name: cli.get_command(None, name) for name in cli.list_commands(None)}
    own = {name for name, command in found.items() if not hasattr(command, "commands")}
    return own | {f"{name} {sub}" for name, group in found.items() for sub in getattr(group, "commands", ())}


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
    """All there is and nothing else, so that a command of a later issue goes over from LATER to here when it comes."""
    assert commands() == COMMANDS
    assert not COMMANDS & LATER, "they are there: take them out of LATER"


def test_commands_of_later_issues_join_groups_that_are_there_or_come_with_them() -> None:
    groups = {name.partition(" ")[0] for name in COMMANDS if " " in name}
    new = {name for name in LATER if " " not in name}
    assert {name.partition(" ")[0] for name in LATER} <= groups | new, "misspelt"


def test_files_that_the_readme_links_to_are_there() -> None:
    for target in re.findall(r"\]\(((?!http)[^)]+)\)", README):
        assert (PROJECT / target).exists(), target
