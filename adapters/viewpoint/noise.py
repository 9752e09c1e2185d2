"""Random numbers keyed by (episode, stream, step): the same whatever the policy does and however episodes are batched.

A counter-based generator (Salmon et al. 2011) has no state to advance: the number is a hash of its key. The hash is the
finaliser of SplitMix64 (Steele, Lea and Flood 2014). Two policies on the same scenario therefore meet the same targets, and
episode 7 is the same alone, in a batch of 8 or in a batch of 2048.
"""

from __future__ import annotations

import zlib
from functools import lru_cache

import numpy as np
from scipy.special import ndtri

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11))


class Noise:
    """Uniform and normal numbers of a batch of episodes.

    Parameters
    ----------
    keys : array of shape (E,)
        One unsigned 64-bit key an episode.

    Examples
    --------
    >>> import numpy as np
    >>> from statml.adapters.viewpoint.noise import Noise
    >>> both, second = Noise(np.array([3, 4])), Noise(np.array([4]))
    >>> bool((both.uniform("speed", 0, (2,))[1] == second.uniform("speed", 0, (2,))[0]).all())
    True
    """

    def __init__(self, keys: np.ndarray):
        self.keys = np.asarray(keys).astype(np.uint64)

    def uniform(self, stream: str, step: int | np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Numbers strictly inside (0, 1), shape (E, *shape); `step` is a number or one for each episode."""
        step = np.broadcast_to(np.asarray(step, np.uint64), self.keys.shape)
        base = _mix(_mix(self.keys + _stream(stream)) + step * _GOLDEN)
        counters = np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64) * _GOLDEN
        bits = _mix(base[:, None] + counters) >> _SHIFTS[3]
        return ((bits + 0.5) * 2.0**-53).reshape(len(self.keys), *shape)

    def normal(self, stream: str, step: int | np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Standard normal numbers, shape (E, *shape)."""
        return ndtri(self.uniform(stream, step, shape))

    def rows(self, step: np.ndarray, episodes: np.ndarray, targets: np.ndarray) -> RowNoise:
        """A generator whose row i belongs to the look at ``targets[i]`` in ``episodes[i]`` at that episode's step."""
        step = np.broadcast_to(np.asarray(step, np.uint64), self.keys.shape)
        target = _mix(self.keys[episodes] + (targets.astype(np.uint64) + np.uint64(1)) * _GOLDEN)
        look = _mix(target + (step[episodes] + np.uint64(1)) * _GOLDEN)
        return RowNoise(look, target)


class RowNoise:
    """The part of :class:`numpy.random.Generator` that a renderer needs, with one key for each row.

    `size` is the whole shape and starts with the number of rows; each call gives fresh numbers, but ``of_target``, whose numbers are the
    same in every look at one target of one episode: what it wears.
    """

    def __init__(self, keys: np.ndarray, target_keys: np.ndarray):
        self._noise, self._target, self._calls = Noise(keys), Noise(target_keys), 0

    def of_target(self, stream: str) -> np.ndarray:
        """Uniform numbers on (0, 1), one a row, that stay with the target."""
        return self._target.uniform(stream, 0, ())

    def random(self, size: tuple[int, ...]) -> np.ndarray:
        """Uniform on (0, 1)."""
        size = (size,) if np.isscalar(size) else tuple(size)
        if not size or size[0] != len(self._noise.keys):
            raise ValueError(
                f"size must start with the number of rows, {len(self._noise.keys)}, got {size!r}"
            )
        self._calls += 1
        return self._noise.uniform("row", self._calls, size[1:])

    def uniform(self, low=0.0, high=1.0, size: tuple[int, ...] = ()) -> np.ndarray:
        """Uniform on (low, high)."""
        return low + (high - low) * self.random(size)

    def normal(self, loc=0.0, scale=1.0, size: tuple[int, ...] = ()) -> np.ndarray:
        """Normal with mean `loc` and standard deviation `scale`."""
        return loc + scale * ndtri(self.random(size))

    def integers(self, low: int, high: int, size: tuple[int, ...] = ()) -> np.ndarray:
        """Whole numbers from `low` to `high` - 1."""
        return low + np.floor((high - low) * self.random(size)).astype(int)


def _mix(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> _SHIFTS[0])) * _MULTIPLIERS[0]
    z ^= z >> _SHIFTS[1]
    z *= _MULTIPLIERS[1]
    z ^= z >> _SHIFTS[2]
    return z


@lru_cache(maxsize=256)
def _stream(name: str) -> np.uint64:
    return np.uint64(zlib.crc32(name.encode()) << 20)
