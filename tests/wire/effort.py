"""Whether work grows with its size and no faster, told without a clock on the wall."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from time import process_time

__all__ = ["grows_no_faster_than_linear"]


_LEAST, _MOST = 3, 15


def grows_no_faster_than_linear(work: Callable[[int], object], size: int) -> bool:
    """Whether four times the size costs less than eight times as much (quadratic work costs sixteen
    times). The best attempt at each size counts, of three at least, and of more as long as it does not look
    like that: whatever disturbs only makes one slower.
    """
    once = four = inf
    for attempt in range(1, _MOST + 1):
        once, four = min(once, _cost(work, size)), min(four, _cost(work, 4 * size))
        if attempt >= _LEAST and four < 8 * once:
            return True
    return False


def _cost(work: Callable[[int], object], size: int) -> float:
    begun = process_time()
    work(size)
    return process_time() - begun
