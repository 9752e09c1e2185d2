"""Social forces (Helbing and Molnar 1995): walkers with goals that keep away from each other and from the walls."""

from __future__ import annotations

import numpy as np

from statml._validation import check_number

from ..geometry import RADIUS, SPACING
from ._motion import Crowd, Motion, Moved

SPEED, SPEED_SPREAD, SPEED_FACTOR = (
    1.34,
    0.26,
    1.3,
)  # desired speed N(1.34, 0.26) m/s, at most 1.3 times that
RELAXATION = 0.5  # s
LOOK_AHEAD = 2.0  # s
WALL_STRENGTH, WALL_RANGE = 10.0, 0.6
COS_VIEW, OUT_OF_VIEW = np.cos(np.radians(100.0)), 0.5  # what a walker does not see counts half
_TINY = 1e-9


class SocialForce(Motion):
    """Targets that walk to goals and avoid each other.

    The acceleration of walker i with goal direction e_i and desired speed s_i is

        (s_i e_i - v_i) / tau  -  sum_j w_ij grad V(b_ij)  +  the walls' push,    V(b) = A exp(-b / B),

    where b_ij, the semi-minor axis of an ellipse, is given by ``2b = sqrt((|r| + |r - v_j T|)^2 - |v_j T|^2)``, with r from j to i and
    T = 2 s, and w_ij = 1/2 for a j outside i's view. On arrival (1.38 m) a walker gets a new uniform goal.

    Parameters
    ----------
    strength : float, default=21.1
        A, m^2/s^2.
    reach : float, default=2.0
        B, m. With the defaults, those of the paper's test scenarios, discs of 0.6 m never overlap; with Helbing and Molnar's 2.1 and 0.3,
        made for thinner walkers, they often do.

    References
    ----------
    D. Helbing and P. Molnar, "Social force model for pedestrian dynamics", Physical Review E 51, 1995.
    """

    def __init__(self, strength: float = 21.1, reach: float = 2.0):
        self.strength = check_number("strength", strength, 0)
        self.reach = check_number("reach", reach, 0, low_open=True)

    def start(self, crowd: Crowd) -> Moved:
        shape = crowd.active.shape[1:]
        desired = np.maximum(SPEED + SPEED_SPREAD * crowd.noise.normal("desired", 0, shape), 0.1)
        goals = _new_goals(crowd)
        direction = _unit(goals - crowd.targets[..., :2])
        velocities = np.where(crowd.active[..., None], desired[..., None] * direction, 0.0)
        return _headed(crowd.targets, velocities), velocities, {"desired": desired, "goals": goals}

    def move(self, crowd: Crowd) -> Moved:
        places, velocities = crowd.targets[..., :2], crowd.velocities
        desired, goals = crowd.state["desired"], crowd.state["goals"]
        direction = _unit(goals - places)
        force = (desired[..., None] * direction - velocities) / RELAXATION
        potential = (self.strength, self.reach)
        force += _repulsion(places, velocities, direction, crowd.active, *potential)
        force += _walls(places, crowd.side)

        velocities = velocities + crowd.dt * force
        speed = np.hypot(velocities[..., 0], velocities[..., 1])
        limit = SPEED_FACTOR * desired
        velocities = velocities * np.minimum(1.0, limit / np.maximum(speed, _TINY))[..., None]
        velocities = np.where(crowd.active[..., None], velocities, 0.0)
        edge = crowd.side[:, None, None]
        places = np.clip(places + crowd.dt * velocities, -edge, edge)

        arrived = ((goals - places) ** 2).sum(-1) < SPACING**2
        goals = np.where(arrived[..., None], _new_goals(crowd), goals)
        targets = np.concatenate([places, crowd.targets[..., 2:]], -1)
        state = {"desired": desired, "goals": goals}
        return _headed(targets, velocities), velocities, state

    def __repr__(self) -> str:
        return f"SocialForce(strength={self.strength:g}, reach={self.reach:g})"


def _new_goals(crowd: Crowd) -> np.ndarray:
    draw = crowd.noise.uniform("goal", crowd.time, (*crowd.active.shape[1:], 2))
    return (2 * draw - 1) * (crowd.side - RADIUS)[:, None, None]


def _repulsion(
    places: np.ndarray,
    velocities: np.ndarray,
    direction: np.ndarray,
    active: np.ndarray,
    strength: float,
    reach: float,
) -> np.ndarray:
    """- sum_j w_ij grad_r V(b_ij), with the gradient taken analytically."""
    r = places[:, :, None] - places[:, None, :]  # from j to i
    step = LOOK_AHEAD * velocities[:, None, :, :]
    shifted = r - step
    a = np.maximum(np.sqrt((r**2).sum(-1)), _TINY)
    c = np.maximum(np.sqrt((shifted**2).sum(-1)), _TINY)
    b = 0.5 * np.sqrt(np.maximum((a + c) ** 2 - (step**2).sum(-1), _TINY))
    # db/dr = (a + c) / (4 b) (r / a + (r - v T) / c)
    gradient = ((a + c) / (4 * b))[..., None] * (r / a[..., None] + shifted / c[..., None])
    push = (strength / reach * np.exp(-b / reach))[..., None] * gradient
    # j is in i's view when the direction from i to j is within 100 degrees of where i wants to go
    seen = -(r * direction[:, :, None, :]).sum(-1) >= a * COS_VIEW
    weight = np.where(seen, 1.0, OUT_OF_VIEW) * (active[:, :, None] & active[:, None, :])
    n = weight.shape[-1]
    weight.reshape(-1, n * n)[:, :: n + 1] = 0.0
    return (weight[..., None] * push).sum(2)


def _walls(places: np.ndarray, side: np.ndarray) -> np.ndarray:
    """The push of the four walls, each (10 / 0.6) exp(-distance / 0.6), inwards."""
    edge = side[:, None, None]
    low, high = np.exp(-(edge + places) / WALL_RANGE), np.exp(-(edge - places) / WALL_RANGE)
    return WALL_STRENGTH / WALL_RANGE * (low - high)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.maximum(np.sqrt((vector**2).sum(-1, keepdims=True)), _TINY)


def _headed(targets: np.ndarray, velocities: np.ndarray) -> np.ndarray:
    walking = (velocities**2).sum(-1) > _TINY
    heading = np.arctan2(velocities[..., 1], velocities[..., 0])
    heading = np.where(walking, heading, targets[..., 2])
    return np.concatenate([targets[..., :2], heading[..., None]], -1)
