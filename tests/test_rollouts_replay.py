"Replays: the film has the right frames and the robot in all of them; folders resume, and a bad clip fails alone."
import json, os, re, shutil, signal, subprocess, sys
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from browser import CHROMIUM, Browser
from hypothesis import given, settings, strategies as st

from motionbench.cli.parser import Parser, with_hyphens
from motionbench.cli.rollouts_replay import add_rollouts_replay
from motionbench.core.errors import ConfigError, MotionFormatError
from motionbench.core.kinematics import forward_kinematics
from motionbench.core.robot import load_robot
from motionbench.core.rotation import quat_exp, yaw
from motionbench.io.grail import ObjectMotion, write_grail_object
from motionbench.io.native import write_npz
from motionbench.rollouts import offscreen, sheet, stage
from motionbench.rollouts.batch import replay_folder
from motionbench.rollouts.objects import make_prop, object_mesh
from motionbench.rollouts.offscreen import Offscreen, gl_backend, gl_context
from motionbench.rollouts.replay import middle_frame, parse_size, pictures, render_motion
from motionbench.rollouts.sheet import contact_sheet, sheets_of
from motionbench.rollouts.stage import FOV, build_stage, corner_points, follow, look
from motionbench.rollouts.takes import find_takes, read_take
from motionbench.rollouts.trajectory import Rollout, write_trajectory

try: gl_context(); NO_GL = ""
except ConfigError as e: NO_GL = str(e)
needs_gl = pytest.mark.skipif(bool(NO_GL), reason=NO_GL)
SMALL = (160, 120)


@pytest.fixture(scope="module")
def biped(): return load_robot("biped")


def stroll(robot, frames=12, fps=30.0):
    "It slides along a curve and swings all joints."
    t, low_high = np.arange(frames)/fps, np.clip(robot.joint_range, -1, 1)
    q = np.tile(robot.model.qpos0, (frames, 1))
    q[:, 0], q[:, 1], q[:, 3:7] = 2*t, np.sin(3*t), quat_exp(np.stack([0*t, 0*t, 1.5*t], -1))
    q[:, robot.tree.qpos_adr] = low_high.mean(1) + 0.4*np.ptp(low_high, axis=1)*np.sin(9*t[:, None] + np.arange(len(low_high)))
    return robot.motion(q, fps)


def film(path):
    "All pictures, and size, rate and codec."
    import av
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        shots = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(stream)])
        return shots, (stream.width, stream.height), stream.average_rate, stream.codec_context.name


def command(*words):
    parser = Parser(prog="motionbench rollouts")
    add_rollouts_replay(parser.add_subparsers(parser_class=Parser))
    args = parser.parse_args(with_hyphens([str(w) for w in words]))
    return args.function(args)


def make_shard(folder, robot, n=3):
    "Of three clips the last was terminated; the first has an object, the second an object of unknown shape and a table."
    from pxr import Usd, UsdGeom
    still = np.tile([1., 0, 0, 0], (12, 1))
    for i in range(n):
        m = stroll(robot)
        thing = {} if i > 1 else dict(object_pos=m.root_pos + [0, 0, 0.1], object_quat=m.root_quat)
        table = {} if i != 1 else dict(table_pos=np.tile([0.5, 0.8, 0.3], (12, 1)), table_quat=still)
        write_trajectory(Rollout(f"clip_{i}", i, m, **thing, **table), folder/f"clip_{i}.trajectory.pkl", robot)
    columns = dict(motion_keys=[f"clip_{i}" for i in range(n)], terminated=[i == 2 for i in range(n)], progress=[1.0 - 0.4*(i == 2) for i in range(n)], terminate_reason=["anchor_pos"*(i == 2) for i in range(n)], mpjpe_g=[40.0]*n)
    (folder/"metrics_eval.json").write_text(json.dumps({"eval/all_metrics_dict": columns}))
    (folder/"usd").mkdir()
    usd = Usd.Stage.CreateNew(str(folder/"usd/clip_0.usd"))
    UsdGeom.SetStageMetersPerUnit(usd, 1)
    UsdGeom.Cube.Define(usd, "/box").GetSizeAttr().Set(0.3)
    usd.Save()


@needs_gl
def test_film(biped, tmp_path):
    motion = stroll(biped, 15, 29.97)
    assert render_motion(motion, biped, tmp_path/"a/walk.mp4", size=(200, 160)) == {"frames": 15, "fps": 29.97, "notes": []}
    shots, size, rate, codec = film(tmp_path/"a/walk.mp4")
    assert shots.shape == (15, 160, 200, 3) and size == (200, 160) and rate == Fraction(2997, 100) and codec == "h264"
    assert np.abs(middle_frame(tmp_path/"a/walk.mp4").astype(int) - shots[7]).max() <= 3
    render_motion(motion, biped, tmp_path/"again.mp4", size=(200, 160))
    assert (tmp_path/"again.mp4").read_bytes() == (tmp_path/"a/walk.mp4").read_bytes()
    render_motion(stroll(biped, 31), biped, tmp_path/"slow.mp4", size=SMALL, fps=10)
    assert len(film(tmp_path/"slow.mp4")[0]) == 11
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["again.mp4", "slow.mp4", "walk.mp4"]


@needs_gl
@pytest.mark.parametrize("quality", ["flat", "full"])
def test_robot_is_in_every_picture_and_moves(biped, quality):
    motion = stroll(biped, 8)
    pos, quat = forward_kinematics(biped.tree, motion.root_pos, motion.root_quat, motion.dof_pos)
    parts = look(biped, quality)
    shots = [p.copy() for p in pictures(parts, pos, quat, yaw(motion.root_quat), motion.fps, size=SMALL, flat=quality == "flat")]
    lookat, *view = follow(corner_points(parts, pos, quat), yaw(motion.root_quat), motion.fps, SMALL[0]/SMALL[1])
    import mujoco
    empty = build_stage([], 0, size=SMALL, azimuth=view[1], flat=quality == "flat")
    data = mujoco.MjData(empty)
    with Offscreen(empty, quality == "flat") as screen:
        for t, shot in enumerate(shots):
            data.mocap_pos[0] = lookat[t]
            mujoco.mj_kinematics(empty, data)
            mujoco.mj_camlight(empty, data)
            robot = np.abs(shot.astype(int) - screen.draw(data, lookat[t], *view)).max(-1) > 40
            assert 0.01 < robot.mean() < 0.5
            y, x = np.nonzero(robot[:, :])
            assert y.min() > 0 and x.min() > 0 and x.max() < SMALL[0] - 1, f"frame {t} cuts the robot off"
    assert all(np.abs(a.astype(int) - b).max() > 60 for a, b in zip(shots, shots[1:]))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.3, 3), st.tuples(*[st.floats(-50, 50)]*3))
def test_camera_keeps_all_points_and_goes_where_they_go(seed, aspect, shift):
    rng = np.random.default_rng(seed)
    points = np.cumsum(rng.normal(size=(20, 1, 3)), 0)*0.1 + rng.normal(size=(20, 9, 3))*0.5
    lookat, distance, azimuth, elevation = follow(points, rng.normal(size=20), 30, aspect)
    back = -np.array([np.cos(azimuth)*np.cos(elevation), np.sin(azimuth)*np.cos(elevation), np.sin(elevation)])
    right = np.array([np.sin(azimuth), -np.cos(azimuth), 0])
    axes = np.stack([right, np.cross(back, right), back])
    seen = (points - lookat[:, None] - distance*back) @ axes.T
    assert (seen[..., 2] < 0).all()
    assert np.abs(seen[..., 1]/seen[..., 2]).max() <= np.tan(FOV/2) + 1e-9 and np.abs(seen[..., 0]/seen[..., 2]).max() <= aspect*np.tan(FOV/2) + 1e-9
    moved, far, *_ = follow(points + shift, rng.normal(size=20), 30, aspect)
    assert np.allclose(moved, lookat + shift) and np.isclose(far, distance)


@pytest.mark.parametrize("name", ["biped", "unitree_g1"])
def test_light_meshes_fill_the_same_boxes(name):
    try: robot = load_robot(name)
    except ValueError as e: pytest.skip(str(e))
    light, own = ({(p["body"], tuple(p["rgba"])): p for p in look(robot, quality)} for quality in ("flat", "full"))
    assert light.keys() == own.keys()
    for k, p in own.items():
        for end in ("min", "max"): assert np.abs(getattr(p["vertices"], end)(0) - getattr(light[k]["vertices"], end)(0)).max() < 0.005, k
    assert sum(len(p["faces"]) for p in light.values()) < 45000


def test_light_meshes_are_made_once(biped, tmp_path, monkeypatch):
    monkeypatch.setenv("MOTIONBENCH_CACHE", str(tmp_path))
    stage.look.cache_clear()
    first = look(biped)
    assert len(list(tmp_path.rglob("*.bin"))) == 1 and look(biped) is first
    stage.look.cache_clear()
    monkeypatch.setattr(stage, "light_parts", None)        # the next process reads them
    assert all(np.array_equal(a["vertices"], b["vertices"]) for a, b in zip(look(biped), first, strict=True))
    stage.look.cache_clear()
    with pytest.raises(ConfigError, match="flat, full"): look(biped, "best")


def test_shapes_of_objects(tmp_path):
    from pxr import Gf, Usd, UsdGeom
    usd = Usd.Stage.CreateNew(str(tmp_path/"a.usda"))
    UsdGeom.SetStageMetersPerUnit(usd, 0.01)
    top = UsdGeom.Xform.Define(usd, "/thing")
    top.AddTranslateOp().Set(Gf.Vec3d(0, 0, 100))
    mesh = UsdGeom.Mesh.Define(usd, "/thing/roof")
    mesh.CreatePointsAttr([(0, 0, 0), (20, 0, 0), (20, 20, 0), (0, 20, 0), (10, 10, 10)])
    mesh.CreateFaceVertexCountsAttr([4, 3, 3, 3, 3])
    mesh.CreateFaceVertexIndicesAttr([3, 2, 1, 0, 0, 1, 4, 1, 2, 4, 2, 3, 4, 3, 0, 4])
    mesh.CreateDisplayColorAttr([(0.1, 0.2, 0.3)])
    rod = UsdGeom.Cylinder.Define(usd, "/thing/rod")
    rod.GetAxisAttr().Set("X"), rod.GetRadiusAttr().Set(1), rod.GetHeightAttr().Set(60)
    UsdGeom.Imageable(UsdGeom.Cube.Define(usd, "/thing/hidden")).MakeInvisible()
    UsdGeom.Imageable(UsdGeom.Sphere.Define(usd, "/thing/guide")).CreatePurposeAttr("guide")
    usd.Save()
    v, f, rgba = object_mesh(tmp_path/"a.usda")
    assert np.allclose(v.min(0), [-0.3, -0.01, 0.99]) and np.allclose(v.max(0), [0.3, 0.2, 1.1]) and np.allclose(rgba, (0.1, 0.2, 0.3, 1))
    roof = v[f][(v[f].max(1)[:, 1] > 0.05)]         # six triangles around the volume of the pyramid
    assert len(roof) == 6 and np.isclose(np.einsum("ij,ij->", roof[:, 0] - [0.1, 0.1, 1], np.cross(roof[:, 1] - [0.1, 0.1, 1], roof[:, 2] - [0.1, 0.1, 1]))/6, 0.2*0.2*0.1/3)
    (tmp_path/"b.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 3 2\nf 1 2 4\nf 2 3 4\nf 3 1 4\n")
    assert len(object_mesh(tmp_path/"b.obj")[1]) == 4
    (tmp_path/"c.usd").write_text("no usd")
    with pytest.raises(MotionFormatError, match="no readable mesh"): object_mesh(tmp_path/"c.usd")
    told = make_prop("mug", np.zeros((1, 3)), np.array([[1., 0, 0, 0]]), tmp_path/"c.usd")
    assert "drawn as a box of 20 cm, c.usd is no readable mesh" in told.note and np.allclose(np.ptp(told.vertices, axis=0), 0.2)


@needs_gl
def test_a_box_is_labelled(biped, tmp_path):
    motion = stroll(biped, 4)
    pos, quat = forward_kinematics(biped.tree, motion.root_pos, motion.root_quat, motion.dof_pos)
    box = make_prop("mug", motion.root_pos + [0.3, 0.3, 0.2], motion.root_quat)
    shots = {note: next(pictures(look(biped), pos, quat, yaw(motion.root_quat), 30, [replace(box, note=note)], size=(320, 240))).astype(int) for note in ("", box.note)}
    written = np.abs(shots[box.note] - shots[""]).max(-1) > 60
    assert 40 < written.sum() < 2000 and np.ptp(np.nonzero(written)[0]) < 24        # one line of text
    with pytest.raises(MotionFormatError, match="mug has 3 frames, the motion has 4"): render_motion(motion, biped, tmp_path/"a.mp4", [replace(box, pos=box.pos[:3])])
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def shard(tmp_path_factory, biped):
    folder = tmp_path_factory.mktemp("phase1_shard_0")
    make_shard(folder, biped)
    return folder


@needs_gl
def test_shard(shard, tmp_path, capsys):
    where = ["replay", "--shard_dir", shard, "--traj_dir", shard, "--object_usd_dir", shard/"usd", "--output_dir", tmp_path/"vis", "--size", "160x120", "--skip_existing", "--headless"]
    assert command(*where, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["rendered"], told["skipped_existing"], told["failed"]) == (3, 0, 0)
    assert [(r["success"], r["reason"], r["progress"]) for r in told["clips"]] == [(True, "", 1.0), (True, "", 1.0), (False, "anchor_pos", 0.6)]
    assert [len(r["notes"]) for r in told["clips"]] == [0, 2, 0]        # object and table of the second one have no shape
    page = (tmp_path/"vis/index.html").read_text()
    assert page.count('data-grade="pass"') == 2 and page.count('data-grade="fail"') == 1 and "anchor pos" in page
    shot = middle_frame(tmp_path/"vis/clip_0.mp4").astype(int)
    assert ((shot[..., 0] - shot[..., 2]) > 80).mean() > 0.01           # the orange cube of the USD file
    before = {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in (tmp_path/"vis").glob("*.mp4")}
    (tmp_path/"vis/clip_1.mp4").unlink()
    (tmp_path/"vis/.clip_1.0123456789abcdef0123456789abcdef.mp4").write_bytes(b"half a film of a run that was killed")
    assert command(*where) == 0
    assert "1 films rendered, 2 were there, 0 failed" in capsys.readouterr().out
    after = {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in (tmp_path/"vis").glob("clip_*.mp4")}
    assert after["clip_0.mp4"] == before["clip_0.mp4"] and after["clip_2.mp4"] == before["clip_2.mp4"] and after["clip_1.mp4"][1] == before["clip_1.mp4"][1]


@needs_gl
def test_a_damaged_clip_fails_alone(shard, biped, tmp_path, capsys):
    import shutil
    shutil.copytree(shard, tmp_path/"s")
    (tmp_path/"s/clip_0.trajectory.pkl").write_bytes((shard/"clip_0.trajectory.pkl").read_bytes()[:300])
    (tmp_path/"s/clip_2.trajectory.pkl").unlink()
    assert command("replay", "--shard-dir", tmp_path/"s", "--output-dir", tmp_path/"vis", "--size", "160x120") == 1
    said = capsys.readouterr()
    assert "failed clip_0: " in said.err and "failed clip_2: " in said.err and "has no trajectory" in said.err and "1 films rendered" in said.out
    assert [p.name for p in (tmp_path/"vis").glob("*.mp4")] == ["clip_1.mp4"] and (tmp_path/"vis/index.html").read_text().count('data-grade="error"') == 2


@needs_gl
def test_workers_make_the_same_films(biped, tmp_path):
    for name in ("a", "b"): write_npz(stroll(biped, 4 if name == "a" else 6), tmp_path/f"in/deep/{name}.npz")
    (tmp_path/"in/notes.txt").write_text("no motion")
    films = {}
    for jobs in (1, 2):
        rows, skipped = replay_folder(tmp_path/"in", tmp_path/f"out{jobs}", n_jobs=jobs, size=SMALL)
        assert [r["clip"] for r in rows] == ["deep/a", "deep/b"] and not any(r.get("error") for r in rows) and len(skipped) == 1
        films[jobs] = {p.relative_to(tmp_path/f"out{jobs}").as_posix(): p.read_bytes() for p in (tmp_path/f"out{jobs}").rglob("*") if p.is_file()}
    assert films[1] == films[2] and {"deep/a.mp4", "deep/b.mp4", "index.html", "contact_sheet.png"} < set(films[1])


def test_export_folder(biped, tmp_path):
    from motionbench.io.phc import HANDS
    from motionbench.io.grail import write_grail
    motion = replace(stroll(biped), extra={HANDS[0]: np.zeros((12, 14))})
    write_grail(motion, tmp_path/"robot/lift.pkl", biped)
    write_grail_object(ObjectMotion(30.0, motion.root_pos, motion.root_quat), tmp_path/"objects/lift.pkl")
    takes, _ = find_takes(tmp_path)
    assert [(t.clip, t.kind, t.success) for t in takes] == [("lift", "export", None)]
    read, robot, props = read_take(takes[0], "biped")
    assert len(read) == 12 and robot.name == "biped" and [p.name for p in props] == ["object"] and np.allclose(props[0].pos, motion.root_pos, atol=1e-6)
    with pytest.raises(ConfigError, match="there are lift"): find_takes(tmp_path, include="throw*")
    with pytest.raises(MotionFormatError, match="no such folder"): find_takes(tmp_path/"nothing")


def test_no_opengl(monkeypatch, tmp_path):
    for k in ("MUJOCO_GL", "DISPLAY"): monkeypatch.delenv(k, raising=False)
    monkeypatch.setattr(offscreen, "find_library", lambda name: None)
    monkeypatch.setattr(offscreen.sys, "platform", "linux")
    with pytest.raises(ConfigError, match="neither EGL nor OSMesa is installed.*libegl1 libegl-mesa0 libgl1-mesa-dri.*libosmesa6"): gl_backend()
    with pytest.raises(ConfigError, match="apt-get install"): command("replay", "--shard-dir", tmp_path, "--output-dir", tmp_path/"vis")
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    with pytest.raises(ConfigError, match="osmesa.*not installed"): gl_backend()
    for size in ("641x480", "640", "640x480x3", "20x20", "8000x100"):
        with pytest.raises(ConfigError, match="for instance 640x480"): parse_size(size)


def test_contact_sheet(tmp_path, monkeypatch):
    from PIL import Image
    monkeypatch.setattr(sheet, "PER_SHEET", 3)
    rows = [dict(clip=f"c{i}", success=[True, False, None, True][i], reason="fell", progress=0.25) for i in range(4)]
    made = contact_sheet(tmp_path/"contact_sheet.png", rows, lambda row: np.full((60, 80, 3), 200, np.uint8))
    assert [p.name for p in made] == ["contact_sheet.png", "contact_sheet_2.png"]
    first = np.asarray(Image.open(made[0])).astype(int)
    assert first.shape == (2*224 + 8, 2*248 + 8, 3) and np.asarray(Image.open(made[1])).shape == (232, 256, 3)
    lines = [first[8 + 180, 8 + 120], first[8 + 180, 8 + 248 + 120]]
    assert lines[0][1] > lines[0][0] and lines[1][0] > lines[1][1]        # green for success, red for failure
    assert sheet.outcome(rows[1]) == "failed: fell, at 25 %" and sheet.outcome(rows[2]) == ""
    long = sheet.fitted("x"*200, SimpleNamespace(getlength=len), 21)
    assert len(long) <= 21 and long.startswith("x") and long.endswith("x") and "…" in long


# ---- page and sheet of a folder

def listed(out):
    "Of the page, in its order: keys and grades."
    return re.findall(r'data-name="([^"]*)".*?data-grade="([^"]*)"', (out/"index.html").read_text())


def everything(out): return {p.relative_to(out).as_posix(): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def second(shard, biped, tmp_path_factory):
    "A second shard: clip_10 is well, clip_9 damaged."
    folder = tmp_path_factory.mktemp("phase1_shard_1")
    for i in (9, 10): write_trajectory(Rollout(f"clip_{i}", i - 9, stroll(biped, 6)), folder/f"clip_{i}.trajectory.pkl", biped)
    (folder/"clip_9.trajectory.pkl").write_bytes(b"\x80\x04damaged")
    columns = dict(motion_keys=["clip_9", "clip_10"], terminated=[False, True], progress=[1.0, 0.5], terminate_reason=["", "fallen"])
    (folder/"metrics_eval.json").write_text(json.dumps({"eval/all_metrics_dict": columns}))
    return folder


@needs_gl
def test_shards_in_one_folder_are_all_on_the_page_whatever_their_order(shard, second, tmp_path):
    for name, order in (("ab", (shard, second)), ("ba", (second, shard)), ("again", (shard, second, shard, second))):
        for i, folder in enumerate(order): replay_folder(folder, tmp_path/name, size=SMALL, skip_existing=i > 1)
    assert everything(tmp_path/"ab") == everything(tmp_path/"ba") == everything(tmp_path/"again")
    assert listed(tmp_path/"ab") == [("clip_0", "pass"), ("clip_1", "pass"), ("clip_2", "fail"), ("clip_9", "error"), ("clip_10", "fail")]
    page = (tmp_path/"ab/index.html").read_text()
    assert f"Replays of {shard.name}, {second.name}" in page and "5 clips on biped" in page and re.search(f"{second.name}</td>.*?>2<.*?>1<.*?>1<.*?>1<.*?>0<", page)


@needs_gl
def test_a_page_shows_films_of_earlier_calls_and_names_what_is_missing(shard, biped, tmp_path, capsys):
    out = tmp_path/"vis"
    render_motion(stroll(biped, 5), biped, out/"by_hand.mp4", size=SMALL)
    (out/"half.mp4").write_bytes(b"no film")
    replay_folder(shard, out, include="clip_0,clip_1", size=SMALL)
    (out/"clip_0.mp4").unlink()
    shutil.copy(out/"contact_sheet.png", out/"contact_sheet_2.png")                # of an earlier call
    for name in ("mine", "2023"): (out/f"contact_sheet_{name}.png").write_bytes(b"mine")
    assert command("replay", "--shard-dir", shard, "--output-dir", out, "--include", "clip_2", "--size", "160x120", "--json") == 0
    assert json.loads(capsys.readouterr().out)["folder"] == dict(clips=5, not_rendered=["half"], missing=["clip_0"])
    assert listed(out) == [("by_hand", "n/a"), ("clip_0", "error"), ("clip_1", "pass"), ("clip_2", "fail"), ("half", "error")]
    page = (out/"index.html").read_text()
    assert "its film was removed" in page and "the film alone" in page and "no readable video" in page and (out/"view/clips/by_hand.jpg").is_file()
    assert [p.name for p in sheets_of(out/"contact_sheet.png")] == ["contact_sheet.png"] and sorted(p.name for p in out.glob("contact_sheet*")) == ["contact_sheet.png", "contact_sheet_2023.png", "contact_sheet_mine.png"]
    command("replay", "--shard-dir", shard, "--output-dir", out, "--include", "clip_0", "--size", "160x120", "--skip-existing")
    assert listed(out)[1] == ("clip_0", "pass")


@needs_gl
def test_an_interrupted_call_leaves_a_true_page(shard, tmp_path):
    def stop(row): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): replay_folder(shard, tmp_path/"vis", n_jobs=1, progress=stop, size=SMALL)
    assert listed(tmp_path/"vis") == [("clip_0", "pass"), ("clip_1", "error"), ("clip_2", "error")]
    page = (tmp_path/"vis/index.html").read_text()
    assert page.count("not rendered yet, or its call was stopped") == 4 and sheets_of(tmp_path/"vis/contact_sheet.png")         # in the card and its data
    replay_folder(shard, tmp_path/"vis", size=SMALL, skip_existing=True)
    replay_folder(shard, tmp_path/"whole", size=SMALL)
    assert everything(tmp_path/"vis") == everything(tmp_path/"whole")


KILLED = """
import os, signal, sys
from motionbench.rollouts import batch, gallery, replay
left, real = [1], MODULE.NAME
def dying(*args, **how):
    left[0] -= 1
    if left[0] < 0: os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **how)
MODULE.NAME = dying
batch.replay_folder(sys.argv[1], sys.argv[2], n_jobs=1, size=(160, 120))
"""


@needs_gl
@pytest.mark.skipif(os.name != "posix", reason="a process is killed")
@pytest.mark.parametrize("where", ["replay.render_motion", "replay.middle_frame", "gallery.put_clip"])
def test_a_killed_call_over_films_of_another_recording(shard, biped, tmp_path, where):
    "Killed in its second clip; what it does not finish is not taken for finished, though there are old films of all clips."
    out, old = tmp_path/"vis", tmp_path/"old"
    for i in range(3): write_npz(stroll(biped, 5), old/f"clip_{i}.npz")
    replay_folder(old, out, size=SMALL)
    module, name = where.split(".")
    done = subprocess.run([sys.executable, "-c", KILLED.replace("MODULE", module).replace("NAME", name), shard, out])
    assert done.returncode == -signal.SIGKILL
    grades = dict(listed(out))
    assert set(grades) == {"clip_0", "clip_1", "clip_2"} and not sheets_of(out/"contact_sheet.png")
    replay_folder(shard, out, include="clip_1", size=SMALL, skip_existing=True)
    assert dict(listed(out)) == dict(clip_0="pass", clip_1="pass", clip_2="n/a") and len(film(out/"clip_1.mp4")[0]) == 12
    rows, _ = replay_folder(shard, out, size=SMALL, skip_existing=True)
    assert [len(r["notes"]) for r in rows] == [1, 2, 1] and rows[2]["notes"] == ["the film shows another recording, of old"] and rows[2]["success"] is None and dict(listed(out))["clip_2"] == "n/a"
    replay_folder(shard, out, size=SMALL)
    replay_folder(shard, tmp_path/"whole", size=SMALL)
    assert everything(out) == everything(tmp_path/"whole")


@needs_gl
def test_a_call_with_nothing_to_render_leaves_a_true_page(shard, tmp_path, capsys):
    with pytest.raises(ConfigError, match="there are clip_0"): replay_folder(shard, tmp_path/"vis", include="x*")
    assert not (tmp_path/"vis").exists()
    empty = tmp_path/"phase1_shard_7"
    empty.mkdir()
    (empty/"metrics_eval.json").write_text(json.dumps({"eval/all_metrics_dict": dict(motion_keys=[], terminated=[], progress=[], terminate_reason=[])}))
    assert command("replay", "--shard-dir", empty, "--output-dir", tmp_path/"vis") == 0
    assert "0 films rendered, 0 were there, 0 failed" in capsys.readouterr().out and listed(tmp_path/"vis") == [] and "0 clips" in (tmp_path/"vis/index.html").read_text()
    replay_folder(shard, tmp_path/"vis", size=SMALL)
    before = everything(tmp_path/"vis")
    for call in (lambda: replay_folder(empty, tmp_path/"vis"), lambda: replay_folder(shard, tmp_path/"vis", include="x*"), lambda: replay_folder(tmp_path/"nothing", tmp_path/"vis")):
        (tmp_path/"vis/index.html").write_text("of a call that was killed")
        try: call()
        except (ConfigError, MotionFormatError) as e: assert "there are clip_0" in str(e) or "no such folder" in str(e)
        assert everything(tmp_path/"vis") == before


@needs_gl
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_page_in_a_browser(shard, tmp_path):
    replay_folder(shard, tmp_path/"vis", include="clip_2,clip_0", size=SMALL)
    with Browser() as browser:
        browser.open((tmp_path/"vis/index.html").as_uri(), "document.querySelectorAll('#cards li').length === 2")
        assert browser.run("document.querySelector('#cards li').dataset.name") == "clip_2"       # the failure first
        browser.run("document.querySelector('#cards li a').click()")
        browser.until("window.player?.clip")
        assert browser.run("document.querySelector('#detail .links a').getAttribute('href')") == "clip_2.mp4"
        assert browser.until("[...document.images].every(i => i.naturalWidth > 0)")
        assert [c for c in browser.complaints() if "GPU stall" not in c] == [] and browser.requests() == []
