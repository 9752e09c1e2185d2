"""The gymnasium face of one episode at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium import spaces

from .candidates import CANDIDATES
from .dynamics import Dynamics
from .fusion import Fusion
from .motion import Motion
from .scenario import draw_keys
from .scene import Scene
from .sensors import Sensor

if TYPE_CHECKING:
    from .vector import ActiveClassificationVectorEnv


class ActiveClassificationEnv(gymnasium.Env):
    """Active classification of moving targets by one drone, as a gymnasium environment.

    The drone flies over a square field with up to N moving targets, whose poses and velocities it knows and whose classes it does not. From
    each viewpoint a black-box classifier says something about every target in view. The episode ends when all are classified
    (`terminated`), or is cut at the horizon (`truncated`, so that learners bootstrap the value there).

    Observations are ``{"targets": (N, 9) float32, "mask": (N,) int8}``: see ``OBSERVATION_COLUMNS`` for the columns; rows of padding are zero and
    their mask is 0. Actions are ``Box(-1, 1, (3,))``, metres ahead and to the left in units of 2 m/s x `dt` and turn in units of
    60 deg/s x `dt`, or, with ``action="candidate"``, ``Discrete(N m)``: a target and one of the m candidate viewpoints before it.

    Parameters
    ----------
    n_targets : int or (int, int), default=(1, 6)
    n_classes : int, default=6
    side : float or (float, float), default=8.0
        Half the edge of the field, m.
    horizon : int, default=100
        Steps.
    dt : float, default=0.25
        Seconds a step.
    target_motion : str, Motion, callable, or a tuple of these, default="constant_velocity"
    sensor : Sensor, default=None
        None is ``AnalyticSensor()``.
    fusion : {"product", "tempered", "pose_discount"} or Fusion, default="product"
    threshold : float, default=0.95
    action : {"displacement", "candidate"}, default="displacement"
    dynamics : {"kinematic", "mpc"} or Dynamics, default="kinematic"
    random_beliefs : bool, default=True
    paper_compat : bool, default=False
        All as in ``Scene``.

    Attributes
    ----------
    scene : Scene
        The scene of this one episode, E = 1.
    parameters : dict
        The arguments.

    Notes
    -----
    Each reset takes one key from ``self.np_random``, and all randomness of the episode follows from it.
    ``reset(options={"scenario": scenario})`` starts a given ``Scenario`` of one episode. Once this file is imported,
    ``gymnasium.make("statml/ActiveClassification-v0", n_targets=6)`` makes one too, and ``gymnasium.make_vec`` the batched one.

    References
    ----------
    A. Serra-Gomez, E. Montijano, W. Boehmer and J. Alonso-Mora, "Active classification of moving targets with learned control policies",
    IEEE Robotics and Automation Letters 8(6), 2023.

    Examples
    --------
    >>> from statml.adapters import ActiveClassificationEnv
    >>> env = ActiveClassificationEnv(n_targets=2)
    >>> observation, info = env.reset(seed=0)
    >>> observation["targets"].shape, info["n_targets"]
    ((2, 9), 2)
    >>> observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - gymnasium's convention

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
        self.parameters = {
            "n_targets": n_targets,
            "n_classes": n_classes,
            "side": side,
            "horizon": horizon,
            "dt": dt,
            "target_motion": target_motion,
            "sensor": sensor,
            "fusion": fusion,
            "threshold": threshold,
            "action": action,
            "dynamics": dynamics,
            "random_beliefs": random_beliefs,
            "paper_compat": paper_compat,
        }
        self.scene = Scene(**self.parameters)
        self.observation_space = observation_space(self.scene)
        self.action_space = action_space(self.scene)

    def vector(self, num_envs: int) -> ActiveClassificationVectorEnv:
        """A gymnasium VectorEnv of `num_envs` such environments over one batched scene."""
        from .vector import ActiveClassificationVectorEnv

        return ActiveClassificationVectorEnv(num_envs, **self.parameters)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, int]]:
        """Start an episode.

        Parameters
        ----------
        seed : int, default=None
            Seeds this episode and all that follow. None: goes on in the stream.
        options : dict, default=None
            ``{"scenario": scenario}`` starts that ``Scenario`` of one episode.

        Returns
        -------
        observation : dict
        info : dict
            `n_targets`, `n_classified` and `n_right`, the number classified rightly.
        """
        super().reset(seed=seed)
        scenario = (options or {}).get("scenario")
        if scenario is None:
            scenario = self.scene.draw(draw_keys(self.np_random, 1))
        elif len(scenario) != 1:
            raise ValueError(f"options['scenario'] must be of 1 episode, got {len(scenario)}")
        self.scene.set_scenario(scenario)
        return self._observation(), self._info()

    def step(
        self, action: np.ndarray
    ) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, int]]:
        """Fly one decision of `dt` seconds.

        Parameters
        ----------
        action : array of shape (3,) or int
            A displacement in [-1, 1], or a candidate choice.

        Returns
        -------
        observation : dict
        reward : float
        terminated : bool
            All targets are classified.
        truncated : bool
            The horizon is reached with targets left.
        info : dict
            As of ``reset``.

        Raises
        ------
        ValueError
            If the action is NaN, out of bounds, or chooses a target that is padding.
        """
        result = self.scene.step(np.asarray(action)[None])
        return (
            self._observation(),
            float(result.reward[0]),
            bool(result.done_all[0]),
            bool(result.timed_out[0]),
            self._info(),
        )

    def action_masks(self) -> np.ndarray:
        """With ``action="candidate"``: which choices there are, bool of shape (N m,); a choice of padding is refused by ``step``."""
        if self.scene.action != "candidate":
            raise ValueError(
                'action masks are for action="candidate", this environment has "displacement"'
            )
        return np.repeat(self.scene.active[0], len(CANDIDATES))

    def _observation(self) -> dict[str, np.ndarray]:
        observation = self.scene.observe()
        return {
            "targets": observation["targets"][0],
            "mask": observation["mask"][0].astype(np.int8),
        }

    def _info(self) -> dict[str, int]:
        return {name: int(count[0]) for name, count in counts(self.scene).items()}


def observation_space(scene: Scene) -> spaces.Dict:
    """The space of one episode's observation; every bound is finite."""
    low, high = (bound.astype(np.float32) for bound in scene.observation_bounds())
    shape = (scene.max_targets, 1)
    return spaces.Dict(
        {
            "targets": spaces.Box(np.tile(low, shape), np.tile(high, shape), dtype=np.float32),
            "mask": spaces.MultiBinary(scene.max_targets),
        }
    )


def action_space(scene: Scene) -> spaces.Box | spaces.Discrete:
    """The space of one episode's action."""
    if scene.action == "candidate":
        return spaces.Discrete(scene.max_targets * len(CANDIDATES))
    return spaces.Box(-1.0, 1.0, (3,), np.float32)


def counts(scene: Scene) -> dict[str, np.ndarray]:
    """How many targets there are, are classified, and are classified rightly, each (E,)."""
    return {
        "n_targets": scene.active.sum(-1),
        "n_classified": scene.tracked.sum(-1),
        "n_right": scene.declared_right().sum(-1),
    }


ENVIRONMENT_ID = "statml/ActiveClassification-v0"
if ENVIRONMENT_ID not in gymnasium.registry:
    gymnasium.register(
        ENVIRONMENT_ID,
        entry_point="statml.adapters.viewpoint.environment:ActiveClassificationEnv",
        vector_entry_point="statml.adapters.viewpoint.vector:ActiveClassificationVectorEnv",
    )
