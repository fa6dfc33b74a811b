"""
The main job in a few minutes: train CNN and CoordConv on a real Atari game, evaluate both, film the agent.

python scripts/demo.py

On disk afterwards: ``runs/demo/<game>/{cnn,coordconv}/seed1/`` (two runs), ``runs/demo/curves.png`` and
``runs/demo/coordconv.gif``. Started again with the same options, it continues what was not finished.
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rl_coordconv.errors import UserError, exit_on_user_error, script_needs
from rl_coordconv.openmp import wait_briefly

wait_briefly()  # before PyTorch is loaded
with script_needs("video"):
    import imageio.v3  # noqa: F401  # at the end; it should not be missing only then
    from rich.console import Console
    from rich.table import Table

    from rl_coordconv.config import RunConfig, parse_config
    from rl_coordconv.runs.agent import load_run
    from rl_coordconv.runs.curves import plot_curves
    from rl_coordconv.runs.evaluation import EVAL_SEED, make_eval_env, play_games, summarise
    from rl_coordconv.runs.folder import RunFolder
    from rl_coordconv.runs.train import Interrupted, resume, train
    from rl_coordconv.runs.video import film_game, write_video

ARMS = ("cnn", "coordconv")
CONFIG = Path(__file__).parents[1] / "configs" / "demo.yaml"


@exit_on_user_error
def main(args: Sequence[str]) -> None:
    """Train both arms, evaluate them on the same games, and say where to look."""
    start = time.monotonic()
    base = parse_config(["--config", str(CONFIG), *args])
    configs = [dataclasses.replace(base, extractor=arm, arm=arm).validate() for arm in ARMS]
    command = shlex.join(["python", "scripts/demo.py", *args])
    for config in configs:
        check_same_options(config)
    try:
        runs = [train_or_continue(config, command) for config in configs]
    except Interrupted:
        print(f"stopped and saved: continue with {command}", file=sys.stderr)
        raise SystemExit(130) from None
    experiment = Path(base.output) / str(base.name)
    Console().print(evaluate(runs, base))
    plot_curves(
        {run.path.parent.name: [run] for run in runs}, f"PPO on {base.game}", experiment / "curves.png"
    )
    model, config, _ = load_run(runs[-1].path, base.device)
    frames, score = film_game(model, config, EVAL_SEED, deterministic=False, max_steps=600)
    write_video(frames, experiment / "coordconv.gif")
    print(
        "one seed each: chance alone makes such differences; scripts/compare.py trains several\n"
        f"\ndone in {(time.monotonic() - start) / 60:.1f} minutes\n"
        f"  curves   {experiment / 'curves.png'}\n"
        f"  agent    {experiment / 'coordconv.gif'} (a CoordConv game with return {score:.0f})\n"
        f"  runs     {', '.join(str(run.path) for run in runs)}\n"
        f"  compare  {Path(sys.executable).parent / 'tensorboard'} --logdir {experiment}"
    )


def check_same_options(config: RunConfig) -> None:
    """Refuse other options than those that an earlier demo began the run of an arm with."""
    run = RunFolder(config.folder)
    if not run.config_file.exists():
        return
    there, wanted = flat(run.load_config()), flat(config)
    shared = [name for name in wanted if name in there]
    if differ := [
        f"{name} {there[name]}, not {wanted[name]}" for name in shared if there[name] != wanted[name]
    ]:
        raise UserError(
            f"run '{run.path}' was begun with {'; '.join(differ)}: give its options again to continue, "
            "or another --name"
        )


def flat(config: RunConfig) -> dict[str, Any]:
    """Return the options that a run learns with, those of the algorithm among them."""
    values = config.to_dict()
    del values["output"]  # the folder is the same however it is written
    section = values.pop(config.algo)
    return {**values, **{f"{config.algo}.{name}": value for name, value in section.items()}}


def train_or_continue(config: RunConfig, command: str) -> RunFolder:
    """Train an arm, or continue the one that an earlier demo left."""
    if RunFolder(config.folder).config_file.exists():
        return resume(config.folder)
    return train(config, command)


def evaluate(runs: list[RunFolder], base: RunConfig) -> Table:
    """Return a table of the arms' raw scores on the same games."""
    table = Table("arm", "games", "mean", "std", "IQM", "min", "max", title=f"{base.game}, full games")
    for run in runs:
        model, config, _ = load_run(run.path, base.device)
        env = make_eval_env(config, base.eval_episodes)
        returns, _ = play_games(model, env, base.eval_episodes, EVAL_SEED)
        env.close()
        table.add_row(
            str(config.arm), str(len(returns)), *(f"{value:.1f}" for value in summarise(returns).values())
        )
    return table


if __name__ == "__main__":
    main(sys.argv[1:])
