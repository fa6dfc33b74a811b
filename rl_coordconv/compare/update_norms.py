"""
How far one optimizer step moves what the first convolution adds: by its image, its coordinates, its bias.

Coordinates are nearly constant within a window, so all ``kh * kw`` weights of a filter pull the same way.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from stable_baselines3.common.callbacks import BaseCallback
from torch import Tensor, nn

from rl_coordconv.algorithms import build
from rl_coordconv.compare.figures import DPI, legend_below
from rl_coordconv.config import RunConfig
from rl_coordconv.errors import UserError
from rl_coordconv.files import atomic_path, write_text
from rl_coordconv.layers import CoordConv2d
from rl_coordconv.runs.train import make_training_env

PARTS = ("image", "coordinates", "bias")


@dataclasses.dataclass(frozen=True)
class Norm:
    """
    One optimizer step.

    :param algo: The algorithm
    :param arm: The arm
    :param update: Number of the optimizer step, from 1
    :param part: One of ``PARTS``
    :param norm: Root mean square, over filters, positions and images, of the change of what the part adds, in
        learning rates
    """

    algo: str
    arm: str
    update: int
    part: str
    norm: float


class UpdateNorms(BaseCallback):
    """
    Measures every so many optimizer steps of a model that learns, through the optimizer's own hooks.

    :param every: Steps of the optimizer from one measurement to the next
    :param steps: Environment steps after which training stops
    """

    def __init__(self, every: int, steps: int) -> None:
        super().__init__()
        self.every = every
        self.steps = steps
        self.updates = 0
        self.norms: list[tuple[int, dict[str, float]]] = []
        self.images: Tensor | None = None  # what every environment shows after the first rollout
        self.before: tuple[Tensor, ...] = ()

    def _on_training_start(self) -> None:
        policy: Any = self.model.policy
        self.layer = next(module for module in policy.modules() if isinstance(module, nn.Conv2d))
        policy.optimizer.register_step_pre_hook(self._before)
        policy.optimizer.register_step_post_hook(self._after)

    def _on_step(self) -> bool:
        return self.num_timesteps < self.steps

    def _on_rollout_end(self) -> None:
        if self.images is None:
            self.images = torch.as_tensor(np.asarray(self.model._last_obs)).float() / 255

    def _parts(self) -> tuple[Tensor, ...]:
        """Return copies of the image's weight, the positional bias and the bias."""
        layer = self.layer
        assert self.images is not None
        size = self.images.shape[-2:]
        positional = layer.positional_bias(*size) if isinstance(layer, CoordConv2d) else torch.zeros(1)
        assert layer.bias is not None
        return tuple(part.detach().clone() for part in (layer.weight, positional, layer.bias))

    def _before(self, *_: Any) -> None:
        self.updates += 1
        if self.updates % self.every == 0:
            self.before = self._parts()

    def _after(self, *_: Any) -> None:
        policy: Any = self.model.policy
        rate = policy.optimizer.param_groups[0]["lr"]
        if self.updates % self.every or not rate:  # a schedule ends at 0
            return
        weight, *others = (after - before for after, before in zip(self._parts(), self.before, strict=True))
        assert self.images is not None
        options: Any = {"stride": self.layer.stride, "padding": self.layer.padding}
        with torch.no_grad():
            changes = [nn.functional.conv2d(self.images, weight, **options), *others]
        norms = {
            part: float(change.square().mean().sqrt()) / rate
            for part, change in zip(PARTS, changes, strict=True)
        }
        if not isinstance(self.layer, CoordConv2d):
            del norms["coordinates"]
        self.norms.append((self.updates, norms))


def measure(config: RunConfig, steps: int, points: int = 60) -> list[Norm]:
    """
    Train an arm for some steps and return how far its optimizer steps went.

    :param config: The arm's run; its extractor begins with a convolution that sees the image
    :param steps: Steps to train; the learning rate is that of a run of ``config.total_timesteps``
    :param points: About how many optimizer steps are measured
    :raises UserError: The steps are too few for an optimizer step
    """
    config = dataclasses.replace(config, device="cpu", precision="fp32", compile=False)
    values = config.hyperparameters
    rollout = config.n_envs * values.n_steps
    per_rollout = getattr(values, "n_epochs", 1) * rollout // getattr(values, "batch_size", rollout)
    callback = UpdateNorms(max(1, steps // rollout * per_rollout // points), steps)
    with contextlib.closing(make_training_env(config)) as env:
        model = build(config, env)
        model.learn(config.total_timesteps, callback=callback)
    if not callback.norms:
        raise UserError(
            f"steps is {steps}: {config.arm} took no optimizer step; a rollout is {rollout} steps"
        )
    return [
        Norm(config.algo, str(config.arm), update, part, norm)
        for update, norms in callback.norms
        for part, norm in norms.items()
    ]


def write_norms(folder: Path, norms: Sequence[Norm]) -> None:
    """Write ``update_norms.csv`` and its figure and table into a folder, which is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in dataclasses.fields(Norm)])
    writer.writerows([*dataclasses.astuple(norm)[:-1], f"{norm.norm:.4g}"] for norm in norms)
    write_text(folder / "update_norms.csv", text.getvalue())
    draw(folder)


def read_norms(folder: Path) -> list[Norm]:
    """
    Return what :func:`write_norms` wrote.

    :raises UserError: It is not there, or is no such table
    """
    file = folder / "update_norms.csv"
    try:
        rows = list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
        if not rows:
            raise ValueError("it has no rows")
        return [Norm(r["algo"], r["arm"], int(r["update"]), r["part"], float(r["norm"])) for r in rows]
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"'{file}' cannot be read: {error}") from None


def draw(folder: Path) -> None:
    """Draw ``update_norms.png`` and write ``update_norms.md``, the medians, from the table in a folder."""
    norms = read_norms(folder)
    with atomic_path(folder / "update_norms.png") as temporary:
        _figure(norms).savefig(temporary, dpi=DPI)
    groups: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for norm in norms:
        groups[norm.algo.upper(), norm.arm][norm.part].append(norm.norm)
    lines = [f"| algorithm | arm | {' | '.join(PARTS)} | coordinates / bias |", "|---|---|---|---|---|---|"]
    for (algo, arm), parts in groups.items():
        medians = {part: float(np.median(values)) for part, values in parts.items()}
        cells = [f"{medians[part]:.3g}" if part in medians else "" for part in PARTS]
        ratio = f"{medians['coordinates'] / medians['bias']:.3g}" if "coordinates" in medians else ""
        lines.append(f"| {algo} | {arm} | {' | '.join(cells)} | {ratio} |")
    write_text(folder / "update_norms.md", "\n".join(lines) + "\n")


def _figure(norms: Sequence[Norm]) -> Figure:
    algos = list(dict.fromkeys(norm.algo for norm in norms))
    arms = {algo: list(dict.fromkeys(norm.arm for norm in norms if norm.algo == algo)) for algo in algos}
    columns = max(map(len, arms.values()))
    figure = Figure(figsize=(3.6 * columns, 3.0 * len(algos) + 0.4), layout="constrained")
    grid = figure.subplots(len(algos), columns, squeeze=False, sharey="row")
    for row, algo in zip(grid, algos, strict=True):
        row[0].set_ylabel("change, in learning rates")
        for axes in row[len(arms[algo]) :]:
            axes.remove()
        for axes, arm in zip(row, arms[algo], strict=False):
            axes.set(title=f"{algo.upper()}, {arm}", xlabel="optimizer step", yscale="log")
            axes.grid(alpha=0.3)
            for number, part in enumerate(PARTS):
                points = [(n.update, n.norm) for n in norms if (n.algo, n.arm, n.part) == (algo, arm, part)]
                if points:
                    axes.plot(*zip(*points, strict=True), label=part, color=f"C{number}")
    legend_below(figure, figure.axes)
    return figure
