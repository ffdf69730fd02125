"""See that the explainers of params.yaml take the settings given there, before any work: a night plans for minutes
else.

Apart from `load_settings`, because each explainer knows its own settings, third parties' included, and to ask them
brings torch in: `xadflow --help` must not wait for that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xadflow.errors import BadSettings, UnknownName
from xadflow.settings import Settings

_NOT_OURS = (TypeError, ValueError, ImportError, AttributeError)  # what a third party's explainer may answer with


def check_explainers(settings: Settings) -> None:
    """Every block under `explainers` and `retrain.explainers` is built once; nothing is kept.

    Raises BadSettings that names the place in params.yaml, the key and the value: an explainer that is not installed,
    settings that it does not take, or a block that trains what is not trained or does not suit the detector.
    """
    from xadflow.explainers import needs_training, why_unfit

    for name, own in settings.explainers.items():
        _check(f"explainers.{name}", name, own)
    for name, blocks in settings.retrain.explainers.items():
        for number, block in enumerate(blocks):
            where = f"retrain.explainers.{name}{f'.{number}' if len(blocks) > 1 else ''}"
            if not needs_training(name):
                raise BadSettings(
                    f"{where} in params.yaml: this explainer is not trained for a detector",
                    seen=name,
                    next_step="name it under explain.explainers, and its settings under explainers",
                )
            for detector in block.detectors:
                if (reason := why_unfit(name, settings.detector(detector).method)) is not None:
                    raise BadSettings(
                        f"{where}.detectors in params.yaml: {reason}",
                        seen=detector,
                        next_step="take that detector out of the block",
                    )
            _check(f"{where}.settings", name, {**settings.explainer(name), **block.settings})


def _check(where: str, name: str, given: Mapping[str, Any]) -> None:
    from xadflow.explainers import build_explainer

    try:
        build_explainer(name, **given)
    except (BadSettings, UnknownName) as err:
        raise BadSettings(f"{where} in params.yaml: {err.wrong}", seen=err.seen, next_step=err.next_step) from err
    except _NOT_OURS as err:
        raise BadSettings(
            f"{where} in params.yaml: the explainer {name} cannot be built with these settings",
            seen=f"{type(err).__name__}: {err}"[:200],
            next_step="mend them, or take the explainer out of params.yaml",
        ) from err
