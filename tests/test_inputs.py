"Human inputs beyond BVH: SMPL-H and SMPL, GVHMR, OMOMO with its object, C3D markers; on files that PyTorch, joblib, numpy, ezc3d and the c3d package wrote."
import gzip
import importlib
import random
import warnings

import numpy as np
import pytest

from motionbench.core.body import body_height, load_body
from motionbench.core.errors import MotionFormatError
from motionbench.core.gait import bundled_clips, turn, walk
from motionbench.core.motion import REST, SMPLX_JOINTS
from motionbench.core.rotation import quat_conj, quat_exp, quat_log, quat_mul, quat_rotate, quat_to_matrix
from motionbench.io.c3d_file import read_points, write_points
from motionbench.io.canonical import local_rotations
from motionbench.io.markers import ALIASES, NEEDED, human_from_markers, joint_errors, virtual_markers
from motionbench.io.native import read_npz, write_npz
from motionbench.io.registry import read_motion, sniff


def angle(a, b): return np.degrees(np.linalg.norm(quat_log(quat_mul(quat_conj(a), b)), axis=-1))


def refused(words, f, *args, **kw):
    with pytest.raises(MotionFormatError) as e: f(*args, **kw)
    for w in [words] if isinstance(words, str) else words: assert w in str(e.value), str(e.value)
    assert str(args[0]) in str(e.value) and "\n" not in str(e.value)


def standin_walk():
    "A walk of the stand-in's own size, so that its joints come back exactly."
    return walk(height=body_height(load_body()), fps=30)


def smplx_parts(human):
    "Rotation vectors `(T, 66)` and the translation `(T, 3)` of the stand-in, z up."
    return quat_log(local_rotations(human.joint_quat)).reshape(-1, 66), human.joint_pos[:, 0] - load_body().joints()[0]


# ---- SMPL-H and SMPL

@pytest.mark.parametrize("width,joints,kind", [(156, 52, "smplh"), (72, 24, "smpl")])
def test_smplh_and_smpl(tmp_path, width, joints, kind):
    "Both give the 22 joints; betas count only for a body of their own kind."
    clip = standin_walk()
    pose, trans = smplx_parts(clip)
    poses = np.concatenate([pose, np.full((len(pose), width - 66), 0.3)], 1)                # the hands do not matter
    np.savez(tmp_path/"clip.npz", poses=poses, trans=trans, betas=np.full(16, 3.0), gender="female", mocap_framerate=30.0, dmpls=np.zeros((len(pose), 8)))
    human = read_motion(tmp_path/"clip.npz")
    step = human.source["steps"][0]
    assert (step["kind"], step["body"], step["betas_used"], step["gender"]) == (kind, "stand-in", 0, "female")
    assert np.abs(human.joint_pos - clip.joint_pos).max() < 1e-5 and angle(human.joint_quat, clip.joint_quat).max() < 1e-4
    rest = 0.3*np.random.default_rng(0).normal(size=(60, 3))
    np.savez(tmp_path/f"{kind.upper()}_FEMALE.npz", J_regressor=np.eye(joints, 60), v_template=rest, shapedirs=np.full((60, 3, 16), 0.01),
             kintree_table=np.stack([np.maximum(np.arange(joints) - 1, 0) - (np.arange(joints) == 0), np.arange(joints)]))
    theirs = read_motion(tmp_path/"clip.npz", body_models=tmp_path)
    assert theirs.source["steps"][0]["body"] == "licensed model" and theirs.source["steps"][0]["betas_used"] == 16
    assert np.allclose(theirs.joint_pos[:, 0], trans + rest[0] + 16*3*0.01) and np.allclose(theirs.joint_quat, human.joint_quat)
    refused(f"no female {kind} body", read_motion, tmp_path/"clip.npz", body_models=tmp_path/"elsewhere")
    np.savez(tmp_path/"clip.npz", poses=poses[:, :70], trans=trans, mocap_framerate=30.0)
    refused(["poses has 70 columns", "156 (smplh)", "72 (smpl)"], read_motion, tmp_path/"clip.npz")


# ---- GVHMR

def gvhmr_file(path, clip, **change):
    import torch
    pose, _ = smplx_parts(clip)
    to_file = quat_conj(quat_mul(quat_exp(np.array([0, 0, 0.7])), REST))        # another heading, y up
    tensor = lambda x: torch.tensor(np.asarray(x), dtype=torch.float32)
    batch = dict(body_pose=tensor(pose[None, :, 3:]), global_orient=tensor(quat_log(quat_mul(to_file, clip.joint_quat[:, 0])))[None],
                 transl=tensor(quat_rotate(to_file, clip.joint_pos[:, 0]) - load_body().joints()[0] - [0, 3, 0])[None], betas=torch.zeros(1, len(pose), 10))
    params = {k: v[0] for k, v in batch.items()} | change                       # views, as in GVHMR
    torch.save({"smpl_params_global": {k: v for k, v in params.items() if v is not None}, "smpl_params_incam": {k: v[0] for k, v in batch.items()}, "K_fullimg": torch.eye(3).repeat(len(pose), 1, 1),
                "net_outputs": {"pred_smpl_params_global": batch, "static_conf_logits": torch.zeros(1, len(pose), 6, dtype=torch.float16), "mask": torch.ones(3, dtype=torch.bool)}}, path)
    return path


def test_gvhmr(tmp_path):
    clip = standin_walk()
    human = read_motion(gvhmr_file(tmp_path/"hmr4d_results.pt", clip))
    assert human.fps == 30 and human.source["fps_from"] == "format default" and human.source["lifted_m"] > 2.5
    back = quat_exp(np.array([0, 0, 0.7]))
    assert angle(quat_mul(back, human.joint_quat), clip.joint_quat).max() < 0.01
    moved = quat_rotate(back, human.joint_pos) - clip.joint_pos
    assert np.ptp(moved, axis=(0, 1)).max() < 1e-4, "one shift for the whole clip"
    assert abs(moved[0, 0, 2]) < 0.03, "its lowest sole is on the floor, as in the walk"
    assert np.isclose(read_motion(tmp_path/"hmr4d_results.pt", ground=False).joint_pos[0, 0, 2], clip.joint_pos[0, 0, 2] - 3, atol=1e-4)
    again = read_motion(tmp_path/"hmr4d_results.pt", fps=25)
    assert again.fps == 25 and again.source["fps_from"] == "option"
    one = gvhmr_file(tmp_path/"one.pt", clip, betas=None)
    assert np.allclose(read_motion(one).joint_pos, human.joint_pos)


def test_damaged_gvhmr(tmp_path):
    import torch
    path, clip = tmp_path/"r.pt", standin_walk()
    bad = torch.zeros(len(clip), 3)
    bad[7, 1] = torch.nan
    refused("transl is nan at frame 7", read_motion, gvhmr_file(path, clip, transl=bad))
    refused("body_pose has shape", read_motion, gvhmr_file(path, clip, body_pose=torch.zeros(len(clip), 69)))
    refused("body_pose is missing", read_motion, gvhmr_file(path, clip, body_pose=None))
    refused("betas is nan", read_motion, gvhmr_file(path, clip, betas=bad))
    torch.save({"smpl_params_global": 3}, path)
    refused("no smpl_params_global", read_motion, path)
    data = gvhmr_file(path, clip).read_bytes()
    for n in (100, len(data)//2, len(data) - 30):
        path.write_bytes(data[:n])
        with pytest.raises(MotionFormatError): read_motion(path)


# ---- OMOMO

def omomo_clip(clip, name, **change):
    pose, trans = smplx_parts(clip)
    T = len(clip)
    turned = quat_to_matrix(quat_exp(np.linspace(0, 2, T)[:, None]*[0, 0, 1.0]))
    return dict(seq_name=name, root_orient=pose[:, :3].astype(np.float32), pose_body=pose[:, 3:].astype(np.float32), trans=trans.astype(np.float32), betas=np.zeros((1, 16)), gender=np.array("male"),
                trans2joint=np.zeros(3), rest_offsets=np.zeros((24, 3)), obj_trans=clip.joint("left_wrist")[0][..., None], obj_rot=turned.astype(np.float32), obj_scale=np.full(T, 0.8),
                obj_com_pos=clip.joint("left_wrist")[0] + 0.1) | change


def test_omomo(tmp_path):
    joblib = importlib.import_module("joblib")
    clip = standin_walk()
    mop = dict(obj_bottom_trans=np.ones((len(clip), 3, 1)), obj_bottom_rot=np.tile(np.eye(3), (len(clip), 1, 1)), obj_bottom_scale=np.ones(len(clip)))
    joblib.dump({0: omomo_clip(clip, "sub3_largebox_003"), 1: omomo_clip(clip, "sub4_mop_001", **mop)}, tmp_path/"seq.p", compress=3)
    assert sniff(tmp_path/"seq.p").name == "omomo"
    refused(["holds 2 clips", "sub3_largebox_003, sub4_mop_001", "--name"], read_motion, tmp_path/"seq.p")
    refused("no clip 'sub5'", read_motion, tmp_path/"seq.p", name="sub5")
    human = read_motion(tmp_path/"seq.p", name="sub3_largebox_003")
    assert human.fps == 30 and human.source["fps_from"] == "format default" and human.extra["object_name"] == "largebox"
    assert np.abs(human.joint_pos - clip.joint_pos).max() < 1e-5 and np.allclose(human.extra["object_pos"], clip.joint("left_wrist")[0])
    part = human.cut(10, 40).resample(60)
    assert len(part.extra["object_quat"]) == len(part) and np.allclose(part.extra["object_pos"][::2], clip.joint("left_wrist")[0][10:40])
    turn_rate = angle(part.extra["object_quat"][:-1], part.extra["object_quat"][1:])
    assert np.ptp(turn_rate) < 0.01, "the object turns evenly, also between the frames"
    write_npz(human, tmp_path/"own.npz")
    assert np.allclose(read_npz(tmp_path/"own.npz").extra["object_quat"], human.extra["object_quat"])
    mopped = read_motion(tmp_path/"seq.p", name="sub4_mop_001")
    assert mopped.extra["object_bottom_pos"].shape == (len(clip), 3) and mopped.extra["object_name"] == "mop"


def test_omomo_of_one_clip(tmp_path):
    joblib, clip = importlib.import_module("joblib"), standin_walk()
    one = omomo_clip(clip, "sub3_largebox_003", obj_trans=clip.joint("left_wrist")[0], obj_scale=np.float32(0.8))
    np.savez(tmp_path/"one.npz", **one)
    human = read_motion(tmp_path/"one.npz")
    assert human.source["format"] == "omomo" and np.allclose(human.extra["object_scale"], 0.8) and human.extra["object_name"] == "largebox"
    plain = {k: v for k, v in one.items() if not k.startswith(("obj", "seq"))} | dict(mocap_frame_rate=60.0, gender="neutral")
    joblib.dump(plain, tmp_path/"plain.pkl")
    human = read_motion(tmp_path/"plain.pkl")
    assert human.fps == 60 and human.source["fps_from"] == "file" and not human.extra
    bad = one["obj_rot"].copy()
    bad[5] *= 1.5
    for change, words in ((dict(obj_rot=bad), "obj_rot is no rotation matrix at frame 5"), (dict(obj_trans=np.zeros((3, 3))), "obj_trans has shape (3, 3)"), (dict(obj_rot=None), "do not come together"),
                          (dict(pose_body=one["pose_body"][:, :60]), "pose_body has shape"), (dict(gender="robot"), "gender is 'robot'"), (dict(betas=np.full((1, 16), np.nan)), "betas is nan")):
        joblib.dump({k: v for k, v in (one | change).items() if v is not None}, tmp_path/"bad.pkl")
        refused(words, read_motion, tmp_path/"bad.pkl")


# ---- C3D

def with_ezc3d(path, labels, track, rate, unit="mm", screen=None):
    c = pytest.importorskip("ezc3d").c3d()
    point = c["parameters"]["POINT"]
    point["RATE"]["value"], point["LABELS"]["value"], point["UNITS"]["value"] = [rate], tuple(labels), (unit,)
    if screen:
        for k, v in zip(("X_SCREEN", "Y_SCREEN"), screen): c.add_parameter("POINT", k, [v])
    c["data"]["points"] = np.concatenate([track.transpose(2, 1, 0), np.ones((1, *track.shape[1::-1]))])
    c.write(str(path))


def with_c3d(path, labels, track, rate, unit="mm", scale=-1.0):
    c3d = pytest.importorskip("c3d")
    w = c3d.Writer(point_rate=rate, point_scale=scale, point_units=unit.ljust(4))
    w.set_point_labels(list(labels))
    for row in track: w.add_frames([(np.concatenate([np.nan_to_num(row), np.where(np.isnan(row[:, :1]), -1, 0), np.zeros((len(row), 1))], 1), np.zeros((0, 0)))])
    with open(path, "wb") as f: w.write(f)


@pytest.fixture(scope="module")
def marked():
    clip = walk(fps=100).cut(0, 150)
    return clip, virtual_markers(clip)


@pytest.mark.parametrize("writer,unit", [("ezc3d", "mm"), ("ezc3d", "m"), ("c3d", "mm"), ("c3d integers", "mm"), ("own", "mm")])
@pytest.mark.parametrize("up", ["y", "z"])
def test_c3d(tmp_path, marked, writer, unit, up):
    clip, marks = marked
    track = (1000 if unit == "mm" else 1)*np.stack(list(marks.values()), 1)[..., [1, 2, 0] if up == "y" else [0, 1, 2]]
    track[30:36, list(marks).index("LKNE")] = np.nan
    write = {"ezc3d": with_ezc3d, "c3d": with_c3d, "c3d integers": lambda *a: with_c3d(*a, scale=0.1), "own": write_points}[writer]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write(tmp_path/"walk.c3d", [f"Anna:{m}" for m in marks], track, 100.0, unit)
    assert sniff(tmp_path/"walk.c3d").name == "c3d"
    human = read_motion(tmp_path/"walk.c3d")
    assert human.fps == 100 and human.source["up"] == f"+{up}" and np.isclose(human.source["unit_m"], 0.001 if unit == "mm" else 1) and human.source["filled"]["bridged"] == {"LKNE": 6}
    e = joint_errors(human, clip)
    assert max(d for d, _ in e.values()) < 0.03 and abs(human.height - clip.height) < 0.06
    assert max(a for j, (_, a) in e.items() if not j.endswith("foot")) < np.radians(8)


def test_ours_is_read_by_others(tmp_path, marked):
    "ezc3d and the c3d package find in our file what we put into it."
    labels, track = list(marked[1]), 1000*np.stack(list(marked[1].values()), 1)
    track[3, 2] = np.nan
    write_points(tmp_path/"a.c3d", labels, track, 120, "mm", ("+X", "+Z"))
    theirs = pytest.importorskip("ezc3d").c3d(str(tmp_path/"a.c3d"))
    assert np.allclose(theirs["data"]["points"][:3].transpose(2, 1, 0), track, atol=1e-3, equal_nan=True) and theirs["header"]["points"]["frame_rate"] == 120
    assert theirs["parameters"]["POINT"]["LABELS"]["value"] == labels and theirs["parameters"]["POINT"]["Y_SCREEN"]["value"] == ["+Z"]
    with open(tmp_path/"a.c3d", "rb") as f, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        r = pytest.importorskip("c3d").Reader(f)
        rows = [p for _, p, _ in r.read_frames()]
        assert [s.strip() for s in r.point_labels] == labels and r.point_rate == 120 and np.allclose(np.array(rows)[10:, :, :3], track[10:], atol=1e-3) and rows[3][2, 3] == -1


@pytest.mark.parametrize("machine", [85, 86])
def test_other_machines(tmp_path, machine):
    "The same file as a VAX or a big-endian machine would have written it."
    track = np.random.default_rng(0).normal(size=(20, 3, 3)).astype(np.float32)
    write_points(tmp_path/"a.c3d", ["A", "B", "C"], track, 50, "m")
    b = bytearray((tmp_path/"a.c3d").read_bytes())
    vax = lambda x: (np.asarray(x, "<f4")*4).view("<u4").view("<u2").reshape(-1, 2)[:, ::-1].tobytes()
    real, short = (vax, lambda x: x.tobytes()) if machine == 85 else (lambda x: x.astype(">f4").tobytes(), lambda x: x.byteswap().tobytes())
    def change(at, count, kind): b[at:at + count*int(kind[1])] = (real if kind == "f4" else short)(np.frombuffer(bytes(b), f"<{kind}", count, at))
    start = 512*(int.from_bytes(b[16:18], "little") - 1)
    for at, count, kind in ((2, 5, "u2"), (12, 1, "f4"), (16, 2, "u2"), (20, 1, "f4"), (start, 20*3*4, "f4")): change(at, count, kind)
    b[515], at = machine, 516
    while b[at]:
        n, group = b[at], int.from_bytes(b[at + 1:at + 2], "little", signed=True)
        step = int.from_bytes(b[at + 2 + n:at + 4 + n], "little")
        change(at + 2 + n, 1, "u2")
        if group > 0 and b[at + 4 + n] in (2, 4): change(at + 6 + n, 1, {2: "i2", 4: "f4"}[b[at + 4 + n]])
        at += 2 + n + step
    (tmp_path/"b.c3d").write_bytes(b)
    points = read_points(tmp_path/"b.c3d")
    assert points.rate == 50 and points.labels == ("A", "B", "C") and points.unit == "m" and np.allclose(points.pos, track, rtol=1e-6)


@pytest.mark.parametrize("height", [1.5, 1.9])
def test_markers_of_other_people(height):
    "Small and tall, and with every marker 1 cm out of place."
    clip = turn(height=height)
    rng, marks = np.random.default_rng(1), virtual_markers(clip)
    e = joint_errors(human_from_markers(marks, clip.fps), clip)
    assert max(d for d, _ in e.values()) < 0.04
    chest, pelvis = (quat_to_matrix(clip.joint(j)[1]) for j in ("spine3", "pelvis"))
    shifted = {m: x + (chest if m in ("C7", "T10", "CLAV", "STRN") else pelvis)@(0.01*rng.choice([-1, 1], 3)/3**.5) for m, x in marks.items()}
    e = joint_errors(human_from_markers(shifted, clip.fps), clip)
    assert max(d for d, _ in e.values()) < 0.055 and np.median([a for _, a in e.values()]) < np.radians(10)


def test_cmu_names_one_sacrum_and_two_people(tmp_path, marked):
    clip, marks = marked
    cmu = {v: k for k, v in ALIASES.items() if k.endswith("WT")}
    there = dict(marks) | dict(RBAC=marks["C7"], LMT5=marks["LTOE"])
    labels, track = [cmu.get(m, m) for m in there], np.stack(list(there.values()), 1)
    write_points(tmp_path/"cmu.c3d", labels, track, 100, "m")
    assert np.allclose(read_motion(tmp_path/"cmu.c3d").joint_pos, human_from_markers(marks, 100).joint_pos, atol=1e-5)
    sacrum = {k: v for k, v in marks.items() if not k.endswith("PSI")} | dict(SACR=(marks["LPSI"] + marks["RPSI"])/2)
    write_points(tmp_path/"sacr.c3d", list(sacrum), np.stack(list(sacrum.values()), 1), 100, "m")
    assert np.allclose(read_motion(tmp_path/"sacr.c3d").joint_pos, human_from_markers(marks, 100).joint_pos, atol=1e-5)
    both = np.concatenate([track, track + [0, 2.0, 0]], 1)
    write_points(tmp_path/"two.c3d", [f"{w}:{m}" for w in ("Anna", "Ben") for m in labels], both, 100, "m")
    refused(["Anna, Ben", "subject="], read_motion, tmp_path/"two.c3d")
    ben = read_motion(tmp_path/"two.c3d", subject="Ben", frames="10:60")
    assert len(ben) == 50 and abs((ben.joint("pelvis")[0] - clip.joint("pelvis")[0][10:60])[:, 1].mean() - 2) < 0.02
    refused("no subject 'Carl'", read_motion, tmp_path/"two.c3d", subject="Carl")


def test_lost_markers(tmp_path, marked):
    clip, marks = marked
    names, path = list(marks), tmp_path/"a.c3d"
    def write(**lost):
        track = 1000*np.stack(list(marks.values()), 1)
        for m, (a, b) in lost.items(): track[a:b, names.index(m)] = np.nan
        write_points(path, names, track, 100)
        return path
    human = read_motion(write(LASI=(20, 110), LTOE=(0, 12), RANK=(140, 150), LFIN=(0, 150)))
    assert len(human) == 128 and human.source["filled"]["stiff"] == {"LASI": 90} and human.source["first_frame"] == 12 and human.source["markers"] == len(marks) - 1
    assert max(d for d, _ in joint_errors(human, clip.cut(12, 140)).values()) < 0.03
    refused("LKNE is lost from frame 40 to 79 (0.40 s)", read_motion, write(LKNE=(40, 80)))
    assert len(read_motion(path, gap=0.5)) == 150 and len(read_motion(path, frames="80:")) == 70
    refused("LKNE are never seen", read_motion, write(LKNE=(0, 150)))
    refused("LKNE is seen in 5 of 150", read_motion, write(LKNE=(0, 145), RKNE=(145, 150)))


def test_what_a_c3d_does_not_say(tmp_path, marked):
    marks, path = marked[1], tmp_path/"a.c3d"
    track = np.stack(list(marks.values()), 1)
    write_points(path, list(marks), track, 0, "")
    refused(["frame rate", "fps="], read_motion, path)
    assert read_motion(path, fps=50).fps == 50
    write_points(path, list(marks), track, 100, "mm")
    refused(["POINT:UNITS is mm", "say unit="], read_motion, path)
    assert read_motion(path, unit="m").source["unit_m"] == 1
    refused("unit is 'km'", read_motion, path, unit="km")
    write_points(path, list(marks), track, 100, "m", ("+X", "+Y"))
    refused(["Y_SCREEN says that +y", 'up="z"'], read_motion, path)
    assert read_motion(path, up="z").source["up"] == "+z"
    refused("up is 'sky'", read_motion, path, up="sky")
    write_points(path, list(marks)[1:], track[:, 1:], 100, "m")
    refused([list(marks)[0], "are missing"], read_motion, path)
    refused("frames is '9'", read_motion, path := _rewritten(path, marks, track), frames="9")
    refused("gap is 'long'", read_motion, path, gap="long")
    assert read_motion(path, height=1.8).height == 1.8


def _rewritten(path, marks, track):
    write_points(path, list(marks), track, 100, "m")
    return path


def test_hostile_c3d(tmp_path, marked):
    "No damage ends in anything but one clear error, or a clip."
    path, labels = tmp_path/"a.c3d", list(marked[1])
    write_points(path, labels, 1000*np.stack(list(marked[1].values()), 1)[:20], 100)
    good, fine = path.read_bytes(), 0
    for seed in range(250):
        r = random.Random(seed)
        b = bytearray(good[:r.randrange(len(good))] if seed % 5 == 0 else good)
        for _ in range(r.choice([1, 2, 8]) if seed % 5 else 0): b[r.randrange(1600)] = r.randrange(256)
        path.write_bytes(b)
        try: fine += len(read_motion(path, format="c3d")) > 0
        except MotionFormatError as e: assert str(path) in str(e)
    assert fine > 20
    path.write_bytes(gzip.compress(good))
    with pytest.raises(MotionFormatError): read_motion(path)


def test_needed_markers_are_in_both_sets():
    pig = set("LFHD RFHD LBHD RBHD C7 T10 CLAV STRN RBAK LSHO LUPA LELB LFRM LWRA LWRB LFIN RSHO RUPA RELB RFRM RWRA RWRB RFIN LASI RASI LPSI RPSI LTHI LKNE LTIB LANK LHEE LTOE RTHI RKNE RTIB RANK RHEE RTOE".split())
    assert len(pig) == 39 and set(NEEDED) <= pig


def test_every_clip_through_markers():
    for name, clip in bundled_clips().items():
        e = joint_errors(human_from_markers(virtual_markers(clip), clip.fps), clip)
        assert max(d for d, _ in e.values()) < 0.03 and set(e) == set(SMPLX_JOINTS), name
