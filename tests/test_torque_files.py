"Torque files, logs and the loader: by name and never by place, clips apart, what is missing is missing, and samples against a plain loop."
import argparse
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy.spatial.transform import Rotation, Slerp

from motionbench.cli.parser import Parser
from motionbench.cli.torque import add_torque
from motionbench.core.errors import ConfigError, InvalidMotion, MotionFormatError
from motionbench.core.robot import load_robot
from motionbench.io.isaaclab import read_isaaclab, write_isaaclab
from motionbench.io.registry import read_motion
from motionbench.torque.csv import read_torque_csv, split_rows, write_torque_csv
from motionbench.torque.files import ARRAYS, TorqueClip, motion_of_clip, read_torque, torque_clip, write_torque
from motionbench.torque.folder import read_torque_folder, write_torque_folder
from motionbench.torque.loader import SAMPLED, TorqueMotionLoader

DATA = Path(os.environ.get("MOTIONBENCH_TEST_DATA", Path(__file__).parents[1]/"../shared/data"))/"robot_motion/isaaclab_amp"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no motion files in {DATA}; set MOTIONBENCH_TEST_DATA")
NAMES = [f"{side}_{joint}" for side in ("left", "right") for joint in ("hip_x", "hip_y", "hip_z", "knee", "ankle", "toe")]      # twelve: torque_10 sorts before torque_2


@pytest.fixture(scope="module")
def biped(): return load_robot("biped")


def clip_of(frames=30, joints=NAMES, bodies=("pelvis", "foot"), seed=0, fps=50, **more):
    "Random, but quaternions that turn smoothly, with a flip of sign."
    rng, T, J, B = np.random.default_rng(seed), frames, len(joints), len(bodies)
    q = Rotation.from_rotvec(np.cumsum(rng.normal(0, .2, (T, B, 3)), 0).reshape(-1, 3)).as_quat(scalar_first=True).reshape(T, B, 4)
    q[T//2:] *= -1
    r = lambda *shape: rng.normal(0, 1, shape)
    return TorqueClip(fps, joints, **{**dict(torque=r(T, J), dof_pos=r(T, J), dof_vel=r(T, J), body_names=bodies, body_pos=r(T, B, 3), body_quat=q, body_lin_vel=r(T, B, 3), body_ang_vel=r(T, B, 3)), **more})


def equal(a, b, but=()):
    "Whether two clips have the same arrays, joints and bodies matched by name."
    assert set(a.given()) - set(but) == set(b.given()) - set(but) and set(a.joint_names) == set(b.joint_names) and set(a.body_names or ()) == set(b.body_names or ())
    for k, x in a.given().items():
        if k in but: continue
        names = (lambda c: c.joint_names) if "J" in ARRAYS[k][1] else (lambda c: c.body_names) if "B" in ARRAYS[k][1] else None
        y = b.given()[k] if names is None else b.given()[k][:, [names(b).index(n) for n in names(a)]]
        assert np.array_equal(x, y), k
    return True


def write_table(path, columns):
    "A CSV with these columns."
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    np.savetxt(path, np.column_stack(list(columns.values())), fmt="%.17g", delimiter=",", header=",".join(columns), comments="")
    return path


# ---- files

def test_a_complete_clip_comes_back_exactly_and_is_a_motion(tmp_path):
    a = clip_of(meta=dict(method="tracking", torque="applied", filter={"cutoff_hz": 6}), assist=np.ones((30, 6)), computed_torque=np.full((30, 12), 9.))
    file = write_torque(a, tmp_path/"a.npz", robot=None)
    b = read_torque(file)
    assert equal(a, b, but=("time",)) and b.fps == 50 and np.allclose(b.time, np.arange(30)/50)
    assert b.meta == {**a.meta, "assisted": True, "absent": []}
    m = read_motion(file)
    assert np.array_equal(m.torque, a.torque) and np.array_equal(m.extra["assist_wrench"], a.assist) and m.source["torque"]["method"] == "tracking"
    write_isaaclab(m, tmp_path/"b.npz")                                                  # nothing is lost on the way through a Motion
    assert equal(read_torque(tmp_path/"b.npz"), b)
    assert equal(torque_clip(m), b) and torque_clip(m).meta["method"] == "tracking"
    with np.load(file) as raw:                                                           # plain arrays by the guide's names, no pickle
        assert set(raw) == {"fps", "dof_names", "body_names", "metadata", *ARRAYS} and all(raw[k].dtype.kind in "fiU" for k in raw)


def test_torques_alone_are_said_to_be_so_and_nothing_is_filled_in(tmp_path):
    a = TorqueClip(100, NAMES, clip_of().torque)
    b = read_torque(write_torque(a, tmp_path/"a.npz"))
    assert "joint_torques alone" in repr(b) and b.dof_pos is b.dof_vel is b.body_pos is b.body_quat is b.body_names is None
    assert b.meta["absent"] == ["dof_positions", "dof_velocities", "body_positions", "body_rotations", "body_linear_velocities", "body_angular_velocities"]
    with pytest.raises(InvalidMotion, match="cannot be a Motion.*dof_positions, body_positions, body_rotations are not there"): motion_of_clip(b)
    with pytest.raises(MotionFormatError, match="a.npz: has no dof_velocities. It holds joint_torques, time"): read_torque(tmp_path/"a.npz", need=("joint_torques", "dof_velocities"))
    with pytest.raises(MotionFormatError, match="has no torques"): write_torque(clip_of(torque=None), tmp_path/"b.npz")


@pytest.mark.parametrize("change, words", [
    (dict(dof_pos=np.zeros((30, 11))), "number of dofs: dof_names 12, joint_torques 12, dof_positions 11, dof_velocities 12"),
    (dict(dof_vel=np.zeros((29, 12))), "number of frames: joint_torques 30, dof_positions 30, dof_velocities 29"),
    (dict(body_pos=np.zeros((30, 3, 3))), "number of bodies: body_names 2, body_positions 3"),
    (dict(body_quat=np.zeros((30, 2, 4))), "body_rotations has norm 0 at frame 0"),
    (dict(torque=np.full((30, 12), np.nan)), "joint_torques is nan at frame 0"),
    (dict(fps=0), "fps is 0"),
    (dict(time=np.arange(30)/30), "time steps by 0.0333.* but fps is 50"),
    (dict(joint_names=["knee"]*12), "dof_names holds knee more than once")])
def test_arrays_that_disagree_are_refused_with_the_counts(change, words, tmp_path):
    with pytest.raises(InvalidMotion, match=words): replace(clip_of(), **change)
    arrays = {k: v for k, v in np.load(write_torque(clip_of(), tmp_path/"a.npz")).items()}
    names = {f: k for k, (f, _) in ARRAYS.items()} | dict(joint_names="dof_names")
    np.savez(tmp_path/"b.npz", **{**arrays, **{names.get(k, k): np.array(v) for k, v in change.items()}})
    with pytest.raises(MotionFormatError, match="b.npz: "): read_torque(tmp_path/"b.npz")


def test_an_assisted_rollout_is_not_written_without_its_wrench(biped, tmp_path):
    stand = biped.motion(np.tile(biped.model.qpos0, (8, 1)), 50, torque=np.ones((8, 9)))
    for bad in (stand, TorqueClip(50, NAMES, np.ones((8, 12)))):
        with pytest.raises(MotionFormatError, match="a.npz: is not written: .*assist_wrench .T, 6. is missing"): write_torque(bad, tmp_path/"a.npz", assisted=True)
    with pytest.raises(MotionFormatError, match="assist_wrench"): write_isaaclab(replace(stand, source={"torque": {"assisted": True}}), tmp_path/"a.npz")
    with pytest.raises(MotionFormatError, match="set assisted to true"): write_torque(replace(stand, extra={"assist_wrench": np.ones((8, 6))}), tmp_path/"a.npz", assisted=False)
    with pytest.raises(MotionFormatError, match="assisted is 'yes'"): write_torque(stand, tmp_path/"a.npz", assisted="yes")
    assert not list(tmp_path.iterdir())
    held = read_torque(write_torque(replace(stand, extra={"assist_wrench": np.ones((8, 6))}), tmp_path/"a.npz"))
    assert held.meta["assisted"] is True and held.assist.shape == (8, 6)
    arrays = dict(np.load(tmp_path/"a.npz"))
    np.savez(tmp_path/"b.npz", **{k: v for k, v in arrays.items() if k != "assist_wrench"})
    with pytest.raises(MotionFormatError, match="b.npz.*assist_wrench"): read_torque(tmp_path/"b.npz")


def test_pickles_are_not_read(tmp_path):
    class Evil:
        def __reduce__(self): return (Path.touch, (tmp_path/"run",))
    for name in ("joint_torques", "dof_names", "metadata"):
        arrays = dict(fps=50, dof_names=np.array(NAMES), joint_torques=np.zeros((3, 12)))
        np.savez(tmp_path/"evil.npz", **{**arrays, name: np.array([Evil()], object)}, allow_pickle=True)
        try: clip = read_torque(tmp_path/"evil.npz")
        except MotionFormatError as e: assert "evil.npz" in str(e)
        else: assert name == "metadata" and clip.meta == {}
    assert not (tmp_path/"run").exists()
    np.savez(tmp_path/"bad.npz", fps=50, dof_names=np.array(NAMES), joint_torques=np.zeros((3, 12)), metadata=np.array("[1]"))
    with pytest.raises(MotionFormatError, match="bad.npz: metadata is a list"): read_torque(tmp_path/"bad.npz")


def test_a_motion_of_several_clips_or_without_torques_is_refused(biped, tmp_path):
    stand = biped.motion(np.tile(biped.model.qpos0, (8, 1)), 50, torque=np.ones((8, 9)))
    with pytest.raises(MotionFormatError, match="a.npz: is not written: .* holds 2 clips; take those of split.."): write_torque(replace(stand, starts=(0, 4)), tmp_path/"a.npz")
    with pytest.raises(MotionFormatError, match="has no torques"): write_torque(replace(stand, torque=None), tmp_path/"a.npz")
    assert torque_clip(stand).meta["calculated"] == sorted(k for k in ARRAYS if k.startswith(("body", "dof_v")))          # and not the joint angles, which are stored


@needs_data
def test_isaac_labs_own_files_are_read_without_torques():
    clip, motion = read_torque(DATA/"humanoid_walk.npz", need=()), read_isaaclab(DATA/"humanoid_walk.npz")
    assert clip.torque is None and np.array_equal(clip.dof_vel, motion.dof_vel) and np.array_equal(clip.body_pos, motion.body_pos)
    with pytest.raises(MotionFormatError, match="humanoid_walk.npz: has no joint_torques. It holds dof_positions"): read_torque(DATA/"humanoid_walk.npz")


# ---- logs

def log(path, clips, envs=1, numbered=False, order="given", env_column=True, time=True, kinds=("",), seed=0):
    "A log in which environment `e` plays `clips[e]`, a list of episodes, and the rows take turns."
    rows = []
    for e in range(envs):
        for ep, c in enumerate(clips[e]):
            for t in range(len(c)):
                row = {"timestep": t} | ({"env": e, "episode": ep} if env_column else {}) | ({"time": t/c.fps} if time else {})
                for i, n in enumerate(c.joint_names):
                    key = i if numbered else n
                    row |= {f"{kind}torque_{key}": c.torque[t, i]*(1 if kind != "computed_" else 2) for kind in kinds}
                    row |= {f"dof_pos_{key}": c.dof_pos[t, i], f"dof_vel_{key}": c.dof_vel[t, i]}
                row |= {f"body_{b}_pos_{x}": c.body_pos[t, k, j] for k, b in enumerate(c.body_names) for j, x in enumerate("xyz")} | {f"policy_obs_{k}": 0.5 for k in range(3)}
                rows.append((t + sum(len(p) for p in clips[e][:ep]), e, row))
    rows = [r for *_, r in sorted(rows, key=lambda r: r[:2])]
    names = list(rows[0])
    if order == "text": names.sort()
    if order == "shuffled": np.random.default_rng(seed).shuffle(names)
    return write_table(path, {n: [r[n] for r in rows] for n in names})


@pytest.mark.parametrize("order", ["given", "text", "shuffled"])
@pytest.mark.parametrize("envs, env_column", [(1, False), (8, True), (8, False)])
@pytest.mark.parametrize("numbered", [False, True])
def test_round_trip_by_name(order, envs, env_column, numbered, tmp_path):
    lengths = lambda e: (6, 9) if not env_column else (6 + e, 20 - 2*e)                # with a column the environments may begin anew at different times
    clips = [[clip_of(n, seed=10*e + k) for k, n in enumerate(lengths(e))] for e in range(envs)]
    made = read_torque_csv(log(tmp_path/"log.csv", clips, envs, numbered, order, env_column))
    assert list(made) == [f"env{e}_ep{k}" for e in range(envs) for k in (0, 1)]
    for name, clip in made.items():
        e, k = int(name[3:].split("_")[0]), int(name[-1])
        want, joints = clips[e][k], [f"joint_{i}" for i in range(12)] if numbered else NAMES
        want = replace(want, joint_names=joints, body_quat=None, body_lin_vel=None, body_ang_vel=None)
        assert equal(want, clip, but=("time",)) and clip.fps == 50 and clip.meta["env"] == e and clip.meta["episode"] == k
        assert clip.meta["unused_columns"] == sorted(clip.meta["unused_columns"], key=clip.meta["unused_columns"].index) and set(clip.meta["unused_columns"]) == {f"policy_obs_{i}" for i in range(3)}
        if numbered: assert list(clip.joint_names) == joints
    file = write_torque(clip, tmp_path/"one.npz")
    write_torque_csv(read_torque(file), tmp_path/"back.csv")
    assert equal(read_torque_csv(tmp_path/"back.csv")[""], clip, but=("time",))


def test_environments_without_a_column_that_restart_at_different_times(tmp_path):
    clips = [[clip_of(n, seed=10*e + k) for k, n in enumerate(lengths)] for e, lengths in enumerate([(7, 5), (4, 8), (12,), (5, 7)])]
    made = read_torque_csv(log(tmp_path/"log.csv", clips, 4, env_column=False))
    assert {n: len(c) for n, c in made.items()} == {"env0_ep0": 7, "env0_ep1": 5, "env1_ep0": 4, "env1_ep1": 8, "env2_ep0": 12, "env3_ep0": 5, "env3_ep1": 7}
    assert all(np.array_equal(made[f"env{e}_ep{k}"].torque, c.torque) for e, row in enumerate(clips) for k, c in enumerate(row))


def test_missing_steps_end_a_clip_and_rows_of_nobody_are_refused(tmp_path):
    assert [(e, k, list(r)) for e, k, r in split_rows("x", 7, clock=np.array([0, 1, 2, 10, 11, 0, 1]))] == [(0, 0, [0, 1, 2]), (0, 1, [3, 4]), (0, 2, [5, 6])]
    with pytest.raises(MotionFormatError, match="x: .*several environments.*Add a column env"): split_rows("x", 6, clock=np.array([0, 0, 1, 2, 2, 1]))
    assert [len(r) for *_, r in split_rows("x", 4, env=np.array([1, 0, 1, 0]))] == [2, 2] and len(split_rows("x", 1, clock=np.zeros(1))) == 1
    assert [len(r) for *_, r in split_rows("x", 6, clock=np.array([.5, .503, .52, .523, .54, .543]), env=np.array([0, 1]*3))] == [3, 3]      # clocks that are shifted against each other


def test_numbered_columns_sorted_as_text_do_not_permute_joints(tmp_path):
    torque = np.arange(12.)[None] + np.zeros((5, 1))
    columns = {f"torque_{i}": torque[:, i] for i in range(12)}
    assert sorted(columns)[1:4] == ["torque_1", "torque_10", "torque_11"]
    clip = read_torque_csv(write_table(tmp_path/"a.csv", {n: columns[n] for n in sorted(columns)}), fps=60)[""]
    assert clip.torque[0].tolist() == list(range(12)) and clip.joint_names[10] == "joint_10"


def test_body_columns_are_found_and_nothing_is_made_up(tmp_path):
    columns = {f"torque_{n}": np.ones(5) for n in NAMES} | {f"body_{b}_pos_{x}": np.full(5, b) for b in range(11) for x in "xyz"}
    clip = read_torque_csv(write_table(tmp_path/"a.csv", {n: columns[n] for n in sorted(columns)}), fps=60)[""]
    assert clip.body_names == tuple(f"body_{b}" for b in range(11)) and clip.body_pos[0, :, 0].tolist() == list(range(11))
    assert clip.body_quat is clip.dof_pos is clip.dof_vel is clip.body_lin_vel is None and clip.absent == ("dof_positions", "dof_velocities", "body_rotations", "body_linear_velocities", "body_angular_velocities")


@pytest.mark.parametrize("form", ["{kind}_torque_{n}", "torque_{kind}_{n}", "{kind}_joint_torques_{n}", "{n}_{kind}_torque"])
@pytest.mark.parametrize("joints", [NAMES, range(12)])
def test_applied_and_computed_torques_stay_apart(form, joints, tmp_path):
    if form.startswith("{n}") and joints is not NAMES: pytest.skip("a number does not stand in front")
    both = {form.format(kind=kind, n=n): np.full(5, i + 100*(kind == "computed")) for i, n in enumerate(joints) for kind in ("computed", "applied")}
    clip = read_torque_csv(write_table(tmp_path/"a.csv", both), fps=60)[""]
    assert clip.torque[0].tolist() == list(range(12)) and clip.computed_torque[0].tolist() == list(range(100, 112)) and clip.meta["torque"] == "applied"
    only = read_torque_csv(write_table(tmp_path/"b.csv", {n: x for n, x in both.items() if "computed" in n}), fps=60)[""]
    assert only.meta["torque"] == "computed" and only.computed_torque is None
    write_torque_csv(clip, tmp_path/"c.csv")
    assert equal(read_torque_csv(tmp_path/"c.csv")[""], clip, but=("time",))


def test_other_columns_with_torque_in_their_name_are_no_joints(tmp_path):
    columns = {f"torque_{i}": np.full(4, i) for i in range(3)} | {"reward_torque": np.ones(4), "torque_limit_0": np.ones(4), "total_effort": np.ones(4), "target_pos": np.ones(4), "imu_angular_velocity_x": np.ones(4)}
    clip = read_torque_csv(write_table(tmp_path/"a.csv", columns), fps=60)[""]
    assert clip.torque.shape == (4, 3) and clip.dof_pos is None and set(clip.meta["unused_columns"]) == set(columns) - {f"torque_{i}" for i in range(3)}


def test_time_base(tmp_path):
    t = np.arange(6)
    table = lambda **clock: write_table(tmp_path/"a.csv", {**clock, **{f"torque_{n}": np.ones(6) for n in NAMES}})
    with pytest.raises(MotionFormatError, match="a.csv: has no time column.*--fps HZ"): read_torque_csv(table(timestep=t))
    assert read_torque_csv(table(timestep=t), fps=120)[""].fps == 120
    assert read_torque_csv(table(time=t/60.00000000000021))[""].fps == 60 and read_torque_csv(table(time=t/59.94))[""].fps == 59.94
    assert read_torque_csv(table(time=t/60), fps=30)[""].time is None                                        # what the caller says goes before the file
    with pytest.raises(MotionFormatError, match="its time steps by 0.06 s after row 3"): read_torque_csv(table(episode=t*0, step=t, time=np.array([0, .02, .04, .1, .12, .14])))
    with pytest.raises(MotionFormatError, match="its time is nan in row 1"): read_torque_csv(table(time=t*np.nan))


@pytest.mark.parametrize("columns, words", [
    (["timestep", "policy_obs_0", "pelvis_x"], r"has no torque column. Expected torque_0.*it has timestep, policy_obs_0, pelvis_x"),
    (["torque_0", "torque_1", "torque_3"], "joint_torques have the numbers 0, 1, 3"),
    (["torque_0", "torque_knee"], "numbered and named at once: torque_0, torque_knee"),
    (["torque_0", "torque_1", "dof_pos_0"], "has columns for 2 joint_torques, 1 dof_positions"),
    (["torque_a", "torque_b", "dof_pos_a", "dof_pos_c"], "are of different joints: b, c"),
    (["torque_a", "torque_b", "dof_pos_0", "dof_pos_1"], "dof_positions have numbers, others have names.*--robot NAME"),
    (["torque_a", "torque_a"], "has torque_a more than once")])
def test_tables_that_are_refused(columns, words, tmp_path):
    np.savetxt(tmp_path/"a.csv", np.ones((4, len(columns))), delimiter=",", header=",".join(columns), comments="")
    with pytest.raises(MotionFormatError, match=rf"a.csv: .*{words}"): read_torque_csv(tmp_path/"a.csv", fps=50)


def test_a_robot_names_joints_and_gives_bodies(biped, tmp_path):
    q = np.tile(biped.model.qpos0, (20, 1))
    q[:, biped.tree.qpos_adr] += 0.2*np.sin(np.arange(20)[:, None]/5 + np.arange(9))
    truth = torque_clip(biped.motion(q, 50, torque=np.random.default_rng(0).normal(size=(20, 9))))
    root = {f"pelvis_position_global_{k}": truth.body_pos[:, 0, k] for k in range(3)} | {f"pelvis_orientation_global_{k}": truth.body_quat[:, 0, k] for k in range(4)}
    numbered = {f"{w}_{i}": x[:, i] for i in range(9) for w, x in (("torque", truth.torque), ("joint_pos", truth.dof_pos))}
    path = write_table(tmp_path/"a.csv", dict(sorted({**root, **numbered}.items())))
    bare, full = read_torque_csv(path, 50)[""], read_torque_csv(path, 50, "biped")[""]
    assert bare.body_names == ("pelvis",) and bare.body_lin_vel is None and bare.joint_names[0] == "joint_0"
    assert full.joint_names == biped.joint_names and full.body_names == biped.body_names and "body_positions" in full.meta["calculated"]
    assert np.abs(full.body_pos - truth.body_pos).max() < 1e-9 and np.abs(full.body_lin_vel - truth.body_lin_vel).max() < 1e-9 and np.array_equal(full.torque, truth.torque)
    from motionbench.io.skeletons import isaaclab_order
    breadth = read_torque_csv(path, 50, biped, "isaaclab")[""]
    order = isaaclab_order(biped.tree)[0]
    assert breadth.joint_names == biped.joint_names and np.array_equal(breadth.torque[:, order], truth.torque)
    no_root = read_torque_csv(write_table(tmp_path/"b.csv", numbered), 50, "biped")[""]
    assert no_root.body_names is None and no_root.body_pos is None
    with pytest.raises(MotionFormatError, match="has 3 joint columns, but biped has 9 joints"): read_torque_csv(write_table(tmp_path/"c.csv", {f"torque_{i}": np.ones(3) for i in range(3)}), 50, "biped")


@settings(max_examples=25, deadline=None)
@given(order=st.permutations(range(12)), seed=st.integers(0, 99))
def test_the_order_of_columns_and_joints_never_matters(order, seed, tmp_path_factory):
    folder, clip = tmp_path_factory.mktemp("order"), clip_of(5, seed=seed)
    pick = lambda c: replace(c, joint_names=[c.joint_names[i] for i in order], torque=c.torque[:, order], dof_pos=c.dof_pos[:, order], dof_vel=c.dof_vel[:, order])
    write_torque_csv(pick(clip), folder/"a.csv")
    lines = [line.split(",") for line in (folder/"a.csv").read_text().splitlines()]
    mixed = np.random.default_rng(seed).permutation(len(lines[0]))
    (folder/"a.csv").write_text("\n".join(",".join(line[i] for i in mixed) for line in lines))
    assert equal(read_torque_csv(folder/"a.csv")[""], clip, but=("time",))
    one, two = TorqueMotionLoader(clip), TorqueMotionLoader([clip, pick(clip)])          # the second file's columns come into the order of the first's
    assert torch.equal(two.joint_torques[5:], one.joint_torques) and torch.equal(two.dof_positions[5:], one.dof_positions)


@settings(max_examples=25, deadline=None)
@given(envs=st.integers(1, 6), lengths=st.lists(st.integers(2, 9), min_size=1, max_size=4))
def test_rows_of_environments_in_step_are_told_apart(envs, lengths):
    clock = np.repeat(np.concatenate([np.arange(n) for n in lengths]), envs)
    parts = split_rows("x", len(clock), clock=clock)
    assert [(e, k) for e, k, _ in parts] == [(e, k) for e in range(envs) for k in range(len(lengths))]
    assert all(set(r % envs) == {e} and len(r) == lengths[k] for e, k, r in parts) and sorted(np.concatenate([r for *_, r in parts])) == list(range(len(clock)))


def test_a_folder_of_tables_keeps_everything(tmp_path):
    clip = clip_of(fps=60.00000000000021, meta=dict(method="policy", torque="applied", assisted=True), assist=np.ones((30, 6)))
    folder = write_torque_folder(clip, tmp_path/"walk", "torque_motion_7")
    back = read_torque_folder(folder)
    assert equal(back, clip, but=("time",)) and back.fps == 60.00000000000021 and back.meta["method"] == "policy"
    listed = json.loads((folder/"metadata.json").read_text())
    assert listed["joint_torques"] == {"dtype": "float64", "shape": [30, 12], "file": "torque_motion_7_joint_torques.csv"}
    assert (folder/"torque_motion_7_body_rotations.csv").read_text().splitlines()[0].startswith("pelvis_w,pelvis_x,pelvis_y,pelvis_z,foot_w")
    (folder/"metadata.json").unlink()                                                    # as other programs leave it
    assert equal(read_torque_folder(folder), clip, but=("time",))
    lines = (folder/"torque_motion_7_joint_torques.csv").read_text().replace("left_knee_torque", "left_elbow_torque")
    (folder/"torque_motion_7_joint_torques.csv").write_text(lines)
    with pytest.raises(MotionFormatError, match="left_knee_torque is missing"): read_torque_folder(folder)
    write_torque_folder(clip, folder, "torque_motion_7")
    for name, content, words in (("fps", b"\xff\x00", "is no text"), ("fps", b"often", "frame rate is often"), ("dof_names", b"", "is empty")):
        keep = (path := folder/f"torque_motion_7_{name}.csv").read_bytes()
        path.write_bytes(content)
        with pytest.raises(MotionFormatError, match=words): read_torque_folder(folder)
        path.write_bytes(keep)


# ---- the commands

@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    "The commands of `motionbench torque`: exit code (an error of ours is 2), output, errors."
    monkeypatch.chdir(tmp_path)
    parser = Parser(prog="motionbench")
    add_torque(parser.add_subparsers(parser_class=Parser))
    def call(*words):
        args = argparse.Namespace()
        try: code = (args := parser.parse_args(["torque", *map(str, words)])).function(args)
        except SystemExit as e: code = e.code
        except ValueError as e: return 2, "", str(e)
        return code, *capsys.readouterr()
    return call


def test_logs_to_clips_and_back(cli, tmp_path):
    clips = [[clip_of(6 + e, seed=e, bodies=("pelvis",)), clip_of(9, seed=9, bodies=("pelvis",))] for e in range(2)]
    log(tmp_path/"logs/a/walk.csv", clips, 2)
    log(tmp_path/"logs/run.csv", [[clips[0][0]]])
    write_torque_folder(clips[1][1], tmp_path/"logs/jump")
    (tmp_path/"logs/notes.txt").write_text("hello")
    code, out, err = cli("from-csv", "--input", "logs", "--output-dir", "clips")
    assert code == 0 and "skipped logs/notes.txt: no .csv file" in err.replace(str(tmp_path) + "/", "")
    assert sorted(str(p.relative_to("clips")) for p in Path("clips").rglob("*.npz")) == ["a/walk_env0_ep0.npz", "a/walk_env0_ep1.npz", "a/walk_env1_ep0.npz", "a/walk_env1_ep1.npz", "jump.npz", "run.npz"]
    assert np.array_equal(read_torque("clips/a/walk_env1_ep0.npz").torque, clips[1][0].torque) and equal(read_torque("clips/jump.npz"), clips[1][1], but=("time",))
    (tmp_path/"logs/bad.csv").write_text("timestep,pelvis_x\n0,1\n")
    code, out, err = cli("from-csv", "--input", "logs", "--output-dir", "more", "--json")
    assert code == 1 and "failed logs/bad.csv: has no torque column" in err and "it has timestep, pelvis_x" in err
    said = json.loads(out)
    assert len(said["clips"]) == 6 and [Path(r["file"]).name for r in said["failed"]] == ["bad.csv"] and len(list(Path("more").rglob("*.npz"))) == 6
    code, out, err = cli("to-csv", "clips/run.npz", "--output", "run.csv")
    assert code == 0 and "left out: metadata" in out and equal(read_torque_csv("run.csv")[""], read_torque("clips/run.npz"), but=("time",))
    assert cli("to-csv", "--input", "clips", "--output-dir", "tables", "--tables")[0] == 0 and equal(read_torque_folder("tables/a/walk_env0_ep1"), read_torque("clips/a/walk_env0_ep1.npz"))
    assert cli("from-csv", "tables/jump", "--output", "again.npz")[0] == 0 and equal(read_torque("again.npz"), read_torque("clips/jump.npz"))


def test_bad_usage_is_2_and_writes_nothing(cli, tmp_path):
    log(tmp_path/"logs/a.csv", [[clip_of(5)]], time=False)
    before = sorted(tmp_path.rglob("*"))
    for words, says in ((["logs/a.csv"], "--fps HZ"), (["logs", "--output", "a.npz"], "--output-dir"), (["none.csv"], "no such file"), ([], "name a CSV file or a folder"), (["logs/a.csv", "--output", "a.csv", "--fps", "50"], "is a .npz file"),
                        (["logs/a.csv", "--fps", "50", "--robot", "nobody"], "nobody"), (["logs/a.csv", "--output", "a.npz", "--output-dir", "b", "--fps", "50"], "give one of them"), (["logs/a.csv", "--fps", "zero"], "")):
        code, _, err = cli("from-csv", *words)
        assert code == 2 and says in err, words
    assert sorted(tmp_path.rglob("*")) == before
    assert cli("from-csv", "logs/a.csv", "--fps", "50", "--output", "a.npz")[0] == 0 and read_torque("a.npz").fps == 50
    log(tmp_path/"same/w.csv", [[clip_of(5), clip_of(5)]])
    log(tmp_path/"same/w_env0_ep1.csv", [[clip_of(5)]])
    code, _, err = cli("from-csv", "same", "--output-dir", "out")
    assert code == 1 and "another log has made" in err


# ---- the loader

def plain(clips, times, starts):
    "The samples once more, in float64, one time after the other, with scipy's slerp."
    out = {k: [] for k in SAMPLED}
    for t in times:
        s = t*clips[0].fps
        c = min(sum(s >= start - 0.5 for start in starts[1:]), len(clips) - 1)
        clip, s = clips[c], min(max(s - starts[c], 0), len(clips[c]) - 1)
        i = min(int(np.floor(s)), max(len(clip) - 2, 0))
        j, b = min(i + 1, len(clip) - 1), s - i
        for k in SAMPLED:
            x = clip.given()[k]
            if k != "body_rotations": out[k].append((1 - b)*x[i] + b*x[j])
            else: out[k].append([Slerp([0, 1], Rotation.from_quat([p, q], scalar_first=True))(b).as_quat(scalar_first=True) for p, q in zip(x[i], x[j])])
    return {k: np.array(x) for k, x in out.items()}


@pytest.mark.parametrize("lengths", [(30,), (2,), (1, 5, 30), (7, 3)])
def test_samples_against_a_plain_loop(lengths):
    clips = [clip_of(n, seed=i) for i, n in enumerate(lengths)]
    loader, starts = TorqueMotionLoader(clips), np.cumsum([0, *lengths[:-1]])
    times = np.r_[np.random.default_rng(1).uniform(-0.1, loader.duration + 0.1, 300), np.arange(sum(lengths))/50]
    got, want = dict(zip(SAMPLED, loader.sample_with_torques(1, times=times))), plain(clips, times, starts)
    for k, x in got.items():
        y = want[k] if k != "body_rotations" else want[k]*np.sign((want[k]*x.numpy()).sum(-1, keepdims=True))
        assert x.dtype == torch.float32 and x.is_contiguous() and np.abs(x.numpy() - y).max() < 1e-6, k
    for a, b in zip(loader.sample(1, times=torch.tensor(times)), got.values()): assert torch.equal(a, b)         # times as a tensor
    single = loader.get_motion_and_torques_at_time(times[0])
    assert all(torch.equal(a, b[0]) for a, b in zip(single, got.values())) and torch.equal(loader.get_torques_at_time(times[0]), single[-1]) and torch.equal(loader.get_torques_at_time(times), got["joint_torques"])


def test_the_interface_of_isaac_lab(tmp_path):
    clip = clip_of(30)
    loader = TorqueMotionLoader(str(write_torque(clip, tmp_path/"a.npz")), "cpu")
    assert (loader.num_frames, loader.num_dofs, loader.num_bodies, loader.dof_names, loader.body_names) == (30, 12, 2, NAMES, ["pelvis", "foot"])
    assert loader.dt == 1/50 and loader.duration == loader.dt*29 and loader.has_torque_data and loader.get_dof_index(["left_toe", "left_hip_x"]) == [5, 0] and loader.get_body_index(["foot"]) == [1]
    assert [tuple(x.shape) for x in loader.sample(4)] == [(4, 12), (4, 12), (4, 2, 3), (4, 2, 4), (4, 2, 3), (4, 2, 3)] and len(loader.sample_with_torques(4)) == 7
    times = loader.sample_times(500, duration=0.2)
    assert isinstance(times, np.ndarray) and times.min() >= 0 and times.max() <= 0.2
    for call, words in ((lambda: loader.get_dof_index(["knee"]), "there is no DOF knee; the motion has left_hip_x"), (lambda: loader.sample_times(1, duration=9), "the duration is 9 s, expected 0 to 0.58 s"),
                        (lambda: TorqueMotionLoader(clip, compat="old"), "expected None or 'isaaclab'"), (lambda: TorqueMotionLoader(clip, weights=[1, 2]), "expected 1 numbers"), (lambda: TorqueMotionLoader([]), "no motion file")):
        with pytest.raises(ConfigError, match=words): call()
    alone = TorqueMotionLoader(TorqueClip(50, NAMES, clip.torque))
    assert alone.sample(3) == (None,)*6 and alone.sample_with_torques(3)[-1].shape == (3, 12) and alone.body_rotations is None
    kinematic = TorqueMotionLoader(replace(clip, torque=None))
    assert not kinematic.has_torque_data and kinematic.joint_torques is None and kinematic.sample_windows(2, 3)[-1] is None
    for call in (kinematic.sample_with_torques, kinematic.get_torques_at_time):
        with pytest.raises(InvalidMotion, match="has no joint_torques"): call(1)


def test_files_that_do_not_go_together():
    a = clip_of()
    for b, words in ((replace(a, fps=60), "fps 50 and 60"), (replace(a, torque=None), "only in the first joint_torques"), (clip_of(bodies=("pelvis", "hand")), "only in the first foot, only in the other hand"), (clip_of(joints=[*NAMES[1:], "neck"]), "only in the other neck")):
        with pytest.raises(ConfigError, match=f"clip 0 and clip 1 do not go together.*{words}"): TorqueMotionLoader([a, b])


@settings(max_examples=40, deadline=None)
@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=5), history=st.integers(1, 6), seed=st.integers(0, 9))
def test_windows_never_leave_their_clip(lengths, history, seed):
    mark = lambda i, n: replace(clip_of(n, seed=i), torque=np.full((n, 12), float(i)), dof_pos=np.arange(n)[:, None] + np.zeros(12))
    loader = TorqueMotionLoader([mark(i, n) for i, n in enumerate(lengths)], history=history, seed=seed)
    if max(lengths) < history:
        with pytest.raises(InvalidMotion, match=f"a window has {history} steps, but the longest clip that is drawn from has {max(lengths)} frames"): loader.sample_windows(5)
        return
    first, *_, torques = loader.sample_windows(50)
    assert (torques == torques[:, :1]).all() and (torques == torques.round()).all() and torques.shape == (50, history, 12)
    assert torch.allclose(first[:, :-1] - first[:, 1:], torch.ones(()), atol=1e-4)                       # newest first, one frame apart, none held at the end
    times = loader.sample_times(50)                                                                      # as Isaac Lab's environments make their histories
    old = loader.sample_with_torques(1, times=(times[:, None] - loader.dt*np.arange(history)).flatten())[-1].view(50, history, 12)
    assert (old == old[:, :1]).all()


def test_weights_and_seeds():
    clips = [replace(clip_of(n, seed=i), torque=np.full((n, 12), float(i))) for i, n in enumerate((11, 21, 31))]
    draw = lambda **more: TorqueMotionLoader(clips, **more).sample_with_torques(30000)[-1][:, 0].int().bincount(minlength=3)/30000
    assert torch.allclose(draw(), torch.tensor([10, 20, 30])/60, atol=0.02) and torch.allclose(draw(weights=[4, 1, 0]), torch.tensor([40, 20, 0])/60, atol=0.02)
    a, b, c = (TorqueMotionLoader(clips, seed=s) for s in (1, 1, 2))
    x, y, z = (loader.sample(64)[0] for loader in (a, b, c))
    assert torch.equal(x, y) and not torch.equal(x, z) and not torch.equal(x, a.sample(64)[0])
    for bad in ([1, 1], [0, 0, 0], [1, -1, 1], [1, np.nan, 1]):
        with pytest.raises(ConfigError, match="weights are"): TorqueMotionLoader(clips, weights=bad)


def test_compat_gives_the_old_numbers():
    clip = clip_of(20)
    loader = TorqueMotionLoader(clip, compat="isaaclab")
    times = np.r_[np.random.default_rng(0).uniform(-0.2, loader.duration + 0.1, 200), 0.013, 0.007]
    got = dict(zip(SAMPLED, loader.sample_with_torques(1, times=times)))
    for n, t in enumerate(times):
        i = round(min(max(t/loader.duration, 0), 1)*19)
        j, b = min(i + 1, 19), round((t - i*loader.dt)/loader.dt, 5)                                     # rounded to the nearest frame, and not limited
        for k in set(SAMPLED) - {"body_rotations"}:
            x = clip.given()[k]
            assert np.abs(got[k][n].numpy() - ((1 - b)*x[i] + b*x[j])).max() < 2e-5
        p, q = clip.body_quat[i], clip.body_quat[j]*np.sign((clip.body_quat[i]*clip.body_quat[j]).sum(-1, keepdims=True))
        angle = np.arccos(np.clip((p*q).sum(-1, keepdims=True), -1, 1))
        with np.errstate(invalid="ignore"): want = np.where(np.sin(angle) < 1e-3, p/2 + q/2, (np.sin((1 - b)*angle)*p + np.sin(b*angle)*q)/np.sin(angle))
        assert np.abs(got["body_rotations"][n].numpy() - (p if i == j else want)).max() < 2e-3
    assert np.abs(loader.sample(1, times=[0.013])[0].numpy() - TorqueMotionLoader(clip).sample(1, times=[0.013])[0].numpy()).max() > 0.1
    for more in (dict(history=2),):
        with pytest.raises(ConfigError, match="for one file"): TorqueMotionLoader(clip, compat="isaaclab", **more)


@needs_data
@pytest.mark.parametrize("name", ["walk", "run"])
def test_no_sample_leaves_the_range_of_the_data_where_the_old_ones_did(name):
    new, old = (TorqueMotionLoader(DATA/f"humanoid_{name}.npz", compat=compat) for compat in (None, "isaaclab"))
    times = (new.sample_times(4000)[:, None] - new.dt*np.arange(16)).flatten()                           # sixteen steps of history, as code for Isaac Lab makes them
    outside = {}
    for which, loader in (("new", new), ("old", old)):
        for k, x in zip(SAMPLED, loader.sample(1, times=times)):
            if k == "body_rotations": continue
            data = getattr(loader, k)
            low, high = data.amin(0), data.amax(0)
            outside[which, k] = max(float((x - high).max()), float((low - x).max()))
    assert all(outside["new", k] <= 1e-5 for k in SAMPLED[:-1] if k != "body_rotations")
    assert outside["old", "dof_velocities"] > 10 and outside["old", "dof_positions"] > 0.1
    windows = TorqueMotionLoader(DATA/f"humanoid_{name}.npz", history=16)
    times = windows.sample_times(4000)[:, None] - windows.dt*np.arange(16)
    assert times.min() > -1e-9 and times.max() <= windows.duration + 1e-9                                # with history no frame is held before the start either


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_same_on_a_gpu():
    clips = [clip_of(20, seed=s) for s in (0, 1)]
    times = np.linspace(-0.1, 1, 200)
    for a, b in zip(*(TorqueMotionLoader(clips, device).sample_with_torques(1, times=times) for device in ("cpu", "cuda"))): assert b.is_cuda and torch.allclose(a, b.cpu(), atol=1e-6)
