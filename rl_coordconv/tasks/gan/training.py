"""A GAN on two-object Sort-of-CLEVR: one training run, measured by where its objects stand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rl_coordconv.errors import UserError, choose
from rl_coordconv.tasks.experiment import Experiment, Outcome, Run
from rl_coordconv.tasks.gan.coverage import coverage, find_objects, walk_scores
from rl_coordconv.tasks.gan.figures import SHOWN_WALKS, draw_gan
from rl_coordconv.tasks.gan.models import ARMS, IMAGE_SIZES, INITS, build_gan
from rl_coordconv.tasks.gan.sort_of_clevr import make_scenes, render
from rl_coordconv.tasks.networks import count_parameters
from rl_coordconv.tasks.seed_statistics import Numbers

DATA_SEED_STEP = 1_000_000
WALKS, WALK_STEPS = 32, 32
SAMPLES_SHOWN = 64


@dataclass(kw_only=True)
class GanConfig(Experiment):
    """Train GANs on images of one red and one blue object, plain and with CoordConv.

    Args:
        name: Folder of the experiment, inside of output
        output: Folder of all experiments
        seeds: One run per arm each
        device: auto, cpu, cuda or cuda:N
        image_size: Height and width of the images: 16, 32, 64 or 128 (64 in the paper)
        width: Channels of the layers next to the image (64 in the paper)
        latent: Numbers in a latent vector (256 in the paper)
        images: Different images in the training data (50000 in the paper)
        steps: Training steps (156250 in the paper: 50 epochs of batches of 16)
        batch_size: Images per training step (16 in the paper)
        lr_generator: Adam's learning rate; the paper's, above that of the discriminator
        lr_discriminator: Adam's learning rate
        eval_every: Steps between measurements for TensorBoard
        eval_images: Generated images per measurement
        generator_steps: Updates of the generator per training step (2 in the paper)
        init: Initial weights: dcgan, or he (the paper's, where its own generator has no batch norm)
        stop_at: Share of well-formed images at which a run stops, so that arms compare at the same quality
            (null: after all steps)
        paper_generator: Also train the paper's own CoordConv generator, six times slower on a CPU
    """

    measurements: ClassVar[tuple[str, ...]] = (
        "well_formed",
        "entropy_ratio",
        "difference_entropy_ratio",
        "cells_visited",
        "total_variation",
        "joint_distance",
        "mean_image_distance",
        "walk_well_formed",
        "walk_largest_jump",
        "steps",
    )
    free: ClassVar[tuple[str, ...]] = (*Experiment.free, "paper_generator")

    name: str = "gan"
    image_size: int = 32
    width: int = 16
    latent: int = 64
    images: int = 50_000
    steps: int = 4_000
    batch_size: int = 32
    lr_generator: float = 5e-4
    lr_discriminator: float = 1e-4
    eval_every: int = 500
    eval_images: int = 2_000
    generator_steps: int = 1
    init: str = "dcgan"
    stop_at: float | None = None
    paper_generator: bool = False

    def check(self) -> None:
        """Refuse options that cannot be run, before anything is written."""
        choose("init", self.init, INITS)
        if self.stop_at is not None and not 0 < self.stop_at <= 1:
            raise UserError(f"stop_at is {self.stop_at}: it must be above 0 and at most 1")
        super().check()
        if self.image_size not in IMAGE_SIZES:
            sizes = ", ".join(map(str, IMAGE_SIZES))
            raise UserError(f"image_size is {self.image_size}: it must be one of {sizes}")
        if self.batch_size < 2:
            raise UserError("batch_size is 1: batch normalisation needs 2 or more images")
        if self.eval_images < SAMPLES_SHOWN:
            raise UserError(f"eval_images is {self.eval_images}: it must be {SAMPLES_SHOWN} or more")

    @property
    def arms(self) -> tuple[str, ...]:
        return ARMS if self.paper_generator else ARMS[:2]

    @property
    def title(self) -> str:
        return f"GAN, {self.image_size} pixels, {self.steps} steps"

    def facts(self) -> dict[str, Any]:
        fresh = find_objects(render(make_scenes(self.eval_images, self.image_size, 2 * DATA_SEED_STEP)))
        data = coverage(fresh, find_objects(self.reference(self.seeds[0])), self.image_size)
        counts = {arm: [count_parameters(net) for net in self.make_networks(arm)] for arm in self.arms}
        return {"data": data, "parameters": counts}

    def reference(self, seed: int) -> Tensor:
        """Return as many fresh images of data as are generated, ``(images, 3, size, size)``."""
        return render(make_scenes(self.eval_images, self.image_size, seed + DATA_SEED_STEP))

    def make_networks(self, arm: str) -> tuple[nn.Module, nn.Module]:
        """Return a new generator and a new discriminator of an arm."""
        return build_gan(arm, self.image_size, self.width, self.latent, self.init)

    def train(self, run: Run) -> Outcome:
        """
        Train one arm with one seed.

        :param run: Arm, seed, device, TensorBoard and progress bar
        :return: Coverage at the end; images, a latent walk and the objects' centres for the figure
        """
        gan = Gan(self, run.arm, run.device)
        scenes = make_scenes(self.images, self.image_size, run.seed).to(run.device)
        data_images = self.reference(run.seed)
        data = find_objects(data_images)
        latents = torch.randn(
            self.eval_images, self.latent, generator=torch.Generator().manual_seed(run.seed)
        )
        for step in range(1, self.steps + 1):
            real = render(scenes[torch.randint(len(scenes), (self.batch_size,), device=run.device)])
            loss_d, loss_g = gan.step(real)
            run.show_progress(step, self.steps, "loss D {:.2f}  G {:.2f}", loss_d, loss_g)
            if step % 50 == 0:
                run.writer.add_scalar("loss/discriminator", loss_d, step)
                run.writer.add_scalar("loss/generator", loss_g, step)
            if step % self.eval_every == 0 or step == self.steps:
                images = gan.paint(latents)
                found = find_objects(images)
                numbers = coverage(found, data, self.image_size)
                log(run, step, images, numbers)
                if self.stop_at is not None and found.well_formed.mean() >= self.stop_at:
                    break
        walks = gan.paint(latent_walks(self.latent, run.seed))
        means = images.mean(0), data_images.mean(0)
        numbers |= walk_scores(find_objects(walks), WALK_STEPS)
        numbers |= {"mean_image_distance": float((means[0] - means[1]).abs().mean()), "steps": step}
        samples = {
            "images": to_uint8(images[:SAMPLES_SHOWN]),
            "walk": to_uint8(walks[: SHOWN_WALKS * WALK_STEPS]),
            "mean_image": to_uint8(means[0][None]),
            "data_mean_image": to_uint8(means[1][None]),
            "centres": found.centres.astype(np.float32),
            "data_images": to_uint8(render(scenes[:SAMPLES_SHOWN]).cpu()),
            "data_centres": data.centres.astype(np.float32),
        }
        return Outcome(numbers, samples)

    def draw(self, results: dict[str, Any]) -> None:
        draw_gan(self, results)


class Gan:
    """
    Both networks of an arm and their optimisers; non-saturating loss (Goodfellow et al. 2014).

    :param config: Options
    :param arm: One of :data:`rl_coordconv.tasks.gan.models.ARMS`
    :param device: Where to train
    """

    def __init__(self, config: GanConfig, arm: str, device: torch.device) -> None:
        generator, discriminator = config.make_networks(arm)
        self.generator, self.discriminator = generator.to(device), discriminator.to(device)
        # DCGAN's first moment: at Adam's usual 0.9 the two networks push each other around.
        self.generator_optimiser = torch.optim.Adam(generator.parameters(), config.lr_generator, (0.5, 0.999))
        self.discriminator_optimiser = torch.optim.Adam(
            discriminator.parameters(), config.lr_discriminator, (0.5, 0.999)
        )
        self.latent, self.device = config.latent, device
        self.generator_steps = config.generator_steps

    def step(self, real: Tensor) -> tuple[Tensor, Tensor]:
        """
        Update the discriminator, then the generator, as often as its option says.

        :param real: ``(batch, 3, size, size)`` in [-1, 1]
        :return: Losses of the discriminator and the generator
        """
        fake = self._fake(len(real))
        loss_d = (
            F.softplus(-self.discriminator(real)).mean()
            + F.softplus(self.discriminator(fake.detach())).mean()
        )
        _update(self.discriminator_optimiser, loss_d)
        self.discriminator.requires_grad_(False)
        for number in range(self.generator_steps):
            fake = self._fake(len(real)) if number else fake
            loss_g = F.softplus(-self.discriminator(fake)).mean()
            _update(self.generator_optimiser, loss_g)
        self.discriminator.requires_grad_(True)
        return loss_d.detach(), loss_g.detach()

    def _fake(self, count: int) -> Tensor:
        images: Tensor = self.generator(torch.randn(count, self.latent, device=self.device))
        return images

    @torch.no_grad()
    def paint(self, latents: Tensor, batch_size: int = 250) -> Tensor:
        """
        Return images of the generator in evaluation mode.

        :param latents: ``(images, latent)`` on any device
        :return: ``(images, 3, size, size)`` on the CPU
        """
        self.generator.eval()
        images = torch.cat([self.generator(part.to(self.device)).cpu() for part in latents.split(batch_size)])
        self.generator.train()
        return images


def _update(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()


def latent_walks(latent: int, seed: int) -> Tensor:
    """Return latent vectors on straight lines between pairs, walk by walk: ``(walks * steps, latent)``."""
    ends = torch.randn(WALKS, 2, 1, latent, generator=torch.Generator().manual_seed(seed + 1))
    weight = torch.linspace(0, 1, WALK_STEPS).view(1, -1, 1)
    return (ends[:, 0] * (1 - weight) + ends[:, 1] * weight).flatten(0, 1)


def to_uint8(images: Tensor) -> np.ndarray:
    """Return ``(images, size, size, 3) uint8`` of images in [-1, 1]."""
    scaled = (images.clamp(-1, 1) + 1) * 127.5
    return scaled.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def log(run: Run, step: int, images: Tensor, numbers: Numbers) -> None:
    """Write measurements and an 8×8 sheet of samples to TensorBoard."""
    for key, value in numbers.items():
        if value is not None:
            run.writer.add_scalar(f"coverage/{key}", value, step)
    run.writer.add_images("samples", to_uint8(images[:SAMPLES_SHOWN]), step, dataformats="NHWC")
