"""
Make an agent safe to hand on: weights as safetensors, a model card, hashes; nothing that can run code.

python scripts/export.py runs/ppo_atari/Breakout/coordconv/seed1 my_agent
python scripts/export.py runs/ppo_atari/Breakout/coordconv/seed1 my_agent --onnx
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rl_coordconv.errors import UserError, needs, one_line_errors, script_needs

with script_needs("train"):
    from rl_coordconv.cli import parse_dataclass
    from rl_coordconv.runs.agent import find_run, load_run
    from rl_coordconv.runs.evaluation import EVAL_SEED
    from rl_coordconv.runs.export import MODEL, check_new, export_agent
    from rl_coordconv.runs.video import film_game

# Half a minute of play, which stays below 1 MB.
FILM_STEPS = 450


@dataclass
class ExportConfig:
    """Export an agent.

    Args:
        run: Run folder, or a zip inside of one
        folder: Where to; must not exist
        onnx: Also write policy.onnx (needs the extra [onnx])
        gif: Also write play.gif, a game of the agent (needs the extra [video])
    """

    run: Path
    folder: Path
    onnx: bool = False
    gif: bool = False


@one_line_errors()
def main(args: Sequence[str]) -> None:
    """Export, and say where."""
    config = parse_dataclass(ExportConfig, args, prog="export.py")
    check_new(config.folder)
    if config.onnx:
        with needs("onnx"):
            import onnxscript  # noqa: F401
    if config.gif:
        with needs("video"):
            import imageio.v3  # noqa: F401
    folder, model_file = find_run(config.run)
    if model_file.name == MODEL:
        raise UserError(f"'{config.run}' is an exported agent already: copy it")
    model, run = load_run(folder, model_file, "cpu")
    film = (
        film_game(model, run, EVAL_SEED, deterministic=False, max_steps=FILM_STEPS)[0] if config.gif else None
    )
    export_agent(model.policy, run, folder, model_file, config.folder, config.onnx, film)
    print(f"exported {config.folder}: play it with python scripts/evaluate.py {config.folder}")


if __name__ == "__main__":
    main(sys.argv[1:])
