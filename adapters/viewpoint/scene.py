"""The scene: E episodes of one drone and up to N moving targets, all advanced by the same array operations.

One step: targets move, the drone moves, the camera looks, beliefs are updated, the reward is given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from statml._validation import RandomState, check_choice, check_integer, check_number

from .candidates import CANDIDATES, candidate_action
from .dynamics import Dynamics, make_dynamics
from .fusion import Fusion, ProductFusion, make_fusion
from .fusion._fusion import check_probabilities, clipped, updated
from .geometry import displace, relative_poses
from .information import entropy
from .motion import Crowd, Motion, make_motion
from .noise import Noise
from .reward import step_reward
from .scenario import Scenario, draw_keys, draw_start
from .sensors import AnalyticSensor, Looks, Sensor
from .visibility import seen

ACTIONS = ("displacement", "candidate")
OBSERVATION_COLUMNS = (
    "information",  # of the belief, bits: log2 K - H2
    "ahead",  # m, drone frame
    "left",  # m
    "heading",  # relative to the yaw, rad
    "last_information",  # of the last look's vector, bits
    "tracked",  # 1 when classified
    "velocity_ahead",  # m/s, drone frame, not minus the drone's own velocity
    "velocity_left",
    "idle",  # time since the belief was last updated, as a share of the horizon
)
PAPER_COLUMNS = OBSERVATION_COLUMNS[:8]
MAX_OBSERVED_SPEED = 5.0  # m/s along each axis
SMALLEST_SIDE = 3.0


@dataclass
class StepResult:
    """What one step gave each of E episodes.

    Attributes
    ----------
    reward : array of shape (E,)
    done_all : array of bool of shape (E,)
        All targets are classified: the episode is over.
    timed_out : array of bool of shape (E,)
        The horizon is reached with targets left: cut, not over.
    newly : array of bool of shape (E, N)
        Targets classified by this step.
    gain : array of shape (E,)
        Entropy of the beliefs removed by this step, bits.
    """

    reward: np.ndarray
    done_all: np.ndarray
    timed_out: np.ndarray
    newly: np.ndarray
    gain: np.ndarray


class Scene:
    """A batch of episodes.

    Parameters
    ----------
    n_targets : int or (int, int), default=(1, 6)
        Number of targets, or the smallest and largest, between which episodes draw uniformly. The largest is N, the pad.
    n_classes : int, default=6
        K.
    side : float or (float, float), default=8.0
        Half the edge of the square field, m; of a pair, episodes draw uniformly between the two.
    horizon : int, default=100
        Steps until an episode is cut.
    dt : float, default=0.25
        Seconds a step.
    target_motion : str, Motion, callable, or a tuple of these, default="constant_velocity"
        "static", "constant_velocity", "brownian", "social_force"; of several, each episode draws one.
    sensor : Sensor, default=None
        What says the classes; None is ``AnalyticSensor()``.
    fusion : {"product", "tempered", "pose_discount"} or Fusion, default="product"
    threshold : float, default=0.95
        A target is classified, and its belief frozen, once a class has this probability.
    action : {"displacement", "candidate"}, default="displacement"
        Actions are moves in the drone's frame, (E, 3) in [-1, 1], or choices (E,) among the candidate viewpoints of the targets.
    dynamics : {"kinematic", "mpc"} or Dynamics, default="kinematic"
        How the drone gets to the viewpoint that an action asks for.
    random_beliefs : bool, default=True
        Start from random beliefs (normalised uniforms), as in training; False: from uniform ones, as in tests.
    paper_compat : bool, default=False
        The published program's ways: facing tested against the drone's yaw instead of the line of sight; standing targets with
        headings of 0 or 180 degrees; certain vectors multiplied as they are; no entropy reward in the first step; 8 columns observed.

    Attributes
    ----------
    drone, targets, velocities, classes, active, side : arrays
        As in ``Scenario``, now.
    beliefs, last : arrays of shape (E, N, K)
        The beliefs, and the vector of the last look (uniform for what was not seen).
    entropies : array of shape (E, N)
        Of the beliefs, bits.
    relative : array of shape (E, N, 3)
        Poses of the targets in the drone's frame.
    tracked, visible : arrays of bool of shape (E, N)
        Classified; seen by the last look.
    idle : array of int of shape (E, N)
        Steps since the belief of the target was last updated; 0 for classified ones.
    time : array of int of shape (E,)
        Steps since the start.
    finished : array of bool of shape (E,)
        Done or cut: further steps give no reward and leave the beliefs alone.

    Examples
    --------
    >>> import numpy as np
    >>> from statml.adapters.viewpoint import Scene
    >>> scene = Scene(n_targets=3)
    >>> observation = scene.reset(random_state=0, episodes=4)
    >>> observation["targets"].shape, observation["mask"].shape
    ((4, 3, 9), (4, 3))
    >>> scene.step(np.zeros((4, 3))).reward.shape
    (4,)
    """

    def __init__(
        self,
        n_targets: int | tuple[int, int] = (1, 6),
        n_classes: int = 6,
        side: float | tuple[float, float] = 8.0,
        horizon: int = 100,
        dt: float = 0.25,
        target_motion: str | Motion | Callable | tuple = "constant_velocity",
        sensor: Sensor | None = None,
        fusion: str | Fusion = "product",
        threshold: float = 0.95,
        action: str = "displacement",
        dynamics: str | Dynamics = "kinematic",
        random_beliefs: bool = True,
        paper_compat: bool = False,
    ):
        low, high = n_targets if isinstance(n_targets, (tuple, list)) else (n_targets, n_targets)
        self.n_targets = (check_integer("n_targets", low, 1), check_integer("n_targets", high, low))
        self.n_classes = check_integer("n_classes", n_classes, 2)
        low, high = side if isinstance(side, (tuple, list)) else (side, side)
        low = check_number("side", low, SMALLEST_SIDE)
        self.side_range = (low, check_number("side", high, low))
        self.horizon = check_integer("horizon", horizon, 1)
        self.dt = check_number("dt", dt, 0, low_open=True)
        self.motion = make_motion(target_motion, paper_compat)
        self.sensor = AnalyticSensor() if sensor is None else sensor
        if not isinstance(self.sensor, Sensor):
            raise TypeError(f"sensor must have a method look, got {sensor!r}")
        self.fusion = make_fusion(fusion)
        if paper_compat and isinstance(self.fusion, ProductFusion):
            self.fusion = ProductFusion(clip=0.0)
        self.threshold = check_number("threshold", threshold, 1 / n_classes, 1, high_open=True)
        self.action = check_choice("action", action, ACTIONS)
        self.dynamics = make_dynamics(dynamics)
        self.random_beliefs, self.paper_compat = bool(random_beliefs), bool(paper_compat)
        self.columns = PAPER_COLUMNS if paper_compat else OBSERVATION_COLUMNS

    @property
    def max_targets(self) -> int:
        """N, the pad."""
        return self.n_targets[1]

    @property
    def episodes(self) -> int:
        """E."""
        if not hasattr(self, "time"):
            raise RuntimeError("the scene has no episodes yet: call reset or set_scenario first")
        return len(self.time)

    # --- starts

    def draw(self, keys: np.ndarray) -> Scenario:
        """The scenario that keys (E,) stand for; the same key always gives the same episode."""
        noise = Noise(keys)
        e, n, k = len(noise.keys), self.max_targets, self.n_classes
        side, active, drone, targets = draw_start(noise, self.n_targets, self.side_range)
        crowd = Crowd(targets, np.zeros((e, n, 2)), active, side, self.dt, noise, np.zeros(e, int))
        targets, velocities, motion = self.motion.start(crowd)
        beliefs = np.full((e, n, k), 1 / k)
        if self.random_beliefs:
            drawn = noise.uniform("belief", 0, (n, k))
            drawn /= drawn.sum(-1, keepdims=True)
            # a start that is classified already stays uniform
            beliefs = np.where((drawn.max(-1, keepdims=True) < self.threshold), drawn, beliefs)
        classes = (noise.uniform("class", 0, (n,)) * k).astype(int)
        return Scenario(
            drone, targets, velocities, classes, beliefs, active, side, noise.keys, motion
        )

    def reset(
        self, random_state: RandomState | np.ndarray = None, episodes: int = 1
    ) -> dict[str, np.ndarray]:
        """Start `episodes` new ones and observe; an array of uint64 keys, one an episode, may take the place of a random state."""
        if isinstance(random_state, np.ndarray):
            keys = random_state
        else:
            keys = draw_keys(random_state, check_integer("episodes", episodes, 1))
        self.set_scenario(self.draw(keys))
        return self.observe()

    def scenario(self) -> Scenario:
        """The scenario that the present episodes started from."""
        return self._scenario

    def set_scenario(self, scenario: Scenario) -> None:
        """Start the episodes of a scenario."""
        self._scenario = scenario = self._checked(scenario)
        for name, value in self._started(scenario).items():
            setattr(self, name, value)
        self._noise = Noise(scenario.keys)

    def replace(self, rows: np.ndarray, scenario: Scenario) -> None:
        """Start the episodes of a scenario in place of those at `rows`."""
        scenario = self._checked(scenario)
        for name, value in self._started(scenario).items():
            _assign(getattr(self, name), rows, value)
        self._scenario.put(rows, scenario)
        self._noise = Noise(self._scenario.keys)

    def _checked(self, scenario: Scenario) -> Scenario:
        scenario = scenario.padded(self.max_targets)
        if scenario.beliefs.shape[-1] != self.n_classes:
            raise ValueError(
                f"scenario must have n_classes={self.n_classes}, got {scenario.beliefs.shape[-1]}"
            )
        if not scenario.active.any(-1).all():
            raise ValueError("scenario must have at least one target in every episode")
        if scenario.classes.min() < 0 or scenario.classes.max() >= self.n_classes:
            raise ValueError(f"scenario.classes must be in 0..{self.n_classes - 1}")
        check_probabilities("scenario.beliefs", scenario.beliefs)
        return scenario

    def _started(self, scenario: Scenario) -> dict[str, np.ndarray | dict]:
        """All state arrays at time 0, copied."""
        e, n = scenario.active.shape
        beliefs = scenario.beliefs.copy()
        return {
            "drone": scenario.drone.copy(),
            "targets": scenario.targets.copy(),
            "velocities": scenario.velocities.copy(),
            "classes": scenario.classes.copy(),
            "active": scenario.active.copy(),
            "side": scenario.side.copy(),
            "beliefs": beliefs,
            "last": np.full_like(beliefs, 1 / self.n_classes),
            "tracked": (beliefs.max(-1) >= self.threshold) & scenario.active,
            "visible": np.zeros((e, n), bool),
            "idle": np.zeros((e, n), int),
            "time": np.zeros(e, int),
            "finished": np.zeros(e, bool),
            "relative": relative_poses(scenario.drone, scenario.targets),
            "entropies": entropy(beliefs),
            "_motion_state": {name: a.copy() for name, a in scenario.motion.items()},
            "_fusion_state": self.fusion.start(e, n),
            "_dynamics_state": self.dynamics.start(scenario.drone, scenario.side),
        }

    # --- steps

    def step(self, action: np.ndarray) -> StepResult:
        """Advance every episode by one decision of `dt` seconds.

        Parameters
        ----------
        action : array of shape (E, 3) or (E,)
            Displacements in [-1, 1], or candidate choices in 0..N m - 1 of targets that exist.

        Raises
        ------
        ValueError
            If an action is NaN, out of bounds, of another shape, or chooses a target that is padding; if the sensor gives vectors that
            are not probabilities.
        """
        move = self._displacement(action)
        crowd = Crowd(
            self.targets,
            self.velocities,
            self.active,
            self.side,
            self.dt,
            self._noise,
            self.time + 1,
            self._motion_state,
        )
        self.targets, self.velocities, self._motion_state = self.motion.move(crowd)
        goal = displace(self.drone, move, self.dt, self.side)
        self.drone, self._dynamics_state = self.dynamics.move(
            self.drone, self._dynamics_state, goal, self.dt
        )
        self.time += 1
        self._look()
        newly, gain = self._update()

        done_all = (self.tracked | ~self.active).all(-1)
        timed_out = (self.time >= self.horizon) & ~done_all
        if self.paper_compat:
            gain = np.where(self.time == 1, 0.0, gain)
        reward = step_reward(move, newly.sum(-1), gain, done_all)
        reward[self.finished] = 0.0
        self.finished = self.finished | done_all | timed_out
        return StepResult(reward, done_all, timed_out, newly, gain)

    def _displacement(self, action: np.ndarray) -> np.ndarray:
        action = np.asarray(action)
        if self.action == "displacement":
            if action.shape != (self.episodes, 3):
                raise ValueError(f"action must have shape ({self.episodes}, 3), got {action.shape}")
            action = action.astype(float)
            # NaN fails every comparison, so it is asked what holds
            if not (np.abs(action) <= 1 + 1e-6).all():
                bad = action[~(np.abs(action) <= 1 + 1e-6).all(-1)][0]
                raise ValueError(f"action must be in [-1, 1] in every component, got {bad}")
            return action
        if action.shape != (self.episodes,) or action.dtype.kind not in "iu":
            raise ValueError(
                f"action must be {self.episodes} whole numbers, got {action.dtype} of shape {action.shape}"
            )
        valid = (action >= 0) & (action < self.max_targets * len(CANDIDATES))
        target = np.where(valid, action, 0) // len(CANDIDATES)
        valid &= self.active[np.arange(self.episodes), target]
        if not valid.all():
            raise ValueError(
                f"action must choose a candidate of a target that exists, got {action[~valid][0]}"
                f" with {int(self.active[~valid][0].sum())} targets of {len(CANDIDATES)} candidates"
            )
        return candidate_action(action, self.drone, self.targets, self.dt, self.side)

    def _look(self) -> None:
        self.relative = relative_poses(self.drone, self.targets)
        facing = "yaw" if self.paper_compat else "bearing"
        self.visible = seen(self.relative, self.active, facing)
        looks = Looks(
            self.relative, self.visible, self.classes, self.n_classes, self._noise, self.time
        )
        evidence = np.asarray(self.sensor.look(looks), float)
        if evidence.shape != self.beliefs.shape:
            raise ValueError(
                f"sensor must give probabilities of shape {self.beliefs.shape}, got {evidence.shape}"
            )
        if not (np.abs(evidence.sum(-1) - 1) <= 1e-6).all() or evidence.min() < 0:
            check_probabilities("what the sensor gives", evidence)
        self.last = evidence

    def _update(self) -> tuple[np.ndarray, np.ndarray]:
        """Bayes' rule for what was seen and is not classified yet; who is newly classified, and the entropy removed."""
        open_ = self.active & ~self.tracked & ~self.finished[:, None]
        looked = self.visible & open_
        weight, self._fusion_state = self.fusion.weigh(self._fusion_state, self.relative, looked)
        likelihood = clipped(self.last, self.fusion.clip)
        if weight is not None:
            likelihood = likelihood ** weight[..., None]
        fused = updated(self.beliefs, likelihood)
        self.beliefs = np.where(looked[..., None], fused, self.beliefs)
        entropies = np.where(looked, entropy(self.beliefs), self.entropies)
        gain = (self.entropies - entropies).sum(-1)
        self.entropies = entropies
        newly = looked & (self.beliefs.max(-1) >= self.threshold)
        self.tracked = self.tracked | newly
        self.idle = np.where(looked | self.tracked | ~self.active, 0, self.idle + 1)
        return newly, gain

    # --- what the policy is shown

    def observe(self) -> dict[str, np.ndarray]:
        """The observation: "targets" (E, N, F) float32, columns as in ``OBSERVATION_COLUMNS``, and "mask" (E, N) bool.

        Rows of padding are zero. Places are in metres, no farther than the field's diagonal.
        """
        e, n = self.active.shape
        bits = np.log2(self.n_classes)
        out = np.zeros((e, n, len(self.columns)))
        out[..., 0] = np.maximum(bits - self.entropies, 0.0)
        place = self.relative[..., :2]
        far = np.sqrt((place**2).sum(-1)) / self.observed_range
        out[..., 1:3] = place / np.maximum(far, 1.0)[..., None]
        out[..., 3] = self.relative[..., 2]
        out[..., 4] = np.maximum(bits - entropy(self.last), 0.0)
        out[..., 5] = self.tracked
        cos, sin = np.cos(self.drone[:, None, 2]), np.sin(self.drone[:, None, 2])
        vx, vy = self.velocities[..., 0], self.velocities[..., 1]
        limit = MAX_OBSERVED_SPEED
        out[..., 6] = np.clip(cos * vx + sin * vy, -limit, limit)
        out[..., 7] = np.clip(cos * vy - sin * vx, -limit, limit)
        if not self.paper_compat:
            out[..., 8] = np.minimum(self.idle / self.horizon, 1.0)
        out *= self.active[..., None]
        return {"targets": out.astype(np.float32), "mask": self.active.copy()}

    @property
    def observed_range(self) -> float:
        """The field's diagonal, m: no place is shown farther than this."""
        return 2 * np.sqrt(2) * self.side_range[1]

    def observation_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest value of every column, (F,) each."""
        bits, reach = np.log2(self.n_classes), self.observed_range
        speed = MAX_OBSERVED_SPEED
        high = np.array([bits, reach, reach, np.pi, bits, 1.0, speed, speed, 1.0])
        low = np.array([0.0, -reach, -reach, -np.pi, 0.0, 0.0, -speed, -speed, 0.0])
        return low[: len(self.columns)], high[: len(self.columns)]

    def fraction_classified(self) -> np.ndarray:
        """Share of the targets that are classified, (E,)."""
        return self.tracked.sum(-1) / self.active.sum(-1)

    def declared_right(self) -> np.ndarray:
        """Whether a target is classified, and as what it is, (E, N)."""
        return self.tracked & (self.beliefs.argmax(-1) == self.classes)


def _assign(into: np.ndarray | dict, rows: np.ndarray, value: np.ndarray | dict) -> None:
    if isinstance(into, dict):
        for name in into:
            into[name][rows] = value[name]
    else:
        into[rows] = value
