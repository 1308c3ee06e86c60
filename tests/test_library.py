"The library: what comes back, what a crash leaves, what damage is found, and where windows come from."
import json
import multiprocessing
import os
import pickle
import re
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from motionbench.core.errors import InvalidMotion, MotionFormatError
from motionbench.core.motion import CONTACT_NAMES, Motion, concatenate
from motionbench.io.library import INDEX, MotionLibrary, mapped_arrays, read_index


def clip(frames, number=0, fps=50.0, joints=("a", "b", "c"), robot="biped", **more):
    "A clip in which every row of dof_pos says which clip and frame it is."
    rng = np.random.default_rng(number)
    quat = rng.normal(size=(frames, 4))
    dof = np.stack([np.full(frames, number), np.arange(frames), *rng.normal(size=(len(joints) - 2, frames))], 1)
    return Motion(fps, rng.normal(size=(frames, 3)), quat/np.linalg.norm(quat, axis=1, keepdims=True), dof, joints, robot, **more)


def rich(frames, number=0):
    "A clip with everything."
    T, rng = frames, np.random.default_rng(number)
    return clip(T, number, dof_vel=rng.normal(size=(T, 3)), contacts=rng.integers(0, 2, (T, 4)), contact_names=CONTACT_NAMES, torque=rng.normal(size=(T, 3)),
                body_pos=rng.normal(size=(T, 2, 3)), body_quat=np.tile([1., 0, 0, 0], (T, 2, 1)), body_names=("trunk", "hand"),
                extra={"phase": np.arange(T), "hands": rng.normal(size=(T, 2, 3)).astype("f4"), "note": "x", "table": np.eye(3)},
                source={"file": "x.pkl", "licence": "CC0", "steps": [{"step": "made"}]})


def same(a, b, tolerance):
    for k in Motion._how:
        x, y = getattr(a, k), getattr(b, k)
        assert (x is None) == (y is None), k
        if x is not None: assert np.allclose(x, y, atol=tolerance, rtol=0), k
    assert (a.fps, a.joint_names, a.robot, a.contact_names, a.body_names, a.source) == (b.fps, b.joint_names, b.robot, b.contact_names, b.body_names, b.source)


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-6), ("float64", 0)])
def test_clips_come_back(tmp_path, dtype, tolerance):
    made = {"one": rich(40, 1), "two": clip(25, 2, fps=29.97), "three": rich(31, 3)}
    lib = MotionLibrary.create(tmp_path/"lib", {"one": made["one"]}, dtype=dtype)
    lib.append({k: made[k] for k in ("two", "three")}, tags=["walk"], grade={"two": "pass"})
    lib = MotionLibrary.open(tmp_path/"lib")
    assert lib.names == ("one", "two", "three") and len(lib) == 3 and "two" in lib and lib.get("none") is None
    for k in made: same(lib[k], made[k], tolerance)
    assert np.array_equal(lib["one"].extra["phase"], np.arange(40)) and lib["one"].extra["phase"].dtype == np.int64
    assert np.array_equal(lib["one"].extra["hands"], made["one"].extra["hands"]) and lib["one"].extra["note"] == "x"
    assert lib.verify() == []
    info = lib.info()
    assert (info["clips"], info["frames"], info["shards"], info["grades"]) == (3, 96, 2, {"none": 2, "pass": 1})
    json.dumps(info)


def test_parts_by_tag_grade_robot_rate_and_name(tmp_path):
    lib = MotionLibrary.create(tmp_path/"lib", {"a": clip(30, 1), "b": clip(30, 2, robot="g1")}, tags={"a": ["walk", "slow"], "b": "walk"}, grade="pass")
    lib.append({"c": clip(30, 3, fps=30)}, grade="fail")
    names = lambda **k: lib.select(**k).names
    assert names(tags="walk") == ("a", "b") and names(tags=["walk", "slow"]) == ("a",) and names(grade="fail") == ("c",) and names(grade=("fail", "pass")) == ("a", "b", "c")
    assert names(robot="g1") == ("b",) and names(fps=30) == ("c",) and names(names=["c", "a"]) == ("a", "c") and names(tags="nothing") == ()
    assert lib.select(tags="walk").select(robot="biped").names == ("a",)
    with pytest.raises(MotionFormatError, match="Append to the whole"): lib.select(tags="walk").append({"d": clip(9)})
    with pytest.raises(MotionFormatError, match="Nearest"): lib.select(names="aa")


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=4), min_size=1, max_size=3), frames=st.integers(1, 12), seed=st.integers(0, 2**32))
def test_windows_never_cross_clips(tmp_path_factory, lengths, frames, seed):
    lib, number = MotionLibrary.create(tmp_path_factory.mktemp("lib")), 0
    for batch in lengths:
        lib.append({f"c{number + i}": clip(n, number + i) for i, n in enumerate(batch)})
        number += len(batch)
    flat = np.array([n for batch in lengths for n in batch])
    if flat.max() < frames:
        with pytest.raises(InvalidMotion, match=f"no clip .* has {frames} frames"): lib.windows(8, frames, seed)
        return
    w = lib.windows(64, frames, seed)
    which, row = w["dof_pos"][..., 0], w["dof_pos"][..., 1]
    assert (which == w.clip[:, None]).all() and (row == w.start[:, None] + np.arange(frames)).all()
    assert w["root_quat"].shape == (64, frames, 4) and len(w) == 64
    again = MotionLibrary.open(lib.path).windows(64, frames, seed)
    assert all(np.array_equal(w[k], again[k]) for k in w.arrays)


def test_every_valid_start_is_equally_likely(tmp_path):
    lib = MotionLibrary.create(tmp_path/"lib", {"a": clip(12, 0), "short": clip(3, 1), "b": clip(7, 2)})
    w = lib.windows(90_000, 4, seed=1)
    starts = np.bincount(w.clip*20 + w.start, minlength=60)
    wanted = np.zeros(60)
    wanted[:9], wanted[40:44] = 1, 1
    assert (starts[wanted == 0] == 0).all()
    expected = 90_000/13
    assert (np.abs(starts[wanted == 1] - expected) < 5*np.sqrt(expected)).all()
    assert not np.array_equal(w.start, lib.windows(90_000, 4, seed=2).start)
    rng = np.random.default_rng(1)
    assert np.array_equal(w.start, lib.windows(90_000, 4, rng).start) and not np.array_equal(w.start, lib.windows(90_000, 4, rng).start)


def test_a_batch_is_of_one_robot_and_one_order(tmp_path):
    lib = MotionLibrary.create(tmp_path/"lib", {"a": clip(30, 1), "b": clip(30, 2, robot="g1"), "c": rich(30, 3), "d": clip(30, 4, joints=("b", "a", "c"))})
    with pytest.raises(InvalidMotion, match="biped, g1"): lib.windows(4, 4, 0)
    with pytest.raises(InvalidMotion, match="differ in joint_names"): lib.select(robot="biped").windows(4, 4, 0)
    assert lib.select(robot="biped").windows(4, 4, 0, fields=("root_pos",))["root_pos"].shape == (4, 4, 3)
    with pytest.raises(InvalidMotion, match="a has no torque"): lib.select(names=["a", "c"]).windows(4, 4, 0, fields=("torque",))
    w = lib.select(names=["c"]).windows(5, 6, 0, fields=("contacts", "extra.phase", "body_pos"))
    assert w["contacts"].dtype == bool and w["body_pos"].shape == (5, 6, 2, 3) and (np.diff(w["extra.phase"], axis=1) == 1).all()
    for n, frames in ((0, 4), (4, 0), (4, 31)):
        with pytest.raises(InvalidMotion): lib.select(names=["a"]).windows(n, frames, 0)


def test_what_a_library_refuses(tmp_path):
    lib = MotionLibrary.create(tmp_path/"lib", {"a": clip(9)})
    before = (tmp_path/"lib"/INDEX).read_bytes(), sorted(os.listdir(tmp_path/"lib"))
    with pytest.raises(MotionFormatError, match="has a clip 'a' already"): lib.append({"b": clip(9), "a": clip(9)})
    with pytest.raises(MotionFormatError, match="several clips"): lib.append({"b": concatenate([clip(9), clip(9)], boundaries=True)})
    with pytest.raises(MotionFormatError, match="JSON"): lib.append({"b": clip(9, extra={"x": object()})})
    with pytest.raises(MotionFormatError, match="robots"): lib.append({"b": "no motion"})
    with pytest.raises(MotionFormatError, match="a library already"): MotionLibrary.create(tmp_path/"lib")
    with pytest.raises(MotionFormatError, match="dtype"): MotionLibrary.create(tmp_path/"other", dtype="int8")
    with pytest.raises(MotionFormatError, match="Nearest: a"): lib["aa"]
    assert before == ((tmp_path/"lib"/INDEX).read_bytes(), sorted(os.listdir(tmp_path/"lib")))


@pytest.mark.parametrize("change, match", [
    (lambda i: i | {"schema": "x"}, "no library's index"), (lambda i: i | {"version": 99}, "version 99.*Update"), (lambda i: {k: v for k, v in i.items() if k != "clips"}, "damaged"),
    (lambda i: i | {"clips": [i["clips"][0] | {"shard": 7}]}, "damaged"), (lambda i: i | {"clips": [i["clips"][0] | {"length": 0}]}, "damaged"),
    (lambda i: i | {"clips": i["clips"]*2}, "two clips"), (lambda i: i | {"shards": [i["shards"][0] | {"file": "../x"}]}, "not in the folder"), (lambda i: [], "no library's index")])
def test_a_damaged_index_is_named(tmp_path, change, match):
    MotionLibrary.create(tmp_path/"lib", {"a": clip(9)})
    file = tmp_path/"lib"/INDEX
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(MotionFormatError, match=match): MotionLibrary.open(tmp_path/"lib")
    file.write_text("{")
    with pytest.raises(MotionFormatError, match="cannot be read"): MotionLibrary.open(tmp_path/"lib")
    file.unlink()
    with pytest.raises(MotionFormatError, match="MotionLibrary.create"): MotionLibrary.open(tmp_path/"lib")


def test_an_index_that_promises_more_rows_than_there_are(tmp_path):
    lib = MotionLibrary.create(tmp_path/"lib", {"a": clip(9)})
    index = read_index(lib.path)
    index["clips"][0]["length"] = 10
    (lib.path/INDEX).write_text(json.dumps(index))
    lib = MotionLibrary.open(lib.path)
    for use in (lambda: lib["a"], lambda: lib.windows(1, 10, 0)):
        with pytest.raises(MotionFormatError, match="does not hold a"): use()
    assert "damaged in the clip a" in lib.verify()[0]


def test_damage_is_found_and_the_clip_named(tmp_path):
    lib = MotionLibrary.create(tmp_path/"lib", {f"c{i}": rich(20 + i, i) for i in range(5)})
    lib.append({"late": clip(20, 9)})
    shard = lib.path/lib.index["shards"][0]["file"]
    good = shard.read_bytes()
    data = mapped_arrays(shard)
    offset = good.index(np.asarray(data["0/torque"])[41].tobytes())          # rows 0-19, 20-40, 41-62: the third clip's first
    for position, match in ((offset, "damaged in the clip c2"), (len(good)//2, "damaged in the clip"), (12, "no readable shard|damaged in")):
        shard.write_bytes(good[:position] + bytes([good[position] ^ 4]) + good[position + 1:])
        found = lib.verify()
        assert len(found) == 1 and shard.name in found[0], (position, found)
        assert re.search(match, found[0]), found
    shard.write_bytes(good[:-7])
    with pytest.raises(MotionFormatError, match="cut short"): MotionLibrary.open(lib.path)
    assert "c0" in lib.verify()[0]
    shard.unlink()
    with pytest.raises(MotionFormatError, match="missing"): MotionLibrary.open(lib.path)
    assert MotionLibrary.open(lib.path, check=False).verify() == lib.verify()
    assert "missing" in lib.verify()[0] and "late" not in lib.verify()[0]


def test_any_flipped_byte_is_found(tmp_path):
    lib = MotionLibrary.create(tmp_path/"lib", {"a": clip(8, 1), "b": clip(8, 2)})
    shard = lib.path/lib.index["shards"][0]["file"]
    good = shard.read_bytes()
    for i in range(0, len(good), 7):
        shard.write_bytes(good[:i] + bytes([good[i] ^ 0xFF]) + good[i + 1:])
        assert len(lib.verify()) == 1, i
    shard.write_bytes(good)
    assert lib.verify() == []


CRASH = textwrap.dedent("""
    import os, sys
    import numpy as np
    from motionbench.core.motion import Motion
    from motionbench.io.library import MotionLibrary
    real, count = os.replace, int(sys.argv[2])
    calls = []
    def replace(*args):
        calls.append(args)
        if len(calls) == count: os._exit(9)
        real(*args)
        if len(calls) == count - 10: os._exit(9)
    os.replace = replace
    lib = MotionLibrary.open(sys.argv[1])
    T = 50
    lib.append({"new": Motion(50, np.zeros((T, 3)), np.tile([1., 0, 0, 0], (T, 1)), np.zeros((T, 3)), ("a", "b", "c"), "biped")})
""")


@pytest.mark.parametrize("when, there", [(1, False), (11, False), (2, False), (12, True)])
def test_a_writer_that_dies_leaves_the_old_or_the_new_library(tmp_path, when, there):
    "Killed before and after the shard is renamed (1, 11), before and after the index is (2, 12)."
    made = clip(30, 3)
    lib = MotionLibrary.create(tmp_path/"lib", {"old": made})
    died = subprocess.run([sys.executable, "-c", CRASH, str(lib.path), str(when)], capture_output=True, text=True)
    assert died.returncode == 9, died.stderr
    lib = MotionLibrary.open(tmp_path/"lib")
    assert lib.names == (("old", "new") if there else ("old",)) and lib.verify() == []
    same(lib["old"], made, 1e-6)
    if not there: lib.append({"new": clip(20, 4)})                # the lock died with its holder, leftovers do no harm
    assert lib.verify() == [] and "new" in MotionLibrary.open(lib.path)


def test_an_error_while_writing_leaves_nothing_behind(tmp_path, monkeypatch):
    lib = MotionLibrary.create(tmp_path/"lib", {"old": clip(30)})
    before = sorted(os.listdir(lib.path))
    def full(*args): raise OSError(28, "No space left on device")
    monkeypatch.setattr("motionbench.io.library.write_index", full)
    with pytest.raises(OSError): lib.append({"new": clip(30, 1)})
    assert sorted(os.listdir(lib.path)) == before and MotionLibrary.open(lib.path).names == ("old",)


def _append(path, number): MotionLibrary.open(path).append({f"p{number}": clip(20, number)})


def test_writers_take_turns_and_readers_do_not_mind(tmp_path):
    lib = MotionLibrary.create(tmp_path/"lib", {"first": clip(64, 99)})
    expected = lib.windows(16, 8, 0)["dof_pos"]
    jobs = [multiprocessing.get_context("fork").Process(target=_append, args=(lib.path, i)) for i in range(4)]
    for j in jobs: j.start()
    for _ in range(50): assert np.array_equal(lib.windows(16, 8, 0)["dof_pos"], expected)
    for j in jobs: j.join()
    lib = MotionLibrary.open(lib.path)
    assert sorted(lib.names) == ["first", "p0", "p1", "p2", "p3"] and lib.verify() == []
    assert pickle.loads(pickle.dumps(lib)).windows(4, 8, 1)["dof_pos"].shape == (4, 8, 3)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_windows_do_not_read_the_rest(tmp_path):
    "Memory of the process itself after drawing from a library of 60 MB; pages of the file belong to the system, which keeps or drops them as it likes."
    T = 400_000
    big = Motion(50, np.zeros((T, 3)), np.tile([1., 0, 0, 0], (T, 1)), np.random.default_rng(0).normal(size=(T, 32)), tuple(f"j{i}" for i in range(32)), "big")
    path = MotionLibrary.create(tmp_path/"lib", {"big": big}).path
    code = f"""
import re
from motionbench.io.library import MotionLibrary
size = lambda: int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1])*1024
lib = MotionLibrary.open({str(path)!r})
before = size()
for s in range(100): lib.windows(64, 32, s)
print(size() - before)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 6e6
