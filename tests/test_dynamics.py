"Torques from a motion: against pinocchio, against statics by hand, against non-negative least squares, and what must not change them."
import os
from dataclasses import replace
from pathlib import Path

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.optimize import nnls
from scipy.spatial.transform import Rotation

from motionbench.core.errors import ConfigError, InvalidMotion, RobotError
from motionbench.core.gait import bundled_clips
from motionbench.core.motion import Motion, concatenate, transform
from motionbench.core.robot import load_robot
from motionbench.core.rotation import quat_conj, quat_log, quat_mul, yaw_quat
from motionbench.io.registry import read_motion
from motionbench.physics.cone import cone_forces, nearest_in_cone
from motionbench.physics.consistency import consistency, effort_ratio, friction_used
from motionbench.physics.dynamics import PARTS, differentiate, generalized, inverse_dynamics
from motionbench.physics.environment import rest_state
from motionbench.physics.ground import Ground, body_scale, torque_from_motion
from motionbench.physics.simulation import Simulation
from motionbench.retarget.clip import retarget_many

DATA = Path(os.environ.get("MOTIONBENCH_TEST_DATA", Path(__file__).parents[1]/"../shared/data"))/"robot_motion"
ROBOTS = ("biped", "unitree_g1")
HIP = dict(left=-0.5, right=0.5)     # the biped's hips turn opposite ways


@pytest.fixture(scope="module")
def robots(): return {n: load_robot(n) for n in ROBOTS}


@pytest.fixture(scope="module")
def clips():
    names, bundled = ("walk", "squat", "stand"), bundled_clips()
    return {(r, n): m for r in ROBOTS for n, m in zip(names, retarget_many([bundled[n] for n in names], r))}


def crouch(robot, bend, frames=12):
    "The biped at rest with bent knees, thighs and shanks alike, soles flat on the floor."
    q = np.tile(robot.model.qpos0, (frames, 1))
    for side in ("left", "right"):
        for joint, share in (("hip_pitch", HIP[side]), ("knee_pitch", 1), ("ankle_pitch", -0.5)): q[:, robot.tree.qpos_adr[robot.joint_names.index(f"{side}_{joint}")]] = share*bend
    low = inverse_dynamics(robot.motion(q, 30), robot, soles=True).point_pos[..., 2].min()
    q[:, 2] -= low
    return robot.motion(q, 30)


def loaded(robot, mass):
    "The robot with so many kilograms more at the centre of mass of its torso."
    model = mujoco.MjModel.from_xml_path(str(robot.path))
    model.body_mass[model.body("torso").id] += mass
    mujoco.mj_setConst(model, mujoco.MjData(model))
    return replace(robot, model=model)


# ---- against pinocchio

def pinocchio_model(path):
    "Read by pinocchio's own parser of MJCF; the file must hold one robot."
    pin = pytest.importorskip("pinocchio", reason="the PyPI package pin is not installed")
    return pin, pin.buildModelFromMJCF(str(path))


@pytest.mark.parametrize("name", ROBOTS)
@pytest.mark.parametrize("clip", ["walk", "squat"])
def test_pinocchio_says_the_same(robots, clips, name, clip):
    robot, motion = robots[name], clips[name, clip]
    pin, model = pinocchio_model(robot.path)
    assert model.nv == robot.model.nv and np.isclose(sum(i.mass for i in model.inertias), robot.model.body_mass.sum())
    assert np.array_equal(model.gravity.linear, robot.model.opt.gravity)
    model.armature[:] = 0
    found, data = inverse_dynamics(motion, robot, include=()), model.createData()
    c, joints = found.course, [model.joints[model.getJointId(n)] for n in motion.joint_names]
    at_q, at_v = [j.idx_q for j in joints], [j.idx_v for j in joints]
    for t in range(len(motion)):
        R = Rotation.from_quat(c.motion.root_quat[t], scalar_first=True).as_matrix()
        q, v, a = np.zeros(model.nq), np.zeros(model.nv), np.zeros(model.nv)
        q[:3], q[3:7], q[at_q] = c.motion.root_pos[t], np.roll(c.motion.root_quat[t], -1), c.motion.dof_pos[t]
        v[:3], v[3:6], v[at_v] = R.T @ c.root_lin_vel[t], c.root_ang_vel[t], c.dof_vel[t]
        a[:3], a[3:6], a[at_v] = R.T @ c.root_lin_acc[t] - np.cross(v[3:6], v[:3]), c.root_ang_acc[t], c.dof_acc[t]     # pinocchio's is the body's spatial acceleration
        tau = pin.rnea(model, data, q, v, a)
        assert np.abs(tau[at_v] - found.torque[t]).max() < 1e-9
        assert np.abs(R @ tau[:3] - found.root_force[t]).max() < 1e-9 and np.abs(R @ tau[3:6] - found.root_moment[t]).max() < 1e-9


@pytest.mark.parametrize("name", ROBOTS)
def test_pinocchio_says_the_same_with_ground_forces(robots, clips, name):
    "Its RNEA with the forces at the feet as external ones: the root is left with the residual, the joints with the torque."
    robot, motion = robots[name], clips[name, "walk"]
    pin, model = pinocchio_model(robot.path)
    r, c = torque_from_motion(motion, robot, include=("armature",)), inverse_dynamics(motion, robot, include=()).course
    data, joints = model.createData(), [model.joints[model.getJointId(n)] for n in motion.joint_names]
    at_q, at_v = [j.idx_q for j in joints], [j.idx_v for j in joints]
    feet = [model.frames[model.getFrameId(f.body, pin.FrameType.BODY)].parentJoint for f in robot.feet]
    for t in range(0, len(motion), 5):
        R = Rotation.from_quat(c.motion.root_quat[t], scalar_first=True).as_matrix()
        q, v, a = np.zeros(model.nq), np.zeros(model.nv), np.zeros(model.nv)
        q[:3], q[3:7], q[at_q] = c.motion.root_pos[t], np.roll(c.motion.root_quat[t], -1), c.motion.dof_pos[t]
        v[:3], v[3:6], v[at_v] = R.T @ c.root_lin_vel[t], c.root_ang_vel[t], c.dof_vel[t]
        a[:3], a[3:6], a[at_v] = R.T @ c.root_lin_acc[t] - np.cross(v[3:6], v[:3]), c.root_ang_acc[t], c.dof_acc[t]
        pin.forwardKinematics(model, data, q)
        outside = [pin.Force.Zero() for _ in range(model.njoints)]
        for k, j in enumerate(feet):
            f, p = r.point_force[t, r.point_foot == k], r.point_pos[t, r.point_foot == k]
            outside[j] = data.oMi[j].actInv(pin.Force(f.sum(0), np.cross(p, f).sum(0)))
        tau = pin.rnea(model, data, q, v, a, outside)
        assert np.abs(tau[at_v] - r.torque[t]).max() < 1e-9
        assert np.abs(R @ tau[:3] - r.root_force[t]).max() < 1e-9 and np.abs(R @ tau[3:6] - r.root_moment[t]).max() < 1e-9


def test_all_parts_are_those_of_mujoco(robots, clips):
    "Against `mj_inverse` without constraints, for a joint spring and damping put into the model; dry friction by its formula."
    robot = robots["biped"]
    model = mujoco.MjModel.from_xml_path(str(robot.path))
    model.jnt_stiffness[1:], model.qpos_spring[7:], model.opt.disableflags = 30, 0.1, model.opt.disableflags | int(mujoco.mjtDisableBit.mjDSBL_CONSTRAINT)
    springy, data, motion = replace(robot, model=model), mujoco.MjData(model), clips["biped", "walk"]
    found, bare = inverse_dynamics(motion, springy), inverse_dynamics(motion, springy, include=("armature", "damping", "springs"))
    q, v, a = generalized(found.course, springy)
    for t in range(0, len(motion), 7):
        data.qpos, data.qvel, data.qacc = q[t], v[t], a[t]
        mujoco.mj_inverse(model, data)
        assert np.abs(data.qfrc_inverse[6:] - bare.torque[t]).max() < 1e-10
    assert np.allclose(found.torque - bare.torque, model.dof_frictionloss[6:]*np.tanh(v[:, 6:]/0.05)) and np.abs(found.torque - bare.torque).max() > 0.09
    assert np.allclose(bare.torque - inverse_dynamics(motion, springy, include=("armature", "damping")).torque, 30*(found.course.motion.dof_pos - 0.1))


# ---- filter and derivatives

@pytest.mark.parametrize("fps, cutoff", [(60, 6.0), (30, 6.0), (120, 12.0), (50, 20.0)])
def test_half_the_power_at_the_cutoff_and_no_delay(robots, fps, cutoff):
    "For positions, joints and orientations alike; the differences' own error is that of fourth order."
    t, robot = np.arange(20*fps)/fps, robots["biped"]
    wave, small = np.sin(2*np.pi*cutoff*t + 0.4), 0.01
    q = np.tile(robot.model.qpos0, (len(t), 1))
    q[:, 0], q[:, 7], q[:, 3:7] = small*wave, small*wave, np.stack([np.cos(small*wave/2), np.sin(small*wave/2), 0*t, 0*t], 1)
    clean, mid = differentiate(robot.motion(q, fps), cutoff), slice(5*fps, -5*fps)
    for x in (clean.motion.root_pos[:, 0], clean.motion.dof_pos[:, 0], quat_log(clean.motion.root_quat)[:, 0]):
        assert np.allclose(x[mid], small*wave[mid]/2**0.5, atol=small*2e-3)


def test_differences_are_of_fourth_order(robots):
    def error(fps):
        t = np.arange(2*fps + 1)/fps
        x, robot = np.sin(3*t), robots["biped"]
        q = np.tile(robot.model.qpos0, (len(t), 1))
        q[:, 0], q[:, 8], q[:, 3:7] = x, x, Rotation.from_euler("ZY", np.stack([x, np.cos(2*t)], 1)).as_quat(scalar_first=True)
        c, s = differentiate(robot.motion(q, fps), None), slice(fps//2, -fps//2)
        y, dy, ddy, p, dp, ddp = x, 3*np.cos(3*t), -9*np.sin(3*t), np.cos(2*t), -2*np.sin(2*t), -4*np.cos(2*t)
        spin = np.stack([-np.sin(p)*dy, dp, np.cos(p)*dy], 1)
        grow = np.stack([-np.sin(p)*ddy - np.cos(p)*dp*dy, ddp, np.cos(p)*ddy - np.sin(p)*dp*dy], 1)
        assert np.allclose(c.motion.root_ang_vel[s], c.motion.velocities().root_ang_vel[s], atol=0.02) and np.abs(c.motion.root_ang_vel - spin)[s].max() > 0.5      # world, and body
        pairs = ((c.dof_vel[:, 1], dy), (c.dof_acc[:, 1], ddy), (c.root_lin_acc[:, 0], ddy), (c.root_ang_vel, spin), (c.root_ang_acc, grow))
        return np.array([np.abs(a - b)[s].max() for a, b in pairs])
    coarse, fine = error(30), error(60)
    assert (coarse < 0.01).all() and (12 < coarse/fine).all() and (coarse/fine < 20).all()


def test_a_steady_course_comes_out_as_it_went_in(robots):
    "Steady spin, steady walk and steady joints, up to the first and last frame, whatever the cutoff."
    t, robot, rate = np.arange(50)/30, robots["biped"], np.array([3., -8, 20])
    q = np.tile(robot.model.qpos0, (len(t), 1)) + 0.3*t[:, None]
    q[:, 3:7] = Rotation.from_rotvec(np.outer(t, rate)).as_quat(scalar_first=True)
    c = differentiate(robot.motion(q, 30), 4.0)
    assert np.allclose(c.root_ang_vel, rate, atol=1e-4) and np.allclose(c.root_lin_vel, 0.3, atol=1e-5) and np.allclose(c.dof_vel, 0.3, atol=1e-5)
    for x in (c.root_ang_acc, c.root_lin_acc, c.dof_acc): assert np.abs(x).max() < 1e-2


def test_clips_stay_apart(robots, clips):
    robot, a, b = robots["biped"], clips["biped", "squat"], clips["biped", "stand"]
    both = torque_from_motion(concatenate([a, b], boundaries=True), robot)
    for part, clip in zip((slice(0, len(a)), slice(len(a), None)), (a, b)):
        alone = torque_from_motion(clip, robot)
        for k in ("torque", "root_force", "root_moment", "point_force", "cop", "implausible"): assert np.allclose(getattr(both, k)[part], getattr(alone, k), atol=1e-7, equal_nan=True), k


def test_what_cannot_be_done_is_refused(robots, clips):
    biped, walk = robots["biped"], clips["biped", "walk"]
    with pytest.raises(ConfigError, match="less than 30 Hz"): torque_from_motion(walk, biped, cutoff=40.0)
    with pytest.raises(ConfigError, match="cutoff is -1"): differentiate(walk, -1)
    with pytest.raises(ConfigError, match="'gravity'"): torque_from_motion(walk, biped, include=("armature", "gravity"))
    with pytest.raises(InvalidMotion, match="three frames"): torque_from_motion(concatenate([walk, walk.cut(0, 2)], boundaries=True), biped)
    with pytest.raises(RobotError, match="unknown"): torque_from_motion(clips["unitree_g1", "stand"], biped)
    with pytest.raises(RobotError, match="weighs nothing"):
        light = mujoco.MjModel.from_xml_path(str(biped.path))
        light.opt.gravity[:] = 0
        body_scale(replace(biped, model=light))
    for wrong in (dict(friction=-1), dict(height=0), dict(price=np.nan), dict(floor=np.inf)):
        with pytest.raises(ConfigError, match=next(iter(wrong))): Ground(**wrong)


def test_the_result_can_be_written_and_says_how_it_came_about(robots, clips):
    r = torque_from_motion(clips["biped", "walk"], robots["biped"], cutoff=8.0)
    assert np.array_equal(r.motion.torque, r.torque) and np.allclose(r.motion.dof_vel, r.motion.velocities().dof_vel, atol=0.2)
    assert np.allclose(r.motion.root_ang_vel[1:-1], r.motion.velocities().root_ang_vel[1:-1], atol=0.05)
    assert [s["step"] for s in r.motion.source["steps"]][-2:] == ["low_pass", "torque_from_motion"] and r.motion.source["steps"][-1]["ground"]["friction"] == 0.8
    held = torque_from_motion(clips["biped", "walk"], robots["biped"], ground=None)
    assert held.point_force is None and held.cop is None and held.settings["ground"] is None and np.linalg.norm(held.root_force, axis=1).mean() > 0.9*held.weight


# ---- the cones

@given(st.integers(0, 10**6), st.floats(0.05, 2), st.floats(-6, 0), st.floats(0, 3))
@settings(max_examples=60, deadline=None)
def test_the_duality_gap_closes(seed, friction, cheap, spread):
    "For any wrench, any arms, any prices: forces in the cones, and a bound that proves them best."
    rng = np.random.default_rng(seed)
    wrench, arm, price = rng.normal(size=(40, 6))*10**rng.uniform(-2, 2, (40, 1)), rng.normal(size=(40, 6, 3)), 10**(cheap + spread*rng.uniform(size=(40, 6)))
    force, left = cone_forces(wrench, arm, price, friction)
    missing = wrench - np.concatenate([force.sum(1), np.cross(arm, force).sum(1)], 1)
    upper = 0.5*(missing**2).sum(1) + 0.5*(price[..., None]*force**2).sum((1, 2))
    pull = left[:, None, :3] + np.cross(left[:, None, 3:], arm)
    lower = (wrench*left).sum(1) - 0.5*(left**2).sum(1) - ((nearest_in_cone(pull, friction)**2).sum(2)/(2*price)).sum(1)
    scale = 1 + (wrench**2).sum(1)
    assert (np.abs(upper - lower) < 1e-7*scale).all() and (np.abs(missing - left).max(1) < 1e-9*scale**0.5).all()
    assert (np.hypot(force[..., 0], force[..., 1]) <= friction*force[..., 2] + 1e-9*scale[:, None]).all()


def test_fine_pyramids_come_to_the_same_as_cones():
    "Non-negative least squares over 64 edges per point, whose own prices are small enough not to matter."
    rng = np.random.default_rng(3)
    arm, wrench = np.concatenate([0.3*rng.normal(size=(30, 4, 2)), np.full((30, 4, 1), -1.)], 2), rng.normal(size=(30, 6))*[0.6, 0.6, 0.2, 0.2, 0.2, 0.2] + [0, 0, 1, 0, 0, 0]
    _, left = cone_forces(wrench, arm, np.full((30, 4), 1e-8), 0.6)
    turn = np.arange(64)*2*np.pi/64
    edges = np.stack([0.6*np.cos(turn), 0.6*np.sin(turn), np.ones(64)])
    for w, r, l in zip(wrench, arm, left):
        A = np.concatenate([np.vstack([edges, np.cross(p, edges.T).T]) for p in r], 1)
        assert np.isclose(nnls(A, w)[1], np.linalg.norm(l), atol=5e-3)


# ---- statics by hand

@pytest.mark.parametrize("bend", [0.3, 0.8, 1.2])
@pytest.mark.parametrize("load", [0, 10])
def test_statics_of_a_crouch(robots, bend, load):
    """Knee, hip and ankle by hand: each leg carries half of the weight through the point under the centre of mass, less the limbs below the joint.
    Ten kilograms more on the torso count with that, and by their own lever."""
    robot, g = loaded(robots["biped"], load), 9.81
    model = robot.model
    r, data = torque_from_motion(crouch(robot, bend), robot), mujoco.MjData(model)
    data.qpos = robot.qpos(r.motion)[5]
    mujoco.mj_kinematics(model, data)
    weight = model.body_mass.sum()*g
    com = model.body_mass @ data.xipos/model.body_mass.sum()
    assert np.isclose(r.weight, weight) and np.allclose(r.com[5], com)
    assert np.isclose(r.foot_force[5, :, 2].sum(), weight, rtol=1e-3) and np.allclose(r.foot_force[5, 0, 2], r.foot_force[5, 1, 2])
    assert np.abs(r.cop[5] - com[:2]).max() < 1e-3 and np.linalg.norm(r.root_force[5]) < 1e-3*weight and r.implausible[5] < 1e-3*weight
    for side in ("left", "right"):
        limbs = [model.body(f"{side}_{b}").id for b in ("hip", "thigh", "shank", "foot")]
        for joint, first in (("hip_pitch", 0), ("knee_pitch", 2), ("ankle_pitch", 3)):
            x = data.joint(f"{side}_{joint}").xanchor[0]
            ground = -(weight/2)*(com[0] - x)                                   # moment about y of a force up at x: -x F
            below = sum(model.body_mass[b]*g*(data.xipos[b][0] - x) for b in limbs[first:])
            motor = -(ground + below)*data.joint(f"{side}_{joint}").xaxis[1]
            assert np.isclose(r.torque[5, r.motion.joint_names.index(f"{side}_{joint}")], motor, atol=0.03), (side, joint)


def test_a_heavier_torso_costs_the_legs(robots):
    "Ten kilograms in a crouch: knees and hips work harder, each in the direction in which it worked before, and by the moment of half of the new weight."
    robot, heavy = robots["biped"], loaded(robots["biped"], 10)
    a, b = (torque_from_motion(crouch(r, 1.0), r) for r in (robot, heavy))
    assert np.isclose(b.weight - a.weight, 98.1)
    col = {k: [robot.joint_names.index(f"{s}_{k}_pitch") for s in ("left", "right")] for k in ("hip", "knee")}
    knee, more = a.torque[5, col["knee"]], (b.torque - a.torque)[5, col["knee"]]
    assert (knee < 0).all() and (more < -3).all(), "a bent knee under weight extends; more weight, more so"
    x = inverse_dynamics(a.motion, robot, soles=True).anchor[5][:, 0]
    for k in ("hip", "knee"):
        lever = [(m.weight/2)*(m.com[5, 0] - x[col[k]]) for m in (a, b)]        # the limbs below are the same in both
        signs = [-1, 1] if k == "hip" else [1, 1]
        assert np.allclose((b.torque - a.torque)[5, col[k]]*signs, (lever[1] - lever[0])*[-1 if k == "hip" else 1], atol=0.05), k


def test_planted_foot_on_one_leg_carries_all(robots):
    "The crouching biped tilted so far that the right foot is in the air: with the floor where it was, the left one alone carries."
    robot = robots["biped"]
    motion = crouch(robot, 0.6)
    dof = motion.dof_pos.copy()
    for joint, share in (("hip_pitch", HIP["right"]), ("knee_pitch", 1), ("ankle_pitch", -0.5)): dof[:, robot.joint_names.index(f"right_{joint}")] = share*1.4
    r = torque_from_motion(replace(motion, dof_pos=dof), robot)
    left, right = r.foot_force[5, :, 2]/r.weight
    assert left > 0.9 and right < 1e-2 and np.isnan(r.foot_cop[5, 1]).all()


@pytest.mark.parametrize("name", ["biped", "unitree_g1", "booster_t1", "booster_t1_4dof", "unitree_h1", "apptronik_apollo"])
def test_every_robot_stands_on_its_feet(name):
    robot = load_robot(name)
    rest = rest_state(robot)[[0]*5]
    r = torque_from_motion(Motion(30, rest.root_pos, rest.root_quat, rest.joint_pos, robot.joint_names, robot.name), robot)
    assert np.isclose(r.foot_force[2, :, 2].sum(), r.weight, rtol=5e-4) and np.isclose(r.weight, 9.81*robot.model.body_mass.sum())
    assert np.abs(r.cop[2] - r.com[2, :2]).max() < 1e-3 and np.isclose(r.com[2, 2], r.com_height) and np.linalg.norm(r.root_force[2]) < 5e-4*r.weight


# ---- against simulations

def test_a_simulated_flight_gives_its_torques_back(robots):
    "Tumbling in the air with moving joints, from poses alone: what drove the joints, and nothing at the root. Every convention has to be right for that."
    robot, rng = robots["biped"], np.random.default_rng(0)
    m = mujoco.MjModel.from_xml_path(str(robot.path))
    m.opt.timestep, m.opt.integrator = 1e-3, mujoco.mjtIntegrator.mjINT_RK4
    m.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_CONSTRAINT) | int(mujoco.mjtDisableBit.mjDSBL_ACTUATION)
    data, phase, poses = mujoco.MjData(m), rng.uniform(0, 6, 9), []
    data.qvel[:6] = 2*rng.normal(size=6)
    drive = 0.6*np.sin(2*np.pi*1.5*np.arange(600)[:, None]*1e-3 + phase)
    for u in drive:
        poses.append(data.qpos.copy())
        data.qfrc_applied[6:] = u
        mujoco.mj_step(m, data)
    found = inverse_dynamics(robot.motion(np.array(poses), 1000), robot, cutoff=None, include=("armature", "damping"))
    s = slice(10, -10)
    assert np.abs(found.torque[1:] - (drive[1:] + drive[:-1])/2)[s].max() < 1e-4 and np.abs(found.torque[s]).max() > 0.5      # the drive is constant in each step
    assert np.abs(found.root_force[s]).max() < 1e-6 and np.abs(found.root_moment[s]).max() < 1e-6


def test_a_simulated_squat_gives_its_torques_back(robots):
    "A PD law squats on MuJoCo's floor; of that only the poses are kept. The torques and the mean force come back, with dry friction better than without."
    robot, states, forces = robots["biped"], [], []
    sim, share = Simulation(robot, fps=100, substeps=10), dict(left_hip_pitch=-0.5, right_hip_pitch=0.5, left_knee_pitch=1, right_knee_pitch=1, left_ankle_pitch=-0.5, right_ankle_pitch=-0.5)
    sim.set_state(rest_state(robot))
    for k in range(300):
        states.append(sim.advance(np.array([[0.4*(1 - np.cos(np.pi*k/100))*share.get(n, 0) for n in robot.joint_names]])))
        forces.append(sim.data[0].qfrc_constraint[2])
    motion = Motion(100, *(np.concatenate([getattr(s, k) for s in states]) for k in ("root_pos", "root_quat", "joint_pos")), robot.joint_names, robot.name)
    true, s = np.concatenate([x.torque for x in states]), slice(60, -20)
    rms = lambda x: np.sqrt((x[s]**2).mean(0))
    found, plain = (torque_from_motion(motion, robot, include=i) for i in (PARTS, ("armature", "damping")))
    hip, knee, ankle = (robot.joint_names.index(f"left_{j}_pitch") for j in ("hip", "knee", "ankle"))
    error = rms(found.torque - true)/rms(true)[knee]
    assert rms(true)[knee] > 4 and (error < 0.08).all()
    assert (rms(found.torque - true) < rms(plain.torque - true))[[hip, knee, ankle]].all()
    assert np.isclose(found.foot_force[s, :, 2].sum(1).mean(), np.mean(forces[s]), rtol=0.02) and np.median(np.linalg.norm(found.root_force, axis=1)) < 0.001*found.weight


# ---- generated gaits

@pytest.mark.parametrize("name", ROBOTS)
@pytest.mark.parametrize("clip", ["walk", "squat", "stand"])
def test_ground_forces_explain_generated_gaits(robots, clips, name, clip):
    r = torque_from_motion(clips[name, clip], robots[name])
    c = consistency(r, robots[name])
    assert abs(c.vertical.mean() - 100) < 2 and np.median(c.root_force) < 5 and np.median(c.root_moment) < 5
    assert (np.hypot(r.point_force[..., 0], r.point_force[..., 1]) <= 0.8*r.point_force[..., 2] + 1e-6).all()
    assert np.allclose(r.foot_force.sum(1) + r.root_force, inverse_dynamics(clips[name, clip], robots[name]).root_force, atol=1e-5*r.weight)
    s = c.summary()
    assert s["physical_score"] > 0.8 and s["implausible_share"] < 0.12 and 0 < s["torque_ratio"] < 1.5


def test_ground_forces_explain_a_published_retargeting(robots):
    "Half a minute of mocap on the G1, retargeted by somebody else."
    path = DATA/"unitree_csv/G1_Take_102.bvh_60hz.csv"
    if not path.is_file(): pytest.skip(f"no {path}; set MOTIONBENCH_TEST_DATA")
    s = consistency(r := torque_from_motion(read_motion(path, fps=60, robot="unitree_g1"), robots["unitree_g1"]), robots["unitree_g1"]).summary()
    assert s["root_force_median_pct"] < 1 and s["root_force_p95_pct"] < 5 and s["implausible_share"] < 0.12 and s["torque_over_share"] < 0.01
    assert abs(r.foot_force[..., 2].sum(1).mean()/r.weight - 1) < 0.01


def test_the_score_sees_what_is_wrong(robots, clips):
    robot, walk = robots["biped"], clips["biped", "walk"]
    judge = lambda m: consistency(torque_from_motion(m, robot), robot).summary()
    good, floats, slides, rises = judge(walk), judge(replace(walk, root_pos=walk.root_pos + [0, 0, 0.04])), judge(replace(walk, root_pos=walk.root_pos + np.outer(walk.times, [0.5, 0, 0]))), \
        judge(replace(walk, root_pos=walk.root_pos + np.outer(0.1*np.sin(4*walk.times), [0, 1, 0])))
    assert all(good["physical_score"] > 0.08 + bad["physical_score"] for bad in (floats, slides, rises))
    assert floats["implausible_share"] > 0.9 and slides["implausible_share"] > 0.6
    numbers = lambda s: {k: v for k, v in s.items() if not isinstance(v, str)}
    assert numbers(judge(replace(walk, root_pos=walk.root_pos + [7, -3, 0]))) == pytest.approx(numbers(good), abs=1e-6)


def test_measures_know_what_they_do_not_know():
    assert effort_ratio(np.ones((2, 3)), None) is None and effort_ratio(np.full((1, 2), -3.), np.array([2, np.inf])).tolist() == [[1.5, 0]]
    assert np.isnan(friction_used(np.zeros((3, 2, 3)), 0.8, 100)).all()


def test_without_effort_limits_saturation_is_unknown(robots, clips):
    robot = replace(robots["biped"], effort_limit=None)
    s = consistency(torque_from_motion(clips["biped", "stand"], robot), robot).summary()
    assert s["torque_ratio"] is None and s["torque_ratio_joint"] is None and s["torque_over_share"] is None and s["physical_score"] > 0.99


# ---- what must not matter

def about(clips): return clips["biped", "walk"].cut(30, 110)


@given(st.floats(-3.2, 3.2), st.floats(-50, 50), st.floats(-50, 50))
@settings(max_examples=15, deadline=None)
def test_heading_and_place_do_not_matter(robots, clips, heading, x, y):
    walk, robot = about(clips), robots["biped"]
    a, b = torque_from_motion(walk, robot), torque_from_motion(transform(walk, heading, (x, y, 0)), robot)
    turn = Rotation.from_euler("z", heading).as_matrix()
    assert np.allclose(a.torque, b.torque, atol=1e-5) and np.allclose(a.implausible, b.implausible, atol=1e-5)
    for k in ("root_force", "root_moment", "point_force", "foot_force"): assert np.allclose(getattr(a, k) @ turn.T, getattr(b, k), atol=1e-4), k
    assert np.allclose(a.cop @ turn[:2, :2].T + [x, y], b.cop, atol=1e-6, equal_nan=True)


@given(st.integers(0, 10**6))
@settings(max_examples=10, deadline=None)
def test_signs_of_quaternions_do_not_matter(robots, clips, seed):
    walk, robot = about(clips), robots["biped"]
    sign = np.random.default_rng(seed).choice([-1., 1.], len(walk))
    a, b = torque_from_motion(walk, robot), torque_from_motion(replace(walk, root_quat=walk.root_quat*sign[:, None]), robot)
    assert np.allclose(a.torque, b.torque, atol=1e-7) and np.allclose(a.point_force, b.point_force, atol=1e-7)


@given(st.permutations(range(9)))
@settings(max_examples=10, deadline=None)
def test_the_order_of_joints_does_not_matter(robots, clips, order):
    walk, robot = about(clips), robots["biped"]
    mixed = replace(walk, dof_pos=walk.dof_pos[:, order], joint_names=tuple(walk.joint_names[i] for i in order))
    a, b = torque_from_motion(walk, robot), torque_from_motion(mixed, robot)
    assert b.motion.joint_names == mixed.joint_names and np.allclose(a.torque[:, order], b.torque, atol=1e-9) and np.allclose(a.point_force, b.point_force, atol=1e-9)
    ra, rb = consistency(a, robot).summary(), consistency(b, robot).summary()
    assert ra.pop("torque_ratio_joint") == rb.pop("torque_ratio_joint") and ra == pytest.approx(rb)


def test_frames_in_blocks_are_frames_one_by_one(robots, clips):
    walk, robot = clips["biped", "walk"], robots["biped"]
    many = concatenate([walk]*5, boundaries=True)      # more than one block of the solver
    a, b = torque_from_motion(many, robot), torque_from_motion(walk, robot)
    assert np.allclose(a.torque.reshape(5, *b.torque.shape), b.torque, atol=1e-7)
