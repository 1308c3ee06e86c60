"What a policy of `rollouts evaluate` sees: the robot, and the motion if its file says so."
import json
from argparse import ArgumentParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.spatial.transform import Rotation

from motionbench.cli.parser import with_hyphens
from motionbench.cli.rollouts_export import add_rollouts_evaluate
from motionbench.core.errors import ConfigError, MotionFormatError
from motionbench.core.gait import bundled_clips
from motionbench.core.robot import load_robot
from motionbench.io.native import write_npz
from motionbench.physics.simulation import State, motion_states
from motionbench.retarget.clip import retarget
from motionbench.rollouts.evaluate import evaluate_motion, follow
from motionbench.rollouts.policy import Tracker, layout_of, load_follower, observe_tracking
from motionbench.rollouts.shard import read_shard

torch = pytest.importorskip("torch")
J = 9
NEXT = slice(2*J + 10, 3*J + 10)             # the motion's joint angles, one frame ahead


@pytest.fixture(scope="module")
def biped(): return load_robot("biped")


@pytest.fixture(scope="module")
def walk(biped): return retarget(bundled_clips()["walk"], biped).cut(0, 60)


def save(net, path, **said):
    torch.jit.save(torch.jit.script(net), str(path), _extra_files=said)
    return path


def linear(columns, start):
    "Asks for nine of the columns that it sees, as they are."
    net = torch.nn.Linear(columns, J, bias=False)
    net.weight.data = torch.zeros(J, columns)
    net.weight.data[range(J), range(start, start + J)] = 1
    return net


def state(rng, n=3):
    draw = lambda *shape: rng.normal(size=(n, *shape))
    return State(draw(J), draw(J), draw(3), Rotation.random(n, rng=rng).as_quat(scalar_first=True), draw(3), draw(3))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_the_columns_are_what_the_page_says(seed):
    "Against scipy's rotations, row by row."
    rng = np.random.default_rng(seed)
    now, want = state(rng), state(rng)
    seen = observe_tracking(now, want)
    for i in range(3):
        root, goal = (Rotation.from_quat(s.root_quat[i], scalar_first=True) for s in (now, want))
        ahead = root.apply([1, 0, 0])
        level = Rotation.from_rotvec([0, 0, -np.arctan2(ahead[1], ahead[0])])
        between = (root.inv()*goal).as_matrix()
        expected = np.concatenate([now.joint_pos[i], now.joint_vel[i], now.root_pos[i, 2:], root.inv().apply([0, 0, 1]), level.apply(now.root_lin_vel[i]), level.apply(now.root_ang_vel[i]), want.joint_pos[i], want.joint_vel[i],
                                   level.apply(want.root_pos[i] - now.root_pos[i]), between[:, 0], between[:, 1], level.apply(want.root_lin_vel[i]), level.apply(want.root_ang_vel[i])])
        np.testing.assert_allclose(seen[i], expected, atol=1e-9)


def test_a_tracking_policy_sees_the_next_frame_of_its_motion(biped, walk, tmp_path):
    tracker, seen = load_follower(save(linear(4*J + 25, NEXT.start), tmp_path/"a.pt", observations="tracking"), biped), []
    act = tracker.act
    tracker.act = lambda x: [seen.append(x[0].copy()), act(x)][1]
    run, _, _ = follow(walk, biped, "free", tracker)
    states = motion_states(walk, biped)
    assert len(seen) == len(run) - 1 > 10
    for k, x in enumerate(seen):
        np.testing.assert_allclose(x[NEXT], states.joint_pos[k + 1], atol=1e-6)
        np.testing.assert_allclose(x[:J], run.dof_pos[k], atol=1e-6)
        assert np.linalg.norm(x[4*J + 10:4*J + 13]) == pytest.approx(np.linalg.norm(states.root_pos[k + 1] - run.root_pos[k]), abs=1e-5)


def test_to_see_the_motion_is_what_makes_a_policy_follow_it(biped, tmp_path):
    "One that asks for the next frame's joint angles waves to the end; one that holds its own, and sees no motion, falls."
    sees = load_follower(save(linear(4*J + 25, NEXT.start), tmp_path/"a.pt", observations="tracking"), biped)
    blind = load_follower(save(linear(2*J + 10, 0), tmp_path/"b.pt"), biped)
    wave, squat = (retarget(bundled_clips()[k], biped) for k in ("wave", "squat"))
    assert [evaluate_motion("wave", 0, wave, biped, policy=p)[1]["terminated"] for p in (sees, blind)] == [False, True]
    runs = [follow(squat, biped, "free", p)[0] for p in (sees, blind)]
    error = [np.abs(r.dof_pos[:25] - squat.dof_pos[:25]).mean() for r in runs]
    assert error[0] < error[1]/4
    assert evaluate_motion("squat", 0, squat, biped, policy=sees)[1] == evaluate_motion("squat", 0, squat, biped, policy=sees)[1]


def evaluate(*words):
    parser = ArgumentParser()
    add_rollouts_evaluate(parser.add_subparsers())
    args = parser.parse_args(with_hyphens(["evaluate", *map(str, words), "--json"]))
    return args.function(args)


def test_the_command_evaluates_a_tracking_policy_and_refuses_what_it_does_not_know(biped, walk, tmp_path, capsys):
    for name, motion in (("walk", walk), ("stand", retarget(bundled_clips()["stand"], biped).cut(0, 40))): write_npz(motion, tmp_path/f"lib/{name}.npz")
    where = [tmp_path/"lib", "--out", tmp_path/"exp", "--task", "biped", "--checkpoint"]
    assert evaluate(*where, save(linear(4*J + 25, NEXT.start), tmp_path/"model_step_000100.pt", observations="tracking")) == 0
    done = json.loads(capsys.readouterr().out)
    assert "step_100/" in done["folder"] and "stand" not in done["failed"]
    assert read_shard(done["folder"]).checkpoint["checkpoint"] == "model_step_000100.pt"
    for name, net, said, error in (("unnamed.pt", linear(4*J + 25, 0), {}, "its file names none"), ("foreign.pt", linear(99, 0), {}, "does not take the 28 observations"),
                                   ("foreign_named.pt", linear(99, 0), dict(observations="tracking"), "does not take the 61 observations of biped and its motion"),
                                   ("other.pt", linear(99, 0), dict(observations="isaaclab"), "'isaaclab'; a policy here takes one of state, tracking")):
        with pytest.raises(ConfigError, match=error): evaluate(*where[:2], tmp_path/"none", *where[3:], save(net, tmp_path/name, **said))
    assert not list((tmp_path/"none").rglob("*.pkl")) and not list((tmp_path/"none").rglob("*.json"))
    (tmp_path/"junk.pt").write_bytes(b"junk")
    for name, error in (("junk.pt", "neither TorchScript nor a checkpoint"), ("nowhere.pt", "no such file")):
        with pytest.raises(MotionFormatError, match=error): load_follower(tmp_path/name, biped)


def test_actions_of_a_tracking_policy(biped, tmp_path):
    file, (low, high) = save(linear(4*J + 25, NEXT.start), tmp_path/"a.pt", observations="tracking"), biped.joint_range.T
    seen = np.zeros((2, 4*J + 25))
    seen[0, NEXT], seen[1, NEXT] = 0.1, 9
    assert np.allclose(Tracker(file, biped, scale=0.5).targets(seen), [np.clip(np.full(J, 0.05), low, high), np.clip(np.full(J, 4.5), low, high)])
    assert np.allclose(Tracker(file, biped, actions="range", scale=0.5).targets(seen), [(low + high)/2 + 0.05*(high - low), high])
    with pytest.raises(ConfigError, match="expected one of angles, range"): Tracker(file, biped, actions="torques")
    with pytest.raises(ConfigError, match=r"answers \(1, 4\), expected \(1, 9\)"): load_follower(save(torch.nn.Linear(4*J + 25, 4), tmp_path/"b.pt", observations="tracking"), biped)


def test_an_onnx_graph_names_its_observations_too(biped, tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper, numpy_helper
    weight = linear(4*J + 25, NEXT.start).weight.detach().numpy().T
    graph = helper.make_graph([helper.make_node("MatMul", ["seen", "w"], ["targets"])], "policy", [helper.make_tensor_value_info("seen", TensorProto.FLOAT, ["n", 4*J + 25])],
                              [helper.make_tensor_value_info("targets", TensorProto.FLOAT, ["n", J])], [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path/"unnamed.onnx")
    with pytest.raises(ConfigError, match="its file names none"): load_follower(tmp_path/"unnamed.onnx", biped)
    helper.set_model_props(model, {"observations": "tracking"})
    onnx.save(model, tmp_path/"named.onnx")
    assert layout_of(tmp_path/"named.onnx") == "tracking"
    seen = np.random.default_rng(0).normal(size=(3, 4*J + 25))
    assert np.allclose(load_follower(tmp_path/"named.onnx", biped).targets(seen), np.clip(seen[:, NEXT], *biped.joint_range.T), atol=1e-6)
