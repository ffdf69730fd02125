"""What is wrong with params.yaml, in words: key, value seen, nearest known key, and what to do. No secret is shown."""

from __future__ import annotations

import difflib
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from xadflow.errors import BadSettings

NOT_SHOWN = "a value that is not shown"
CHECK = "`xadflow doctor` checks the file"
UNKNOWN_NAME, ODD_CATALOGUE = "unknown_name", "odd_catalogue"


def explained(err: ValidationError, root: type[BaseModel]) -> BadSettings:
    """What pydantic found, as the error that a user sees; `root` is the settings model that was validated."""
    first = err.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"] if part != "[key]") or "params.yaml"
    more = f" (and {err.error_count() - 1} more)" if err.error_count() > 1 else ""
    shown = _shown(first["loc"], first["input"])
    if first["type"] in (UNKNOWN_NAME, ODD_CATALOGUE):
        return _explained_names(first)
    if first["type"] == "extra_forbidden":
        key = str(first["loc"][-1])
        known = _known_keys(root, first["loc"][:-1])
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        mend = f"did you mean {near[0]!r}?" if near else f"known keys here: {', '.join(known)}"
        return BadSettings(
            f"unknown key {where} in params.yaml{more}",
            seen=shown,
            next_step=f"{mend} {CHECK}" if near else f"{mend}; {CHECK}",
        )
    if first["type"] == "missing":
        return BadSettings(f"{where} is missing in params.yaml{more}", seen=shown, next_step=f"add it; {CHECK}")
    said = first["msg"].removeprefix("Value error, ")
    return BadSettings(
        f"{where} in params.yaml: {said}{more}",
        seen=shown,
        next_step=f"mend it, the comments there say what it means; {CHECK}",
    )


def _shown(location: tuple[int | str, ...], value: object) -> object:
    """A value as an error may state it: a web address anywhere, also under a misspelt key, may hold a token."""
    if location[:1] == ("notify",) or "://" in str(value):
        return NOT_SHOWN
    return f"keys {', '.join(sorted(map(str, value)))}" if isinstance(value, dict) else value


def _explained_names(first: ErrorDetails) -> BadSettings:
    told = first["ctx"]
    if first["type"] == ODD_CATALOGUE:
        return BadSettings(
            "catalogue in params.yaml must name each data set under `datasets`, once",
            seen=told["seen"],
            next_step=f"add or remove that name on one side; {CHECK}",
        )
    near = difflib.get_close_matches(told["seen"], told["known"], n=1)
    mend = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(told['known'])};"
    return BadSettings(
        f"{told['where']} in params.yaml names what is not there", seen=told["seen"], next_step=f"{mend} {CHECK}"
    )


def _known_keys(root: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Field names of the settings model at a location, walking through mappings by their value type."""
    model = root
    steps = [part for part in location if isinstance(part, str)]
    while steps:
        annotation = model.model_fields[steps.pop(0)].annotation
        inner = _models_in(annotation)
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            model = annotation
        elif inner:
            model = inner[0]
            steps = steps[1:]  # the mapping's own key
        else:
            return []
    return sorted(model.model_fields)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """Settings models inside the arguments of a mapping or a tuple, however deep."""
    found: list[type[BaseModel]] = []
    for one in get_args(annotation):
        found += [one] if isinstance(one, type) and issubclass(one, BaseModel) else _models_in(one)
    return found
