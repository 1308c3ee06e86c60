"Isaac Lab's humanoid clips, end to end: what is wrong with them is found, mended, and gone from bodies and torques."
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from motionbench.audit.lint import find_held
from motionbench.audit.poses import pose_errors
from motionbench.audit.repairs import repair
from motionbench.cli import main
from motionbench.core.robot import load_robot
from motionbench.io.native import read_npz
from motionbench.io.registry import read_motion
from motionbench.physics.ground import torque_from_motion

DATA = Path(os.environ.get("MOTIONBENCH_TEST_DATA", Path(__file__).parents[1]/"../shared/data"))/"robot_motion/isaaclab_amp"
MODEL = str(DATA/"amp_humanoid.xml")
NAMES = ("walk", "run")
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="no test data at $MOTIONBENCH_TEST_DATA")


@pytest.fixture(scope="module")
def humanoid(): return load_robot(MODEL)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    "A folder with copies of both files."
    folder = tmp_path_factory.mktemp("clips")
    for name in NAMES: shutil.copy(DATA/f"humanoid_{name}.npz", folder)
    return folder


@pytest.fixture(scope="module")
def mended(clips, tmp_path_factory):
    "The folder and the report of `audit --repair`."
    out = tmp_path_factory.mktemp("out")
    from contextlib import redirect_stdout
    from io import StringIO
    with redirect_stdout(StringIO()) as said: code = main(["audit", str(clips), "--robot", MODEL, "--repair", "--out", str(out), "--json"])
    assert code in (0, 1)
    return out, json.loads(said.getvalue())


def apart(robot, motion, rows=slice(None)):
    "Largest distance in m and angle in rad between stored bodies and forward kinematics, by frame."
    names, far, angle = pose_errors(robot, motion, motion.dof_pos[:, robot.joint_order(motion.joint_names)])
    assert len(names) == 15
    return far[rows].max(1), angle[rows].max(1)


def rounded_away(motion):
    "Frames in which the file says that a knee is exactly straight: its bodies are bent there by less than half a milliradian."
    return (motion.dof_pos[:, [n.endswith("knee") for n in motion.joint_names]] == 0).any(1)


def peak(motion, robot, cutoff, **more):
    "Largest joint torque in N·m, without the model's springs and dampers."
    return np.abs(torque_from_motion(motion, robot, cutoff=cutoff, include=("armature", "friction"), **more).torque).max()


@pytest.mark.parametrize("name", NAMES)
def test_inspect_names_both_defects(clips, capsys, name):
    assert main(["inspect", str(clips/f"humanoid_{name}.npz"), "--robot", MODEL, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    rows = {f["kind"]: f for f in found["findings"]}
    assert list(rows) == ["held_frames", "velocity_staircase", "exp_map"] and found["checked_against"] == "amp_humanoid"
    assert all(r["severity"] == "error" and r["repair"] for r in rows.values()) and "probably 30 fps" in rows["held_frames"]["finding"] and "rotation vectors" in rows["exp_map"]["finding"]
    assert main(["inspect", str(clips/f"humanoid_{name}.npz"), "--json"]) == 0                       # without a model nobody can tell vectors from angles
    assert {f["kind"] for f in json.loads(capsys.readouterr().out)["findings"]} == {"held_frames", "velocity_staircase"}


@pytest.mark.parametrize("name", NAMES)
def test_the_command_mends_both(mended, clips, humanoid, capsys, name):
    out, said = mended
    row = next(r for r in said["repaired"] if r["clip"] == f"humanoid_{name}")
    done = [d.split(":")[0] for d in row["done"]]
    assert done[:5] == ["held_frames", "exp_map", "velocities", "bodies", "ground"] and not {f["kind"] for f in row["left"]} & {"held_frames", "velocity_staircase", "exp_map", "body_pose"}
    motion = read_npz(out/f"repaired/humanoid_{name}.npz")
    assert main(["inspect", str(out/f"repaired/humanoid_{name}.npz"), "--robot", MODEL, "--json"]) == 0 and json.loads(capsys.readouterr().out)["findings"] == []
    raw = read_motion(clips/f"humanoid_{name}.npz", robot=humanoid)
    assert not find_held(motion).any() and len(motion) == len(raw) - 1
    assert apart(humanoid, raw)[0].max() > 0.05 and apart(humanoid, motion)[0].max() < 1e-6                     # in all frames: between the true ones bodies are computed, too
    if "contacts" not in done:                                       # feet were not moved, so in the true frames nothing but the height of the file's own bodies may have changed
        lift = (motion.body_pos[::2] - raw.body_pos[:-1:2])[~rounded_away(raw)[:-1:2]]
        assert np.ptp(lift, axis=(0, 1)).max() < 1e-5 and np.abs(lift[..., :2]).max() < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_the_file_s_own_bodies_are_those_of_the_hinge_angles(clips, humanoid, name):
    "In the true frames, where nothing is interpolated and no body is computed."
    raw = read_motion(clips/f"humanoid_{name}.npz", robot=humanoid)
    true = np.flatnonzero(~find_held(raw))
    assert true.tolist() == list(range(0, len(raw), 2))
    new, _ = repair(raw, robot=humanoid)                             # what lint finds, no more
    assert np.array_equal(new.body_pos[true], raw.body_pos[true])
    (far, angle), odd = apart(humanoid, new, true), rounded_away(raw)[true]
    assert far[~odd].max() < 1e-5 and angle[~odd].max() < 1e-4 and (far > 1e-5).sum() == 1 and far.max() < 3e-4 and apart(humanoid, raw, true)[0].max() > 0.05
    ball = [j for j, n in enumerate(raw.joint_names) if n.endswith(("_x", "_y", "_z"))]
    hinge = [j for j in range(28) if j not in ball]
    assert np.array_equal(new.dof_pos[true][:, hinge], raw.dof_pos[true][:, hinge]) and np.abs(new.dof_pos[true] - raw.dof_pos[true]).max() > 0.05


@pytest.mark.parametrize("name", NAMES)
def test_torques_of_held_frames_are_fiction(clips, humanoid, name):
    raw = read_motion(clips/f"humanoid_{name}.npz", robot=humanoid)
    new, _ = repair(raw, robot=humanoid)
    for more in ({}, {"ground": None}):
        before, after, smooth = peak(raw, humanoid, None, **more), peak(new, humanoid, None, **more), peak(new, humanoid, 6.0, **more)
        assert before > 4*after > 4*smooth and before > 1000 and after < 700 and 30 < smooth < 250
        assert smooth < peak(raw, humanoid, 6.0, **more)              # the filter alone does not mend it
    sprung = np.abs(torque_from_motion(new, humanoid).torque).max()
    assert sprung > 2*peak(new, humanoid, 6.0)                       # the model's springs of 600 N·m/rad are no motors


@pytest.mark.parametrize("name", NAMES)
def test_knee_velocities_no_longer_alternate(clips, humanoid, name):
    raw = read_motion(clips/f"humanoid_{name}.npz", robot=humanoid)
    new, knee = repair(raw, robot=humanoid)[0], raw.joint_names.index("right_knee")
    flicker = lambda v: np.abs(np.diff(v, 2)).mean()/np.abs(v).mean()
    assert flicker(raw.dof_vel[:, knee]) > 2 and flicker(new.dof_vel[:, knee]) < 0.5
    assert np.abs(raw.dof_vel[:, knee]).max() > 1.5*np.abs(new.dof_vel[:, knee]).max()
