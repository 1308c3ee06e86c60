"Pickles for old Pythons: the writer against pickle itself, and real old interpreters that load what was written."
import os
import pickle
import pickletools
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from hypothesis.extra import numpy as hnp

from motionbench.core.errors import ConfigError, MotionFormatError
from motionbench.core.gait import bundled_clips
from motionbench.core.motion import Motion
from motionbench.core.robot import available_robots, load_robot
from motionbench.io.booster import T1_4DOF_JOINTS, T1_JOINTS, T1_RANGES, read_booster, write_booster
from motionbench.io.convert_pickle import convert_pickle
from motionbench.io.old_python import find_old_python, load_in, try_python, value_digest
from motionbench.io.plain_pickle import prove_plain, write_plain
from motionbench.io.registry import read_motion, sniff

try: OLD = find_old_python()
except ConfigError as e: OLD, WHY = None, str(e)
else: WHY = "no Python 3.7 to 3.9 on this machine; name one in MOTIONBENCH_OLD_PYTHON"
needs_old = pytest.mark.skipif(OLD is None, reason=WHY)
T1 = "booster_t1_4dof"
needs_t1 = pytest.mark.skipif(not any(r["name"] == T1 and r["where"] != "download" for r in available_robots()), reason="the Booster T1 is not on this machine")
DATA = {"PROTO", "STOP", "MARK", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_TUPLE", "APPEND", "APPENDS", "SETITEM", "SETITEMS", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "NONE", "NEWTRUE",
        "NEWFALSE", "BINFLOAT", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINUNICODE", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"}


def lists(o):
    "What the original converter would have made at every depth."
    if isinstance(o, (np.ndarray, np.generic)): return o.tolist()
    if isinstance(o, dict): return {lists(k): lists(v) for k, v in o.items()}
    return type(o)(map(lists, o)) if isinstance(o, (list, tuple)) else o


def hard_clip():
    "One of everything that has gone wrong."
    r = np.random.default_rng(0)
    return {"fps": np.float32(50), "rate": np.float64(29.97), "root_pos": r.normal(size=(2500, 3)), "empty": np.zeros((0, 3)), "hollow": np.zeros((3, 0)),
            "fortran": np.asfortranarray(r.normal(size=(5, 4))), "half": np.float16([1.5, 6e-8, np.inf]), "odd": np.array([np.nan, -0.0, np.inf, -np.inf, 5e-324]),
            "payload": np.array([0x7ff8000000000123, 0xfff8000000000000], np.uint64).view(float), "big_endian": np.arange(3, dtype=">f4"),
            "cut": r.normal(size=(9, 8))[::2, ::-3], "int64": np.array([2**62, -1]), "uint64": np.array([2**64 - 1], np.uint64), "int8": np.int8([[-1], [7]]),
            "flags": np.array([[True, False]]), "names": np.array(["hüfte", "knie"]), "zero_d": np.array(2.5), "long": -10**600, "deep": {"a": [{"b": np.arange(4.), 3: (np.int16(3), None, "x")}]},
            "text": "Tänzer \udc80 \U0001f483", "none": None, "ragged": [[1.0], [1.0, 2.0]], "mixed": [1.0, 1, True], "rows": r.normal(size=(3, 2)).tolist(), "wide": np.zeros((2, 3000))}


def opcodes(path): return {op.name for op, _, _ in pickletools.genops(path.read_bytes())}


def test_everything_hard_becomes_plain(tmp_path):
    (tmp_path/"in.pkl").write_bytes(pickle.dumps(hard_clip()))
    report = convert_pickle(tmp_path/"in.pkl", tmp_path/"new/folder/out.pkl")
    plain = pickle.loads((tmp_path/"new/folder/out.pkl").read_bytes())
    assert report["exit_code"] == 0 and value_digest(plain) == value_digest(lists(hard_clip()))
    assert opcodes(tmp_path/"new/folder/out.pkl") <= DATA and prove_plain(tmp_path/"new/folder/out.pkl")
    convert_pickle(tmp_path/"new/folder/out.pkl", tmp_path/"again.pkl")
    assert value_digest(pickle.loads((tmp_path/"again.pkl").read_bytes())) == value_digest(plain)


@needs_old
def test_a_real_old_python_without_numpy(tmp_path):
    (tmp_path/"in.pkl").write_bytes(pickle.dumps(hard_clip()))
    report = convert_pickle(tmp_path/"in.pkl", tmp_path/"out.pkl", verify=True)
    assert report["exit_code"] == 0 and report["files"][0]["verified"] == "loaded" and str(OLD[0]) in report["verified_by"]
    assert load_in(OLD[0], [tmp_path/"out.pkl"]) == [("ok", value_digest(hard_clip()))]
    assert load_in(OLD[0], [tmp_path/"in.pkl"])[0][0] == "error"             # which the file before could not
    write_plain({**hard_clip(), "half": np.float16([1.5, 6.1e-8, 2])}, tmp_path/"out.pkl")
    assert load_in(OLD[0], [tmp_path/"out.pkl"])[0][1] != value_digest(hard_clip())


@pytest.fixture(scope="session")
def old_numpy():
    "A Python 3.8 with numpy 1.21 or 1.24: named, found, or made once in a cache folder."
    named = os.environ.get("MOTIONBENCH_OLD_PYTHON_NUMPY")
    if named:
        if not try_python(named, numpy=True): pytest.skip(f"MOTIONBENCH_OLD_PYTHON_NUMPY: {named} is no Python with numpy")
        return named
    if OLD is None: pytest.skip(WHY)
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home()/".cache"))/f"motionbench-tests/python-{OLD[1]}-numpy-1.21"
    if not try_python(home/"bin/python", numpy=True):
        shutil.rmtree(home, ignore_errors=True)
        try:
            subprocess.run([OLD[0], "-m", "venv", home], check=True, capture_output=True, timeout=60)
            subprocess.run([home/"bin/pip", "install", "-q", "--only-binary", ":all:", "--retries", "0", "--timeout", "10", "numpy==1.21.6"], check=True, capture_output=True, timeout=120)
        except (OSError, subprocess.SubprocessError) as e:
            shutil.rmtree(home, ignore_errors=True)
            pytest.skip(f"no environment with Python {OLD[1]} and numpy 1.21 could be made: {e}")
    return home/"bin/python"


SAME = """
import pickle, sys, numpy as np
plain, arrays = (pickle.load(open(p, "rb")) for p in sys.argv[1:])
print(np.__version__)
for k, a in arrays.items():
    if not isinstance(a, np.ndarray) or a.dtype.kind == "U": continue
    b = np.asarray(plain[k], a.dtype if a.dtype.kind in "iub" else "f8").reshape(a.shape)
    assert a.astype(b.dtype).tobytes() == b.tobytes(), k
    a += a.dtype.type(1) if a.dtype.kind == "f" else a.dtype.type(0)          # and it can be written to
"""


def test_an_old_numpy_reads_both_kinds(tmp_path, old_numpy):
    (tmp_path/"in.pkl").write_bytes(pickle.dumps(hard_clip()))
    plain = convert_pickle(tmp_path/"in.pkl", tmp_path/"plain.pkl", verify=True, python=old_numpy)
    arrays = convert_pickle(tmp_path/"in.pkl", tmp_path/"arrays.pkl", arrays=True, python=old_numpy)
    assert [r["files"][0]["verified"] for r in (plain, arrays)] == ["loaded"]*2 and "numpy 1.2" in arrays["verified_by"]
    assert {a for op, a, _ in pickletools.genops((tmp_path/"arrays.pkl").read_bytes()) if "numpy" in str(a)} == {"numpy"}
    done = subprocess.run([old_numpy, "-I", "-c", SAME, tmp_path/"plain.pkl", tmp_path/"arrays.pkl"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("1.2"), done.stderr


def original_converter(src, dst):
    "The guide's converter in our words: arrays of the top level become lists, all else stays."
    with open(src, "rb") as f: clip = pickle.load(f)
    with open(dst, "wb") as f: pickle.dump({k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in clip.items()}, f, protocol=2)


@needs_old
def test_the_originals_first_failure_a_numpy_scalar_as_frame_rate(tmp_path):
    (tmp_path/"in.pkl").write_bytes(pickle.dumps({"fps": np.float64(50), "dof_pos": np.zeros((3, 21))}))
    original_converter(tmp_path/"in.pkl", tmp_path/"theirs.pkl")
    convert_pickle(tmp_path/"in.pkl", tmp_path/"ours.pkl")
    (theirs, said), (ours, _) = load_in(OLD[0], [tmp_path/"theirs.pkl", tmp_path/"ours.pkl"])
    assert (theirs, ours) == ("error", "ok") and "numpy" in said
    with pytest.raises(MotionFormatError, match="opcode b'c'"): prove_plain(tmp_path/"theirs.pkl")


def training_loader(path):
    "What booster_gym's motion loader does with a file: lists or arrays become tensors, `local_body_pos` only an array."
    with open(path, "rb") as f: clip = pickle.load(f)
    tensor = lambda x: torch.tensor(x, dtype=torch.float32) if isinstance(x, list) else torch.from_numpy(x).float()
    out = {k: tensor(clip[k]) for k in ("root_pos", "root_rot", "dof_pos")}
    if clip.get("local_body_pos") is not None: out["local_body_pos"] = torch.from_numpy(clip["local_body_pos"]).float()
    out |= {"fps": clip["fps"], "link_body_list": clip.get("link_body_list", []), "duration": len(out["root_pos"])/clip["fps"]}
    dof = out["dof_pos"]
    if dof.shape[1] == 21: out["dof_pos"] = torch.cat([torch.zeros(len(dof), 2), dof], 1)    # the training's robot has a head
    return out


def t1_clip(frames=40, joints=21, seed=0):
    "A GMR clip of the T1 that turns around and keeps its ranges."
    r = np.random.default_rng(seed)
    low, high = T1_RANGES[-joints:].T
    angle = np.linspace(0, 3, frames)
    return {"fps": 30, "root_pos": r.normal(size=(frames, 3)), "root_rot": np.stack([0*angle, 0*angle, np.sin(angle/2), np.cos(angle/2)], 1),
            "dof_pos": r.uniform(low, high, (frames, joints)), "local_body_pos": r.normal(size=(frames, 24, 3)).astype(np.float32), "link_body_list": ["Trunk", "H1"]}


@pytest.mark.parametrize("joints", [21, 23])
def test_the_originals_second_failure_local_body_pos(tmp_path, joints):
    clip = t1_clip(joints=joints)
    (tmp_path/"in.pkl").write_bytes(pickle.dumps(clip))
    original_converter(tmp_path/"in.pkl", tmp_path/"theirs.pkl")
    with pytest.raises(TypeError, match="got list"): training_loader(tmp_path/"theirs.pkl")
    report = convert_pickle(tmp_path/"in.pkl", tmp_path/"ours.pkl", profile="booster_t1")
    assert "local_body_pos" in report["files"][0]["notes"]["dropped"]
    convert_pickle(tmp_path/"in.pkl", tmp_path/"arrays.pkl", profile="booster_t1", arrays=True)
    for name in ("ours", "arrays"):
        got = training_loader(tmp_path/f"{name}.pkl")
        assert ("local_body_pos" in got) == (name == "arrays") and got["link_body_list"] == ["Trunk", "H1"] and got["duration"] == 40/30
        assert got["dof_pos"].shape == (40, 23) and torch.equal(got["root_rot"], torch.from_numpy(clip["root_rot"]).float())
        assert torch.equal(got["dof_pos"][:, -21:], torch.from_numpy(clip["dof_pos"][:, -21:]).float())


def test_booster_reads_back_equal(tmp_path):
    clip = t1_clip()
    order = np.random.default_rng(1).permutation(21)
    motion = Motion(30, clip["root_pos"], clip["root_rot"][:, [3, 0, 1, 2]], clip["dof_pos"][:, order], [T1_4DOF_JOINTS[i] for i in order], T1, dof_vel=clip["dof_pos"],
                    extra={"local_body_pos": clip["local_body_pos"]})
    assert write_booster(motion, tmp_path/"m.pkl") == ["joint velocities", "local_body_pos"] and prove_plain(tmp_path/"m.pkl")
    again = read_motion(tmp_path/"m.pkl")
    assert again.joint_names == T1_4DOF_JOINTS and again.robot == T1 and again.fps == 30 and again.source["quat_order"] == "xyzw"
    assert np.array_equal(again.root_pos, motion.root_pos) and np.allclose(again.root_quat, motion.root_quat, atol=1e-12) and np.array_equal(again.dof_pos, clip["dof_pos"])
    with pytest.raises(MotionFormatError, match="one clip"): write_booster(Motion(30, np.zeros((4, 3)), [[1., 0, 0, 0]]*4, np.zeros((4, 21)), T1_4DOF_JOINTS, T1, starts=(0, 2)), tmp_path/"m.pkl")
    with pytest.raises(MotionFormatError, match="no Booster T1"): write_booster(Motion(30, np.zeros((1, 3)), [[1., 0, 0, 0]], np.zeros((1, 1)), ["knee"], "one"), tmp_path/"m.pkl")
    with pytest.raises(MotionFormatError, match="not of unitree_g1"): read_booster(tmp_path/"m.pkl", robot="unitree_g1")


def test_plain_lists_without_names_are_recognised(tmp_path):
    clip = t1_clip()
    write_plain(clip, tmp_path/"guide.pkl")                                  # as the original converter leaves it
    motion = read_motion(tmp_path/"guide.pkl")
    assert motion.source["format"] == "booster_gym" and motion.source["joint_order"] == f"robot {T1}" and motion.extra["local_body_pos"].shape == (40, 24, 3)
    write_plain({**clip, "dof_pos": clip["dof_pos"][:, ::-1] + 1}, tmp_path/"other.pkl")
    with pytest.raises(MotionFormatError, match="robot"): read_motion(tmp_path/"other.pkl")     # some robot with 21 joints, but no T1


def test_formats_do_not_overlap(tmp_path):
    for joints in (21, 23):
        for arrays, name in ((False, "booster_gym"), (True, "gmr")):
            (tmp_path/"in.pkl").write_bytes(pickle.dumps(t1_clip(joints=joints)))
            convert_pickle(tmp_path/"in.pkl", tmp_path/"out.pkl", profile="booster_t1", arrays=arrays)
            assert sniff(tmp_path/"out.pkl").name == name and len(read_motion(tmp_path/"out.pkl").joint_names) == joints


@pytest.mark.parametrize("change, words", [
    (lambda c: c.update(dof_pos=c["dof_pos"][:, :20]), "20 joint columns"), (lambda c: c.update(dof_pos=np.degrees(c["dof_pos"])), "outside its range"),
    (lambda c: c.update(dof_pos=c["dof_pos"][:, ::-1]), "outside its range"), (lambda c: c.update(root_rot=c["root_rot"][:, [3, 0, 1, 2]]), "looks like wxyz"),
    (lambda c: c.update(root_rot=2*c["root_rot"]), "norm"), (lambda c: c["root_pos"].__setitem__((3, 1), np.nan), "nan at frame 3"), (lambda c: c.pop("root_pos"), "lacks root_pos"),
    (lambda c: c.update(fps=0), "at 0 fps"), (lambda c: c.update(root_rot=c["root_rot"][:-1]), "shape"), (lambda c: c.update(joint_names=list(T1_4DOF_JOINTS[::-1])), "names the joints"),
    (lambda c: c.update(dof_pos=[[0.0]*21, [0.0]*20]), "numeric")])
def test_what_the_training_would_take_silently_is_refused(tmp_path, change, words):
    clip = t1_clip()
    change(clip)
    (tmp_path/"in.pkl").write_bytes(pickle.dumps(clip))
    with pytest.raises(MotionFormatError, match=words): convert_pickle(tmp_path/"in.pkl", tmp_path/"out.pkl", profile="booster_t1")
    assert not (tmp_path/"out.pkl").exists()


@needs_t1
def test_the_robot_is_the_references():
    robot, whole = load_robot(T1), load_robot("booster_t1")
    assert robot.joint_names == T1_4DOF_JOINTS and whole.joint_names == T1_JOINTS
    assert np.allclose(robot.joint_range, T1_RANGES[2:]) and np.allclose(whole.joint_range, T1_RANGES)
    assert robot.model.body_mass.sum() == pytest.approx(whole.model.body_mass.sum()) and robot.model.nu == 21 and robot.mirror is not None


@needs_t1
def test_from_human_to_training(tmp_path):
    from motionbench.retarget.clip import retarget
    motion = retarget(bundled_clips()["walk"].cut(0, 60), load_robot(T1))
    lost = write_booster(motion, tmp_path/"walk.pkl")
    assert "contacts" in lost and training_loader(tmp_path/"walk.pkl")["dof_pos"].shape == (60, 23)
    assert np.array_equal(read_motion(tmp_path/"walk.pkl").dof_pos, motion.dof_pos)


@needs_t1
def test_the_tutorial_runs():
    "It needs the T1, so it is not among the notebooks that are tested everywhere."
    page = Path(__file__).parents[1]/"nbs/tutorials/01_booster_t1.ipynb"
    code = "import sys; from execnb.shell import CaptureShell; from fastcore.nbio import read_nb; CaptureShell().run_all(read_nb(sys.argv[1]), exc_stop=True)"
    done = subprocess.run([sys.executable, "-c", code, page], capture_output=True, text=True, cwd=page.parent)
    assert done.returncode == 0, done.stderr[-2000:]


def test_folders(tmp_path):
    (tmp_path/"in/a").mkdir(parents=True)
    for name, data in {"a/x.pkl": pickle.dumps(t1_clip()), "y.pickle": pickle.dumps(t1_clip(seed=1)), "bad.pkl": b"\x80\x04cos\nsystem\n.", "notes.txt": b"hello"}.items(): (tmp_path/"in"/name).write_bytes(data)
    report = convert_pickle(tmp_path/"in", tmp_path/"in/out")
    assert sorted(str(p.relative_to(tmp_path/"in/out")) for p in (tmp_path/"in/out").rglob("*.p*")) == ["a/x.pkl", "y.pickle"]
    assert (report["converted"], report["failed"], report["exit_code"], report["skipped"]) == (2, 1, 1, ["notes.txt"])
    assert [r["file"].endswith("bad.pkl") for r in report["files"] if not r["ok"]] == [True]
    assert convert_pickle(tmp_path/"in", tmp_path/"in/out")["converted"] == 2              # its own output is not read again
    (tmp_path/"in/bad.pkl").unlink()
    before = value_digest(pickle.loads((tmp_path/"in/a/x.pkl").read_bytes()))
    shutil.rmtree(tmp_path/"in/out")
    assert convert_pickle(tmp_path/"in", tmp_path/"in")["exit_code"] == 0                  # in place
    assert value_digest(pickle.loads((tmp_path/"in/a/x.pkl").read_bytes())) == before and prove_plain(tmp_path/"in/a/x.pkl")
    with pytest.raises(MotionFormatError, match="holds no file"): convert_pickle(tmp_path/"in/nothing", tmp_path) if (tmp_path/"in/nothing").mkdir() is None else None


def test_one_clear_error(tmp_path):
    file = tmp_path/"in.pkl"
    file.write_bytes(pickle.dumps({"raw": {"blob": b"\x01"}}))
    with pytest.raises(MotionFormatError, match=r"\['raw'\]\['blob'\] is of type bytes"): convert_pickle(file, file)
    assert pickle.loads(file.read_bytes()) == {"raw": {"blob": b"\x01"}} and [p.name for p in tmp_path.iterdir()] == ["in.pkl"]
    with pytest.raises(MotionFormatError, match="cannot be written"): convert_pickle(file, file/"below/out.pkl")
    with pytest.raises(MotionFormatError, match="no such file"): convert_pickle(tmp_path/"in.pk", tmp_path/"o.pkl")
    with pytest.raises(ConfigError, match="unknown profile"): convert_pickle(file, file, profile="t2")
    with pytest.raises(ConfigError, match="--python"): convert_pickle(file, tmp_path/"o.pkl", python="/bin/false")
    with pytest.raises(MotionFormatError, match="is a file"): convert_pickle(tmp_path, file)


def test_without_an_old_python_the_report_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("motionbench.io.convert_pickle.find_old_python", lambda *a: None)
    (tmp_path/"in.pkl").write_bytes(pickle.dumps(t1_clip()))
    report = convert_pickle(tmp_path/"in.pkl", tmp_path/"o.pkl", verify=True)
    assert report["verified_by"].startswith("the opcode proof: no old Python") and report["files"][0]["verified"] == "opcodes"
    report = convert_pickle(tmp_path/"in.pkl", tmp_path/"o.pkl", verify=True, arrays=True)
    assert report["verified_by"].startswith("nothing: ") and report["files"][0]["verified"] is None and report["exit_code"] == 1


def test_a_failed_verification_is_a_failure(tmp_path, monkeypatch):
    monkeypatch.setattr("motionbench.io.convert_pickle.load_in", lambda exe, paths, numpy: [("ok", "0"*64), ("error", "EOFError: ")])
    for name in "ab": (tmp_path/f"{name}.pkl").write_bytes(pickle.dumps(t1_clip()))
    report = convert_pickle(tmp_path, tmp_path/"out", python=sys.executable)
    assert report["exit_code"] == 1 and report["failed"] == 2 and ["other values" in r["error"] for r in report["files"]] == [True, False]


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from([np.float16(1.5), np.float32(-0.0), np.int8(-3), np.uint64(2**63), np.bool_(True), np.str_("x")])
arrays = hnp.arrays(st.sampled_from(["f2", "f4", "f8", ">f8", "i1", "u2", "i4", ">i8", "u8", "?", "U3"]), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
values = st.recursive(scalars | arrays | arrays.map(lambda a: np.asfortranarray(a)[..., ::-1] if a.ndim else a),
                      lambda v: st.lists(v, max_size=4) | st.tuples(v, v) | st.dictionaries(st.text(max_size=4) | st.integers(), v, max_size=4) | st.lists(st.lists(st.floats(), min_size=2, max_size=2)), max_leaves=12)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values)
def test_any_value_is_written_as_pickle_would_write_its_lists(tmp_path, o):
    write_plain(o, tmp_path/"x.pkl")
    got, want = pickle.loads((tmp_path/"x.pkl").read_bytes()), lists(o)
    assert value_digest(got) == value_digest(want) and repr(got) == repr(want)
    assert opcodes(tmp_path/"x.pkl") <= DATA and prove_plain(tmp_path/"x.pkl")
    (tmp_path/"y.pkl").write_bytes(pickle.dumps(want, protocol=2))
    assert prove_plain(tmp_path/"y.pkl")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_the_proof_agrees_with_pickletools(tmp_path, data):
    "Whatever is put into a file: what the proof lets through has data opcodes only."
    base = pickle.dumps(lists({"a": np.zeros((3, 4)), "s": "text", "n": 10**30, "f": [1.0, 300, 70000, None]}), protocol=2)
    i = data.draw(st.integers(2, len(base)))
    bad = base[:i] + data.draw(st.binary(max_size=3) | st.sampled_from([b"cos\nsystem\n", b"R", b"b", b"\x81", b"\x93", b"Q", b"\x82\x01", b"ios\nsystem\n"])) + base[i + data.draw(st.integers(0, 2)):]
    (tmp_path/"x.pkl").write_bytes(bad)
    try: prove_plain(tmp_path/"x.pkl")
    except MotionFormatError: return
    assert opcodes(tmp_path/"x.pkl") <= DATA


@pytest.mark.parametrize("o", [b"x", {"a": {1, 2}}, [1j], np.zeros(2, complex), np.array([b"x"]), np.zeros(1, np.longdouble), np.longdouble(1), np.array([None]), {(1, 2): 3}, np.array(["2020-01-01"], "M8[D]")], ids=repr)
def test_what_has_no_plain_form_is_refused(tmp_path, o):
    with pytest.raises(MotionFormatError, match="no plain form"): write_plain({"k": o}, tmp_path/"x.pkl")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("n", [s*2**k + d for k in (0, 7, 8, 15, 16, 31, 63, 64, 2039, 2040, 5000) for s in (1, -1) for d in (-1, 0, 1)], ids=lambda n: f"{n.bit_length()}bits")
def test_integers_of_any_size(tmp_path, n):
    write_plain([n, [n]], tmp_path/"x.pkl")
    assert pickle.loads((tmp_path/"x.pkl").read_bytes()) == [n, [n]] and prove_plain(tmp_path/"x.pkl")


def test_loops_are_refused(tmp_path):
    loop = []
    loop.append(loop)
    with pytest.raises(MotionFormatError, match="holds itself"): write_plain(loop, tmp_path/"x.pkl")
    assert list(tmp_path.iterdir()) == []
