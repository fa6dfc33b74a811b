"""
What a report's intervals and verdicts hold on simulated Atari scores, as tables; minutes on one core.

python scripts/coverage.py --trials 1000
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from rl_coordconv.errors import UserError, one_line_errors, script_needs

with script_needs("report"):
    from rl_coordconv.cli import parse_dataclass
    from rl_coordconv.compare.simulate import tables


@dataclass
class CoverageConfig:
    """Simulate comparisons of two arms on nine games and on two.

    Args:
        trials: Comparisons simulated for each number
        seeds: Numbers of runs per arm and game
    """

    trials: int = 1000
    seeds: list[int] = field(default_factory=lambda: [2, 3, 5, 10])


@one_line_errors()
def main(args: Sequence[str]) -> None:
    """Print coverage, false verdicts and power."""
    config = parse_dataclass(CoverageConfig, args, prog="coverage.py")
    if min(config.seeds, default=0) < 2:
        raise UserError(f"seeds are {config.seeds}: each must be 2 or more")
    for table in tables(config.seeds, config.trials):
        print(f"{table.markdown}\n", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
