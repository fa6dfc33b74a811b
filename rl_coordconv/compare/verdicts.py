"""
The one decision rule of a report: a verdict is given where two tests agree, corrected for how many are asked.

Every question of a report (each arm on each game, and each arm over all games) has one p-value: of Welch's
test of the means, or the paired one where it pays; over games, of the difference of IQMs. Together they are
corrected after Holm, so that a report in which no arm differs gives any verdict in about 1 of 20 cases at
most. An exact test must be below 5 % too, on a game that of Mann and Whitney, over games one that permutes
the runs within each: where runs take off or do not, variances are not what they seem, and over two games
the difference of IQMs alone would be wrong in 1 of 8 reports. On a game it takes 4 runs of each arm: three
of three against none of three happens by chance. While runs are missing there is no verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rl_coordconv.compare.statistics import LEVEL, Estimate

Outcome = Literal["better", "worse", "undecided"]


@dataclass(frozen=True)
class Question:
    """
    Is an arm better than the baseline?

    :param difference: With its p-value, None where no test can be made
    :param exact_p_value: Of the exact test: Mann-Whitney on a game, permutations over games
    """

    difference: Estimate
    exact_p_value: float


@dataclass(frozen=True)
class Verdict:
    """
    Its answer.

    :param outcome: What may be said
    :param corrected: p-value after Holm, None where no test could be made
    """

    outcome: Outcome
    corrected: float | None


UNDECIDED = Verdict("undecided", None)


def decide(questions: Sequence[Question], interim: bool = False) -> list[Verdict]:
    """
    Answer all questions of a report together.

    :param questions: All of them, as the correction depends on their number
    :param interim: Whether runs are missing: then nothing is decided
    :return: In the same order
    """
    p_values = {
        index: question.difference.p_value
        for index, question in enumerate(questions)
        if question.difference.p_value is not None
    }
    corrected = dict(zip(p_values, holm([*p_values.values()]), strict=True))
    return [_verdict(question, corrected.get(index), interim) for index, question in enumerate(questions)]


def _verdict(question: Question, corrected: float | None, interim: bool) -> Verdict:
    limit = 1 - LEVEL
    if interim or corrected is None or corrected >= limit or question.exact_p_value >= limit:
        return Verdict("undecided", corrected)
    return Verdict("better" if question.difference.value > 0 else "worse", corrected)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm, 1979): below 0.05, all such hold together at 95 %."""
    order = np.argsort(p_values)
    steps = np.array(p_values)[order] * np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0) if len(order) else steps
    return [float(value) for value in corrected]
