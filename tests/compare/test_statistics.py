"""Statistics against rliable called by hand, and intervals against the truth on simulated scores."""

from __future__ import annotations

import numpy as np
import pytest
from rliable import library, metrics
from scipy import stats

from rl_coordconv.compare.statistics import (
    aggregate,
    binomial_interval,
    difference,
    improvement_on_game,
    improvement_over_games,
    mean_of_runs,
    performance_profile,
    seeds_needed,
)

# Human-normalised scores of five seeds on three games, as a comparison would save them.
SCORES = np.array([[0.9, 0.1, 1.4], [1.1, 0.3, 1.0], [0.7, 0.2, 1.9], [1.3, 0.2, 1.2], [1.0, 0.4, 1.5]])
BASELINE = SCORES - np.array([0.2, -0.1, 0.3])


def test_point_estimates_are_rliables():
    found = aggregate(SCORES)
    assert found["iqm"].value == pytest.approx(metrics.aggregate_iqm(SCORES))
    assert found["optimality_gap"].value == pytest.approx(metrics.aggregate_optimality_gap(SCORES))
    by_hand = metrics.probability_of_improvement(SCORES, BASELINE)
    assert improvement_over_games(SCORES, BASELINE).value == pytest.approx(by_hand)
    taus = np.linspace(0, 2, 9)
    by_hand, _ = library.create_performance_profile({"arm": SCORES}, taus, reps=10)
    np.testing.assert_allclose(performance_profile(SCORES, taus)[0], by_hand["arm"])


def test_interval_of_many_runs_is_rliables():
    # With many runs the correction for few seeds is nothing, so rliable's own interval must come out.
    matrix = np.random.default_rng(1).normal(1.0, 0.3, size=(200, 4))
    _, by_hand = library.get_interval_estimates(
        {"arm": matrix}, lambda scores: np.array([metrics.aggregate_iqm(scores)]), reps=2000
    )
    ours = aggregate(matrix)["iqm"]
    width = by_hand["arm"][1, 0] - by_hand["arm"][0, 0]
    assert [ours.low, ours.high] == pytest.approx(by_hand["arm"][:, 0].tolist(), abs=0.15 * width)


def test_the_same_scores_give_the_same_interval_and_leave_numpys_state_alone():
    np.random.seed(3)
    expected = np.random.rand()
    np.random.seed(3)
    assert aggregate(SCORES) == aggregate(SCORES)
    assert np.random.rand() == expected


@pytest.mark.parametrize("n_runs", [2, 3, 5])
def test_iqm_interval_holds_the_truth_at_the_nominal_rate(n_runs):
    rng, trials, hits = np.random.default_rng(0), 150, 0
    means = np.array([0.2, 0.5, 0.8, 1.1, 1.6])
    # Symmetric noise: the IQM of very many runs is the truth.
    truth = metrics.aggregate_iqm(means + 0.1 * rng.standard_normal((20_000, 5)))
    for _ in range(trials):
        found = aggregate(means + 0.1 * rng.standard_normal((n_runs, 5)))["iqm"]
        hits += found.low <= truth <= found.high
    assert 0.88 <= hits / trials <= 1.0


@pytest.mark.parametrize("n_seeds", [2, 3, 5])
def test_paired_difference_holds_the_truth_at_the_nominal_rate(n_seeds):
    rng, trials, hits = np.random.default_rng(0), 2000, 0
    for _ in range(trials):
        environment = rng.standard_normal(n_seeds)
        ours = dict(enumerate(environment + 0.5 + 0.3 * rng.standard_normal(n_seeds)))
        theirs = dict(enumerate(environment + 0.3 * rng.standard_normal(n_seeds)))
        found = difference(ours, theirs, paired=True)
        hits += found.low <= 0.5 <= found.high
    assert hits / trials == pytest.approx(0.95, abs=0.02)


def test_differences_by_hand():
    ours, theirs = {1: 5.0, 2: 7.0, 3: 9.0}, {1: 4.0, 2: 5.0, 3: 6.0, 4: 100.0}
    paired = difference(ours, theirs, paired=True)
    assert paired == mean_of_runs(np.array([1.0, 2.0, 3.0]))
    assert paired.value == 2.0
    assert paired.high - 2.0 == pytest.approx(4.302653 / np.sqrt(3), rel=1e-6)
    welch = stats.ttest_ind([*ours.values()], [*theirs.values()], equal_var=False).confidence_interval(0.95)
    unpaired = difference(ours, theirs, paired=False)
    assert (unpaired.low, unpaired.high) == pytest.approx((welch.low, welch.high))
    assert difference({1: 5.0}, {2: 4.0}, paired=True) is None


def test_few_runs_never_claim_certainty():
    certain = improvement_on_game(np.array([10.0, 11.0]), np.array([1.0, 2.0]))
    assert certain.value == 1.0
    assert certain.low < 0.5
    assert binomial_interval(0.5, 10) == pytest.approx(stats.binomtest(5, 10).proportion_ci(method="exact"))
    assert improvement_on_game(np.array([1.0]), np.array([0.0])).low is None


def test_seeds_needed_have_the_promised_power():
    n, rng = seeds_needed(0.8), np.random.default_rng(0)
    samples = rng.normal(0.8, 1.0, size=(4000, n))
    t = samples.mean(axis=1) / (samples.std(axis=1, ddof=1) / np.sqrt(n))
    assert np.mean(t > stats.t.ppf(0.975, n - 1)) == pytest.approx(0.8, abs=0.04)
    assert seeds_needed(0.001) is None
