"""Settings of one detector or explainer to a frozen typed value; a wrong key is answered with the nearest known one."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from xadflow.errors import BadSettings


class MethodSettings(BaseModel):
    """Base of every method's settings: unknown keys are refused, numbers are finite, values cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Kind = TypeVar("Kind", bound=MethodSettings)


def validated(kind: type[Kind], given: Mapping[str, object], what: str) -> Kind:
    """The settings as `kind`; `what` is "detector NAME" or "explainer NAME".

    Raises:
        BadSettings: naming the key, the value and the nearest known key.
    """
    try:
        return kind.model_validate(dict(given))
    except ValidationError as err:
        first = err.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"])) or "settings"
        if first["type"] == "extra_forbidden":
            known = _known(kind, first["loc"])
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            raise BadSettings(
                f"{what} has no setting {key!r}",
                seen=first["input"],
                next_step=f"did you mean {near[0]!r}?" if near else f"known keys: {known}",
            ) from err
        raise BadSettings(
            f"setting {key} of {what}: {first['msg']}", seen=first["input"], next_step="mend it in params.yaml"
        ) from err


def configured(
    kind: type[Kind], given: Mapping[str, object], published: Mapping[str, Mapping[str, object]], what: str
) -> Kind:
    """As :func:`validated`; with `configuration: published` in `given`, what a block leaves out is as in `published`.

    Raises:
        BadSettings: as :func:`validated`, or a block that is no block.
    """
    merged = dict(given)
    if merged.get("configuration") == "published":
        for block, values in published.items():
            own = merged.get(block, {})
            if not isinstance(own, Mapping):
                raise BadSettings(
                    f"`{block}` of {what} is a block of settings", seen=own, next_step="mend it in params.yaml"
                )
            merged[block] = {**values, **own}
    return validated(kind, merged, what)


def _known(kind: type[BaseModel], place: tuple[int | str, ...]) -> list[str]:
    """Keys beside the one at `place`, which may lie in a block of settings within the settings."""
    block, prefix = kind, ""
    for name in place[:-1]:
        field = block.model_fields.get(str(name))
        annotations = (field.annotation, *get_args(field.annotation)) if field else ()
        inner = [part for part in annotations if isinstance(part, type) and issubclass(part, BaseModel)]
        if not inner:
            return sorted(kind.model_fields)
        block, prefix = inner[0], f"{prefix}{name}."
    return sorted(prefix + key for key in block.model_fields)
