"Core types against MuJoCo and under random clips."
import os

import mujoco
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from motionbench.core.contacts import sole_contacts
from motionbench.core.errors import ConfigError, InvalidMotion, RobotError
from motionbench.core.kinematics import forward_kinematics, sole_positions
from motionbench.core.motion import HumanMotion, Motion, concatenate, transform
from motionbench.core.robot import available_robots, load_robot
from motionbench.core.rotation import quat_exp, quat_log, quat_mul, quat_rotate, quat_to_matrix, yaw

LOCAL = [r["name"] for r in available_robots() if r["where"] != "download"]


def random_motion(robot, frames=12, seed=0, fps=30):
    rng = np.random.default_rng(seed)
    quat = quat_exp(np.cumsum(rng.normal(size=(frames, 3))*0.2, 0))
    lo, hi = np.clip(robot.joint_range, -2, 2).T
    return Motion(fps, np.cumsum(rng.normal(size=(frames, 3))*0.02, 0), quat, rng.uniform(lo, hi, (frames, len(lo))), robot.joint_names, robot.name)


@pytest.mark.parametrize("name", LOCAL)
def test_kinematics_equals_mujoco(name):
    robot = load_robot(name)
    motion = random_motion(robot)
    pos, quat = forward_kinematics(robot.tree, motion.root_pos, motion.root_quat, motion.dof_pos)
    data = mujoco.MjData(robot.model)
    for t, q in enumerate(robot.qpos(motion)):
        data.qpos[:] = q
        mujoco.mj_kinematics(robot.model, data)
        assert np.abs(pos[t] - data.xpos[1:]).max() < 1e-9
        assert np.abs(quat_to_matrix(quat[t]) - data.xmat[1:].reshape(-1, 3, 3)).max() < 1e-9


def test_kinematics_in_torch_matches_and_differentiates():
    robot = load_robot("biped")
    motion = random_motion(robot)
    dof = torch.tensor(motion.dof_pos, requires_grad=True)
    pos, _ = forward_kinematics(robot.tree, torch.tensor(motion.root_pos), torch.tensor(motion.root_quat), dof)
    expected, _ = forward_kinematics(robot.tree, motion.root_pos, motion.root_quat, motion.dof_pos)
    assert np.allclose(pos.detach().numpy(), expected)
    assert torch.autograd.gradcheck(lambda x: forward_kinematics(robot.tree, torch.tensor(motion.root_pos[:1]), torch.tensor(motion.root_quat[:1]), x)[0], dof[:1].detach().requires_grad_())


@pytest.mark.parametrize("name", LOCAL)
def test_mirrored_pose_is_the_mirror_image(name):
    robot = load_robot(name)
    if robot.mirror is None: pytest.skip(f"{name} is not symmetric")
    order, sign = robot.mirror
    motion, data = random_motion(robot, seed=1), mujoco.MjData(robot.model)
    joints = [robot.model.joint(n).id for n in robot.joint_names]

    def lines(dof):
        data.qpos[robot.tree.qpos_adr] = dof
        mujoco.mj_kinematics(robot.model, data)
        return data.xanchor[joints].copy(), data.xaxis[joints].copy()

    data.qpos[robot.tree.free_qpos_adr:][:7] = [0, 0, 0, 1, 0, 0, 0]
    for dof in motion.dof_pos:
        (p, a), (q, b) = lines(dof), lines(sign*dof[order])
        assert np.linalg.norm(np.cross(p*[1, -1, 1] - q[order], b[order]), axis=1).max() < 0.03
        assert np.abs((a*[-1, 1, -1]*b[order]).sum(1)).min() > 0.99


@pytest.mark.parametrize("name", LOCAL)
def test_soles_stand_on_the_ground_as_drawn(name):
    robot = load_robot(name)
    assert [f.side for f in robot.feet] == ["left", "right"]
    still = robot.motion(np.tile(robot.model.qpos0, (2, 1)), fps=30)
    lowest = [p[0, :, 2].min() for p in sole_positions(robot, still).values()]
    assert abs(lowest[0] - lowest[1]) < 0.005
    data = mujoco.MjData(robot.model)
    mujoco.mj_kinematics(robot.model, data)
    assert all(f.toe.any() and (~f.toe).any() for f in robot.feet)
    assert min(lowest) < data.xpos[1:, 2].min() + 1e-6


def test_menagerie_limits_are_read():
    g1 = load_robot("unitree_g1")
    knee = g1.joint_names.index("left_knee_joint")
    assert g1.effort_limit[knee] == 139 and g1.velocity_limit[knee] == 20
    assert np.allclose(g1.joint_range[knee], g1.model.joint("left_knee_joint").range)
    assert load_robot("unitree_h1").effort_limit[0] == 200        # plain torque motors: control range
    assert load_robot("apptronik_apollo").velocity_limit is None   # nobody has stated any


def test_urdf_gets_a_floating_base_and_its_velocity_limits(tmp_path):
    link = lambda n, z: f'<link name="{n}"><inertial><mass value="1"/><inertia ixx="1" iyy="1" izz="1" ixy="0" ixz="0" iyz="0"/></inertial><collision><origin xyz="0 0 {z}"/><geometry><box size=".2 .1 .02"/></geometry></collision></link>'
    joint = lambda side, y: f'<joint name="{side}_hip" type="revolute"><parent link="base"/><child link="{side}_leg"/><origin xyz="0 {y} 0"/><axis xyz="0 1 0"/><limit lower="-1" upper="1" effort="7" velocity="9"/></joint>'
    (tmp_path/"toy.urdf").write_text(f'<robot name="toy">{link("base", 0)}{link("left_leg", -.5)}{link("right_leg", -.5)}{joint("left", .1)}{joint("right", -.1)}</robot>')
    robot = load_robot(tmp_path/"toy.urdf")
    assert robot.joint_names == ("left_hip", "right_hip") and robot.root_body == "base"
    assert np.array_equal(robot.velocity_limit, [9, 9]) and np.array_equal(robot.effort_limit, [7, 7])


@pytest.mark.parametrize("xml, words", [
    ("<mujoco><worldbody><body><joint/><geom size='1'/></body></worldbody></mujoco>", "0 free joints"),
    ("<mujoco><worldbody><body><freejoint/><geom size='1'/><body><joint type='ball'/><geom size='1'/></body></body></worldbody></mujoco>", "ball joint"),
    ("<mujoco><nonsense/></mujoco>", "cannot compile")])
def test_unusable_models_say_why(tmp_path, xml, words):
    (tmp_path/"bad.xml").write_text(xml)
    with pytest.raises(RobotError, match=words): load_robot(tmp_path/"bad.xml")


def test_robot_config_must_fit_the_model(tmp_path):
    (tmp_path/"c.yaml").write_text("actuators: {joints: [left_hip_pitch, third_arm]}")
    with pytest.raises(ConfigError, match="third_arm"): load_robot("biped", config=tmp_path/"c.yaml")
    (tmp_path/"c.yaml").write_text("robot_name: x")
    with pytest.raises(ConfigError, match="actuators.joints"): load_robot("biped", config=tmp_path/"c.yaml")


def test_menagerie_root_is_searched(tmp_path, monkeypatch):
    folder = tmp_path/"acme_strider"
    folder.mkdir()
    (folder/"strider.xml").write_text(load_robot("biped").path.read_text())
    monkeypatch.setenv("MENAGERIE_ROOT", os.fspath(tmp_path))
    assert load_robot("acme_strider").joint_names == load_robot("biped").joint_names
    assert any(r["name"] == "acme_strider" for r in available_robots())


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 60), st.sampled_from([24, 25, 29.97, 30, 60, 100, 120]), st.sampled_from([20, 24, 30, 50, 60, 100]), st.integers(0, 99))
def test_resampling_keeps_the_time_base(frames, fps, target, seed):
    motion = random_motion(load_robot("biped"), frames, seed, fps)
    new = motion.resample(target)
    assert new.fps == target and new.duration <= motion.duration + 1e-9 and motion.duration - new.duration < 1/target
    t = np.arange(len(new))/target
    for j in range(3): assert np.allclose(new.root_pos[:, j], np.interp(t, motion.times, motion.root_pos[:, j]), atol=1e-9)
    assert np.allclose(np.linalg.norm(new.root_quat, axis=1), 1)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 40), st.sampled_from([24, 29.97, 30, 50, 120]), st.integers(0, 99))
def test_twice_the_rate_and_back_is_the_original(frames, fps, seed):
    motion = random_motion(load_robot("biped"), frames, seed, fps)
    back = motion.resample(2*fps).resample(fps)
    assert len(back) == len(motion) and back.fps == motion.fps
    assert np.abs(back.dof_pos - motion.dof_pos).max() < 1e-9
    assert np.abs(quat_log(quat_mul(back.root_quat*[1, -1, -1, -1], motion.root_quat))).max() < 1e-9


@settings(max_examples=20, deadline=None)
@given(st.floats(-3, 3), st.integers(0, 99))
def test_velocities_turn_with_the_clip(angle, seed):
    motion = random_motion(load_robot("biped"), 20, seed)
    a, b = motion.velocities(), transform(motion, angle, (1, 2, 3)).velocities()
    turn = quat_exp(np.array([0, 0, angle]))
    assert np.allclose(quat_rotate(turn, a.root_lin_vel), b.root_lin_vel) and np.allclose(quat_rotate(turn, a.root_ang_vel), b.root_ang_vel)
    assert np.allclose(a.dof_vel, b.dof_vel)


def test_angular_velocity_equals_mujoco():
    robot = load_robot("biped")
    motion = random_motion(robot, 30)
    ang, q, dq = motion.velocities().root_ang_vel, robot.qpos(motion), np.zeros(robot.model.nv)
    for t in range(1, 29):
        mujoco.mj_differentiatePos(robot.model, dq, 2/30, q[t-1], q[t+1])      # body frame of the earlier pose
        assert np.allclose(quat_rotate(motion.root_quat[t-1], dq[3:6]), ang[t], atol=1e-9)


def test_joint_order_is_by_name():
    robot = load_robot("biped")
    motion = random_motion(robot)
    order = np.random.default_rng(2).permutation(len(robot.joint_names))
    shuffled = Motion(motion.fps, motion.root_pos, motion.root_quat, motion.dof_pos[:, order], [robot.joint_names[i] for i in order], robot.name)
    assert np.array_equal(robot.qpos(shuffled), robot.qpos(motion))
    wrong = Motion(motion.fps, motion.root_pos, motion.root_quat, motion.dof_pos[:, 1:], robot.joint_names[1:], robot.name)
    with pytest.raises(RobotError, match=f"missing {robot.joint_names[0]}"): robot.qpos(wrong)


def test_concatenation_needs_boundaries_and_keeps_them():
    robot = load_robot("biped")
    a, b = random_motion(robot, 10, 1), random_motion(robot, 7, 2)
    with pytest.raises(InvalidMotion, match="boundaries"): concatenate([a, b])
    both = concatenate([a, b], boundaries=True)
    assert np.array_equal(both.velocities().dof_vel, np.concatenate([a.velocities().dof_vel, b.velocities().dof_vel]))
    assert np.array_equal(both.split()[1].dof_pos, b.dof_pos)
    with pytest.raises(InvalidMotion, match="split"): both.resample(60)
    with pytest.raises(InvalidMotion, match="fps"): concatenate([a, b.resample(60)], boundaries=True)
    with pytest.raises(InvalidMotion, match="no clips"): concatenate([], boundaries=True)
    assert both.cut(4).starts == (0, 6) and both.cut(12).starts == (0,) and len(both.cut(4).split()[0]) == 6


@pytest.mark.parametrize("fps", [0, -1, np.nan, np.inf, "fast"])
def test_a_rate_is_finite_and_positive(fps):
    with pytest.raises(InvalidMotion, match="fps is"): random_motion(load_robot("biped")).resample(fps)


def test_long_clips_are_not_snapped_to_frames():
    "At 300 000 frames the index of a new frame is still interpolated, not rounded."
    t = np.arange(300_000)/30
    clip = Motion(30, np.stack([t, 0*t, 0*t], 1), np.tile([1., 0, 0, 0], (len(t), 1)), np.zeros((len(t), 0)), (), "toy").resample(30.00001)
    assert np.abs(clip.root_pos[:, 0] - clip.times).max() < 1e-9


def test_a_point_foot_is_toe_and_heel():
    from types import SimpleNamespace
    robot = SimpleNamespace(feet=[SimpleNamespace(side=s, toe=np.array([False])) for s in ("left", "right")])
    down, up = np.zeros((4, 1, 3)), np.tile([0, 0, .3], (4, 1, 1))
    assert np.array_equal(sole_contacts(robot, dict(left=down, right=up), 30)[0], [True, True, False, False])


def test_stored_velocities_stay_apart():
    motion = random_motion(load_robot("biped"))
    stored = Motion(motion.fps, motion.root_pos, motion.root_quat, motion.dof_pos, motion.joint_names, motion.robot, dof_vel=motion.dof_pos*0 + 7)
    assert (stored.dof_vel == 7).all() and not np.allclose(stored.velocities().dof_vel, 7) and motion.dof_vel is None


@pytest.mark.parametrize("change, words", [
    (dict(fps=0), "fps is 0"), (dict(fps=float("nan")), "fps is nan"), (dict(root_pos=np.zeros((0, 3))), "no frames"),
    (dict(dof_pos=np.zeros((5, 3))), "dof_pos has shape"), (dict(root_quat=np.zeros((5, 4))), "norm 0 at frame 0"),
    (dict(joint_names=("a", "a")), "a more than once"), (dict(contacts=np.zeros((5, 1))), "without contact_names"),
    (dict(contacts=np.full((5, 1), .5), contact_names=("toe",)), "not all true or false"), (dict(torque=np.full((5, 2), np.inf)), "torque is inf at frame 0"),
    (dict(root_pos=[["x", "y", "z"]]*5), "root_pos is not numeric"), (dict(fps="fast"), "fps is fast"), (dict(starts=(0, 9)), "starts is \\(0, 9\\)"),
    (dict(starts=(3, 2)), "rising frame numbers"), (dict(source={"steps": 5}), "steps is no list"), (dict(extra=5), "extra is a int")])
def test_the_gate_names_what_is_wrong(change, words):
    good = dict(fps=30, root_pos=np.zeros((5, 3)), root_quat=np.tile([1., 0, 0, 0], (5, 1)), dof_pos=np.zeros((5, 2)), joint_names=("a", "b"), robot="toy")
    Motion(**good)
    with pytest.raises(InvalidMotion, match=words): Motion(**{**good, **change})


def test_a_single_frame_has_no_velocity():
    with pytest.raises(InvalidMotion, match="at least two frames"): random_motion(load_robot("biped"), 1).velocities()


def test_a_human_of_the_wrong_unit_is_refused():
    with pytest.raises(InvalidMotion, match="unit"): HumanMotion(30, np.zeros((2, 1, 3)), np.tile([1., 0, 0, 0], (2, 1, 1)), ("pelvis",), (-1,), height=175.)


@pytest.mark.parametrize("parents", [("a",), 5, (7,), (-2,)])
def test_parents_are_indices(parents):
    with pytest.raises(InvalidMotion, match="parents"): HumanMotion(30, np.zeros((2, 1, 3)), np.tile([1., 0, 0, 0], (2, 1, 1)), ("pelvis",), parents, height=1.7)


def test_yaw_ignores_roll():
    q = quat_mul(quat_exp(np.array([0, 0, 1.2])), quat_exp(np.array([0.5, 0, 0])))
    assert np.isclose(yaw(q), 1.2)


@pytest.mark.parametrize("name", LOCAL)
def test_soles_reach_as_low_as_every_vertex_of_the_foot(name):
    robot, rng = load_robot(name), np.random.default_rng(0)
    data = mujoco.MjData(robot.model)
    mujoco.mj_kinematics(robot.model, data)
    tilt, turn = np.radians(rng.uniform(0, 40, 200)), rng.uniform(0, 2*np.pi, 200)
    down = np.stack([np.sin(tilt)*np.cos(turn), np.sin(tilt)*np.sin(turn), -np.cos(tilt)])
    for foot in robot.feet:
        body = robot.model.body(foot.body).id
        sole = data.xpos[body] + foot.points @ data.xmat[body].reshape(3, 3).T
        assert len(sole) <= 12
        for g in np.flatnonzero((robot.model.geom_bodyid == body) & (robot.model.geom_type == int(mujoco.mjtGeom.mjGEOM_MESH))):
            k = robot.model.geom_dataid[g]
            mesh = robot.model.mesh_vert[robot.model.mesh_vertadr[k]:][:robot.model.mesh_vertnum[k]]
            mesh = data.geom_xpos[g] + mesh @ data.geom_xmat[g].reshape(3, 3).T
            assert ((mesh @ down).max(0) - (sole @ down).max(0)).max() < 0.003, foot.body
