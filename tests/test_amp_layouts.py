"Every layout against a plain re-implementation of its source's semantics, one frame after the other, on real and on generated clips."
import os
from dataclasses import replace
from pathlib import Path

import mujoco
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from motionbench.amp.dataset import AmpDataset
from motionbench.amp.features import amp_features
from motionbench.amp.files import read_amp, write_amp
from motionbench.amp.layout import LAYOUTS, AmpLayout, robot_layout
from motionbench.amp.wildrobot import heuristic_contacts
from motionbench.core.errors import ConfigError
from motionbench.core.gait import bundled_clips
from motionbench.core.motion import transform
from motionbench.core.robot import load_robot
from motionbench.io.registry import read_motion
from motionbench.retarget.clip import retarget

GMR = Path(os.environ.get("MOTIONBENCH_TEST_DATA", Path(__file__).parents[1]/"../shared/data"))/"gmr"
CLIPS = ("walk", "turn", "run", "jump_g1", "jump_t1", "turned")


@pytest.fixture(scope="module")
def robots(): return {name: load_robot(name) for name in ("biped", "unitree_g1", "booster_t1")}


@pytest.fixture(scope="module")
def clips(robots):
    "Name -> motion and robot; the two jumps are files of GMR itself."
    human, biped = bundled_clips(), robots["biped"]
    out = {name: (retarget(human[name], biped), biped) for name in ("walk", "turn", "run")}
    out["turned"] = transform(out["turn"][0], 2.3, [4, -3, 0]), biped
    for short, name in (("g1", "unitree_g1"), ("t1", "booster_t1")):
        path = GMR/f"cmu_01_01_jump__{name}.pkl"
        if path.is_file(): out[f"jump_{short}"] = read_motion(path, robot=robots[name]), robots[name]
    return out


def clip_of(clips, name):
    if name not in clips: pytest.skip(f"no goldens at {GMR}; set MOTIONBENCH_TEST_DATA")
    return clips[name]


def wildrobot(motion, fps, version, joints, contacts):
    "The converter's semantics as reference/amp.md states them, in a loop; `contacts(k, z, dof)` gives the four of a frame."
    n, order = len(motion), [motion.joint_names.index(j) for j in joints]
    xyzw, dof_pos = motion.root_quat[:, [1, 2, 3, 0]], motion.dof_pos[:, order]
    if abs(motion.fps - fps) > 0.1:
        duration = n/motion.fps
        old, new = np.linspace(0, duration, n), np.linspace(0, duration, int(duration*fps))
        along = lambda a: np.array([[np.interp(t, old, a[:, j]) for j in range(a.shape[1])] for t in new], np.float32)
        pos, quat, dof = along(motion.root_pos), along(xyzw), along(dof_pos)
        quat = quat/np.linalg.norm(quat, axis=1, keepdims=True)                  # the rounding of this line decides the last digit of a velocity
    else: pos, quat, dof = motion.root_pos, xyzw, dof_pos
    dt, rows = 1/fps, []
    for t in range(len(pos)):
        k = max(t, 1)                                                         # the first frame has the second one's velocities
        lin, vel = (pos[k] - pos[k-1])/dt, (dof[k] - dof[k-1])/dt
        if version == "wildrobot-v1":
            x, y, z, w = quat[k-1]
            dx, dy, dz, dw = (quat[k] - quat[k-1])/dt
            ang = 2*np.array([w*dx - x*dw - y*dz + z*dy, w*dy + x*dz - y*dw - z*dx, w*dz - x*dy + y*dx - z*dw])
        else:
            ang = (Rotation.from_quat(quat[k])*Rotation.from_quat(quat[k-1]).inv()).as_rotvec()/dt
            x, y, z, w = quat[t]
            yaw = np.arctan2(2*(w*z + x*y), 1 - 2*(y*y + z*z))
            back = np.array([[np.cos(yaw), np.sin(yaw), 0], [-np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
            lin, ang = back@lin, back@ang
        rows.append([*dof[t], *vel, *lin, *ang, pos[t][2], *contacts(pos[t], quat[t], dof[t])])
    return np.array(rows, np.float32)


def by_heuristic(joints):
    hip = {s: next(i for i, j in enumerate(joints) if j.lower().startswith(f"{s}_hip_pitch")) for s in ("left", "right")}
    knee = {s: next(i for i, j in enumerate(joints) if j.lower().startswith(f"{s}_knee")) for s in ("left", "right")}
    def contacts(pos, quat, dof):
        load = {s: (1.0 if dof[hip[s]] < 0.1 else 0.0)*min(max(1 - abs(dof[knee[s]])/0.5, 0.3), 1.0) for s in hip}
        return load["left"], load["left"], load["right"], load["right"]
    return contacts


def by_geometry(robot, joints):
    data = mujoco.MjData(robot.model)
    def contacts(pos, quat, dof):
        data.qpos[:3], data.qpos[3:7] = pos, quat[[3, 0, 1, 2]]
        for j, q in zip(joints, dof): data.joint(j).qpos[0] = q
        mujoco.mj_kinematics(robot.model, data)
        left, right = (float(data.geom(f"{s}_toe").xpos[2] < 0.02) for s in ("left", "right"))
        return left, left, right, right
    return contacts


@pytest.mark.parametrize("fps", [50, None])
@pytest.mark.parametrize("version", ["wildrobot-v1", "wildrobot-v2"])
@pytest.mark.parametrize("name", ["walk", "turn", "run", "turned", "jump_g1"])
def test_wildrobot_numbers_by_heuristic(clips, name, version, fps):
    motion, robot = clip_of(clips, name)
    got = amp_features(motion, robot, fps, layout=version)
    want = wildrobot(motion, fps or motion.fps, version, got.layout.joint_names, by_heuristic(got.layout.joint_names))
    assert got.features.shape == want.shape and got.features.dtype == np.float32
    for block, s in got.layout.slices.items():
        scale = max(1, np.abs(want[:, s]).max())                              # float32 differences at 50 Hz carry 1e-7 of the values, times 50
        assert np.abs(got.features[:, s] - want[:, s]).max()/scale < 1e-6, block


@pytest.mark.parametrize("version", ["wildrobot-v1", "wildrobot-v2"])
@pytest.mark.parametrize("name", ["walk", "turned"])
def test_wildrobot_contacts_by_geometry(clips, name, version):
    motion, robot = clips[name]
    got = amp_features(motion, robot, 50, layout=version, contacts="geometry")
    want = wildrobot(motion, 50, version, got.layout.joint_names, by_geometry(robot, got.layout.joint_names))
    assert np.abs(got.features - want).max()/np.abs(want).max() < 1e-6 and 0.05 < got["foot_contacts"].mean() < 0.95


def test_t1_has_no_joints_for_the_heuristic(clips):
    motion, robot = clip_of(clips, "jump_t1")
    with pytest.raises(ConfigError, match="need a joint left_hip_pitch.*take contacts sole"): amp_features(motion, robot, layout="wildrobot-v1")
    assert amp_features(motion, robot, layout="wildrobot-v1", contacts="sole").layout.contact_rule == "sole"


def test_the_versions_are_no_heading_invariants_but_the_second(clips):
    "The first depends on where north is; that is why it was given up."
    motion, robot = clips["turn"]
    for version, same in (("wildrobot-v1", False), ("wildrobot-v2", True), ("exact", True), ("amp-rsl-rl", True), ("mimickit", True), ("isaaclab-humanoid", False)):
        a, b = (amp_features(m, robot, layout=version) for m in (motion, transform(motion, 1.7, [3, 1, 0])))
        assert (np.abs(a.features - b.features).max() < 1e-3) == same, version


def plain_frames(motion, robot, bodies):
    "Rotations, body positions and central differences of a clip, from scipy and MuJoCo, frame by frame."
    data, places = mujoco.MjData(robot.model), []
    for pos, quat, dof in zip(motion.root_pos, motion.root_quat, motion.dof_pos):
        data.qpos[:3], data.qpos[3:7] = pos, quat
        for j, q in zip(motion.joint_names, dof): data.joint(j).qpos[0] = q
        mujoco.mj_kinematics(robot.model, data)
        places.append([data.body(b).xpos.copy() for b in bodies])
    rot, n, dt = Rotation.from_quat(motion.root_quat, scalar_first=True), len(motion), 1/motion.fps
    lo, hi = np.maximum(np.arange(n) - 1, 0), np.minimum(np.arange(n) + 1, n - 1)
    span = ((hi - lo)*dt)[:, None]
    return rot, np.array(places), (motion.dof_pos[hi] - motion.dof_pos[lo])/span, (motion.root_pos[hi] - motion.root_pos[lo])/span, (rot[hi]*rot[lo].inv()).as_rotvec()/span


def isaaclab(motion, robot, bodies):
    "dof pos, dof vel, root height, tangent and normal, world velocities, key bodies minus root, as Isaac Lab's humanoid AMP task concatenates them."
    rot, places, vel, lin, ang = plain_frames(motion, robot, bodies)
    return np.concatenate([motion.dof_pos, vel, motion.root_pos[:, 2:], rot.apply([1, 0, 0]), rot.apply([0, 0, 1]), lin, ang, (places - motion.root_pos[:, None]).reshape(len(lin), -1)], 1)


def amp_rsl_rl(motion, robot, bodies):
    rot, _, vel, lin, ang = plain_frames(motion, robot, ())
    return np.concatenate([motion.dof_pos, vel, rot.inv().apply(lin), rot.inv().apply(ang)], 1)


def mimickit(motion, robot, bodies):
    "MimicKit's discriminator observation for a window of one frame: root position, root rotation, joint rotations, key bodies, velocities, in the frame's own heading."
    rot, places, vel, lin, ang = plain_frames(motion, robot, bodies)
    x = rot.apply([1, 0, 0])
    back = Rotation.from_rotvec(np.outer(-np.arctan2(x[:, 1], x[:, 0]), [0, 0, 1]))
    tan_norm = lambda r: np.concatenate([r.apply([1, 0, 0]), r.apply([0, 0, 1])], 1)
    turns = []
    for b in range(2, robot.model.nbody):                                     # all bodies but world and root
        joints = range(robot.model.body_jntadr[b], robot.model.body_jntadr[b] + robot.model.body_jntnum[b])
        r = Rotation.identity(len(motion))
        for j in joints: r = r*Rotation.from_rotvec(motion.dof_pos[:, [motion.joint_names.index(robot.model.jnt(j).name)]]*robot.model.jnt_axis[j])
        turns.append(tan_norm(r))
    keys = [back.apply(places[:, k] - motion.root_pos) for k in range(len(bodies))]
    return np.concatenate([motion.root_pos*[0, 0, 1], tan_norm(back*rot), *turns, *keys, back.apply(lin), back.apply(ang), vel], 1)


@pytest.mark.parametrize("layout, oracle", [("isaaclab-humanoid", isaaclab), ("amp-rsl-rl", amp_rsl_rl), ("mimickit", mimickit)])
@pytest.mark.parametrize("name", ["turned", "jump_g1", "jump_t1"])
def test_layouts_of_other_trainers(clips, name, layout, oracle):
    motion, robot = clip_of(clips, name)
    motion = motion.cut(0, 80)
    got = amp_features(motion, robot, None, layout=layout)
    want = oracle(replace(motion, joint_names=got.layout.joint_names, dof_pos=got.dof_pos), robot, got.layout.key_bodies)
    assert got.features.shape == want.shape == (80, got.layout.dim) and np.abs(got.features - want).max() < 1e-8


def test_dimensions_of_the_sources(robots):
    "Isaac Lab's 28-joint humanoid with 4 key bodies has 81; a G1 of 29 joints by the same rule 83."
    assert AmpLayout([f"j{i}" for i in range(28)], name="isaaclab-humanoid", key_bodies=["rh", "lh", "rf", "lf"]).dim == 81
    assert robot_layout(robots["unitree_g1"], name="isaaclab-humanoid").dim == 29*2 + 1 + 6 + 6 + 12
    assert robot_layout(robots["biped"], name="amp-rsl-rl").dim == 24


@pytest.mark.parametrize("suffix", [".npz", ".pkl"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_round_trips_with_all_metadata(clips, tmp_path, layout, suffix):
    motion, robot = clips["walk"]
    made = amp_features(motion, robot, layout=layout, name="walk")
    back = read_amp(write_amp(made, tmp_path/f"walk{suffix}"))
    assert back.layout == made.layout and back.meta == made.meta and back.clips == made.clips and back.fps == 50
    assert (back.features == made.features.astype(np.float32)).all() and np.abs(back.dof_pos - made.dof_pos).max() < 1e-6
    assert [b["frame"] for b in back.layout.describe()] == list(LAYOUTS[layout].blocks.values())


@pytest.mark.parametrize("how, words", [
    (dict(layout="wildrobot"), "layout is 'wildrobot', expected exact, wildrobot-v1"), (dict(contacts="heuristic"), "contact rule of exact is 'heuristic', expected sole or none"),
    (dict(layout="amp-rsl-rl", contacts="sole"), "contact rule of amp-rsl-rl is 'sole', expected none"), (dict(key_bodies=["left_foot"]), "exact has no key bodies"),
    (dict(layout="mimickit", key_bodies=["left_hand"]), "key bodies left_hand are not among those of biped"),
    (dict(layout="wildrobot-v2", contacts="geometry", config={"actuators": {"joints": "robot"}, "feet": {"right_toe": "right_sole"}}), "need the geom 'right_sole', which biped lacks")])
def test_what_a_layout_does_not_have_is_refused(clips, how, words):
    motion, robot = clips["walk"]
    if "config" in how: how = {**how, "config": {**how["config"], "actuators": {"joints": list(robot.joint_names)}}}
    with pytest.raises(ConfigError, match=words): amp_features(motion, robot, **how)


def test_missing_foot_geometry_is_refused(clips):
    motion, robot = clips["walk"]
    with pytest.raises(ConfigError, match="biped has no foot geometry.*say contacts none"): amp_features(motion, replace(robot, feet=()))
    assert isinstance(amp_features(motion, replace(robot, feet=()), contacts="none"), AmpDataset)


def test_the_heuristic_knows_mirrored_motors_from_nothing(clips):
    "What makes it a quirk: the same bend of both hips loads one foot and not the other."
    _, robot = clips["walk"]
    bent = np.zeros((1, 9))
    bent[0, [robot.joint_names.index(f"{s}_hip_pitch") for s in ("left", "right")]] = -0.6, 0.6
    assert heuristic_contacts(bent, robot.joint_names).tolist() == [[1, 1, 0, 0]]
