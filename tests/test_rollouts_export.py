"Shards of simulators and our own, evaluated and exported, against what trainers read and against what published exporters get wrong."
import json
import os
import pickle
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import joblib
import mujoco
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.spatial.transform import Rotation

from motionbench.cli.parser import Parser, with_hyphens
from motionbench.cli.rollouts_export import add_rollouts_evaluate, add_rollouts_export
from motionbench.core.errors import ConfigError, MotionbenchError, MotionFormatError
from motionbench.core.gait import bundled_clips
from motionbench.core.robot import load_robot
from motionbench.io.grail import ObjectMotion, read_grail, read_grail_object, write_grail, write_grail_object
from motionbench.io.library import MotionLibrary
from motionbench.io.native import write_npz
from motionbench.io.safe_pickle import dump, load
from motionbench.io.skeletons import isaaclab_order
from motionbench.retarget.clip import retarget
from motionbench.rollouts.evaluate import Termination, evaluate_motion, evaluate_shard
from motionbench.rollouts.export import export_shard, export_shards
from motionbench.rollouts.manifest import MANIFEST, files_of, sha256_of
from motionbench.rollouts.merge import merge_exports
from motionbench.rollouts.scene import retime_contacts
from motionbench.rollouts.shard import METRICS, PROVENANCE, find_trajectory, read_rollout, read_shard
from motionbench.rollouts.source import open_source, shard_keys
from motionbench.rollouts.trajectory import G1_ISAACLAB, Rollout, own_frames, read_trajectory, write_trajectory
from motionbench.rollouts.verify import verify_export

G1 = Path(os.environ.get("MOTIONBENCH_TEST_DATA", Path(__file__).parents[1]/"../shared/data"))/"gmr/robots/unitree_g1_gmr.xml"
needs_g1 = pytest.mark.skipif(not G1.is_file(), reason=f"no model of the G1 at {G1}; set MOTIONBENCH_TEST_DATA")
ISAACLAB_TO_MUJOCO = [0, 3, 6, 9, 13, 17, 1, 4, 7, 10, 14, 18, 2, 5, 8, 11, 15, 19, 21, 23, 25, 27, 12, 16, 20, 22, 24, 26, 28]
MUJOCO_TO_ISAACLAB = np.argsort(ISAACLAB_TO_MUJOCO)
KEYS = ("stairs_1", "stairs_1_2", "trip", "walk")


@pytest.fixture(scope="module")
def biped(): return load_robot("biped")


@pytest.fixture(scope="module")
def g1(): return load_robot(G1)


def wave(seed, frames, fps, columns):
    "Smooth random curves whose values do not depend on the frame rate."
    rng, t = np.random.default_rng(seed), np.arange(frames)/fps
    return rng.uniform(.1, .5, columns)*np.sin(2*np.pi*np.outer(t, rng.uniform(.2, 1, columns)) + rng.uniform(0, 6, columns))


def quats(seed, frames, fps): return Rotation.from_rotvec(wave(seed, frames, fps, 3)).as_quat(scalar_first=True)


def recording(seed, frames, fps=25.0, thing=True, table=False, columns=43):
    "A trajectory as the published recorder writes it."
    f32 = lambda x: np.asarray(x, np.float32)
    return dict(dof_pos=f32(wave(seed, frames, fps, columns)), root_pos_w=f32(wave(seed + 1, frames, fps, 3)), root_quat_w=f32(quats(seed + 2, frames, fps)), quat_format="wxyz", fps=fps, num_joints=columns,
                total_frames=frames, object_pos_w=f32(wave(seed + 3, frames, fps, 3)) if thing else None, object_quat_w=f32(quats(seed + 4, frames, fps)) if thing else None,
                table_pos_w=f32(np.tile([1, 0, .4], (frames, 1))) if table else None, table_quat_w=f32(np.tile([np.cos(.3), 0, 0, np.sin(.3)], (frames, 1))) if table else None)


def metrics(terminated, **more):
    "The table of a simulator, with what its writer leaves in it: NaN, which is no JSON."
    keys = list(KEYS)
    columns = dict(terminated=terminated, terminate_reason=["fallen"*t for t in terminated], progress=[.3 if t else 1.0 for t in terminated], motion_keys=keys, sampling_prob=[.25]*4,
                   mpjpe_g=[0.0, 30.0, float("nan"), 40.0], obj_pos_error=[0.0, .1, .2, .3], obj_ori_error=[0.0]*4) | more
    return {"eval/success/success_rate": .75, "eval/all_metrics_dict": {k: v for k, v in columns.items() if v is not None}, "eval/failed_metrics_dict": {}, "failed_keys": ["trip"], "failed_idxes": [2]}


def make_shard(folder, name=lambda i, k: f"{k}.trajectory.pkl", frames=51, terminated=(False, False, True, False), **more):
    folder.mkdir(parents=True, exist_ok=True)
    (folder/METRICS).write_text(json.dumps(metrics(list(terminated), **more), indent=4))
    for i, k in enumerate(KEYS):
        path = folder/name(i, k)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(recording(10*i, frames, table=k == "walk"), pickle.HIGHEST_PROTOCOL))
    return folder


def make_library(folder, g1, manifest=None):
    "A library as retargeting writes it: 2 s at 50 Hz, objects with contacts, geometry, textures flat and nested, tables."
    for i, k in enumerate(KEYS):
        q = np.concatenate([wave(i, 101, 50, 3), quats(i, 101, 50), wave(i + 5, 101, 50, 29)], 1)
        write_grail(g1.motion(q, 50, extra=dict(hand_action_left=np.where(np.arange(101) < 60, -1, 1), hand_action_right=-np.ones(101))), folder/f"robot/{k}.pkl", g1)
        points = dict(left={t: np.full((2, 3), t) for t in range(60, 101)}, right={3: np.ones((1, 3))})
        write_grail_object(ObjectMotion(50, wave(i, 101, 50, 3), quats(i, 101, 50), f"thing {k}", 1.25, points), folder/f"objects/{k}.pkl")
        (folder/"object_usd").mkdir(exist_ok=True)
        (folder/f"object_usd/{k}.usd").write_text(f"#usda 1.0\n# {k}\n")
        dump(dict(object_name=k, table_pos=[0., 0, 1], table_quat=[.5, .5, .5, .5], table_size=[1., 1, 1], smpl_height=1.66), folder/f"meta/{k}.pkl")
    for r in ("stairs_1_wood.jpg", "stairs_1_2_wood.jpg", "stairs_1/deep/oak.exr", "stairs_1_2/oak.png", "stairs_1_3/oak.png", "other_wood.jpg"):
        (folder/"object_usd/textures"/r).parent.mkdir(parents=True, exist_ok=True)
        (folder/"object_usd/textures"/r).write_text(r)
    (folder/"object_usd/config.yaml").write_text("mass: 1\n")
    if manifest: (folder/MANIFEST).write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="module")
def library(tmp_path_factory, g1): return make_library(tmp_path_factory.mktemp("library")/"lib", g1)


@pytest.fixture
def shard(tmp_path): return make_shard(tmp_path/"exp/eval/step_4000/phase1_shard_1")


def tree(folder): return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def call(capsys, *words):
    "The command as on the command line: exit code, JSON, errors."
    parser = Parser()
    commands = parser.add_subparsers()
    for add in (add_rollouts_evaluate, add_rollouts_export): add(commands)
    args = parser.parse_args(with_hyphens([str(w) for w in words] + ["--json"]))
    code = args.function(args)
    out, err = capsys.readouterr()
    return code, json.loads(out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON")), err


# ---- trajectories

@needs_g1
def test_the_published_order_is_that_of_the_model_and_of_the_file(g1, tmp_path):
    assert tuple(g1.joint_names[j] for j in isaaclab_order(g1.tree)[0]) == G1_ISAACLAB
    raw = recording(0, 7)
    path = tmp_path/"000003.trajectory.pkl"
    path.write_bytes(pickle.dumps(raw, pickle.HIGHEST_PROTOCOL))
    r = read_trajectory(path, g1)
    assert np.array_equal(r.motion.dof_pos, raw["dof_pos"][:, ISAACLAB_TO_MUJOCO]) and r.motion.joint_names == g1.joint_names and r.motion.fps == 25
    assert np.array_equal(r.hand_dof_pos, raw["dof_pos"][:, 29:]) and r.hand_names == () and r.table_pos is None
    write_trajectory(r, tmp_path/"again.trajectory.pkl", g1)
    with open(tmp_path/"again.trajectory.pkl", "rb") as f: back = pickle.load(f)
    for k, v in raw.items():
        if isinstance(v, np.ndarray): assert back[k].dtype == v.dtype and np.allclose(back[k], v, atol=1e-6), k
        else: assert back[k] == v and type(back[k]) is type(v), k
    assert back["joint_names"][:29] == list(G1_ISAACLAB) and back["joint_order"] == "isaaclab"


@needs_g1
@settings(max_examples=10, deadline=None)
@given(st.permutations(range(31)))
def test_named_columns_may_stand_anywhere(tmp_path_factory, g1, order):
    names = [*g1.joint_names, "left_grip", "right_grip"]
    path, raw = tmp_path_factory.getbasetemp()/"anywhere.trajectory.pkl", recording(1, 4, columns=31)
    path.write_bytes(pickle.dumps(raw | dict(dof_pos=raw["dof_pos"][:, order], joint_names=[names[i] for i in order])))
    r = read_trajectory(path, g1)
    assert np.array_equal(r.motion.dof_pos, raw["dof_pos"][:, :29])
    assert {n: r.hand_dof_pos[0, i] for i, n in enumerate(r.hand_names)} == dict(zip(names[29:], raw["dof_pos"][0, 29:].astype(float)))


class Evil:
    def __reduce__(self): return os.system, ("touch pwned",)


@pytest.mark.parametrize("change, says", [
    (dict(joint_names=None), "names no joints"), (dict(quat_format="zyxw"), "quat_format"), (dict(fps=0.0), "frame rate"), (dict(total_frames=9), "says 9 frames"), (dict(motion_key="other"), "is of the motion 'other'"),
    (dict(root_quat_w=np.ones((4, 4))), "norm"), (dict(object_pos_w=np.ones((3, 3))), "shape"), (dict(root_pos_w=np.full((4, 3), np.nan)), "nan"), (dict(root_pos_w=None), "lacks root_pos_w"), (dict(note=Evil()), "refused")])
def test_what_a_trajectory_may_not_be(biped, tmp_path, monkeypatch, change, says):
    monkeypatch.chdir(tmp_path)
    raw = recording(0, 4, columns=9) | dict(joint_names=list(biped.joint_names)) | change
    (tmp_path/"a.trajectory.pkl").write_bytes(pickle.dumps({k: v for k, v in raw.items() if v is not None}))
    with pytest.raises(MotionFormatError, match=says): read_trajectory("a.trajectory.pkl", biped, "a")
    assert not Path("pwned").exists()


def test_our_files_of_a_robot_other_than_the_g1_come_back(biped, tmp_path):
    q = np.tile(biped.model.qpos0, (5, 1)) + .01*np.arange(5)[:, None]*(np.arange(16) > 6)
    for hands, names in ((None, ()), (np.ones((5, 2)), ("a", "b"))):
        r = Rollout("hop", 0, biped.motion(q, 60), hands, names)
        for path in (tmp_path/"x.pkl", tmp_path/"y.pkl"): write_trajectory(r, path, biped)
        back = read_trajectory(tmp_path/"x.pkl", biped)
        assert np.allclose(back.motion.dof_pos, r.motion.dof_pos, atol=1e-7) and back.hand_names == names and back.key == "hop" and (tmp_path/"x.pkl").read_bytes() == (tmp_path/"y.pkl").read_bytes()


# ---- shards

@needs_g1
@pytest.mark.parametrize("name", [lambda i, k: f"{k}.trajectory.pkl", lambda i, k: f"{i:06d}.trajectory.pkl", lambda i, k: f"export_render/{i:06d}.trajectory.pkl", lambda i, k: f"render_results/{k}.trajectory.pkl",
                                  lambda i, k: f"trajectories/{k}.trajectory.pkl", lambda i, k: f"some/where/{i:06d}.trajectory.pkl"])
def test_both_names_of_a_trajectory_lead_to_the_same_motion(g1, tmp_path, name):
    s = read_shard(make_shard(tmp_path/"s", name))
    for i, k in enumerate(KEYS):
        assert np.array_equal(read_rollout(s, k, g1).motion.root_pos, recording(10*i, 51)["root_pos_w"]), k


def test_the_key_goes_before_the_row_and_known_folders_before_others(tmp_path):
    s = read_shard(make_shard(tmp_path/"s"))
    for f in ("000000.trajectory.pkl", "render_results/000000.trajectory.pkl", "deep/stairs_1.trajectory.pkl"):
        (s.folder/f).parent.mkdir(exist_ok=True)
        (s.folder/f).write_bytes(b"x")
    found = lambda key: find_trajectory(read_shard(s.folder), key)
    assert found("stairs_1") == s.folder/"stairs_1.trajectory.pkl"
    (s.folder/"stairs_1.trajectory.pkl").unlink()
    assert found("stairs_1") == s.folder/"deep/stairs_1.trajectory.pkl"
    (s.folder/"deep/stairs_1.trajectory.pkl").unlink()
    assert found("stairs_1") == s.folder/"render_results/000000.trajectory.pkl"
    for d in ("a", "b"):
        (s.folder/d).mkdir()
        (s.folder/"walk.trajectory.pkl").rename(s.folder/d/"walk.trajectory.pkl") if d == "a" else shutil.copy(s.folder/"a/walk.trajectory.pkl", s.folder/d)
    with pytest.raises(MotionFormatError, match="Remove the one"): found("walk")


def test_a_table_is_read_and_nothing_in_it_is_made_up(tmp_path):
    s = read_shard(make_shard(tmp_path/"exp/eval/step_7/phase1_shard_2"))
    assert s.keys == KEYS and s.terminated.tolist() == [False, False, True, False] and s.progress.tolist() == [1, 1, .3, 1] and s.terminate_reason[2] == "fallen"
    assert s.checkpoint == dict(experiment="exp", step=7, shard=2) and np.isnan(s.metrics["mpjpe_g"][2]) and s.metrics["mpjpe_g"][0] == 0
    bare = make_shard(tmp_path/"bare", progress=None)
    with pytest.raises(MotionFormatError, match="--progress-from-terminated"): read_shard(bare)
    assert np.array_equal(read_shard(bare, "terminated").progress, [1, 1, np.nan, 1], equal_nan=True)
    for change, says in ((dict(terminated=None), "lacks terminated"), (dict(motion_keys=["a", "a", "b", "c"]), "more than once"), (dict(mpjpe_g=[1.0]), "1 values of mpjpe_g for 4")):
        (bare/METRICS).write_text(json.dumps(metrics([False]*4) | {"eval/all_metrics_dict": {k: v for k, v in (metrics([False]*4)["eval/all_metrics_dict"] | change).items() if v is not None}}))
        with pytest.raises(MotionFormatError, match=says): read_shard(bare)
    (bare/METRICS).unlink()
    with pytest.raises(MotionFormatError, match="was not evaluated to its end"): read_shard(bare)


@pytest.mark.parametrize("recorded, progress, n", [(51, 1, 51), (50, 1, 50), (52, 1, 50), (500, 1, 50), (500, .5, 25), (3, 0, 1)])
def test_where_a_motion_ends(recorded, progress, n): assert own_frames(recorded, 25, 2.0, progress) == n


@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(0, 200)), st.sampled_from([24, 25, 30, 50, 60, 120]), st.sampled_from([25, 30, 50, 59.94]))
def test_contacts_keep_their_time(frames, source_fps, fps):
    n = int(1.5*fps)
    out = retime_contacts({t: np.full((1, 3), t) for t in frames}, source_fps, n, fps)
    assert list(out) == sorted(out) and all(0 <= k < n for k in out)
    for t in frames:
        if round(t/source_fps*fps) < n: assert any(abs(k/fps - t/source_fps) <= .5/fps + 1e-9 for k in out), t
    for k, p in out.items(): assert abs(p[0, 0]/source_fps - k/fps) <= .5/min(fps, source_fps) + 1e-9
    covered = [k for k in range(n) if {int(np.floor(k/fps*source_fps)), int(np.ceil(k/fps*source_fps))} <= frames]
    assert set(covered) <= set(out), "a hole in a contact"


# ---- export, as trainers read it

def pose_aa_bodies(g1, clip, t):
    "World positions of all bodies from `pose_aa`, as the trainers' forward kinematics does it."
    m, pos, rot = g1.model, {0: np.zeros(3)}, {0: Rotation.identity()}
    for b in range(1, m.nbody):
        p, parent = m.body_pos[b], m.body_parentid[b]
        if m.body(b).name == g1.root_body: pos[b], rot[b] = clip["root_trans_offset"][t], Rotation.from_rotvec(clip["pose_aa"][t, 0]); continue
        pos[b], rot[b] = pos[parent] + rot[parent].apply(p), rot[parent]*Rotation.from_quat(m.body_quat[b], scalar_first=True)
        for j in range(m.body_jntadr[b], m.body_jntadr[b] + m.body_jntnum[b]): rot[b] = rot[b]*Rotation.from_rotvec(clip["pose_aa"][t, 1 + g1.joint_names.index(m.jnt(j).name)])
    return np.array([pos[b] for b in range(1, m.nbody)])


@needs_g1
def test_trainers_read_the_export(g1, library, shard, tmp_path):
    done = export_shard(shard, library, tmp_path/"out", robot=g1)
    out, taken = tmp_path/"out", ["stairs_1", "stairs_1_2", "walk"]
    assert not verify_export(out, g1).problems
    assert done["exported_count"] == 3 and not done["errors"] and done["total_motions_evaluated"] == 4 and done["evaluated_motions"] == list(KEYS)
    files = sorted(p for p in (out/"robot").glob("**/*.pkl") if p.name != "metadata.pkl")
    assert [p.stem for p in files] == taken == sorted(p.stem for p in (out/"object_usd").glob("*.usd*")) == sorted(p.stem for p in (out/"objects").glob("*.pkl"))
    for p in files:
        clip, i = next(iter(joblib.load(p).values())), KEYS.index(p.stem)
        raw = recording(10*i, 51)
        assert list(joblib.load(p)) == [p.stem] and clip["fps"] == 25.0 and type(clip["fps"]) is float
        assert {k: (v.dtype, v.shape) for k, v in clip.items() if isinstance(v, np.ndarray)} == {k: (np.dtype(np.float32), s) for k, s in dict(
            root_trans_offset=(51, 3), pose_aa=(51, 30, 3), dof=(51, 29), root_rot=(51, 4), smpl_joints=(51, 24, 3), hand_dof_pos=(51, 14), hand_action_left=(51,), hand_action_right=(51,)).items()}
        assert np.array_equal(clip["dof"][:, MUJOCO_TO_ISAACLAB], raw["dof_pos"][:, :29]) and np.array_equal(clip["hand_dof_pos"], raw["dof_pos"][:, 29:])
        assert np.allclose(clip["root_rot"], raw["root_quat_w"][:, [1, 2, 3, 0]], atol=1e-6)
        assert np.array_equal(clip["hand_action_left"], np.where(np.arange(51)*2 < 60, -1, 1)) and (clip["hand_action_right"] == -1).all()
        data = mujoco.MjData(g1.model)
        for t in (0, 17, 50):
            data.qpos[:3], data.qpos[3:7] = clip["root_trans_offset"][t], clip["root_rot"][t][[3, 0, 1, 2]]
            for name, x in zip(g1.joint_names, clip["dof"][t]): data.joint(name).qpos[0] = x
            mujoco.mj_kinematics(g1.model, data)
            assert np.abs(pose_aa_bodies(g1, clip, t) - data.xpos[1:]).max() < 1e-5
        thing = joblib.load(out/f"objects/{p.stem}.pkl")[p.stem]
        assert thing["root_pos"].shape == (51, 1, 3) and np.allclose(thing["root_quat"][:, 0], raw["object_quat_w"], atol=1e-6) and thing["fps"] == 25 and thing["scale"] == 1.25
        left = thing["contact_points_left_hand"]
        assert list(left) == list(range(30, 51)) and all((p == 2*t).all() for t, p in left.items()) and list(thing["contact_points_right_hand"]) == [2]


@needs_g1
def test_textures_go_to_their_motion_alone_and_tables_say_their_order(g1, library, shard, tmp_path):
    out = tmp_path/"out"
    done = export_shard(shard, library, out, obj_pos_threshold=.05, robot=g1)
    assert [m["motion_key"] for m in done["exported_motions"]] == ["stairs_1"] and done["exported_motions"][0]["obj_pos_error"] == 0.0
    assert files_of(out/"object_usd") == ["config.yaml", "stairs_1.usd", "textures/stairs_1/deep/oak.exr", "textures/stairs_1_wood.jpg"]
    export_shard(shard, library, out, robot=g1)
    assert "textures/stairs_1_2/oak.png" in files_of(out/"object_usd") and not [f for f in files_of(out) if "stairs_1_3" in f or "other" in f]
    own, seen = (joblib.load(out/f"meta/{k}.pkl") for k in ("stairs_1", "walk"))
    assert own["table_quat_order"] == seen["table_quat_order"] == "wxyz" and np.allclose(own["table_quat"], .5) and np.allclose(seen["table_quat"], [np.cos(.3), 0, 0, np.sin(.3)]) and np.allclose(seen["table_pos"], [1, 0, .4])
    assert own["smpl_height"] == 1.66 and own["object_name"] == "stairs_1"
    manifest = json.loads((out/MANIFEST).read_text(), parse_constant=lambda w: pytest.fail(w))
    assert manifest["sha256"] == {r: sha256_of(out/r) for r in files_of(out)} and manifest["quat_order"] == dict(robot="xyzw", objects="wxyz", table="wxyz") and manifest["joint_order"] == list(g1.joint_names)
    assert manifest["checkpoint"] == dict(experiment="exp", step=4000, shard=1) and manifest["source_library"]["sha256"] == open_source(library).digest()
    entry = {m["motion_key"]: m for m in manifest["exported_motions"]}["stairs_1"]
    assert (entry["env_idx"], entry["frames"], entry["fps"], entry["mpjpe_g"], entry["object"], entry["hands"]) == (0, 51, 25.0, 0.0, "rollout", "rollout")


@needs_g1
def test_the_order_of_a_table_is_not_guessed(g1, tmp_path, shard):
    lib = make_library(tmp_path/"lib", g1, manifest=dict(exported_motions=[]))
    for k in KEYS: dump(dict(table_pos=[0., 0, 1], table_quat=[0., 0, 0, 1]), lib/f"meta/{k}.pkl")
    done = export_shard(shard, lib, tmp_path/"out", robot=g1)
    assert "--table-quat-order" in done["errors"]["stairs_1"] and [m["motion_key"] for m in done["exported_motions"]] == ["walk"]
    done = export_shard(shard, lib, tmp_path/"out", robot=g1, table_quat_order="xyzw")
    assert not done["errors"] and np.allclose(joblib.load(tmp_path/"out/meta/stairs_1.pkl")["table_quat"], [1, 0, 0, 0])


@needs_g1
def test_frames_after_the_reset_are_not_exported(g1, library, tmp_path):
    folder = make_shard(tmp_path/"s", frames=90)
    path = folder/"walk.trajectory.pkl"
    raw = pickle.loads(path.read_bytes())
    raw["root_pos_w"][50:] += 5                                   # the motion has 2 s; then the robot is put back
    path.write_bytes(pickle.dumps(raw))
    done = export_shard(folder, library, tmp_path/"out", robot=g1)
    clip = read_grail(tmp_path/"out/robot/walk.pkl", g1)
    assert len(clip) == 50 and np.abs(np.diff(clip.root_pos, axis=0)).max() < .5 and done["exported_motions"][-1]["recorded_frames"] == 90 and done["exported_motions"][-1]["frames"] == 50


# ---- export that fails

@needs_g1
def test_one_bad_motion_costs_only_itself(g1, library, shard, tmp_path, capsys):
    (shard/"stairs_1_2.trajectory.pkl").write_bytes(b"\x80\x04damaged")
    (shard/"walk.trajectory.pkl").unlink()
    code, done, err = call(capsys, "export", "--eval_dir", shard, "--source_data", library, "--output_dir", tmp_path/"out", "--min_progress", "1.0", "--robot", G1)
    assert code == 1 and list(done["errors"]) == ["stairs_1_2"] and done["skipped_motions"] == ["walk"] and done["skipped_no_trajectory"] == 1 and done["exported_count"] == 1
    assert "failed stairs_1_2" in err and "failed walk" in err and (tmp_path/"out/robot/stairs_1.pkl").is_file() and not [f for f in files_of(tmp_path/"out") if "stairs_1_2" in f]


@needs_g1
def test_geometry_that_is_missing_is_an_error_of_its_motion(g1, tmp_path, shard):
    lib = make_library(tmp_path/"lib", g1)
    (lib/"object_usd/walk.usd").unlink()
    done = export_shard(shard, lib, tmp_path/"out", robot=g1)
    assert list(done["errors"]) == ["walk"] and "is missing in the source library" in done["errors"]["walk"] and not (tmp_path/"out/robot/walk.pkl").exists()


@needs_g1
def test_another_library_or_folder_is_refused(g1, library, shard, tmp_path):
    small = make_library(tmp_path/"small", g1)
    (small/"robot/walk.pkl").unlink()
    with pytest.raises(ConfigError, match="lacks 1 of the 4 motions .* walk"): export_shard(shard, small, tmp_path/"out", robot=g1)
    (shard/PROVENANCE).write_text(json.dumps(dict(step=4000, source=dict(name="lib", sha256=open_source(library).digest()))))
    assert export_shard(shard, library, tmp_path/"out", robot=g1)["exported_count"] == 3
    write_grail(read_grail(library/"robot/trip.pkl", g1), small/"robot/walk.pkl", g1)
    with pytest.raises(ConfigError, match="is another one or has changed"): export_shard(shard, small, tmp_path/"out", robot=g1)
    for out in (library, library/"robot", library.parent):
        with pytest.raises(ConfigError, match="lie in each other"): export_shard(shard, library, out, robot=g1)
    shutil.copytree(library/"robot", tmp_path/"full/robot")
    (tmp_path/"full/robot/walk.pkl").rename(tmp_path/"full/robot/precious.pkl")
    with pytest.raises(ConfigError, match="holds robot/precious.pkl"): export_shard(shard, library, tmp_path/"full", robot=g1)
    with pytest.raises(MotionFormatError, match="has no obj_pos_error"): export_shard(make_shard(tmp_path/"s", obj_pos_error=None), library, tmp_path/"out", obj_pos_threshold=.1, robot=g1)
    assert (tmp_path/"out"/MANIFEST).is_file(), "a refused call changed the export"


@needs_g1
@pytest.mark.parametrize("n", [0, 1, 4, 9])
def test_a_full_disk_leaves_no_half_motion(g1, library, shard, tmp_path, monkeypatch, n):
    whole, out, real, count = tmp_path/"whole", tmp_path/"out", os.replace, iter(range(1000))
    export_shard(shard, library, whole, robot=g1)
    def full(a, b):
        if next(count) >= n: raise OSError(28, "No space left on device")
        real(a, b)
    shutil.copytree(whole, tmp_path/"again")
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(MotionFormatError, match="No space left"): export_shard(shard, library, out, robot=g1)
    with pytest.raises(MotionFormatError, match="No space left"): export_shard(shard, library, tmp_path/"again", robot=g1)
    assert not (tmp_path/"again"/MANIFEST).exists(), "an export that did not finish looks finished"
    there = {r: (out/r).read_bytes() for r in files_of(out)}
    assert not (out/MANIFEST).exists() and not list(out.rglob(".*")) and there == {r: b for r, b in tree(whole).items() if r in there}
    for k in ("stairs_1", "stairs_1_2", "walk"): assert len([r for r in there if r.split("/")[0] in ("robot", "objects", "meta") and Path(r).stem == k]) in (0, 3)
    monkeypatch.undo()
    export_shard(shard, library, out, robot=g1)
    assert tree(out) == tree(whole)


@needs_g1
def test_killed_at_any_moment_and_run_again_the_export_is_the_same(g1, library, shard, tmp_path):
    whole, rng = tmp_path/"whole", np.random.default_rng(0)
    export_shard(shard, library, whole, robot=g1)
    total = len(files_of(whole)) + 1
    for n in rng.choice(2*total, 6, replace=False):
        out = tmp_path/f"out{n}"
        pid = os.fork()
        if not pid:
            count, real = iter(range(1000)), os.replace
            def dying(a, b):
                for moment in range(2):                                   # before and after the file gets its name
                    if next(count) == n: os.kill(os.getpid(), signal.SIGKILL)
                    if not moment: real(a, b)
            os.replace = dying
            try: export_shard(shard, library, out, robot=g1)
            finally: os._exit(0)
        assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
        assert (out/MANIFEST).exists() == (n == 2*total - 1)
        export_shard(shard, library, out, robot=g1)
        assert tree(out) == tree(whole), n


@needs_g1
@pytest.mark.parametrize("n_jobs", [1, 3])
def test_several_shards_at_once_are_as_one_by_one(g1, library, shard, tmp_path, n_jobs):
    "For any number of processes, and with the robot's joints alone."
    other = make_shard(tmp_path/"phase1_shard_7", frames=40, terminated=(True, False, False, False))
    (other/"walk.trajectory.pkl").write_bytes(b"damaged")
    done = export_shards({shard: tmp_path/"both/a", other: tmp_path/"both/b"}, library, robot=str(G1), n_jobs=n_jobs)
    assert [m["exported_count"] for m in done] == [3, 2] and list(done[1]["errors"]) == ["walk"] and "is no readable pickle" in done[1]["errors"]["walk"]
    for folder, name in ((shard, "a"), (other, "b")):
        export_shard(folder, library, tmp_path/"single"/name, robot=g1)
        assert tree(tmp_path/"single"/name) == tree(tmp_path/"both"/name)
    with pytest.raises(ConfigError, match="to one folder"): export_shards({shard: tmp_path/"c", other: tmp_path/"c"}, library, robot=g1)
    (other/METRICS).write_text("{")
    with pytest.raises(MotionFormatError, match="phase1_shard_7.*no readable JSON"): export_shards({shard: tmp_path/"new/a", other: tmp_path/"new/b"}, library, robot=g1)
    assert not (tmp_path/"new").exists()


@needs_g1
def test_several_shards_on_the_command_line(g1, library, shard, tmp_path, capsys):
    other = make_shard(tmp_path/"phase1_shard_7")
    (other/"walk.trajectory.pkl").unlink()
    code, done, err = call(capsys, "export", "--eval_dir", shard, other, "--source_data", library, "--output_dir", tmp_path/"out", "--n_jobs", 2, "--robot", G1)
    assert code == 1 and "failed walk: has no trajectory" in err and [m["exported_count"] for m in done["shards"]] == [3, 2]
    assert [json.loads((tmp_path/f"out/{k}"/MANIFEST).read_text()) for k in ("shard_1", "shard_7")] == done["shards"]
    with pytest.raises(ConfigError, match="one by one"): call(capsys, "export", "--eval-dir", shard, tmp_path/"phase1_shard_1", "--source-data", library, "--output-dir", tmp_path/"out")


@needs_g1
def test_a_process_that_is_killed_is_told_and_the_export_goes_on(g1, library, shard, tmp_path, monkeypatch):
    whole, out, here, real = tmp_path/"whole", tmp_path/"out", os.getpid(), os.replace
    export_shard(shard, library, whole, robot=g1)
    def dying(a, b):
        if os.getpid() != here: os.kill(os.getpid(), signal.SIGKILL)
        real(a, b)
    monkeypatch.setattr(os, "replace", dying)
    with pytest.raises(MotionbenchError, match="ended from outside.*goes on where it stopped"): export_shard(shard, library, out, robot=g1, n_jobs=2)
    assert not (out/MANIFEST).exists()
    monkeypatch.undo()
    export_shard(shard, library, out, robot=g1, n_jobs=2)
    assert tree(out) == tree(whole)


@needs_g1
def test_an_export_with_other_limits_leaves_nothing_of_the_old_one(g1, library, shard, tmp_path):
    out = tmp_path/"out"
    export_shard(shard, library, out, robot=g1)
    (out/"vis").mkdir()
    (out/"vis/walk.mp4").write_bytes(b"film")
    export_shard(shard, library, out, obj_pos_threshold=.05, robot=g1)
    assert files_of(out) == ["meta/stairs_1.pkl", "object_usd/config.yaml", "object_usd/stairs_1.usd", "object_usd/textures/stairs_1/deep/oak.exr", "object_usd/textures/stairs_1_wood.jpg", "objects/stairs_1.pkl", "robot/stairs_1.pkl", "vis/walk.mp4"]


def test_an_export_is_not_overwritten_by_another_one(clips, tmp_path):
    lib, motions = clips
    out, shards = tmp_path/"out", {m: evaluate_shard(lib, tmp_path/m, method=m)["folder"] for m in ("free", "assisted")}
    export_shard(shards["assisted"], lib, out)
    before = tree(out)
    with pytest.raises(ConfigError, match="holds the export of another evaluation"): export_shard(shards["free"], lib, out)
    more = shutil.copytree(lib, tmp_path/"more")
    write_npz(motions["stand"], more/"stand_2.npz")
    (Path(shards["assisted"])/PROVENANCE).rename(tmp_path/PROVENANCE)                      # as other simulators leave it
    with pytest.raises(ConfigError, match="another evaluation"): export_shard(shards["assisted"], more, out, robot="biped")
    export_shard(shards["assisted"], lib, tmp_path/"old", robot="biped")
    with pytest.raises(ConfigError, match="another source library"): export_shard(shards["assisted"], more, tmp_path/"old", robot="biped")
    (tmp_path/PROVENANCE).rename(Path(shards["assisted"])/PROVENANCE)
    merge_exports([out], tmp_path/"merged")
    with pytest.raises(ConfigError, match="holds the result of a merge"): export_shard(shards["assisted"], lib, tmp_path/"merged")
    assert tree(out) == before
    assert export_shard(shards["assisted"], lib, out, min_progress=0.5)["exported_count"] == 3
    (out/MANIFEST).unlink()
    export_shard(shards["assisted"], lib, out)
    assert tree(out) == before


# ---- evaluation

@pytest.fixture(scope="module")
def clips(biped, tmp_path_factory):
    "Three bundled clips of the biped: one that a free robot survives, two that it does not."
    folder = tmp_path_factory.mktemp("clips")
    motions = {k: retarget(bundled_clips()[k], biped).resample(30) for k in ("jump", "stand", "walk")}
    for k, m in motions.items(): write_npz(m, folder/f"lib/{k}.npz")
    return folder/"lib", motions


SCHEMA = {"mpjpe_g", "mpjpe_l", "mpjpe_pa", "vel_dist", "accel_dist", "terminated", "terminate_reason", "progress", "motion_keys", "sampling_prob"}


def test_evaluate_then_export(clips, biped, tmp_path, capsys):
    lib, motions = clips
    code, done, _ = call(capsys, "evaluate", lib, "--out", tmp_path/"free", "--num_shards", 1, "--shard", 0)
    assert code == 0 and set(done["failed"]) == {"jump", "walk"} and done["success"] == 1
    folder = tmp_path/"free/eval/step_0/phase1_shard_0"
    table = json.loads((folder/METRICS).read_text(), parse_constant=lambda w: pytest.fail(w))
    assert set(table["eval/all_metrics_dict"]) == set(table["eval/failed_metrics_dict"]) == SCHEMA and table["failed_keys"] == ["jump", "walk"] and table["failed_idxes"] == [0, 2]
    s = read_shard(folder)
    for i, k in enumerate(s.keys):
        r, n = read_rollout(s, k, biped), len(motions[k])
        assert s.progress[i] == (1 if k == "stand" else (len(r) - 2)/(n - 1)) and r.motion.fps == 30 and (len(r) == n) == (k == "stand")
        data, at = mujoco.MjData(biped.model), lambda m, t: [data.__setattr__("qpos", biped.qpos(m)[t]), mujoco.mj_kinematics(biped.model, data), data.xpos[1:].copy()][-1]
        error = 1000*np.mean([np.linalg.norm(at(r.motion, t) - at(motions[k], t), axis=1).mean() for t in range(1, len(r))])
        assert s.metrics["mpjpe_g"][i] == pytest.approx(error, abs=.01)
    code, done, _ = call(capsys, "evaluate", lib, "--out", tmp_path/"held", "--controller", "assisted", "--step", 3)
    assert code == 0 and done["success"] == 3 and done["success_rate"] == 1
    code, manifest, _ = call(capsys, "export", "--eval-dir", done["folder"], "--source-data", lib, "--output-dir", tmp_path/"out", "--audit")
    assert code == 0 and manifest["exported_count"] == 3 and manifest["checkpoint"]["controller"] == "assisted" and manifest["robot"] == "biped"
    for m in manifest["exported_motions"]:
        back, want = read_grail(tmp_path/f"out/robot/{m['motion_key']}.pkl", biped), motions[m["motion_key"]]
        assert len(back) == len(want) == m["frames"] and back.fps == 30 and np.abs(back.root_pos - want.root_pos).max() < .1 and m["grade"] in ("pass", "warn", "fail") and m["assist_force_mean_pct"] > 0


def test_shards_part_the_library_and_a_library_is_a_library(clips, biped, tmp_path):
    lib, motions = clips
    assert [shard_keys(motions, 2, i) for i in range(2)] == [("jump",), ("stand", "walk")] and sum((shard_keys(range(23), 5, i) for i in range(5)), ()) == tuple(range(23))
    packed = MotionLibrary.create(tmp_path/"packed")
    packed.append({f"some/{k}": m for k, m in motions.items()})
    done = [evaluate_shard(tmp_path/"packed", tmp_path/"exp", 3, i) for i in range(3)]
    assert [d["motions"] for d in done] == [1, 1, 1] and [list(d["failed"]) for d in done] == [["some_jump"], [], ["some_walk"]]
    manifest = export_shard(done[1]["folder"], tmp_path/"packed", tmp_path/"out")
    assert files_of(tmp_path/"out") == ["robot/some_stand.pkl"] and manifest["source_library"]["kind"] == "library"
    empty = evaluate_shard(tmp_path/"packed", tmp_path/"exp5", 5, 0)
    assert empty["motions"] == 0 and empty["success_rate"] is None and export_shard(empty["folder"], tmp_path/"packed", tmp_path/"none")["exported_count"] == 0


def test_an_evaluation_goes_on_where_it_stopped(clips, tmp_path, monkeypatch):
    lib, _ = clips
    whole = evaluate_shard(lib, tmp_path/"whole")
    import motionbench.rollouts.evaluate as module
    real, calls = module.write_trajectory, []
    def dying(rollout, path, robot):
        if calls: raise KeyboardInterrupt
        calls.append(rollout.key)
        real(rollout, path, robot)
    monkeypatch.setattr(module, "write_trajectory", dying)
    with pytest.raises(KeyboardInterrupt): evaluate_shard(lib, tmp_path/"exp")
    folder = tmp_path/"exp/eval/step_0/phase1_shard_0"
    assert calls == ["jump"] and not (folder/METRICS).exists()
    monkeypatch.undo()
    done = evaluate_shard(lib, tmp_path/"exp")
    assert done["kept"] == 1 and tree(folder) == tree(Path(whole["folder"]))
    stamps = {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    assert evaluate_shard(lib, tmp_path/"exp")["kept"] == 3 and {p: p.stat().st_mtime_ns for p in folder.iterdir()} == stamps
    for change in (dict(method="assisted"), dict(seed=1), dict(limits=Termination(.3))):
        with pytest.raises(ConfigError, match="holds another evaluation"): evaluate_shard(lib, tmp_path/"exp", **change)


def test_a_trajectory_of_another_evaluation_is_made_anew(clips, tmp_path):
    lib, _ = clips
    whole, held = evaluate_shard(lib, tmp_path/"whole"), evaluate_shard(lib, tmp_path/"exp", method="assisted")
    for p in Path(held["folder"]).glob("*.json"): p.unlink()
    done = evaluate_shard(lib, tmp_path/"exp")
    assert done["kept"] == 0 and done["success"] == 1 and tree(Path(done["folder"])) == tree(Path(whole["folder"]))
    shutil.copy(Path(done["folder"])/"stand.trajectory.pkl", Path(done["folder"])/"walk.trajectory.pkl")
    (Path(done["folder"])/METRICS).unlink()
    assert evaluate_shard(lib, tmp_path/"exp")["kept"] == 2 and tree(Path(done["folder"])) == tree(Path(whole["folder"]))


@pytest.mark.parametrize("flags, says", [(("--controller", "assisted", "--actions", "range", "--action-scale", "99", "--activation", "nonsense"), "--actions, --action-scale, --activation: only for a policy"),
                                         (("--action-scale", "0"), "--action-scale: only"), (("--checkpoint", "p.pt", "--task", "biped", "--controller", "fixed"), "--controller fixed follows without a policy")])
def test_flags_without_effect_are_refused(clips, tmp_path, capsys, flags, says):
    with pytest.raises(ConfigError, match=says): call(capsys, "evaluate", clips[0], "--out", tmp_path/"exp", *flags)
    assert not (tmp_path/"exp").exists()


def test_limits_end_a_motion_and_what_cannot_be_simulated_is_named(clips, biped, tmp_path, capsys):
    _, motions = clips
    strict, row = evaluate_motion("walk", 0, motions["walk"], biped, "free", limits=Termination(body_error=.02))
    assert row["terminate_reason"] == "body_error" and row["progress"] == (len(strict) - 2)/(len(motions["walk"]) - 1) < .5
    assert evaluate_motion("walk", 0, motions["walk"], biped, "free", limits=Termination(None, .05))[1]["terminate_reason"] == "root_distance"
    assert not evaluate_motion("walk", 0, motions["walk"], biped, "fixed")[1]["terminated"]
    write_npz(motions["stand"], tmp_path/"lib/stand.npz")
    write_npz(motions["stand"].cut(0, 2), tmp_path/"lib/blink.npz")
    code, done, err = call(capsys, "evaluate", tmp_path/"lib", "--out", tmp_path/"exp")
    assert code == 1 and list(done["errors"]) == ["blink"] and done["motions"] == 1 and "failed blink" in err
    assert call(capsys, "evaluate", tmp_path/"lib", "--out", tmp_path/"exp")[0] == 1, "a finished shard still says what is missing"


def test_a_policy_is_evaluated(clips, biped, tmp_path, capsys):
    torch = pytest.importorskip("torch")
    still = torch.nn.Linear(28, 9)
    still.weight.data, still.bias.data = torch.zeros(9, 28), torch.tensor(clips[1]["stand"].dof_pos[0], dtype=torch.float32)
    file = tmp_path/"model_step_012000.pt"
    torch.jit.save(torch.jit.script(still), str(file))
    code, done, _ = call(capsys, "evaluate", clips[0], "--out", tmp_path/"exp", "--checkpoint", file, "--task", "biped")
    told = json.loads((Path(done["folder"])/PROVENANCE).read_text())
    assert code == 0 and "eval/step_12000/" in done["folder"] and told["sha256"] == sha256_of(file) and told["checkpoint"] == file.name and "stand" not in done["failed"] and "walk" in done["failed"]
