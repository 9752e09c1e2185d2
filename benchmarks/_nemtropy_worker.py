"""Fits the directed beta-model with NEMtropy; run by graphs.py in an environment of its own (NEMtropy is GPL-3).

Usage: _nemtropy_worker.py DEGREES.npz RESULT.npz METHOD
"""

import sys
import time

import numpy as np
from NEMtropy import DirectedGraph

source, result, method = sys.argv[1:]
data = np.load(source)


def fit(degrees):
    graph = DirectedGraph(degree_sequence=degrees)
    start = time.process_time()
    graph.solve_tool(
        model="dcm_exp", method=method, initial_guess="degrees", tol=1e-8, max_steps=20_000
    )
    return graph, time.process_time() - start


fit(data["warm"])  # compiles
graph, seconds = fit(np.concatenate([data["out"], data["into"]]))
np.savez(result, x=graph.x, y=graph.y, seconds=seconds, error=graph.error)
