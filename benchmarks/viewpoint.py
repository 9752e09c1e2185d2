"""Benchmarks of statml.adapters.viewpoint: the batched scene, the flight controller, and what flying costs.

    python benchmarks/viewpoint.py            # everything here
    python benchmarks/viewpoint.py scene mpc  # some parts: scene, mpc, gap

Costs are CPU time on one thread, all sides in turn. Clarabel and PyFlyt get virtual environments of their own, .venv-clarabel and
.venv-pyflyt, made on the first run. The trained policies have a script of their own, viewpoint_policies.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from functools import reduce
from operator import or_
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import gymnasium
import numpy as np
import pandas as pd
from statml.adapters.viewpoint import (
    ActiveClassificationEnv,
    Ellipsoid,
    GreedyInformationPolicy,
    NearestFrontalPolicy,
    Scene,
    ViewpointMPC,
    ViewpointPolicy,
    evaluate,
)
from statml.adapters.viewpoint.flight_plans import LimitedPlan

ROOT = Path(__file__).parents[1]
FIELD = {"n_targets": (1, 6), "n_classes": 6, "side": 8.0}


# --- the scene --------------------------------------------------------------------------------------


def scene() -> None:
    """Steps a CPU second: one scene of many episodes against many environments of one."""
    rng = np.random.default_rng(0)

    def actions(E: int) -> np.ndarray:
        return rng.uniform(-1, 1, (E, 3)).astype(np.float32)

    env = ActiveClassificationEnv(**FIELD)
    env.reset(seed=0)
    synchronous = gymnasium.vector.SyncVectorEnv([lambda: ActiveClassificationEnv(**FIELD)] * 32)
    synchronous.reset(seed=0)

    def alone(n: int) -> int:
        for _ in range(n):
            *_, terminated, truncated, _ = env.step(actions(1)[0])
            if terminated or truncated:
                env.reset()
        return n

    def vectorised(envs) -> callable:
        def run(n: int) -> int:
            steps = max(n // envs.num_envs, 1)
            for _ in range(steps):
                envs.step(actions(envs.num_envs))
            return steps * envs.num_envs

        return run

    def bare(E: int) -> callable:
        scene = Scene(**FIELD)

        def run(n: int) -> int:
            scene.reset(0, E)
            for _ in range(max(n // E, 1)):
                scene.step(actions(E))
                scene.observe()
            return max(n // E, 1) * E

        return run

    sides = {
        "one environment": (alone, 1000),
        "SyncVectorEnv of 32": (vectorised(synchronous), 2000),
    }
    for E in (16, 32, 256, 2048):
        envs = env.vector(E)
        envs.reset(seed=0)
        sides[f"vector({E})"] = (vectorised(envs), max(40 * E, 4000))
    for E in (256, 2048):
        sides[f"Scene of {E}, steps and observations"] = (bare(E), 40 * E)
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(7):
        for name, (run, n) in sides.items():
            start = time.process_time()
            done = run(n)
            speeds[name].append(done / (time.process_time() - start))
    table = pd.DataFrame({"steps a CPU second": {k: np.median(v) for k, v in speeds.items()}})
    peer = np.array(speeds["SyncVectorEnv of 32"])
    table["ratio to SyncVectorEnv"] = {k: np.median(v / peer) for k, v in speeds.items()}
    show("Steps of the scene, N in 1..6, random actions, median of 7 rounds in turn", table)

    python = environment("pyflyt", "PyFlyt==0.29.0", constraints=False)  # numpy 1
    command = [python, Path(__file__).with_name("_pyflyt_worker.py"), "2000"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    speed, seconds = map(float, output.split()[-2:])
    flown = Scene(**FIELD, dynamics="mpc")
    flown.reset(0, 32)
    start = time.process_time()
    for _ in range(20):
        flown.step(actions(32))
    ours = 32 * 20 / (time.process_time() - start)
    rows = {
        "kinematic, vector(256)": (table.iloc[4, 0], 0.25),
        'dynamics="mpc", 32 episodes': (ours, 0.25),
        "PyFlyt, QuadX-Waypoints (rigid body, attitude loop; no targets, no camera)": (
            speed,
            seconds,
        ),
    }
    table = pd.DataFrame.from_dict(rows, "index", columns=["steps a CPU second", "seconds a step"])
    table["flown seconds a CPU second"] = table.product(axis=1)
    show("Flown seconds (not the same simulation: see the labels)", table)


# --- the controller -----------------------------------------------------------------------------------


def mpc() -> None:
    """Milliseconds a plan, on the programs of closed-loop flights."""
    rng = np.random.default_rng(1)
    random = np.column_stack(
        [rng.uniform(-4, 4, (10, 2)), np.full(10, 1.5), rng.uniform(-np.pi, np.pi, 10)]
    )
    flights = {
        "3.2 m and 90 degrees": [[3.2, 0, 1.5, np.pi / 2]],
        "10 random viewpoints": list(random),
    }
    obstacles = [Ellipsoid([1.6, 0.3, 1.5], [0.7, 0.7, 2.0])]
    rows = {}
    for title, refs in flights.items():
        for solver, tol in (("piqp", None), ("osqp", 1e-4), ("osqp", None)):
            controller = ViewpointMPC(solver=solver, tol=tol)
            label = f"{controller.solver}{'' if tol is None else f' {tol:g}'}"
            rows[f"{title}: {label}"] = timed(controller, refs)
        rows[f"{title}: piqp, quadratic programs alone"] = timed(ViewpointMPC(), refs, limited=True)
    rows["around an obstacle: piqp"] = timed(
        ViewpointMPC(), flights["3.2 m and 90 degrees"], obstacles=obstacles
    )
    table = pd.DataFrame.from_dict(rows, "index", columns=["median ms", "p95 ms", "plans"])
    show("A plan of the controller (bebop, 20 ticks of 0.05 s), until 5 s", table)
    against_clarabel([ref for refs in flights.values() for ref in refs])
    settling()


def timed(
    controller: ViewpointMPC, refs: list, limited: bool = False, obstacles: list | tuple = ()
) -> tuple[float, float, int]:
    """Median and 95 % quantile; `limited`: of the plans that meet a limit, which need a quadratic program."""
    seconds = []
    for ref in refs:
        x, plan = controller.model_.at([0, 0, 1.5, 0]), None
        controller.solve(x, ref, obstacles)  # sets up
        for _ in range(100):
            free = controller._free(x, controller._reference(x, ref))[2].all()
            start = time.process_time()
            plan = controller.solve(x, ref, obstacles, last=plan)
            if not (limited and free):
                seconds.append(time.process_time() - start)
            x = controller.model_.step(x, plan.inputs[0], controller.dt)
    return *(1e3 * np.quantile(seconds, [0.5, 0.95])), len(seconds)


def against_clarabel(refs: list) -> None:
    """The same programs, of all states at once, solved by PIQP and by Clarabel."""
    controller = ViewpointMPC()
    program = LimitedPlan(controller, reduce(or_, controller.parts_), elastic=False, n_obstacles=0)
    keep = program.solver.solve
    calls, ours, solutions = [], [], []

    def spy(c, b, *others):
        start = time.process_time()
        z = keep(c, b, *others)
        ours.append(time.process_time() - start)
        calls.append((c, b.copy()))
        solutions.append(z)
        return z

    program.solver.solve = spy
    for ref in refs:
        x = controller.model_.at([0, 0, 1.5, 0])
        for _ in range(100):
            _, inputs, *_ = program.solve(x, controller._reference(x, ref))
            x = controller.model_.step(x, inputs[0], controller.dt)
    calls, ours, solutions = calls[1:], ours[1:], solutions[1:]  # the first sets up
    python = environment("clarabel", "clarabel", "numpy", "scipy")
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder) / "programs.npz", Path(folder) / "result.npz"
        arrays = {"c": [c for c, _ in calls], "b": [b for _, b in calls]}
        arrays |= {"lower": program.low, "upper": program.high}
        for name, matrix in (("P", program.solver._P), ("A", program.solver._A)):
            for part in ("data", "indices", "indptr", "shape"):
                arrays[f"{name}_{part}"] = getattr(matrix, part)
        np.savez(source, **arrays)
        worker = Path(__file__).with_name("_clarabel_worker.py")
        subprocess.run([python, worker, source, result], check=True)
        peer = dict(np.load(result))
    rows = {
        "PIQP": ours,
        "Clarabel, updated": peer["updated"],
        "Clarabel, rebuilt": peer["rebuilt"],
    }
    table = pd.DataFrame(
        {name: 1e3 * np.quantile(v, [0.5, 0.95]) for name, v in rows.items()},
        index=["median ms", "p95 ms"],
    ).T
    table["ratio of medians"] = table["median ms"] / table.loc["PIQP", "median ms"]
    gap = np.abs(np.array(solutions) - peer["solutions"])[:, program.u]
    show(f"{len(ours)} quadratic programs of all nine states, every tick", table)
    print(
        f"Largest difference to Clarabel at a tolerance of 1e-13: of an input that is flown {gap[:, 0].max():.1e}"
    )
    print(
        f"of any of the 20 planned {gap.max():.1e}, 99 % of programs below {np.quantile(gap.max((1, 2)), 0.99):.1e}\n"
    )


def settling() -> None:
    ref = np.array([3.2, 0, 1.5, np.pi / 2])
    rows = {}
    for name in ("bebop", "point_mass"):
        flight = ViewpointMPC(name).simulate([ref] * 100)
        away = np.linalg.norm(flight.states[:, :3] - ref[:3], axis=1)
        turned = np.abs(flight.states[:, -1] - ref[3])
        settled = np.flatnonzero((away > 0.1) | (turned > 0.1))[-1] + 1
        rows[name] = (settled * flight.dt, flight.states[:, 3].max(), away[-1], turned[-1])
    columns = ["settled (0.1 m, 0.1 rad), s", "largest speed, m/s", "error at 5 s, m", "rad"]
    show("3.2 m and 90 degrees", pd.DataFrame.from_dict(rows, "index", columns=columns))


# --- the gap ------------------------------------------------------------------------------------------


def gap() -> None:
    """What inertia costs: the same policies and scenarios, viewpoints reached at once or flown to."""
    policies = {
        "greedy (knows the sensor)": GreedyInformationPolicy(),
        "nearest, from the front": NearestFrontalPolicy(),
        "trained": ViewpointPolicy.pretrained(),
    }
    for n in (3, 6):
        both = {}
        start = time.process_time()
        for dynamics in ("kinematic", "mpc"):
            field = Scene(n_targets=n, side=8.0, random_beliefs=False, dynamics=dynamics)
            results = evaluate(policies, field, 100, random_state=2026)
            for name in policies:
                both[f"{name}, {dynamics}"] = results.frame[results.frame["policy"] == name]
        frame = pd.concat([part.assign(policy=name) for name, part in both.items()])
        results = type(results)(frame, results.targets, results.horizon)
        rows = {}
        for name in policies:
            paired = results.paired(f"{name}, mpc", f"{name}, kinematic")
            for term, row in paired.iterrows():
                interval = f"[{row['conf_low']:+.3f}, {row['conf_high']:+.3f}]"
                rows[f"{name}: {term}"] = (
                    row["mean_b"],
                    row["mean_a"],
                    row["difference"],
                    interval,
                )
        columns = ["kinematic", "mpc", "difference", "95 % interval"]
        table = pd.DataFrame.from_dict(rows, "index", columns=columns)
        show(f"Flown against reached at once: N = {n}, 16 x 16 m, 100 common scenarios", table)
        print(f"{time.process_time() - start:.0f} CPU s\n")


# --- shared -------------------------------------------------------------------------------------------


def show(title: str, table: pd.DataFrame) -> None:
    print(f"{title}\n\n{table.to_markdown(floatfmt='.4g')}\n", flush=True)


def environment(name: str, *packages: str, constraints: bool = True) -> Path:
    """The Python of a virtual environment with these packages."""
    folder = ROOT / f".venv-{name}"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        command = [python, "-m", "pip", "install", "-q", *packages]
        command += ["-c", ROOT / "constraints.txt"] if constraints else []
        subprocess.run(command, check=True)
        (folder / "ready").touch()
    return python


PARTS = {"scene": scene, "mpc": mpc, "gap": gap}

if __name__ == "__main__":
    for part in sys.argv[1:] or PARTS:
        PARTS[part]()
