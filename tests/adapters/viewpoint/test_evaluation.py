"""Policies compared: the same scenarios for all, intervals that hold, time-outs that count."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from statml.adapters.viewpoint import (
    ActiveClassificationEnv,
    GreedyInformationPolicy,
    NearestFrontalPolicy,
    NoisySensor,
    RandomPolicy,
    Scenario,
    Scene,
    Trajectory,
    ViewpointResults,
    evaluate,
    rollout,
)
from statml.adapters.viewpoint.baselines import Policy
from statsmodels.stats.proportion import proportion_confint


@pytest.fixture(scope="module")
def results():
    scene = Scene(n_targets=(1, 5), random_beliefs=False)
    policies = {
        "greedy": GreedyInformationPolicy(),
        "frontal": NearestFrontalPolicy(),
        "random": RandomPolicy(),
    }
    return evaluate(policies, scene, 60, random_state=3)


class FirstCandidate(Policy):
    action = "candidate"

    def _act(self, observation, scene):
        return np.zeros(len(observation["mask"]), int)


def test_every_policy_flies_its_own_kind_of_action():
    """Displacements and candidates meet the same scenarios, whatever kind the environment has."""
    policies = {"greedy": GreedyInformationPolicy(), "first": FirstCandidate()}
    env = ActiveClassificationEnv(n_targets=2, action="candidate", random_beliefs=False)
    one = evaluate(policies, env, 20).frame
    two = evaluate(dict(reversed(policies.items())), Scene(n_targets=2, random_beliefs=False), 20)
    assert env.scene.action == "candidate"
    for name in policies:
        a, b = (frame[frame["policy"] == name] for frame in (one, two.frame))
        assert a["seconds"].tolist() == b["seconds"].tolist()
    assert one.loc[one["policy"] == "first", "fraction"].mean() > 0.4  # the first target of two


class Recorder(NearestFrontalPolicy):
    """Flies straight on, and keeps the first and the last observation."""

    def __init__(self, move):
        super().__init__()
        self.move, self.first, self.last = move, None, None

    def predict(self, observation, scene=None):
        if self.first is None:
            self.first = observation["targets"].copy()
        self.last = observation["targets"].copy()
        return np.tile([self.move, 0.0, 0.0], (len(observation["mask"]), 1))


def test_scenarios_are_common():
    scene = Scene(n_targets=3, random_beliefs=False, horizon=30)
    still, moving = Recorder(0.0), Recorder(0.4)
    evaluate({"still": still, "moving": moving}, scene, 20)
    np.testing.assert_array_equal(still.first, moving.first)
    again = Recorder(0.0)
    results = evaluate({"again": again}, scene, 20)
    np.testing.assert_array_equal(again.last, still.last)
    other = evaluate({"again": Recorder(0.0)}, scene, 20, random_state=1)
    assert not results.frame.equals(other.frame)


def test_the_frame_is_what_happened(results):
    frame = results.frame
    assert len(frame) == 3 * 60
    assert (frame["success"] == (frame["fraction"] == 1)).all()
    assert (frame["censored"] == ~frame["success"]).all()
    assert (frame.loc[frame["censored"], "seconds"] == 25).all()
    assert (frame["declared"] <= frame["n_targets"]).all()
    assert (frame["declared_right"] <= frame["declared"]).all()
    by_target = results.targets.groupby(["policy", "scenario"])["declared"].sum()
    by_scenario = frame.set_index(["policy", "scenario"])["declared"]
    assert by_target.equals(by_scenario.sort_index().rename("declared"))
    last = results.targets.groupby(["policy", "scenario"])["seconds"].max()
    done = frame[frame["success"]].set_index(["policy", "scenario"])["seconds"]
    np.testing.assert_allclose(last[done.index], done)
    declared = results.targets[results.targets["declared"]]
    assert declared["belief"].min() >= 0.95
    assert declared["seconds"].notna().all()


def test_path_and_reward_stop_at_the_end():
    """A policy that finds the only target at once gathers nothing afterwards, while others fly on."""
    near = Scenario.placed([[0, 0, 0], [0, 0, 0]], [[[2, 0, np.pi]], [[7, 7, 0]]], n_classes=6)
    scene = Scene(n_targets=1, target_motion="static", random_beliefs=False)
    results = evaluate({"moving": Recorder(0.1)}, scene, near)
    row = results.frame.iloc[0]
    assert row["success"]
    assert row["seconds"] == 0.5
    assert row["path_length"] == pytest.approx(2 * 0.05)
    assert 100 < row["reward"] < 110


def test_the_figures(results):
    table = results.tidy(level=0.9).set_index(["policy", "term"])
    part = results.frame[results.frame["policy"] == "frontal"]
    success = table.loc[("frontal", "success")]
    low, high = proportion_confint(part["success"].sum(), 60, alpha=0.1, method="wilson")
    np.testing.assert_allclose(
        success[["estimate", "conf_low", "conf_high"]].to_numpy(float),
        [part["success"].mean(), low, high],
    )
    seconds = table.loc[("frontal", "seconds")]
    half = 1.645 * part["seconds"].std() / np.sqrt(60)
    np.testing.assert_allclose(
        seconds[["conf_low", "conf_high"]].to_numpy(float),
        part["seconds"].mean() + np.array([-half, half]),
        atol=0.35 * half,
    )
    text = results.summary().as_text()
    assert "60 common scenarios" in text
    assert "greedy" in text


def test_the_area_under_the_curve_is_the_restricted_mean(results):
    means = results.tidy().set_index(["policy", "term"])["estimate"]
    for policy, curve in results.survival().groupby("policy"):
        assert curve["seconds"].iloc[-1] == 25
        assert (np.diff(curve["unfinished"]) <= 1e-12).all()
        area = np.sum(np.diff(curve["seconds"]) * curve["unfinished"].to_numpy()[:-1])
        assert area == pytest.approx(means[(policy, "seconds")])


def test_survival_when_nothing_is_finished():
    frame = pd.DataFrame(
        {"policy": "lazy", "scenario": range(5), "success": False, "seconds": 25.0}
    )
    curve = ViewpointResults(frame, pd.DataFrame(), 25.0).survival()
    assert (curve["unfinished"] == 1).all()


def fake(a, b):
    """Results of two policies with given times."""
    parts = [
        pd.DataFrame({"policy": name, "scenario": range(len(t)), "seconds": t})
        for name, t in (("a", a), ("b", b))
    ]
    frame = pd.concat(parts)
    frame["success"] = frame["seconds"] < 25
    frame["fraction"] = frame["success"].astype(float)
    return ViewpointResults(frame, pd.DataFrame(), 25.0)


def test_paired_intervals_cover():
    """In 200 experiments with a known mean difference, intervals at 90 % hold it 90 % of the time."""
    rng = np.random.default_rng(5)
    covered = 0
    for seed in range(200):
        hard = rng.normal(size=60)
        a, b = 12 + hard + 0.5 * rng.normal(size=60), 11 + hard + 0.5 * rng.normal(size=60)
        row = fake(a, b).paired("a", "b", level=0.9, random_state=seed).loc["seconds"]
        covered += row["conf_low"] <= 1.0 <= row["conf_high"]
        assert row["conf_high"] - row["conf_low"] < 0.5  # 0.3 in pairs; unpaired 0.65
    assert abs(covered / 200 - 0.9) < 3 * np.sqrt(0.09 / 200)


def test_the_sign_test():
    table = fake([10, 10, 10, 25.0], [12, 12, 10, 11.0]).paired("a", "b")
    row = table.loc["seconds"]
    assert (row["larger"], row["smaller"]) == (1, 2)
    assert row["p_value"] == pytest.approx(1.0)
    assert row["difference"] == pytest.approx((-2 - 2 + 0 + 14) / 4)
    assert table.loc["success", "difference"] == -0.25
    same = fake([10.0, 11], [10.0, 11]).paired("a", "b")
    assert (same["p_value"] == 1).all()
    assert (same[["conf_low", "conf_high"]] == 0).all(axis=None)


def test_policies_rank_as_they_should(results):
    paired = results.paired("greedy", "random")
    assert paired.loc["success", "conf_low"] > 0.5
    assert paired.loc["seconds", "conf_high"] < 0
    assert paired.loc["fraction", "p_value"] < 1e-6


def test_declarations_of_an_honest_sensor_keep_their_promise():
    """Independent looks from the sensor's own distribution: at least 95 % of declarations are right."""
    scene = Scene(n_targets=4, sensor=NoisySensor(), random_beliefs=False, horizon=160)
    row = evaluate([NearestFrontalPolicy()], scene, 150).declarations().iloc[0]
    assert row["declared"] > 400
    assert row["conf_low"] < row["right"] < row["conf_high"]
    assert row["right"] >= 0.95 - 3 * np.sqrt(0.05 * 0.95 / row["declared"])
    assert row["belief"] > 0.95


def test_by_number(results):
    table = results.by_n("fraction")
    assert set(table["n_targets"]) == {1, 2, 3, 4, 5}
    assert table["n"].sum() == len(results.frame)
    alone = table[(table["policy"] == "greedy") & (table["n_targets"] == 1)]
    assert alone["estimate"].item() > 0.9


def test_plots(results):
    display = results.plot_survival()
    assert len(display.ax_.lines) == 3
    ax = display.ax_
    assert results.plot_by_n("seconds", ax=ax).ax_ is ax


@pytest.mark.parametrize(
    ("policies", "error", "message"),
    [
        ([], ValueError, "at least one policy"),
        ([RandomPolicy(), RandomPolicy(1)], ValueError, "different names"),
        ({"one": object()}, TypeError, "method predict"),
    ],
)
def test_bad_policies(policies, error, message):
    with pytest.raises(error, match=message):
        evaluate(policies, Scene(), 2)


def test_bad_arguments(results):
    with pytest.raises(ValueError, match="scenarios must be an integer >= 1"):
        evaluate([RandomPolicy()], Scene(), 0)
    with pytest.raises(ValueError, match="b must be"):
        results.paired("greedy", "gredy")
    with pytest.raises(ValueError, match="term must be"):
        results.by_n("speed")
    with pytest.raises(ValueError, match="level must be"):
        results.tidy(level=95)


# --- one episode -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trajectory():
    return rollout(GreedyInformationPolicy(), Scene(n_targets=(2, 5)), random_state=4)


def test_rollout_is_the_evaluation_of_one(trajectory):
    assert isinstance(trajectory, Trajectory)
    results = evaluate([GreedyInformationPolicy()], Scene(n_targets=(2, 5)), 1, random_state=4)
    row = results.frame.iloc[0]
    assert row["n_targets"] == trajectory.targets.shape[1]
    assert row["success"] == trajectory.success
    assert row["reward"] == pytest.approx(trajectory.rewards.sum())
    if trajectory.success:
        assert row["seconds"] == trajectory.seconds[-1] == trajectory.declared_at.max()
    T, N = trajectory.visible.shape
    assert trajectory.beliefs.shape == (T, N, 6)
    assert len(trajectory.rewards) == T - 1
    assert not trajectory.visible[0].any()
    assert len(trajectory.frame) == T * N


def test_rollout_of_a_scenario():
    scenario = Scenario.placed([0, 0, 0], [[3, 0, np.pi]], n_classes=6)
    scene = Scene(n_targets=2, target_motion="static", random_beliefs=False)
    trajectory = rollout(NearestFrontalPolicy(), scene, scenario)
    assert trajectory.success
    assert trajectory.targets.shape[1] == 1
    two = Scenario.placed(np.zeros((2, 3)), [[3, 0, np.pi]], n_classes=6)
    with pytest.raises(ValueError, match="scenario must be of one episode, got 2"):
        rollout(NearestFrontalPolicy(), scene, two)


def test_rollout_plots(trajectory):
    assert "classified after" in trajectory.plot().ax_.get_title()
    lines = trajectory.plot_beliefs().ax_.get_legend().get_texts()
    assert len(lines) == trajectory.targets.shape[1]


def test_animation(tmp_path):
    scene = Scene(n_targets=2, horizon=4)
    trajectory = rollout(RandomPolicy(), scene, random_state=1)
    animation = trajectory.animate(tmp_path / "flight.gif", fps=5)
    with Image.open(tmp_path / "flight.gif") as picture:
        assert picture.n_frames == len(trajectory.drone)
        assert picture.info["duration"] == 200
    assert animation._repr_html_().startswith('<img src="data:image/gif;base64,')
    with pytest.raises(ValueError, match="fps must be"):
        trajectory.animate(fps=0)
