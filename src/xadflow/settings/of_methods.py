"""Settings of one detector or explainer to a frozen typed value; a wrong key is answered with the nearest known one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from xadflow.errors import BadSettings
from xadflow.settings.params_errors import explained


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
        raise explained(err, kind, method=what) from err


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
