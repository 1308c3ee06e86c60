"Shards merged, killed, merged again; folders verified; into libraries and out of them."
import errno, hashlib, json, os, pickle, shutil, signal, sys
from argparse import ArgumentParser
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from motionbench.cli.parser import with_hyphens
from motionbench.cli.rollouts_merge import add_rollouts_merge
from motionbench.core.errors import ConfigError, InvalidMotion, MotionbenchError, MotionFormatError
from motionbench.core.robot import load_robot
from motionbench.io import safe_pickle
from motionbench.io.grail import ObjectMotion, read_grail, write_grail, write_grail_object
from motionbench.io.lerobot import read_lerobot
from motionbench.io.library import MotionLibrary
from motionbench.rollouts import merge as merging
from motionbench.rollouts.card import card_text, dataset_card
from motionbench.rollouts.collection import from_library, plain, rich, to_lerobot, to_library
from motionbench.rollouts.manifest import MANIFEST, checkpoint_of, manifest_text, owner, read_manifest, same_checkpoint
from motionbench.rollouts.merge import merge_exports
from motionbench.rollouts.parts import read_parts, unique_counts
from motionbench.rollouts.verify import verify_export

T = 8
posix = pytest.mark.skipif(os.name != "posix", reason="processes are forked and killed")


@pytest.fixture(scope="module")
def g1(): return load_robot("unitree_g1")


def motion_of(robot, seed, **extra):
    rng = np.random.default_rng(seed)
    q = np.tile(robot.model.qpos0, (T, 1))
    q[:, :3] += np.cumsum(rng.normal(0, .02, (T, 3)), 0)
    turn = np.cumsum(rng.normal(0, .1, (T, 4)), 0) + [1, 0, 0, 0]
    q[:, 3:7] = turn/np.linalg.norm(turn, axis=1, keepdims=True)
    q[:, robot.tree.qpos_adr] += np.cumsum(rng.normal(0, .05, (T, len(robot.joint_names))), 0)
    return robot.motion(q, fps=25, extra={"hand_dof_pos": rng.normal(0, .3, (T, 14)).astype("f4"), "hand_action_left": np.where(np.arange(T) < 4, -1., 1.).astype("f4"), **extra})


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def add_motion(folder, robot, key, seed, textures="flat"):
    motion = motion_of(robot, seed)
    write_grail(motion, folder/f"robot/{key}.pkl")
    rng = np.random.default_rng(seed)
    thing = ObjectMotion(25, motion.root_pos + [.3, 0, 0], motion.root_quat, "cup", 1.5, {"left": {2: rng.normal(size=(3, 3)).astype("f4")}, "right": {}})
    write_grail_object(thing, folder/f"objects/{key}.pkl")
    safe_pickle.dump({"object_name": "cup", "table_pos": np.float32([0, 1, .7]), "table_quat": np.array([0., 0, 0, 1]), "smpl_height": 1.66}, folder/f"meta/{key}.pkl")
    put(folder/f"object_usd/{key}.usda", f"#usda 1.0\n# {key} {seed}\n")
    put(folder/(f"object_usd/textures/{key}_wood.jpg" if textures == "flat" else f"object_usd/textures/{key}/wood/{key}.png"), f"texture {key} {seed}")
    put(folder/f"vis/{key}.mp4", f"video {key} {seed}")


def close(folder, robot, evaluated, metrics={}, step=5000, **more):
    "Write the manifest, last."
    keys = sorted(p.stem for p in (folder/"robot").glob("*.pkl"))
    sums = {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST}
    entries = [{"motion_key": k, "env_idx": i, "frames": T, "fps": 25.0, "grade": "pass", "progress": 1.0, **metrics.get(k, {})} for i, k in enumerate(keys)]
    put(folder/MANIFEST, manifest_text({"schema_version": 1, "robot": robot.name, "joint_order": list(robot.joint_names), "quat_order": {"robot": "xyzw", "objects": "wxyz", "table": "xyzw"},
        "source_library": "abc", "source_eval_dir": f"/data/run/eval/step_{step:06d}/phase1_{folder.name}", "min_progress": 1.0, "exported_motions": entries, "exported_count": len(keys),
        "total_motions_evaluated": len(evaluated), "evaluated_motions": sorted(evaluated), "skipped_motions": [], "skipped_no_trajectory": 0, "sha256": sums, **more}))
    return folder


@pytest.fixture(scope="module")
def shards(g1, tmp_path_factory):
    "Three shards; `walk` lies in two of them, equal; textures flat and nested."
    root = tmp_path_factory.mktemp("shards")
    for i, motions in enumerate(({"walk": 0, "stairs_1": 1}, {"stairs_1_2": 2, "chair": 3}, {"walk": 0, "lift": 4})):
        for k, seed in motions.items(): add_motion(root/f"shard_{i}", g1, k, seed, "nested" if k == "chair" else "flat")
        put(root/f"shard_{i}/config.yaml", "size: 1\n")
        put(root/f"shard_{i}/object_usd/flat_placeholder.usd", "#usda 1.0\n")
        close(root/f"shard_{i}", g1, [*motions, f"fallen_{i}", "fallen"])
    return [root/f"shard_{i}" for i in range(3)]


@pytest.fixture
def mine(shards, tmp_path):
    "Shards that a test may change."
    return [Path(shutil.copytree(s, tmp_path/s.name)) for s in shards]


def tree(folder): return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}
def change(folder, **facts): put(folder/MANIFEST, manifest_text(json.loads((folder/MANIFEST).read_text()) | facts))


# ---- counts, copies, provenance

def test_counts_are_those_of_an_independent_count(shards, tmp_path):
    m = merge_exports(shards, tmp_path/"merged").manifest
    keys = {p.stem for s in shards for p in (s/"robot").iterdir()}
    evaluated = {k for s in shards for k in json.loads((s/MANIFEST).read_text())["evaluated_motions"]}
    assert (m["num_shards"], m["exported_count"], m["total_motions_evaluated"], m["skipped_no_trajectory"]) == (3, 5, 9, 0) == (len(shards), len(keys), len(evaluated), 0)
    assert m["success_rate"] == 5/9 and [e["motion_key"] for e in m["exported_motions"]] == sorted(keys)
    assert {p.stem for p in (tmp_path/"merged/robot").iterdir()} == keys
    for rel, h in m["sha256"].items(): assert hashlib.sha256((tmp_path/"merged"/rel).read_bytes()).hexdigest() == h
    assert set(m["sha256"]) | {MANIFEST} == set(tree(tmp_path/"merged"))
    union = {r: b for s in reversed(shards) for r, b in tree(s).items() if r != MANIFEST}
    assert {r: b for r, b in tree(tmp_path/"merged").items() if r != MANIFEST} == union          # byte for byte
    assert json.loads((tmp_path/"merged"/MANIFEST).read_text()) == m


def test_equal_copies_count_once_and_are_told(shards, tmp_path):
    m = merge_exports(shards, tmp_path/"merged").manifest
    assert m["conflicts"] == [{"motion_key": "walk", "shards": ["shard_0", "shard_2"], "by": "equal copies", "kept": "shard_0"}]
    assert Counter(e["motion_key"] for e in m["exported_motions"])["walk"] == 1


def test_every_shard_and_motion_says_where_it_comes_from(shards, tmp_path):
    m = merge_exports(shards, tmp_path/"merged").manifest
    assert m["checkpoint"] == {"experiment": "/data/run", "step": 5000} and m["schema_version"] == 1
    assert [(s["name"], s["checkpoint"]["step"], s["source_eval_dir"], s["total_motions_evaluated"]) for s in m["shards"]] == \
        [(f"shard_{i}", 5000, f"/data/run/eval/step_005000/phase1_shard_{i}", 4) for i in range(3)]
    assert {e["motion_key"]: e["shard"] for e in m["exported_motions"]} == {"walk": "shard_0", "stairs_1": "shard_0", "stairs_1_2": "shard_1", "chair": "shard_1", "lift": "shard_2"}


def test_order_and_repetition_of_the_shards_change_nothing(shards, tmp_path):
    merge_exports(shards, tmp_path/"a")
    merge_exports([shards[2], shards[0], shards[1], shards[0]], tmp_path/"b")
    assert tree(tmp_path/"a") == tree(tmp_path/"b")


def test_natural_order(g1, tmp_path):
    for i in (10, 2, 1): (tmp_path/f"shard_{i}").mkdir(), put(tmp_path/f"shard_{i}"/MANIFEST, '{"exported_motions": []}')
    assert [p.name for p in read_parts([tmp_path/f"shard_{i}" for i in (10, 2, 1)])] == ["shard_1", "shard_2", "shard_10"]


@pytest.fixture
def clash(g1, tmp_path):
    "Two shards with different copies of `a`; the second is better, and perfect."
    for i in range(2):
        add_motion(tmp_path/f"shard_{i}", g1, "a", i)
        close(tmp_path/f"shard_{i}", g1, ["a"], {"a": {"mpjpe_g": 3.0*(1 - i), "progress": 1 - .1*i}})
    return [tmp_path/f"shard_{i}" for i in range(2)]


@pytest.mark.parametrize("policy, metric, kept", [("first", None, 0), ("best", None, 1), ("best", "progress", 0)])
def test_policies(clash, tmp_path, policy, metric, kept):
    m = merge_exports(clash, tmp_path/"merged", policy, metric).manifest
    (told,) = m["conflicts"]
    assert (told["by"], told["kept"], m["exported_motions"][0]["shard"], m["exported_count"], m["total_motions_evaluated"]) == (policy, f"shard_{kept}", f"shard_{kept}", 1, 1)
    assert all((tmp_path/"merged"/r).read_bytes() == (clash[kept]/r).read_bytes() for r in m["sha256"])           # all files from one shard
    assert policy == "first" or told["values"] == ({"shard_0": 1.0, "shard_1": .9} if metric else {"shard_0": 3.0, "shard_1": 0.0})


def test_a_conflict_is_an_error_and_names_the_motion(clash, tmp_path):
    with pytest.raises(ConfigError, match="different copies of a in several shards.*--on-conflict"): merge_exports(clash, tmp_path/"merged")
    assert not (tmp_path/"merged").exists()
    with pytest.raises(ConfigError, match="does not say speed of a.*mpjpe_g"): merge_exports(clash, tmp_path/"merged", "best", "speed")
    with pytest.raises(ConfigError, match="only with on_conflict=best"): merge_exports(clash, tmp_path/"merged", "first", "mpjpe_g")
    with pytest.raises(ConfigError, match="expected error, first, best"): merge_exports(clash, tmp_path/"merged", "last")


def test_shared_files_that_differ_are_a_conflict(mine, tmp_path):
    put(mine[1]/"config.yaml", "size: 2\n")
    sums = json.loads((mine[1]/MANIFEST).read_text())["sha256"] | {"config.yaml": hashlib.sha256(b"size: 2\n").hexdigest()}
    change(mine[1], sha256=sums)
    with pytest.raises(ConfigError, match="different copies of config.yaml"): merge_exports(mine, tmp_path/"merged")
    m = merge_exports(mine, tmp_path/"merged", "first").manifest
    assert {"file": "config.yaml", "shards": ["shard_0", "shard_1", "shard_2"], "by": "first", "kept": "shard_0"} in m["conflicts"]
    assert (tmp_path/"merged/config.yaml").read_text() == "size: 1\n"


def test_a_texture_goes_with_the_longest_name(mine, tmp_path):
    "An exporter that copies `stairs_1_*` takes the textures of stairs_1_2 along, here an old one."
    put(mine[0]/"object_usd/textures/stairs_1_2_wood.jpg", "old")
    change(mine[0], sha256=json.loads((mine[0]/MANIFEST).read_text())["sha256"] | {"object_usd/textures/stairs_1_2_wood.jpg": hashlib.sha256(b"old").hexdigest()})
    merge_exports(mine, tmp_path/"merged")
    assert (tmp_path/"merged/object_usd/textures/stairs_1_2_wood.jpg").read_text() == "texture stairs_1_2 2"
    assert (tmp_path/"merged/object_usd/textures/chair/wood/chair.png").read_text() == "texture chair 3"


names = st.lists(st.sampled_from("ab1"), min_size=1, max_size=4).map("_".join)
@settings(max_examples=60, deadline=None)
@given(st.sets(names, min_size=1, max_size=5), names)
def test_owner_is_the_longest_beginning(keys, stem):
    fits = [k for k in keys if stem == k or stem.startswith(k + "_")]
    assert owner(f"object_usd/textures/{stem}.jpg", keys) == (max(fits, key=len) if fits else None)
    assert owner(f"robot/{stem}.pkl", keys) == (stem if stem in keys else None)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=8), min_size=1, max_size=4))
def test_unique_counts(rows):
    "Each shard evaluates numbered motions, of which some are exported."
    told = lambda shard, lists: {"exported_motions": [{"motion_key": str(k)} for k, good in shard if good], "total_motions_evaluated": len({k for k, _ in shard}),
                                 **({"evaluated_motions": [str(k) for k, _ in shard]} if lists else {})}
    exported, evaluated = {k for shard in rows for k, good in shard if good}, {k for shard in rows for k, _ in shard}
    counts = unique_counts([told(shard, True) for shard in rows])
    assert (counts["exported_count"], counts["total_motions_evaluated"]) == (len(exported), len(evaluated))
    assert counts["success_rate"] == (len(exported)/len(evaluated) if evaluated else None)


def test_manifests_of_other_exporters_are_merged(mine, tmp_path, g1):
    "They list no checksums, frames or keys of what was evaluated; what they hold twice is subtracted, not added."
    keep = ("source_eval_dir", "source_data_dir", "min_progress", "total_motions_evaluated", "exported_count", "skipped_no_trajectory")
    for s in mine:
        old = json.loads((s/MANIFEST).read_text())
        put(s/MANIFEST, json.dumps({k: old[k] for k in keep if k in old} | {"source_data_dir": "/data/lib", "exported_motions": [{"motion_key": e["motion_key"], "mpjpe_g": float("nan")} for e in old["exported_motions"]]}))
        put(s/"robot/stray.pkl", b"of an earlier export")
        put(s/"export.log", s.name)
    done = merge_exports(mine, tmp_path/"merged")
    m = done.manifest
    assert (m["total_motions_evaluated"], m["exported_count"]) == (11, 5) and m["exported_motions"][0]["frames"] == T and m["exported_motions"][0]["mpjpe_g"] is None
    assert done.not_taken == tuple(f"shard_{i}/{f}" for i in range(3) for f in ("export.log", "robot/stray.pkl")) and not (tmp_path/"merged/robot/stray.pkl").exists()
    assert [p["problem"][:40] for p in verify_export(tmp_path/"merged").problems] == ["names no robot, so no motion could be re"]
    assert verify_export(tmp_path/"merged", g1).ok


def test_a_damaged_file_is_named_where_its_frames_are_needed(g1, tmp_path):
    put(tmp_path/"s/robot/a.pkl", b"cos\nsystem\n(S'false'\ntR.")
    put(tmp_path/"s"/MANIFEST, '{"exported_motions": [{"motion_key": "a"}]}')
    with pytest.raises(MotionFormatError, match="a.pkl.*refused"): merge_exports([tmp_path/"s"], tmp_path/"merged")


# ---- what is refused

@pytest.mark.parametrize("facts, what", [({"robot": "biped"}, "robots"), ({"schema_version": 0}, "schema versions"), ({"source_library": "xyz"}, "source libraries"),
    ({"joint_order": ["a"]}, "joint orders"), ({"quat_order": {"robot": "wxyz"}}, "orders of quaternions"), ({"source_eval_dir": "/data/run/eval/step_9/phase1_shard_1"}, "checkpoints"),
    ({"checkpoint": {"step": 9}}, "checkpoints")])
def test_shards_that_do_not_belong_together(mine, tmp_path, facts, what):
    change(mine[1], **facts)
    with pytest.raises(ConfigError, match=f"different {what}: shard_0 has .*, shard_1 has "): merge_exports(mine, tmp_path/"merged")
    if what == "checkpoints":
        m = merge_exports(mine, tmp_path/"merged", mixed_checkpoints=True).manifest
        assert m["checkpoint"] is None and [s["checkpoint"]["step"] for s in m["shards"]] == [5000, 9, 5000]
        steps = lambda m: {e["motion_key"]: checkpoint_of(m, e)["step"] for e in m["exported_motions"]}
        assert steps(m) == {"walk": 5000, "stairs_1": 5000, "stairs_1_2": 9, "chair": 9, "lift": 5000}
        assert steps(merge_exports([tmp_path/"merged"], tmp_path/"again").manifest) == steps(m)


def test_checkpoints_are_told_apart():
    a = {"sha256": "1", "step": 5, "shard": 0}
    assert same_checkpoint(a, {"sha256": "1", "shard": 1, "seed": 3}) and not same_checkpoint(a, a | {"sha256": "2"}) and not same_checkpoint(a, None) and same_checkpoint(None, None)
    assert same_checkpoint({"step": 5, "shard": 0, "num_shards": 2}, {"step": 5, "shard": 1, "num_shards": 2}) and checkpoint_of({}) is None


def test_an_export_that_did_not_finish(mine, tmp_path):
    (mine[1]/MANIFEST).unlink()
    with pytest.raises(MotionFormatError, match="shard_1.*did not finish.*rollouts export"): merge_exports(mine, tmp_path/"merged")


@pytest.mark.parametrize("text, says", [("{", "no readable JSON"), ("[]", "no list exported_motions"), ('{"exported_motions": [{"motion_key": "../x"}]}', "names a motion '../x'"),
    ('{"exported_motions": [], "sha256": {"../../x": "0"}}', "no table of relative paths"), ('{"exported_motions": [], "exported_count": -1}', "expected a count"),
    ('{"exported_motions": [], "schema_version": 99}', "schema_version 99"), ('{"exported_motions": [], "checkpoint": 3}', "checkpoint is no table"), ('{"exported_motions": [], "evaluated_motions": 3}', "no list of names")])
def test_manifests_that_make_no_sense(tmp_path, text, says):
    put(tmp_path/"s"/MANIFEST, text)
    with pytest.raises(MotionFormatError, match=says.replace("(", r"\(")): read_manifest(tmp_path/"s")


def test_missing_and_changed_files_of_a_shard(mine, tmp_path):
    put(mine[0]/"objects/walk.pkl", b"changed")
    with pytest.raises(MotionFormatError, match="objects/walk.pkl: its source has another checksum"): merge_exports([mine[0], mine[1]], tmp_path/"merged")
    assert not (tmp_path/"merged"/MANIFEST).exists()
    (mine[1]/"object_usd/chair.usda").unlink()
    with pytest.raises(MotionFormatError, match="lacks object_usd/chair.usda"): merge_exports(mine[1:], tmp_path/"merged")


def test_outputs_in_the_way(mine, tmp_path):
    for bad in (mine[0], mine[0]/"merged", tmp_path):
        with pytest.raises(ConfigError, match="lie in each other"): merge_exports(mine, bad)
    with pytest.raises(MotionFormatError, match="not the result of a merge"): merge_exports(mine[1:], shutil.copytree(mine[0], tmp_path/"other/export"))
    put(tmp_path/"foreign/robot/somebody.pkl", b"x")
    with pytest.raises(MotionFormatError, match="holds robot/somebody.pkl, which no merge has made"): merge_exports(mine, tmp_path/"foreign")
    assert list(tree(tmp_path/"foreign")) == ["robot/somebody.pkl"]
    put(tmp_path/"file", b"x")
    with pytest.raises(MotionFormatError, match="merge stopped"): merge_exports(mine, tmp_path/"file")


# ---- killed, full, stale

def test_no_stale_file_is_left_and_nothing_foreign_is_touched(shards, tmp_path):
    out = tmp_path/"merged"
    merge_exports(shards, out, card=card_text)
    put(out/"notes.txt", "mine")
    put(out/"vis/mine.mp4", "mine")
    done = merge_exports(shards[:2], out)
    assert set(done.removed) == {"README.md"} | {f for f in tree(shards[2]) if "lift" in f} and done.left == ["notes.txt", "vis/mine.mp4"] and done.written == []
    merge_exports(shards[:2], tmp_path/"fresh")
    assert {r: b for r, b in tree(out).items() if r not in done.left} == tree(tmp_path/"fresh")
    assert not any(p.is_dir() and not any(p.iterdir()) for p in out.rglob("*"))


def in_child(work):
    "Exit status of a forked child that does the work."
    pid = os.fork()
    if pid == 0:
        try: work()
        except BaseException: os._exit(7)
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def killed_at(n, shards, out):
    "A merge in a child that kills itself at the n-th time that it opens, makes, renames or removes something in the output."
    def work():
        seen = [0]
        def hook(event, args):
            if event in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree") and str(args[0]).startswith(str(out)):
                seen[0] += 1
                if seen[0] == n: os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
        merge_exports(shards, out, card=card_text)
    return in_child(work)


def is_whole(out):
    "Whether all that the manifest lists is there as it says, and nothing else but the work folder."
    found = {r: b for r, b in tree(out).items() if not r.startswith(".merge") and r != MANIFEST}
    return {r: hashlib.sha256(b).hexdigest() for r, b in found.items()} == json.loads((out/MANIFEST).read_text())["sha256"]


@posix
@pytest.mark.parametrize("before", [False, True], ids=["new", "again"])
def test_killed_at_any_moment(shards, tmp_path, before):
    """Killed, then merged to the end: the bytes are those of a merge that was never killed, and whenever a manifest is there, all is there.
    `again`: over the result of other shards, after another kill while all were merged."""
    merge_exports(shards[:2], tmp_path/"whole", card=card_text)
    want, rng, killed = tree(tmp_path/"whole"), np.random.default_rng(0), 0
    for i, n in enumerate([1, 2, 3, 4, 5, 6, *rng.integers(7, 60, 14)]):
        out = tmp_path/f"out_{i}"
        if before:
            merge_exports(shards[1:], out)
            killed += os.WIFSIGNALED(killed_at(int(rng.integers(1, 60)), shards, out))
            assert not (out/MANIFEST).exists() or is_whole(out)
        status = killed_at(int(n), shards[:2], out)
        killed += os.WIFSIGNALED(status)
        assert os.WIFSIGNALED(status) or status == 0
        assert not (out/MANIFEST).exists() or is_whole(out)
        merge_exports(shards[:2], out, card=card_text)
        assert tree(out) == want
    assert killed >= 20


def test_an_error_at_any_rename(shards, tmp_path, monkeypatch):
    merge_exports(shards, tmp_path/"whole")
    true, out = os.replace, tmp_path/"merged"
    for n in (1, 2, 3, 5, 8):
        count = iter(range(1, 1000))
        def replace(a, b):
            if next(count) == n: raise OSError(errno.EIO, "Input/output error", str(b))
            true(a, b)
        monkeypatch.setattr(os, "replace", replace)
        with pytest.raises(MotionFormatError, match="merge stopped: Input/output error"): merge_exports(shards, out)
        monkeypatch.setattr(os, "replace", true)
        assert not (out/MANIFEST).exists()
    done = merge_exports(shards, out)
    assert tree(out) == tree(tmp_path/"whole") and done.already_there and done.written


def test_several_processes_write_the_same(shards, tmp_path):
    done = [merge_exports(shards, tmp_path/f"out_{n}", card=card_text, n_jobs=n) for n in (1, 3)]
    assert tree(done[0].folder) == tree(done[1].folder) and done[0].written == done[1].written
    damaged = shutil.copytree(shards[0], tmp_path/"shard")
    file = next(damaged.rglob("*.pkl"))
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(MotionFormatError, match="another checksum"): merge_exports([damaged], tmp_path/"new", n_jobs=3)
    assert not (tmp_path/"new"/MANIFEST).exists()


def test_full_disk(shards, tmp_path, monkeypatch):
    copy, left = merging.copy_hashed, [10]
    def full(source, dest):
        left[0] -= 1
        if left[0] < 0: raise OSError(errno.ENOSPC, "No space left on device", str(source), None, str(dest))
        return copy(source, dest)
    monkeypatch.setattr(merging, "copy_hashed", full)
    with pytest.raises(MotionFormatError, match="No space left on device.*Make room.*goes on where it stopped"): merge_exports(shards, tmp_path/"merged")
    monkeypatch.undo()
    assert len(merge_exports(shards, tmp_path/"merged").already_there) == 10


@posix
def test_one_writer_at_a_time(shards, tmp_path):
    with merging.only_writer(tmp_path/"merged"), pytest.raises(ConfigError, match="another process is writing"): merge_exports(shards, tmp_path/"merged")
    merge_exports(shards, tmp_path/"merged")


def test_a_merged_folder_is_a_shard_again(shards, tmp_path):
    merge_exports(shards[:2], tmp_path/"half", card=card_text)
    m = merge_exports([tmp_path/"half", shards[2]], tmp_path/"merged").manifest
    flat = merge_exports(shards, tmp_path/"flat").manifest
    assert all(m[k] == flat[k] for k in ("exported_count", "total_motions_evaluated", "success_rate", "checkpoint", "sha256"))
    assert [s["shards"] for s in m["shards"] if "shards" in s] == [flat["shards"][:2]]


# ---- verify

@pytest.fixture
def merged(shards, tmp_path): return merge_exports(shards, tmp_path/"merged").folder


def resum(folder, *files):
    "The manifest's checksums, as if the files had been exported like this."
    change(folder, sha256=json.loads((folder/MANIFEST).read_text())["sha256"] | {f: hashlib.sha256((folder/f).read_bytes()).hexdigest() for f in files})


def edit(folder, file, f):
    clip = safe_pickle.load(folder/file)
    key = next(iter(clip))
    safe_pickle.dump(f(key, dict(clip[key])), folder/file)
    resum(folder, file)


def test_a_good_folder(merged, shards, g1):
    found = verify_export(merged)
    assert found.ok and found.counts["motions"] == found.counts["read"] == 5 and found.counts["seconds"] == pytest.approx(5*(T - 1)/25) and max(r["fk_difference_m"] for r in found.motions) < 1e-5
    assert all(verify_export(s, g1).ok for s in shards) and json.dumps(found.dict())


FAULTS = {
    "pose of one joint": (lambda k, c: {k: {**c, "pose_aa": c["pose_aa"] + np.float32(.01)*(np.arange(30) == 4)[:, None]}}, "pose_aa puts bodies"),
    "zero pose": (lambda k, c: {k: {**c, "pose_aa": 0*c["pose_aa"]}}, "pose_aa is zero"),
    "no pose": (lambda k, c: {k: {x: v for x, v in c.items() if x != "pose_aa"}}, "has no pose_aa"),
    "order": (lambda k, c: {k: {**c, "root_rot": c["root_rot"][:, [3, 0, 1, 2]]}}, "root_rot is wxyz by pose_aa, the manifest says xyzw"),
    "no unit": (lambda k, c: {k: {**c, "root_rot": 1.1*c["root_rot"]}}, "quaternion"),
    "nan": (lambda k, c: {k: {**c, "dof": np.where(np.arange(29) == 3, np.nan, c["dof"])}}, "dof is nan at frame 0"),
    "nan in hands": (lambda k, c: {k: {**c, "hand_dof_pos": np.nan*c["hand_dof_pos"]}}, "hand_dof_pos is nan"),
    "rate": (lambda k, c: {k: {**c, "fps": 30.0}}, "has fps 30, the manifest says 25.0"),
    "no rate": (lambda k, c: {k: {x: v for x, v in c.items() if x != "fps"}}, "lacks fps"),
    "other name": (lambda k, c: {"other": c}, "expected the one clip lift"),
    "columns": (lambda k, c: {k: {**c, "dof": c["dof"][:, :28]}}, "28 joint columns"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_a_robot_file_are_named(merged, fault, g1):
    f, says = FAULTS[fault]
    edit(merged, "robot/lift.pkl", f)
    found = verify_export(merged, g1)
    assert any(p["file"] == "robot/lift.pkl" and says in p["problem"] for p in found.problems), found
    assert {p["file"] for p in found.problems} <= {"robot/lift.pkl", "objects/lift.pkl"} and {"walk", "chair"} <= {r["motion"] for r in found.motions}


@pytest.mark.parametrize("file, f, says", [
    ("objects/walk.pkl", lambda k, c: {k: {**c, "root_pos": c["root_pos"][:-1], "root_quat": c["root_quat"][:-1]}}, "has 7 frames, the robot 8"),
    ("objects/walk.pkl", lambda k, c: {k: {**c, "fps": 30}}, "has 30 frames per second, the robot 25"),
    ("objects/walk.pkl", lambda k, c: {k: {**c, "contact_points_left_hand": {50: np.zeros((1, 3), "f4")}}}, "contact points at frame 50 of 8"),
    ("objects/walk.pkl", lambda k, c: {k: {**c, "root_quat": 0*c["root_quat"]}}, "norm 0"),
])
def test_faults_of_an_object_file_are_named(merged, file, f, says, g1):
    edit(merged, file, f)
    (told,) = verify_export(merged, g1).problems
    assert told["file"] == file and says in told["problem"]


def test_truncated_and_hostile_pickles_are_named_and_the_others_checked(merged, tmp_path, g1):
    class Trap:
        def __reduce__(self): return os.system, (f"touch {tmp_path}/trapped",)
    (merged/"robot/lift.pkl").write_bytes(pickle.dumps({"lift": {"dof": Trap()}}))
    (merged/"objects/chair.pkl").write_bytes((merged/"objects/chair.pkl").read_bytes()[:-40])
    (merged/"meta/walk.pkl").write_bytes(b"")
    resum(merged, "robot/lift.pkl", "objects/chair.pkl", "meta/walk.pkl")
    found = verify_export(merged, g1)
    told = {p["file"]: p["problem"] for p in found.problems}
    assert set(told) == {"robot/lift.pkl", "objects/chair.pkl", "meta/walk.pkl"} and "system" in told["robot/lift.pkl"] and not (tmp_path/"trapped").exists()
    assert found.counts["read"] == 4


def test_counts_names_and_checksums_are_compared(merged, g1):
    (merged/"objects/walk.pkl").unlink()
    put(merged/"object_usd/ghost.usd", "#usda 1.0\n")
    put(merged/"vis/walk.mp4", "other")
    put(merged/"object_usd/chair.usda", "version https://git-lfs.github.com/spec/v1\n")
    change(merged, exported_count=7, success_rate=.9)
    told = [(p["file"], p["problem"]) for p in verify_export(merged, g1).problems]
    for file, says in (("objects", "lacks walk"), ("object_usd", "has ghost, of which there is no robot"), ("objects/walk.pkl", "is missing"), ("object_usd/ghost.usd", "is not in the manifest"),
                       ("vis/walk.mp4", "another checksum"), ("object_usd/chair.usda", "git-lfs pointer"), (MANIFEST, "exported_count is 7, there are 5"), (MANIFEST, "success_rate is 0.9")):
        assert any(f == file and says in p for f, p in told), (file, says, told)


def test_a_folder_without_objects_needs_none(g1, tmp_path):
    write_grail(motion_of(g1, 0), tmp_path/"s/robot/a.pkl")
    assert verify_export(close(tmp_path/"s", g1, ["a"]), g1).ok
    (tmp_path/"s"/MANIFEST).unlink()
    (told,) = verify_export(tmp_path/"s", g1).problems
    assert told["file"] == MANIFEST and "did not finish" in told["problem"]
    with pytest.raises(MotionFormatError, match="no such folder"): verify_export(tmp_path/"nowhere")


# ---- libraries, LeRobot, card

def test_library_round_trip(merged, tmp_path, g1):
    "Everything but the vectors that follow from the rest comes back bit for bit, and a second round gives the same bytes."
    library = to_library(merged, tmp_path/"library", g1)
    assert library.verify() == [] and library.info()["grades"] == {"pass": 5} and not list(tmp_path.glob(".*"))
    assert from_library(library, tmp_path/"again", g1) == []
    for key in library:
        a, b = (safe_pickle.load(f/f"robot/{key}.pkl")[key] for f in (merged, tmp_path/"again"))
        assert a.keys() == b.keys()
        for k in a: np.testing.assert_allclose(a[k], b[k], atol=1e-6 if k == "pose_aa" else 0, rtol=0, err_msg=k)
        for f in ("objects", "meta"): assert (merged/f"{f}/{key}.pkl").read_bytes() == (tmp_path/f"again/{f}/{key}.pkl").read_bytes()
    old, new = (json.loads((f/MANIFEST).read_text()) for f in (merged, tmp_path/"again"))
    for k in ("robot", "joint_order", "quat_order", "source_library", "total_motions_evaluated", "exported_count", "checkpoint", "exported_motions"): assert old[k] == new[k], k
    found = verify_export(tmp_path/"again", g1)
    assert found.counts["read"] == 5 and [(p["file"], p["problem"]) for p in found.problems] == [("object_usd", "lacks chair, lift, stairs_1, stairs_1_2, walk")]     # a library holds no geometry
    from_library(to_library(tmp_path/"again", tmp_path/"library2", g1), tmp_path/"third", g1)
    assert tree(tmp_path/"third") == tree(tmp_path/"again")


def test_quaternions_survive_that_are_not_quite_unit(tmp_path, g1):
    "Single precision leaves norms off by 1e-7; normalising on reading may change the last bit."
    q = np.random.default_rng(0).normal(size=(500, 4))
    rolls = g1.motion(np.concatenate([np.zeros((500, 3)), q/np.linalg.norm(q, axis=1, keepdims=True), np.zeros((500, 29))], 1), 25)
    write_grail(rolls, tmp_path/"s/robot/a.pkl")
    library = to_library(close(tmp_path/"s", g1, ["a"]), tmp_path/"library", g1)
    from_library(library, tmp_path/"again", g1)
    assert "root_rot" in library["a"].extra
    np.testing.assert_array_equal(*(safe_pickle.load(f/"robot/a.pkl")["a"]["root_rot"] for f in (tmp_path/"s", tmp_path/"again")))


def test_what_a_reader_of_the_library_gets(merged, tmp_path, g1):
    library = to_library(merged, tmp_path/"library", g1)
    motion, thing = library["lift"], safe_pickle.load(merged/"objects/lift.pkl")["lift"]
    np.testing.assert_array_equal(motion.extra["object_pos"], thing["root_pos"][:, 0])
    np.testing.assert_array_equal(motion.extra["hand_dof_pos"], safe_pickle.load(merged/"robot/lift.pkl")["lift"]["hand_dof_pos"])
    np.testing.assert_array_equal(rich(motion.extra["object"])["contact_points"]["left"][2], thing["contact_points_left_hand"][2])
    assert motion.source["export"]["checkpoint"] == {"experiment": "/data/run", "step": 5000} and motion.source["file"] == "robot/lift.pkl" and str(tmp_path) not in json.dumps(motion.source)
    assert library.windows(4, 5, 0, ("dof_pos", "extra.object_quat"))["extra.object_quat"].shape == (4, 5, 4)


def test_policies_of_motions_survive_the_library(mine, tmp_path, g1):
    change(mine[1], source_eval_dir="/data/run/eval/step_9/phase1_shard_1")
    merge_exports(mine, tmp_path/"merged", mixed_checkpoints=True)
    library = to_library(tmp_path/"merged", tmp_path/"library", g1)
    from_library(library, tmp_path/"again", g1)
    for m in (json.loads((tmp_path/"again"/MANIFEST).read_text()), json.loads((tmp_path/"merged"/MANIFEST).read_text())):
        assert {e["motion_key"]: checkpoint_of(m, e)["step"] for e in m["exported_motions"]} == {"walk": 5000, "stairs_1": 5000, "stairs_1_2": 9, "chair": 9, "lift": 5000}


def test_a_part_of_a_library_and_a_library_of_other_motions(merged, tmp_path, g1):
    library = to_library(merged, tmp_path/"library", g1)
    from_library(library.select(names=["walk"]), tmp_path/"one", g1)
    m = json.loads((tmp_path/"one"/MANIFEST).read_text())
    assert m["exported_count"] == 1 and "total_motions_evaluated" not in m
    other = MotionLibrary.create(tmp_path/"other", {"KIT/3/walk": motion_of(g1, 9)})
    assert from_library(other, tmp_path/"export", g1) == [] and verify_export(tmp_path/"export", g1).ok and (tmp_path/"export/robot/KIT_3_walk.pkl").is_file()
    with pytest.raises(MotionFormatError, match="exists already"): from_library(other, tmp_path/"export", g1)
    other.append({"KIT_3_walk": motion_of(g1, 8)})
    with pytest.raises(InvalidMotion, match="one file name"): from_library(other, tmp_path/"clash", g1)


def test_a_damaged_export_leaves_no_library(merged, tmp_path, g1):
    (merged/"robot/walk.pkl").write_bytes(b"\x80\x04")
    with pytest.raises(MotionbenchError, match="walk.pkl"): to_library(merged, tmp_path/"library", g1)
    assert not (tmp_path/"library").exists() and not list(tmp_path.glob(".library*"))


@settings(max_examples=60, deadline=None)
@given(st.recursive(st.none() | st.integers(-9, 9) | st.floats(allow_nan=False, allow_infinity=False, width=32) | st.text(max_size=3), lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=3) | st.integers(0, 9), x, max_size=3), max_leaves=8))
def test_plain_and_rich(x): assert rich(json.loads(json.dumps(plain(x)))) == x


def test_lerobot(merged, tmp_path, g1):
    pytest.importorskip("pyarrow")
    lost = to_lerobot(merged, tmp_path/"lerobot", g1)
    assert "hand_dof_pos" in lost and "object_pos" in lost
    keys = sorted(p.stem for p in (merged/"robot").iterdir())
    for i, k in enumerate(keys): np.testing.assert_allclose(read_lerobot(tmp_path/"lerobot", episode=i).dof_pos, read_grail(merged/f"robot/{k}.pkl", g1).dof_pos, atol=1e-6)


def test_card(merged, shards):
    card = dataset_card(merged, "CC-BY-4.0")
    for words in ('license: "CC-BY-4.0"', "| motions | 5 |", "| evaluated | 9 |", "| success rate | 55.6 % |", "| seconds | 1.4 |", "| grades | 5 pass |", "unitree_g1", "experiment run, step 5000", "| joints | 29 |"): assert words in card, words
    assert "/data" not in card and "licence is not known" in dataset_card(shards[0])
    nasty = card_text({"robot": "x`|\n# y", "exported_motions": [{"motion_key": "a"}]}, "MIT\n---\nevil: yes")
    assert "\n# y" not in nasty and "\nevil" not in nasty


# ---- command line

def run(capsys, *flags):
    parser = ArgumentParser()
    add_rollouts_merge(parser.add_subparsers())
    args = parser.parse_args(["merge", *with_hyphens(list(map(str, flags)))])
    code = args.function(args)
    return code, capsys.readouterr()


def test_command(shards, tmp_path, capsys):
    out = tmp_path/"merged"
    code, said = run(capsys, "--shards", *shards, "--output", out, "--on_conflict", "first", "--verify", "--card", "--license", "MIT", "--json")
    value = json.loads(said.out)
    assert code == 0 and value["exported_count"] == 5 and value["verify"]["ok"] and value["success_rate"] == 5/9 and (out/"README.md").read_text() == dataset_card(out, "MIT")
    put(out/"notes.txt", "mine")
    edit(out, "robot/lift.pkl", lambda k, c: {k: {**c, "pose_aa": 0*c["pose_aa"]}})
    code, said = run(capsys, "--shards", *shards, "--output", out, "--verify")
    assert code == 0 and "1 motion in several shards, equal: counted once" in said.out and "notes.txt: left" in said.err           # the damaged file was made again
    with pytest.raises(ConfigError, match="add --card"): run(capsys, "--shards", *shards, "--output", out, "--licence", "MIT")


def test_command_ends_1_when_the_check_finds_something(mine, tmp_path, capsys):
    edit(mine[2], "robot/lift.pkl", lambda k, c: {k: {**c, "pose_aa": 0*c["pose_aa"]}})
    code, said = run(capsys, "--shards", *mine, "--output", tmp_path/"merged", "--verify")
    assert code == 1 and "robot/lift.pkl: pose_aa is zero" in said.out
