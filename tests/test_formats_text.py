"Formats told by content, and those that are text: CSV, DeepMimic, AMP JSON, LeRobot; each also through its consumer's own loading logic."
import bz2
import gzip
import json
import lzma
import os
import pickle
import zlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation, Slerp

from motionbench.core.errors import MotionFormatError
from motionbench.core.gait import bundled_clips
from motionbench.core.motion import HumanMotion, Motion, concatenate, transform
from motionbench.core.robot import load_robot
from motionbench.core.rotation import angular_velocity, quat_rotate
from motionbench.io.convert import Converted, convert_file, read_as
from motionbench.io.csv import ORDERS, read_csv, write_csv
from motionbench.io.deepmimic import COLUMNS
from motionbench.io.legged import find_layout, write_legged
from motionbench.io.lerobot import read_lerobot, write_lerobot
from motionbench.io.native import read_npz, write_npz
from motionbench.io.registry import Format, Probe, all_formats, contents, formats, kind_of, lost, read_motion, register, sniff

DATA = Path(os.environ.get("MOTIONBENCH_TEST_DATA", Path(__file__).parents[1]/"../shared/data")).resolve()
ROBOT_MOTION = DATA/"robot_motion"
real = pytest.mark.skipif(not ROBOT_MOTION.is_dir(), reason=f"no test data at {DATA}; set MOTIONBENCH_TEST_DATA")
MOTION_FILES = sorted(p for folder in ("robot_motion", "gmr", "mocap") for p in (DATA/folder).rglob("*") if p.is_file()
                      and p.suffix in (".npz", ".pkl", ".npy", ".csv", ".txt", ".motion", ".bvh") and not p.name.startswith(("LICENSE", "ACKNOWLEDGEMENT")))
FORMAT_OF = {"beyondmimic": "beyondmimic", "isaaclab_amp": "isaaclab", "kimodo_csv": "csv", "locomujoco_v0": "locomujoco-v0", "phc_asap": "phc", "poselib": "poselib", "tienkung_amp": "legged",
             "unitree_csv": "csv", "amass_smpl": "amass", "amass_smplx": "amass", "bandai": "bvh", "cmu": "bvh", "lafan1_layout": "bvh", "deepmimic": "deepmimic"}
CSVS = {"kimodo_csv/kimodo_walk.csv": ("wxyz", 30), "kimodo_csv/kimodo_jumpjack.csv": ("wxyz", 30), "protomotions/output_jumpjack.csv": ("wxyz", 30), "unitree_csv/G1_Take_102.bvh_60hz.csv": ("xyzw", 60)}


@pytest.fixture(scope="module")
def biped(): return load_robot("biped")


@pytest.fixture(scope="module")
def sway(biped):
    "A robot clip in which everything moves."
    t = np.arange(90)/50
    q = np.tile(biped.model.qpos0, (90, 1))
    q[:, 7:] += 0.3*np.sin(2*t[:, None] + np.arange(9))
    q[:, 0] += 0.3*t
    q[:, 3:7] = Rotation.from_euler("zyx", np.stack([1 + t, .2*np.sin(t), .1*np.cos(t)], 1)).as_quat()[:, [3, 0, 1, 2]]
    return biped.motion(q, 50.0)


def same(a, b, tolerance=1e-6):
    "Poses within the tolerance; names and fps exactly."
    assert a.fps == b.fps and a.joint_names == b.joint_names and len(a) == len(b)
    for k in ("root_pos", "dof_pos"): assert np.abs(getattr(a, k) - getattr(b, k)).max() < tolerance, k
    assert 1 - np.abs((a.root_quat*b.root_quat).sum(1)).min() < tolerance


def refused(words, f, *args, **kw):
    with pytest.raises(MotionFormatError) as e: f(*args, **kw)
    for w in [words] if isinstance(words, str) else words: assert w in str(e.value), str(e.value)
    return str(e.value)


# ---- by content

@real
@pytest.mark.parametrize("path", MOTION_FILES, ids=lambda p: p.name)
def test_every_motion_file_is_recognised_also_under_another_name(path, tmp_path):
    want = FORMAT_OF.get(path.parent.name) or {".csv": "csv", ".motion": "protomotions", ".pkl": "gmr", ".npz": "gmr-human"}[path.suffix]
    (tmp_path/"clip.dat").write_bytes(path.read_bytes())
    assert sniff(path).name == sniff(tmp_path/"clip.dat").name == want


@real
@pytest.mark.parametrize("path", [p for p in MOTION_FILES if not p.name.endswith("amp_expert.txt")], ids=lambda p: p.name)
def test_every_motion_file_is_read_and_says_its_conventions(path):
    options = {"robot": "unitree_g1", "fps": 30.0} if path.suffix == ".csv" else {"robot": "unitree_g1"} if path.suffix == ".motion" else {}
    if path.suffix == ".pkl": options = {"robot": DATA/f"gmr/robots/{path.stem.split('__')[-1]}_gmr.xml"} if "__" in path.name else {"robot": g1_23()}
    clip = read_motion(path, **options)
    assert isinstance(clip, (Motion, HumanMotion)) and clip.source["file"] and clip.source["format"]
    if path.suffix not in (".bvh",) and sniff(path).name not in ("amass", "gmr"):
        assert all(clip.source.get(k) for k in ("quat_order", "velocity_frame", "joint_order", "fps_from")), clip.source


def g1_23():
    "The G1 with 23 joints that ASAP uses: without the wrists."
    import mujoco
    from dataclasses import replace
    from motionbench.core.kinematics import compile_tree
    g1 = load_robot("unitree_g1")
    spec = mujoco.MjSpec.from_file(str(g1.path))
    for part in [j for j in spec.joints if "wrist" in j.name] + [a for a in spec.actuators if "wrist" in a.target] + list(spec.keys): spec.delete(part)
    model = spec.compile()
    return replace(g1, name="unitree_g1_23", model=model, tree=compile_tree(model))


def test_containers_are_told_by_their_first_bytes(tmp_path):
    clip = {"fps": 30, "root_pos": np.zeros((3, 3)).tolist(), "root_rot": [[0, 0, 0, 1]]*3, "dof_pos": np.zeros((3, 9)).tolist()}
    for protocol in range(6):
        (tmp_path/"clip").write_bytes(pickle.dumps(clip, protocol))
        assert Probe(tmp_path/"clip").magic == "pickle" and sniff(tmp_path/"clip").name == "gmr", protocol
        assert len(read_motion(tmp_path/"clip", robot="biped")) == 3
    for pack in (zlib.compress, gzip.compress, bz2.compress, lzma.compress):
        (tmp_path/"clip").write_bytes(pack(pickle.dumps(clip, 4)))
        assert sniff(tmp_path/"clip").name == "gmr" and len(read_motion(tmp_path/"clip", robot="biped")) == 3, pack
    assert kind_of(b"\x04\x22\x4d\x18") == "pickle" and kind_of(b"PAR1") == "parquet" and kind_of(b"\xef\xbb\xbf{") == "json" and kind_of(b"\x00\x01") == "binary"
    np.save(tmp_path/"a.npy", np.zeros((3, 4)))
    assert Probe(tmp_path/"a.npy").magic == "npy" and Probe(tmp_path/"a.npy").shapes[""] == ((3, 4), np.dtype(float))
    np.save(tmp_path/"b.npy", np.array({"a": 1}, object), allow_pickle=True)
    assert Probe(tmp_path/"b.npy").magic == "object_npy"


def test_a_git_lfs_pointer_is_named(tmp_path):
    (tmp_path/"walk.npz").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n")
    refused("git-lfs pointer", read_motion, tmp_path/"walk.npz")


def test_two_formats_that_fit_are_an_error_that_names_both(tmp_path, monkeypatch):
    from motionbench.io import registry
    monkeypatch.setattr(registry, "_FORMATS", dict(registry._FORMATS))
    for name in ("left", "right"): register(Format(name, "Motion", lambda probe: probe.head.startswith(b"BOTH"), lambda path, name=name: name))
    (tmp_path/"x").write_text("BOTH sides")
    refused(["left, right", "format=", "--format"], read_motion, tmp_path/"x")
    assert read_motion(tmp_path/"x", format="right") == "right"
    refused("is no known format", read_motion, tmp_path/"x", format="middle")


def test_a_file_is_loaded_once(tmp_path, monkeypatch, sway):
    from motionbench.io import safe_pickle
    from motionbench.io.gmr import write_gmr
    write_gmr(sway, tmp_path/"a.pkl")
    calls, load = [], safe_pickle.load
    monkeypatch.setattr(safe_pickle, "load", lambda *a, **kw: calls.append(a) or load(*a, **kw))
    read_as(tmp_path/"a.pkl", robot="biped")
    assert len(calls) == 1
    assert set(contents(tmp_path/"a.pkl")) >= {"fps", "dof_pos"} and len(calls) == 2, "outside of read_motion nothing is kept"


def test_the_table_is_complete():
    rows = formats()
    assert all(r["about"] and r["tested"] in ("a real file", "a written one") and (r["gives"].count("Motion") or r["gives"] == "ObjectMotion") for r in rows)
    names = {r["format"] for r in rows}
    assert {"csv", "unitree_csv", "kimodo_csv", "deepmimic", "legged", "lerobot", "npz", "gmr", "bvh", "amass"} <= names
    page = (Path(__file__).parents[1]/"nbs/io/34_formats_table.ipynb").read_text()
    assert all(f"{n}" in page for n in names), "run the page of formats again"


# ---- CSV

@real
@pytest.mark.parametrize("name", CSVS)
def test_the_feet_decide_the_order_of_every_real_csv(name):
    order, fps = CSVS[name]
    m = read_motion(ROBOT_MOTION/name, robot="unitree_g1", fps=fps)
    evidence = m.source["steps"][0]["quat_order_evidence"]
    assert m.source["quat_order"] == order and m.source["steps"][0]["quat_order_from"] == "stance foot"
    assert evidence[order]["cost"] < 0.4*evidence["xyzw" if order == "wxyz" else "wxyz"]["cost"]


@real
def test_the_order_is_never_decided_wrongly(tmp_path):
    "Turned to any heading and written in both orders, a clip is read back rightly, or the reader asks."
    asked, n = 0, 0
    for name, (order, fps) in list(CSVS.items())[::3]:
        clip = read_motion(ROBOT_MOTION/name, robot="unitree_g1", fps=fps, quat_order=order).cut(0, 200)
        for k in range(8):
            turned = transform(clip, heading=k*np.pi/4)
            for written in ORDERS:
                write_csv(turned, tmp_path/"a.csv", written)
                n += 1
                try: assert read_csv(tmp_path/"a.csv", "unitree_g1", fps).source["quat_order"] == written
                except MotionFormatError as e: asked += "cannot be told" in str(e) or pytest.fail(str(e))
    assert asked <= 0.5*n


def test_a_still_robot_is_asked_about(biped, tmp_path):
    stand = biped.motion(np.tile(biped.model.qpos0, (30, 1)), 30.0)
    write_csv(stand, tmp_path/"a.csv", "xyzw")
    turned = transform(stand, heading=0.01)
    write_csv(turned, tmp_path/"b.csv", "wxyz")
    for f in ("a.csv", "b.csv"):
        try: assert read_csv(tmp_path/f, biped, 30).source["quat_order"] == {"a.csv": "xyzw", "b.csv": "wxyz"}[f]
        except MotionFormatError as e: assert "--quat-order" in str(e)


@pytest.mark.parametrize("order", ORDERS)
def test_csv_round_trip_and_losses(sway, biped, tmp_path, order):
    losses = write_csv(sway, tmp_path/"a.csv", order)
    assert losses == ["joint names", "frame rate", "the robot's name"]
    same(read_csv(tmp_path/"a.csv", biped, 50, order), sway, 1e-12)


def test_csv_with_a_header_needs_nothing_else(sway, tmp_path):
    table = np.concatenate([sway.times[:, None], sway.root_pos, sway.root_quat[:, [1, 2, 3, 0]], sway.dof_pos], 1)
    names = ["time", "x", "y", "z", "qx", "qy", "qz", "qw", *sway.joint_names]
    np.savetxt(tmp_path/"a.csv", table, delimiter=",", header=",".join(names), comments="")
    m = read_motion(tmp_path/"a.csv")
    same(m, sway)
    assert m.source["fps_from"] == m.source["joint_order"] == "file" and m.source["quat_order"] == "xyzw"
    swapped = [*names[:8], *names[8:][::-1]]
    np.savetxt(tmp_path/"b.csv", np.concatenate([table[:, :8], table[:, 8:][:, ::-1]], 1), delimiter=",", header=",".join(swapped), comments="")
    b = read_motion(tmp_path/"b.csv", robot="biped")
    assert b.joint_names == sway.joint_names[::-1] and np.allclose(b.dof_pos[:, ::-1], sway.dof_pos)


def test_csv_errors(sway, biped, tmp_path):
    write_csv(sway, tmp_path/"clip_60hz.csv", "wxyz")
    f = tmp_path/"clip_60hz.csv"
    refused(["has no frame rate", "suggests 60 Hz", "--fps"], read_motion, f, robot="biped")
    refused(["9 columns", "--robot", "biped"], read_motion, f, fps=60)
    refused(["does not say", "--quat-order"], read_csv, named(f, sway, tmp_path), None, 60)
    refused("has 9 joint columns, but unitree_g1 has 29", read_motion, f, fps=60, robot="unitree_g1")
    refused("quat_order is 'zyxw'", read_motion, f, fps=60, robot="biped", quat_order="zyxw")
    lines = f.read_text().splitlines()
    (tmp_path/"short.csv").write_text("\n".join([*lines[:5], lines[5][:40], *lines[6:]]))
    refused("line 6", read_motion, tmp_path/"short.csv", fps=60, robot="biped")
    (tmp_path/"word.csv").write_text("\n".join([*lines[:5], "n/a," + lines[5].split(",", 1)[1], *lines[6:]]))
    refused(["line 6", "not all numbers"], read_motion, tmp_path/"word.csv", fps=60, robot="biped")
    (tmp_path/"nan.csv").write_text("\n".join([*lines[:5], "nan," + lines[5].split(",", 1)[1], *lines[6:]]))
    refused("frame 5", read_motion, tmp_path/"nan.csv", fps=60, robot="biped")
    row = lines[6].split(",")
    (tmp_path/"norm.csv").write_text("\n".join([*lines[:5], ",".join([*row[:3], "2", *row[4:]]), *lines[6:]]))
    refused(["no unit quaternion", "row 6"], read_motion, tmp_path/"norm.csv", fps=60, robot="biped", quat_order="wxyz")


def named(f, motion, folder):
    "The file with a header that names joints but not the quaternion's order."
    names = ["x", "y", "z", "q1", "q2", "q3", "q4", *motion.joint_names]
    (folder/"named.csv").write_text(",".join(names) + "\n" + f.read_text())
    return folder/"named.csv"


@real
def test_the_golden_pair_agrees():
    "One clip as ProtoMotions' CSV (wxyz) and as its .motion (xyzw)."
    a = read_motion(ROBOT_MOTION/"protomotions/output_jumpjack.csv", robot="unitree_g1", fps=30)
    b = read_motion(ROBOT_MOTION/"protomotions/output_jumpjack.motion", robot="unitree_g1")
    lifted = b.root_pos[:, 2] - a.root_pos[:, 2]
    assert 0 <= lifted.min() and lifted.max() < 0.012, "ProtoMotions lifts the feet out of the ground"
    same(Motion(a.fps, np.c_[a.root_pos[:, :2], b.root_pos[:, 2]], a.root_quat, a.dof_pos, a.joint_names, a.robot), b)
    assert a.source["quat_order"] == "wxyz" and b.source["quat_order"] == "xyzw"


def load_whole_body_tracking(path, fps_in, fps_out):
    "How whole_body_tracking's csv_to_npz reads and interpolates a CSV: base quaternion xyzw turned to wxyz, lerp, slerp."
    table = np.loadtxt(path, delimiter=",").astype(np.float32)
    pos, quat, dof = table[:, :3], table[:, 3:7][:, [3, 0, 1, 2]], table[:, 7:]
    duration = (len(table) - 1)/fps_in
    times = np.arange(0, duration, 1/fps_out)
    phase = times/duration*(len(table) - 1)
    i = np.floor(phase).astype(int)
    j, f = np.minimum(i + 1, len(table) - 1), (phase - i)[:, None]
    turn = Slerp(np.arange(len(table)), Rotation.from_quat(quat[:, [1, 2, 3, 0]]))(phase).as_quat()[:, [3, 0, 1, 2]]
    return pos[i]*(1 - f) + pos[j]*f, turn, dof[i]*(1 - f) + dof[j]*f


def test_whole_body_tracking_reads_what_we_write(sway, tmp_path):
    write_csv(sway, tmp_path/"a.csv", "xyzw")
    pos, quat, dof = load_whole_body_tracking(tmp_path/"a.csv", 50, 25)
    ours = sway.resample(25.0).cut(0, len(pos))
    assert np.abs(pos - ours.root_pos).max() < 1e-6 and np.abs(dof - ours.dof_pos).max() < 1e-6 and 1 - np.abs((quat*ours.root_quat).sum(1)).min() < 1e-6


def load_protomotions(path):
    "How ProtoMotions' converter reads a CSV with --rot-format quat_wxyz: to xyzw, hemisphere kept."
    table = np.loadtxt(path, delimiter=",")
    quat = table[:, 3:7][:, [1, 2, 3, 0]]
    quat = quat/np.linalg.norm(quat, axis=1, keepdims=True)
    return table[:, :3], quat, table[:, 7:]


def test_protomotions_reads_what_we_write(sway, tmp_path):
    write_csv(sway, tmp_path/"a.csv", "wxyz")
    pos, quat, dof = load_protomotions(tmp_path/"a.csv")
    assert np.array_equal(pos, sway.root_pos) and np.allclose(quat, sway.root_quat[:, [1, 2, 3, 0]], atol=1e-12) and np.array_equal(dof, sway.dof_pos)


# ---- DeepMimic

@real
@pytest.mark.parametrize("name, speed", [("walk", 0.98), ("run", 3.56)])
def test_deepmimic_clips_are_people_who_walk_forward(name, speed):
    h = read_motion(DATA/f"mocap/deepmimic/humanoid3d_{name}.txt")
    pelvis, quat = h.joint("pelvis")
    forward, travel = quat_rotate(quat, np.array([0, 0, 1.])).mean(0), pelvis[-1] - pelvis[0]
    assert h.fps == 30 and abs(travel[0]/h.duration - speed) < 0.02 and abs(travel[1]) < 0.02 and forward[0] > 0.85 and 1.5 < h.height < 1.9
    low = h.joint_pos[:, [h.joint_names.index(f"{s}_foot") for s in ("left", "right")], 2].min(1)
    assert -0.06 < low.min() and np.median(low) < 0.06, "toes near the ground"
    up = lambda j: quat_rotate(h.joint(j)[1], np.array([0, 1., 0]))[:, 2].mean()
    assert up("head") > 0.8 and up("spine3") > 0.8
    for side, sign in (("left", 1), ("right", -1)):
        assert (sign*(h.joint(f"{side}_hip")[0] - pelvis)[:, 1]).mean() > 0.05, "left is left"
        arm, fore = (quat_rotate(h.joint(f"{side}_{j}")[1], np.array([sign, 0, 0.])) for j in ("shoulder", "elbow"))
        at = lambda j: h.joint(f"{side}_{j}")[0]
        for bone, a, b in ((arm, "shoulder", "elbow"), (fore, "elbow", "wrist")):
            d = at(b) - at(a)
            assert ((d/np.linalg.norm(d, axis=1, keepdims=True)*bone).sum(1) > 0.999).all(), "the arm's x axis points along it"


@real
def test_deepmimic_can_be_retargeted(biped):
    from motionbench.retarget.clip import retarget
    m = retarget(read_motion(DATA/"mocap/deepmimic/humanoid3d_walk.txt"), biped)
    assert m.n_frames == 39 and np.isfinite(m.dof_pos).all()


def test_deepmimic_errors(tmp_path):
    good = json.loads(json.dumps({"Loop": "wrap", "Frames": [deepmimic_frame()]*4}))
    def says(words, **changes):
        (tmp_path/"a.txt").write_text(json.dumps({**good, **changes}))
        refused(words, read_motion, tmp_path/"a.txt")
    says("has 43 numbers per frame", Frames=[deepmimic_frame()[:43]]*4)
    says("Frames has shape (0,)", Frames=[])
    uneven = [[d, *deepmimic_frame()[1:]] for d in (0.03, 0.02, 0.03, 0)]
    says("frames last 0.02 to 0.03 s", Frames=uneven)
    says("lasts -1.0 s", Frames=[[-1.0, *deepmimic_frame()[1:]]]*4)
    bad = deepmimic_frame()
    bad[8] = 3.0
    says(["quaternion of chest", "frame 1"], Frames=[deepmimic_frame(), bad, deepmimic_frame(), deepmimic_frame()])
    (tmp_path/"cut.txt").write_text(json.dumps(good)[:-20])
    refused("no readable JSON", read_motion, tmp_path/"cut.txt")
    (tmp_path/"list.txt").write_text("[1, 2]")
    refused("no known motion format", read_motion, tmp_path/"list.txt")
    refused("is no DeepMimic clip", read_motion, tmp_path/"list.txt", format="deepmimic")


def deepmimic_frame():
    "The rest pose."
    f = np.zeros(COLUMNS)
    f[[0, 2]] = 1/30, 0.85
    f[[4, 8, 12, 16, 21, 25, 30, 35, 39]] = 1
    return f.tolist()


# ---- AMP JSON

@real
def test_tienkung_files_are_told_apart():
    vis = read_motion(ROBOT_MOTION/"tienkung_amp/run_vis.txt")
    assert vis.fps == 30 and "rounded" in vis.source["fps_from"] and vis.source["quat_order"] == "euler XYZ" and len(vis.joint_names) == 20
    assert vis.root_ang_vel is None and "euler_rates" in vis.extra and "euler rates" in vis.source["velocity_frame"]
    assert np.abs(vis.dof_vel[1:] - np.diff(vis.dof_pos, axis=0)*30).max() < 0.02, "backward differences"
    expert = json.loads((ROBOT_MOTION/"tienkung_amp/run_amp_expert.txt").read_text())
    assert find_layout("expert", np.array(expert["Frames"])) == "expert"
    refused("no root pose", read_motion, ROBOT_MOTION/"tienkung_amp/run_amp_expert.txt")
    # the same 20 angles, grouped otherwise: both arms, then both legs, right before left
    own = {n: vis.dof_pos[:, i] for i, n in enumerate(vis.joint_names)}
    order = [n for part in (vis.joint_names[16:], vis.joint_names[12:16], vis.joint_names[6:12], vis.joint_names[:6]) for n in part]
    assert np.abs(np.array([own[n][0] for n in order]) - np.array(expert["Frames"])[0, :20]).max() < 1e-6


def load_amp_display(path):
    "How TienKung's loader for display splits a frame: position, Euler angles XYZ, joints, linear and angular velocity, joint velocities."
    clip = json.loads(Path(path).read_text())
    f, J = np.array(clip["Frames"]), (len(clip["Frames"][0]) - 12)//2
    return dict(dt=clip["FrameDuration"], pos=f[:, :3], quat=Rotation.from_euler("XYZ", f[:, 3:6]).as_quat()[:, [3, 0, 1, 2]], dof=f[:, 6:6 + J], lin=f[:, 6 + J:9 + J], ang=f[:, 9 + J:12 + J], vel=f[:, 12 + J:])


def test_legged_round_trip_and_the_consumers_loader(sway, biped, tmp_path):
    assert write_legged(sway, tmp_path/"a.txt") == ["joint names", "the robot's name"]
    back = read_motion(tmp_path/"a.txt", robot="biped")
    same(back, sway, 1e-9)
    assert np.allclose(back.root_ang_vel, angular_velocity(sway.root_quat, 50)) and back.source["velocity_frame"] == "world" and back.source["fps_from"] == "file"
    theirs, v = load_amp_display(tmp_path/"a.txt"), sway.velocities()
    assert theirs["dt"] == 1/50 and np.allclose(theirs["dof"], sway.dof_pos) and np.allclose(theirs["lin"], v.root_lin_vel) and np.allclose(theirs["vel"], v.dof_vel)
    assert 1 - np.abs((theirs["quat"]*sway.root_quat).sum(1)).min() < 1e-12
    refused(["names no joints for its 9 columns", "biped"], read_motion, tmp_path/"a.txt")


def amp_hardware(fps=50, rounded=True):
    "A written file in the 61 columns of AMP_for_hardware: xyzw, velocities in the base frame."
    t = np.arange(60)/fps
    turn = Rotation.from_euler("zyx", np.stack([2*t, .1*np.sin(3*t), .1*np.cos(3*t)], 1))
    quat = turn.as_quat()
    pos, dof, feet = np.stack([t, .2*np.sin(t), .3 + 0*t], 1), np.sin(3*t[:, None] + np.arange(12)), np.zeros((60, 12))
    lin, ang = np.gradient(pos, axis=0)*fps, angular_velocity(quat[:, [3, 0, 1, 2]], fps)
    frames = np.concatenate([pos, quat, dof, feet, turn.inv().apply(lin), turn.inv().apply(ang), np.gradient(dof, axis=0)*fps, feet], 1)
    return {"LoopMode": "Wrap", "FrameDuration": round(1/fps, 3) if rounded else 1/fps, "EnableCycleOffsetPosition": True, "EnableCycleOffsetRotation": True, "MotionWeight": 0.5, "Frames": frames.tolist()}, lin, ang


@pytest.mark.parametrize("fps", [50, 30, 60])
def test_amp_for_hardware(tmp_path, fps):
    clip, lin, ang = amp_hardware(fps)
    (tmp_path/"a1.txt").write_text(json.dumps(clip))
    m = read_motion(tmp_path/"a1.txt")
    assert m.fps == fps and m.joint_names[0] == "FR_hip_joint" and m.source["quat_order"] == "xyzw" and "body" in m.source["velocity_frame"]
    assert np.allclose(m.root_lin_vel, lin) and np.allclose(m.root_ang_vel, ang) and m.extra["feet_pos_base"].shape == (60, 12)
    assert ("rounded" in m.source["fps_from"]) == (fps != 50)


def test_legged_errors(tmp_path):
    clip, *_ = amp_hardware()
    def says(words, options={}, **changes):
        (tmp_path/"a.txt").write_text(json.dumps({**clip, **changes}))
        refused(words, read_motion, tmp_path/"a.txt", **options)
    noise = np.random.default_rng(0).normal(size=(60, 52)).tolist()
    says(["what its 52 columns mean", "layout="], Frames=noise)
    says(["what its 19 columns mean", "none has that width"], Frames=[[0.0]*19]*5)
    says("layout a1 does not have 52 columns", dict(layout="a1"), Frames=noise)
    says("FrameDuration is 0", FrameDuration=0)
    says("FrameDuration is not numeric", FrameDuration="fast")
    says("Frames", Frames=[[1, 2], [3]])


# ---- LeRobot

def test_lerobot_without_pyarrow_says_so(sway, tmp_path, monkeypatch):
    from motionbench.io import lerobot
    monkeypatch.setattr(lerobot, "find_spec", lambda name: None)
    refused("motionbench[lerobot]", write_lerobot, sway, tmp_path/"dataset")
    assert not (tmp_path/"dataset").exists()


needs_pyarrow = pytest.mark.skipif(find_spec("pyarrow") is None, reason="pyarrow is not installed")


@needs_pyarrow
def test_lerobot_round_trip(sway, tmp_path):
    assert write_lerobot([sway, sway.cut(10, 40)], tmp_path/"dataset") == []
    file = tmp_path/"dataset/data/chunk-000/file-000.parquet"
    both = read_motion(file)
    assert both.starts == (0, 90) and both.robot == "biped"
    same(both.split()[0], sway)
    same(read_lerobot(tmp_path/"dataset", episode=1), sway.cut(10, 40))
    refused("has no episode 7", read_lerobot, tmp_path/"dataset", episode=7)
    refused("exists already", write_lerobot, sway, tmp_path/"dataset")
    refused("no known motion format", read_motion, tmp_path/"dataset/meta/tasks.parquet")
    file.write_bytes(file.read_bytes()[:-3000])
    refused("parquet", read_lerobot, tmp_path/"dataset")


@needs_pyarrow
def test_lerobot_files_are_as_its_own_loader_wants_them(sway, tmp_path):
    "What LeRobotDataset v3 does first: info.json, the file of an episode from meta/episodes, rows from dataset_from_index to dataset_to_index, time stamps in step with fps."
    import pyarrow.parquet as pq
    write_lerobot([sway, sway.cut(10, 40)], tmp_path/"d")
    info = json.loads((tmp_path/"d/meta/info.json").read_text())
    episodes = pq.read_table(tmp_path/"d/meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert info["codebase_version"] == "v3.0" and info["total_frames"] == 120 and len(episodes) == info["total_episodes"] == 2
    for e in episodes:
        table = pq.read_table(tmp_path/"d"/info["data_path"].format(chunk_index=e["data/chunk_index"], file_index=e["data/file_index"])).to_pydict()
        rows = slice(e["dataset_from_index"], e["dataset_to_index"])
        assert set(table["episode_index"][rows]) == {e["episode_index"]} and table["frame_index"][rows] == list(range(e["length"])) and table["index"][rows] == list(range(rows.start, rows.stop))
        assert np.abs(np.diff(table["timestamp"][rows]) - 1/info["fps"]).max() < 1e-4
        assert set(table) == set(info["features"]) and len(table["observation.state"][0]) == info["features"]["observation.state"]["shape"][0]
    assert pq.read_table(tmp_path/"d/meta/tasks.parquet").to_pydict()["task_index"] == [0]


# ---- from format to format

def test_convert_says_what_is_lost(sway, tmp_path):
    v = sway.velocities()
    rich = Motion(sway.fps, sway.root_pos, sway.root_quat, sway.dof_pos, sway.joint_names, "biped", dof_vel=v.dof_vel, torque=sway.dof_pos, extra={"hands": np.zeros((90, 2))})
    write_npz(rich, tmp_path/"a.npz")
    done = convert_file(tmp_path/"a.npz", tmp_path/"a.csv", "unitree_csv", fps=25)
    assert isinstance(done, Converted) and done.lost == ("joint velocities", "torques", "joint names", "frame rate", "the robot's name", "hands") and done.fps == 25 and done.frames == 45
    assert "resampled from 50 to 25 fps" in str(done) and "left out: joint velocities" in str(done)
    assert convert_file(tmp_path/"a.npz", tmp_path/"b.npz", "npz").lost == ()
    same(read_npz(tmp_path/"b.npz"), rich, 1e-15)


def test_convert_uses_fps_for_files_that_have_none(sway, tmp_path):
    write_csv(sway, tmp_path/"a.csv", "wxyz")
    options = dict(robot="biped", quat_order="wxyz")
    assert convert_file(tmp_path/"a.csv", tmp_path/"a.npz", "npz", fps=50, **options).frames == 90
    assert convert_file(tmp_path/"a.csv", tmp_path/"a.npz", "npz", fps=25, source_fps=50, **options).frames == 45
    refused("--fps", convert_file, tmp_path/"a.csv", tmp_path/"a.npz", "npz", **options)


def test_convert_refuses_what_makes_no_sense(sway, tmp_path):
    write_npz(bundled_clips()["walk"], tmp_path/"human.npz")
    write_npz(sway, tmp_path/"robot.npz")
    refused(["human motion", "motionbench retarget"], convert_file, tmp_path/"human.npz", tmp_path/"a.pkl", "gmr")
    refused(["only read", "Can be written"], convert_file, tmp_path/"human.npz", tmp_path/"a.csv", "csv")
    refused("is no known format", convert_file, tmp_path/"human.npz", tmp_path/"a.pkl", "fbx")
    refused("also the output", convert_file, tmp_path/"robot.npz", tmp_path/"robot.npz", "npz")
    refused("has no option quat_order", convert_file, tmp_path/"robot.npz", tmp_path/"a.pkl", "gmr", quat_order="xyzw")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["human.npz", "robot.npz"]


@pytest.mark.parametrize("to", [f.name for f in all_formats() if f.write and "Motion" in f.kinds and f.name not in ("booster_gym", "lerobot", "parc", "grail", "grail-object", "poselib")])
def test_every_writers_file_is_read_back(sway, tmp_path, to):
    "A clip of the bundled robot into every format that any robot fits, and back."
    write_npz(sway, tmp_path/"a.npz")
    out = tmp_path/"out"
    more = {"rest_height": 0.5} if to == "locomujoco-v0" else {}
    convert_file(tmp_path/"a.npz", out, to, robot="biped", **more)
    back, f = read_as(out, fps=50, robot="biped", **more, format=to if to.endswith("_csv") else None)
    assert f.name == to
    order = [back.joint_names.index(n) for n in sway.joint_names]
    assert back.fps == 50 and len(back) == len(sway) and np.abs(back.dof_pos[:, order] - sway.dof_pos).max() < 1e-6 and np.abs(back.root_pos - sway.root_pos).max() < 1e-6
    assert 1 - np.abs((back.root_quat*sway.root_quat).sum(1)).min() < 1e-6


def test_several_clips_become_several_files_unless_the_format_keeps_them_apart(sway, tmp_path):
    write_npz(concatenate([sway, sway.cut(0, 30)], boundaries=True), tmp_path/"a.npz")
    done = convert_file(tmp_path/"a.npz", tmp_path/"a.pkl", "gmr")
    assert [len(read_motion(tmp_path/f"a_{i}.pkl")) for i in (0, 1)] == [90, 30] and "2 clips" in done.notes and not (tmp_path/"a.pkl").exists()
    convert_file(tmp_path/"a.npz", tmp_path/"b.npz", "locomujoco", robot="biped")
    assert read_motion(tmp_path/"b.npz").starts == (0, 90)


def test_lost_names_what_a_format_has_no_place_for(sway):
    assert lost(sway, ("fps", "joint_names", "robot")) == []
    several = concatenate([sway, sway], boundaries=True)
    assert lost(several, ()) == ["joint names", "frame rate", "the robot's name"]


@pytest.mark.parametrize("to", ["isaaclab", "poselib", "protomotions", "beyondmimic"])
def test_one_frame_has_no_velocity(tmp_path, to):
    "A single frame cannot be written where velocities belong: one clean error, no file."
    from motionbench.core.errors import InvalidMotion
    from motionbench.io.registry import format_named
    biped = load_robot("biped")
    with pytest.raises(InvalidMotion, match="at least two frames"): format_named(to).write(biped.motion(biped.model.qpos0[None], 30.0), tmp_path/"one", robot=biped)
    assert not list(tmp_path.iterdir())


def test_a_broken_rate_survives_its_inverse(tmp_path):
    from motionbench.io.legged import legged_rate
    for fps in (29.97, 23.976, 59.94, 30.0, 120.0): assert legged_rate(1/fps, 1/fps, 1.0) == (fps, "file")
