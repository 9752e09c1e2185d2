"""Steps a quadrotor of PyFlyt with random actions; run by viewpoint.py in an environment of its own.

Usage: _pyflyt_worker.py STEPS  (prints steps a CPU second and the seconds that a step simulates)
"""

import sys
import time

import gymnasium
import PyFlyt.gym_envs  # noqa: F401 - registers the environments

names = [name for name in gymnasium.registry if name.startswith("PyFlyt/QuadX-Waypoints")]
env = gymnasium.make(names[-1], agent_hz=30)
env.reset(seed=0)
start = time.process_time()
for _ in range(int(sys.argv[1])):
    *_, terminated, truncated, _ = env.step(env.action_space.sample())
    if terminated or truncated:
        env.reset()
print(int(sys.argv[1]) / (time.process_time() - start), 1 / 30)
