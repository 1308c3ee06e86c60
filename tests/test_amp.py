"AMP features against an independent re-implementation, against MuJoCo's own velocities, and against what must not change them."
import json
import pickle
from dataclasses import replace

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.spatial.transform import Rotation

from motionbench.amp.dataset import AmpDataset, describe_dataset
from motionbench.amp.features import amp_features, order_joints
from motionbench.amp.files import read_amp, world_velocities, write_amp
from motionbench.amp.layout import AmpLayout, joint_order, robot_layout
from motionbench.core.errors import ConfigError, InvalidMotion, MotionFormatError, RobotError
from motionbench.core.motion import Motion, concatenate, transform
from motionbench.core.robot import load_robot
from motionbench.core.rotation import yaw_quat


@pytest.fixture(scope="module")
def biped(): return load_robot("biped")


def wild_clip(robot, seed=0, fps=30.0, frames=91):
    "A smooth motion through all of SO(3) and most of the joint ranges, feet sometimes on the ground."
    rng, t = np.random.default_rng(seed), np.arange(frames)/fps
    wave = lambda n: (rng.uniform(.2, 1, n)*np.sin(2*np.pi*np.outer(t, rng.uniform(.2, 1.2, n)) + rng.uniform(0, 6, n)))
    low, high = robot.joint_range.T
    quat = (Rotation.from_rotvec(np.outer(t*rng.uniform(-2, 2) + rng.uniform(-3, 3), [0, 0, 1]))*Rotation.from_rotvec(0.5*wave(3))).as_quat(scalar_first=True)
    return Motion(fps, 0.3*wave(3) + [0, 0, .5] + np.outer(t, [*rng.uniform(-1, 1, 2), 0]), quat, (low + high)/2 + 0.4*(high - low)*wave(len(low)),
                  robot.joint_names, robot.name, source={"file": "wild.npz"})


def oracle(motion, robot, fps, joints, height=0.02, speed=0.25):
    "The same features once more, one frame after the other, with MuJoCo's kinematics and scipy's rotations."
    n = int(motion.duration*fps + 1e-9) + 1
    pos, ang, rot = [], [], []
    for k in range(n):
        s = min(k/fps*motion.fps, len(motion) - 1)
        i = min(int(s), len(motion) - 2)
        a, b = (Rotation.from_quat(motion.root_quat[i + d], scalar_first=True) for d in (0, 1))
        pos.append(motion.root_pos[i]*(1 - s + i) + motion.root_pos[i+1]*(s - i))
        ang.append(motion.dof_pos[i]*(1 - s + i) + motion.dof_pos[i+1]*(s - i))
        rot.append(Rotation.from_rotvec((b*a.inv()).as_rotvec()*(s - i))*a)
    model, data, soles = robot.model, mujoco.MjData(robot.model), []
    for k in range(n):
        data.qpos[:3], data.qpos[3:7] = pos[k], rot[k].as_quat(scalar_first=True)
        for name, q in zip(motion.joint_names, ang[k]): data.joint(name).qpos[0] = q
        mujoco.mj_kinematics(model, data)
        soles.append({f.side: [data.body(f.body).xpos + data.body(f.body).xmat.reshape(3, 3)@p for p in f.points] for f in robot.feet})
    rows = []
    for k in range(n):
        i, j = max(k - 1, 0), min(k + 1, n - 1)
        dt = (j - i)/fps
        x = rot[k].as_matrix()[:, 0]
        forward = np.array([x[0], x[1], 0])/np.hypot(x[0], x[1])
        heading = np.stack([forward, np.cross([0, 0, 1], forward), [0, 0, 1]])       # rows: the heading's axes in the world
        turn = (rot[j]*rot[i].inv()).as_rotvec()/dt
        touch = [any(bool(toe) == (end == "toe") and soles[k][f.side][p][2] < height and np.linalg.norm(np.subtract(soles[j][f.side][p], soles[i][f.side][p])/dt) < speed
                     for p, toe in enumerate(f.toe)) for f in robot.feet for end in ("toe", "heel")]
        order = [motion.joint_names.index(name) for name in joints]
        rows.append([*ang[k][order], *((ang[j] - ang[i])/dt)[order], *(heading@(pos[j] - pos[i])/dt), *(heading@turn), pos[k][2], *touch])
    return np.array(rows, float)


# ---- layout

@pytest.mark.parametrize("n, c", [(9, 4), (8, 4), (29, 4), (1, 0), (9, 2)])
def test_dimension_for_any_number_of_joints_and_contacts(n, c):
    layout = AmpLayout([f"j{i}" for i in range(n)], [f"c{i}" for i in range(c)])
    assert layout.dim == 2*n + 3 + 3 + 1 + c == len(layout.columns) == len(set(layout.columns)) == sum(r["dim"] for r in layout.describe())
    parts = layout.split(np.arange(layout.dim)[None])
    assert np.concatenate(list(parts.values()), 1).tolist() == [list(range(layout.dim))]


def test_the_guides_table(biped):
    slices = {k: (s.start, s.stop - 1) for k, s in robot_layout(biped).slices.items()}
    assert list(slices.values()) == [(0, 8), (9, 17), (18, 20), (21, 23), (24, 24), (25, 28)] and list(slices) == list(biped.config["dimensions"]["amp_feature_breakdown"])


def test_joint_order_from_a_config_file_else_from_the_model(biped, tmp_path):
    names = sorted(biped.joint_names)
    path = tmp_path/"order.yaml"
    path.write_text("actuators:\n  joints: [" + ", ".join(names) + "]\n")
    assert joint_order(biped, path) == (tuple(names), "actuators.joints of order.yaml")
    bare = replace(biped, config=None)
    assert joint_order(bare) == (biped.joint_names, "model order of biped")
    wild = wild_clip(biped)
    by_file, by_model = amp_features(wild, biped, config=path), amp_features(wild, bare)
    assert by_file.layout.joint_names == tuple(names) and by_file.meta["joint_order_source"] == "actuators.joints of order.yaml"
    for block in ("joint_positions", "joint_velocities"):
        assert (by_file[block] == by_model[block][:, [biped.joint_names.index(n) for n in names]]).all()
    assert (by_file.features[:, 18:] == by_model.features[:, 18:]).all()


@pytest.mark.parametrize("change, words", [
    (lambda j: j[:-1], "missing none; extra right_ankle_pitch"), (lambda j: [*j, "neck"], "missing neck; extra none"),
    (lambda j: ["waist", *j[1:]], "missing waist; extra waist_yaw"), (lambda j: [*j[:-1], j[0]], "waist_yaw more than once")])
def test_a_config_for_another_robot_is_refused(biped, change, words):
    with pytest.raises(ConfigError, match=words): robot_layout(biped, {"actuators": {"joints": change(list(biped.joint_names))}})


def test_a_stated_dimension_must_agree(biped):
    with pytest.raises(ConfigError, match="amp_feature_dim is 27.*make 29"):
        robot_layout(biped, {**biped.config, "dimensions": {"amp_feature_dim": 27}})


@pytest.mark.parametrize("text", ["[1, 2", "joints: [a]", "actuators: {joints: a}", "", "actuators: [1]"])
def test_a_config_that_is_none(biped, tmp_path, text):
    path = tmp_path/"robot_config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="robot_config.yaml"): amp_features(wild_clip(biped), biped, config=path)


def test_motion_of_another_robot_is_refused(biped):
    wild = wild_clip(biped)
    other = replace(wild, joint_names=("waist_joint", *biped.joint_names[1:]))
    with pytest.raises(ConfigError, match=r"motion \(wild.npz\).*missing waist_yaw; extra waist_joint"): amp_features(other, biped)


# ---- features

@pytest.mark.parametrize("seed, fps, target", [(0, 30, 50), (1, 120, 50), (2, 50, 50), (3, 33.224, 50), (4, 30, 25)])
def test_features_equal_the_oracle(biped, seed, fps, target):
    wild = wild_clip(biped, seed, fps, frames=61)
    clip = amp_features(wild, biped, target)
    want = oracle(wild, biped, target, biped.config["actuators"]["joints"])
    assert clip.features.shape == want.shape and clip.features.dtype == np.float64
    assert np.abs(clip.features - want).max() < 1e-8


@pytest.mark.parametrize("name", ["unitree_g1", "booster_t1"])
def test_robots_without_a_config_use_the_models_order(name):
    try: robot = load_robot(name)
    except RobotError as e: pytest.skip(str(e))
    unlimited = np.isinf(robot.joint_range).any()
    wild = wild_clip(robot if not unlimited else replace(robot, joint_range=np.clip(robot.joint_range, -2, 2)), 11, 30, 31)
    clip = amp_features(wild, robot)
    assert clip.layout.joint_names == robot.joint_names and clip.layout.dim == 2*len(robot.joint_names) + 11 and "model order" in clip.meta["joint_order_source"]
    assert np.abs(clip.features - oracle(wild, robot, 50, robot.joint_names)).max() < 1e-8


def test_every_contact_column_is_exercised_by_the_oracle(biped):
    stand = Motion(50, np.tile([0, 0, .515], (40, 1)), yaw_quat(np.zeros(40)), np.zeros((40, 9)), biped.joint_names, "biped")
    tilt = np.zeros((40, 9))
    tilt[:, biped.joint_names.index("left_ankle_pitch")] = 0.4            # left on its toe
    tilt[:, biped.joint_names.index("right_ankle_pitch")] = -0.4          # right on its heel
    tilted = replace(stand, dof_pos=tilt)
    for motion, want in ((stand, [1, 1, 1, 1]), (tilted, [1, 0, 0, 1]), (replace(stand, root_pos=stand.root_pos + [0, 0, .03]), [0, 0, 0, 0]),
                         (replace(stand, root_pos=stand.root_pos + np.outer(np.arange(40)/50, [.3, 0, 0])), [0, 0, 0, 0])):   # sliding faster than 0.25 m/s
        got = amp_features(motion, biped)
        assert (got["foot_contacts"] == want).all(), want
        assert np.array_equal(got.features[:, 25:], oracle(motion, biped, 50, biped.joint_names)[:, 25:])


def test_contact_thresholds_are_parameters(biped):
    t = np.arange(40)/50
    slide = Motion(50, np.outer(t, [.3, 0, 0]) + [0, 0, .515 + .03], yaw_quat(0*t), np.zeros((40, 9)), biped.joint_names, "biped")
    rate = lambda **k: amp_features(slide, biped, **k)["foot_contacts"].mean()
    assert rate() == rate(contact_height=.04) == rate(contact_speed=.4) == 0 and rate(contact_height=.04, contact_speed=.4) == 1


def test_joints_move_together_with_their_stored_velocities_and_torques(biped):
    wild = wild_clip(biped)
    wild = replace(wild, dof_vel=wild.dof_pos*2, torque=wild.dof_pos*3)
    back = order_joints(wild, wild.joint_names[::-1])
    assert (back.dof_vel == 2*back.dof_pos).all() and (back.torque == 3*back.dof_pos).all() and (back.dof_pos[:, 0] == wild.dof_pos[:, -1]).all()


def test_constant_velocity_and_yaw_rate_are_exact(biped):
    t = np.arange(61)/30
    root_pos = np.outer(t, [.6, .8, 0]) + [3, -2, .5]
    straight = Motion(30, root_pos, yaw_quat(np.full(61, .7)), np.outer(t, np.arange(9.)), biped.joint_names, "biped")
    clip = amp_features(straight, biped, 50)
    forward = np.array([np.cos(.7)*.6 + np.sin(.7)*.8, -np.sin(.7)*.6 + np.cos(.7)*.8, 0])
    assert np.allclose(clip["root_linear_velocity"], forward, atol=1e-12) and np.allclose(clip["root_angular_velocity"], 0, atol=1e-12)
    assert np.allclose(clip["joint_velocities"], np.arange(9.), atol=1e-11) and np.allclose(clip["root_height"], .5)
    turning = replace(straight, root_quat=yaw_quat(8*t))              # 2.5 turns: past every branch cut
    assert np.allclose(amp_features(turning, biped, 50)["root_angular_velocity"], [0, 0, 8], atol=1e-10)


def test_a_robot_that_walks_forward_moves_along_plus_x_whatever_the_room(biped):
    t = np.arange(50)/50
    for heading in (0, 1.5, 3.1, -2):
        root_pos = np.outer(t, [np.cos(heading), np.sin(heading), 0]) + [0, 0, .5]
        clip = amp_features(Motion(50, root_pos, yaw_quat(np.full(50, heading)), np.zeros((50, 9)), biped.joint_names, "biped"), biped)
        assert np.allclose(clip["root_linear_velocity"], [1, 0, 0], atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), heading=st.floats(-7, 7), x=st.floats(-50, 50), y=st.floats(-50, 50))
def test_neither_heading_nor_place_matters(seed, heading, x, y):
    robot = load_biped()
    wild = wild_clip(robot, seed, frames=31)
    moved = transform(wild, heading, [x, y, 0])
    assert np.abs(amp_features(moved, robot).features - amp_features(wild, robot).features).max() < 1e-8


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), flips=st.lists(st.booleans(), min_size=31, max_size=31), order=st.permutations(range(9)))
def test_neither_quaternion_signs_nor_the_files_joint_order_matter(seed, flips, order):
    robot = load_biped()
    wild = wild_clip(robot, seed, frames=31)
    other = replace(wild, root_quat=wild.root_quat*np.where(flips, -1, 1)[:, None])
    other = order_joints(other, [wild.joint_names[i] for i in order])
    assert np.abs(amp_features(other, robot).features - amp_features(wild, robot).features).max() < 1e-9


def load_biped(cache=[]):
    if not cache: cache.append(load_robot("biped"))
    return cache[0]


def test_resampling_is_consistent(biped):
    "Positions at common times do not depend on the target rate, and velocities converge to the truth with the square of the step."
    dense = wild_clip(biped, 5, fps=600, frames=1201)
    at = {fps: amp_features(dense, biped, fps) for fps in (25, 50, 100, 300)}
    for fps, clip in at.items():
        step = fps//25
        assert len(clip) == 2*fps + 1 == clip.clips[0].frames
        for block in ("joint_positions", "root_height"): assert np.abs(clip[block][::step] - at[25][block]).max() < 1e-12
    for block in ("joint_velocities", "root_linear_velocity", "root_angular_velocity"):
        error = [np.abs(at[fps][block][::fps//25] - at[300][block][::12])[1:-1].max() for fps in (25, 50, 100)]
        assert error[0] > 3.5*error[1] > 12*error[2]


def test_velocities_of_a_simulated_fall_are_mujocos(biped):
    "The physics knows its velocities; the features recover them from poses alone."
    model, data = biped.model, mujoco.MjData(biped.model)
    model.opt.gravity[:] = 0, 0, -9.81
    mujoco.mj_resetDataKeyframe(model, data, 0)
    data.qvel[:] = np.random.default_rng(1).normal(0, 1.5, model.nv)
    dt, qpos, truth = model.opt.timestep, [], []
    for _ in range(100):
        mujoco.mj_forward(model, data)
        six = np.zeros(6)
        mujoco.mj_objectVelocity(model, data, mujoco.mjtObj.mjOBJ_XBODY, model.body(biped.root_body).id, six, 0)
        x = data.body(biped.root_body).xmat.reshape(3, 3)[:, 0]
        c, s = x[:2]/np.hypot(*x[:2])
        heading = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
        qpos.append(data.qpos.copy())
        truth.append(np.concatenate([data.qpos[7:], data.qvel[6:], heading@six[3:], heading@six[:3], data.qpos[2:3]]))
        mujoco.mj_step(model, data)
    clip = amp_features(biped.motion(np.array(qpos), 1/dt), biped, target_fps=None)
    # semi-implicit Euler: the velocity at k+1 carries frame k to k+1, so a central difference is the mean of those at k and k+1
    # (the root's two velocities are world vectors; turned by headings that differ by a milliradian)
    want = np.array(truth)
    mean = np.concatenate([want[:-1, :9], (want[:-1, 9:24] + want[1:, 9:24])/2, want[:-1, 24:]], 1)[1:]
    assert np.abs(want[:, 21:23]).max() > 1                                 # it tumbles
    assert np.abs(clip.features[1:-1, :25] - mean).max() < 0.02


def test_angular_velocity_is_that_of_differentiate_pos(biped):
    wild = wild_clip(biped, 7, 50, 41)
    qpos, model, clip = biped.qpos(wild), biped.model, amp_features(wild, biped, None)
    lin, ang = world_velocities(clip)
    for k in range(1, 40):
        qvel = np.zeros(model.nv)
        mujoco.mj_differentiatePos(model, qvel, 2/50, qpos[k - 1], qpos[k + 1])
        world = Rotation.from_quat(wild.root_quat[k - 1], scalar_first=True).apply(qvel[3:6])     # MuJoCo's free joint turns in body axes
        assert np.allclose(lin[k], qvel[:3], atol=1e-10) and np.allclose(ang[k], world, atol=1e-10)
        assert np.allclose(clip["joint_velocities"][k], qvel[6:], atol=1e-10)


def test_without_contacts(biped):
    clip = amp_features(wild_clip(biped), biped, contacts="none")
    assert clip.layout.dim == 25 == clip.features.shape[1] and clip.layout.contact_names == () and clip.meta["contacts"] == {"method": "none"}
    with pytest.raises(ConfigError, match="contact rule of exact is 'guess', expected sole or none"): amp_features(wild_clip(biped), biped, contacts="guess")


def test_what_cannot_be_differenced_is_refused(biped):
    wild = wild_clip(biped)
    with pytest.raises(InvalidMotion, match="two frames"): amp_features(wild.cut(0, 1), biped, None)
    with pytest.raises(InvalidMotion, match="several clips"): amp_features(concatenate([wild, wild], boundaries=True), biped, None)


def test_metadata_states_every_convention(biped):
    meta = describe_dataset(amp_features(wild_clip(biped, fps=33.224), biped, contact_height=.03, contact_speed=.3))
    assert json.loads(json.dumps(meta)) == meta
    assert {"version", "robot", "fps", "dt", "num_frames", "time_base", "units", "world", "heading", "feature_dim", "layout", "blocks", "joint_names", "joint_order_source",
            "contact_names", "contacts", "velocity", "clips", "clip_starts"} <= set(meta)
    assert meta["fps"] == 50 and meta["contacts"]["height_m"] == .03 and meta["contacts"]["speed_m_s"] == .3 and all(b["frame"] and b["unit"] and b["estimator"] for b in meta["blocks"])
    source = meta["clips"][0]["source"]
    resampled = next(s for s in source["steps"] if s["step"] == "resample")
    assert source["file"] == "wild.npz" and 0 <= resampled["remainder_s"] < 1/50


# ---- files

@pytest.fixture
def clip(biped): return amp_features(transform(wild_clip(biped), 1.0, [2, 3, 0]), biped)


@pytest.mark.parametrize("suffix", [".npz", ".pkl"])
def test_files_round_trip(clip, tmp_path, suffix):
    path = write_amp(clip, tmp_path/"deep"/f"wild{suffix}")
    back = read_amp(path)
    assert isinstance(back, AmpDataset) and back.layout == clip.layout and back.fps == 50 and back.clips == clip.clips
    assert np.array_equal(back.features, clip.features.astype(np.float32))
    assert np.abs(back.root_pos - clip.root_pos).max() < 1e-6 and np.abs(back.root_quat - clip.root_quat).max() < 1e-6
    assert back.meta == clip.meta and describe_dataset(back) == describe_dataset(clip)
    assert sorted(p.name for p in path.parent.iterdir()) == sorted([path.name, "wild.joint_order.json"])
    order = json.loads((path.parent/"wild.joint_order.json").read_text())
    assert order["joint_names"] == list(clip.layout.joint_names) and order["joint_order_source"] == clip.meta["joint_order_source"]


def test_the_pickle_is_the_guides(clip, biped, tmp_path):
    with open(write_amp(clip, tmp_path/"wild.pkl"), "rb") as f: data = pickle.load(f)
    assert {"features", "feature_dim", "dof_pos", "dof_vel", "root_pos", "root_rot", "root_lin_vel", "root_ang_vel", "foot_contacts", "fps", "dt", "num_frames", "duration_sec",
            "source_file", "robot", "joint_names"} <= set(data)
    T = data["num_frames"]
    assert data["features"].shape == (T, 29) and data["features"].dtype == np.float32 and data["feature_dim"] == 29
    assert data["joint_names"] == biped.config["actuators"]["joints"] and type(data["joint_names"]) is list
    assert np.array_equal(data["features"], np.concatenate([data["dof_pos"], data["dof_vel"], data["features"][:, 18:25], data["foot_contacts"]], 1))
    # the world-frame arrays differ back to each other: velocity is the derivative of position, in the world
    lin = (data["root_pos"][2:] - data["root_pos"][:-2])*25
    assert np.abs(data["root_lin_vel"][1:-1] - lin).max() < 1e-4
    rot = Rotation.from_quat(data["root_rot"])                                   # scipy's default is xyzw
    assert np.abs(data["root_ang_vel"][1:-1] - (rot[2:]*rot[:-2].inv()).as_rotvec()*25).max() < 1e-4
    assert data["fps"]*data["dt"] == 1 and type(data["fps"]) is float


@pytest.mark.parametrize("change, words", [
    (dict(feature_dim=27), "feature_dim is 27, but amp_metadata says 29"), (dict(joint_names=["a"]), r"joint_names is \['a'\]"), (dict(fps=30.0), "fps is 30.0"),
    (dict(features=np.zeros((5, 27), np.float32)), r"feature_dim is 29, but features have shape \(5, 27\)"), (dict(features=np.zeros((5, 29), np.float32)), "clips of 151 frames do not make 5 rows"),
    (dict(features=np.full((151, 29), np.nan)), "features is nan at frame 0, column 0"), (dict(amp_metadata={}), "does not state joint_names"), (dict(amp_metadata=[1]), "does not state"),
    (dict(root_rot=3), "lacks root_quat"), (dict(root_rot=[[1, 2, 3, 4]]), "lacks root_quat"), (dict(features=None), "lacks features")])
def test_a_pickle_that_contradicts_itself_is_refused(clip, tmp_path, change, words):
    path = write_amp(clip, tmp_path/"wild.pkl")
    data = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps({**data, **change}))
    with pytest.raises(MotionFormatError, match=words): read_amp(path)


@pytest.mark.parametrize("change, words", [
    (dict(joint_names=["a", "b"]), "2 joint_names for dof_pos of 9 columns"), (dict(contact_names=[]), "0 contacts make 25"),
    (dict(version="wildrobot-v1"), "layout version wildrobot-v1"), (dict(version=None), "does not state version"), (dict(fps="fast"), "does not state fps"),
    (dict(joint_names=["a"]*9), "a more than once")])
def test_an_npz_that_contradicts_itself_is_refused(clip, tmp_path, change, words):
    with np.load(write_amp(clip, tmp_path/"wild.npz")) as z: data = dict(z)
    data["metadata"] = np.array(json.dumps({**json.loads(data["metadata"].item()), **change}).encode())
    np.savez(tmp_path/"wild.npz", **data)
    with pytest.raises(MotionFormatError, match=words): read_amp(tmp_path/"wild.npz")


def test_files_that_are_none(clip, tmp_path):
    with pytest.raises(ConfigError, match="not as .csv"): write_amp(clip, tmp_path/"wild.csv")
    (tmp_path/"text.npz").write_text("hello")
    (tmp_path/"text.pkl").write_text("hello")
    np.savez(tmp_path/"other.npz", x=np.zeros(3))
    for name in ("text.npz", "text.pkl", "other.npz", "missing.npz", "missing.pkl"):
        with pytest.raises(MotionFormatError, match=name): read_amp(tmp_path/name)
    path = write_amp(clip, tmp_path/"whole.npz")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(MotionFormatError, match="whole.npz"): read_amp(path)


# ---- generated gaits, whose contacts, speed and turn rate are known

@pytest.fixture(scope="module")
def gaits(biped):
    from motionbench.core.gait import bundled_clips
    from motionbench.retarget.clip import retarget
    return {name: (human, amp_features(retarget(human, biped, fps=50), biped)) for name, human in bundled_clips().items() if name in ("walk", "run", "turn", "stand")}


@pytest.mark.parametrize("name", ["walk", "run", "turn", "stand"])
def test_contacts_agree_with_the_generator(gaits, name):
    "The robot's feet only track the human's (tracking costs contact accuracy), but what the features call contact is what happened."
    human, clip = gaits[name]
    assert human.contact_names == clip.layout.contact_names
    truth = human.resample(50).contacts[:len(clip)]
    agree = (clip["foot_contacts"][:len(truth)] == truth).mean(0)
    assert agree.min() > 0.8 and agree.mean() > 0.88, agree
    rate = clip["foot_contacts"].mean(0)
    assert name == "stand" or ((rate > 0.05) & (rate < 0.95)).all(), rate            # no column is stuck


def test_speed_and_turn_rate_are_the_generators(gaits):
    "Distances shrink by the robot's scale, one number for all gaits; the turn rate does not shrink."
    speed = {name: clip["root_linear_velocity"][:, 0].mean()/np.linalg.norm(np.gradient(human.joint_pos[:, 0, :2], axis=0)*human.fps, axis=1).mean()
             for name, (human, clip) in gaits.items() if name in ("walk", "run")}
    assert 0.4 < speed["walk"] < 0.7 and abs(speed["walk"] - speed["run"]) < 0.02, speed
    for name, rate in dict(walk=0, run=0, turn=0.6, stand=0).items():
        assert abs(gaits[name][1]["root_angular_velocity"][:, 2].mean() - rate) < 0.02
    assert np.abs(gaits["stand"][1]["root_linear_velocity"]).max() < 0.02
    airborne = (gaits["run"][1]["foot_contacts"] == 0).all(1).mean()
    assert airborne > 0.2 and (gaits["walk"][1]["foot_contacts"] == 0).all(1).mean() < airborne/2
