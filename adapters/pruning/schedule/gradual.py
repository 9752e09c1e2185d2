"""Gradual pruning (Zhu and Gupta 2018): the sparsity rises along a cubic in the course of one training.

    s_t = s_f + (s_i - s_f) (1 - t)^3,   t from 0 to 1;

fast while weights are abundant, slow at the end. The ramp ends after three quarters of the cycle.
"""

from __future__ import annotations

from ._base import SCHEDULES, Schedule

RAMP = 0.75


@SCHEDULES.register("cubic")
class Cubic(Schedule):
    """Dense training, then a cycle in which the network is pruned bit by bit."""

    gradual = True

    def sparsity_at(self, start: float, end: float, progress: float) -> float:
        return cubic_sparsity(start, end, progress / RAMP)


def cubic_sparsity(start: float, end: float, t: float) -> float:
    """Sparsity on the cubic ramp.

    Parameters
    ----------
    start, end : float
    t : float
        0 at the start; 1 and above at the end.

    Returns
    -------
    float

    Examples
    --------
    >>> from statml.adapters.pruning import cubic_sparsity
    >>> [round(cubic_sparsity(0, 0.9, t / 10), 4) for t in (0, 1, 2, 5, 10)]
    [0.0, 0.2439, 0.4392, 0.7875, 0.9]
    """
    return end + (start - end) * (1 - min(max(t, 0.0), 1.0)) ** 3
