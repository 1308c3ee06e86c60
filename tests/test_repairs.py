"Repairs of the motion itself: ground, contacts, speed. Planted faults of known size, published clips, and nothing done to what is right."
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import motionbench.retarget.repair
from motionbench.audit.ground import find_ground, lifted, repair_ground, stand_height
from motionbench.audit.mend import find_faults, mend, mended_dict
from motionbench.audit.repairs import _REPAIRS, repair, repairs
from motionbench.audit.slowing import find_velocity, slowed, slowness, speed_ratio
from motionbench.core.contacts import intervals
from motionbench.core.errors import RobotError
from motionbench.core.gait import bundled_clips
from motionbench.core.kinematics import forward_kinematics, sole_positions
from motionbench.core.motion import CONTACT_NAMES, Motion
from motionbench.core.robot import available_robots, load_robot
from motionbench.core.rotation import quat_exp, quat_mul
from motionbench.retarget.clip import retarget
from motionbench.retarget.repair import contact_faults, resolve_contacts

DATA = Path(os.environ.get("MOTIONBENCH_TEST_DATA", "../shared/data"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="no test data at $MOTIONBENCH_TEST_DATA")
local = {r["name"] for r in available_robots() if r["where"] != "download"}
needs_robots = pytest.mark.skipif(not {"unitree_g1", "booster_t1"} <= local, reason="no G1 or T1 model on this machine")
BIPED = load_robot("biped")


@pytest.fixture(scope="module")
def walk(): return retarget(bundled_clips()["walk"], BIPED)


@pytest.fixture(scope="module")
def firm(walk):
    "A clip that needs nothing."
    return mend(walk, BIPED).motion


def rich(m):
    "The clip with everything that a file may carry."
    pos, quat = forward_kinematics(BIPED.tree, m.root_pos, m.root_quat, m.dof_pos[:, BIPED.joint_order(m.joint_names)])
    v, T = m.velocities(), len(m)
    extra = dict(time=5 + m.times, object_pos=m.root_pos + 1, object_quat=m.root_quat.copy(), local_body_pos=pos - m.root_pos[:, None], object_lin_vel=v.root_lin_vel.copy(),
                 phase=np.arange(T), label="walk")
    m = replace(m, dof_vel=v.dof_vel, root_lin_vel=v.root_lin_vel, root_ang_vel=v.root_ang_vel, body_pos=pos, body_quat=quat, body_names=BIPED.body_names, torque=m.dof_pos.copy())
    return replace(m, extra=extra)


def hurried(m, joint=0, at=120, ratio=3.0):
    "A joint that swings through an angle at `ratio` times its limit, all else as it was."
    limit, t = BIPED.velocity_limit[joint], np.arange(len(m)) - at
    dof = m.dof_pos.copy()
    column = BIPED.joint_order(m.joint_names)[joint]
    width = 1.5                                                              # frames
    dof[:, column] += ratio*limit/m.fps*width*np.tanh(t/width)*1.06
    return replace(m, dof_pos=dof)


@pytest.mark.parametrize("height", [-0.07, 0.07, 0.02, -0.011])
@pytest.mark.parametrize("own", [True, False])
def test_a_shifted_clip_is_set_back(firm, height, own):
    m = firm if own else replace(firm, contacts=None, contact_names=None)
    here = stand_height(m, BIPED)[0]
    assert abs(here) < 0.005 and find_ground(m, BIPED) == []
    bad = lifted(m, height)
    found = find_ground(bad, BIPED)
    assert [f.repair for f in found] == ["ground"] and found[0].value == pytest.approx(height + here, abs=1e-9) and ("above" if height > 0 else "below") in found[0].message
    mended, told = repair_ground(bad, found, BIPED)
    assert np.allclose(mended.root_pos[:, 2] - m.root_pos[:, 2], -here, atol=1e-9) and find_ground(mended, BIPED) == []
    assert ("lowered" if height > 0 else "lifted") in told
    with pytest.raises(RobotError, match="robot=NAME"): repair(bad, found)


def test_the_ground_of_everything_that_stands_in_the_world(firm):
    m = rich(firm)
    new = lifted(m, 0.1)
    for k in ("root_pos", "body_pos"): assert np.allclose(getattr(new, k) - getattr(m, k), [0, 0, 0.1])
    assert np.allclose(new.extra["object_pos"] - m.extra["object_pos"], [0, 0, 0.1])
    assert all(new.extra[k] is m.extra[k] for k in m.extra if k != "object_pos") and np.array_equal(new.dof_pos, m.dof_pos)


def test_what_has_no_one_height_is_left_to_a_person(firm):
    m = replace(firm, contacts=None, contact_names=None)
    half = len(m)//3
    stairs = replace(m, root_pos=m.root_pos + np.where(np.arange(len(m)) > half, 0.4, -0.1)[:, None]*[0, 0, 1])
    assert [f.repair for f in find_ground(stairs, BIPED)] == [None]
    flight = lifted(m.cut(0, 20), 1.0)
    flight = replace(flight, root_pos=flight.root_pos + np.arange(20)[:, None]*[0.1, 0, 0])      # nothing in it is slow
    assert find_ground(flight, BIPED) == []


def test_a_lying_robot_is_not_buried(firm):
    T = 60
    q = np.tile(quat_exp(np.array([0, -np.pi/2, 0])), (T, 1))
    m = Motion(30, np.tile([0, 0, 0.12], (T, 1)), q, np.zeros((T, len(BIPED.joint_names))), BIPED.joint_names, "biped")
    new = lifted(m, -max(0, stand_height(m, BIPED)[0]))
    pos, _ = forward_kinematics(BIPED.tree, new.root_pos, new.root_quat, new.dof_pos)
    feet = {f.body for f in BIPED.feet}
    assert pos[:, [b not in feet for b in BIPED.body_names], 2].min() >= -1e-9


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([30.0, 50.0, 120.0]), st.integers(1, 5))
def test_slowness_covers_what_is_needed(seed, fps, peaks):
    rng = np.random.default_rng(seed)
    ratio = rng.uniform(0, 0.9, 200)
    ratio[rng.integers(0, 200, peaks)] = rng.uniform(1.01, 5, peaks)
    u = slowness(ratio, fps)
    assert (u >= np.maximum(1, ratio) - 1e-9).all()
    assert all(abs((u[a:b] - 1).sum() - round((u[a:b] - 1).sum())) < 1e-6 for a, b in intervals(u > 1))
    far = np.abs(np.arange(200)[:, None] - np.flatnonzero(ratio > 1)).min(1) > 0.25*fps + 2
    assert (u[far] == 1).all() and np.abs(np.diff(np.log(u))).max() < np.log(u.max())*6/max(1, round(0.1*fps))


@pytest.mark.parametrize("ratio", [1.2, 3.0, 4.5])
def test_a_hurried_joint_is_slowed_there_and_only_there(firm, ratio):
    bad = hurried(rich(firm), ratio=ratio)
    bad = replace(bad, dof_vel=bad.velocities().dof_vel)
    assert speed_ratio(bad, BIPED).max() == pytest.approx(ratio, rel=0.15) and [f.repair for f in find_velocity(bad, BIPED)] == ["velocity"]
    new, done = repair(bad, find_velocity(bad, BIPED), BIPED)
    assert speed_ratio(new, BIPED).max() <= 1 + 1e-9 and find_velocity(new, BIPED) == [] and new.fps == bad.fps
    longer = len(new) - len(bad)
    assert 1 <= longer < 60 and f"{longer/new.fps:.2f} s longer" in done[0]
    reach = 20                                                              # frames around the fault
    for k in ("dof_pos", "root_pos", "root_quat", "contacts", "body_pos", "body_quat", "root_lin_vel"):
        old, x = getattr(bad, k), getattr(new, k)
        assert np.allclose(x[:120 - reach], old[:120 - reach], atol=1e-9) and np.allclose(x[120 + reach + longer:], old[120 + reach:], atol=1e-9), k
    v = new.velocities()
    for k in ("dof_vel", "root_lin_vel", "root_ang_vel"): assert np.abs(getattr(new, k) - getattr(v, k)).max() < 0.3*np.abs(getattr(bad.velocities(), k)).max() + 0.02, k
    assert new.torque is None and "torques dropped" in done[0]
    assert np.allclose(np.diff(new.extra["time"]), 1/new.fps) and new.extra["time"][0] == 5
    assert {len(new.extra[k]) for k in ("object_pos", "object_quat", "phase", "time", "local_body_pos")} == {len(new)} and new.extra["label"] == "walk"
    assert np.isin(new.extra["phase"], bad.extra["phase"]).all() and new.source["steps"][-1]["repair"] == "velocity"


def test_speed_at_the_ends_and_robots_without_limits(firm):
    for at in (2, len(firm) - 3): assert speed_ratio(repair(hurried(firm, at=at), ["velocity"], BIPED)[0], BIPED).max() <= 1 + 1e-9
    free = load_robot("biped")
    object.__setattr__(free, "velocity_limit", None)
    assert find_velocity(hurried(firm), free) == []
    object.__setattr__(free, "velocity_limit", np.full(len(free.joint_names), np.inf))
    assert find_velocity(hurried(firm), free) == [] and np.array_equal(slowed(firm, slowness(np.zeros(len(firm) - 1), 60)).dof_pos, firm.dof_pos)


def test_a_cut_is_not_stretched(firm):
    dof = firm.dof_pos + (np.arange(len(firm)) > 100)[:, None]*np.array([0.8, -0.8, 0.8, 0.8, -0.8, 0.8, -0.8, 0.8, 0.8])
    found = find_velocity(replace(firm, dof_pos=dof), BIPED)
    assert [f.repair for f in found] == [None] and "cut it first" in found[0].message


def test_standing_feet_stay(walk):
    slide = rich(replace(walk, root_pos=walk.root_pos*[1.1, 1, 1], contacts=None, contact_names=None))
    before, new = contact_faults(slide, BIPED), resolve_contacts(slide, BIPED)
    after = contact_faults(new, BIPED)
    assert before["skate"] > 0.05 and after["skate"] < 0.5*before["skate"] and after["depth"] < 0.5 and after["floats"] == 0
    assert new.contact_names == CONTACT_NAMES and new.torque is None and len(new) == len(slide)
    pos, quat = forward_kinematics(BIPED.tree, new.root_pos, new.root_quat, new.dof_pos)
    assert np.allclose(new.body_pos, pos) and np.allclose(new.dof_vel, new.velocities().dof_vel)
    assert np.degrees(np.sqrt(np.mean((new.dof_pos - slide.dof_pos)**2))) < 6 and {f.kind for f in find_faults(new, BIPED)} <= {"contacts"}      # legs that cannot turn about the vertical


def test_everything_at_once_and_nothing_twice(firm):
    held = np.arange(len(firm))//2*2
    sign = np.where(np.arange(len(firm))[:, None] % 40 > 19, -1, 1)
    bad = lifted(hurried(replace(firm, contacts=None, contact_names=None, source={}), ratio=2), 0.07)
    bad = bad._each(lambda x, how: x[held])
    bad = replace(bad, root_quat=bad.root_quat*sign)
    before = bad.root_pos.copy(), bad.dof_pos.copy()
    found = mend(bad, BIPED)
    names = [d.split(":")[0] for d in found.done]
    assert names[:3] == ["held_frames", "flips", "ground"] and names[-1] == "velocity" and {f.repair for f in found.left} <= {None}
    assert found.before.grade == "fail" and found.after.metrics["held_share"] == 0 and found.after.metrics["velocity_ratio"] <= 1
    assert np.array_equal(bad.root_pos, before[0]) and np.array_equal(bad.dof_pos, before[1])
    again = mend(found.motion, BIPED)
    assert again.done == [] and again.motion is found.motion and again.after is again.before
    assert {"held_share", "velocity_ratio"} <= {c["gate"] for c in mended_dict(found)["changed"]} and mended_dict(again)["changed"] == []


def test_sliding_feet_without_the_solver_are_told(firm, monkeypatch):
    "Who has not imported the repair of contacts hears what to import; who has, gets it done."
    slide = replace(firm, root_pos=firm.root_pos + np.arange(len(firm))[:, None]*[0.01, 0, 0])
    assert mend(firm, BIPED).left == [] and any(line.startswith("contacts: ") for line in mend(slide, BIPED).done)
    monkeypatch.delitem(_REPAIRS, "contacts")
    alone = mend(slide, BIPED)
    assert "import motionbench.retarget.repair" in alone.left[-1].message and not any(line.startswith("contacts: ") for line in alone.done) and mended_dict(alone)["left"]
    assert mend(firm, BIPED).left == []


def test_a_misread_clip_is_not_moved(firm):
    "Degrees: the height is not what is wrong."
    bad = lifted(replace(firm, dof_pos=np.degrees(firm.dof_pos)), 0.2)
    found = mend(bad, BIPED)
    assert found.done == [] and any(f.kind.startswith("joint") for f in found.left)


def test_a_repair_may_bring_its_own_eyes(firm):
    from motionbench.audit.poses import Finding
    from motionbench.audit.repairs import register_repair
    assert [r.name for r in repairs()][-3:] == ["ground", "contacts", "velocity"]
    register_repair("tall", lambda m, f, robot: (lifted(m, -0.5), "shrunk"), 200, lambda m, robot: [Finding("ground", "error", "", 0, "tall", "tall")] if m.root_pos[0, 2] > 1 else [])
    try: assert [d.split(":")[0] for d in mend(lifted(firm, 0.9), BIPED).done][:1] == ["ground"] and mend(firm, BIPED).done == []
    finally: del _REPAIRS["tall"]


@needs_data
@needs_robots
@pytest.mark.parametrize("name, moved", [("unitree_g1", "lowered by 2"), ("booster_t1", "lifted by 1")])
def test_published_retargets_stand_afterwards(name, moved):
    "GMR's clips: the G1 floats and the T1 stands in the floor."
    from motionbench.io.registry import read_motion
    robot = load_robot(name)
    m = read_motion(DATA/f"gmr/cmu_01_01_jump__{name}.pkl", robot=robot)
    found = mend(m, robot)
    was, now = found.before.metrics, found.after.metrics
    assert moved in found.done[0] and now["penetration_share"] == 0 and now["floating_share"] == 0 and now["velocity_ratio"] <= 1
    plan = replace(m, contacts=resolve_contacts(lifted(m, -stand_height(m, robot)[0]), robot).contacts, contact_names=CONTACT_NAMES)
    assert contact_faults(found.motion, robot)["skate"] < 0.5*contact_faults(plan, robot)["skate"]         # the same contacts before and after
    assert now["penetration_max_cm"] < 1 and now["self_collision_share"] < was["self_collision_share"] and found.after.passed and found.left == [] and mend(found.motion, robot).done == []
    rms = np.degrees(np.sqrt(np.mean((found.motion.dof_pos[:600] - m.dof_pos[:600])**2)))
    assert rms < 8 and was["penetration_max_cm"] > 1.5


@needs_data
@needs_robots
@pytest.mark.parametrize("path, options", [("kimodo_csv/kimodo_walk.csv", dict(quat_order="wxyz", fps=30)), ("unitree_csv/G1_Take_102.bvh_60hz.csv", dict(quat_order="xyzw", fps=60)),
                                           ("protomotions/output_jumpjack.motion", {})])
def test_published_clips_pass_after_repair(path, options):
    from motionbench.io.registry import read_motion, sniff
    g1, path = load_robot("unitree_g1"), DATA/"robot_motion"/path
    found = mend(read_motion(path, **options, **({"robot": g1} if "robot" in sniff(path).options else {})), g1)
    assert found.before.grade == "fail" and found.after.passed and mend(found.motion, g1).done == []


@needs_data
@needs_robots
def test_feet_that_drag_are_lifted():
    "Its feet stand well, but scuff on their way."
    from motionbench.io.registry import read_motion
    g1 = load_robot("unitree_g1")
    found = mend(read_motion(DATA/"robot_motion/beyondmimic/sub3_largebox_003_mj.npz"), g1)
    assert [d.split(":")[0] for d in found.done] == ["velocities", "contacts"] and found.left == []
    assert found.before.metrics["drag_share"] > 0.1 > 3*found.after.metrics["drag_share"] and found.motion.body_pos is not None
