"""The statistics of service regressions: exact where they can be counted, true to the rate they state."""

from __future__ import annotations

import itertools
import random
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.rollout.gate.shift import excess_chance, find_shift, least_chance, rank_chance

VALUES = st.lists(st.integers(0, 6), min_size=1, max_size=5)


@given(VALUES, VALUES)
def test_the_chance_is_that_of_every_split_counted_out(before: list[int], after: list[int]) -> None:
    """The definition itself: of all ways to draw so many of the pooled values, how many rank at least as high."""
    pooled = [*before, *after]
    rank = {v: sum(w < v for w in pooled) + sum(w <= v for w in pooled) for v in pooled}
    seen = sum(rank[v] for v in after)
    draws = [sum(rank[pooled[i]] for i in chosen) for chosen in itertools.combinations(range(len(pooled)), len(after))]
    assert rank_chance(before, after) == pytest.approx(sum(d >= seen for d in draws) / len(draws))


def test_known_tables() -> None:
    """Mann and Whitney's own: U = 1 of 4 and 4 has chance 2/70; all above has 1 in C(12, 6)."""
    assert rank_chance([1, 2, 3, 5], [4, 6, 7, 8]) == pytest.approx(2 / 70)
    assert rank_chance(range(6), range(6, 12)) == least_chance(6, 6) == pytest.approx(1 / 924)
    assert rank_chance(range(6, 12), range(6)) == 1.0


@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.99])
def test_the_approximation_meets_the_exact_count(quantile: float) -> None:
    """Just above the border, against a count by the same function's exact branch just below it."""
    rng = random.Random(7)
    for size in (30, 31):
        before = [rng.gauss(0, 1) for _ in range(size)]
        move = NormalDist().inv_cdf(quantile) / (size / 2) ** 0.5
        after = [rng.gauss(move, 1) for _ in range(size)]
        from fleet.rollout.gate import shift

        ranks = shift._midranks([*before, *after])
        seen = sum(ranks[size:])
        exact = shift._counted(ranks, size, seen)
        assert shift._approximated(ranks, size, size, seen) == pytest.approx(exact, abs=2e-3)


def test_all_alike_is_no_shift_however_many() -> None:
    assert rank_chance([1.0] * 40, [1.0] * 40) == 1.0
    assert rank_chance([1.0] * 5, [1.0] * 5) == 1.0


@given(st.lists(st.floats(-100, 100), min_size=6, max_size=12), st.floats(1, 1000))
def test_a_shift_beyond_all_noise_is_found_and_measured(before: list[float], size: float) -> None:
    spread = max(before) - min(before)
    after = [v + spread + size for v in before]
    shift = find_shift(before, after, tolerated=size / 2)
    assert shift.beyond == pytest.approx(least_chance(len(before), len(after)))
    assert size * 0.99 <= shift.size


@given(VALUES, VALUES)
def test_what_is_tolerated_can_only_make_a_shift_less_sure(before: list[int], after: list[int]) -> None:
    shift = find_shift(before, after, 0.5)
    assert 0 < shift.above <= shift.beyond <= 1


@pytest.mark.parametrize(
    "draw", [lambda r: r.gauss(0, 1), lambda r: r.expovariate(1), lambda r: r.lognormvariate(0, 2)]
)
def test_without_a_shift_alarms_are_as_rare_as_stated_whatever_the_distribution(draw) -> None:
    """2,000 trials at one in twenty: between 3.5 and 6.5 percent is five standard deviations wide."""
    rng = random.Random(11)
    alarms = sum(rank_chance([draw(rng) for _ in range(8)], [draw(rng) for _ in range(8)]) <= 0.05 for _ in range(2000))
    assert 0.025 < alarms / 2000 <= 0.065


@given(st.integers(0, 8), st.integers(1, 8), st.integers(0, 8), st.integers(1, 8))
def test_excess_is_the_count_of_all_draws(errors: int, more: int, beside: int, more_beside: int) -> None:
    asked, asked_beside = errors + more, beside + more_beside
    bad = errors + beside
    cards = [1] * bad + [0] * (asked + asked_beside - bad)
    if len(cards) > 14:
        return
    draws = [sum(cards[i] for i in c) for c in itertools.combinations(range(len(cards)), asked)]
    expected = sum(d >= errors for d in draws) / len(draws)
    assert excess_chance(errors, asked, beside, asked_beside) == pytest.approx(expected)


def test_fishers_tea() -> None:
    """The lady who tasted four of four right: one in seventy."""
    assert excess_chance(4, 4, 0, 4) == pytest.approx(1 / 70)
