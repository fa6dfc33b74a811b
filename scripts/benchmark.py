"""
How fast are the layers, the environments and training, beside what people would use otherwise?

python scripts/benchmark.py {layer,env,train,all,page} [--peers NAME ...] [--rounds N] [--output FOLDER]

``all`` measures the three; ``page`` measures nothing and makes the pages anew from JSON. Close everything
else first: peers share the machine with whatever runs on it. ``rl_coordconv/benchmark/pages.py`` says what
is written where.
"""

from __future__ import annotations

import datetime
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rl_coordconv.errors import UserError, choose, one_line_errors, script_needs

with script_needs("report"):
    import torch

    from rl_coordconv.benchmark.measure import BENCHMARKS, Rounds, measure
    from rl_coordconv.benchmark.pages import machine_name, read_machines, write_pages, write_result
    from rl_coordconv.benchmark.report import markdown
    from rl_coordconv.benchmark.setting import Setting
    from rl_coordconv.cli import parse_dataclass
    from rl_coordconv.envs import canonical_game
    from rl_coordconv.files import check_can_hold_files
    from rl_coordconv.machine import check_device, versions

ALGOS = {"ppo": 8, "a2c": 16}
"""RL Zoo's number of environments."""


@dataclass
class BenchmarkConfig:
    """Compare speeds.

    Args:
        what: layer, env, train, all of them, or page
        game: Atari game of env and train
        algo: ppo, a2c or both, for train
        n_envs: Environments of env and train, one or more numbers (empty: RL Zoo's, 8 for PPO, 16 for A2C)
        rounds: Measurements of each peer, after a piece of work to warm up (null: 5, for train 3)
        seconds: How long a measurement takes at least (null: 5, for layer half a second per case)
        device: auto, cpu, cuda or cuda:N
        peers: Only these peers (empty: all that this machine has)
        output: Folder that holds a folder per machine
    """

    what: str
    game: str = "Breakout"
    algo: tuple[str, ...] = tuple(ALGOS)
    n_envs: tuple[int, ...] = ()
    rounds: int | None = None
    seconds: float | None = None
    device: str = "auto"
    peers: tuple[str, ...] = ()
    output: str = "docs/benchmarks"

    def validate(self) -> BenchmarkConfig:
        """
        Return the config with defaults filled in.

        :raises UserError: A value is not allowed
        """
        choose("benchmark", self.what, [*BENCHMARKS, "all", "page"])
        if not self.algo:
            raise UserError("algo is empty: give one or more")
        for algo in self.algo:
            choose("algo", algo, ALGOS)
        check_device(self.device)
        if self.peers and self.what not in BENCHMARKS:
            raise UserError(f"peers is for one of {', '.join(BENCHMARKS)}, not for {self.what}")
        for peer in self.peers:
            choose("peer", peer, BENCHMARKS[self.what].peers)
        if min(self.n_envs, default=1) < 1:
            raise UserError(f"n_envs is {list(self.n_envs)}: each must be 1 or more")
        self.game = canonical_game(self.game)
        if self.device == "auto":
            self.device = "cuda" if torch.cuda.is_available() else "cpu"
        return self


@one_line_errors()
def main(args: Sequence[str]) -> None:
    """Measure, print tables, write JSON, charts and pages."""
    config = parse_dataclass(BenchmarkConfig, args, "benchmark.py").validate()
    if config.what == "page":
        write_pages(Path(config.output))
        return
    check_can_hold_files(Path(config.output) / machine_name(versions(config.device)), "output folder")
    read_machines(Path(config.output))  # a damaged file is told before the minutes of measuring, not after
    for what in BENCHMARKS if config.what == "all" else (config.what,):
        for algo in config.algo if what == "train" else config.algo[:1]:
            run(config, what, algo, f"python scripts/benchmark.py {shlex.join(args)}")


def run(config: BenchmarkConfig, what: str, algo: str, command: str) -> None:
    """Run one benchmark, print its table and write its files."""
    benchmark = BENCHMARKS[what]
    seconds = config.seconds or benchmark.seconds
    rounds: Rounds = {}
    default = ALGOS[algo] if what == "train" else ALGOS["ppo"]
    for n_envs in (config.n_envs or (default,)) if what != "layer" else (default,):
        setting = Setting(config.game, algo, n_envs, config.device)
        peers = config.peers or tuple(benchmark.peers)
        rounds |= measure(what, peers, setting, config.rounds or benchmark.rounds, seconds)
    result = {
        "what": what,
        "algo": algo if what == "train" else None,
        "command": command,
        "date": datetime.date.today().isoformat(),
        "machine": versions(config.device),
        "seconds": seconds,
        "rounds": rounds,
    }
    page = write_result(Path(config.output), f"train_{algo}" if what == "train" else what, result)
    print(f"{markdown(result)}\n\n{page} written")


if __name__ == "__main__":
    main(sys.argv[1:])
