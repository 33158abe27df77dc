"""Did a measure of a service shift, and by how much: small samples, no assumption on their distribution.

Samples are *differences* between hosts with and without the program at the same times, one per time, before and after
the program came: the before–after–control–impact design in pairs (Stewart-Oaten, Murdoch and Parker, "Environmental
impact assessment: 'pseudoreplication' in time?", Ecology 67, 1986). What moves both hosts alike, such as the load of
the day, is gone from a difference; what is left is compared by the exact rank-sum test (Mann and Whitney, 1947; ties
by midranks), with the median of all pairwise differences as its size (Hodges and Lehmann, 1963). Under no shift every
split of the samples is equally likely, so the chance is exact for any distribution, as long as one time's difference
says nothing about the next one's: times are to be some seconds apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, median

_EXACT = 900  # pairs up to which the distribution is counted out; beyond, the normal approximation is good to 1e-3


@dataclass(frozen=True, slots=True)
class Shift:
    """How far *after* lies above *before*, in the samples' unit.

    ``beyond``: the chance of such ranks if the shift were no more than what is tolerated; ``above``: if it were none.
    """

    size: float
    beyond: float
    above: float


def find_shift(before: Sequence[float], after: Sequence[float], tolerated: float = 0.0) -> Shift:
    """Return how far *after* is shifted up from *before*; both have at least one sample."""
    size = median(b - a for a in before for b in after)
    return Shift(size, rank_chance(before, [v - tolerated for v in after]), rank_chance(before, after))


def rank_chance(before: Sequence[float], after: Sequence[float]) -> float:
    """Return the chance that *after* ranks at least as high as it does, were both drawn alike (one-sided)."""
    ranks = _midranks([*before, *after])
    n, m = len(after), len(before)
    seen = sum(ranks[m:])
    return _counted(ranks, n, seen) if n * m <= _EXACT else _approximated(ranks, n, m, seen)


def _midranks(values: Sequence[float]) -> list[int]:
    """Twice the rank of each value, ties sharing the middle: whole numbers."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0] * len(values)
    at = 0
    while at < len(order):
        end = at
        while end < len(order) and values[order[end]] == values[order[at]]:
            end += 1
        for i in order[at:end]:
            ranks[i] = at + 1 + end  # (first rank + last rank), ranks from 1
        at = end
    return ranks


def _counted(ranks: Sequence[int], n: int, seen: int) -> float:
    """Count the choices of *n* ranks by their sum, and return the share that reach *seen*."""
    ways: list[dict[int, int]] = [{0: 1}, *({} for _ in range(n))]
    for rank in ranks:
        for size in range(n, 0, -1):
            into = ways[size]
            for total, count in ways[size - 1].items():
                into[total + rank] = into.get(total + rank, 0) + count
    reach = sum(count for total, count in ways[n].items() if total >= seen)
    return reach / math.comb(len(ranks), n)


def _approximated(ranks: Sequence[int], n: int, m: int, seen: int) -> float:
    mean = n * (n + m + 1)  # of doubled ranks
    spread = n * m / ((n + m) * (n + m - 1)) * (sum(r * r for r in ranks) - (n + m) * (n + m + 1) ** 2)
    if spread <= 0:  # all alike
        return 1.0
    return 1.0 - NormalDist().cdf((seen - mean - 1) / math.sqrt(spread))  # -1: half a step of doubled ranks


def least_chance(before: int, after: int) -> float:
    """Return the smallest chance that so many samples can show: below it, nothing is ever found."""
    return 1.0 / math.comb(before + after, after)


def excess_chance(errors: int, asked: int, errors_beside: int, asked_beside: int) -> float:
    """Return the chance of at least *errors* in *asked* were errors as frequent as beside (Fisher, 1935; one-sided)."""
    total, bad = asked + asked_beside, errors + errors_beside
    ways = sum(math.comb(bad, k) * math.comb(total - bad, asked - k) for k in range(errors, min(bad, asked) + 1)
               if asked - k <= total - bad)  # fmt: skip
    return ways / math.comb(total, asked)
