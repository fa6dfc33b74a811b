"""All runs of a comparison: of its folder, trained elsewhere, and those whose recorded scores are left."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rl_coordconv.compare.cache import Cache, Key, key_of, key_of_foreign
from rl_coordconv.compare.comparison import Comparison
from rl_coordconv.compare.foreign import read_foreign
from rl_coordconv.compare.read import read_run
from rl_coordconv.compare.rundata import RunData, run_name
from rl_coordconv.compare.tidy import read_csv
from rl_coordconv.runs.folder import RunFolder


@dataclass(frozen=True)
class Collected:
    """
    What was found of a comparison.

    :param runs: Those that have begun
    :param broken: Why a run cannot be read, by its name
    :param missing: Names of the wanted runs that have not begun
    :param keys: Sizes and times of the files that were read, by run, see :mod:`.cache`
    """

    runs: list[RunData]
    broken: dict[str, str]
    missing: list[str]
    keys: dict[str, Key] = field(default_factory=dict)


def collect(comparison: Comparison) -> Collected:
    """
    Read every run of a comparison that has begun, in the order of games, arms and seeds.

    :param comparison: From ``Comparison.load`` or ``load_comparison``
    :return: A run that is both in the folder and recorded comes from the folder if it is finished there
    :raises UserError: The recorded scores cannot be read
    """
    name = comparison.folder.name
    cache, keys = Cache(comparison.folder), {}
    reads: list[tuple[str, Path, Callable[[], RunData]]] = []  # by name, where from, how
    for game, arm, seed in itertools.product(comparison.games, comparison.arms, comparison.seeds):
        path = comparison.folder / game / arm / f"seed{seed}"
        if (run := RunFolder(path)).config_file.is_file():
            what = run_name(game, arm, seed)
            keys[what] = key_of(run)
            if known := cache.get(what, keys[what]):
                reads.append((what, path, functools.partial(_known, known)))
            else:
                reads.append((what, path, functools.partial(read_run, run, name, game, arm, seed)))
    recorded = [] if comparison.results is None else read_csv(comparison.results)
    kept = {run.name for run in recorded}
    for arm, games in comparison.foreign.items():
        for game, paths in games.items():
            for number, path in enumerate(paths, start=1):
                if path.exists() or run_name(game, arm, number) not in kept:
                    keys[f"{game}/{arm}: {path}"] = key_of_foreign(path)
                    reader = functools.partial(read_foreign, path, name, game, arm, number)
                    reads.append((run_name(game, arm, number), path, reader))
    runs, broken = [], {}
    for what, path, read in reads:
        try:
            runs.append(dataclasses.replace(read(), folder=path))
        except Exception as error:  # whatever a damaged file makes a parser raise is about that one run
            broken[what] = f"it cannot be read: {type(error).__name__}: {error}"
    finished = {run.name for run in runs if run.finished}
    recorded = [run for run in recorded if run.name not in finished]
    replaced = {run.name for run in recorded}
    runs = [run for run in runs if run.name not in replaced] + recorded
    order, arms = (list(names) for names in (comparison.games, comparison.arms))
    wanted = [run for run in runs if run.game in order and run.arm in arms]
    wanted.sort(key=lambda run: (order.index(run.game), arms.index(run.arm), run.seed))
    there = {run.name for run in wanted}
    missing = [
        name
        for game in order
        for arm in arms
        for seed in comparison.seeds
        if arm not in comparison.foreign and (name := run_name(game, arm, seed)) not in there
    ]
    return Collected(wanted, broken, missing, keys)


def _known(run: RunData) -> RunData:
    return run
