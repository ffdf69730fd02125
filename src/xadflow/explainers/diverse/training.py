"""Training of the diverse counterfactuals: generator and concept classifier against a discriminator, detector frozen.

    min_{G,R} max_D   l_gan (L_D + L_G) + l_phi L_phi + l_rec L_rec + l_cyc L_cyc + l_r L_con + l_div L_div + l_prox
                      L_prox + l_fdiv L_fdiv + l_pairs L_pairs

Source: arXiv 2402.14469, equation of section 3 (its L_phi is a log-likelihood, hence its minus), with the four last
terms added. Adam on D and on G and R together, one step each; the generator that is kept is an exponential moving
average. With `pretrain`, the first steps are of L_pairs alone. Everything random in a step is a function of (seed,
step), so a training that was killed goes on exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from xadflow.detectors.base import Detector
from xadflow.errors import BadInput
from xadflow.explainers.diverse.game import Game, Players
from xadflow.explainers.diverse.networks import Generator
from xadflow.explainers.diverse.pairs import drawn_pairs
from xadflow.explainers.diverse.places import usual_heat
from xadflow.explainers.diverse.samples import SHEETS, write_samples
from xadflow.explainers.diverse.settings import DiverseSettings
from xadflow.explainers.trained import GeneratorRun, Guidance, Pairs, Wanted
from xadflow.training.loop import Stage, run_stage
from xadflow.training.progress import Progress
from xadflow.training.seeds import seeded, weights_from

BETAS = (0.0, 0.9)


@dataclass(frozen=True)
class TrainedGenerator:
    """The averaged generator in evaluation mode; `history` holds (step, name, value).

    `usual` float32 [L,H,W] is the heat of normals that decides where an image may change (places.py), None without.
    """

    generator: Generator
    resumed_from: int
    history: tuple[tuple[int, str, float], ...]
    usual: Tensor | None = None


def train_generator(
    detector: Detector,
    normals: Tensor,
    anomalies: Tensor,
    settings: DiverseSettings,
    run: GeneratorRun,
    guidance: Guidance | None = None,
) -> TrainedGenerator:
    """Train on uint8 [N,C,H,W] of both kinds; `anomalies` are pseudo-anomalies or real ones outside of test and gate.

    The detector is not changed: no weight of it gets a gradient. `guidance` holds what the settings want (`wanted`).

    Raises:
        BadInput: one of the two is empty, a side the generator cannot take, or guidance that the settings want is
        missing. TrainingFailed: a loss or a weight is not a number; the last checkpoint stays.
    """
    if not len(normals) or not len(anomalies):
        raise BadInput(
            "a generator learns from normal and from anomalous images",
            seen=(len(normals), len(anomalies)),
            next_step="name a data set under outliers of this one, or give it known defects",
        )
    guidance = _complete(guidance or Guidance(), settings)
    usual = usual_heat(detector, guidance.held_out.to(run.device)) if guidance.held_out is not None else None
    with weights_from(run.seed, "diverse", "weights"):
        players = Players(detector.input_shape, settings).to(run.device)
    players.train()
    made_by = [*players.generator.parameters(), *players.classifier.parameters()]
    makers = torch.optim.Adam(made_by, settings.learning_rate, betas=BETAS)
    judge = torch.optim.Adam(players.discriminator.parameters(), settings.learning_rate, betas=BETAS)
    game = Game(detector, settings, players, guidance, usual)
    banks = (normals.to(run.device), anomalies.to(run.device))
    pairs = None if guidance.pairs is None else Pairs(*(one.to(run.device) for one in vars(guidance.pairs).values()))

    def step(number: int) -> dict[str, Tensor]:
        with torch.autocast(run.device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
            some = None
            if pairs is not None:
                generator = seeded(run.seed, "pairs", number, device=run.device)
                some = drawn_pairs(pairs, banks[0], settings.pair_images, generator)
            if some is not None and number < settings.pretrain:
                losses = game.pair_step(some, makers, made_by)
            else:
                batch = game.batch(banks, seeded(run.seed, "diverse", number, device=run.device))
                losses = game.judge_step(batch, judge) | game.maker_step(batch, makers, made_by, some)
        players.follow(number)
        return losses

    stage = Stage(
        name="",
        steps=settings.steps,
        module=players,
        optimisers={"makers": makers, "judge": judge},
        step=step,
        rate=partial(_rate, settings),
        sheet=partial(write_samples, detector, players, banks, settings, usual),
        sheets=SHEETS if run.samples else 0,
    )
    outcome = run_stage(stage, run.folder, run.identity, Progress(run, settings.steps))
    return TrainedGenerator(players.average.eval(), outcome.resumed_from, outcome.history, usual)


def _complete(guidance: Guidance, settings: DiverseSettings) -> Guidance:
    """What the settings want of it and no more. Raises BadInput where something of that is missing."""
    wanted = settings.wanted or Wanted()
    given = {"pairs": guidance.pairs, "features": guidance.features, "held_out": guidance.held_out}
    asked = {"pairs": wanted.rounds > 0, "features": wanted.features is not None, "held_out": wanted.held_out}
    missing = [name for name, want in asked.items() if want and given[name] is None]
    if len(guidance.companions) != len(wanted.companions):
        missing.append("companions")
    if missing:
        raise BadInput(
            "the settings of the generator want more than it was given",
            seen=f"missing: {', '.join(missing)}",
            next_step="give `fit` the guidance that `wanted` names, or leave these settings out",
        )
    kept = {name: given[name] if want else None for name, want in asked.items()}
    return Guidance(companions=guidance.companions, **kept)  # type: ignore[arg-type]


def _rate(settings: DiverseSettings, step: int, highest: float) -> float:
    """That of `pretrain`, then constant for the first half of the others, then linear towards `final` of it."""
    if step < settings.pretrain:
        return settings.pretrain_rate
    past = max(0.0, 2.0 * (step - settings.pretrain) / (settings.steps - settings.pretrain) - 1.0)
    return highest * (1.0 - past * (1.0 - settings.final))
