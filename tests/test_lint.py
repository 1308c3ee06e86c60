"Lint and repairs: defects planted in motions whose truth is known, defects of published files, silence on clean ones."
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from motionbench.audit.lint import find_held, lint_file, lint_motion, without_held
from motionbench.audit.poses import KINDS, breadth_first, from_exp_map, observed_angles, pose_errors
from motionbench.audit.repairs import _REPAIRS, differences, register_repair, repair, repairs
from motionbench.core.errors import ConfigError, InvalidMotion, MotionFormatError, RobotError
from motionbench.core.gait import bundled_clips
from motionbench.core.kinematics import forward_kinematics
from motionbench.core.motion import Motion, concatenate, transform
from motionbench.core.robot import available_robots, load_robot
from motionbench.core.rotation import quat_conj, quat_exp, quat_log, quat_mul, quat_rotate, yaw, yaw_quat
from motionbench.io.native import read_npz, write_npz

DATA = Path(os.environ.get("MOTIONBENCH_TEST_DATA", "../shared/data"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="no test data at $MOTIONBENCH_TEST_DATA")
needs_g1 = pytest.mark.skipif("unitree_g1" not in [r["name"] for r in available_robots() if r["where"] != "download"], reason="no G1 model on this machine")
BIPED = load_robot("biped")
fast = settings(max_examples=20, deadline=None)


def truth(frames=181, fps=60, robot=BIPED, seed=0, stored=True, speed=1.0):
    "A smooth motion inside the joint ranges that turns, tilts and walks off, with every velocity and body pose stored as documented."
    rng, t = np.random.default_rng(seed), speed*np.arange(frames)/fps
    low, high = np.clip(robot.joint_range, -2, 2).T
    phase, rate = rng.uniform(0, 2*np.pi, (2, len(low)))
    dof = (low + high)/2 + 0.4*(high - low)/2*np.sin((3 + rate)*t[:, None] + phase)
    pos = np.stack([0.8*t, 0.2*np.sin(3*t), 0.6 + 0.03*np.cos(6*t)], 1)
    quat = quat_mul(yaw_quat(rng.uniform(-3, 3) + 0.9*t), quat_exp(np.stack([0.3*np.sin(4*t), 0.25*np.cos(3*t), 0*t], 1)))
    m = Motion(fps, pos, quat, dof, robot.joint_names, robot.name)
    if not stored: return m
    body_pos, body_quat = forward_kinematics(robot.tree, pos, quat, dof)
    m = replace(m, body_pos=body_pos, body_quat=body_quat, body_names=robot.body_names)
    return replace(m, **{k: differences(m, k) for k in ("dof_vel", "root_lin_vel", "root_ang_vel", "body_lin_vel", "body_ang_vel")})


def kinds(clip, robot=BIPED): return {f.kind for f in lint_motion(clip, robot)}
def take(m, rows, fps=None): return replace(m._each(lambda x, how: x[rows]), fps=fps or m.fps)
def angle_between(a, b): return np.linalg.norm(quat_log(quat_mul(a, quat_conj(b))), axis=-1)


def test_clean_motion_is_clean():
    for seed in range(8):
        m = truth(seed=seed, fps=(30, 50, 60, 120)[seed % 4], frames=(100, 181)[seed % 2])
        assert lint_motion(m, BIPED) == [] and lint_motion(transform(m, 1.3, (4, 5, 0)), BIPED) == []
        forward = replace(m, dof_vel=np.diff(m.dof_pos, axis=0, append=m.dof_pos[-1:])*m.fps)
        single = replace(m, **{k: getattr(m, k).astype(np.float32) for k in Motion._how if getattr(m, k) is not None})
        assert kinds(forward) == kinds(single) == set()
        assert repair(m, robot=BIPED)[1] == []
    still = replace(truth(60, stored=False), dof_pos=np.tile(truth().dof_pos[:1], (60, 1)), root_pos=np.zeros((60, 3)), root_quat=np.tile([1., 0, 0, 0], (60, 1)))
    pause = np.r_[np.arange(60), np.full(40, 60), np.arange(60, 120)]      # a stand in the middle is no defect
    for m in (still, replace(still, dof_vel=0*still.dof_pos), take(truth(stored=False), pause), truth(1, stored=False), truth(2, stored=False)): assert kinds(m) == set()


@pytest.mark.parametrize("rows, rate", [(np.arange(180)//2*2, 30), (np.arange(180)//3*3, 20), (np.arange(180)*24//60*60//24, 24)])
@pytest.mark.parametrize("noise", [0, 1e-6, 2e-4])
def test_held_frames(rows, rate, noise):
    "Doubled, tripled, and film rate at 60; exact copies, rounding, and noise of a hundredth of a degree."
    true = truth(stored=False)
    held = take(true, rows)
    held = replace(held, dof_pos=held.dof_pos + noise*np.random.default_rng(0).normal(size=held.dof_pos.shape))
    found = [f for f in lint_motion(held, BIPED) if f.kind == "held_frames"]
    assert len(found) == 1 and found[0].severity == "error"
    assert float(re.search(r"probably ([\d.]+) fps", found[0].message)[1]) == pytest.approx(rate, rel=0.03)
    assert found[0].value == pytest.approx(1 - rate/60, abs=0.02)
    mended, done = repair(held, robot=BIPED)
    assert kinds(mended) == set() and "held frames interpolated" in done[0] and mended.source["steps"][-1]["repair"] == "held_frames"
    if rate != 24: assert np.abs(mended.dof_pos - true.dof_pos[:len(mended)]).max() < 0.06


@fast
@given(st.sets(st.integers(5, 170), min_size=1, max_size=6))
def test_single_repeats(frames):
    rows = np.arange(181)
    for f in sorted(frames): rows[f] = rows[f - 1]
    found = [f for f in lint_motion(take(truth(stored=False), rows), BIPED) if f.kind == "held_frames"]
    assert len(found) == 1 and round(found[0].value*181) == len(frames)
    assert np.flatnonzero(find_held(take(truth(stored=False), rows))).tolist() == sorted(frames)


@pytest.mark.parametrize("where", ["root_quat", "body_quat"])
@pytest.mark.parametrize("flips", [1, 7, 90])
def test_flips(where, flips):
    m = truth()
    sign = np.ones(len(m))
    for f in np.linspace(3, 175, flips).astype(int): sign[f:] *= -1
    q = getattr(m, where)
    bad = replace(m, **{where: q*sign.reshape(-1, *[1]*(q.ndim - 1))})
    found = lint_motion(bad, BIPED)
    assert [f.kind for f in found] == ["quat_flips"] and found[0].where == where and found[0].value == flips*(1 if q.ndim == 2 else q.shape[1])
    mended, _ = repair(bad, robot=BIPED)
    assert kinds(mended) == set() and angle_between(getattr(mended, where), q).max() < 1e-6


def test_signs_of_rotation_matrices_are_no_flips():
    m = truth()
    assert kinds(replace(m, body_quat=np.where(m.body_quat[..., :1] < 0, -1, 1)*m.body_quat)) == set()
    largest = np.take_along_axis(m.body_quat, np.abs(m.body_quat).argmax(-1)[..., None], -1)
    assert kinds(replace(m, body_quat=np.sign(largest)*m.body_quat)) == set()


@pytest.mark.parametrize("jump", [dict(root=0.3), dict(root=1.0), dict(root=20.0), dict(turn=0.8), dict(turn=1.5), dict(turn=3.0), dict(pose=0.6), dict(pose=1.0), dict(pose=2.0)])
def test_teleports(jump):
    m, after = truth(stored=False), (np.arange(181) >= 77)[:, None]
    if "root" in jump: bad = replace(m, root_pos=m.root_pos + after*[jump["root"], 0, 0])
    if "turn" in jump: bad = replace(m, root_quat=quat_mul(quat_exp(after*[0, 0, jump["turn"]]), m.root_quat))
    if "pose" in jump: bad = replace(m, dof_pos=m.dof_pos + after*jump["pose"]*np.where(np.arange(m.dof_pos.shape[1]) % 2, 1, -1))
    found = [f for f in lint_motion(bad) if f.kind == "teleport"]
    assert len(found) == 1 and found[0].where == "frames 77" and found[0].repair is None


def test_clips_joined_with_their_boundaries_are_looked_at_one_by_one():
    a, b = truth(stored=False), truth(stored=False, seed=1)
    both = concatenate([a, b], boundaries=True)
    assert lint_motion(both, BIPED) == [] and "teleport" in kinds(replace(both, starts=(0,)))
    rows = np.arange(180)//2*2
    found = lint_motion(concatenate([a, take(b, rows)], boundaries=True), BIPED)
    assert [f.where[:7] for f in found] == ["clip 1:"]
    with pytest.raises(InvalidMotion, match="split"): repair(both)


@pytest.mark.parametrize("where", ["root_lin_vel", "root_ang_vel", "body_lin_vel", "body_ang_vel"])
@pytest.mark.parametrize("frame", ["body", "heading", "turned twice"])
@pytest.mark.parametrize("heading", [0.2, 1.0, 2.5])
def test_velocities_in_another_frame(where, frame, heading):
    m = transform(truth(), heading)
    q = getattr(m, where.split("_")[0] + "_quat")
    turn = {"body": quat_conj(q), "heading": quat_conj(yaw_quat(yaw(q))), "turned twice": q}[frame]
    bad = replace(m, **{where: quat_rotate(turn, getattr(m, where))})
    found = lint_motion(bad, BIPED)
    assert [(f.kind, f.where) for f in found] == [("velocity_frame", where)]
    assert {"body": "body's own frame", "heading": "frame of the heading", "turned twice": "turned once more"}[frame] in found[0].message
    mended, done = repair(bad, found, BIPED)
    assert np.allclose(getattr(mended, where), getattr(m, where), atol=1e-9) and where in done[0] and kinds(mended) == set()


def test_a_body_frame_shows_even_on_a_straight_walk():
    "The heading is 6 degrees and the trunk nods by 17: the frames hardly differ, and still."
    m = truth(stored=False)
    t = m.times
    m = replace(m, root_quat=quat_mul(yaw_quat(0.1 + 0*t), quat_exp(np.stack([0.3*np.sin(4*t), 0.1*np.cos(7*t), 0.1*np.sin(t)], 1))))
    bad = replace(m, root_ang_vel=quat_rotate(quat_conj(m.root_quat), differences(m, "root_ang_vel")))
    assert kinds(replace(m, root_ang_vel=differences(m, "root_ang_vel"))) == set() and kinds(bad) == {"velocity_frame"}


@pytest.mark.parametrize("where", ["dof_vel", "root_lin_vel", "root_ang_vel", "body_lin_vel", "body_ang_vel"])
@pytest.mark.parametrize("scale", [0.8, 2.0, np.pi/180])
def test_velocities_of_another_scale(where, scale):
    m = truth()
    bad = replace(m, **{where: scale*getattr(m, where)})
    found = lint_motion(bad, BIPED)
    assert [(f.kind, f.where) for f in found] == [("velocity_scale", where)] and found[0].value == pytest.approx(scale, rel=1e-3)
    assert np.allclose(getattr(repair(bad, found)[0], where), getattr(m, where))


@pytest.mark.parametrize("said", [30, 50, 120])
def test_a_rate_that_contradicts_all_velocities(said):
    bad = replace(truth(), fps=said)
    found = lint_motion(bad, BIPED)
    assert [f.kind for f in found] == ["frame_rate"] and found[0].value == pytest.approx(60, rel=1e-3)
    assert repair(bad, found)[0].fps == 60 and kinds(repair(bad, found)[0]) == set()


@pytest.mark.parametrize("pairs", [1, 2, 4])
def test_joint_velocities_of_other_joints(pairs):
    m, order = truth(), np.arange(len(BIPED.joint_names))
    for i in range(pairs): order[[i, -1 - i]] = order[[-1 - i, i]]
    bad = replace(m, dof_vel=m.dof_vel[:, order])
    found = lint_motion(bad, BIPED)
    assert [f.kind for f in found] == ["velocity_order"] and found[0].value == 2*pairs
    assert np.allclose(repair(bad, found)[0].dof_vel, m.dof_vel)


@pytest.mark.parametrize("where", ["dof_vel", "root_ang_vel", "body_ang_vel", "body_lin_vel"])
@pytest.mark.parametrize("noise", [0.8, 2, 10])
def test_velocities_that_nothing_explains(where, noise):
    m = truth()
    v = getattr(m, where)
    bad = replace(m, **{where: v + noise*v.std()*np.random.default_rng(1).normal(size=v.shape)})
    found = lint_motion(bad, BIPED)
    assert [(f.kind, f.where) for f in found] == [("velocity_mismatch", where)] and kinds(repair(bad, found, BIPED)[0]) == set()
    assert kinds(replace(m, **{where: v + 0.1*v.std()*np.random.default_rng(1).normal(size=v.shape)})) == set()


@pytest.mark.parametrize("every", [2, 3])
def test_forward_differences_of_held_frames(every):
    m = take(truth(), np.arange(180)//every*every)
    bad = replace(m, dof_vel=np.diff(m.dof_pos, axis=0, append=m.dof_pos[-1:])*m.fps)
    found = lint_motion(bad, BIPED)
    assert {f.kind for f in found} == {"held_frames", "velocity_staircase"}
    mended, done = repair(bad, found, BIPED)
    assert kinds(mended) == set() and len(done) == 2
    assert np.sqrt(np.mean((mended.dof_vel - truth().dof_vel[:len(mended)])**2)) < 0.25*truth().dof_vel.std()


@pytest.mark.parametrize("time, kind, fps", [(np.arange(181)/50, "fps", 50), (np.arange(181)/61.5 + 3, "fps", 61.5), (np.arange(181)/120, "fps", 120)])
def test_time_stamps_of_another_rate(time, kind, fps):
    bad = replace(truth(stored=False), extra={"time": time})
    found = lint_motion(bad, BIPED)
    assert [f.kind for f in found] == ["time_stamps"] and found[0].value == pytest.approx(fps, rel=1e-6)
    mended, _ = repair(bad, found)
    assert mended.fps == pytest.approx(fps) and lint_motion(mended, BIPED) == [] and np.allclose(mended.dof_pos, bad.dof_pos)


@pytest.mark.parametrize("gone", [[60], [60, 61, 120], list(range(60, 75))])
def test_dropped_frames(gone):
    m = replace(truth(stored=False), extra={"timestamp": np.arange(181)/60})
    bad = take(m, np.setdiff1d(np.arange(181), gone))
    found = [f for f in lint_motion(bad, BIPED) if f.kind == "time_stamps"]
    assert len(found) == 1 and "dropped" in found[0].message
    mended, _ = repair(bad, found)
    assert len(mended) == 181 and np.abs(mended.dof_pos - m.dof_pos).max() < 0.02*len(gone)**2
    back = replace(m, extra={"timestamp": np.r_[np.arange(90), np.arange(80, 171)]/60})
    assert [(f.kind, f.repair) for f in lint_motion(back, BIPED)] == [("time_stamps", None)]


@pytest.mark.parametrize("how", ["swap", "sides", "levels"])
def test_joint_columns_of_other_joints(how):
    "Proved by stored poses; without them the ranges are asked."
    m, names = truth(), list(BIPED.joint_names)
    side = [names.index(n.replace("left", "L").replace("right", "left").replace("L", "right")) for n in names]
    order = {"swap": [3, 1, 2, 0, *range(4, len(names))], "sides": side, "levels": list(breadth_first(BIPED))}[how]
    bad = replace(m, dof_pos=m.dof_pos[:, order], dof_vel=m.dof_vel[:, order])
    found = lint_motion(bad, BIPED)
    assert [f.kind for f in found] == ["joint_order"] and found[0].severity == "error"
    mended, done = repair(bad, found, BIPED)
    assert np.allclose(mended.dof_pos, m.dof_pos) and np.allclose(mended.dof_vel, m.dof_vel) and kinds(mended) == set()
    with pytest.raises(RobotError, match="robot=NAME"): repair(bad, found)


@needs_g1
@pytest.mark.parametrize("how", ["levels", "sides", "degrees"])
def test_joint_order_and_unit_by_ranges(how):
    g1 = load_robot("unitree_g1")
    low, high = g1.joint_range.T
    t, names = np.arange(120)/50, list(g1.joint_names)
    dof = (low + high)/2 + 0.45*(high - low)*np.sin(3*t[:, None] + np.arange(29))
    side = [names.index(n.replace("left", "L").replace("right", "left").replace("L", "right")) for n in names]
    m = Motion(50, np.zeros((120, 3)) + [0, 0, .8], np.tile([1., 0, 0, 0], (120, 1)), dof, g1.joint_names, "unitree_g1")
    assert kinds(m, g1) == set()
    bad = {"levels": dof[:, breadth_first(g1)], "sides": dof[:, side], "degrees": np.degrees(dof)}[how]
    found = [f for f in lint_motion(replace(m, dof_pos=bad), g1) if f.kind.startswith("joint")]
    assert [f.severity for f in found] == ["warning"] and {"levels": "IsaacLab's order", "sides": "left and right", "degrees": "degrees"}[how] in found[0].message


def test_joints_of_another_robot():
    found = lint_motion(replace(truth(stored=False), joint_names=("elbow", *BIPED.joint_names[1:])), BIPED)
    assert [f.kind for f in found] == ["joint_names"] and "elbow" in found[0].message


@pytest.mark.parametrize("far", [0.05, 0.3, 2.0])
def test_body_poses_that_contradict_the_angles(far):
    m = truth()
    t, last = m.times, len(BIPED.joint_names) - 1
    moved = m.dof_pos.copy()
    moved[:, :4] += far*np.sin(5*t[:, None] + np.arange(4)) + far
    pos, quat = forward_kinematics(BIPED.tree, m.root_pos, m.root_quat, moved)
    bad = replace(m, body_pos=pos, body_quat=quat, body_lin_vel=None, body_ang_vel=None)
    found = lint_motion(bad, BIPED)
    assert [f.kind for f in found] == ["body_pose"] and found[0].repair is None
    longer = m.root_pos[:, None] + 1.2*(m.body_pos - m.root_pos[:, None])
    found = lint_motion(replace(m, body_pos=longer, body_lin_vel=None), BIPED)
    assert [(f.kind, f.severity) for f in found] == [("body_pose", "warning")] and "link lengths" in found[0].message


BALLS = """<mujoco><worldbody><body name="trunk" pos="0 0 1"><freejoint/><geom size=".1"/>
  <body name="left_hip" pos="0 .1 -.1"><joint name="lx" axis="1 0 0"/><joint name="ly" axis="0 1 0"/><joint name="lz" axis="0 0 1"/><geom size=".05"/>
    <body name="left_shin" pos="0 0 -.4"><joint name="lk" axis="0 1 0"/><geom type="box" size=".1 .04 .02" pos="0 0 -.4"/></body></body>
  <body name="right_hip" pos="0 -.1 -.1"><joint name="rx" axis="1 0 0"/><joint name="ry" axis="0 1 0"/><joint name="rz" axis="0 0 1"/><geom size=".05"/>
    <body name="right_shin" pos="0 0 -.4"><joint name="rk" axis="0 1 0"/><geom type="box" size=".1 .04 .02" pos="0 0 -.4"/></body></body></body></worldbody></mujoco>"""


@pytest.mark.parametrize("size", [0.3, 0.6, 1.0])
def test_rotation_vectors_where_angles_belong(tmp_path, size):
    (tmp_path/"balls.xml").write_text(BALLS)
    robot = load_robot(tmp_path/"balls.xml")
    t = np.arange(90)/30
    vectors = size*np.sin(2*t[:, None] + np.arange(8))
    dof = from_exp_map(robot.tree, vectors)
    pos, quat = forward_kinematics(robot.tree, np.zeros((90, 3)), np.tile([1., 0, 0, 0], (90, 1)), dof)
    hips = [robot.body_names.index(n) for n in ("left_hip", "right_hip")]
    assert np.allclose(quat_log(quat[:, hips]).reshape(90, -1), vectors[:, [0, 1, 2, 4, 5, 6]])
    true = Motion(30, np.zeros((90, 3)), np.tile([1., 0, 0, 0], (90, 1)), dof, robot.joint_names, "balls", body_pos=pos, body_quat=quat, body_names=robot.body_names)
    bad = replace(true, dof_pos=vectors, dof_vel=np.gradient(vectors, axis=0)*30)
    assert kinds(true, robot) == set()
    found = lint_motion(bad, robot)
    assert [f.kind for f in found] == ["exp_map"]
    mended, done = repair(bad, found, robot)
    assert np.allclose(mended.dof_pos, dof) and kinds(mended, robot) == set() and "joint velocities computed anew" in done[0]
    assert np.allclose(repair(bad, ["exp_map"], robot)[0].dof_pos, dof)              # on request, without a finding
    with pytest.raises(RobotError): repair(bad, found)


def test_several_defects_at_once_and_the_registry():
    m = take(truth(), np.arange(180)//2*2)
    sign = np.where(np.arange(len(m))[:, None] % 30 > 14, -1, 1)
    bad = replace(m, root_quat=m.root_quat*sign, root_ang_vel=quat_rotate(quat_conj(m.root_quat), truth().root_ang_vel[:180]), dof_vel=2*truth().dof_vel[:180])
    assert kinds(bad) == {"held_frames", "quat_flips", "velocity_frame", "velocity_scale"}
    mended, done = repair(bad, robot=BIPED)
    assert kinds(mended) == set() and [d.split(":")[0] for d in done] == ["held_frames", "flips", "velocity_frame", "velocities"]
    assert [s["repair"] for s in mended.source["steps"]] == [d.split(":")[0] for d in done] and bad.source["steps"] == []
    with pytest.raises(ConfigError, match="there are time_stamps"): repair(bad, ["polish"])
    register_repair("polish", lambda motion, findings, robot: (motion, "polished"))
    try: assert repair(m, ["polish"])[1] == ["polish: polished"]
    finally: del _REPAIRS["polish"]
    assert all(r.about for r in repairs()) and all(f.kind in KINDS for f in lint_motion(bad, BIPED))


def test_clean_clips_of_our_own(tmp_path):
    for name, human in bundled_clips().items(): assert lint_motion(human) == [], name
    from motionbench.retarget.clip import retarget_many
    for name, m in zip(bundled_clips(), retarget_many(list(bundled_clips().values()), BIPED)):
        assert lint_motion(m, BIPED) == [], name
        write_npz(m, tmp_path/"clip.npz")
        assert lint_file(tmp_path/"clip.npz", BIPED) == []
    held = take(bundled_clips()["walk"], np.arange(60)//2*2)
    assert [f.kind for f in lint_motion(held)] == ["held_frames"] and kinds(repair(held)[0], None) == set()


@pytest.fixture(scope="module")
def humanoid():
    "The model that the IsaacLab clips belong to; its floor names a material that is not in the file."
    return load_robot(DATA/"robot_motion/isaaclab_amp/amp_humanoid.xml")


@needs_data
@pytest.mark.parametrize("name, worst", [("walk", 0.15), ("run", 0.05)])
def test_isaaclab_clips(humanoid, name, worst):
    "Published defects: 30 Hz held to 60, joint velocities that alternate, rotation vectors in the columns of hinges."
    path = DATA/f"robot_motion/isaaclab_amp/humanoid_{name}.npz"
    found = lint_file(path, humanoid)
    assert [f.kind for f in found] == ["held_frames", "velocity_staircase", "exp_map"] and all(f.severity == "error" for f in found)
    assert found[0].value == 0.5 and "probably 30 fps" in found[0].message and found[2].value == pytest.approx(worst, abs=0.01)
    from motionbench.io.registry import read_motion
    m = read_motion(path)
    mended, done = repair(m, found, humanoid)
    assert lint_motion(mended, humanoid) == [] and len(done) == 3
    exact = repair(m, ["exp_map"], humanoid)[0]
    names, far, angle = pose_errors(humanoid, exact, exact.dof_pos[:, humanoid.joint_order(exact.joint_names)])
    assert len(names) == 15 and far.max() < 5e-4 and angle.max() < 2e-3


@needs_data
@needs_g1
def test_published_clip_with_velocities_turned_twice():
    "The pelvis of sub3_largebox: a world angular velocity that was taken for one in the body's frame."
    path = DATA/"robot_motion/beyondmimic/sub3_largebox_003_mj.npz"
    found = {f.where: f for f in lint_file(path, "unitree_g1")}
    assert {w: f.kind for w, f in found.items() if w.startswith("body")} == {"body_ang_vel": "velocity_mismatch", "body_lin_vel": "velocity_mismatch"}
    assert "pelvis by a world velocity that was turned once more" in found["body_ang_vel"].message
    from motionbench.io.registry import read_motion
    m = read_motion(path)
    mended, done = repair(m, list(found.values()))
    assert lint_motion(mended, "unitree_g1") == [] and "computed anew" in done[-1]
    i = m.body_names.index("pelvis")
    rooted = replace(m, root_ang_vel=m.body_ang_vel[:, i], body_ang_vel=None, body_lin_vel=None)
    found = lint_motion(rooted)
    assert [f.kind for f in found] == ["velocity_frame"] and found[0].value == pytest.approx(1.264, abs=0.01)
    turned = repair(rooted, found)[0].root_ang_vel
    assert np.abs(turned - differences(m, "root_ang_vel"))[1:-1].max() < 0.05


@needs_data
@needs_g1
@pytest.mark.parametrize("path, options", [
    ("protomotions/g1_crouch_to_run.motion", {}), ("protomotions/output_jumpjack.motion", {}), ("protomotions/output_jumpjack.csv", dict(quat_order="wxyz", fps=30)),
    ("kimodo_csv/kimodo_walk.csv", dict(quat_order="wxyz", fps=30)), ("kimodo_csv/kimodo_jumpjack.csv", dict(quat_order="wxyz", fps=30)),
    ("unitree_csv/G1_Take_102.bvh_60hz.csv", dict(quat_order="xyzw", fps=60)), ("../gmr/cmu_01_01_jump__unitree_g1.pkl", {})])
def test_clean_published_clips(path, options):
    assert lint_file(DATA/"robot_motion"/path, "unitree_g1", **options) == []


@needs_data
def test_clean_mocap():
    for path in sorted([*DATA.glob("mocap/*/*.bvh"), *DATA.glob("mocap/amass*/*.npz")]): assert lint_file(path) == [], path.name
    with pytest.raises(MotionFormatError): lint_file(DATA/"README.md")


@needs_data
def test_a_t_pose_before_the_clip():
    "The golden whose frame 0 is a T-pose."
    found = lint_file(DATA/"gmr/cmu_01_01_jump_tposeframe0_human.npz")
    assert [(f.kind, f.where) for f in found] == [("teleport", "frames 1")] and lint_file(DATA/"gmr/cmu_01_01_jump_human.npz") == []


@needs_data
def test_a_clip_without_a_rate_is_given_away_by_its_velocities():
    "The loco-mujoco file states no rate. Taken as 100 Hz, its velocities say 500."
    found = lint_file(DATA/"robot_motion/locomujoco_v0/02-constspeed_UnitreeG1.npz", fps=100)
    assert [f.kind for f in found] == ["frame_rate"] and found[0].value == pytest.approx(500, rel=0.01)
    assert lint_file(DATA/"robot_motion/locomujoco_v0/02-constspeed_UnitreeG1.npz", fps=500) == []
