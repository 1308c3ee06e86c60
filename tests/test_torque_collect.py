"Torques from simulations: what is followed and how well, what holds the robot, policies from files, and the command."
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from motionbench.cli import main
from motionbench.core.errors import ConfigError, InvalidMotion, MotionFormatError, RobotError
from motionbench.core.gait import bundled_clips
from motionbench.core.motion import concatenate
from motionbench.core.robot import load_robot
from motionbench.io.native import write_npz
from motionbench.io.registry import read_motion
from motionbench.physics.environment import Environment, rest_state, rollout
from motionbench.physics.ground import torque_from_motion
from motionbench.physics.policies import load_policy
from motionbench.physics.simulation import State
from motionbench.physics.tracking import METHODS, assist_to, plan_of, start_frames, track
from motionbench.retarget.clip import retarget
from motionbench.torque.collect import collect_policy, ground_forces, sensor_columns, write_collection
from motionbench.torque.csv import read_torque_csv
from motionbench.torque.files import read_torque, torque_clip, write_torque
from motionbench.torque.loader import TorqueMotionLoader


@pytest.fixture(scope="module")
def biped(): return load_robot("biped")


@pytest.fixture(scope="module")
def walk(biped): return retarget(bundled_clips()["walk"], biped)


@pytest.fixture(scope="module")
def squat(biped): return retarget(bundled_clips()["squat"], biped)


@pytest.fixture(scope="module")
def runs(biped, walk): return {m: track(walk, biped, m)[0] for m in METHODS}


def facts(motion): return motion.source["torque"]


def weight(robot): return 9.81*robot.model.body_mass.sum()


def test_the_three_ways_say_what_held_the_robot(biped, runs):
    assert facts(runs["free"])["ended"] == "fallen" and "assist_wrench" not in runs["free"].extra and facts(runs["free"])["assisted"] is False
    assert {facts(runs[k])["ended"] for k in ("assisted", "fixed")} == {"end of the clip"} and all(facts(runs[k])["assisted"] for k in ("assisted", "fixed"))
    held = runs["fixed"].extra["assist_wrench"]
    assert np.allclose(held[20:, 2].mean(), weight(biped), rtol=0.01) and np.ptp(runs["fixed"].root_pos, axis=0).max() == 0
    assert 0 < facts(runs["assisted"])["assist_force_mean_pct"] < 30 and facts(runs["assisted"])["torque_correlation"] > 0.95


def test_momentum_balances(biped, walk, squat):
    "What a floating robot's momentum gains is what gravity, ground and assist gave it: an oracle that knows nothing of the controllers."
    motion = track(squat, biped, "assisted", watch=ground_forces)[0]
    clip = torque_from_motion(replace(motion, torque=None), biped, ground=None, cutoff=None)
    outside = motion.extra["assist_wrench"][:, :3] + motion.extra["watched"].sum(1)
    assert np.abs((clip.root_force - outside).mean(0)).max() < 0.01*weight(biped)          # root_force: what must act besides gravity
    assert np.corrcoef(clip.root_force[10:-10, 2], outside[10:-10, 2])[0, 1] > 0.9


def test_a_held_base_balances_inverse_dynamics(biped, runs):
    motion = runs["fixed"]
    asked = torque_from_motion(replace(motion, torque=None), biped, ground=None, cutoff=20.0)
    assert np.abs(asked.root_force - motion.extra["assist_wrench"][:, :3])[10:-10].mean() < 0.03*weight(biped)
    assert np.corrcoef(asked.torque[10:-10].ravel(), motion.torque[10:-10].ravel())[0, 1] > 0.95


def test_environments_and_episodes_are_clips_of_their_own(biped, walk, tmp_path):
    many = track(walk, biped, "assisted", num_envs=3, episodes=2)
    assert [(facts(m)["env"], facts(m)["episode"]) for m in many] == [(e, k) for e in range(3) for k in range(2)]
    starts = [facts(m)["start"] for m in many]
    assert len(set(starts)) == 6 and all(len(m) == len(walk) - 1 - s for m, s in zip(many, starts))
    alone = track(walk, biped, "assisted")[0]
    assert np.array_equal(alone.dof_pos, many[0].dof_pos) and np.array_equal(alone.extra["assist_wrench"], many[0].extra["assist_wrench"])
    rows = write_collection(many, biped, tmp_path, "walk")
    assert [r["clip"] for r in rows] == [f"walk_env{e}_ep{k}" for e in range(3) for k in range(2)]
    assert [len(read_torque(r["file"])) for r in rows] == [len(m) for m in many]


@given(st.integers(3, 500), st.integers(1, 40))
def test_starts_are_spread_and_leave_two_frames(frames, num):
    starts = start_frames(frames, num)
    assert starts[0] == 0 and starts.max() <= frames - 2 and (np.diff(starts) >= 0).all() and (num > frames - 2 or len(set(starts)) == num)


def test_an_assisted_rollout_without_its_wrench_is_not_saved(biped, runs, tmp_path):
    bare = replace(runs["assisted"], extra={})
    with pytest.raises(MotionFormatError, match="was assisted, but its assist_wrench"): torque_clip(bare, biped)
    with pytest.raises(MotionFormatError, match="assist_wrench"): write_torque(bare, tmp_path/"x.npz", biped)
    assert not list(tmp_path.iterdir())
    clip = torque_clip(runs["assisted"], biped)
    with pytest.raises(InvalidMotion, match="assist_wrench"): replace(clip, assist=None)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_the_assist_is_a_spring_and_a_damper(seed):
    rng = np.random.default_rng(seed)
    q = rng.normal(size=(2, 1, 4))
    a, b = (State(np.zeros((1, 1)), np.zeros((1, 1)), rng.normal(size=(1, 3)), x/np.linalg.norm(x), *rng.normal(size=(2, 1, 3))) for x in q)
    spring, back = assist_to(a, np.arange(1.0, 7), 2.0), assist_to(b, np.arange(1.0, 7), 2.0)
    assert np.allclose(spring(b), -back(a), atol=1e-9) and np.allclose(spring(a), 0)          # action is reaction
    flipped = replace(b, root_quat=-b.root_quat)
    assert np.allclose(spring(b), spring(flipped), atol=1e-9)


def test_what_cannot_be_followed(biped, walk):
    with pytest.raises(ConfigError, match="expected one of free, assisted, fixed"): track(walk, biped, "hung")
    with pytest.raises(ConfigError, match="num_envs is 0"): track(walk, biped, num_envs=0)
    with pytest.raises(InvalidMotion, match="as many different starting frames"): track(walk, biped, num_envs=100, episodes=9)
    with pytest.raises(InvalidMotion, match="at least three frames"): track(walk.cut(0, 2), biped)
    with pytest.raises(InvalidMotion, match="several clips"): plan_of(concatenate([walk, walk], boundaries=True), biped)


def test_sensors(biped):
    still = rollout(Environment(biped, 1), lambda seen: rest_state(biped).joint_pos, 100, watch=ground_forces)[0]
    c = sensor_columns(still, biped)
    assert abs(c["imu_acceleration_2"][-20:].mean() - 9.81) < 0.05 and abs(c["net_force_left_foot_2"][-1] + c["net_force_right_foot_2"][-1] - weight(biped)) < 0.01*weight(biped)
    assert np.allclose([c[f"imu_orientation_{k}"][0] for k in range(4)], still.root_quat[0])


# Policies from files

class Bend(torch.nn.Module):
    "Knees to one radian, whatever it sees, from 18 observations."
    def __init__(self, joints):
        super().__init__()
        self.out = torch.nn.Linear(18, len(joints))
        torch.nn.init.zeros_(self.out.weight)
        self.out.bias.data = torch.tensor([1.0 if n.endswith("knee_pitch") else 0.0 for n in joints])

    def forward(self, seen): return self.out(seen)


def onnx_file(path, net):
    "The linear layer as a graph."
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    h, f = onnx.helper, onnx.TensorProto.FLOAT
    weights = [onnx.numpy_helper.from_array(net.out.weight.detach().numpy(), "w"), onnx.numpy_helper.from_array(net.out.bias.detach().numpy(), "b")]
    graph = h.make_graph([h.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)], "g", [h.make_tensor_value_info("x", f, ["n", 18])], [h.make_tensor_value_info("y", f, ["n", 9])], weights)
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 13)], ir_version=8), str(path))


@pytest.mark.parametrize("kind", ["torchscript", "onnx", "skrl"])
def test_a_policy_is_the_same_from_every_file(biped, tmp_path, kind):
    net = Bend(biped.joint_names)
    if kind == "torchscript": torch.jit.save(torch.jit.script(net), file := str(tmp_path/"p.pt"))
    if kind == "onnx": onnx_file(file := tmp_path/"p.onnx", net)
    if kind == "skrl": torch.save({"policy": {"net.0.weight": net.out.weight.data, "net.0.bias": net.out.bias.data, "log_std_parameter": torch.zeros(9)}}, file := tmp_path/"agent_100.pt")
    policy = load_policy(file, biped, "fixed", activation="elu")
    motion = collect_policy(policy, biped, "fixed", steps=60)[0]
    knee = [biped.joint_names.index(f"{s}_knee_pitch") for s in ("left", "right")]
    assert np.abs(motion.dof_pos[-1, knee] - 1).max() < 0.1 and np.allclose(policy(np.zeros((3, 18)))[:, knee], 1)


def test_a_checkpoint_that_skrl_wrote(biped, tmp_path):
    "A real agent of skrl, its scaler having seen something, saved by skrl; our reading answers what the agent answers."
    import gymnasium
    from skrl.agents.torch.ppo import PPO, PPO_CFG
    from skrl.models.torch import DeterministicMixin, GaussianMixin, Model
    from skrl.resources.preprocessors.torch import RunningStandardScaler
    box = lambda n: gymnasium.spaces.Box(-np.inf, np.inf, (n,))
    net = lambda n: torch.nn.Sequential(torch.nn.Linear(18, 32), torch.nn.ELU(), torch.nn.Linear(32, 16), torch.nn.ELU(), torch.nn.Linear(16, n))

    class Actor(GaussianMixin, Model):
        def __init__(self):
            Model.__init__(self, observation_space=box(18), action_space=box(9), device="cpu")
            GaussianMixin.__init__(self)
            self.net, self.log_std_parameter = net(9), torch.nn.Parameter(torch.zeros(9))
        def compute(self, inputs, role=""): return self.net(inputs["observations"]), {"log_std": self.log_std_parameter}

    class Value(DeterministicMixin, Model):
        def __init__(self):
            Model.__init__(self, observation_space=box(18), action_space=box(9), device="cpu")
            DeterministicMixin.__init__(self)
            self.net = net(1)
        def compute(self, inputs, role=""): return self.net(inputs["observations"]), {}

    cfg = PPO_CFG(observation_preprocessor=RunningStandardScaler, observation_preprocessor_kwargs=dict(size=box(18), device="cpu"))
    agent = PPO(models=dict(policy=Actor(), value=Value()), memory=None, cfg=cfg, observation_space=box(18), action_space=box(9), device="cpu")
    agent.init()
    seen = 3*torch.randn(200, 18) + 1
    agent._observation_preprocessor(seen, train=True)
    agent.save(str(tmp_path/"agent.pt"))
    with torch.no_grad(): wanted = agent.policy.net(agent._observation_preprocessor(seen[:5]))
    wide = load_policy(tmp_path/"agent.pt", biped, "fixed", activation="elu", scale=1e-3)         # small, so that no joint range clips it
    middle = np.clip(1e-3*wanted.numpy(), *biped.joint_range.T)
    assert np.allclose(wide(seen[:5].numpy()), middle, atol=1e-8)
    with pytest.raises(ConfigError, match="say which function"): load_policy(tmp_path/"agent.pt", biped, "fixed")


def test_policies_that_do_not_fit(biped, tmp_path):
    torch.jit.save(torch.jit.script(Bend(biped.joint_names)), file := str(tmp_path/"p.pt"))
    with pytest.raises(ConfigError, match="does not take the 28 observations of biped with a floating base"): load_policy(file, biped)
    with pytest.raises(ConfigError, match="expected one of angles, range"): load_policy(file, biped, "fixed", "torques")
    torch.jit.save(torch.jit.script(Bend(biped.joint_names[:4])), file)
    with pytest.raises(ConfigError, match=r"answers \(1, 4\), expected \(1, 9\)"): load_policy(file, biped, "fixed")
    (tmp_path/"x.pt").write_bytes(b"not a policy")
    with pytest.raises(MotionFormatError, match="neither TorchScript nor a checkpoint"): load_policy(tmp_path/"x.pt", biped)
    torch.save({"value": {}}, tmp_path/"v.pt")
    with pytest.raises(MotionFormatError, match="no 'policy' in value"): load_policy(tmp_path/"v.pt", biped)
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    (tmp_path/"x.onnx").write_bytes(b"not a graph")
    with pytest.raises(MotionFormatError, match="is no ONNX graph"): load_policy(tmp_path/"x.onnx", biped)


def test_a_checkpoint_cannot_run_code(biped, tmp_path):
    class Evil:
        def __reduce__(self): return (open, (str(tmp_path/"owned"), "w"))
    torch.save({"policy": Evil()}, tmp_path/"evil.pt")
    with pytest.raises(MotionFormatError, match="neither TorchScript nor a checkpoint of weights"): load_policy(tmp_path/"evil.pt", biped)
    assert not (tmp_path/"owned").exists()


def test_actions_as_shares_of_the_range(biped, tmp_path):
    torch.jit.save(torch.jit.script(Bend(biped.joint_names)), file := str(tmp_path/"p.pt"))
    low, high = biped.joint_range.T
    policy = load_policy(file, biped, "fixed", "range", 0.25)
    knees = np.array([n.endswith("knee_pitch") for n in biped.joint_names])
    assert np.allclose(policy(np.zeros((1, 18)))[0], (low + high)/2 + 0.25*(high - low)*knees)


# The command

def collect(capsys, *words):
    "The command's exit code, JSON and errors."
    code = main(["torque", "collect", *map(str, words), "--json"])
    said = capsys.readouterr()
    return code, json.loads(said.out) if said.out else None, said.err


@pytest.fixture(scope="module")
def files(tmp_path_factory, walk, squat):
    folder = tmp_path_factory.mktemp("clips")
    for name, m in (("walk", walk), ("squat", squat)): write_npz(m, folder/f"{name}.npz")
    return folder


def test_the_flags_of_the_guide(biped, files, tmp_path, capsys):
    code, said, _ = collect(capsys, files/"walk.npz", "--task", "biped", "--save_torque_profiles", "--use_distance_termination", "--max_distance", 0.5, "--collect_sensors", "--num_envs", 2, "--csv", "--out", tmp_path)
    assert code == 0 and [r["ended"] for r in said["clips"]] == ["distance", "distance"] and len(list((tmp_path/"torque_profiles").iterdir())) == 2
    clip = read_torque(tmp_path/"torque_profiles/walk_env0_ep0.npz")
    assert not clip.absent and clip.meta["torque"] == "applied" and clip.meta["simulation"]["base"] == "floating" and not clip.meta["assisted"]
    assert np.linalg.norm(clip.body_pos[-1, 0, :2] - clip.body_pos[0, 0, :2]) < 0.55
    arrays = np.load(tmp_path/"torque_profiles/walk_env0_ep0.npz")
    assert {"fps", "dof_names", "body_names", "joint_torques", "dof_positions", "dof_velocities", "body_positions", "body_rotations", "body_linear_velocities", "body_angular_velocities", "time"} <= set(arrays)
    back = read_torque_csv(tmp_path/"biomechanics/walk_env0_ep0.csv", robot=biped)
    assert np.array_equal(back[""].torque, clip.torque)
    head = (tmp_path/"sensors/walk_env0_ep0.csv").read_text().split("\n")[0]
    assert "imu_acceleration_0" in head and "net_force_left_foot_2" in head
    loader = TorqueMotionLoader(sorted(map(str, (tmp_path/"torque_profiles").iterdir())))
    assert loader.has_torque_data and loader.sample_with_torques(5)[-1].shape == (5, 9)
    assert len(read_motion(tmp_path/"torque_profiles/walk_env0_ep0.npz", robot=biped)) == len(clip)


def test_a_folder_and_a_clip_that_fails(files, tmp_path, capsys, walk):
    folder = tmp_path/"clips"
    folder.mkdir()
    for f in files.iterdir(): (folder/f.name).write_bytes(f.read_bytes())
    write_npz(walk.cut(0, 2), folder/"short.npz")
    code, said, err = collect(capsys, folder, "--assisted", "--out", tmp_path/"out")
    assert code == 1 and {r["clip"] for r in said["clips"]} == {"walk_env0_ep0", "squat_env0_ep0"} and [f["file"] for f in said["failed"]] == [str(folder/"short.npz")]
    assert "at least three frames" in err and "short.npz" in err


def test_a_policy_by_command(biped, files, tmp_path, capsys):
    torch.jit.save(torch.jit.script(Bend(biped.joint_names)), str(tmp_path/"bend.pt"))
    code, said, _ = collect(capsys, files/"walk.npz", "--checkpoint", tmp_path/"bend.pt", "--task", "biped-fixed", "--num-envs", 2, "--episodes", 2, "--steps", 30, "--out", tmp_path, "--seed", 3)
    assert code == 0 and [r["clip"] for r in said["clips"]] == [f"bend_env{e}_ep{k}" for e in (0, 1) for k in (0, 1)] and {r["frames"] for r in said["clips"]} == {30}
    clips = [read_torque(r["file"]) for r in said["clips"]]
    assert clips[0].meta["method"] == "policy" and clips[0].assist is not None and not np.array_equal(clips[0].dof_pos, clips[1].dof_pos)


@pytest.mark.parametrize("words,message", [
    ([], "name motions to follow, or a policy"), (["CLIP", "--task", "Simon.tasks.locomotion.HumanoidTorqueTrainEnv"], "needs Isaac Sim"), (["CLIP", "--checkpoint", "p.pt"], "name it with --task"),
    (["CLIP", "--task", "biped-fixed", "--assisted"], "holds the base already"), (["CLIP", "--max_distance", "4"], "only together with --use-distance-termination"),
    (["CLIP", "--use_distance_termination", "--max_distance", "-4"], "expected a way in m"), (["--checkpoint", "nowhere.pt", "--task", "biped"], "nowhere.pt"), (["nowhere.npz"], "nowhere.npz"),
    (["CLIP", "--task", "bipod"], "bipod")])
def test_bad_calls(files, tmp_path, capsys, words, message):
    code, said, err = collect(capsys, *(str(files/"walk.npz") if w == "CLIP" else w for w in words), "--out", tmp_path)
    assert code == 2 and said is None and message in err and len(err.strip().splitlines()) == 1 and not list(tmp_path.iterdir())
