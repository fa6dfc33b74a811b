"""
A comparison: games x arms x seeds, the options of each arm, and where its runs and scores are.

On disk, in ``runs/<name>/`` and in a folder of recorded scores::

    comparison.yaml    games, arms, seeds, baseline, score, options of every arm, foreign folders
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rl_coordconv.compare.rundata import is_path
from rl_coordconv.config import RunConfig
from rl_coordconv.errors import UserError, choose
from rl_coordconv.files import make_folder, write_text
from rl_coordconv.options import read_yaml

SCORE_KINDS = ("eval", "train")
SCORES_CSV = "scores.csv"
CURVES_CSV = "curves.csv"
COMPARISON_YAML = "comparison.yaml"


@dataclass(frozen=True)
class Comparison:
    """
    A validated comparison.

    :param folder: ``<output>/<name>``
    :param games: Canonical names
    :param arms: Names, in the order of the file
    :param seeds: Seeds of the runs
    :param baseline: The arm that the others are compared with
    :param runs: One config per run to train, those of the first seed first
    :param foreign: Folders of runs trained elsewhere, by arm and game
    :param score: What a run's score is: ``eval``, its final evaluation, or ``train``, its last training games
    :param options: What each arm was trained with, by arm; without those trained elsewhere
    :param results: Folder with the scores of runs that may be gone, see :mod:`.results`
    :param remarks: What a report has to say of how it was put together from others
    """

    folder: Path
    games: tuple[str, ...]
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    baseline: str
    runs: tuple[RunConfig, ...] = ()
    foreign: dict[str, dict[str, list[Path]]] = field(default_factory=dict)
    score: str = "eval"
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    results: Path | None = None
    remarks: tuple[str, ...] = ()

    @property
    def file(self) -> Path:
        """What the report reads: ``comparison.yaml``."""
        return self.folder / COMPARISON_YAML

    def joined(self, other: Comparison) -> Comparison:
        """Return it with another's games, arms and seeds; an arm that both have stays what it is here."""

        def both(mine: Sequence, theirs: Sequence) -> tuple:
            return tuple(dict.fromkeys((*mine, *theirs)))

        foreign = {**other.foreign, **self.foreign}
        for arm in {*other.foreign} & {*self.foreign}:
            theirs, mine = other.foreign[arm], self.foreign[arm]
            # A run's number is its place here: one that is recorded keeps it, also when its folder is gone.
            foreign[arm] = {
                game: list(both(theirs.get(game, []), mine.get(game, [])))
                for game in both([*theirs], [*mine])
            }

        return dataclasses.replace(
            self,
            games=both(self.games, other.games),
            arms=both(self.arms, other.arms),
            seeds=both(self.seeds, other.seeds),
            options={**other.options, **self.options},
            foreign=foreign,
        )

    def save(self) -> None:
        """Write ``comparison.yaml`` into the folder, made if it is not there."""
        make_folder(self.folder, "output folder")
        kept = {} if self.results is None else {"results": str(self.results.resolve())}
        write_text(self.file, self.to_yaml() + (yaml.safe_dump(kept) if kept else ""))

    def to_yaml(self) -> str:
        """Return what :meth:`load` reads back."""
        foreign = {
            arm: {game: [str(path) for path in paths] for game, paths in games.items()}
            for arm, games in self.foreign.items()
        }
        values = {
            "games": list(self.games),
            "arms": list(self.arms),
            "seeds": list(self.seeds),
            "baseline": self.baseline,
            "score": self.score,
            "foreign": foreign,
            "options": self.options,
        }
        return yaml.safe_dump(values, sort_keys=False)

    @classmethod
    def load(cls, folder: Path) -> Comparison:
        """
        Return the comparison that lives in a folder, without its runs; what these tell if none was saved.

        :param folder: ``runs/<name>``
        :raises UserError: There are no runs, or ``comparison.yaml`` is not what :meth:`save` writes
        """
        file = folder / COMPARISON_YAML
        if not file.is_file():
            return cls._of_runs(folder)
        values = read_yaml(file)
        if Path(str(values.get("results"))).is_dir():  # what --results said
            results: Path | None = Path(values["results"])
        else:
            results = folder if (folder / SCORES_CSV).is_file() and not _runs_in(folder) else None
        try:
            foreign = {
                arm: {game: [Path(path) for path in paths] for game, paths in games.items()}
                for arm, games in values["foreign"].items()
            }
            games, arms, seeds = (tuple(values[key]) for key in ("games", "arms", "seeds"))
            if not all(isinstance(name, str) for name in (*games, *arms)) or values["baseline"] not in arms:
                raise TypeError("games and arms must be names, and baseline one of the arms")
            # Version 0.1.0 scored training games, and did not say so.
            score = choose(f"score in {file}", values.get("score", "train"), SCORE_KINDS)
            options = dict(values.get("options") or {})
            if not all(isinstance(seed, int) for seed in seeds):
                raise TypeError("seeds must be whole numbers")
            if not all(isinstance(of_arm, dict) for of_arm in options.values()):
                raise TypeError("options must hold 'option: value' lines for each arm")
            if unfit := [name for name in (*games, *arms) if is_path(name)]:
                raise ValueError(f"'{unfit[0]}' is a path, not a name")
            return cls(folder, games, arms, seeds, values["baseline"], (), foreign, score, options, results)
        except UserError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"'{file}' is damaged ({error!r}): start the comparison again to renew it"
            ) from None

    @classmethod
    def _of_runs(cls, folder: Path) -> Comparison:
        if not folder.is_dir():
            raise UserError(f"'{folder}' does not exist: give the folder of a comparison, runs/<name>")
        found = _runs_in(folder)
        if not found:
            raise UserError(f"'{folder}' holds no runs (<game>/<arm>/seed<k>): give the folder runs/<name>")
        games = tuple(sorted({path.parts[-3] for path in found}))
        arms = tuple(sorted({path.parts[-2] for path in found}))
        seeds = tuple(sorted({int(path.name.removeprefix("seed")) for path in found}))
        return cls(folder, games, arms, seeds, "cnn" if "cnn" in arms else arms[0])


def _runs_in(folder: Path) -> list[Path]:
    found = [path.parent for path in folder.glob("*/*/seed*/config.yaml")]
    return [path for path in found if re.fullmatch(r"seed[0-9]+", path.name)]
