"""The protocol of schedules."""

from __future__ import annotations

from .._registry import Described, Registry


class Schedule(Described):
    """When how much is pruned.

    A path is a sequence of training cycles: a dense one first (`dense_first`), then one for each of the `levels`, to which the network is
    pruned at the start of the cycle, or in its course (`share`).

    Attributes
    ----------
    dense_first : bool
        Whether a dense network is trained before anything is pruned.
    gradual : bool
        Whether the network is pruned in the course of a cycle.
    """

    dense_first = True
    gradual = False

    def levels(self, sparsity: float, fraction: float) -> list[float]:
        """Sparsities at which the cycles end, ascending; the last is `sparsity`.

        Parameters
        ----------
        sparsity : float
            The one to end at.
        fraction : float
            Of the remaining weights that a round takes away, where the schedule has rounds.
        """
        return [sparsity]

    def sparsity_at(self, start: float, end: float, progress: float) -> float:
        """Sparsity in the course of a gradual cycle, `progress` in [0, 1]."""
        return end


SCHEDULES = Registry("schedule", Schedule)
