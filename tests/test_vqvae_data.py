"Settings, features and windows of the token model: what must not change them, the known faults of others, and one clear error for each bad input."
import json, os, subprocess, sys
from dataclasses import asdict, replace
from pathlib import Path

import mujoco
import numpy as np
import pytest
import yaml
from hypothesis import given, settings, strategies as st
from scipy.spatial.transform import Rotation

from motionbench.core.errors import ConfigError, InvalidMotion, MotionbenchError, MotionFormatError, RobotError
from motionbench.core.gait import bundled_clips
from motionbench.core.mirror import mirror_motion
from motionbench.core.motion import Motion, concatenate, transform
from motionbench.core.robot import load_robot
from motionbench.core.rotation import quat_to_matrix, yaw, yaw_quat
from motionbench.io.native import write_npz
from motionbench.io.phc import G1_23, write_phc
from motionbench.retarget.clip import retarget
from motionbench.vqvae.clips import clips_in, read_clips
from motionbench.vqvae.config import ConfigLoader, VqvaeConfig, load_config
from motionbench.vqvae.data import VqvaeData, Windows, make_data, read_data, split, statistics, units
from motionbench.vqvae.features import LAYOUTS, Layout, layout_of, motion_features, motion_of_features
from motionbench.vqvae.geometry import joint_reach

DATA = Path(os.environ.get("MOTIONBENCH_TEST_DATA", Path(__file__).parents[1]/"../shared/data"))/"robot_motion"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no robot motion at {DATA}; set MOTIONBENCH_TEST_DATA")
few = settings(max_examples=15, deadline=None)
seeds = st.integers(0, 10**6)
layouts = st.sampled_from([(name, expmap) for name in LAYOUTS for expmap in (False, True)])


@pytest.fixture(scope="module")
def biped(): return load_robot("biped")


@pytest.fixture(scope="module")
def clips(biped): return {name: retarget(clip, biped) for name, clip in bundled_clips().items()}


def wild(robot, seed=0, frames=40, fps=30.0):
    "A smooth motion that turns all the way round and tilts by up to about 60 degrees."
    rng, t = np.random.default_rng(seed), np.arange(frames)/fps
    wave = lambda n: rng.uniform(.2, 1, n)*np.sin(2*np.pi*np.outer(t, rng.uniform(.2, 1.2, n)) + rng.uniform(0, 6, n))
    quat = (Rotation.from_rotvec(np.outer(t*rng.uniform(-4, 4) + rng.uniform(-3, 3), [0, 0, 1]))*Rotation.from_rotvec(0.6*wave(3))).as_quat(scalar_first=True)
    return Motion(fps, 0.3*wave(3) + [0, 0, .5] + np.outer(t, [*rng.uniform(-1, 1, 2), 0]), quat, 0.5*wave(len(robot.joint_names)), robot.joint_names, robot.name)


def table(motion, flag):
    "A clip as MotionVQVAE has it on disk."
    return np.c_[motion.times, motion.root_pos, motion.root_quat, motion.dof_pos, flag]


def counted(*lengths):
    "Clips whose rows are their number and the frame's."
    rows = [np.c_[np.full(n, k), np.arange(n)] for k, n in enumerate(lengths)]
    names = tuple(f"clip{k}" for k in range(len(lengths)))
    return VqvaeData(np.concatenate(rows).astype(np.float32), tuple(np.cumsum([0, *lengths[:-1]]).tolist()), names, names, Layout("motion", ("clip:k", "frame:k"), (), "none", 30))


plain = dict(mean=np.zeros(2), std=np.ones(2))


# settings

def test_the_guides_file_is_read_as_printed(guide_yaml, tmp_path):
    (tmp_path/"agent.yaml").write_text(guide_yaml)
    assert yaml.safe_load(guide_yaml)["agent"]["config"]["lr"] == "2e-4"          # what PyYAML makes of it
    config = load_config(tmp_path/"agent.yaml")
    assert (config.lr, config.window_size, config.total_iter, config.code_dim, config.num_joints, config.prefer_expmap) == (2e-4, 32, 10000, 512, 24, False)
    settings = ConfigLoader(tmp_path/"agent.yaml").to_dict()
    assert settings["lr"] == 2e-4 and set(settings) == set(VqvaeConfig.model_fields) and load_config(settings) == config
    assert any("num_joints" in n for n in config.notes)
    (tmp_path/"flat.yaml").write_text("lr: 2.0e-4\nlr_scheduler: [500, 800]\nspeeds: 1.2\n")
    flat = load_config(tmp_path/"flat.yaml", lr=1e-3)
    assert (flat.lr, flat.lr_scheduler, flat.speeds) == (1e-3, (500, 800), (1.2,))
    (tmp_path/"none.yaml").write_text("agent:\n  config:\n")
    assert load_config(tmp_path/"none.yaml") == load_config() == VqvaeConfig()


@pytest.mark.parametrize("given, said", [
    (dict(nb_code=0), "nb_code is 0: input should be greater than or equal to 2"),
    (dict(windw_size=32), "unknown key windw_size, did you mean window_size?"),
    (dict(lr="fast"), "lr is 'fast'"), (dict(lr=0), "lr is 0"), (dict(lr=float("nan")), "lr is nan"),
    (dict(quantizer="vq"), "quantizer is 'vq': input should be 'ema'"), (dict(recons_loss="l3"), "recons_loss is 'l3'"),
    (dict(window_size=3), "window_size is 3, less than the 4 frames of one token"),
    (dict(quantizer="multihead", code_dim=60), "code_dim 60 cannot be divided among 8 heads"),
    (dict(levels=[8, 1]), "levels.1 is 1"), (dict(levels=[]), "levels is []"), (dict(validation=1), "validation is 1"), (dict(device="gpu"), "device is 'gpu'"), (dict(batch_size=2.5), "batch_size is 2.5"),
    (dict(speeds=[1.2, 1.2]), "speeds are (1.2, 1.2)"), (dict(speeds=[1]), "other than 1"), (dict(lr_scheduler=[0]), "lr_scheduler.0 is 0"),
    (dict(use_wandb=True, tracker="jsonl"), "use_wandb is true, but tracker is 'jsonl'"), (dict(use_wandb=False, tracker="wandb"), "use_wandb is false"),
    (dict(apply_sim_to_real_map=True), "needs sim_to_real_idx"), (dict(apply_sim_to_real_map=True, sim_to_real_idx=[1, 1]), "names a joint twice"),
    (dict(apply_sim_to_real_map=True, sim_to_real_idx=[0, 1], real_dof=3), "real_dof is 3, but sim_to_real_idx has 2"), (dict(sim_to_real_idx=[-1]), "sim_to_real_idx"),
])
def test_a_bad_setting_is_one_clear_error(given, said):
    with pytest.raises(ConfigError) as e: load_config(given)
    assert said in str(e.value) and "\n" not in str(e.value) and "pydantic" not in str(e.value)


@pytest.mark.parametrize("text, said", [("[1, 2]", "found list"), ("a: [", "not YAML"), ("agent: {config: {}, more: 1}", "more beside config"), ("\xff", "not YAML"), ("agent: 5", "found int")])
def test_a_file_that_is_no_settings(tmp_path, text, said):
    (tmp_path/"x.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=said): load_config(tmp_path/"x.yaml")
    with pytest.raises(ConfigError, match="cannot be read"): load_config(tmp_path/"missing.yaml")


def test_settings_about_tracking_and_without_effect():
    assert load_config(use_wandb=True).tracker == "wandb" and load_config(load_config(use_wandb=True).model_dump()).tracker == "wandb" and load_config().notes == ()
    assert [n.split()[0] for n in load_config(num_workers=8, real_dof=23, prefer_expmap=True, layout="robot50").notes] == ["num_workers", "real_dof", "prefer_expmap"]


def test_the_command_line_may_import_these_without_torch():
    code = "import sys, motionbench.vqvae.config, motionbench.vqvae.features, motionbench.vqvae.data; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


# features

@few
@given(seeds, st.floats(-6, 6), st.floats(-50, 50), layouts)
def test_turning_and_moving_a_clip_changes_nothing(biped, seed, heading, shift, kind):
    motion, (name, expmap) = wild(biped, seed), kind
    layout = layout_of(name, motion, prefer_expmap=expmap)
    a, b = (motion_features(m, layout, biped) for m in (motion, transform(motion, heading, (shift, -shift, 0))))
    np.testing.assert_allclose(a, b, atol=2e-5)


@few
@given(seeds, layouts)
def test_the_sign_of_a_quaternion_and_the_order_of_joints_change_nothing(biped, seed, kind):
    motion, rng, (name, expmap) = wild(biped, seed), np.random.default_rng(seed), kind
    order = rng.permutation(len(motion.joint_names))
    same = replace(motion, root_quat=motion.root_quat*rng.choice([-1, 1], (len(motion), 1)), dof_pos=motion.dof_pos[:, order], joint_names=tuple(motion.joint_names[i] for i in order))
    layout = layout_of(name, motion, prefer_expmap=expmap)
    np.testing.assert_allclose(motion_features(motion, layout, biped), motion_features(same, layout, biped), atol=1e-6)


@few
@given(seeds, st.booleans(), st.integers(2, 200))
def test_the_way_back_is_exact(biped, seed, expmap, frames):
    motion = wild(biped, seed, frames)
    layout = layout_of("motion", motion, prefer_expmap=expmap)
    back = motion_of_features(motion_features(motion, layout), layout, motion.root_pos[0, :2], yaw(motion.root_quat[0]))
    np.testing.assert_allclose(back.root_pos, motion.root_pos, atol=2e-5)
    np.testing.assert_allclose(quat_to_matrix(back.root_quat), quat_to_matrix(motion.root_quat), atol=2e-5)
    np.testing.assert_array_equal(back.dof_pos, motion.dof_pos.astype(np.float32))
    assert (back.joint_names, back.robot, back.fps, back.dof_vel) == (motion.joint_names, motion.robot, motion.fps, None)


@few
@given(seeds, layouts)
def test_clips_in_one_motion_do_not_see_each_other(biped, seed, kind):
    a, b, (name, expmap) = wild(biped, seed), wild(biped, seed + 1, frames=23), kind
    layout = layout_of(name, a, prefer_expmap=expmap)
    both = motion_features(concatenate([a, b], boundaries=True), layout, biped)
    np.testing.assert_array_equal(both, np.concatenate([motion_features(m, layout, biped) for m in (a, b)]))


@few
@given(st.floats(0.05, 2), st.floats(-2, 2), st.floats(10, 120), layouts)
def test_uniform_motion_has_uniform_rows_up_to_both_ends(biped, speed, rate, fps, kind):
    "Smoothing with zeros beyond the ends pulls the first and last rows to zero, by up to a half."
    name, expmap = kind
    t = np.arange(40)/fps
    pos = np.c_[speed*(np.sinc(rate*t/np.pi)*t), speed*rate*t**2/2*np.sinc(rate*t/2/np.pi)**2, np.full(40, .5)]         # a circle, or a line where rate is 0
    motion = Motion(fps, pos, yaw_quat(rate*t), np.outer(t, np.arange(9)*.1), biped.joint_names, "biped")
    layout = layout_of(name, motion, prefer_expmap=expmap)
    x, at = motion_features(motion, layout, biped), layout.slices
    for block in {"root_velocity", "yaw_rate", "dof_vel", "root_step"} & set(at): np.testing.assert_allclose(x[:, at[block]], np.broadcast_to(x[20, at[block]], x[:, at[block]].shape), atol=3e-4)
    if name != "motion": return
    chord = speed*np.sinc(rate/fps/2/np.pi)
    np.testing.assert_allclose(x[:, at["root_velocity"]], np.broadcast_to([chord, 0], (40, 2)), atol=3e-4)
    np.testing.assert_allclose(x[:, at["yaw_rate"]], rate, atol=3e-4)
    np.testing.assert_allclose(x[:, at["dof_vel"]], np.broadcast_to(np.arange(9)*.1, (40, 9)), atol=3e-4)


def test_velocities_are_per_second_whatever_the_frame_rate(biped):
    layout = lambda m: layout_of("motion", m)
    slow, fast = wild(biped, 3, 121, 60.), wild(biped, 3, 241, 120.)
    a, b = (motion_features(m, layout(m)) for m in (slow, fast))
    assert np.abs(slow.dof_pos - fast.dof_pos[::2]).max() < 1e-9
    between = (b[0:-2:2] + b[1:-1:2])/2                                    # the two half steps of each step
    np.testing.assert_allclose(a[:-1, :3], between[:, :3], atol=0.02)
    np.testing.assert_allclose(a[1:-1, layout(slow).slices["dof_vel"]], b[2:-2:2, layout(fast).slices["dof_vel"]], atol=0.05)
    assert np.abs(a[:, :3]).max() > 0.5


def test_rows_against_a_second_implementation(biped):
    motion = wild(biped, 5)
    R, p = Rotation.from_quat(motion.root_quat, scalar_first=True), motion.root_pos
    x, layout = motion_features(motion, layout_of("motion", motion)), layout_of("motion", motion)
    euler = R.as_euler("ZYX")
    heading, turn = np.unwrap(euler[:, 0]), np.diff(np.unwrap(euler[:, 0]))
    step = Rotation.from_rotvec(np.outer(heading[:-1] + turn/2, [0, 0, 1])).inv().apply(np.diff(p, axis=0))*motion.fps
    np.testing.assert_allclose(x[:-1, :3], np.c_[step[:, :2], turn*motion.fps], atol=1e-4)
    np.testing.assert_allclose(x[:, layout.slices["root_up"]], R.inv().apply([0, 0, 1]), atol=1e-6)
    robot50 = motion_features(motion, layout_of("robot50", motion))
    local, spin = R[:-1].inv().apply(np.diff(p, axis=0)), (R[:-1].inv()*R[1:]).as_rotvec()
    np.testing.assert_allclose(robot50[:-1, :4], np.c_[local, spin[:, 2]], atol=1e-5)
    assert robot50.shape[1] == 4 + 2*len(motion.joint_names)


def test_places_are_mujocos(biped):
    motion = wild(biped, 7, 12)
    layout = layout_of("smpl364", motion)
    x, at = motion_features(motion, layout, biped), layout.slices
    assert layout.dim == 4 + 15*10 and [at[b].stop - at[b].start for b in ("root_step", "joint_position", "joint_velocity", "joint_matrix")] == [4, 30, 30, 90]
    data, qpos = mujoco.MjData(biped.model), biped.qpos(motion)
    for k in range(len(motion)):
        data.qpos[:] = qpos[k]
        mujoco.mj_kinematics(biped.model, data)
        turn = Rotation.from_rotvec([0, 0, -yaw(motion.root_quat[k])])
        bodies = [data.body(biped.root_body), *(data.body(int(biped.model.jnt(n).bodyid[0])) for n in motion.joint_names)]
        want = turn.apply([b.xpos - data.body(biped.root_body).xpos*[1, 1, 0] for b in bodies])
        np.testing.assert_allclose(x[k, at["joint_position"]].reshape(-1, 3), want, atol=1e-5)
        matrices = x[k, at["joint_matrix"]].reshape(-1, 3, 3)
        np.testing.assert_allclose(matrices[0], (turn*Rotation.from_quat(motion.root_quat[k], scalar_first=True)).as_matrix(), atol=1e-5)
        axes = [biped.model.jnt(n).axis for n in motion.joint_names]
        np.testing.assert_allclose(matrices[1:], Rotation.from_rotvec(motion.dof_pos[k][:, None]*axes).as_matrix(), atol=1e-5)


def test_a_human_has_places_too():
    human = bundled_clips()["turn"]
    layout = layout_of("smpl364", human)
    x = motion_features(human, layout)
    assert layout.dim == 4 + 15*22 and layout.robot == "human"
    np.testing.assert_allclose(x, motion_features(transform(human, 1.3, (2, 3, 0)), layout), atol=2e-5)
    matrices = x[:, layout.slices["joint_matrix"]].reshape(len(x), 22, 3, 3)
    assert np.abs(matrices @ matrices.swapaxes(-1, -2) - np.eye(3)).max() < 1e-5 and np.abs(np.linalg.det(matrices) - 1).max() < 1e-5
    with pytest.raises(ConfigError, match="retarget it first"): layout_of("motion", human)


def test_what_cannot_be_inverted_or_does_not_fit_says_so(biped, clips):
    walk = clips["walk"]
    layout = layout_of("motion", walk)
    for name, said in (("robot50", "neither height nor tilt"), ("smpl364", "no angles")):
        other = layout_of(name, walk)
        with pytest.raises(ConfigError, match=said): motion_of_features(motion_features(walk, other, biped), other)
    with pytest.raises(ConfigError, match="60 fps, the layout 30"): motion_features(walk, replace(layout, fps=30))
    with pytest.raises(ConfigError, match="no joint tail"): motion_features(walk, layout_of("motion", (*walk.joint_names, "tail"), "biped", 60))
    with pytest.raises(ConfigError, match="needs the robot"): motion_features(walk, layout_of("smpl364", walk))
    with pytest.raises(ConfigError, match="expected motion, robot50, smpl364"): layout_of("humanml", walk)
    with pytest.raises(ConfigError, match="robot and the rate"): layout_of("motion", walk.joint_names)
    with pytest.raises(ConfigError, match=r"\(3, 4\), the layout has \(frames, 25\)"): motion_of_features(np.zeros((3, 4)), layout)
    for name in LAYOUTS:
        with pytest.raises(InvalidMotion, match="two frames"): motion_features(walk.cut(0, 1), layout_of(name, walk), biped)
    with pytest.raises(InvalidMotion, match="nan"): motion_of_features(np.full((3, 25), np.nan), layout)


def test_a_layout_survives_json(clips):
    layout = layout_of("motion", clips["walk"])
    assert Layout(**json.loads(json.dumps(asdict(layout)))) == layout


def test_a_decoded_tilt_need_not_be_normal(clips):
    "What a network gives is no unit vector; only its direction counts, and none at all stands upright."
    layout = layout_of("motion", clips["squat"])
    x = motion_features(clips["squat"], layout)
    y = x.copy()
    y[:, layout.slices["root_up"]] *= 0.3
    np.testing.assert_allclose(motion_of_features(y, layout).root_quat, motion_of_features(x, layout).root_quat, atol=1e-6)
    np.testing.assert_allclose(motion_of_features(np.zeros((5, layout.dim)), layout).root_quat, np.tile([1, 0, 0, 0], (5, 1)))


# files

def test_a_table_of_motionvqvae(biped, tmp_path):
    "Cut at falling edges only; transitions stay in the data and are marked; quaternions on disk are wxyz; dt is the time's."
    a, b = wild(biped, 1, 50), wild(biped, 2, 60)
    flags = np.zeros(110)
    flags[20:24], flags[40:50] = 1, 1                                  # two transitions; after the first, and before b, the flag falls
    rows = np.concatenate([table(a, flags[:50]), table(b, flags[50:])])
    rows[:, 0] = np.arange(110)/30
    np.save(tmp_path/"m.npy", rows)
    data = read_data(tmp_path/"m.npy", load_config(window_size=16), robot="biped")
    assert data.lengths.tolist() == [24, 26, 60] and data.names == ("m_0", "m_1", "m_2") and data.layout.fps == 30
    np.testing.assert_array_equal(data.transitions, flags > 0.5)
    np.testing.assert_allclose(data.clips[2], motion_features(b, data.layout), atol=1e-5)
    np.testing.assert_allclose(data.clips[0], motion_features(a.cut(0, 24), data.layout), atol=1e-5)
    mirrored = read_data(tmp_path/"m.npy", load_config(window_size=16, mirror=True), robot="biped")
    assert mirrored.transitions.sum() == 2*14


def test_quaternion_orders_of_both_formats(biped, tmp_path):
    "A robot that faces +y and walks along +y goes forward, from either file."
    t = np.arange(40)/30
    motion = Motion(30, np.c_[0*t, t, 0*t + .5], np.tile(yaw_quat(np.pi/2), (40, 1)), np.zeros((40, 9)), biped.joint_names, "biped")
    np.save(tmp_path/"m.npy", table(motion, np.zeros(40)))
    write_phc(motion, tmp_path/"m.pkl")
    for file in ("m.npy", "m.pkl"):
        x = read_data(tmp_path/file, load_config(window_size=16), robot=biped)
        np.testing.assert_allclose(x.frames[:, :7], np.tile([1, 0, 0, .5, 0, 0, 1], (40, 1)), atol=1e-5)
    assert read_data([tmp_path/"m.npy", tmp_path/"m.pkl"], load_config(window_size=16), robot=biped).sources == ("m", "m")


def test_a_pickle_of_many_clips(biped, tmp_path):
    made = {f"clip{k}": wild(biped, k, 30 + k) for k in range(4)}
    write_phc(made, tmp_path/"many.pkl")
    data = read_data(tmp_path/"many.pkl", load_config(window_size=16), robot=biped)
    assert data.names == tuple(f"many_clip{k}" for k in range(4)) == data.sources and data.lengths.tolist() == [30, 31, 32, 33]
    np.testing.assert_allclose(data.clips[3], motion_features(made["clip3"], data.layout), atol=1e-4)


def test_formats_mirrors_and_speeds_of_a_motion_never_part(biped, tmp_path):
    for k in range(5):
        write_phc(wild(biped, k), tmp_path/f"pkl/sub/m{k}.pkl")
        write_npz(wild(biped, k), tmp_path/f"npz/sub/m{k}.npz")
    data = read_data([tmp_path/"pkl", tmp_path/"npz"], load_config(window_size=16, mirror=True, speeds=[0.8]), robot=biped)
    assert len(data.names) == len(set(data.names)) == 2*2*2*5 and set(data.sources) == {f"sub/m{k}" for k in range(5)}
    for seed in range(5):
        train, out = split(data, 0.3, seed)
        assert not set(train.sources) & set(out.sources) and len(set(out.sources)) == 2 and len(train) + len(out) == len(data)
        assert out.lengths.tolist() == [n for n, s in zip(data.lengths, data.sources) if s in out.sources]
    assert split(data, 0.3, 1)[1].sources == split(data, 0.3, 1)[1].sources and len({split(data, 0.3, s)[1].sources for s in range(8)}) > 1
    one = take_named(data, "sub/m1_mirror")
    np.testing.assert_allclose(one, motion_features(mirror_motion(wild(biped, 1), biped), data.layout), atol=1e-4)


def test_what_was_passed_over_is_listed(biped, tmp_path):
    write_npz(wild(biped), tmp_path/"a.npz")
    (tmp_path/"notes.txt").write_text("hello")
    (tmp_path/".hidden").mkdir()
    write_npz(wild(biped), tmp_path/".hidden/b.npz")
    data = read_data(tmp_path, load_config(window_size=16))
    assert data.names == ("a",) and [Path(row["file"]).name for row in data.skipped] == ["notes.txt"]


def take_named(data, name): return data.clips[data.names.index(name)]


BAD = {
    "nan": (lambda f, r: np.save(f/"m.npy", np.where(np.arange(40)[:, None] == 7, np.nan, table(wild(r), np.zeros(40)))), {}, MotionFormatError, "m.npy.*nan.*frame 7|7.*nan"),
    "empty folder": (lambda f, r: None, {}, ConfigError, "no motion in"),
    "no motion in it": (lambda f, r: (f/"a.txt").write_text("hello"), {}, ConfigError, "no motion in .*a.txt: no known motion format"),
    "other joints": (lambda f, r: [write_npz(wild(r), f/"a.npz"), write_npz(replace(wild(r), joint_names=("tail", *r.joint_names[1:])), f/"b.npz")], {}, ConfigError, "b has other joints than a: it lacks .*; it alone has tail"),
    "rates": (lambda f, r: [write_npz(wild(r), f/"a.npz"), write_npz(wild(r, fps=50.), f/"b.npz")], {}, ConfigError, "a has 30 fps, but b has 50; say resample"),
    "rate asked for": (lambda f, r: write_npz(wild(r), f/"a.npz"), dict(fps=50), ConfigError, "fps of the settings is 50, but a has 30"),
    "window": (lambda f, r: [write_npz(wild(r, frames=n), f/f"{n}.npz") for n in (20, 31)], {}, ConfigError, "window_size is 32 frames, but the longest of 2 clips has 31"),
    "one frame": (lambda f, r: [write_npz(wild(r, frames=n), f/f"c{n}.npz") for n in (1, 40)], {}, InvalidMotion, "c1: a velocity needs at least two frames"),
    "frame_size": (lambda f, r: write_npz(wild(r), f/"a.npz"), dict(frame_size=50), ConfigError, "frame_size is 50, but the layout motion of 9 joints has 25 columns"),
    "num_joints": (lambda f, r: write_npz(wild(r), f/"a.npz"), dict(num_joints=24, layout="smpl364"), ConfigError, "num_joints is 24, but the clips have 10"),
    "sim_to_real_idx": (lambda f, r: write_npz(wild(r), f/"a.npz"), dict(apply_sim_to_real_map=True, sim_to_real_idx=[9]), ConfigError, "sim_to_real_idx holds 9; the clips have the joints 0 to 8"),
    "mirror of whom": (lambda f, r: write_npz(replace(wild(r), robot="unknown"), f/"a.npz"), dict(mirror=True), ConfigError, "mirror needs the robot"),
    "damaged": (lambda f, r: (f/"a.npz").write_bytes(b"PK\x03\x04 no more"), {}, MotionFormatError, "damaged"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_error(biped, tmp_path, name):
    make, config, error, said = BAD[name]
    make(tmp_path, biped)
    with pytest.raises(error, match=said) as e:
        read_data(tmp_path, load_config(config, window_size=32), robot=biped if name in ("nan",) else None)
    assert isinstance(e.value, MotionbenchError) and "\n" not in str(e.value)


def test_wrong_robot_kinds_and_paths(biped, clips, tmp_path):
    with pytest.raises(MotionFormatError, match="no such file"): read_data(tmp_path/"missing.npy", load_config())
    with pytest.raises(RobotError, match="unknown robot"): read_data(tmp_path, load_config(), robot="byped")
    with pytest.raises(ConfigError, match="no clips"): make_data({}, load_config())
    with pytest.raises(ConfigError, match="a is Motion and b is HumanMotion"): make_data({"a": clips["walk"], "b": bundled_clips()["walk"]}, load_config())
    with pytest.raises(RobotError, match="do not fit unitree_g1"): make_data({"a": clips["walk"]}, load_config(), "unitree_g1")
    with pytest.raises(ConfigError, match="a: mirror and speeds are for robot motion"): make_data({"a": bundled_clips()["walk"]}, load_config(layout="smpl364", speeds=[2]))
    with pytest.raises(InvalidMotion, match="b: 10 times as fast, clip 0 of 9 frames has one frame left"): make_data({"a": clips["walk"], "b": clips["walk"].cut(0, 9)}, load_config(speeds=[10]))


def test_resampling_brings_all_to_one_rate(clips):
    data = make_data(clips, load_config(), resample=True)
    assert data.layout.fps == 30 and data.lengths.tolist() == [int(c.duration*30 + 1e-9) + 1 for c in clips.values()]
    at50 = make_data(clips, load_config(fps=50), resample=True)
    assert at50.layout.fps == 50 and len(at50) > 1.6*len(data)
    np.testing.assert_allclose(data.frames[:, 3].mean(), at50.frames[:, 3].mean(), atol=0.005)


def test_joints_of_the_real_robot(biped):
    motion, config = wild(biped), load_config(window_size=16, apply_sim_to_real_map=True, sim_to_real_idx=[4, biped.joint_names[1]], real_dof=2)
    data = make_data({"a": motion}, config)
    assert data.layout.joint_names == (biped.joint_names[4], biped.joint_names[1]) and data.layout.dim == 7 + 4
    np.testing.assert_array_equal(data.frames[:, data.layout.slices["dof_pos"]], motion.dof_pos[:, [4, 1]].astype(np.float32))
    assert make_data({"a": motion}, load_config(config.model_dump(), layout="smpl364", num_joints=3)).layout.dim == 4 + 15*3


# windows

@few
@given(st.lists(st.integers(2, 40), min_size=1, max_size=6), st.integers(2, 30), seeds)
def test_no_window_leaves_its_clip(lengths, window, seed):
    import torch
    windows = Windows(counted(*lengths), window, **plain)
    assert len(windows) == sum(max(n - window, 0) + 1 for n in lengths)
    x, mask = windows.at(torch.arange(len(windows)))
    assert (x[:, :, 0] == x[:, :1, 0]).all()
    length = torch.tensor(lengths)[x[:, 0, 0].long()][:, None]
    assert (x[:, :, 1] == torch.minimum(x[:, :1, 1] + torch.arange(window), length - 1)).all()
    assert (mask == (torch.arange(window) < length)).all() and ((mask.all(1)) | (length[:, 0] < window)).all()
    assert len({tuple(row) for row in x[:, 0].tolist()}) == len(windows)
    drawn, _ = windows.sample(7, torch.Generator().manual_seed(seed))
    again, _ = windows.sample(7, torch.Generator().manual_seed(seed))
    assert drawn.shape == (7, window, 2) and (drawn == again).all()


def test_one_clip_fills_a_batch_and_all_windows_are_equally_likely():
    import torch
    assert Windows(counted(40), 32, **plain).sample(256)[0].shape == (256, 32, 2)
    windows = Windows(counted(12, 30, 5), 10, **plain)                   # 3 + 21 + 1 windows
    x, mask = windows.sample(50_000, torch.Generator().manual_seed(0))
    count = torch.unique(x[:, 0], dim=0, return_counts=True)[1]
    assert len(count) == 25 and (count - 2000).abs().max() < 250
    assert (~mask).any(1).float().mean().item() == pytest.approx(1/25, abs=0.005)


def test_normalised_columns(biped, clips):
    data = make_data(clips, load_config(), resample=True)
    mean, std = statistics(data)
    x = Windows(data, 64, mean, std).x.numpy()
    assert mean.dtype == std.dtype == np.float32 and np.abs(x.mean(0)).max() < 1e-3 and np.abs(x.std(0)[std != 1] - 1).max() < 1e-3
    still = make_data({"a": replace(clips["stand"], dof_pos=np.zeros_like(clips["stand"].dof_pos))}, load_config(layout="robot50"))
    assert (statistics(still)[1][still.layout.slices["dof_pos"]] == 1).all() and np.isfinite(Windows(still, 64).x.numpy()).all()
    steps = statistics(make_data({"a": clips["walk"]}, load_config(layout="robot50")))[1][:4]
    assert (steps < 0.05).all()                                          # steps are small, and yet no constants


@pytest.mark.parametrize("layout", ["motion", "robot50"])
def test_units_are_standard_deviations_over_weights(biped, clips, layout):
    data = make_data(clips, load_config(layout=layout), biped, resample=True)
    std, of = statistics(data)[1], lambda **c: units(data, load_config(layout=layout, **c))
    assert np.allclose(of(weight_root=1, weight_dof_vel=1), std)
    ratio, root = std/of(weight_root=4, weight_dof_vel=0.5), dict(motion=3, robot50=4)[layout]
    assert np.allclose(ratio[:root], 4) and np.allclose(ratio[data.layout.slices["dof_vel"]], 0.5) and np.allclose(np.delete(ratio, [*range(root), *range(data.layout.dim - 10, data.layout.dim)]), 1)


def test_by_reach_a_unit_of_every_angle_moves_the_bodies_as_far(biped, clips):
    "Whatever the order of the joints."
    reach = dict(zip(biped.joint_names, joint_reach(biped, np.concatenate([clips[n].dof_pos[::7] for n in clips]))))
    turned = {n: replace(m, joint_names=m.joint_names[::-1], dof_pos=m.dof_pos[:, ::-1]) for n, m in clips.items()}
    moved = []
    for some in (clips, turned):
        data = make_data(some, load_config(), biped, resample=True)
        unit = dict(zip(data.layout.joint_names, units(data, load_config(), biped)[data.layout.slices["dof_pos"]]))
        moved.append([unit[n]*reach[n] for n in biped.joint_names])
    assert np.ptp(moved[0])/np.mean(moved[0]) < 0.1 and np.allclose(*moved, rtol=0.01)


def test_by_reach_needs_a_robot_that_has_the_joints(biped, clips):
    data = make_data(clips, load_config(), resample=True)
    assert np.array_equal(units(data, load_config()), units(data, load_config(by_reach=False), biped))
    with pytest.raises(ConfigError, match="name it with --robot"): units(data, load_config(by_reach=True))
    with pytest.raises(ConfigError, match="unitree_g1 lacks"): units(data, load_config(by_reach=True), load_robot("unitree_g1"))
    human = make_data({"a": bundled_clips()["walk"]}, load_config(layout="smpl364"))
    with pytest.raises(ConfigError, match="smpl364 does not have"): units(human, load_config(layout="smpl364", by_reach=True), biped)


def test_the_end_of_a_single_motion_is_held_out(biped):
    data = make_data({"a": wild(biped, 0, 100)}, load_config(mirror=True, speeds=[2.0]), biped)
    train, out = split(data, 0.15)
    assert train.lengths.tolist() == [85, 42, 85, 42] and out.lengths.tolist() == [15, 8, 15, 8] and train.names == out.names == data.names
    np.testing.assert_array_equal(np.concatenate([train.clips[1], out.clips[1]]), data.clips[1])
    assert split(data, 0) == (data, None)
    for share in (-0.1, 1): pytest.raises(ConfigError, split, data, share)
    with pytest.raises(ConfigError, match="too short to hold out its end"): split(counted(3), 0.5)
    train, out = split(counted(9, 9), 0.9)                               # something is left to learn from
    assert len(train) == len(out) == 9


def test_transitions_of_some_files_only(biped):
    a, b = wild(biped, 1), wild(biped, 2)
    data = make_data({"a": replace(a, extra={"transition_flag": (np.arange(40) > 35)*1.}), "b": b}, load_config(window_size=16, speeds=[0.5]))
    assert data.names == ("a", "a_x0.5", "b", "b_x0.5") and data.transitions[:40].sum() == 4 and data.transitions[40:119].sum() == 7 and not data.transitions[119:].any()
    assert make_data({"b": b}, load_config(window_size=16)).transitions is None


# real files

@needs_data
def test_the_real_pickle_in_the_sizes_of_the_original():
    chosen = dict(apply_sim_to_real_map=True, sim_to_real_idx=G1_23, real_dof=23)
    sizes = {name: read_data(DATA/"phc_asap", load_config(chosen, layout=name, frame_size=dim, num_joints=24), robot="unitree_g1") for name, dim in (("robot50", 50), ("smpl364", 364), ("motion", 53))}
    assert all(len(d) == 92 and d.layout.fps == 30 and len(d.names) == 1 for d in sizes.values())
    smpl = sizes["smpl364"]
    matrices = smpl.frames[:, smpl.layout.slices["joint_matrix"]].reshape(92, 24, 3, 3)
    assert np.abs(matrices @ matrices.swapaxes(-1, -2) - np.eye(3)).max() < 1e-5            # all 24 places are filled
    assert read_data(DATA/"phc_asap", load_config(chosen, layout="smpl364", prefer_expmap=True), robot="unitree_g1").layout.dim == 364 - 6*24
    with pytest.raises(MotionFormatError, match="unitree_g1"): read_data(DATA/"phc_asap", load_config())


@needs_data
@pytest.mark.parametrize("folder, fps, robot", [("unitree_csv", 60, "unitree_g1"), ("beyondmimic", None, None), ("isaaclab_amp", None, None), ("phc_asap", None, "unitree_g1"), ("kimodo_csv", 30, "unitree_g1")])
def test_real_clips_come_back(folder, fps, robot):
    data = read_data(DATA/folder, load_config(fps=fps), robot)
    for name, (motion, _) in read_clips(DATA/folder, robot and load_robot(robot), fps)[0].items():
        back = motion_of_features(take_named(data, name), data.layout, motion.root_pos[0, :2], yaw(motion.root_quat[0]))
        assert np.linalg.norm(back.root_pos - motion.root_pos, axis=-1).max() < 1e-3*max(1, motion.duration/10)
        np.testing.assert_array_equal(back.dof_pos, motion.dof_pos.astype(np.float32))
        assert np.abs(quat_to_matrix(back.root_quat) - quat_to_matrix(motion.root_quat)).max() < 1e-4


@needs_data
def test_the_same_clip_in_two_formats_has_one_source():
    data = read_data(DATA/"protomotions", load_config(fps=30), "unitree_g1")
    assert data.names == ("g1_crouch_to_run", "output_jumpjack", "output_jumpjack#2") and data.sources[1] == data.sources[2]
    height = data.layout.slices["root_height"]
    assert np.abs(np.delete(data.clips[1] - data.clips[2], height, 1)).max() < 1e-3 and 0.005 < np.abs(data.clips[1] - data.clips[2])[:, height].max() < 0.02     # the other file was put on the ground
    assert list(clips_in(DATA/"protomotions"/"output_jumpjack.motion", "unitree_g1")) == [""]
