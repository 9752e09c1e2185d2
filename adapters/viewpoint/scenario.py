"""A scenario: where everything starts, what nobody knows, and the key of all later randomness."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np

from statml._validation import RandomState, as_generator

from .geometry import SPACING, wrap
from .noise import Noise

MARGIN = 2.0  # starts are this far from the walls, m
_ROUNDS = 1000


@dataclass
class Scenario:
    """The start of E episodes of up to N targets of K classes.

    Every policy that is run on one scenario meets the same target motions and, at the same poses and times, the same sensor noise.

    Parameters
    ----------
    drone : array of shape (E, 3)
        x, y (m), yaw (rad), world frame.
    targets : array of shape (E, N, 3)
        x, y (m), heading (rad).
    velocities : array of shape (E, N, 2)
        m/s.
    classes : array of int of shape (E, N)
        In 0..K-1.
    beliefs : array of shape (E, N, K)
    active : array of bool of shape (E, N)
        False for padding.
    side : array of shape (E,)
        Half the edge of the square, m.
    keys : array of uint64 of shape (E,)
        Key of each episode's random numbers.
    motion : dict of arrays, first axis E
        What the motion carries along: goals, desired speeds.
    """

    drone: np.ndarray
    targets: np.ndarray
    velocities: np.ndarray
    classes: np.ndarray
    beliefs: np.ndarray
    active: np.ndarray
    side: np.ndarray
    keys: np.ndarray
    motion: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def placed(
        cls,
        drone: np.ndarray,
        targets: np.ndarray,
        n_classes: int,
        *,
        classes: np.ndarray | None = None,
        velocities: np.ndarray | None = None,
        side: float = 8.0,
        random_state: RandomState = 0,
    ) -> Scenario:
        """A scenario by hand: given poses, uniform beliefs; targets stand still and are of class 0 unless said otherwise.

        `drone` is (3,) or (E, 3), `targets` (N, 3) or (E, N, 3); motions with a state of their own, such as social forces, cannot start
        from it.

        Examples
        --------
        >>> import numpy as np
        >>> from statml.adapters.viewpoint import Scenario
        >>> Scenario.placed([0, 0, 0], [[3, 0, np.pi]], n_classes=6).beliefs.shape
        (1, 1, 6)
        """
        drone, targets = np.asarray(drone, float), np.asarray(targets, float)
        if drone.shape[-1:] != (3,) or targets.shape[-1:] != (3,) or targets.ndim < 2:
            raise ValueError(
                "drone and targets must hold (x, y, angle) in their last axis, got shapes"
                f" {drone.shape} and {targets.shape}"
            )
        drone = np.atleast_2d(drone)
        targets = targets[None] if targets.ndim == 2 else targets
        e, n = len(drone), targets.shape[1]
        if n < 1:
            raise ValueError("targets must hold at least one target, got none")
        if not (np.isfinite(drone).all() and np.isfinite(targets).all()):
            raise ValueError("drone and targets must be finite")
        return cls(
            drone=drone,
            targets=np.broadcast_to(targets, (e, n, 3)).copy(),
            velocities=np.broadcast_to(
                np.zeros(2) if velocities is None else np.asarray(velocities, float), (e, n, 2)
            ).copy(),
            classes=np.broadcast_to(0 if classes is None else np.asarray(classes), (e, n)).copy(),
            beliefs=np.full((e, n, n_classes), 1 / n_classes),
            active=np.ones((e, n), bool),
            side=np.full(e, float(side)),
            keys=draw_keys(random_state, e),
        )

    def __len__(self) -> int:
        return len(self.drone)

    def take(self, rows: int | slice | np.ndarray) -> Scenario:
        """The scenario of some of the episodes, by index, slice or mask."""
        parts = {f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name != "motion"}
        return Scenario(**parts, motion={name: a[rows] for name, a in self.motion.items()})

    def put(self, rows: int | slice | np.ndarray, scenario: Scenario) -> None:
        """Overwrite the episodes at `rows` by those of another scenario of the same shape."""
        for part in fields(self):
            into, value = getattr(self, part.name), getattr(scenario, part.name)
            if part.name == "motion":
                for name in into:
                    into[name][rows] = value[name]
            else:
                into[rows] = value

    def padded(self, n: int) -> Scenario:
        """The same with room for `n` targets; refuses to drop any."""
        have = self.active.shape[1]
        if have > n:
            raise ValueError(f"scenario must have at most {n} targets, the pad, got {have}")
        if have == n:
            return self

        def pad(a: np.ndarray) -> np.ndarray:
            return np.concatenate([a, np.zeros((len(a), n - have, *a.shape[2:]), a.dtype)], 1)

        k = self.beliefs.shape[-1]
        beliefs = pad(self.beliefs)
        beliefs[:, have:] = 1 / k
        # arrays of the motion are by episode (E,) or by episode and target (E, N, ...)
        motion = {name: pad(a) if a.ndim > 1 else a for name, a in self.motion.items()}
        return Scenario(
            self.drone,
            pad(self.targets),
            pad(self.velocities),
            pad(self.classes),
            beliefs,
            pad(self.active),
            self.side,
            self.keys,
            motion,
        )


def draw_keys(random_state: RandomState, episodes: int) -> np.ndarray:
    """One key an episode from any random state."""
    return as_generator(random_state).integers(2**64, size=episodes, dtype=np.uint64)


def draw_start(
    noise: Noise, n_targets: tuple[int, int], side: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Sides (E,), who is active (E, N), the drones' poses (E, 3) and the targets' (E, N, 3).

    The number of targets is uniform on low..high, the side on (low, high). Places are uniform within 2 m of the walls, redrawn until all are
    1.38 m apart; angles are uniform.
    """
    low, high = n_targets
    sides = side[0] + (side[1] - side[0]) * noise.uniform("side", 0, ())
    number = low + (noise.uniform("number", 0, ()) * (high - low + 1)).astype(int)
    active = np.arange(high) < number[:, None]
    places = _apart(noise, active, sides - np.minimum(MARGIN, sides / 4))
    angles = wrap(2 * np.pi * noise.uniform("angle", 0, (high + 1,)))
    poses = np.concatenate([places, angles[..., None]], -1)
    poses[:, 1:][~active] = 0.0
    return sides, active, poses[:, 0], poses[:, 1:]


def _apart(noise: Noise, active: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """Places (E, 1 + N, 2) of drone and targets: whoever is too near one of lower number draws again."""
    here = np.concatenate([np.ones((len(active), 1), bool), active], 1)
    n = here.shape[1]
    earlier = np.tri(n, k=-1, dtype=bool)
    places = np.empty((*here.shape, 2))
    again, rows = here | True, np.arange(len(here))
    for attempt in range(_ROUNDS):
        draw = 2 * Noise(noise.keys[rows]).uniform("place", attempt, (n, 2)) - 1
        places[rows] = np.where(
            again[rows][..., None], draw * reach[rows, None, None], places[rows]
        )
        some = places[rows]
        squared = ((some[:, :, None] - some[:, None]) ** 2).sum(-1)
        both = here[rows][:, :, None] & here[rows][:, None, :]
        again[rows] = ((squared < SPACING**2) & both & earlier).any(-1)
        rows = rows[again[rows].any(-1)]
        if not len(rows):
            return places
    raise ValueError(
        f"n_targets={n - 1} targets find no places {SPACING:.2f} m apart in a square with"
        f" side={reach[rows[0]] + MARGIN:g} m from its centre: take fewer or a larger side"
    )
