"""
How far one optimizer step moves what the first convolution adds: by its image, its coordinates, its bias.

Coordinates are nearly constant within a window, so all ``kh * kw`` weights of a filter pull the same way.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from stable_baselines3.common.callbacks import BaseCallback
from torch import Tensor, nn

from rl_coordconv.algorithms import build
from rl_coordconv.compare.figures import DPI, legend_below
from rl_coordconv.compare.matrix import load_comparison
from rl_coordconv.config import RunConfig
from rl_coordconv.errors import UserError
from rl_coordconv.files import atomic_path, make_folder, write_text
from rl_coordconv.layers import CoordConv2d
from rl_coordconv.markdown import markdown_table
from rl_coordconv.runs.train import make_training_env

FILE = "update_norms.csv"
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


def first_runs(files: Sequence[Path]) -> list[RunConfig]:
    """
    Return the first run of every arm of some comparisons.

    :raises UserError: Two of them have an arm of one name and algorithm that is trained in two ways
    """
    arms: dict[tuple[str, str], tuple[RunConfig, object]] = {}
    for file in files:
        comparison = load_comparison(file)
        for arm in comparison.arms:
            if arm in comparison.foreign:
                continue
            run = next(run for run in comparison.runs if run.arm == arm)
            trained = (run.game, run.seed, comparison.options[arm])
            if arms.setdefault((run.algo, arm), (run, trained))[1] != trained:
                raise UserError(
                    f"'{file}': {run.algo} arm '{arm}' is trained with other options, game or seed than the "
                    "arm of that name in another comparison: rename one"
                )
    return [run for run, _ in arms.values()]


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
    make_folder(folder, "output folder")
    text = pd.DataFrame(norms).to_csv(index=False, float_format="%.4g", na_rep="nan", lineterminator="\n")
    write_text(folder / FILE, text)
    draw(folder)


def read_norms(folder: Path) -> pd.DataFrame:
    """
    Return what :func:`write_norms` wrote, a row per :class:`Norm`.

    :raises UserError: It is not there, or is no such table
    """
    file = folder / FILE
    types = {"algo": str, "arm": str, "update": int, "part": str, "norm": float}
    try:
        norms = pd.read_csv(
            file, usecols=[*types], dtype=types, na_values={"norm": ["nan"]}, keep_default_na=False
        )
        if norms.empty:
            raise ValueError("it has no rows")
    except (OSError, ValueError) as error:
        raise UserError(f"'{file}' cannot be read: {error}") from None
    return norms


def draw(folder: Path) -> None:
    """Draw ``update_norms.png`` and write ``update_norms.md``, the medians, from the table in a folder."""
    norms = read_norms(folder)
    norms["algo"] = norms["algo"].str.upper()
    with atomic_path(folder / "update_norms.png") as temporary:
        _figure(norms).savefig(temporary, dpi=DPI)
    medians = norms.pivot_table("norm", ["algo", "arm"], "part", aggfunc="median", sort=False)
    medians = medians.reindex(columns=[*PARTS])
    medians["coordinates / bias"] = medians["coordinates"] / medians["bias"]
    rows = [
        [*names, *("" if np.isnan(value) else f"{value:.3g}" for value in values)]
        for names, values in medians.iterrows()
    ]
    write_text(
        folder / "update_norms.md", markdown_table(["algorithm", "arm", *medians.columns], rows) + "\n"
    )


def _figure(norms: pd.DataFrame) -> Figure:
    algos = {algo: rows.groupby("arm", sort=False) for algo, rows in norms.groupby("algo", sort=False)}
    columns = max(map(len, algos.values()))
    figure = Figure(figsize=(3.6 * columns, 3.0 * len(algos) + 0.4), layout="constrained")
    grid = figure.subplots(len(algos), columns, squeeze=False, sharey="row")
    for row, (algo, arms) in zip(grid, algos.items(), strict=True):
        row[0].set_ylabel("change, in learning rates")
        for axes in row[len(arms) :]:
            axes.remove()
        for axes, (arm, points) in zip(row, arms, strict=False):
            axes.set(title=f"{algo}, {arm}", xlabel="optimizer step", yscale="log")
            axes.grid(alpha=0.3)
            for number, part in enumerate(PARTS):
                if len(here := points[points["part"] == part]):
                    axes.plot(here["update"], here["norm"], label=part, color=f"C{number}")
    legend_below(figure, figure.axes)
    return figure
