"""Thin Prefect tasks, one a step: retries, timeouts, cache keys and limits around one call into xadflow."""
