"""What Prefect and its short-lived server log stays out of a person's command, unless they ask for it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

ASKED = """
from xadflow.settings import interactive_environment
interactive_environment()
from prefect.settings import get_current_settings
found = get_current_settings()
print(found.logging.level, found.server.logging_level)
"""


@pytest.mark.parametrize(
    ("given", "levels"), [({}, "CRITICAL CRITICAL"), ({"PREFECT_LOGGING_SERVER_LEVEL": "WARNING"}, "CRITICAL WARNING")]
)
def test_both_are_silent_and_what_is_set_stays(given, levels):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    done = subprocess.run(
        [sys.executable, "-c", ASKED], env={**environment, **given}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == levels
