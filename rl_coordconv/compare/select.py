"""Parts of a comparison, several of them together, and other names for arms."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from rl_coordconv.compare.collect import Collected
from rl_coordconv.compare.comparison import Comparison
from rl_coordconv.compare.notes import commas, flat_options
from rl_coordconv.compare.rundata import RunData, is_copy, is_path, parts_of, run_name
from rl_coordconv.config import EXTRACTOR_OPTIONS
from rl_coordconv.envs import canonical_game
from rl_coordconv.errors import UserError, choose
from rl_coordconv.options import repeated

Part = tuple[Comparison, Collected]


def merged(parts: Sequence[Part]) -> Part:
    """
    Return several comparisons as one: arms with the same name and options are one, others get two names.

    Arms whose options are not recorded, as those trained elsewhere, are never the same. A run that two of
    them trained alike, to the same curve from the same seed, is one.

    :param parts: The first gives folder, baseline and kind of score
    :raises UserError: A run is in two of them
    """
    whole, data = parts[0]
    # Seeds of one comparison stay together, and apart from those of another.
    seeds_of = [
        seed for comparison, more in parts for seed in (*comparison.seeds, *(run.seed for run in more.runs))
    ]
    apart = max(100_000, 1 + max(seeds_of, default=0))
    for number, (comparison, more) in enumerate(parts[1:], start=1):
        clash = {}
        for arm in (arm for arm in comparison.arms if arm in whole.arms):
            options = comparison.options.get(arm)
            if options is None or options != whole.options.get(arm):
                name = f"{arm} ({comparison.folder.name})"
                while name in whole.arms:
                    name += "'"
                clash[arm] = name
        names = _differing(whole, comparison)
        comparison, more = relabelled((comparison, more), clash)
        here = {(run.comparison, run.game, run.arm, run.seed % apart) for run in data.runs}
        for run in more.runs:
            if (run.comparison, run.game, run.arm, run.seed) in here:
                raise UserError(
                    f"run {run.name} of '{run.comparison}' is there twice: merge each comparison once"
                )
        shift = number * apart
        known: dict[tuple[str, str, int], list[RunData]] = {}
        for run in data.runs:
            known.setdefault((run.game, run.arm, run.seed % apart), []).append(run)
        new = [
            run
            for run in more.runs
            if run.foreign
            or not any(is_copy(run, other) for other in known.get((run.game, run.arm, run.seed), ()))
        ]
        again = any(not run.foreign and (run.game, run.arm, run.seed) in known for run in new)
        remarks = dict.fromkeys([*whole.remarks, *_remarks(names, again)])
        whole = dataclasses.replace(whole, remarks=tuple(remarks))
        runs = [dataclasses.replace(run, seed=run.seed + shift) for run in new]
        more = _renamed(more, lambda game, arm, seed, shift=shift: run_name(game, arm, seed + shift))
        data = Collected([*data.runs, *runs], data.broken | more.broken, [*data.missing, *more.missing])
        seeds = tuple(seed + shift for seed in comparison.seeds)
        whole = whole.joined(dataclasses.replace(comparison, seeds=seeds))
    return whole, data


def _remarks(names: Sequence[str], again: bool) -> list[str]:
    """
    Return what a report has to say of comparisons that were merged.

    :param names: Options in which they differ
    :param again: Whether both have runs of one arm and seed that are no copies
    """
    remarks = []
    if names:
        remarks.append(
            f"The merged comparisons differ in {commas(names)}: arms of one and of another differ in that "
            "too."
        )
    if again:
        remarks.append(
            "Two of the merged comparisons have runs of one arm and seed, which begin alike and count as "
            "independent ones here."
        )
    return remarks


def _differing(one: Comparison, other: Comparison) -> list[str]:
    """Return the options, besides the extractor's, of which two comparisons have no common value."""
    flat = [[flat_options(options) for options in part.options.values()] for part in (one, other)]
    names = dict.fromkeys(name for part in flat for options in part for name in options)
    skipped = {"extractor", *EXTRACTOR_OPTIONS}
    values = {
        name: [{str(options[name]) for options in part if name in options} for part in flat]
        for name in names
        if name.partition(".")[0] not in skipped
    }
    return [name for name, (mine, theirs) in values.items() if mine and theirs and mine.isdisjoint(theirs)]


def parsed_labels(labels: Sequence[str], arms: Sequence[str]) -> dict[str, str]:
    """
    Return new names by arm.

    :param labels: E.g. ``["cnn=Nature CNN"]``
    :param arms: Arms that there are
    :raises UserError: One is no ``arm=label``, or names no arm, or two arms would have one name
    """
    found = {}
    for text in labels:
        arm, equals, label = text.partition("=")
        if not equals or not label:
            raise UserError(f"label '{text}' must be arm=label")
        if is_path(label):
            raise UserError(f"label '{label}' must not hold / or begin with a dot: it names a folder too")
        found[choose("arm in labels", arm, arms)] = label
    names = [found.get(arm, arm) for arm in arms]
    if twice := repeated(names):
        raise UserError(f"labels give two arms the name '{twice[0]}'")
    return found


def relabelled(part: Part, names: Mapping[str, str]) -> Part:
    """Return a comparison with other names of its arms, by arm."""
    comparison, data = part

    def new(arm: str) -> str:
        return names.get(arm, arm)

    comparison = dataclasses.replace(
        comparison,
        arms=tuple(dict.fromkeys(map(new, comparison.arms))),
        baseline=new(comparison.baseline),
        options={new(arm): options for arm, options in comparison.options.items()},
        foreign={new(arm): games for arm, games in comparison.foreign.items()},
    )
    runs = [dataclasses.replace(run, arm=new(run.arm)) for run in data.runs]
    data = _renamed(data, lambda game, arm, seed: run_name(game, new(arm), seed))
    return comparison, dataclasses.replace(data, runs=runs)


def _renamed(data: Collected, name: Callable[..., str]) -> Collected:
    """Return the same with another name, of game, arm and seed, of every run that is not there."""
    missing = [name(*parts_of(run)) for run in data.missing]
    broken = {name(*parts_of(run)): reason for run, reason in data.broken.items()}
    return dataclasses.replace(data, missing=missing, broken=broken)


def selected(part: Part, games: Sequence[str] | None, arms: Sequence[str] | None) -> Part:
    """
    Return a comparison with some of its games and arms, in the order in which they are given.

    :param part: The comparison
    :param games: Their names, None for all
    :param arms: Their names, None for all; without the baseline, the first of them becomes it
    :raises UserError: One is not there, or is given twice
    """
    comparison, data = part
    for option, given in (("games", games), ("arms", arms)):
        if given is not None and not given:
            raise UserError(f"{option} is empty: give one or more")
    if games is not None:
        names = _once("game", [choose("game", canonical_game(game), comparison.games) for game in games])
        comparison = dataclasses.replace(comparison, games=names)
    if arms is not None:
        names = _once("arm", [choose("arm", arm, comparison.arms) for arm in arms])
        baseline = comparison.baseline if comparison.baseline in names else names[0]
        comparison = dataclasses.replace(comparison, arms=names, baseline=baseline)
    whole = part[0]
    if len(comparison.games) < len(whole.games) or len(comparison.arms) < len(whole.arms):
        words = f"games: {len(whole.games)}, arms: {len(whole.arms)}"
        remark = f"Part of a comparison ({words}): corrected for the questions shown here alone."
        comparison = dataclasses.replace(comparison, remarks=(*comparison.remarks, remark))

    def kept(name: str) -> bool:
        game, arm, _ = parts_of(name)
        return game in comparison.games and arm in comparison.arms

    return comparison, dataclasses.replace(
        data,
        runs=[run for run in data.runs if kept(run.name)],
        missing=[name for name in data.missing if kept(name)],
        broken={name: reason for name, reason in data.broken.items() if kept(name)},
    )


def _once(what: str, names: Sequence[str]) -> tuple[str, ...]:
    """Return names none of which is given twice."""
    if twice := repeated(names):
        raise UserError(f"{what} '{twice[0]}' is given twice")
    return tuple(names)
