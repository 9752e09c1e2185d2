"""How the drone moves: a small quadrotor behind its attitude controller, and a point mass.

A Bebop 2 takes commands for roll, pitch, climb rate and yaw rate, and follows them with a lag. With the position p,
the velocity v, the tilts phi and theta about the world's x- and y-axis and the yaw psi,

    vx'    = g tan(theta) - 0.25 vx                 theta' = (1.1075 theta_c - theta) / 0.2318
    vy'    = -g tan(phi) - 0.33 vy                  phi'   = (1.126 phi_c - phi) / 0.2368
    vz'    = (1.227 vz_c - vz) / 0.3367             psi'   = psidot_c,        p' = v.

Tilts are about the *world's* axes, so that the yaw does not enter the motion: a drone with yaw psi gets its roll and
pitch commands by turning (phi_c, theta_c) by -psi. That the lags of roll and pitch differ by 2 % is neglected there.

Linearised (tan a = a, an error of 1.5 % at 12 degrees), the model is linear and time-invariant, and inputs held for dt
carry it exactly from x to A x + B u.

References
----------
The numbers are those of the flight controller that the authors' laboratory published for this drone (the repository
tud-amr/mrca-mav); that the article flew with them is likely, and not established.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import expm

from statml._validation import check_choice, check_number

Array = NDArray[np.float64]

GRAVITY = 9.81  # m/s^2
MAX_TILT = np.deg2rad(12.0)
MAX_YAW_RATE = np.deg2rad(90.0)


@dataclass(frozen=True)
class FlightModel:
    """A drone as a linear system x' = drift x + control u, with its limits.

    Every model starts its state with the position (m) and the velocity (m/s), three numbers each, and ends it with
    the yaw (rad, not wrapped).

    Parameters
    ----------
    name : str
    state_names, input_names : tuple of str
    drift : ndarray of shape (n_x, n_x)
        Per second.
    control : ndarray of shape (n_x, n_u)
    state_limit : ndarray of shape (n_x,)
        Largest absolute value of each state; inf where there is none.
    input_limit : ndarray of shape (n_u,)
        Largest absolute value of each input.

    Examples
    --------
    >>> model = flight_model("bebop")
    >>> model.n_states, model.input_names
    (9, ('roll', 'pitch', 'climb rate', 'yaw rate'))
    >>> A, B = model.discretise(0.05)
    >>> hover = model.at([0, 0, 1.5, 0.3])
    >>> bool((A @ hover == hover).all())
    True
    """

    name: str
    state_names: tuple[str, ...]
    input_names: tuple[str, ...]
    drift: Array
    control: Array
    state_limit: Array
    input_limit: Array

    @property
    def n_states(self) -> int:
        """Length of the state."""
        return len(self.state_names)

    @property
    def n_inputs(self) -> int:
        """Number of inputs."""
        return len(self.input_names)

    def at(self, viewpoint) -> Array:
        """The state of hovering at viewpoints.

        Parameters
        ----------
        viewpoint : array-like of shape (..., 4)
            x, y, z in metres and yaw in radians.

        Returns
        -------
        ndarray of shape (..., n_x)
        """
        viewpoint = np.asarray(viewpoint, dtype=float)
        state = np.zeros((*viewpoint.shape[:-1], self.n_states))
        state[..., :3], state[..., -1] = viewpoint[..., :3], viewpoint[..., 3]
        return state

    def discretise(self, dt: float) -> tuple[Array, Array]:
        """A and B of x(t + dt) = A x(t) + B u for an input held over dt; exact.

        Parameters
        ----------
        dt : float
            Seconds.

        Returns
        -------
        A : ndarray of shape (n_x, n_x)
        B : ndarray of shape (n_x, n_u)
        """
        dt = check_number("dt", dt, low=0, low_open=True)
        n, m = self.control.shape
        generator = np.zeros((n + m, n + m))
        generator[:n, :n], generator[:n, n:] = self.drift, self.control
        transition = expm(generator * dt)
        return transition[:n, :n], transition[:n, n:]

    def derivative(self, state: Array, inputs: Array) -> Array:
        """The rate of change of states, without linearising.

        Parameters
        ----------
        state : ndarray of shape (..., n_x)
        inputs : ndarray of shape (..., n_u)

        Returns
        -------
        ndarray of shape (..., n_x)
        """
        rate = state @ self.drift.T + inputs @ self.control.T
        for k, tilt in enumerate(("pitch", "roll")):  # pitch moves along x, roll along y
            if tilt in self.state_names:
                j = self.state_names.index(tilt)
                angle = state[..., j]
                rate[..., 3 + k] += self.drift[3 + k, j] * (np.tan(angle) - angle)
        return rate

    def step(self, state: Array, inputs: Array, dt: float) -> Array:
        """Fly for dt with inputs held: the fourth-order Runge-Kutta step of `derivative`.

        Parameters
        ----------
        state : ndarray of shape (..., n_x)
        inputs : ndarray of shape (..., n_u)
            Cut to their limits.
        dt : float
            Seconds.

        Returns
        -------
        ndarray of shape (..., n_x)
        """
        u = np.clip(inputs, -self.input_limit, self.input_limit)
        k1 = self.derivative(state, u)
        k2 = self.derivative(state + dt / 2 * k1, u)
        k3 = self.derivative(state + dt / 2 * k2, u)
        k4 = self.derivative(state + dt * k3, u)
        return state + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def flight_model(name: str) -> FlightModel:
    """A model by its name.

    Parameters
    ----------
    name : {"bebop", "point_mass"}
        The quadrotor of this module; or a point whose acceleration is the input, as large as a tilt of 12 degrees
        gives.

    Returns
    -------
    FlightModel

    Raises
    ------
    ValueError
        If the name is another.
    """
    check_choice("model", name, ("bebop", "point_mass"))
    return _bebop() if name == "bebop" else _point_mass()


@lru_cache
def _bebop() -> FlightModel:
    drift, control = np.zeros((9, 9)), np.zeros((9, 4))
    drift[:3, 3:6] = np.eye(3)
    drift[3, [3, 7]] = -0.25, GRAVITY
    drift[4, [4, 6]] = -0.33, -GRAVITY
    lags = ((5, 2, 1.227, 0.3367), (6, 0, 1.126, 0.2368), (7, 1, 1.1075, 0.2318))
    for state, command, gain, lag in lags:
        drift[state, state], control[state, command] = -1 / lag, gain / lag
    control[8, 3] = 1.0
    return FlightModel(
        "bebop",
        ("x", "y", "z", "vx", "vy", "vz", "roll", "pitch", "yaw"),
        ("roll", "pitch", "climb rate", "yaw rate"),
        drift,
        control,
        np.array([np.inf] * 3 + [2.0, 2.0, 1.0, MAX_TILT, MAX_TILT, np.inf]),
        np.array([MAX_TILT, MAX_TILT, 1.0, MAX_YAW_RATE]),
    )


@lru_cache
def _point_mass() -> FlightModel:
    drift, control = np.zeros((7, 7)), np.zeros((7, 4))
    drift[:3, 3:6] = np.eye(3)
    control[3:7] = np.eye(4)
    acceleration = GRAVITY * np.tan(MAX_TILT)
    return FlightModel(
        "point_mass",
        ("x", "y", "z", "vx", "vy", "vz", "yaw"),
        ("ax", "ay", "az", "yaw rate"),
        drift,
        control,
        np.array([np.inf] * 3 + [2.0, 2.0, 1.0, np.inf]),
        np.array([acceleration] * 3 + [MAX_YAW_RATE]),
    )
