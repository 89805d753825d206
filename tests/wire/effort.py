"""Whether work grows with its size and no faster, told without a clock on the wall."""

from __future__ import annotations

from collections.abc import Callable
from time import process_time

__all__ = ["grows_no_faster_than_linear"]


def grows_no_faster_than_linear(work: Callable[[int], object], size: int) -> bool:
    """Whether four times the size costs less than eight times as much (quadratic work costs sixteen
    times). The best of three attempts counts for each: whatever disturbs only makes one slower.
    """
    return _cost(work, 4 * size) < 8 * _cost(work, size)


def _cost(work: Callable[[int], object], size: int) -> float:
    costs = []
    for _ in range(3):
        begun = process_time()
        work(size)
        costs.append(process_time() - begun)
    return min(costs)
