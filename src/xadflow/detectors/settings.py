"""Settings of one detector to a frozen typed value; a wrong key is answered with the nearest known one."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from xadflow.errors import BadSettings


class FrozenSettings(BaseModel):
    """Base of every detector's settings: unknown keys are refused, values cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Kind = TypeVar("Kind", bound=FrozenSettings)


def validated(kind: type[Kind], settings: Mapping[str, object], method: str) -> Kind:
    """The settings as `kind`. Raises BadSettings that names the key, the value and the nearest known key."""
    try:
        return kind.model_validate(dict(settings))
    except ValidationError as err:
        first = err.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"])) or "settings"
        if first["type"] == "extra_forbidden":
            known = sorted(kind.model_fields)
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            next_step = f"did you mean {near[0]!r}?" if near else f"known keys: {known}"
            raise BadSettings(f"detector {method} has no setting {key!r}", seen=first["input"],
                              next_step=next_step) from err  # fmt: skip
        raise BadSettings(f"setting {key} of detector {method}: {first['msg']}", seen=first["input"],
                          next_step="mend it under detectors in params.yaml") from err  # fmt: skip
