"""The nightly report: what is shown (`evidence.py`) and the page itself (`page.py`)."""
