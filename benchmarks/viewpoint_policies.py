"""Trained policies of statml.adapters.viewpoint: the training of those that ship, what they are worth, what their parts are worth.

    python benchmarks/viewpoint_policies.py train      # twice 10 CPU minutes; goes on from where it was stopped
    python benchmarks/viewpoint_policies.py policies   # the shipped policies against the baselines, about 2 CPU minutes
    python benchmarks/viewpoint_policies.py architectures  # imitation of 33 thousand decisions, about 3 CPU minutes
    python benchmarks/viewpoint_policies.py stages     # imitation, PPO and both, up to 300 thousand decisions, about 6 CPU minutes

All on one thread. Settings were chosen on scenarios of other seeds (777, 4242, 12345); what is reported comes from scenarios that nothing
was chosen on (REPORT). Trainings are kept in build/viewpoint_policies.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import pandas as pd
from statml.adapters.viewpoint import (
    ActiveClassificationEnv,
    GreedyInformationPolicy,
    NearestFrontalPolicy,
    Scene,
    TourPolicy,
    ViewpointPolicy,
    ViewpointResults,
    evaluate,
)
from statml.adapters.viewpoint.policy import EXPERT_ASPECTS, shipped
from statml.adapters.viewpoint.scene import ACTIONS

KEPT = Path(__file__).parents[1] / "build" / "viewpoint_policies"
REPORT = 20261130

# Trained on: 1 to 6 targets in fields of 16 to 24 m; a quarter of the scenes stand still.
TRAINING = {
    "n_targets": (1, 6),
    "side": (8.0, 12.0),
    "target_motion": ("constant_velocity",) * 3 + ("static",),
}
SHIPPED_SETTINGS = {
    "warm_start_steps": 204_800,
    "total_steps": 1_000_000,
    "learning_rate": 5e-4,
    "random_state": 0,
}
IMITATION = {"warm_start_steps": 32_768, "total_steps": 0}
SMALL = {"warm_start_steps": 98_304, "total_steps": 196_608, "learning_rate": 5e-4}

CASES = {
    "16x16 m, N=6": {"n_targets": 6},
    "16x16 m, N=1": {"n_targets": 1},
    "16x16 m, N=3": {"n_targets": 3},
    "16x16 m, N=6, static": {"n_targets": 6, "target_motion": "static"},
    "16x16 m, N=10 (never trained on)": {"n_targets": 10},
    "16x16 m, N=6, brownian (never trained on)": {"n_targets": 6, "target_motion": "brownian"},
    "16x16 m, N=6, social forces (never trained on)": {
        "n_targets": 6,
        "target_motion": "social_force",
    },
    "50x50 m, N=10 (never trained on)": {"n_targets": 10, "side": 25.0, "horizon": 400},
}
BASELINES = {
    "greedy (knows the sensor)": GreedyInformationPolicy(),
    "greedy, three aspects": GreedyInformationPolicy(aspects=EXPERT_ASPECTS),
    "nearest, from the front": NearestFrontalPolicy(),
    "tour": TourPolicy(),
}

VARIANTS = {
    "set_transformer": {},
    "deepsets": {"arch": "deepsets"},
    "mlp": {"arch": "mlp"},
    "lstm": {"arch": "lstm"},
    "set_transformer, imitation alone": {"total_steps": 0},
    "set_transformer, no warm start": {"warm_start": None},
}


# --- the shipped policies -----------------------------------------------------------------------------


def train() -> None:
    """Train the policies that ship, and write them where they ship from."""
    for action in ACTIONS:
        path = shipped(action)
        policy = ViewpointPolicy(
            **SHIPPED_SETTINGS, n_threads=1, checkpoint_dir=KEPT / f"shipped, {action}"
        )
        policy.fit(ActiveClassificationEnv(**TRAINING, action=action))
        path.parent.mkdir(exist_ok=True)
        policy.save(path)
        history = policy.history_
        show(f"Training, {action} (actions are noisy)", history.iloc[::16].drop(columns="loss"))
        print(f"{history['cpu_s'].iloc[-1] / 60:.1f} CPU minutes, {path.stat().st_size} bytes")


def policies() -> None:
    """The shipped policies against the baselines, on common scenarios."""
    trained = {f"trained, {action}": ViewpointPolicy.pretrained(action) for action in ACTIONS}
    for title, case in CASES.items():
        results = evaluate(
            {**trained, **BASELINES},
            Scene(**case, random_beliefs=False),
            300,
            random_state=REPORT,
        )
        show(f"{title}, 300 scenarios", figures(results))
        for name in trained:
            others = [other for other in results.policies if other != name]
            show(f"{title}: {name} minus the others", differences(results, name, others))


# --- their parts ----------------------------------------------------------------------------------------


def architectures() -> None:
    """Imitation alone, of few decisions."""
    compare(("set_transformer", "deepsets", "mlp", "lstm"), IMITATION)


def stages() -> None:
    """Imitation and reinforcement together, and each alone, of one training seed."""
    both = "set_transformer"
    compare((both, f"{both}, imitation alone", f"{both}, no warm start"), SMALL, seeds=(0,))


def compare(names: tuple[str, ...], budget: dict, seeds: tuple[int, ...] = (0, 1)) -> None:
    """Train variants, to choose candidates; every training seed flies the same scenarios."""
    fitted, rows = {}, {}
    for seed in seeds:
        for name in names:
            folder = KEPT / f"candidate, {name}, {budget['warm_start_steps']}, seed {seed}"
            policy = ViewpointPolicy(
                **{**budget, **VARIANTS[name]},
                random_state=seed,
                n_threads=1,
                checkpoint_dir=folder,
            ).fit(ActiveClassificationEnv(**TRAINING, action="candidate"))
            fitted[f"{name}, seed {seed}"] = policy
            n_weights = sum(p.numel() for p in policy.network_.actor.parameters())
            rows[f"{name}, seed {seed}"] = (n_weights, policy.history_["cpu_s"].iloc[-1])
    show("Trainings", pd.DataFrame.from_dict(rows, "index", columns=["actor's weights", "CPU s"]))
    scene = Scene(n_targets=6, random_beliefs=False)
    results = evaluate({**fitted, **BASELINES}, scene, 300, random_state=REPORT)
    show("16x16 m, N=6, 300 scenarios", figures(results))
    for seed in seeds:
        rivals = [f"{name}, seed {seed}" for name in names[1:]]
        show(
            f"{names[0]}, seed {seed}, minus the others",
            differences(results, f"{names[0]}, seed {seed}", [*rivals, *BASELINES]),
        )


# --- shared -------------------------------------------------------------------------------------------


def figures(results: ViewpointResults) -> pd.DataFrame:
    """Estimates with 95 % intervals, one row a policy."""
    tidy = results.tidy()
    tidy["shown"] = [
        f"{r.estimate:.3f} [{r.conf_low:.3f}, {r.conf_high:.3f}]" for r in tidy.itertuples()
    ]
    return tidy.pivot(index="policy", columns="term", values="shown").loc[results.policies]


def differences(results: ViewpointResults, policy: str, others: list[str]) -> pd.DataFrame:
    """Paired differences with 95 % bootstrap intervals, one row a rival."""
    rows = {}
    for other in others:
        paired = results.paired(policy, other)
        rows[other] = {
            term: f"{r.difference:+.3f} [{r.conf_low:+.3f}, {r.conf_high:+.3f}]"
            for term, r in zip(paired.index, paired.itertuples(), strict=True)
        }
    return pd.DataFrame.from_dict(rows, "index")


def show(title: str, table: pd.DataFrame) -> None:
    print(f"{title}\n\n{table.to_markdown(floatfmt='.4g')}\n", flush=True)


PARTS = {
    "train": train,
    "policies": policies,
    "architectures": architectures,
    "stages": stages,
}

if __name__ == "__main__":
    for part in sys.argv[1:] or PARTS:
        PARTS[part]()
