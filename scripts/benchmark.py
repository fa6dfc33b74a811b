"""
How fast are the layers, the environments and training, beside what people would use otherwise?

python scripts/benchmark.py {layer,env,train} [--rounds N] [--device auto] [--output FOLDER]

Every peer lives in a process of its own; rounds take turns (A, B, C, A, B, C, ...), so that a machine that
slows down slows all of them, and ratios are taken within a round. On disk afterwards, in ``<output>/``:
``<what>.json`` (every measurement, machine, versions, command) and ``<what>.png`` (bar chart); the table is
printed as Markdown.
"""

from __future__ import annotations

import copy
import datetime
import functools
import json
import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import stable_baselines3
import torch
from rich.progress import track

from rl_coordconv import algorithms
from rl_coordconv.algorithms.build import sb3_arguments
from rl_coordconv.cli import gather_list, parse_dataclass
from rl_coordconv.config import RunConfig, check_device
from rl_coordconv.envs import canonical_game, make_atari_vec_env
from rl_coordconv.envs.games import rom_name
from rl_coordconv.errors import UserError, choose, exit_on_user_error
from rl_coordconv.extractors import CoordConvNatureCNN
from rl_coordconv.layers import AddCoords
from rl_coordconv.runs.folder import atomic_path, versions, write_text
from rl_coordconv.runs.train import make_training_env

Cases = dict[str, Callable[[], int]]
"""What one peer can be asked to run, by name; each returns the amount of work that it did."""

Peer = Callable[["BenchmarkConfig", int], Cases]
"""Sets one peer up, with this many environments."""


@dataclass
class BenchmarkConfig:
    """Compare speeds.

    Args:
        what: layer, env or train
        game: Atari game of env and train
        algo: ppo or a2c, for train
        n_envs: Environments of env and train, one or more numbers (empty: RL Zoo's, 8 for PPO, 16 for A2C)
        rounds: Measurements of each peer, after one to warm up
        device: auto, cpu or cuda
        peers: Only these peers (empty: all that this machine has)
        output: Folder for JSON and bar chart
    """

    what: str
    game: str = "Breakout"
    algo: str = "ppo"
    n_envs: tuple[int, ...] = ()
    rounds: int = 7
    device: str = "auto"
    peers: tuple[str, ...] = ()
    output: str = "benchmarks"

    def validate(self) -> BenchmarkConfig:
        """
        Return the config with defaults filled in.

        :raises UserError: A value is not allowed
        """
        choose("benchmark", self.what, PEERS)
        choose("algo", self.algo, ("ppo", "a2c"))
        check_device(self.device)
        for peer in self.peers:
            choose("peer", peer, PEERS[self.what])
        if self.rounds < 1:
            raise UserError(f"rounds is {self.rounds}: it must be 1 or more")
        if min(self.n_envs, default=1) < 1:
            raise UserError(f"n_envs is {list(self.n_envs)}: each must be 1 or more")
        self.game = canonical_game(self.game)
        self.n_envs = self.n_envs or (16 if self.what == "train" and self.algo == "a2c" else 8,)
        if self.device == "auto":
            self.device = "cuda" if torch.cuda.is_available() else "cpu"
        return self


def layer_peer(convolution: str) -> Peer:
    """Return the cases of a Nature network whose first convolution is of one kind."""

    def build(config: BenchmarkConfig, n_envs: int) -> Cases:
        space = gym.spaces.Box(0, 255, (4, 84, 84), np.uint8)
        network = CoordConvNatureCNN(space, coord_layers=[0] if convolution == "coordconv" else [])
        if convolution == "concat":
            # As the paper draws it, and as other packages compute it.
            network.cnn[0] = torch.nn.Sequential(AddCoords(), torch.nn.Conv2d(6, 32, 8, 4))
        cases: Cases = {}
        for memory_format in ("contiguous_format", "channels_last"):
            kind: Any = {"memory_format": getattr(torch, memory_format)}
            copied = copy.deepcopy(network).to(config.device).to(**kind)
            for batch in (8, 256):
                images = torch.rand(batch, 4, 84, 84, device=config.device).contiguous(**kind)
                for mode in ("forward", "forward+backward"):
                    repeats = 2048 // batch if mode == "forward" else 1024 // batch
                    case = f": {mode}, batch {batch}, {memory_format}"
                    cases[case] = functools.partial(run_network, copied, images, mode, repeats)
        return cases

    return build


def run_network(network: torch.nn.Module, images: torch.Tensor, mode: str, repeats: int) -> int:
    """Run a network ``repeats`` times; return the number of images."""
    for _ in range(repeats):
        if mode == "forward":
            with torch.no_grad():
                network(images)
        else:
            network.zero_grad()
            network(images).sum().backward()
    return repeats * len(images)


def place(config: BenchmarkConfig, n_envs: int) -> str:
    """Return the name of the case of a benchmark on a game."""
    what = f"{config.algo.upper()}, " if config.what == "train" else ""
    return f": {what}{config.game}, {n_envs} environments"


def vec_env_peer(**kwargs: Any) -> Peer:
    """Return the case of an SB3 ``VecEnv`` played at random."""

    def build(config: BenchmarkConfig, n_envs: int) -> Cases:
        env = make_atari_vec_env(config.game, n_envs, seed=1, **kwargs)
        env.reset()
        rng = np.random.default_rng(1)

        def run() -> int:
            for _ in range(400):
                env.step(rng.integers(env.action_space.n, size=n_envs))  # type: ignore[attr-defined]
            return 400 * n_envs

        return {place(config, n_envs): run}

    return build


def bare_ale(config: BenchmarkConfig, n_envs: int) -> Cases:
    """Return the case of ale_py's own object with the same preprocessing, without our adapter."""
    from ale_py.vector_env import AtariVectorEnv
    from gymnasium.vector import AutoresetMode

    env = AtariVectorEnv(
        rom_name(config.game), n_envs, autoreset_mode=AutoresetMode.SAME_STEP, reward_clipping=False
    )
    return bare_case(env, config, n_envs, len(env.ale.get_action_set()))


def bare_envpool(config: BenchmarkConfig, n_envs: int) -> Cases:
    """Return the case of EnvPool's own object with the same preprocessing, without our adapter."""
    import envpool

    env = envpool.make_gymnasium(f"{config.game}-v5", num_envs=n_envs)
    return bare_case(env, config, n_envs, int(env.action_space.n))


def bare_case(env: Any, config: BenchmarkConfig, n_envs: int, n_actions: int) -> Cases:
    """Return the case of a Gymnasium vector environment played at random."""
    env.reset()
    rng = np.random.default_rng(1)

    def run() -> int:
        for _ in range(400):
            env.step(rng.integers(n_actions, size=n_envs).astype(np.int32))
        return 400 * n_envs

    return {place(config, n_envs): run}


def train_peer(
    stock: bool, extractor: str = "cnn", env: dict[str, Any] | None = None, **switches: Any
) -> Peer:
    """Return the case of PPO or A2C with RL Zoo's hyperparameters: SB3's own, or ours."""

    def build(config: BenchmarkConfig, n_envs: int) -> Cases:
        options: dict[str, Any] = {"algo": config.algo, "extractor": extractor, "device": config.device}
        run_config = RunConfig(config.game, n_envs=n_envs, strict=True, **options, **switches)
        model: Any
        if stock:
            venv = make_atari_vec_env(config.game, n_envs, seed=1, **(env or {}))
            algorithm = {"ppo": stable_baselines3.PPO, "a2c": stable_baselines3.A2C}[config.algo]
            model = algorithm("CnnPolicy", venv, **sb3_arguments(run_config))
        else:
            model = algorithms.build(run_config, make_training_env(run_config))
        steps = 2048 if config.algo == "ppo" else 1600

        def run() -> int:
            before = model.num_timesteps
            model.learn(steps, log_interval=None, reset_num_timesteps=False)
            return int(model.num_timesteps - before)

        return {place(config, n_envs): run}

    return build


STOCK, OURS = True, False
SUBPROC: dict[str, Any] = {"backend": "gymnasium", "vec_env": "subproc"}
PEERS: dict[str, dict[str, Peer]] = {
    "layer": {
        "torch.nn.Conv2d": layer_peer("conv"),
        "CoordConv2d": layer_peer("coordconv"),
        "literal concat": layer_peer("concat"),
    },
    "env": {
        "SB3 SubprocVecEnv": vec_env_peer(**SUBPROC),
        "SB3 DummyVecEnv": vec_env_peer(backend="gymnasium", vec_env="dummy"),
        "native": vec_env_peer(backend="native"),
        "bare ale_py": bare_ale,
        "envpool": vec_env_peer(backend="envpool"),
        "bare EnvPool": bare_envpool,
    },
    "train": {
        "SB3, SubprocVecEnv": train_peer(STOCK, env=SUBPROC),
        "SB3, DummyVecEnv": train_peer(STOCK, env={"backend": "gymnasium", "vec_env": "dummy"}),
        "SB3, native": train_peer(STOCK),
        "ours, cnn": train_peer(OURS),
        "ours, coordconv": train_peer(OURS, "coordconv"),
        "ours, coordconv, compile": train_peer(OURS, "coordconv", compile=True),
        "ours, coordconv, bf16, compile": train_peer(OURS, "coordconv", precision="bf16", compile=True),
    },
}
WAIT_POLICY = "OMP_WAIT_POLICY"
REFERENCE = {"layer": "torch.nn.Conv2d", "env": "SB3 SubprocVecEnv", "train": "SB3, DummyVecEnv"}
UNITS = {"layer": "images/s", "env": "steps/s", "train": "steps/s"}


@exit_on_user_error
def main(args: Sequence[str]) -> None:
    """Measure, print a table, write JSON and a chart."""
    config = parse_dataclass(BenchmarkConfig, gather_list(args, "--n-envs"), "benchmark.py").validate()
    measured: dict[str, list[dict[str, float]]] = {}
    for n_envs in config.n_envs:
        measured |= measure(config, config.peers or tuple(PEERS[config.what]), n_envs)
    rows = summarise(measured, REFERENCE[config.what])
    name = f"{config.what}_{config.algo}" if config.what == "train" else config.what
    result = {
        "command": f"python scripts/benchmark.py {' '.join(args)}",
        "date": datetime.date.today().isoformat(),
        "machine": versions(),
        "unit": UNITS[config.what],
        "summary": rows,
        "rounds": measured,
    }
    try:
        Path(config.output).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output folder '{config.output}' cannot be made: {error}") from None
    write_text(Path(config.output) / f"{name}.json", json.dumps(result, indent=1) + "\n")
    plot(rows, f"{name}, {UNITS[config.what]}", Path(config.output) / f"{name}.png")
    print(markdown(rows, UNITS[config.what]))
    print(f"\n{Path(config.output) / name}.json and .png written")


def measure(config: BenchmarkConfig, peers: Sequence[str], n_envs: int) -> dict[str, list[dict[str, float]]]:
    """
    Let all peers do the same work in turns.

    :return: Of each case (``peer: case``), a measurement per round: ``rate`` per second, ``memory`` in MB
    """
    context = multiprocessing.get_context("spawn")
    policy = os.environ.pop(WAIT_POLICY, None)  # set by our agents; the others run as they would without us
    workers: dict[str, tuple[Any, Connection]] = {}
    for peer in peers:
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(config, peer, n_envs, theirs))
        if peer.startswith("ours") and policy is not None:
            os.environ[WAIT_POLICY] = policy
        process.start()
        os.environ.pop(WAIT_POLICY, None)
        theirs.close()  # or a worker that dies would be waited for
        workers[peer] = (process, ours)
        if reason := ours.recv():
            print(f"{peer} left out: {reason}", file=sys.stderr)
            del workers[peer]
    if policy is not None:
        os.environ[WAIT_POLICY] = policy
    measured: dict[str, list[dict[str, float]]] = {}
    for _ in track(range(config.rounds), description=config.what):
        for peer, (_, pipe) in workers.items():
            pipe.send("go")
            for case, values in pipe.recv().items():
                measured.setdefault(f"{peer}{case}", []).append(values)
    for process, pipe in workers.values():
        pipe.send(None)
        process.join()
    return measured


def work(config: BenchmarkConfig, peer: str, n_envs: int, pipe: Connection) -> None:
    """Run one peer in this process: set up, warm up, then a round for every message."""
    try:
        cases = PEERS[config.what][peer](config, n_envs)
    except (ImportError, UserError) as error:
        pipe.send(str(error))
        return
    for run in cases.values():
        run()
    pipe.send("")
    while pipe.recv():
        results = {}
        for case, run in cases.items():
            synchronise(config.device)
            start = time.perf_counter()
            amount = run()
            synchronise(config.device)
            results[case] = {"rate": amount / (time.perf_counter() - start), "memory": memory(config.device)}
        pipe.send(results)


def synchronise(device: str) -> None:
    """Wait for the GPU, where there is one."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def memory(device: str) -> float:
    """Return the largest memory so far in MB: of the GPU, or of this process and its children."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 1e6
    usage = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage) / 1e3


def summarise(measured: dict[str, list[dict[str, float]]], reference: str) -> list[dict[str, Any]]:
    """
    Return a row per case: median, smallest and largest rate, median ratio to the reference, memory.

    :param measured: What :func:`measure` returned
    :param reference: The peer whose case of the same name counts as 1
    """
    rows = []
    for name, values in measured.items():
        peer, _, case = name.partition(": ")
        base = measured.get(f"{reference}: {case}" if case else reference)
        rates = [value["rate"] for value in values]
        ratios = [rate / value["rate"] for rate, value in zip(rates, base, strict=True)] if base else []
        rows.append(
            {
                "case": case,
                "peer": peer,
                "median": statistics.median(rates),
                "min": min(rates),
                "max": max(rates),
                "ratio": statistics.median(ratios) if ratios else None,
                "ratio_min": min(ratios, default=None),
                "ratio_max": max(ratios, default=None),
                "memory": values[-1]["memory"],
            }
        )
    return sorted(rows, key=lambda row: str(row["case"]))


def markdown(rows: list[dict[str, Any]], unit: str) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        f"| case | peer | {unit} (min to max) | ratio (min to max) | memory, MB |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        ratio = (
            "-" if row["ratio"] is None else "{ratio:.2f} ({ratio_min:.2f} to {ratio_max:.2f})".format(**row)
        )
        rate = "{median:,.0f} ({min:,.0f} to {max:,.0f})".format(**row)
        lines.append(f"| {row['case']} | {row['peer']} | {rate} | {ratio} | {row['memory']:,.0f} |")
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], title: str, path: Path) -> None:
    """Write a bar chart of the ratios."""
    import matplotlib.pyplot as plt

    names = [f"{row['case']}  {row['peer']}".strip() for row in rows]
    figure, axes = plt.subplots(figsize=(8, 1 + 0.3 * len(rows)), layout="constrained")
    values = [row["ratio"] or 0.0 for row in rows]
    spread = [
        [max(0.0, value - (row["ratio_min"] or 0)) for value, row in zip(values, rows, strict=True)],
        [max(0.0, (row["ratio_max"] or 0) - value) for value, row in zip(values, rows, strict=True)],
    ]
    colours = ["tab:orange" if "CoordConv" in name or "coordconv" in name else "tab:blue" for name in names]
    bars = axes.barh(names, values, xerr=spread, color=colours, error_kw={"lw": 1})
    axes.bar_label(bars, [f"{value:.2f}" for value in values], padding=6, fontsize=8)
    axes.axvline(1.0, color="black", lw=0.8)
    axes.invert_yaxis()
    axes.set(title=title, xlabel="speed, ratio to the peer at 1 (median; line: min to max)")
    axes.margins(x=0.12)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main(sys.argv[1:])
