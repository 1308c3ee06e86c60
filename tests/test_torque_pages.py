"The numbers behind the pages of the torque analysis, and that the pages show them."
import json
import os
from dataclasses import replace
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from motionbench.core.errors import ConfigError, InvalidMotion
from motionbench.core.gait import bundled_clips
from motionbench.core.mirror import mirror_motion
from motionbench.core.motion import transform
from motionbench.core.robot import available_robots, load_robot
from motionbench.physics.consistency import root_residual
from motionbench.physics.ground import torque_from_motion
from motionbench.retarget.clip import retarget
from motionbench.torque.analysis import analysis_dict, analyze_torque, joint_pairs
from motionbench.torque.ground import ground_facts, ground_forces, heading, sole_paths, stance_paths, whole_strides
from motionbench.torque.pages import analysis_pages, busiest, effort_page, ground_page, over_strides, patterns_page, variance_accounted

matplotlib.use("Agg")
DATA = Path(os.environ.get("MOTIONBENCH_TEST_DATA", Path(__file__).parents[1]/"../shared/data"))
needs_g1 = pytest.mark.skipif(not DATA.is_dir() or "unitree_g1" not in [r["name"] for r in available_robots() if r["where"] != "download"], reason="no G1 model on this machine, or no test data at $MOTIONBENCH_TEST_DATA")


@pytest.fixture(scope="module")
def biped(): return load_robot("biped")


@pytest.fixture(scope="module")
def walk(biped): return analyze_torque(retarget(bundled_clips()["walk"], biped), biped, "walk")


@pytest.fixture(scope="module")
def squat(biped): return analyze_torque(retarget(bundled_clips()["squat"], biped), biped, "squat")


@pytest.fixture(autouse=True)
def closed():
    "No figure outlives its test."
    yield
    plt.close("all")


def titles(fig): return [ax.get_title(loc="left") for ax in fig.axes]
def panel(fig, title): return next(ax for ax in fig.axes if ax.get_title(loc="left").startswith(title))


# ---- ground

def test_over_whole_strides_the_feet_carry_the_weight(walk, squat, biped):
    for a in (walk, squat):
        f = ground_facts(a.computed, biped)
        assert abs(f["vertical_mean"] - 1) < 0.01 and 1 < f["vertical_peak"] < 2 and f["braking"] < 0 < f["propulsion"]
        assert f["forward_mean"] == pytest.approx(f["braking"] + f["propulsion"], abs=1e-12)
    f, (a, b) = ground_facts(walk.computed, biped), whole_strides(walk.motion, biped)
    assert abs(f["forward_mean"]) < 0.1*f["propulsion"] and f["seconds"] == (b - a)/walk.motion.fps                  # a steady walk pushes what it brakes
    speed = np.gradient(walk.computed.com, 1/walk.motion.fps, axis=0)
    speed = (speed[b] - speed[a]) @ [np.cos(heading(walk.motion)[a]), np.sin(heading(walk.motion)[a]), 0]
    assert f["forward_mean"] == pytest.approx(speed/(9.81*f["seconds"]), abs=0.01)                                   # what is left over is what the robot gains
    assert whole_strides(squat.motion, biped) == (0, len(squat.motion))
    assert json.loads(json.dumps(analysis_dict(walk)))["ground"] == f


def test_forces_go_with_the_walker(walk, biped):
    c = walk.computed
    force = ground_forces(c)
    assert force.shape == (len(walk.motion), 2, 3) and np.allclose(np.linalg.norm(force, axis=-1), np.linalg.norm(c.foot_force, axis=-1)/c.weight)
    stance = force[..., 2] > 0.3
    assert all(force[stance[:, k], k, 1].mean() > 0 for k in (0, 1))                                                 # feet stand beside the centre of mass and push it to the middle
    for angle in (0.7, 3.0):
        turned = replace(c, motion=transform(c.motion, angle), foot_force=c.foot_force @ np.array([[np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0], [0, 0, 1]]))
        assert np.allclose(ground_forces(turned), force, atol=1e-9)
    with pytest.raises(ConfigError, match=r"ground=Ground\(\)"): ground_forces(torque_from_motion(walk.motion, biped, ground=None))


def test_a_mirrored_walk_has_mirrored_forces(walk, biped):
    "Sideways, both feet count towards the other one, so that left and right only change places."
    image = torque_from_motion(mirror_motion(replace(walk.motion, torque=None), biped), biped, cutoff=None)
    same = torque_from_motion(replace(walk.motion, torque=None), biped, cutoff=None)
    assert np.abs(ground_forces(image)[:, ::-1] - ground_forces(same)).mean() < 0.01


@settings(max_examples=25, deadline=None)
@given(st.floats(-3, 3), st.floats(-0.5, 0.5), st.integers(40, 120))
def test_the_heading_is_that_of_the_walk_not_of_the_pelvis(walk_yaw, sway, frames):
    from motionbench.core.motion import Motion
    from motionbench.core.rotation import yaw_quat
    t = np.arange(frames)/30
    m = Motion(30, np.zeros((frames, 3)), yaw_quat(walk_yaw + sway*np.sin(2*np.pi*2*t)), np.zeros((frames, 1)), ("a",), "none")
    off = (heading(m) - walk_yaw + np.pi) % (2*np.pi) - np.pi
    assert np.abs(off)[15:-15].max(initial=0) < 0.03 + 0.02*abs(sway) and np.abs(off).max() <= abs(sway) + 1e-9


def test_the_centre_of_pressure_stays_in_the_sole_and_goes_from_heel_to_toe(walk, biped):
    for side, (points, path) in sole_paths(walk.computed, biped).items():
        on = np.isfinite(path[:, 0])
        assert 0.4 < on.mean() < 0.8 and (path[on] >= points.min(0) - 1e-9).all() and (path[on] <= points.max(0) + 1e-9).all() and np.allclose(points.mean(0), 0)
        stances = stance_paths(path, walk.motion.fps)
        assert stances.shape[1:] == (101, 2) and len(stances) >= 2 and stances[:, 5, 0].mean() < -0.03 and stances[:, 90, 0].mean() > 0.03
        assert np.array_equal(on, walk.computed.foot_force[:, walk.computed.feet.index(side), 2] > 0.05*walk.computed.weight)
    assert stance_paths(np.full((50, 2), np.nan), 30).shape == stance_paths(np.zeros((50, 2)), 30).shape == (0, 101, 2)


def test_residuals_are_drawn_against_their_limits(walk):
    c, r = walk.computed, walk.facts["residuals"]
    force, moment = root_residual(c.root_force, c.root_moment, c.weight, c.com_height)
    assert (r["peak_force_limit_pct"], r["rms_moment_limit_pct"]) == (5, 1) and r["peak_force_pct"] == pytest.approx(force.max()) and r["rms_moment_pct"] == pytest.approx(np.sqrt((moment**2).mean()))
    fig = ground_page(walk)
    for title, values, limit in (("unexplained force", force, 5), ("unexplained moment", moment, 1)):
        drawn, line = panel(fig, title).lines
        assert np.allclose(drawn.get_ydata(), values) and set(line.get_ydata()) == {limit} and panel(fig, title).get_ylim()[1] > max(limit, values.max())
    left = next(line for line in panel(fig, "ground force, vertical").lines if line.get_label() == "left")
    assert np.allclose(left.get_ydata(), over_strides(walk, ground_forces(c)[..., 2])["left"].mean[:, 0])


# ---- effort and patterns

def test_the_busiest_joints_and_their_power(walk, biped):
    from motionbench.torque.effort import joint_power, joint_work
    power, top = joint_power(walk.motion), busiest(walk, 3)
    mean = {label: sum(np.abs(power[:, j]).mean() for j in sides.values()) for label, sides in joint_pairs(walk.motion.joint_names).items()}
    assert [label for label, _ in top] == sorted(mean, key=mean.get, reverse=True)[:3] and all(set(sides) == {"left", "right"} for _, sides in top)
    fig, (label, sides) = effort_page(walk), top[0]
    drawn = {line.get_label(): line.get_ydata() for line in panel(fig, f"{label}: power").lines}
    assert all(np.allclose(drawn[s], over_strides(walk, power)[s].mean[:, j]) for s, j in sides.items())
    heights = sum(abs(p.get_height()) for p in panel(fig, "mean power").patches)
    assert heights == pytest.approx(joint_work(walk.motion)["absolute"].sum()/walk.motion.duration)
    red = [line for line in panel(fig, f"{label}: torque").lines if len(line.get_xdata()) == 201]
    limit = biped.effort_limit[biped.joint_names.index(walk.motion.joint_names[sides["left"]])]
    assert len(red) == 2 and max(np.abs(line.get_ydata()).max() for line in red) == limit and "peak torque / available torque" in titles(fig)


def test_a_robot_without_limits_has_no_envelope(walk):
    bare = replace(walk, robot=replace(walk.robot, effort_limit=None, velocity_limit=None))
    fig = effort_page(bare)
    assert "peak torque / available torque" not in titles(fig) and all(len(line.get_xdata()) == len(walk.motion) for line in panel(fig, f"{busiest(bare)[0][0]}: torque").lines)


def test_variance_grows_with_every_pattern(walk):
    share = variance_accounted(walk.motion.torque)
    assert len(share["components"]) == len(share["synergies"]) == 8 and share == variance_accounted(walk.motion.torque)
    assert (np.diff(share["components"]) > 0).all() and (np.diff(share["synergies"]) > -0.01).all() and share["synergies"][-1] > 0.95 and max(share["components"]) <= 1 + 1e-9
    t = np.linspace(0, 20, 400)[:, None]
    two = np.abs(np.sin(t))*[1, 2, 0, 3] + np.abs(np.cos(t))*[2, 0, 5, 1]
    assert variance_accounted(two)["components"][1] > 1 - 1e-9 and variance_accounted(two)["synergies"][1] > 0.99 > variance_accounted(two)["synergies"][0]
    assert variance_accounted(np.zeros((50, 3))) == dict(components=[], synergies=[]) and len(variance_accounted(np.abs(np.sin(t))*[1, 0])["synergies"]) == 1


def test_activations_rebuild_the_torques(walk):
    fig, n = patterns_page(walk), len(walk.motion.joint_names)
    bars = [sum(p.get_height()**2 for p in panel(fig, f"synergy {k}: weights").patches) for k in (1, 2, 3, 4)]
    assert np.allclose(bars, 1) and all(len(panel(fig, f"synergy {k}: weights").patches) == 2*n for k in (1, 2, 3, 4))      # weights are unit vectors
    active = [panel(fig, f"synergy {k}: activation").lines[0].get_ydata() for k in (1, 2, 3, 4)]
    assert all(len(a) == 101 and a.min() >= 0 for a in active) and "4 synergies account for" in fig.get_suptitle()
    cutoff = next(line for line in panel(fig, "power spectral").lines if line.get_label() == "cutoff of the filter")
    assert set(cutoff.get_xdata()) == {6.0}


# ---- all pages

def test_which_pages_there_are(walk, squat):
    stored = analyze_torque(walk.motion, walk.robot, "stored")
    assert list(analysis_pages(walk)) == ["effort", "patterns", "feasibility", "ground"] and list(analysis_pages(stored)) == ["effort", "patterns", "feasibility"]
    with pytest.raises(ConfigError, match="torque=None"): ground_page(stored)
    with pytest.raises(InvalidMotion, match="no torques"): analysis_pages(replace(walk, motion=replace(walk.motion, torque=None)))
    assert not squat.strides
    for name, fig in analysis_pages(squat).items(): assert name == "feasibility" or "time [s]" in {ax.get_xlabel() for ax in fig.axes} and not any("stride" in ax.get_xlabel() for ax in fig.axes), name


def test_torques_without_a_filter(biped, walk):
    a = analyze_torque(replace(walk.motion, torque=None), biped, "bare", cutoff=None)
    assert a.facts["torques"].endswith("no filter") and "cutoff of the filter" not in panel(patterns_page(a), "power spectral").get_legend_handles_labels()[1]


@needs_g1
def test_a_published_walk_of_the_g1():
    from motionbench.io.registry import read_motion
    robot = load_robot("unitree_g1")
    a = analyze_torque(read_motion(DATA/"robot_motion/kimodo_csv/kimodo_walk.csv", robot=robot, quat_order="wxyz", fps=30), robot, "kimodo")
    f = ground_facts(a.computed, robot)
    assert abs(f["vertical_mean"] - 1) < 0.02 and abs(f["forward_mean"]) < 0.35*f["propulsion"] and not a.facts["residuals"]["within"]
    assert {label for label, _ in busiest(a)} <= {"hip pitch", "hip roll", "knee", "ankle pitch"} and list(analysis_pages(a)) == ["effort", "patterns", "feasibility", "ground"]
