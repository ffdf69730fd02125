"""What is wrong with params.yaml, in words: key, value seen, nearest known key, and what to do. No secret is shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from xadflow.errors import BadSettings, nearest
from xadflow.settings.plain_yaml import CHECK

_LONGEST = 300
NOT_SHOWN = "a value that is not shown"
UNKNOWN_NAME, ODD_CATALOGUE = "unknown_name", "odd_catalogue"


def explained(err: ValidationError, root: type[BaseModel], *, place: str = "", method: str = "") -> BadSettings:
    """What pydantic found, as the error that a user sees; the only translator of pydantic's errors.

    `root` is the settings model that was validated: of params.yaml, of what stands under `place` in it, or of a
    `method` ("detector hsc"), whose settings may come from elsewhere.
    """
    first = err.errors(include_url=False)[0]
    if first["type"] in (UNKNOWN_NAME, ODD_CATALOGUE):
        return _explained_names(first)
    steps = [str(part) for part in first["loc"] if part != "[key]"]
    where = ".".join([place, *steps] if place else steps) or ("settings" if method else "params.yaml")
    more = f" (and {err.error_count() - 1} more)" if err.error_count() > 1 else ""
    shown = _shown(first["loc"], first["input"])
    checked = not place and not method  # the doctor reads params.yaml, without what only a method or a source knows
    if first["type"] == "extra_forbidden":
        known, block = _known_keys(root, first["loc"][:-1]), ".".join([*steps[:-1], ""]) if method else ""
        near = nearest(steps[-1], known, cutoff=0.5)
        mend = f"did you mean {block + near!r}?" if near else f"known keys here: {', '.join(known)}"
        return BadSettings(
            f"{method} has no setting {where!r}{more}" if method else f"unknown key {where} in params.yaml{more}",
            seen=shown,
            next_step=mend + (f"{'' if near else ';'} {CHECK}" if checked else ""),
        )
    where = f"setting {where} of {method}" if method else where
    check = f"; {CHECK}" if checked else ""
    if first["type"] == "missing":
        wrong = f"{where} is missing" if method else f"{where} is missing in params.yaml"
        return BadSettings(wrong + more, seen=shown, next_step=f"add it{check}")
    said = first["msg"].removeprefix("Value error, ")
    if method:
        return BadSettings(f"{where}: {said}{more}", seen=shown, next_step="mend it in params.yaml")
    return BadSettings(
        f"{where} in params.yaml: {said}{more}",
        seen=shown,
        next_step=f"mend it, the comments there say what it means{check}",
    )


def _shown(location: tuple[int | str, ...], value: object) -> object:
    """A value as an error may state it: a web address anywhere, also under a misspelt key, may hold a token."""
    if location[:1] == ("notify",) or "://" in str(value):
        return NOT_SHOWN
    shown = f"keys {', '.join(sorted(map(str, value)))}" if isinstance(value, dict) else value
    return shown if len(str(shown)) <= _LONGEST else f"{str(shown)[:_LONGEST]}..."


def _explained_names(first: ErrorDetails) -> BadSettings:
    told = first["ctx"]
    if first["type"] == ODD_CATALOGUE:
        return BadSettings(
            "catalogue in params.yaml must name each data set under `datasets`, once",
            seen=told["seen"],
            next_step=f"add or remove that name on one side; {CHECK}",
        )
    near = nearest(told["seen"], told["known"])
    mend = f"did you mean {near!r}?" if near else f"use one of {', '.join(told['known'])};"
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
        if not inner:
            return []
        model = inner[0]
        if any(get_origin(one) in (dict, Mapping) for one in (annotation, *get_args(annotation))):
            steps = steps[1:]  # the mapping's own key
    return sorted(model.model_fields)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The settings model that an annotation is, or those inside its arguments, however deep."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for one in get_args(annotation) for model in _models_in(one)]
