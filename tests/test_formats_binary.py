"Binary formats of robot motion: every real file is read and checked against kinematics, every written one against its consumer's own loading rules."
import functools
import os
from pathlib import Path

import mujoco
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from motionbench.core.errors import MotionFormatError
from motionbench.core.gait import bundled_clips
from motionbench.core.kinematics import forward_kinematics
from motionbench.core.motion import concatenate
from motionbench.core.robot import available_robots, load_robot
from motionbench.core.rotation import angular_velocity, quat_exp, quat_log, quat_rotate
from motionbench.io import safe_pickle
from motionbench.io.amp_rsl_rl import write_amp_rsl_rl
from motionbench.io.arrays import write_motionvqvae, write_qpos
from motionbench.io.beyondmimic import write_beyondmimic
from motionbench.io.gmr_human import write_gmr_human
from motionbench.io.grail import ObjectMotion, write_grail, write_grail_object
from motionbench.io.isaaclab import write_isaaclab
from motionbench.io.locomujoco import base_pose, write_locomujoco, write_locomujoco_v0
from motionbench.io.mimickit import write_mimickit, write_parc
from motionbench.io.phc import G1_23, pose_axes, write_phc
from motionbench.io.poselib import write_poselib
from motionbench.io.protomotions import write_protomotions
from motionbench.io.registry import read_motion, sniff
from motionbench.io.shared import pickled, to_wxyz, to_xyzw
from motionbench.io.skeletons import expmap_to_angles, isaaclab_order

DATA = Path(os.environ.get("MOTIONBENCH_TEST_DATA", Path(__file__).parents[2]/"shared/data"))
REAL = DATA/"robot_motion"
real = pytest.mark.skipif(not REAL.is_dir(), reason="no test data (MOTIONBENCH_TEST_DATA)")
has_g1 = pytest.mark.skipif("unitree_g1" not in [r["name"] for r in available_robots() if r["where"] != "download"], reason="no unitree_g1 on this machine (motionbench[robots])")


@functools.cache
def robot_of(name): return load_robot(name)


@pytest.fixture(scope="module")
def humanoid():
    "The model of Isaac Lab's humanoid files; as published it names a material that it does not define."
    return load_robot(REAL/"isaaclab_amp/amp_humanoid.xml")


def one(pattern): return next(REAL.glob(pattern))


def up(motion): return quat_rotate(motion.root_quat, np.array([0., 0, 1]))[:, 2]


def fk(robot, motion, dof=None):
    dof = motion.dof_pos if dof is None else dof
    return forward_kinematics(robot.tree, motion.root_pos, motion.root_quat, dof[:, robot.joint_order(motion.joint_names)])


def turn(a, b): return 2*np.arccos(np.clip(np.abs((a*b).sum(-1)), 0, 1))


def dance(robot, T=40, fps=50., seed=0, **more):
    "A smooth clip that uses every joint and turns about all axes."
    rng, t = np.random.default_rng(seed), np.arange(T)/fps
    q = np.tile(robot.model.qpos0, (T, 1))
    wave = lambda n, size: size*np.sin(2*np.pi*rng.uniform(.5, 1.5, n)*t[:, None] + rng.uniform(0, 6, n))
    q[:, :3] += wave(3, .2) + t[:, None]*[.5, .1, 0]
    q[:, 3:7] = quat_exp(wave(3, .4) + t[:, None]*[0, 0, .7])
    q[:, robot.tree.qpos_adr] = wave(len(robot.joint_names), .3)
    return robot.motion(q, fps, **more)


def same(back, motion, atol=1e-6, fps=True):
    assert back.fps == motion.fps or not fps
    assert set(back.joint_names) == set(motion.joint_names) and back.starts == motion.starts
    assert np.abs(back.root_pos - motion.root_pos).max() <= atol
    assert turn(back.root_quat, motion.root_quat).max() < max(2*atol, 1e-6)
    assert np.abs(back.dof_pos[:, [back.joint_names.index(n) for n in motion.joint_names]] - motion.dof_pos).max() <= atol


# ---- real files

FILES = [("phc_asap/*.pkl", "phc"), ("isaaclab_amp/humanoid_walk.npz", "isaaclab"), ("isaaclab_amp/humanoid_run.npz", "isaaclab"), ("beyondmimic/*.npz", "beyondmimic"),
         ("protomotions/g1_crouch_to_run.motion", "protomotions"), ("protomotions/output_jumpjack.motion", "protomotions"), ("poselib/*.npy", "poselib"),
         ("locomujoco_v0/*.npz", "locomujoco-v0"), ("../gmr/cmu_01_01_jump_human.npz", "gmr-human"), ("../gmr/cmu_01_01_jump_tposeframe0_human.npz", "gmr-human")]


@real
@pytest.mark.parametrize("pattern, name", FILES)
def test_recognised(pattern, name): assert sniff(one(pattern)).name == name


@real
@has_g1
def test_phc_real():
    m, robot = read_motion(one("phc_asap/*.pkl"), robot="unitree_g1"), robot_of("unitree_g1")
    stored = next(iter(safe_pickle.load(one("phc_asap/*.pkl")).values()))
    assert (len(m), m.fps, len(m.joint_names)) == (92, 30, 29) and m.source["quat_order"] == "xyzw" and m.source["order_from"] == "pose_aa"
    assert up(m).min() > .85 and .7 < m.root_pos[:, 2].min() < m.root_pos[:, 2].max() < .9
    assert len(m.source["welded_joints"]) == 6 and all("wrist" in n for n in m.source["welded_joints"])
    ours = pose_axes(robot, m)
    columns = [1 + robot.joint_names.index(n) for n in G1_23]
    assert np.abs(ours[:, columns] - stored["pose_aa"][:, 1:24]).max() < 1e-6               # joint order and axes of the robot are those of the file
    assert np.abs(ours[:, 0] - stored["pose_aa"][:, 0]).max() < 1e-6
    pos, _ = fk(robot, m)
    hands = [pos[:, robot.body_names.index(f"{s}_wrist_yaw_link")] for s in ("left", "right")]
    assert np.linalg.norm(hands[0] - m.extra["smpl_joints"][:, 22], axis=-1).max() < .5      # same place as the human it came from


@real
def test_isaaclab_real(humanoid):
    for name, T, before in (("humanoid_walk.npz", 154, .1), ("humanoid_run.npz", 82, .04)):
        m = read_motion(REAL/"isaaclab_amp"/name, robot=humanoid)
        assert (len(m), m.fps, len(m.joint_names), m.source["root_body"]) == (T, 60, 28, "pelvis") and up(m).min() > .9
        as_stored, _ = fk(humanoid, m)
        angles, _ = fk(humanoid, m, expmap_to_angles(humanoid.tree, m.dof_pos[:, humanoid.joint_order(m.joint_names)])[:, np.argsort(humanoid.joint_order(m.joint_names))])
        order = [m.body_names.index(n) for n in humanoid.body_names]
        assert np.abs(as_stored - m.body_pos[:, order]).max() > before                         # the published defect: rotation vectors, not angles
        assert np.abs(angles - m.body_pos[:, order]).max() < 2e-4
        assert np.array_equal(m.root_lin_vel, m.body_lin_vel[:, 0])


@real
@has_g1
def test_holosoma_real():
    m, robot = read_motion(one("beyondmimic/*.npz")), robot_of("unitree_g1")
    assert (len(m), m.fps, len(m.body_names)) == (325, 50, 51) and m.source["layout"] == "qpos" and np.median(up(m)) > .8
    pos, quat = fk(robot, m)
    both = [n for n in robot.body_names if n in m.body_names]
    off = {n: np.abs(pos[:, robot.body_names.index(n)] - m.body_pos[:, m.body_names.index(n)]).max() for n in both}
    assert len(both) == 30 and all(off[n] < 1e-9 for n in both if "hip" in n or "knee" in n or "ankle" in n) and max(off.values()) < .012
    assert turn(quat[:, [robot.body_names.index(n) for n in both]], m.body_quat[:, [m.body_names.index(n) for n in both]]).max() < 1e-6
    assert m.source["root_velocity_from"] == "joint_vel (world frame)"
    world = angular_velocity(m.root_quat, m.fps)
    assert np.linalg.norm(m.root_ang_vel - world) < .05*np.linalg.norm(world)
    assert np.linalg.norm(m.body_ang_vel[:, m.body_names.index("pelvis")] - world) > np.linalg.norm(world)     # the published defect, kept as stored


@real
@has_g1
@pytest.mark.parametrize("name, T", [("g1_crouch_to_run", 97), ("output_jumpjack", 120)])
def test_protomotions_real(name, T):
    m, robot = read_motion(REAL/f"protomotions/{name}.motion", robot="unitree_g1"), robot_of("unitree_g1")
    assert (len(m), m.fps, len(m.body_names)) == (T, 30, 33) and np.median(up(m)) > .8 and m.source["joint_order"] == "robot unitree_g1 (mujoco)"
    assert sum(n.startswith("unnamed") for n in m.body_names) == 3                             # head and two rubber hands are not in this G1
    pos, _ = fk(robot, m)
    for n in robot.body_names: assert np.abs(pos[:, robot.body_names.index(n)] - m.body_pos[:, m.body_names.index(n)]).max() < (.011 if name.startswith("g1") else 2e-6)
    world = angular_velocity(m.root_quat, 30)[2:-2]
    assert np.corrcoef(m.root_ang_vel[2:-2].ravel(), world.ravel())[0, 1] > .9                 # world frame, smoothed


@real
@has_g1
def test_golden_pair():
    "One clip twice. ProtoMotions' converter lifts frames whose lowest body is below 4 cm; apart from that the numbers are the same."
    m, rows = read_motion(REAL/"protomotions/output_jumpjack.motion", robot="unitree_g1"), np.loadtxt(REAL/"protomotions/output_jumpjack.csv", delimiter=",")
    assert np.abs(m.root_pos[:, :2] - rows[:, :2]).max() < 1e-6 and np.abs(m.dof_pos - rows[:, 7:]).max() < 1e-6 and turn(m.root_quat, rows[:, 3:7]).max() < 1e-3
    lift = m.root_pos[:, 2] - rows[:, 2]
    lowest = m.body_pos[..., 2].min(1) - lift
    assert np.abs(lift - np.maximum(0, .04 - lowest)).max() < 1e-6
    csv = read_motion(REAL/"protomotions/output_jumpjack.csv", robot="unitree_g1", fps=30)       # its quaternion order is decided there
    assert np.abs(csv.dof_pos - m.dof_pos).max() < 1e-6 and turn(csv.root_quat, m.root_quat).max() < 1e-3 and csv.joint_names == m.joint_names


@real
def test_poselib_real(humanoid):
    path = one("poselib/*.npy")
    human, m, isaac = read_motion(path), read_motion(path, robot=humanoid), read_motion(REAL/"isaaclab_amp/humanoid_walk.npz")
    assert (len(human), human.fps, len(human.joint_names)) == (154, 60, 15) and human.source["skeleton"] == "own"
    order = [human.joint_names.index(n) for n in isaac.body_names]
    assert np.abs(human.joint_pos[:, order] - isaac.body_pos).max() < 1e-4 and turn(human.joint_quat[:, order], isaac.body_quat).max() < 2e-3       # the same clip, converted by Isaac Lab
    pos, quat = fk(humanoid, m)
    assert np.abs(pos - m.body_pos[:, [m.body_names.index(n) for n in humanoid.body_names]]).max() < 1e-4 and m.source["left_out_rad"] < 1e-2


LEG = """<body name="hip{s}" pos="0 {y}0.06445 -0.1027" quat="0.984807 0 -0.17365 0"><joint name="{s}_hip_pitch_joint" axis="0 1 0"/><geom size=".01"/>
<body pos="0 {y}0.0523 0"><joint name="{s}_hip_roll_joint" axis="1 0 0"/><geom size=".01"/><body pos="0.01966 {n}0.0012139 -0.1241"><joint name="{s}_hip_yaw_joint" axis="0 0 1"/><geom size=".01"/>
<body pos="-0.078292 {n}0.0017335 -0.177225" quat="0.967714 0 0.252052 0"><joint name="{s}_knee_joint" axis="0 1 0"/><geom size=".01"/>
<body pos="0 {y}0.0040687 -0.30007" quat="0.99678 0 -0.0801788 0"><joint name="{s}_ankle_pitch_joint" axis="0 1 0"/><geom size=".01"/>
<body name="foot{s}" pos="0 0 -0.017558"><joint name="{s}_ankle_roll_joint" axis="1 0 0"/><geom size=".01"/></body></body></body></body></body></body>"""
SLIDES = """<joint name="pelvis_tx" type="slide" axis="1 0 0"/><joint name="pelvis_tz" type="slide" axis="0 1 0"/><joint name="pelvis_ty" type="slide" axis="0 0 1"/>
<joint name="pelvis_tilt" axis="0 -1 0"/><joint name="pelvis_list" axis="1 0 0"/><joint name="pelvis_rotation" axis="0 0 1"/>"""


def loco_g1(base): return mujoco.MjModel.from_xml_string(f'<mujoco><worldbody><body name="pelvis" pos="0 0 0.755">{base}<geom size=".1"/>'
                                                         + LEG.format(s="left", y="", n="-") + LEG.format(s="right", y="-", n="") + "</body></worldbody></mujoco>")


@real
def test_locomujoco_v0_real():
    "The base and the feet as MuJoCo moves them in loco-mujoco's own joints, and a walk whose stance foot stays on the ground."
    path = one("locomujoco_v0/*.npz")
    m, model = read_motion(path), loco_g1(SLIDES)
    assert (len(m), m.fps, len(m.joint_names)) == (500, 500, 25) and m.source["rest_height_m"] == .755 and up(m).min() > .95
    data, feet, velocity = mujoco.MjData(model), [], np.zeros(6)
    with np.load(path) as z: raw = {k: z[k] for k in z.files}
    for t in range(0, 500, 10):
        for j in range(model.njnt): data.qpos[j], data.qvel[j] = raw[f"q_{model.joint(j).name}"][t], raw[f"dq_{model.joint(j).name}"][t]
        mujoco.mj_forward(model, data)
        mujoco.mj_objectVelocity(model, data, mujoco.mjtObj.mjOBJ_XBODY, model.body("pelvis").id, velocity, 0)
        assert np.abs(data.body("pelvis").xpos - m.root_pos[t]).max() < 1e-12 and turn(data.body("pelvis").xquat, m.root_quat[t]) < 1e-7
        assert np.abs(velocity[:3] - m.root_ang_vel[t]).max() < 1e-9 and np.abs(velocity[3:] - m.root_lin_vel[t]).max() < 1e-9
        feet.append([data.body(f"foot{s}").xpos - [0, 0, .03] for s in ("left", "right")])
    feet = np.array(feet)
    assert np.abs(feet[..., 2].min(1)).max() < .06                                            # always one sole near the ground
    low = feet[:-1, :, 2].argmin(1)
    slide = np.linalg.norm(np.diff(feet[..., :2], axis=0)[np.arange(49), low], axis=-1)*50
    assert np.median(slide) < .35 < .9 < np.abs(m.root_lin_vel[:, 0]).mean()                   # the stance foot is slow while the body walks


@real
def test_gmr_human_real():
    m = read_motion(DATA/"gmr/cmu_01_01_jump_human.npz")
    assert (len(m), m.fps, len(m.joint_names), m.height) == (687, 30, 17, 1.75) and m.source["height_from"] == "format default"
    assert m.parents[m.joint_names.index("left_knee")] == m.joint_names.index("left_hip") and m.parents[m.joint_names.index("head")] == m.joint_names.index("spine3")
    assert (m.joint("head")[0] - m.joint("pelvis")[0])[:, 2].min() > .3


# ---- written files are read back equal

WRITERS = {"phc": (write_phc, dict(robot=1)), "grail": (write_grail, dict(robot=1)), "isaaclab": (write_isaaclab, {}), "beyondmimic": (write_beyondmimic, {}),
           "protomotions": (write_protomotions, dict(robot=1)), "poselib": (write_poselib, dict(robot=1)), "mimickit": (write_mimickit, dict(robot=1)), "parc": (write_parc, dict(robot=1)),
           "locomujoco": (write_locomujoco, {}), "amp-rsl-rl": (write_amp_rsl_rl, {}), "motionvqvae": (write_motionvqvae, dict(robot=1)), "qpos": (write_qpos, dict(robot=1, fps=1))}


@pytest.mark.parametrize("fps", [50., 29.97])
@pytest.mark.parametrize("name", ["biped", pytest.param("unitree_g1", marks=has_g1)])
@pytest.mark.parametrize("form", WRITERS)
def test_round_trip(form, name, fps, tmp_path):
    robot = robot_of(name)
    write, options = WRITERS[form]
    motion = dance(robot, fps=fps, **({"extra": {"hand_dof_pos": np.ones((40, 14))}} if form == "grail" else {}))
    write(motion, tmp_path/"clip.dat")
    assert sniff(tmp_path/"clip.dat").name == form                                            # the suffix says nothing
    back = read_motion(tmp_path/"clip.dat", **{k: robot if k == "robot" else fps for k in options})
    same(back, motion)
    for k in ("quat_order", "velocity_frame", "joint_order", "fps_from", "format", "file"): assert back.source[k]
    assert not list(tmp_path.glob(".*"))


def test_velocities_and_bodies_survive(tmp_path):
    robot = robot_of("biped")
    motion = dance(robot, torque=np.random.default_rng(0).normal(size=(40, 9)))
    v = motion.velocities()
    for write, read in ((write_isaaclab, {}), (write_beyondmimic, {}), (write_protomotions, dict(robot=robot)), (write_locomujoco, {})):
        write(motion, tmp_path/"v")
        back = read_motion(tmp_path/"v", **read)
        to = [back.joint_names.index(n) for n in motion.joint_names]
        for got, want in ((back.root_lin_vel, v.root_lin_vel), (back.root_ang_vel, v.root_ang_vel), (back.dof_vel[:, to], v.dof_vel)): assert np.abs(got - want).max() < 2e-6
        if back.body_names:
            pos, _ = fk(robot, motion)
            assert np.abs(back.body_pos - pos[:, [robot.body_names.index(n) for n in back.body_names]]).max() < 1e-6
            assert np.array_equal(back.root_pos, back.body_pos[:, 0])
    write_isaaclab(motion, tmp_path/"t.npz")
    assert np.array_equal(read_motion(tmp_path/"t.npz").torque, motion.torque)
    assert "torques" in write_phc(motion, tmp_path/"p.pkl")


def test_locomujoco_v0_round_trip(tmp_path):
    motion = dance(robot_of("biped"), T=400, fps=500.)
    assert "frame rate" in write_locomujoco_v0(motion, tmp_path/"v0.npz", rest_height=.515)
    back = read_motion(tmp_path/"v0.npz", rest_height=.515)
    same(back, motion)
    assert np.abs(back.root_ang_vel - motion.velocities().root_ang_vel).max() < 1e-9
    with pytest.raises(MotionFormatError, match="rest height"): read_motion(tmp_path/"v0.npz")


def test_several_clips_keep_their_boundaries(tmp_path):
    robot = robot_of("biped")
    both = concatenate([dance(robot, T=20), dance(robot, T=30, seed=1)], boundaries=True)
    write_locomujoco(both, tmp_path/"two.npz")
    same(read_motion(tmp_path/"two.npz"), both)
    assert any("flagged" in x for x in write_motionvqvae(both, tmp_path/"two.npy"))
    same(read_motion(tmp_path/"two.npy", robot=robot), both)
    write_phc({"a": both.cut(0, 20), "b": both.cut(20)}, tmp_path/"two.pkl")
    with pytest.raises(MotionFormatError, match="name=.*a, b"): read_motion(tmp_path/"two.pkl", robot=robot)
    same(read_motion(tmp_path/"two.pkl", robot=robot, name="b"), both.split()[1])


def test_human_and_object_round_trip(tmp_path):
    human = next(iter(bundled_clips().values()))
    for write, name, options in ((write_gmr_human, "h.npz", dict(height=human.height)), (write_poselib, "h.npy", {})):
        write(human, tmp_path/name)
        back = read_motion(tmp_path/name, **options)
        assert back.joint_names == human.joint_names and back.fps == human.fps and np.abs(back.joint_pos - human.joint_pos).max() < 1e-6 and turn(back.joint_quat, human.joint_quat).max() < 1e-6
    cup = ObjectMotion(50., np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32), np.tile([.5, .5, .5, .5], (5, 1)), "cup", contact_points={"right": {2: np.ones((3, 3))}})
    write_grail_object(cup, tmp_path/"cup.pkl")
    back = read_motion(tmp_path/"cup.pkl")
    assert back.name == "cup" and np.array_equal(back.pos, cup.pos) and back.contact_points["right"][2].shape == (3, 3)


# ---- what must not be guessed

def test_quaternion_order_is_decided_by_pose_aa(tmp_path):
    robot, motion = robot_of("biped"), dance(robot_of("biped"))
    write_phc(motion, tmp_path/"a.pkl")
    clip = safe_pickle.load(tmp_path/"a.pkl")
    safe_pickle.dump({"a": {**clip["a"], "root_rot": to_wxyz(clip["a"]["root_rot"])}}, tmp_path/"wxyz.pkl")        # GRAIL's retargeting writes it so
    back = read_motion(tmp_path/"wxyz.pkl", robot=robot)
    same(back, motion)
    assert back.source["quat_order"] == "wxyz"
    safe_pickle.dump({"a": {**clip["a"], "root_rot": np.roll(clip["a"]["root_rot"], 7, 0)}}, tmp_path/"wrong.pkl")
    with pytest.raises(MotionFormatError, match="degrees as xyzw"): read_motion(tmp_path/"wrong.pkl", robot=robot)


@has_g1
@pytest.mark.parametrize("order", ["isaaclab", "mujoco"])
def test_joint_order_is_decided_by_the_bodies(order, tmp_path):
    robot = robot_of("unitree_g1")
    motion = dance(robot)
    write_beyondmimic(motion, tmp_path/"named.npz", order=order)
    with np.load(tmp_path/"named.npz") as z: np.savez(tmp_path/"plain.npz", **{k: z[k] for k in z.files if not k.endswith("names")})
    back = read_motion(tmp_path/"plain.npz", robot="unitree_g1")
    same(back, motion)
    assert back.source["joint_order"] == f"robot unitree_g1 ({order})" and set(back.body_names) == set(robot.body_names)
    with pytest.raises(MotionFormatError, match="robot=NAME.*unitree_g1"): read_motion(tmp_path/"plain.npz")


@has_g1
def test_isaaclab_order_is_the_published_one():
    published = [0, 6, 12, 1, 7, 13, 2, 8, 14, 3, 9, 15, 22, 4, 10, 16, 23, 5, 11, 17, 24, 18, 25, 19, 26, 20, 27, 21, 28]     # SONIC, MuJoCo joint of each Isaac Lab joint
    assert isaaclab_order(robot_of("unitree_g1").tree)[0].tolist() == published


def test_ball_joints_of_mimickit(tmp_path):
    "Three hinges on one body are one ball joint there, stored as rotation vector."
    xml = """<mujoco><worldbody><body name="hips" pos="0 0 1"><freejoint/><geom size=".1"/><body name="l" pos="0 .1 -.4"><joint name="lx" axis="1 0 0"/><joint name="ly" axis="0 1 0"/>
    <joint name="lz" axis="0 0 1"/><geom size=".05" pos="0 0 -.5"/></body><body name="r" pos="0 -.1 -.4"><joint name="rk" axis="0 1 0"/><geom size=".05" pos="0 0 -.5"/></body></body></worldbody></mujoco>"""
    (tmp_path/"doll.xml").write_text(xml)
    robot = load_robot(tmp_path/"doll.xml")
    motion = dance(robot)
    for write in (write_mimickit, write_parc):
        write(motion, tmp_path/"doll.pkl", robot=robot)
        same(read_motion(tmp_path/"doll.pkl", robot=robot), motion)
    write_mimickit(motion, tmp_path/"doll.pkl", robot=robot)
    vector = np.array(safe_pickle.load(tmp_path/"doll.pkl")["frames"])[:, 6:9]
    assert np.allclose(Rotation.from_rotvec(vector).as_matrix(), Rotation.from_euler("XYZ", motion.dof_pos[:, :3]).as_matrix()) and np.abs(vector - motion.dof_pos[:, :3]).max() > .01


def test_refusals_name_the_remedy(tmp_path):
    robot, motion = robot_of("biped"), dance(robot_of("biped"))
    write_qpos(motion, tmp_path/"q.npy")
    with pytest.raises(MotionFormatError, match="fps="): read_motion(tmp_path/"q.npy", robot=robot)
    with pytest.raises(MotionFormatError, match="biped has that many"): read_motion(tmp_path/"q.npy", fps=50)
    write_isaaclab(motion, tmp_path/"i.npz")
    with pytest.raises(MotionFormatError, match="no body 'head'.*root="): read_motion(tmp_path/"i.npz", root="head")
    with np.load(tmp_path/"i.npz") as z: np.savez(tmp_path/"bad.npz", **{**{k: z[k] for k in z.files}, "body_rotations": z["body_rotations"]*2})
    with pytest.raises(MotionFormatError, match="unit quaternion"): read_motion(tmp_path/"bad.npz")
    safe_pickle.dump({"motion_data": pickled({"root_pos": np.zeros((2, 3))})}, tmp_path/"parc.pkl")
    with pytest.raises(MotionFormatError, match="lacks root_rot"): read_motion(tmp_path/"parc.pkl", robot=robot)
    write_parc(motion, tmp_path/"parc.pkl")
    with pytest.raises(MotionFormatError, match="robot=NAME"): read_motion(tmp_path/"parc.pkl")


# ---- the consumers' own rules

def test_isaaclab_motion_loader(tmp_path):
    "MotionLoader: single-precision tensors of every array, names as lists, dt and duration."
    torch = pytest.importorskip("torch")
    motion = dance(robot_of("biped"))
    write_isaaclab(motion, tmp_path/"m.npz")
    data = np.load(tmp_path/"m.npz")
    dof_names, body_names, dt = data["dof_names"].tolist(), data["body_names"].tolist(), 1.0/data["fps"]
    arrays = {k: torch.tensor(data[k], dtype=torch.float32) for k in ("dof_positions", "dof_velocities", "body_positions", "body_rotations", "body_linear_velocities", "body_angular_velocities")}
    assert dt*(arrays["dof_positions"].shape[0] - 1) == pytest.approx(motion.duration)
    index = [dof_names.index(n) for n in motion.joint_names]
    assert np.abs(arrays["dof_positions"][:, index].numpy() - motion.dof_pos).max() < 1e-6
    root = body_names.index("pelvis")
    assert arrays["body_rotations"].shape == (40, len(body_names), 4) and np.abs(arrays["body_rotations"][:, root].numpy() - motion.root_quat).max() < 1e-6


@has_g1
def test_beyondmimic_motion_loader(tmp_path):
    "whole_body_tracking: fps by [0], body arrays indexed by body numbers of the articulation; the anchor must come out where it is."
    torch, robot = pytest.importorskip("torch"), robot_of("unitree_g1")
    motion = dance(robot)
    for order in ("isaaclab", "mujoco"):
        write_beyondmimic(motion, tmp_path/"m.npz", order=order)
        data = np.load(tmp_path/"m.npz")
        assert data["fps"].shape == (1,) and int(data["fps"][0]) == 50
        joints, bodies = isaaclab_order(robot.tree) if order == "isaaclab" else (np.arange(29), np.arange(30))
        q = torch.tensor(data["joint_pos"], dtype=torch.float32)
        assert np.abs(q.numpy() - motion.dof_pos[:, joints]).max() < 1e-6
        torso = [robot.body_names[b] for b in bodies].index("torso_link")
        pos, _ = fk(robot, motion)
        assert np.abs(torch.tensor(data["body_pos_w"], dtype=torch.float32)[:, torso].numpy() - pos[:, robot.body_names.index("torso_link")]).max() < 1e-6
        assert data["body_lin_vel_w"].shape == data["body_ang_vel_w"].shape == (40, 30, 3) and data["joint_vel"].shape == (40, 29)


def test_phc_motion_lib(tmp_path):
    "motion_lib_base: joblib.load, keys of the dict, kinematics from pose_aa alone."
    joblib, robot = pytest.importorskip("joblib"), robot_of("biped")
    motion = dance(robot)
    write_phc({"walk": motion}, tmp_path/"m.pkl", extend=3)
    data = joblib.load(tmp_path/"m.pkl")
    assert list(data) == ["walk"]
    clip = data["walk"]
    assert clip["fps"] == 50 and isinstance(clip["fps"], int) and clip["root_trans_offset"].shape == (40, 3) and clip["pose_aa"].shape == (40, 13, 3) and not clip["pose_aa"][:, 10:].any()
    local = Rotation.from_rotvec(clip["pose_aa"].reshape(-1, 3)).as_quat(scalar_first=True).reshape(40, 13, 4)
    pos, quat = fk(robot, motion)
    rot = {0: Rotation.from_quat(local[:, 0], scalar_first=True)}
    where = {0: clip["root_trans_offset"]}
    for b, p in list(enumerate(robot.tree.parents))[1:]:
        where[b] = where[p] + rot[p].apply(robot.tree.offset_pos[b])
        rot[b] = rot[p]*Rotation.from_quat(robot.tree.offset_quat[b], scalar_first=True)*Rotation.from_quat(local[:, 1 + robot.tree.joints[b][0][0]], scalar_first=True)
        assert np.abs(where[b] - pos[:, b]).max() < 1e-9 and turn(rot[b].as_quat(scalar_first=True), quat[:, b]).max() < 1e-7


def test_grail_motion_lib(tmp_path):
    joblib, motion = pytest.importorskip("joblib"), dance(robot_of("biped"), extra={"hand_dof_pos": np.ones((40, 14)), "hand_action_left": -np.ones(40)})
    write_grail(motion, tmp_path/"pick_up.pkl")
    data = joblib.load(tmp_path/"pick_up.pkl")
    clip = data["pick_up"]
    assert list(data) == ["pick_up"] and isinstance(clip["fps"], float) and {k: v.dtype.name for k, v in clip.items() if hasattr(v, "dtype")} == dict.fromkeys(
        ("root_trans_offset", "pose_aa", "dof", "root_rot", "smpl_joints", "hand_dof_pos", "hand_action_left"), "float32")
    assert np.abs(Rotation.from_quat(clip["root_rot"]).as_rotvec() - clip["pose_aa"][:, 0]).max() < 1e-5 and clip["smpl_joints"].shape == (40, 24, 3)


def test_protomotions_loader(tmp_path):
    torch, robot = pytest.importorskip("torch"), robot_of("biped")
    motion = dance(robot)
    write_protomotions(motion, tmp_path/"m.motion")
    data = torch.load(tmp_path/"m.motion", weights_only=True)
    assert data["fps"] == 50 and all(v.dtype == torch.float32 for k, v in data.items() if k != "fps") and data["rigid_body_rot"].shape == (40, 10, 4)
    assert np.abs(data["rigid_body_rot"][:, 0].numpy() - to_xyzw(motion.root_quat)).max() < 1e-6


def test_mimickit_loader(tmp_path):
    motion = dance(robot_of("biped"))
    write_mimickit(motion, tmp_path/"m.pkl")
    import pickle
    data = pickle.loads((tmp_path/"m.pkl").read_bytes())
    frames = np.array(data["frames"])
    assert data["loop_mode"] == 0 and data["fps"] == 50 and frames.shape == (40, 15)
    assert np.abs(frames[:, :3] - motion.root_pos).max() < 1e-9 and np.abs(frames[:, 3:6] - quat_log(motion.root_quat)).max() < 1e-9 and np.abs(frames[:, 6:] - motion.dof_pos).max() < 1e-9


def test_poselib_loader(tmp_path):
    "SkeletonMotion.from_dict: item() of an object array, tensors under `arr`, global poses from local rotations."
    robot, motion = robot_of("biped"), dance(robot_of("biped"))
    write_poselib(motion, tmp_path/"m.npy")
    data = np.load(tmp_path/"m.npy", allow_pickle=True).item()
    assert data["__name__"] == "SkeletonMotion" and data["is_local"] is True and data["fps"] == 50
    tree = data["skeleton_tree"]
    rot, pos = [], []
    for k, p in enumerate(tree["parent_indices"]["arr"]):
        own = Rotation.from_quat(data["rotation"]["arr"][:, k])
        rot.append(own if p < 0 else rot[p]*own)
        pos.append(data["root_translation"]["arr"] if p < 0 else pos[p] + rot[p].apply(tree["local_translation"]["arr"][k]))
    assert np.abs(np.stack(pos, 1) - fk(robot, motion)[0]).max() < 1e-9 and tree["node_names"] == list(robot.body_names)


def test_locomujoco_loaders(tmp_path):
    "v1 refuses unknown keys and builds addresses from names and types; v0 sets each joint of the model by name."
    robot = robot_of("biped")
    motion = dance(robot)
    write_locomujoco(motion, tmp_path/"v1.npz", robot=robot)
    data = np.load(tmp_path/"v1.npz", allow_pickle=True)
    info, model, arrays = {"joint_names", "frequency", "body_names", "site_names", "metadata"}, {"njnt", "jnt_type", "nbody"}, {"qpos", "qvel", "split_points"}
    assert set(data.files) <= info | model | arrays and data["joint_names"].tolist()[1:] == list(robot.joint_names) and float(data["frequency"].tolist()) == 50
    assert data["jnt_type"].tolist() == [0] + [3]*9 and data["split_points"].tolist() == [0, 40] and int(data["njnt"]) == 10
    mj, velocity = mujoco.MjData(robot.model), np.zeros(6)
    mj.qpos[:], mj.qvel[:] = data["qpos"][7], data["qvel"][7]
    mujoco.mj_forward(robot.model, mj)
    mujoco.mj_objectVelocity(robot.model, mj, mujoco.mjtObj.mjOBJ_XBODY, 1, velocity, 0)
    assert np.abs(velocity[:3] - motion.velocities().root_ang_vel[7]).max() < 1e-9 and np.abs(velocity[3:] - motion.velocities().root_lin_vel[7]).max() < 1e-9
    write_locomujoco_v0(motion, tmp_path/"v0.npz", rest_height=.755)
    raw, base = np.load(tmp_path/"v0.npz"), mujoco.MjModel.from_xml_string(f'<mujoco><worldbody><body pos="0 0 .755">{SLIDES}<geom size=".1"/></body></worldbody></mujoco>')
    mj = mujoco.MjData(base)
    mj.qpos[:] = [raw[f"q_{base.joint(j).name}"][7] for j in range(6)]
    mujoco.mj_forward(base, mj)
    assert np.abs(mj.xpos[1] - motion.root_pos[7]).max() < 1e-9 and turn(mj.xquat[1], motion.root_quat[7]) < 1e-7
    assert np.abs(base_pose(np.zeros((1, 3)))[0] - [1, 0, 0, 0]).max() == 0


def test_amp_rsl_rl_loader(tmp_path):
    "AMPLoader: lists of arrays that have a dtype, names found by index, missing joints zero, xyzw for scipy."
    motion = dance(robot_of("biped"))
    write_amp_rsl_rl(motion, tmp_path/"m.npy")
    data = np.load(str(tmp_path/"m.npy"), allow_pickle=True).item()
    expected = [*reversed(motion.joint_names), "neck"]
    index = [data["joints_list"].index(j) if j in data["joints_list"] else None for j in expected]
    rows = []
    for frame in data["joint_positions"]:
        row = np.zeros(len(index), dtype=frame.dtype)
        for i, source in enumerate(index):
            if source is not None: row[i] = frame[source]
        rows.append(row)
    assert np.array_equal(np.array(rows)[:, -2::-1], motion.dof_pos) and not np.array(rows)[:, -1].any() and 1.0/data["fps"] == .02
    assert turn(Rotation.from_quat(data["root_quaternion"]).as_quat(scalar_first=True), motion.root_quat).max() < 1e-7


def test_motionvqvae_loader(tmp_path):
    "motion_lib_npy: clips begin at falling edges of the last column, fps is one over the mean step of time."
    robot = robot_of("biped")
    both = concatenate([dance(robot, T=20), dance(robot, T=30, seed=1)], boundaries=True)
    write_motionvqvae(both, tmp_path/"m.npy")
    table = np.load(tmp_path/"m.npy")
    flag = table[:, -1]
    ends = [t + 1 for t in range(len(flag) - 1) if flag[t] > .5 and flag[t + 1] < .5] + [len(flag)]
    assert ends == [20, 50] and table.shape == (50, 9 + 9)
    for a, b in zip([0, 20], ends): assert 1/np.mean(np.diff(table[a:b, 0])) == pytest.approx(50)
    assert np.array_equal(table[:, 4:8], both.root_quat) and np.array_equal(table[:, 8:-1], both.dof_pos)


# ---- damaged and foreign content

ODD = [None, "text", 3, -1., [], {}, [[1, 2], [3]], np.zeros(0), np.zeros((3, 3)), np.zeros((40, 0)), np.full((40, 4), np.nan), np.array(["a"]*40), {"x": 1}, b"abc", np.zeros((40, 3, 4, 5)), np.array(7)]


@pytest.mark.parametrize("form", ["phc", "mimickit", "parc", "isaaclab", "beyondmimic", "locomujoco"])
def test_odd_content_is_one_clean_error(form, tmp_path):
    "Every entry of the file in turn holds what nobody expects: it is read, or refused by one MotionFormatError."
    robot, (write, options) = robot_of("biped"), WRITERS[form]
    write(dance(robot), tmp_path/"a")
    packed = form in ("phc", "mimickit", "parc")
    if packed:
        outer = safe_pickle.load(tmp_path/"a")
        good = next(iter(outer.values())) if form == "phc" else safe_pickle.loads(outer["motion_data"]) if form == "parc" else outer
    else:
        with np.load(tmp_path/"a") as z: good = {k: z[k] for k in z.files}
    refused = 0
    for key in good:
        for odd in ODD:
            clip = {**good, key: odd}
            if packed: safe_pickle.dump({"clip": clip} if form == "phc" else {"motion_data": pickled(clip)} if form == "parc" else clip, tmp_path/"b")
            elif isinstance(odd, (np.ndarray, str, int, float)):
                with open(tmp_path/"b", "wb") as f: np.savez(f, **clip)
            try: read_motion(tmp_path/"b", format=form, **{k: robot for k in options})
            except MotionFormatError as e: refused += bool(str(e))
    assert refused > 3*len(good)
