"""The parts of the evidence tables behind `store.py` and `audit.py`: ledger, commits, keys, locks, decisions."""
