"Forces in the audit: the numbers are those of the physics, what cannot be known is None, and good walks pass where spoiled ones do not."
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import motionbench.audit.audit as audit
from motionbench.audit.audit import PHYSICAL, audit_motion, physical_metrics
from motionbench.audit.gates import load_gates
from motionbench.core.errors import RobotError
from motionbench.core.gait import bundled_clips
from motionbench.core.motion import Motion
from motionbench.core.robot import load_robot
from motionbench.io.registry import read_motion
from motionbench.physics.consistency import consistency
from motionbench.physics.ground import torque_from_motion
from motionbench.retarget.clip import retarget_many

MOCAP = Path(os.environ.get("MOTIONBENCH_TEST_DATA", Path(__file__).parents[1]/"../shared/data"))/"mocap"
BIPED = load_robot("biped")
GATES = ("root_force_median_pct", "root_moment_median_pct", "implausible_share", "friction_used_p95", "torque_over_share")


@pytest.fixture(scope="module")
def clips(): return dict(zip(bundled_clips(), retarget_many(list(bundled_clips().values()), BIPED)))


def results(motion, robot=BIPED): return {v.name: v.result for v in audit_motion(motion, robot).gates if v.name in GATES}
def warned(motion, robot=BIPED): return {n for n, r in results(motion, robot).items() if r != "pass"}


def test_the_numbers_are_those_of_the_physics(clips):
    metrics, summary = audit_motion(clips["turn"], BIPED).metrics, consistency(torque_from_motion(clips["turn"], BIPED), BIPED).summary()
    assert tuple(summary) == PHYSICAL and {k: metrics[k] for k in PHYSICAL} == summary


def test_the_gates_only_warn_and_say_why(clips):
    gates = load_gates()
    assert set(GATES) <= set(gates) and all(gates[n].fail is None and len(gates[n].why) > 60 for n in GATES)
    assert set(results(clips["walk"])) == set(GATES) and gates["friction_used_p95"].good < 1


@pytest.mark.parametrize("case", ["two frames", "12 fps", "no mass", "no gravity", "no limits"])
def test_what_cannot_be_known_is_none(clips, case):
    motion, robot, model = clips["walk"], BIPED, load_robot("biped").model
    if case == "two frames": motion = motion.cut(0, 2)
    if case == "12 fps": motion = motion.resample(12)
    if case == "no mass": model.body_mass[:] = 0
    if case == "no gravity": model.opt.gravity[:] = 0
    if case.startswith("no"): robot = replace(BIPED, model=model)
    if case == "no limits": robot = replace(BIPED, effort_limit=None)
    metrics = audit_motion(motion, robot).metrics
    missing = {k for k in PHYSICAL if metrics[k] is None}
    assert set(PHYSICAL) <= set(metrics) and missing == ({k for k in PHYSICAL if k.startswith("torque")} if case == "no limits" else set(PHYSICAL))
    assert results(motion, robot)["implausible_share"] == ("pass" if case == "no limits" else "n/a")


def test_three_frames_and_13_fps_are_enough(clips):
    for motion in (clips["walk"].cut(0, 3), clips["walk"].resample(13)): assert None not in physical_metrics(motion, BIPED).values()


def test_other_errors_are_not_hidden(clips, monkeypatch):
    def broken(*_, **__): raise RobotError("something else")
    monkeypatch.setattr(audit, "torque_from_motion", broken)
    with pytest.raises(RobotError, match="something else"): audit_motion(clips["walk"], BIPED)


def test_good_clips_pass_and_spoiled_walks_warn(clips):
    for name in ("walk", "turn", "squat", "jump", "wave", "stand"): assert warned(clips[name]) == set(), name
    walk = clips["walk"]
    along = lambda x: replace(walk, root_pos=walk.root_pos + x)
    assert "root_force_median_pct" in warned(clips["run"])                                             # a run of a human of 1.70 m on half of the height
    assert warned(along([0, 0, 0.05])) >= {"root_force_median_pct", "root_moment_median_pct", "implausible_share"}
    assert warned(along([0, 0, 0.02])) == warned(along(np.outer(walk.times, [0.4, 0, 0]))) == {"implausible_share"}
    assert warned(walk, replace(BIPED, effort_limit=BIPED.effort_limit/4)) == {"torque_over_share"}


def test_a_slope_uses_friction(clips):
    "To stand on a gentle slope takes some of it; on one steeper than the floor's 0.8 all, and never more."
    def on(slope):
        model = load_robot("biped").model
        model.opt.gravity[:] = 9.81*np.array([0, np.sin(np.radians(slope)), -np.cos(np.radians(slope))])
        robot = replace(BIPED, model=model)
        return audit_motion(clips["stand"], robot).metrics["friction_used_p95"], "friction_used_p95" in warned(clips["stand"], robot)
    (flat, _), (gentle, at_ease) = on(0), on(5)
    assert flat < 0.01 and np.tan(np.radians(5))/0.8 < gentle < 0.5 and not at_ease and on(60) == (pytest.approx(1, abs=1e-6), True)


@pytest.mark.skipif(not MOCAP.is_dir(), reason=f"no recordings at {MOCAP}; set MOTIONBENCH_TEST_DATA")
def test_recorded_walks_pass():
    humans = [read_motion(MOCAP/f) for f in ("bandai/dataset-2_walk_normal_001.bvh", "bandai/dataset-2_walk-turn-left_normal_001.bvh", "cmu/02_01.bvh", "deepmimic/humanoid3d_walk.txt")]
    for motion in retarget_many(humans, BIPED):
        assert isinstance(motion, Motion) and warned(motion) == set(), motion.source["file"]
