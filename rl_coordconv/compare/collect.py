"""All runs of a comparison: of its folder, trained elsewhere, and those whose recorded scores are left."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from rl_coordconv.compare.cache import Cache, Key, key_of, key_of_foreign, key_of_recorded
from rl_coordconv.compare.comparison import Comparison
from rl_coordconv.compare.foreign import read_foreign
from rl_coordconv.compare.read import read_run
from rl_coordconv.compare.rundata import RunData, run_name
from rl_coordconv.compare.tidy import read_csv
from rl_coordconv.errors import UserError
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
    :return: A run that is both in the folder and recorded comes from where it came further
    :raises UserError: The recorded scores cannot be read
    """
    recorded = [] if comparison.results is None else read_csv(comparison.results)
    sources = [*_own_runs(comparison), *_foreign_runs(comparison, {run.name for run in recorded})]
    runs, broken = [], {}
    for source in sources:
        try:
            runs.append(dataclasses.replace(source.read(), folder=source.path))
        except Exception as error:  # whatever a damaged file makes a parser raise is about that one run
            broken[source.run] = f"it cannot be read: {type(error).__name__}: {error}"
    here = {run.name: run for run in runs}
    taken = {run.name: run for run in recorded if run.name not in here or _further(run, here[run.name])}
    wanted = _in_order(comparison, (here | taken).values())
    there = {run.name for run in wanted}
    missing = [
        name
        for game, arm, seed in itertools.product(comparison.games, comparison.arms, comparison.seeds)
        if arm not in comparison.foreign and (name := run_name(game, arm, seed)) not in there | broken.keys()
    ]
    # What the report's tables hold is not what was read here where the recorded run is taken.
    keys = {source.label: source.key + [-1] * (source.run in taken) for source in sources}
    if comparison.results is not None:
        keys[str(comparison.results)] = key_of_recorded(comparison.results)
    return Collected(wanted, broken, missing, keys)


def _further(recorded: RunData, here: RunData) -> bool:
    return (recorded.ended, recorded.last_step) > (here.ended, here.last_step)


class _Source(NamedTuple):
    """Where a run can be read: its name and folder, its key and what that is kept under, and how."""

    run: str
    path: Path
    label: str
    key: Key
    read: Callable[[], RunData]


def _own_runs(comparison: Comparison) -> Iterator[_Source]:
    """Yield the runs in a comparison's folder, of which those that have not changed are known."""
    cache = Cache(comparison.folder)
    for game, arm, seed in itertools.product(comparison.games, comparison.arms, comparison.seeds):
        name = run_name(game, arm, seed)
        path = comparison.folder / name
        if (run := RunFolder(path)).config_file.is_file():
            key = key_of(run)
            if known := cache.get(name, key):
                read = functools.partial(dataclasses.replace, known)
            else:
                read = functools.partial(read_run, run, comparison.folder.name, game, arm, seed)
            yield _Source(name, path, name, key, read)
        elif path.is_dir() and any(path.iterdir()):
            yield _Source(name, path, name, key_of(run), functools.partial(_refuse, path))


def _refuse(path: Path) -> RunData:
    raise UserError(f"'{path}' holds no config.yaml")


def _foreign_runs(comparison: Comparison, recorded: Container[str]) -> Iterator[_Source]:
    """Yield the runs trained elsewhere, without those that are gone and recorded."""
    for arm, games in comparison.foreign.items():
        for game, paths in games.items():
            for number, path in enumerate(paths, start=1):
                name = run_name(game, arm, number)
                if path.exists() or name not in recorded:
                    read = functools.partial(read_foreign, path, comparison.folder.name, game, arm, number)
                    yield _Source(name, path, f"{game}/{arm}: {path}", key_of_foreign(path), read)


def _in_order(comparison: Comparison, runs: Iterable[RunData]) -> list[RunData]:
    """Return the runs of the comparison's games, arms and seeds, in their order."""
    games, arms = list(comparison.games), list(comparison.arms)
    wanted = [
        run
        for run in runs
        if run.game in games
        and run.arm in arms
        # Another machine may have recorded runs of seeds of its own, of which others are still to come.
        and (run.foreign or run.seed in comparison.seeds)
    ]
    return sorted(wanted, key=lambda run: (games.index(run.game), arms.index(run.arm), run.seed))
