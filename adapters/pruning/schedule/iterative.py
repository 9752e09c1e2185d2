"""Iterative magnitude pruning and its like: train, remove a fraction of what is left, rewind, repeat.

After k rounds the density is (1 - fraction)^k; with a given number of rounds n it is density^(k/n).
"""

from __future__ import annotations

from ._base import SCHEDULES, Schedule


@SCHEDULES.register("iterative")
class Iterative(Schedule):
    """Rounds that each remove the same fraction of the remaining weights; the last ends at the target.

    Parameters
    ----------
    n_rounds : int, optional
        Reach the target in so many rounds, whatever the estimator's `fraction`.

    Examples
    --------
    >>> from statml.adapters.pruning import SCHEDULES
    >>> [round(s, 4) for s in SCHEDULES.make("iterative").levels(0.7, 0.2)]
    [0.2, 0.36, 0.488, 0.5904, 0.6723, 0.7]
    """

    def __init__(self, n_rounds: int | None = None):
        if n_rounds is not None and n_rounds < 1:
            raise ValueError(f"n_rounds must be an integer >= 1, got {n_rounds}")
        self.n_rounds = n_rounds

    def levels(self, sparsity: float, fraction: float) -> list[float]:
        if self.n_rounds is not None:
            n = self.n_rounds
            return [1 - (1 - sparsity) ** (k / n) for k in range(1, n)] + [sparsity]
        levels, density = [], 1 - fraction
        while density > (1 - sparsity) * (1 + 1e-9):
            levels.append(1 - density)
            density *= 1 - fraction
        return [*levels, sparsity]
