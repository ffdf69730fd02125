"""Stage 1: IE-Net learns impressions, against an image discriminator and with two estimators of mutual information.

    L = 100 MSE(m,x) + w_gan L_gan(m) + w_loc L_MI,local + w_glob L_MI,global + w_prior KL(N(mu,sigma^2)||N(0,I))

The released code has the weights and the networks but no loop; the sum, Adam and the warm-up are reconstructed. The
estimators want the same as IE-Net, so they take their step on the same gradients; the image discriminator steps first,
by its own loss. The code that they see is drawn, mu + sigma * noise: otherwise sigma would say nothing.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from xadflow.detectors.base import FitRun
from xadflow.detectors.utad.batches import corrupted, drawn
from xadflow.detectors.utad.impression_net import Impression, ImpressionNet
from xadflow.detectors.utad.judges import CodeJudge, impression_judge
from xadflow.detectors.utad.losses import (
    edge_loss,
    information_loss,
    judge_loss,
    maker_loss,
    prior_divergence,
    similarity,
    total_variation,
)
from xadflow.detectors.utad.rates import is_warm, rate_share
from xadflow.detectors.utad.settings import ImpressionSettings
from xadflow.detectors.utad.sheets import impression_sheet
from xadflow.training.progress import Progress
from xadflow.training.seeds import seeded
from xadflow.training.stages import Stage, Trained, drops_from, run_stage, weights_from


class ImpressionPlayers(nn.Module):
    """IE-Net and its judges."""

    def __init__(self, shape: tuple[int, int, int], settings: ImpressionSettings) -> None:
        super().__init__()
        # See backbones.Trunk: batch normalisation's backward pass on contiguous activations can be wrong on a CPU.
        self.net = ImpressionNet(shape, settings).to(memory_format=torch.channels_last)
        self.judge = impression_judge(shape[0], min(shape[1:]))
        grid = (shape[1] // self.net.stride, shape[2] // self.net.stride)
        self.codes = CodeJudge(settings.code, self.net.z_channels, grid)


class ImpressionGame:
    """One step of all players; `normals` are uint8 [N,C,H,W] on the device."""

    def __init__(
        self, players: ImpressionPlayers, settings: ImpressionSettings, normals: Tensor, seed: int, steps: int
    ) -> None:
        self.players, self.settings, self.normals, self.seed, self.steps = players, settings, normals, seed, steps
        s = settings
        self.made_by = [*players.net.parameters(), *players.codes.parameters()]
        self.maker = torch.optim.Adam(players.net.parameters(), s.learning_rate, s.betas, weight_decay=s.weight_decay)
        self.reader = torch.optim.Adam(
            players.codes.parameters(), s.learning_rate_code, s.betas, weight_decay=s.weight_decay
        )
        self.judge = torch.optim.Adam(
            players.judge.parameters(), s.learning_rate_judge, s.betas, weight_decay=s.weight_decay
        )

    def step(self, number: int) -> dict[str, Tensor]:
        """Train once; returns the losses, detached."""
        generator = seeded(self.seed, "utad impression", number, device=self.normals.device)
        x = drawn(self.normals, self.settings, generator)
        warm = is_warm(self.settings, self.steps, number)
        with drops_from(generator, x.device):
            seen = self.players.net(corrupted(x, self.settings, generator))
        told: dict[str, Tensor] = {}
        if warm and self.settings.adversarial:
            loss = judge_loss(self.players.judge(x), self.players.judge(seen.m.detach()))
            self.judge.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.judge.step()
            told["judge"] = loss.detach()
        terms = self.terms(x, seen, generator, warm=warm)
        weights = self.settings.model_dump()
        total = torch.stack([weights[name] * value for name, value in terms.items()]).sum()
        for parameter, gradient in zip(
            self.made_by, torch.autograd.grad(total, self.made_by, allow_unused=True), strict=True
        ):
            parameter.grad = gradient
        self.maker.step()
        self.reader.step()
        return told | {name: value.detach() for name, value in terms.items()}

    def terms(self, x: Tensor, seen: Impression, generator: Generator, *, warm: bool) -> dict[str, Tensor]:
        """The terms whose weight is not 0, by the name of their weight; scalars."""
        s = self.settings
        terms = {"reconstruction": F.mse_loss(seen.m, x)}
        if s.prior:
            terms["prior"] = prior_divergence(seen.mu, seen.logvar)
        if s.variation:
            terms["variation"] = total_variation(seen.m)
        if s.similarity:
            terms["similarity"] = 1.0 - similarity(seen.m, x).mean()
        if s.edges:
            terms["edges"] = edge_loss(seen.m, x)
        if warm and s.adversarial:
            terms["adversarial"] = maker_loss(self.players.judge(seen.m))
        if warm and (s.mi_local or s.mi_global):
            noise = torch.randn(seen.mu.shape, generator=generator, device=x.device)
            code = seen.mu + seen.sigma * noise
            own = self.players.codes(code, seen.z)
            foreign = self.players.codes(code, seen.z.roll(1, dims=0))  # the neighbour's map: never its own
            terms["mi_local"], terms["mi_global"] = (information_loss(*pair) for pair in zip(own, foreign, strict=True))
        return terms


def train_impression(
    shape: tuple[int, int, int],
    settings: ImpressionSettings,
    normals: Tensor,
    run: FitRun,
    identity: str,
    progress: Progress,
    sheets: int,
) -> tuple[ImpressionNet, Trained]:
    """IE-Net, frozen and in evaluation mode. Raises BadInput for sides the net cannot take, TrainingFailed."""
    with weights_from(run.seed, "utad", "impression"):
        players = ImpressionPlayers(shape, settings).to(normals.device)
    steps = settings.steps(len(normals))
    game = ImpressionGame(players.train(), settings, normals, run.seed, steps)

    def sheet() -> bytes:
        players.eval()
        with torch.no_grad():
            drawing = impression_sheet(players.net, normals)
        players.train()
        return drawing

    stage = Stage(
        "impression",
        steps,
        players,
        {"maker": game.maker, "reader": game.reader, "judge": game.judge},
        {"maker": settings.learning_rate, "reader": settings.learning_rate_code, "judge": settings.learning_rate_judge},
        partial(rate_share, "impression", settings, steps),
        game.step,
        sheet,
    )
    outcome = run_stage(stage, run, identity, progress, sheets)
    return players.net.requires_grad_(False).eval(), outcome
