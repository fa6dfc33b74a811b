"""By labels: an extractor with a linear layer behind it learns the centre of a square."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from rl_coordconv.tasks.experiment import Outcome, Run
from rl_coordconv.tasks.locate.experiment import SquareExperiment, arm_kwargs, image_space
from rl_coordconv.tasks.toy.not_so_clevr import NotSoClevr
from rl_coordconv.tasks.toy.tasks import Regression


@dataclass(kw_only=True)
class LocateConfig(SquareExperiment):
    """Let features extractors say where a square is, also where they have never seen one.

    Args:
        extractors: Arms: names of extractors; also literal and pool-literal, which are coordconv and
            coordconv-nature-pool with the paper's literal layer as their last convolution, and
            pool-all-layers, which has coordinates in all three
        split: quadrant (a quarter of the canvas held out) or uniform (20 % held out at random)
        canvas: Side of the image in pixels
        square: Side of the square in pixels
        updates: Updates of a run
        batch_size: Images per update
        lr: Adam's learning rate at the start, which falls to 0 over the updates as a cosine
        seeds: One run per arm each
        device: auto, cpu, cuda or cuda:N
        name: Folder of the experiments, inside of output
        output: Folder for curves, results and figures
    """

    updates: int = 600
    batch_size: int = 64
    lr: float = 2e-3
    name: str = "locate"

    @property
    def title(self) -> str:
        return f"where is the square? {self.split} split, {self.canvas} pixels; errors in pixels"

    def train(self, run: Run) -> Outcome:
        task = Regression(self.data)
        train = self.data.split(self.split, run.seed)[0].to(run.device)
        network = make_network(run.arm, self.data).to(run.device)
        optimizer = torch.optim.Adam(network.parameters(), self.lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.updates)
        order = torch.Generator().manual_seed(run.seed)  # all arms see the same images
        for update in range(self.updates):
            centres = train[torch.randint(len(train), (self.batch_size,), generator=order).to(run.device)]
            loss = task.loss(network, centres)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            run.show_progress(update + 1, self.updates, "loss {:.4f}", loss)
            if update % 10 == 0:
                run.writer.add_scalar("loss", loss, update)
        outcome = self.outcome(run, network, lambda centres: task.predict(network, centres))
        for name in ("train_error", "test_error"):
            run.writer.add_scalar(name, outcome.numbers[name], self.updates)
        return outcome


def make_network(arm: str, data: NotSoClevr) -> nn.Module:
    """Return a new extractor with a linear layer behind it, which gives ``(batch, 2)`` in [-1, 1]."""
    kwargs = arm_kwargs(arm)
    extractor = kwargs["features_extractor_class"](image_space(data), **kwargs["features_extractor_kwargs"])
    network = nn.Sequential(extractor, nn.Linear(extractor.features_dim, 2))
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
    return network
