"""How both stages are trained.

Stage 1: IE-Net learns impressions, against an image discriminator and with two estimators of mutual information.

    L = 100 MSE(m,x) + w_gan L_gan(m) + w_loc L_MI,local + w_glob L_MI,global + w_prior KL(N(mu,sigma^2)||N(0,I))

The released code has the weights and the networks but no loop; the sum, Adam and the warm-up are reconstructed. The
estimators want the same as IE-Net, so they take their step on the same gradients; the image discriminator steps first,
by its own loss. The code that they see is drawn, mu + sigma * noise: otherwise sigma would say nothing.

Stage 2: Expert-Net learns to turn impressions into images and images into naive impressions; IE-Net is frozen.

    L = sum_dom w_adv L_adv + w_rec (|x_rec-x| + |m_rec-m|) + w_code (|S_I(x_hat)-S_I(x)| + |S_M(m_hat)-d|)
        + w_content (|C_I(x_hat)-C_M(m)| + |C_M(m_hat)-C_I(x)|) + w_pair (|x_hat-x|, |m_hat-m|)

Weights are the released ones but for the pairs, which are ours; the form is MUNIT's. The target S_I(x) is taken as it
is (no gradient): S could otherwise please the term by saying the same of every image.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from xadflow.detectors.utad.batches import corrupted, drawn, expert_sheet, impression_sheet
from xadflow.detectors.utad.expert_net import Expert, MunitExpert, ResidualExpert
from xadflow.detectors.utad.impression_net import Impression, ImpressionNet
from xadflow.detectors.utad.losses import (
    CodeJudge,
    Judge,
    edge_loss,
    impression_judge,
    information_loss,
    judge_loss,
    maker_loss,
    munit_judge,
    prior_divergence,
    similarity,
    small_judge,
    total_variation,
)
from xadflow.detectors.utad.settings import ExpertSettings, ImpressionSettings, is_warm, rate_share
from xadflow.training.games import judged, leave_gradients, weighted_sum
from xadflow.training.loop import Stage
from xadflow.training.seeds import drawing_from, seeded, weights_from


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
    """IE-Net with its judges, from the seed; `normals` are uint8 [N,C,H,W] on the device.

    Raises BadInput for sides the net cannot take.
    """

    def __init__(self, shape: tuple[int, int, int], settings: ImpressionSettings, normals: Tensor, seed: int) -> None:
        s, self.settings, self.normals, self.seed = settings, settings, normals, seed
        self.steps = s.steps(len(normals))
        with weights_from(seed, "utad", "impression"):
            self.players = ImpressionPlayers(shape, s).to(normals.device).train()
        net, codes = list(self.players.net.parameters()), list(self.players.codes.parameters())
        self.made_by = [*net, *codes]
        self.maker = torch.optim.Adam(net, s.learning_rate, s.betas, weight_decay=s.weight_decay)
        self.reader = torch.optim.Adam(codes, s.learning_rate_code, s.betas, weight_decay=s.weight_decay)
        self.judge = torch.optim.Adam(
            self.players.judge.parameters(), s.learning_rate_judge, s.betas, weight_decay=s.weight_decay
        )

    def stage(self, sheets: int) -> Stage:
        """The whole game."""
        return Stage(
            name="impression",
            steps=self.steps,
            module=self.players,
            optimisers={"maker": self.maker, "reader": self.reader, "judge": self.judge},
            step=self.step,
            rate=lambda number, highest: highest * rate_share("impression", self.settings, self.steps, number),
            sheet=self.sheet,
            sheets=sheets,
        )

    @torch.no_grad()
    def sheet(self, path: Path, done: int) -> None:
        """Write what the net makes of a few normals."""
        self.players.eval()
        path.write_bytes(impression_sheet(self.players.net, self.normals))
        self.players.train()

    def step(self, number: int) -> dict[str, Tensor]:
        """Train once; returns the losses, detached."""
        generator = seeded(self.seed, "utad impression", number, device=self.normals.device)
        x = drawn(self.normals, self.settings, generator)
        warm = is_warm(self.settings, self.steps, number)
        with drawing_from(generator, x.device):
            seen = self.players.net(corrupted(x, self.settings, generator))
        told: dict[str, Tensor] = {}
        if warm and self.settings.adversarial:
            loss = judge_loss(self.players.judge(x), self.players.judge(seen.m.detach()))
            told["judge"] = judged(loss, self.judge)
        terms = self.terms(x, seen, generator, warm=warm)
        leave_gradients(weighted_sum(terms, self.settings.model_dump()), self.made_by)
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


def build_expert(shape: tuple[int, int, int], settings: ExpertSettings) -> Expert:
    """An untrained Expert-Net."""
    return (MunitExpert if settings.form == "munit" else ResidualExpert)(shape[0], settings)


class ExpertPlayers(nn.Module):
    """Expert-Net and a discriminator for each domain."""

    def __init__(self, shape: tuple[int, int, int], settings: ExpertSettings) -> None:
        super().__init__()
        self.expert = build_expert(shape, settings)
        judge = munit_judge if settings.form == "munit" else small_judge
        self.of_images: Judge = judge(shape[0], min(shape[1:]), settings.width)
        self.of_impressions: Judge = judge(shape[0], min(shape[1:]), settings.width)


class ExpertGame:
    """Expert-Net against its judges, from the seed; `normals` are uint8 [N,C,H,W] on the device, `impress` is frozen
    and not changed.
    """

    def __init__(
        self, shape: tuple[int, int, int], settings: ExpertSettings, impress: ImpressionNet, normals: Tensor, seed: int
    ) -> None:
        s, self.settings, self.normals, self.seed = settings, settings, normals, seed
        self.steps, self.impress = s.steps(len(normals)), impress.requires_grad_(False).eval()
        with weights_from(seed, "utad", "expert"):
            self.players = ExpertPlayers(shape, s).to(normals.device).train()
        judges = [*self.players.of_images.parameters(), *self.players.of_impressions.parameters()]
        self.made_by = list(self.players.expert.parameters())
        self.maker = torch.optim.Adam(self.made_by, s.learning_rate, s.betas, weight_decay=s.weight_decay)
        self.judge = torch.optim.Adam(judges, s.learning_rate_judge, s.betas, weight_decay=s.weight_decay)

    def stage(self, sheets: int) -> Stage:
        """The whole game."""
        return Stage(
            name="expert",
            steps=self.steps,
            module=self.players,
            optimisers={"maker": self.maker, "judge": self.judge},
            step=self.step,
            rate=lambda number, highest: highest * rate_share("expert", self.settings, self.steps, number),
            sheet=self.sheet,
            sheets=sheets,
        )

    @torch.no_grad()
    def sheet(self, path: Path, done: int) -> None:
        """Write what the players make of a few normals."""
        path.write_bytes(expert_sheet(self.impress, self.players.expert, self.normals))

    def step(self, number: int) -> dict[str, Tensor]:
        """Train once; returns the losses, detached."""
        s = self.settings
        generator = seeded(self.seed, "utad expert", number, device=self.normals.device)
        x = drawn(self.normals, s, generator)
        with torch.no_grad():
            m = self.impress(x).m
        d = torch.randn(len(x), s.detail, generator=generator, device=x.device)
        warm = is_warm(s, self.steps, number)
        expert = self.players.expert
        own = expert.detail(x).flatten(1)
        x_hat, m_hat = expert.image(m, own), expert.impression(x, d)
        told: dict[str, Tensor] = {}
        if warm and s.adversarial:
            images, impressions = self.players.of_images, self.players.of_impressions
            of_images = judge_loss(images(x), images(x_hat.detach()))
            told["judge"] = judged(of_images + judge_loss(impressions(m), impressions(m_hat.detach())), self.judge)
        terms = self.terms(x, m, own, d, x_hat, m_hat, warm=warm)
        leave_gradients(weighted_sum(terms, s.model_dump()), self.made_by)
        self.maker.step()
        return told | {name: value.detach() for name, value in terms.items()}

    def terms(
        self, x: Tensor, m: Tensor, own: Tensor, d: Tensor, x_hat: Tensor, m_hat: Tensor, *, warm: bool
    ) -> dict[str, Tensor]:
        """The terms whose weight is not 0, by the name of their weight; scalars."""
        s, expert = self.settings, self.players.expert
        terms: dict[str, Tensor] = {}
        if s.paired_image:
            terms["paired_image"] = F.l1_loss(x_hat, x)
        if s.paired_impression:
            terms["paired_impression"] = F.l1_loss(m_hat, m)
        if s.reconstruction or s.content:
            terms |= {
                name: value for name, value in expert.own_terms(x, m, x_hat, m_hat).items() if s.model_dump()[name]
            }
        if s.code:
            kept = F.l1_loss(expert.detail(x_hat).flatten(1), own.detach())
            terms["code"] = kept + F.l1_loss(expert.detail_of_impression(m_hat).flatten(1), d)
        if s.edges:
            terms["edges"] = edge_loss(x_hat, x)
        if s.adversarial and warm:
            made = maker_loss(self.players.of_images(x_hat))
            terms["adversarial"] = made + maker_loss(self.players.of_impressions(m_hat))
        return terms
