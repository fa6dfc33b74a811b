"""
Play full games with a trained agent, print its raw scores, and film it.

python scripts/evaluate.py runs/demo/KungFuMaster/coordconv/seed1 --games 20 --gif agent.gif
python scripts/evaluate.py my_sb3_agent.zip --algo ppo --game Breakout --extractor cnn
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rl_coordconv.errors import one_line_errors, script_needs

with script_needs("train"):
    from rich.console import Console
    from stable_baselines3.common.base_class import BaseAlgorithm

    from rl_coordconv.cli import parse_dataclass
    from rl_coordconv.extractors import Pool
    from rl_coordconv.files import alone, check_place_of, write_json
    from rl_coordconv.layers import CoordScale
    from rl_coordconv.machine import check_device
    from rl_coordconv.runs.agent import find_run, load_run
    from rl_coordconv.runs.evaluation import make_eval_env, play_games, score_table, summarise_games
    from rl_coordconv.runs.export import MODEL
    from rl_coordconv.runs.foreign import check_foreign, load_zip
    from rl_coordconv.runs.progress import games_bar
    from rl_coordconv.runs.shifts import collect_frames, draw_shift_effects, policy_with_values, shift_effects
    from rl_coordconv.runs.video import check_picture_path, film_game, write_video


@dataclass
class EvaluateConfig:
    """Evaluate an agent on full games.

    Args:
        agent: Run folder, a zip inside of one, an exported agent, or a Stable-Baselines3 zip from elsewhere
        games: Full games to play
        n_envs: Games played side by side
        seed: Seed of games and action sampling
        deterministic: Take the likeliest action instead of sampling, as is usual outside Atari
        device: auto, cpu, cuda or cuda:N
        json: Where to write the result (default: evaluation.json in the run folder, if it is in one)
        gif: Also film one game as a GIF
        mp4: Also film one game as an MP4
        max_steps: Longest film, in steps of 1/15 second; of a longer game, what scores most
        positions: Also draw, as a PNG, how action probabilities and value change when the screen is shifted
        algo: Algorithm of a zip from elsewhere: ppo, a2c or dqn
        game: Game of a zip from elsewhere
        extractor: Features extractor of a zip from elsewhere, by its name in configs
        coord_layers: Layers that it was trained to see coordinates in, where not the extractor's default
        with_r: Whether it was trained with the distance from the centre as a coordinate
        coord_scale: Factor on coordinates that it was trained with (default: the extractor's)
        pool: What it takes over space, if it pools (default: the extractor's)
        width: Factor on the channels that it was trained with (default: 1)
        backend: Environments of a zip from elsewhere: gymnasium (default: SB3's wrappers), native or envpool
        trust: Unpickle a zip from elsewhere, for classes of its own; that can run any code
    """

    agent: Path
    games: int = 10
    n_envs: int = 8
    seed: int = 0
    deterministic: bool = False
    device: str = "auto"
    json: Path | None = None
    gif: Path | None = None
    mp4: Path | None = None
    max_steps: int = 900
    positions: Path | None = None
    algo: str | None = None
    game: str | None = None
    extractor: str | None = None
    coord_layers: list[int] | None = None
    with_r: bool | None = None
    coord_scale: CoordScale | None = None
    pool: Pool | None = None
    width: int | None = None
    backend: str | None = None
    trust: bool = False


FOREIGN_OPTIONS = ("coord_layers", "with_r", "coord_scale", "pool", "width")


@one_line_errors()
def main(args: Sequence[str]) -> None:
    """Evaluate, print a table, write JSON and on request a video."""
    config = parse_dataclass(EvaluateConfig, args, prog="evaluate.py")
    check_device(config.device)
    videos = [path for path in (config.gif, config.mp4) if path is not None]
    for path, suffix in ((config.gif, ".gif"), (config.mp4, ".mp4"), (config.positions, ".png")):
        check_picture_path(path, suffix)
    given = {name: getattr(config, name) for name in FOREIGN_OPTIONS}
    options = {name: value for name, value in given.items() if value is not None}
    model: BaseAlgorithm
    about = {name: getattr(config, name) for name in ("algo", "game", "extractor", "backend")}
    about_foreign = about | {"trust": config.trust or None} | options
    if said := [name for name, value in about_foreign.items() if value is not None]:
        check_foreign(config.agent, said)
    folder, model_file = (None, config.agent) if said else find_run(config.agent)
    output = config.json
    if output is None and folder and model_file.name != MODEL:  # an exported agent stays as it was handed on
        output = folder.path / "evaluation.json"
    if output is not None:
        check_place_of(output, "json")
    if folder:
        model, run = load_run(folder, model_file, config.device)
    else:
        model, run = load_zip(
            model_file,
            config.algo,
            config.game,
            config.extractor,
            config.trust,
            config.device,
            config.backend or "gymnasium",
            **options,
        )
    if config.positions:
        policy_with_values(model)  # refused before games are played
    with (
        contextlib.closing(make_eval_env(run, min(config.n_envs, config.games))) as env,
        games_bar(str(config.agent), config.games) as show,
    ):
        returns, lengths = play_games(model, env, config.games, config.seed, config.deterministic, show)
    print(f"{run.game}: {model_file}")  # in one line, however narrow the table is
    Console().print(score_table(returns))
    if output is not None:
        result = {"agent": str(model_file), "game": run.game, "seed": config.seed, **summarise_games(returns)}
        with alone(output.parent):  # two evaluations of one run may end at once
            write_json(output, {**result, "returns": returns, "lengths": lengths})
        print(f"wrote {output}")
    if videos:
        print("filming one game", file=sys.stderr)
        frames, score = film_game(model, run, config.seed, config.deterministic, config.max_steps)
        for path in videos:
            write_video(frames, path)
            print(f"wrote {path}: a game with return {score:.0f}")
    if config.positions:
        effects = shift_effects(model, collect_frames(model, run, config.seed))
        title = f"{run.game}/{run.arm}/seed{run.seed}" if folder else f"{run.game}, {model_file}"
        draw_shift_effects(effects, title, config.positions)
        print(f"wrote {config.positions}: what a shifted screen does to the agent")


if __name__ == "__main__":
    main(sys.argv[1:])
