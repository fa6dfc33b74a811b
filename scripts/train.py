"""
Train an agent on an Atari game.

python scripts/train.py --config configs/ppo_atari.yaml --extractor coordconv --seed 1
python scripts/train.py --resume runs/ppo_atari/Breakout/coordconv/seed1
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from rl_coordconv.errors import UserError, one_line_errors, script_needs
from rl_coordconv.openmp import wait_briefly

wait_briefly()  # before PyTorch is loaded
with script_needs("train"):
    import numpy as np

    from rl_coordconv.config import parse_config
    from rl_coordconv.runs.train import Interrupted, resume, train


@one_line_errors()
def main(args: Sequence[str]) -> None:
    """Train, or resume with ``--resume RUN``."""
    try:
        if any(arg.partition("=")[0] == "--resume" for arg in args):
            folder = resume(resume_target(args))
        else:
            folder = train(parse_config(args), shlex.join(["python", "scripts/train.py", *args]))
    except Interrupted as stop:
        command = shlex.join(["python", "scripts/train.py", "--resume", str(stop)])
        print(f"stopped and saved: continue with {command}", file=sys.stderr)
        raise SystemExit(130) from None
    print(f"finished: {folder.path}")
    for record in folder.read_evaluations()[-1:]:
        scores = record["returns"]
        spread = f"{min(scores):,.0f} to {max(scores):,.0f}"
        print(f"  final evaluation: mean {np.mean(scores):,.1f} of {len(scores)} games ({spread})")
    print(f"  tensorboard --logdir {folder.path}")


def resume_target(args: Sequence[str]) -> str:
    """Return the folder after ``--resume``; the run's options are in its config.yaml."""
    words = [word for arg in args for word in (arg.split("=", 1) if arg.startswith("--resume=") else [arg])]
    if len(words) != 2 or words[0] != "--resume" or not words[1]:
        raise UserError("--resume takes one run folder and no other option (its config.yaml says the rest)")
    return words[1]


if __name__ == "__main__":
    main(sys.argv[1:])
