"Datasets: what they refuse, what they keep, what is proved about them; from clips in files to windows in a tensor."
import json
import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from motionbench.amp.augment import augmented_features, copies, mirror_columns
from motionbench.amp.checks import check_contacts, check_names, check_poses, check_time, check_velocities
from motionbench.amp.dataset import AmpClip, AmpDataset, differences, merge_clips, split_clips, split_validation, statistics, take_clips
from motionbench.amp.features import amp_features
from motionbench.amp.files import export_clips, merge_files, read_amp, write_amp
from motionbench.amp.layout import AmpLayout
from motionbench.amp.normalize import EDGES, normalize_velocity, speed_summary
from motionbench.amp.verify import training_lines, verify
from motionbench.amp.windows import AmpWindows
from motionbench.core.errors import ConfigError, InvalidMotion, MotionFormatError, RobotError
from motionbench.core.gait import bundled_clips
from motionbench.core.mirror import mirror_error, mirror_motion
from motionbench.core.motion import transform
from motionbench.core.robot import load_robot
from motionbench.io.registry import read_motion
from motionbench.retarget.clip import retarget

DATA = Path(os.environ.get("MOTIONBENCH_TEST_DATA", Path(__file__).parents[1]/"../shared/data"))


@pytest.fixture(scope="module")
def biped(): return load_robot("biped")


@pytest.fixture(scope="module")
def motions(biped):
    human = bundled_clips()
    return {name: transform(retarget(human[name], biped), heading, [1, 2, 0]) for name, heading in (("walk", 0.3), ("turn", 2.0), ("run", -1.2), ("stand", 3.0))}


@pytest.fixture(scope="module")
def clips(motions, biped): return {name: amp_features(m, biped, name=name) for name, m in motions.items()}


@pytest.fixture(scope="module")
def gaits(clips): return merge_clips(list(clips.values()))


def spoiled(dataset, block, value):
    "The dataset with one block replaced by `value(block)`."
    x = np.array(dataset.features)
    x[:, dataset.layout.slices[block]] = value(x[:, dataset.layout.slices[block]])
    return replace(dataset, features=x)


def results(checks): return {c.check.split(" (")[0]: c.result for c in checks}


# ---- datasets

def test_a_dataset_keeps_its_clips_apart(gaits, clips):
    assert gaits.starts == (0, 201, 402, 553) and len(gaits) == 704
    for part, (name, clip) in zip(split_clips(gaits), clips.items()):
        assert part.clips[0].name == name and all(np.array_equal(getattr(part, k), getattr(clip, k)) for k in ("features", "dof_pos", "root_pos", "root_quat"))
    two = take_clips(gaits, ["run", "walk"])
    assert [c.name for c in two.clips] == ["run", "walk"] and np.array_equal(two.features[:151], clips["run"].features)
    with pytest.raises(ConfigError, match="no clip hop; the dataset has walk"): take_clips(gaits, ["hop"])


@pytest.mark.parametrize("change, words", [
    (dict(fps=30), "fps is 50.0 against 30"), (dict(layout="v2"), "layout is exact against wildrobot-v2"), (dict(meta=dict(robot="g1")), "robot is biped against g1"),
    (dict(layout="order"), "joint_names are the same in another order: column 0 is waist_yaw against right_ankle_pitch"), (dict(layout="other"), "only one has neck, right_ankle_pitch"),
    (dict(layout="direction"), "velocity"), (dict(meta=dict(contacts={"method": "sole", "height_m": 0.05})), "contacts is")])
def test_what_does_not_belong_together_is_not_merged(clips, change, words):
    walk, names = clips["walk"], clips["walk"].layout.joint_names
    layouts = dict(v2=replace(walk.layout, name="wildrobot-v2"), order=replace(walk.layout, joint_names=names[::-1]), other=replace(walk.layout, joint_names=(*names[:-1], "neck")),
                   direction=replace(walk.layout, velocity="direction"))
    meta = {**walk.meta, **change.get("meta", {})}
    if change.get("layout") == "direction": meta["velocity"] = {"mode": "direction", "threshold_m_s": 0.1}
    other = replace(clips["turn"], layout=layouts.get(change.get("layout"), walk.layout), fps=change.get("fps", 50.0), meta=meta)
    with pytest.raises(ConfigError, match=words): merge_clips([walk, other])


@pytest.mark.parametrize("change, words", [
    (lambda d: dict(root_quat=d.root_quat*1.1), "root_quat has norm 1.1.*expected a unit quaternion"),
    (lambda d: dict(features=np.where(np.arange(len(d))[:, None] == 250, np.nan, d.features)), "features is nan at frame 49 of turn, column 0"),
    (lambda d: dict(root_pos=np.where(np.arange(len(d))[:, None] == 7, np.inf, d.root_pos)), "root_pos is inf at frame 7 of walk"),
    (lambda d: dict(features=d.features[:, :27]), r"features has shape \(704, 27\), expected \(704, 29\)"), (lambda d: dict(dof_pos=d.dof_pos[:, :8]), r"dof_pos has shape \(704, 8\), expected \(704, 9\)"),
    (lambda d: dict(clips=d.clips[:-1]), "do not make 704 rows"), (lambda d: dict(clips=(d.clips[0], *d.clips[:3])), "two clips are called walk")])
def test_arrays_that_are_no_dataset_are_refused(gaits, change, words):
    with pytest.raises(InvalidMotion, match=words): replace(gaits, **change(gaits))


@pytest.mark.parametrize("name", ["../../etc/x", "/etc/x", "..", "a\\..\\b", "", "C:evil", "a//b", "a/", "a\nb", "a\0b"])
def test_a_clips_name_cannot_leave_its_folder(name):
    with pytest.raises(InvalidMotion, match="no name for a clip"): AmpClip(name, 3)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(2, 30), min_size=1, max_size=8), st.integers(1, 7))
def test_statistics_do_not_depend_on_how_rows_are_cut(lengths, seed):
    layout, x = AmpLayout(["a"], []), np.random.default_rng(seed).normal(3, 2, (sum(lengths), 9))
    s = statistics(AmpDataset(x, layout, 50, tuple(AmpClip(f"c{i}", n) for i, n in enumerate(lengths))))
    assert np.allclose(s["mean"], x.mean(0)) and np.allclose(s["std"], x.std(0)) and np.array_equal(s["min"], x.min(0)) and np.array_equal(s["max"], x.max(0))


def test_statistics_over_many_blocks():
    layout, x = AmpLayout(["a"], []), np.random.default_rng(0).normal(1e3, 1, (200000, 9)).astype(np.float32)
    s = statistics(AmpDataset(x, layout, 50, (AmpClip("c", len(x)),)))
    assert np.abs(s["mean"] - x.mean(0, dtype=np.float64)).max() < 1e-9 and np.abs(s["std"] - x.std(0, dtype=np.float64)).max() < 1e-9


def test_validation_holds_whole_recordings(motions, biped):
    data = merge_clips([augmented_features(m, biped, mirror=True, speeds=[0.9], name=name) for name, m in motions.items()])
    for seed in range(6):
        train, validation = split_validation(data, 0.3, seed)
        a, b = ({c.origin for c in d.clips} for d in (train, validation))
        assert a.isdisjoint(b) and a | b == set(motions) and len(train) + len(validation) == len(data) and len(validation) >= 0.3*len(data)*0.5
    sized = merge_clips([replace(take_clips(data, ["stand"]), clips=(AmpClip(f"c{i}", 151),)) for i in range(10)] + [replace(take_clips(data, ["walk"]), clips=(AmpClip("long", 201),))])
    for seed in range(6): assert abs(len(split_validation(sized, 0.2, seed)[1])/len(sized) - 0.2) < 0.06
    assert [c.name for c in split_validation(data, 0.3, 1)[1].clips] == [c.name for c in split_validation(data, 0.3, 1)[1].clips]
    with pytest.raises(ConfigError, match="all clips come from one recording"): split_validation(augmented_features(motions["walk"], biped, mirror=True, name="walk"))


# ---- files

@pytest.mark.parametrize("suffix", [".npz", ".pkl"])
def test_merged_files_say_all(clips, tmp_path, suffix):
    paths = [write_amp(c, tmp_path/f"{name}.npz") for name, c in clips.items()]
    made = merge_files(paths, tmp_path/f"all{suffix}", weights={"run": 2.5})
    back = read_amp(tmp_path/f"all{suffix}")
    assert back.starts == made.starts == (0, 201, 402, 553) and [c.weight for c in back.clips] == [1, 1, 2.5, 1] and differences(back, clips["walk"]) == []
    assert np.array_equal(back.features, np.concatenate([c.features for c in clips.values()]).astype(np.float32))
    assert all(c.source["licence"] == "CC0-1.0" and c.source["steps"] for c in back.clips)               # provenance of every clip
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []
    if suffix == ".pkl":
        data = pickle.loads((tmp_path/"all.pkl").read_bytes())
        assert data["feature_dim"] == 29 and type(data["joint_names"]) is list and data["num_motions"] == 4 and data["clip_starts"] == [0, 201, 402, 553] and data["clip_lengths"] == [201, 201, 151, 151]
        assert data["velocity_normalized"] is False and np.allclose(data["statistics"]["mean"], back.features.mean(0), atol=1e-5)
        assert data["duration_sec"] == pytest.approx(sum(n - 1 for n in data["clip_lengths"])/50)         # no step from one clip into the next
        lin = data["root_lin_vel"]
        assert np.abs(lin[200] - (data["root_pos"][200] - data["root_pos"][199])*50).max() < 1e-4         # one-sided at a clip's end


def test_nothing_is_written_when_contracts_differ(clips, motions, biped, tmp_path):
    a, b = write_amp(clips["walk"], tmp_path/"a.npz"), write_amp(amp_features(motions["run"], biped, 30), tmp_path/"b.pkl")
    with pytest.raises(ConfigError, match="b.pkl.*fps is 50.0 against 30.0.*Convert them in the same way"): merge_files([a, b], tmp_path/"all.npz")
    with pytest.raises(ConfigError, match="also among the files"): merge_files([a], a)
    with pytest.raises(ConfigError, match="a weight is given for hop"): merge_files([a], tmp_path/"all.npz", weights={"hop": 2})
    with pytest.raises(ConfigError, match="nothing to merge"): merge_files([], tmp_path/"all.npz")
    assert not (tmp_path/"all.npz").exists()


def foreign(clips, tmp_path, **change):
    "A file as the original scripts write it."
    walk = clips["walk"]
    data = dict(features=walk.features.astype(np.float32), feature_dim=29, dof_pos=walk.dof_pos.astype(np.float32), fps=50.0, joint_names=list(walk.layout.joint_names), robot="biped", contact_method="fk")
    path = tmp_path/"foreign.pkl"
    path.write_bytes(pickle.dumps({k: v for k, v in (data | change).items() if v is not None}))
    return path


@pytest.mark.parametrize("change, layout, words", [
    (dict(features=np.zeros((201, 27), np.float32)), "wildrobot-v2", r"feature_dim is 29, but features have shape \(201, 27\)"),
    (dict(joint_names=[f"j{i}" for i in range(8)]), "wildrobot-v2", "8 joint_names for dof_pos of 9 columns"), (dict(joint_names=None), "wildrobot-v2", "holds no list joint_names.*--robot-config"),
    ({}, "", "does not say which layout.*--layout wildrobot-v1"), (dict(fps=None), "wildrobot-v2", "fps is None"), (dict(fps=-3), "wildrobot-v2", "fps is -3"),
    (dict(features=np.full((201, 29), np.nan, np.float32)), "wildrobot-v2", "features is nan at frame 0"), (dict(feature_dim=None), "wildrobot-v2", "feature_dim is None")])
def test_files_of_the_original_scripts_are_checked(clips, tmp_path, change, layout, words):
    with pytest.raises(MotionFormatError, match=words): read_amp(foreign(clips, tmp_path, **change), layout)


def test_files_of_the_original_scripts_are_read(clips, tmp_path, biped):
    data = read_amp(foreign(clips, tmp_path), "wildrobot-v2")
    assert data.layout.contact_rule == "geometry" and data.root_pos is None and data.robot == "biped"
    found = results(verify(data, biped).checks)
    assert found["velocities"] == "n/a" and found["feasibility"] == "n/a" and found["joint names"] == "pass"
    again = read_amp(write_amp(data, tmp_path/"again.npz"))                          # what it does not hold stays unknown
    assert again.root_pos is None and again.layout == data.layout
    nameless = read_amp(foreign(clips, tmp_path, joint_names=None), "wildrobot-v2", biped.config)
    assert nameless.layout.joint_names == biped.joint_names


def test_boundaries_of_a_pickle_without_our_metadata_are_kept(gaits, tmp_path):
    data = pickle.loads(write_amp(gaits, tmp_path/"a.pkl").read_bytes())
    bare = {k: v for k, v in data.items() if k != "amp_metadata"}
    (tmp_path/"b.pkl").write_bytes(pickle.dumps(bare))
    back = read_amp(tmp_path/"b.pkl", "wildrobot-v2")
    assert back.starts == gaits.starts and [c.name for c in back.clips] == [c.name for c in gaits.clips]
    (tmp_path/"c.pkl").write_bytes(pickle.dumps({k: v for k, v in bare.items() if k not in ("clip_lengths", "clip_names", "fps")}))
    assert read_amp(tmp_path/"c.pkl", "wildrobot-v2", fps=50).starts == gaits.starts
    with pytest.raises(MotionFormatError, match="fps is None.*--source-fps"): read_amp(tmp_path/"c.pkl", "wildrobot-v2")


@pytest.mark.parametrize("change, ok", [(dict(feature_dim=np.int64(29)), True), (dict(joint_names="tuple"), True), (dict(fps=50), True), (dict(velocity_normalized=True), False),
                                        (dict(clip_starts=[0, 3]), False), (dict(robot="g1"), False), (dict(num_frames=3), False)])
def test_what_is_said_twice_must_agree(gaits, tmp_path, change, ok):
    path = write_amp(gaits, tmp_path/"a.pkl")
    data = pickle.loads(path.read_bytes())
    if change.get("joint_names") == "tuple": change = dict(joint_names=tuple(data["joint_names"]))
    path.write_bytes(pickle.dumps({**data, **change}))
    if ok: assert len(read_amp(path)) == len(gaits)
    else:
        with pytest.raises(MotionFormatError, match=f"{next(iter(change))} is .*, but amp_metadata says"): read_amp(path)


@pytest.mark.parametrize("change", [dict(poses=["root_pos", "dof_pos"]), dict(contacts={"method": "sole", "height_m": "x"}), dict(robot=5), dict(velocity={"mode": ["x"]}), dict(clips=[{"name": "a"}]),
                                    dict(clips=[{"name": "a", "frames": 1e400, "weight": 1, "origin": "a", "source": {}}]), dict(layout="best"), dict(contacts={}), dict(fps="fast")])
def test_damaged_metadata_end_in_one_error_of_ours(clips, tmp_path, change):
    with np.load(write_amp(clips["walk"], tmp_path/"a.npz")) as f: data = dict(f)
    data["metadata"] = np.array(json.dumps({**json.loads(data["metadata"].item()), **change}).encode())
    np.savez(tmp_path/"a.npz", **data)
    with pytest.raises(MotionFormatError, match="a.npz"): read_amp(tmp_path/"a.npz")
    data["metadata"] = np.array(b"["*200000)
    np.savez(tmp_path/"a.npz", **data)
    with pytest.raises(MotionFormatError, match="no JSON"): read_amp(tmp_path/"a.npz")


@pytest.mark.parametrize("dtype", [">f8", "float16", "float64"])
def test_features_are_read_as_single_precision(clips, tmp_path, dtype):
    with np.load(write_amp(clips["walk"], tmp_path/"a.npz")) as f: data = dict(f)
    np.savez(tmp_path/"a.npz", **{**data, "features": data["features"].astype(dtype)})
    assert read_amp(tmp_path/"a.npz").features.dtype == np.float32
    np.savez(tmp_path/"a.npz", **{**data, "features": data["features"].astype(int)})
    with pytest.raises(MotionFormatError, match="features are int64"): read_amp(tmp_path/"a.npz")


def test_exports_do_not_write_over_what_is_there(gaits, biped, tmp_path):
    path = write_amp(gaits, tmp_path/"walk.npz")
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="walk.npz is there already"): export_clips(gaits, tmp_path, "npz", biped)
    assert path.read_bytes() == before and sorted(p.name for p in tmp_path.iterdir()) == ["walk.joint_order.json", "walk.npz"]
    assert len(export_clips(gaits, tmp_path, "npz", biped, force=True)) == 4


@pytest.mark.parametrize("to, suffix", [("isaaclab", ".npz"), ("amp-rsl-rl", ".npy"), ("mimickit", ".pkl"), ("legged", ".txt"), ("npz", ".npz")])
def test_clips_go_to_other_trainers(gaits, biped, tmp_path, to, suffix):
    rows = export_clips(gaits, tmp_path, to, biped)
    assert [Path(r["file"]).name for r in rows] == [f"{n}{suffix}" for n in ("walk", "turn", "run", "stand")]
    back = read_motion(rows[1]["file"], **({"robot": biped} if to in ("mimickit", "legged") else {}))
    turn = split_clips(gaits)[1]
    order = [back.joint_names.index(j) for j in turn.layout.joint_names]
    assert back.fps == 50 and np.abs(back.dof_pos[:, order] - turn.dof_pos).max() < 1e-5 and np.abs(back.root_pos - turn.root_pos).max() < 1e-5


def test_features_without_poses_are_not_exported(clips, tmp_path, biped):
    data = read_amp(foreign(clips, tmp_path), "wildrobot-v2")
    with pytest.raises(InvalidMotion, match="features only"): export_clips(data, tmp_path/"out", "isaaclab", biped)
    with pytest.raises(MotionFormatError, match="only read"): export_clips(clips["walk"], tmp_path/"out", "deepmimic")


# ---- speed

def test_directions_are_unit_vectors_and_zeros_are_counted(gaits):
    made, done = normalize_velocity(gaits)
    v, speed = made["root_linear_velocity"], np.linalg.norm(gaits["root_linear_velocity"], axis=1)
    assert np.allclose(np.linalg.norm(v[speed > 0.1], axis=1), 1) and (v[speed <= 0.1] == 0).all() and done["zero_frames"] == (speed <= 0.1).sum() > 100
    assert np.allclose(v[speed > 0.1], gaits["root_linear_velocity"][speed > 0.1]/speed[speed > 0.1, None])
    keep = np.delete(np.arange(29), np.r_[18:21])
    assert np.array_equal(made.features[:, keep], gaits.features[:, keep]) and made.meta["velocity"] == dict(mode="direction", threshold_m_s=0.1)
    assert normalize_velocity(gaits, "raw")[0] is gaits and normalize_velocity(gaits, threshold=0)[1]["zero_frames"] == (speed == 0).sum()


def test_buckets_keep_direction_and_class(gaits):
    made, done = normalize_velocity(gaits, "buckets")
    speed, new = (np.linalg.norm(d["root_linear_velocity"], axis=1) for d in (gaits, made))
    fast = speed > 0.1
    assert np.array_equal(np.searchsorted(EDGES, new[fast] + 1e-9, side="right"), np.searchsorted(EDGES, speed[fast], side="right")) and sum(done["buckets"].values()) == fast.sum()
    assert len(np.unique(new[fast].round(9))) <= len(EDGES) + 1
    cosine = (made["root_linear_velocity"]*gaits["root_linear_velocity"]).sum(1)[fast]/(new*speed)[fast]
    assert np.allclose(cosine, 1)


@pytest.mark.parametrize("how, words", [(dict(mode="unit"), "mode is 'unit'"), (dict(threshold=-1), "threshold is -1"), (dict(mode="buckets", edges=(1, 0.5)), "rising speeds"), (dict(mode="buckets", edges=(1,)), "two or more")])
def test_senseless_normalisations_are_refused(gaits, how, words):
    with pytest.raises(ConfigError, match=words): normalize_velocity(gaits, **how)


def test_normalising_twice_or_without_the_block_is_refused(gaits, motions, biped):
    made, _ = normalize_velocity(gaits)
    with pytest.raises(ConfigError, match="normalised already"): normalize_velocity(made)
    with pytest.raises(ConfigError, match="normalised already"): speed_summary(made)
    s = speed_summary(gaits, (0.5, 1.0))
    v = np.linalg.norm(gaits["root_linear_velocity"][:, :2], axis=1)
    assert s["in_range"] == pytest.approx(((v >= 0.5) & (v <= 1)).mean()) and sum(s["histogram"].values()) == pytest.approx(1) and s["mean"] == pytest.approx(v.mean())


# ---- mirror and other copies

@pytest.mark.parametrize("layout", ["exact", "wildrobot-v1", "wildrobot-v2", "isaaclab-humanoid", "amp-rsl-rl"])
@pytest.mark.parametrize("name", ["biped", "unitree_g1", "booster_t1"])
def test_mirrored_features_are_those_of_the_mirrored_motion(motions, name, layout):
    try: robot = load_robot(name)
    except RobotError as e: pytest.skip(str(e))
    motion = motions["turn"] if name == "biped" else transform(retarget(bundled_clips()["turn"], robot).cut(0, 60), 1.1, [1, 0, 0])
    contacts = {} if layout in ("isaaclab-humanoid", "amp-rsl-rl") else {"contacts": "sole"}
    features, image = (amp_features(m, robot, layout=layout, **contacts) for m in (motion, mirror_motion(motion, robot)))
    order, sign = mirror_columns(features.layout, robot)
    assert sorted(order) == list(range(features.layout.dim)) and (order[order] == np.arange(len(order))).all() and (sign*sign[order] == 1).all()
    off = np.abs(sign*features.features[:, order] - image.features)
    touch = features.layout.slices.get("foot_contacts", slice(0, 0))
    smooth = np.delete(off, np.r_[touch], axis=1)
    assert smooth.max() < (1e-3 if layout.startswith("wildrobot") else 1e-4) and off[:, touch].sum() <= 0.02*off[:, touch].size
    assert np.array_equal(sign*(sign*features.features[:, order])[:, order], features.features)                                    # twice is the identity


@pytest.mark.parametrize("name", ["biped", "unitree_g1", "booster_t1"])
def test_mirrored_feet_are_where_they_belong(motions, name):
    try: robot = load_robot(name)
    except RobotError as e: pytest.skip(str(e))
    motion = motions["run"] if name == "biped" else retarget(bundled_clips()["run"], robot)
    assert mirror_error(motion, robot) < 0.002
    path = DATA/f"gmr/cmu_01_01_jump__{name}.pkl"
    if path.is_file(): assert mirror_error(read_motion(path, robot=robot), robot) < 0.002


def test_copies_agree_with_their_own_poses(motions, biped):
    "Velocities, heights and contacts of every copy are those of its poses: the checks that find faults find none."
    data = augmented_features(motions["walk"], biped, mirror=True, speeds=[0.7, 1.3], warps=2, name="walk")
    assert [c.name for c in data.clips] == [f"walk{s}{m}" for m in ("", "_mirror") for s in ("", "_x0.7", "_x1.3", "_warp1", "_warp2")] and {c.origin for c in data.clips} == {"walk"}
    found = results([*check_poses(data), *check_velocities(data), *check_contacts(data, biped), *check_time(data)])
    assert all(v == "pass" for k, v in found.items() if k != "duration"), found
    speed = {c.name: np.linalg.norm(d["root_linear_velocity"], axis=1).mean() for c, d in zip(data.clips, split_clips(data))}
    assert speed["walk_x0.7"] == pytest.approx(0.7*speed["walk"], rel=0.02) and speed["walk_x1.3"] == pytest.approx(1.3*speed["walk"], rel=0.02) and speed["walk_mirror"] == pytest.approx(speed["walk"], rel=1e-6)
    for how, words in ((dict(speeds=[0]), "speed factor 0"), (dict(speeds=[1]), "is the clip itself"), (dict(speeds=[1.2, 1.2000001]), "not told apart"), (dict(warps=-1), "warps is -1"), (dict(seed=-1), "seed -1")):
        with pytest.raises(ConfigError, match=words): copies(motions["walk"], biped, **how)
    with pytest.raises(ConfigError, match="no mirror image"): mirror_columns(AmpLayout(biped.joint_names, name="wildrobot-v1"), biped)
    for how, words in ((dict(contact_height=float("nan")), "contact_height is nan"), (dict(contact_speed=-1), "contact_speed is -1"), (dict(contacts="none", contact_height=0.1), "belong to the rule sole")):
        with pytest.raises(ConfigError, match=words): amp_features(motions["walk"], biped, **how)
    with pytest.raises(RobotError, match="mirror"): copies(motions["walk"], replace(biped, mirror=None), mirror=True)


# ---- windows

def test_windows_never_cross_a_boundary(gaits):
    marked = replace(gaits, features=np.repeat(np.arange(len(gaits), dtype=np.float64)[:, None], 29, 1))
    windows = AmpWindows(marked, frames=7)
    drawn = windows.sample(5000, torch.Generator().manual_seed(1))[..., 0].numpy()
    clip = np.searchsorted(gaits.starts, drawn, side="right")
    assert (np.diff(drawn, axis=1) == 1).all() and (clip == clip[:, :1]).all() and len(windows) == sum(c.frames - 6 for c in gaits.clips)
    every = np.stack([w[:, 0].numpy() for w in (windows[i] for i in range(len(windows)))])
    assert len(np.unique(every[:, 0])) == len(windows) and (np.searchsorted(gaits.starts, every[:, 0], side="right") == np.searchsorted(gaits.starts, every[:, -1], side="right")).all()
    assert torch.equal(windows[-1], windows[len(windows) - 1])
    with pytest.raises(IndexError): windows[len(windows)]


def test_windows_are_drawn_by_weight_and_seed(gaits):
    data = replace(gaits, clips=tuple(replace(c, weight=w) for c, w in zip(gaits.clips, (1, 0, 3, 0.5))), features=np.repeat(np.arange(len(gaits), dtype=np.float64)[:, None], 29, 1))
    windows = AmpWindows(data, frames=2)
    seed = lambda: torch.Generator().manual_seed(3)
    drawn = windows.sample(40000, seed())
    assert torch.equal(drawn, windows.sample(40000, seed()))
    share = np.bincount(np.searchsorted(data.starts, drawn[:, 0, 0].numpy(), side="right") - 1, minlength=4)/40000
    want = np.array([c.weight*(c.frames - 1) for c in data.clips])
    assert np.abs(share - want/want.sum()).max() < 0.01 and share[1] == 0
    with pytest.raises(ConfigError, match="all weights are zero"): AmpWindows(replace(data, clips=tuple(replace(c, weight=0) for c in data.clips))).sample(3)


def test_windows_of_some_blocks_and_short_clips(gaits):
    windows = AmpWindows(gaits, 3, blocks=("foot_contacts", "joint_positions"))
    assert windows.columns[0] == "joint_positions.waist_yaw" and len(windows.columns) == 13 and windows[5].shape == (3, 13)        # in the layout's order
    mean, std = windows.normalisation()
    assert np.allclose(mean, gaits.features[:, np.r_[0:9, 25:29]].mean(0), atol=1e-6) and (std > 0).all()
    with pytest.raises(ConfigError, match="no block hands"): AmpWindows(gaits, 3, blocks=("hands",))
    with pytest.raises(InvalidMotion, match=r"a window has 180 frames, which run \(151\), stand \(151\) has not"): AmpWindows(gaits, 180)
    some = AmpWindows(gaits, 180, short="skip")
    assert some.skipped == ("run", "stand") and len(some) == 2*22
    with pytest.raises(InvalidMotion): AmpWindows(gaits, 500, short="skip")


# ---- checks

def test_a_good_dataset_passes(gaits, biped):
    found = verify(gaits, biped, biped.config, (0.5, 1.0), gates=False)
    assert found.passed and {c.check for c in found.checks if c.result == "warn"} == {"duration"}, found
    assert "amp_feature_dim: 29" in training_lines(gaits, "a.pkl") and "dataset_path: a.pkl" in training_lines(gaits, "a.pkl")


@pytest.mark.parametrize("mode", ["direction", "buckets"])
@pytest.mark.parametrize("names", [("walk", "turn", "run"), ("walk", "stand")])
def test_normalised_velocities_are_compared_by_direction(gaits, mode, names):
    made, done = normalize_velocity(take_clips(gaits, names), mode)
    found = next(c for c in check_velocities(made) if c.check.startswith("root linear"))
    assert found.result == "pass" and "within 0.01 %" in found.finding and (done["zero_frames"] > 100) == ("stand" in names)


@pytest.mark.parametrize("spoil, check, words", [
    (lambda d: spoiled(d, "joint_velocities", lambda x: x/50), "joint velocities", "per frame, not per second"), (lambda d: spoiled(d, "joint_velocities", np.degrees), "joint velocities", "degrees"),
    (lambda d: spoiled(d, "root_linear_velocity", lambda x: x*3), "root linear velocity", "3 times"), (lambda d: spoiled(d, "joint_velocities", lambda x: x[:, ::-1]), "joint velocities", "not the derivative"),
    (lambda d: spoiled(d, "joint_positions", lambda x: x[:, ::-1]), "joint positions", "differ from the stored poses"), (lambda d: spoiled(d, "root_height", lambda x: x + 0.05), "root height", r"\+5.0 cm.*throughout"),
    (lambda d: spoiled(d, "foot_contacts", lambda x: 0*x), "contacts recomputed", "agree"), (lambda d: replace(d, clips=(AmpClip("all", len(d)),)), "boundaries", "jumps within clips"),
    (lambda d: replace(d, layout=replace(d.layout, name="wildrobot-v1", contact_rule="sole")), "root linear velocity", "in the heading frame"),
    (lambda d: replace(d, features=np.repeat(d.features[::2], 2, 0)[:len(d)], dof_pos=np.repeat(d.dof_pos[::2], 2, 0)[:len(d)], root_pos=np.repeat(d.root_pos[::2], 2, 0)[:len(d)],
                       root_quat=np.repeat(d.root_quat[::2], 2, 0)[:len(d)]), "held frames", "repeat")])
def test_faults_are_found_by_recomputation(gaits, biped, spoil, check, words):
    bad = [c for c in verify(spoil(gaits), biped, gates=False).checks if c.result == "fail"]
    found = next((c for c in bad if c.check.startswith(check)), None)
    import re
    assert found and re.search(words, f"{found.finding} {found.remedy}"), bad


@pytest.mark.parametrize("block, change, words", [
    ("joint_velocities", lambda x: x[:, [2, 1, 0, *range(3, 9)]], "waist_yaw, left_hip_roll differ"), ("joint_velocities", lambda x: x*np.r_[np.ones(3), 0, np.ones(5)], "left_knee_pitch differ"),
    ("root_linear_velocity", lambda x: x*[1, -1, 1], "y differ"), ("root_linear_velocity", lambda x: 1.2*x, "1.2 times"), ("joint_velocities", lambda x: np.roll(x, 1, 0), "differ"),
    ("joint_velocities", lambda x: x + 0.3*np.random.default_rng(0).normal(size=x.shape), "differ"), ("root_angular_velocity", lambda x: -x, "times the derivative")])
def test_faults_of_single_columns_are_found(gaits, block, change, words):
    found = [c for c in check_velocities(spoiled(gaits, block, change)) if c.result == "fail"]
    assert len(found) == 1 and found[0].check.startswith(block.replace("_", " ")) and words in found[0].finding, found


@pytest.mark.parametrize("layout", ["exact", "wildrobot-v1", "wildrobot-v2", "isaaclab-humanoid", "amp-rsl-rl", "mimickit"])
@pytest.mark.parametrize("suffix", [".npz", ".pkl"])
def test_what_was_converted_right_is_never_a_fault(motions, biped, tmp_path, layout, suffix):
    "Each layout by its own estimator, through a file in single precision; the biped's own config says 29 columns, for the layouts that have those."
    data = read_amp(write_amp(merge_clips([amp_features(m, biped, 50, layout=layout, name=n) for n, m in motions.items()]), tmp_path/f"all{suffix}"))
    found = verify(data, biped, gates=False)
    assert found.passed, [c for c in found.checks if c.result == "fail"]
    assert verify(amp_features(motions["walk"], biped, contacts="none"), biped, gates=False).passed


def test_joints_in_another_order_are_told_from_other_joints(gaits, biped):
    order = list(biped.joint_names)
    swapped = {"actuators": {"joints": [order[1], order[0], *order[2:]]}, "dimensions": {"amp_feature_dim": 27}}
    found = check_names(gaits, None, swapped)
    assert [c.result for c in found] == ["fail", "fail"] and "another order: column 0 is waist_yaw, the config has left_hip_pitch" in found[0].finding and "amp_feature_dim 27" in found[1].finding
    other = {"actuators": {"joints": [*order[:-1], "neck"]}}
    assert "missing neck; extra right_ankle_pitch" in check_names(gaits, None, other)[0].finding
    assert check_names(gaits)[0].result == "n/a"


def test_stuck_channels_and_the_heuristic_are_flagged(motions, biped):
    stand = amp_features(motions["stand"], biped)
    assert results(check_contacts(stand, biped)) == {"contact rates": "warn", "contacts recomputed": "pass"}
    guess = amp_features(motions["walk"], biped, layout="wildrobot-v2")
    assert results(check_contacts(guess, biped))["contact rule"] == "warn"


def test_feasibility_is_the_audits(gaits, biped):
    found = [c for c in verify(gaits, biped).checks if c.check == "feasibility"]
    assert found[0].result == "fail" and "turn (self-collision)" in found[0].finding
