"Torque AMP training: what the weight means, torques of one definition on both sides, a training that can be interrupted, and the command."
import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

import motionbench.torque.train as train_module
from motionbench.amp.agent import AmpConfig
from motionbench.amp.features import amp_features
from motionbench.amp.style import poses_from_windows, style_reward
from motionbench.amp.train import AmpRun, load_training, own_random, save_training, train_amp
from motionbench.cli.parser import Parser, with_hyphens
from motionbench.cli.torque_train import add_torque_train
from motionbench.core.errors import ConfigError, InvalidMotion, MotionFormatError
from motionbench.core.gait import walk
from motionbench.core.motion import Motion
from motionbench.core.robot import load_robot
from motionbench.physics.simulation import Simulation, motion_states
from motionbench.retarget.clip import retarget
from motionbench.torque.checkpoint import checkpoints
from motionbench.torque.collect import collect_tracking
from motionbench.torque.files import TorqueClip, write_torque
from motionbench.torque.reference import TorqueWindows, check_definitions, exploration_torque, other_definitions, torque_error
from motionbench.torque.streams import Replay, TorqueConfig, TorqueStream, adapted_weight
from motionbench.torque.train import TorqueEpisodes, TorqueRun, measure_torque, train_torque

SMALL = AmpConfig(steps=96, num_envs=4, max_steps=25, reference_poses=128, replay=300, update_steps=2, disc_batch=64, hidden=(32, 16))
JUDGED = ("disc_acc", "disc_acc_real", "disc_acc_fake", "d_real", "d_fake", "gradient_penalty", "style_reward")


def tracked(motion, robot, fps=50.0, **meta):
    "A clip followed by PD control in the simulation of the training, with what is needed to repeat it."
    m = motion.resample(fps)
    s, sim = motion_states(m, robot), Simulation(robot, base="fixed", fps=fps)
    sim.set_state(s[:1])
    states = [sim.advance(s.joint_pos[i:i + 1]) for i in range(1, len(s))]
    take = lambda k: np.concatenate([getattr(x, k) for x in states])
    return TorqueClip(fps, robot.joint_names, torque=take("torque"), dof_pos=take("joint_pos"), dof_vel=take("joint_vel"), assist=take("hold"),
                      meta=dict(torque="applied", assisted=True, robot=robot.name, simulation=sim.settings(), **meta)), s.joint_pos[1:]


@pytest.fixture(scope="module")
def biped(): return load_robot("biped")


@pytest.fixture(scope="module")
def walks(biped): return [tracked(retarget(walk(speed, 1.4), "biped"), biped) for speed in (1.2, 0.8)]


@pytest.fixture(scope="module")
def clips(walks): return [c for c, _ in walks]


@pytest.fixture(scope="module")
def trained(clips, biped): return train_torque(clips, biped, SMALL)


def same(a, b):
    "Whether two trainings have the same log and the same weights."
    return a.log == b.log and all(torch.equal(x, y) for k, part in a.parts().items() for x, y in zip(part.state_dict().values(), b.parts()[k].state_dict().values(), strict=True))


def test_weight_0_is_kinematic_amp_to_the_last_bit(clips, biped, trained):
    none, kinematic = train_torque(clips, biped, SMALL, TorqueConfig(0)), train_amp(TorqueWindows(clips, biped), biped, SMALL)
    assert none.log == kinematic.log and none.torque_discriminator is None and list(none.parts()) == ["policy", "discriminator"]
    assert all(torch.equal(x, y) for k in none.parts() for x, y in zip(none.parts()[k].state_dict().values(), kinematic.parts()[k].state_dict().values(), strict=True))
    assert not torch.equal(trained.policy.net[0].weight, none.policy.net[0].weight)


def test_the_torque_stream_shifts_no_random_number_of_the_kinematic_one(clips, biped):
    windows, runs = TorqueWindows(clips, biped), []
    for make in (lambda: AmpRun(windows, biped, SMALL), lambda: TorqueRun(windows, biped, SMALL, TorqueConfig(2.0))):
        with own_random(0):
            run = make()
            run.go()
            runs.append((run.agent.log, torch.get_rng_state(), run.generator.get_state(), run.episodes.env.rng.bit_generator.state))
    (a, *left), (b, *right) = runs
    assert torch.equal(left[0], right[0]) and torch.equal(left[1], right[1]) and left[2] == right[2]
    assert [a[0][k] for k in JUDGED] == [b[0][f"{k}_kinematic"] for k in JUDGED] and a[0]["pose_error"] == b[0]["pose_error"] and a[-1]["pose_error"] != b[-1]["pose_error"]


@pytest.mark.parametrize("weight", [0.5, 3.0])
def test_the_reward_is_the_weighted_mean_of_both(clips, biped, monkeypatch, weight):
    import skrl.agents.torch.amp.amp as skrl_amp
    got, plain = [], skrl_amp.compute_gae
    monkeypatch.setattr(skrl_amp, "compute_gae", lambda **k: got.append(k["rewards"].clone()) or plain(**k))
    with own_random(0):
        run = TorqueRun(TorqueWindows(clips, biped), biped, replace(SMALL, steps=16), TorqueConfig(weight))
        before, after, record = run.agent.memory, [], run.agent.record_transition
        run.agent.record_transition = lambda **k: after.append((k["infos"]["amp_obs"], k["infos"]["torque_obs"])) or record(**k)
        first, second = ([p.detach().clone() for p in net.parameters()] for net in (run.discriminator, run.stream.discriminator))
        run.go()
        with torch.no_grad():
            for net, old in ((run.discriminator, first), (run.stream.discriminator, second)): [p.copy_(v) for p, v in zip(net.parameters(), old)]
            kinematic, torques = (style_reward(net(torch.stack(x))) for net, x in zip((run.discriminator, run.stream.discriminator), zip(*after)))
    assert torch.allclose(got[0], (kinematic + weight*torques)/(1 + weight), atol=1e-5) and (kinematic - torques).abs().max() > 0.01
    assert abs(run.agent.log[0]["style_reward"] - got[0].mean().item()) < 1e-5


def test_a_factor_on_all_torques_is_no_weight(clips, biped):
    "Fixed statistics divide it out: the stream sees the same windows, which is why the weight stands before the reward."
    louder = [replace(c, torque=10*c.torque) for c in clips]
    a, b = (TorqueStream(SMALL, TorqueConfig(), TorqueWindows(x, biped), torch.zeros(9)).real(50) for x in (clips, louder))
    assert torch.allclose(a, b, atol=1e-3)


def test_the_reference_is_shown_as_an_exploring_policy_would_show_it(clips, biped):
    windows, n = TorqueWindows(clips, biped), 4000
    shake = exploration_torque(windows, biped, 0.05)
    assert torch.equal(shake, exploration_torque(windows, biped, 0.05)) and torch.allclose(exploration_torque(windows, biped, 0.005)*10, shake, rtol=0.35)
    calm, shaken = (TorqueStream(replace(SMALL, reference_poses=n), TorqueConfig(), windows, x) for x in (0*shake, shake))
    seen = shaken.scale.undo(shaken.real(n).unflatten(1, (2, 18)))
    assert torch.allclose(seen[..., 9:].var((0, 1)), calm.torques.var(0) + shake**2, rtol=0.15) and torch.allclose(seen[..., :9].std((0, 1)), calm.scale.std[:9], rtol=0.1)
    assert torch.equal(shaken.torques, calm.torques) and torch.equal(shaken.std, calm.std)      # measures are of the reference as it is


def test_windows_are_whole_frames_of_one_clip_in_the_robots_order(clips, biped):
    turned = TorqueClip(50, biped.joint_names[::-1], torque=clips[1].torque[:, ::-1], dof_pos=clips[1].dof_pos[:, ::-1])
    plain = TorqueClip(50, biped.joint_names, torque=clips[0].torque, dof_pos=clips[0].dof_pos)
    windows, seed = TorqueWindows([plain, turned], biped, frames=3), lambda: torch.Generator().manual_seed(1)
    kinematic, torques = windows.sample(400, seed()), windows.sample_torques(400, seed())
    rows = [np.concatenate([c.dof_pos, c.torque], 1).astype(np.float32) for c in (clips[0], clips[1])]
    for k, t in zip(kinematic.numpy(), torques.numpy()):
        clip, at = min(((c, np.abs(r - t[0]).max(1).argmin()) for c, r in enumerate(rows)), key=lambda x: np.abs(rows[x[0]][x[1]] - t[0]).max())
        assert np.array_equal(rows[clip][at:at + 3], t) and np.array_equal(k[:, :9], t[:, :9])
        assert np.allclose(k[:, 9:], (clips[clip].dof_pos[at + 1:at + 4] - clips[clip].dof_pos[at - 1:at + 2])*25, atol=1e-3)
    assert windows.columns[:2] == [f"joint_positions.{n}" for n in biped.joint_names[:2]]


def test_velocities_are_the_amp_features_of_the_same_motion(clips, biped):
    "Kinematic windows of a torque file against the features that `amp convert` makes."
    c, n = clips[0], len(clips[0])
    made = amp_features(Motion(50, np.zeros((n, 3)), np.tile([1., 0, 0, 0], (n, 1)), c.dof_pos, biped.joint_names, "biped"), biped, None)
    rows = torch.as_tensor(np.concatenate([made["joint_positions"], made["joint_velocities"]], 1), dtype=torch.float32)
    drawn = TorqueWindows([c], biped).sample(100, torch.Generator().manual_seed(0))
    assert max((rows - w[1]).abs().amax(1).min() for w in drawn) < 2e-3


def test_files_are_drawn_by_weight(clips, biped):
    marked = [TorqueClip(50, biped.joint_names, torque=np.full((n, 9), v), dof_pos=np.zeros((n, 9))) for n, v in ((52, 1.), (102, 2.), (52, 3.))]
    share = lambda weights: [(TorqueWindows(marked, biped, weights).sample_torques(6000, torch.Generator().manual_seed(0))[:, 0, 9] == v).float().mean().item() for v in (1, 2, 3)]
    assert np.allclose(share(None), [49/197, 99/197, 49/197], atol=0.03) and np.allclose(share([2, 0, 1]), [2/3, 0, 1/3], atol=0.03)
    with pytest.raises(ConfigError, match="weights are"): TorqueWindows(marked, biped, [1, 2])


def test_errors_of_the_reference(clips, biped):
    c = clips[0]
    with pytest.raises(ConfigError, match="only in the first"): TorqueWindows([c, TorqueClip(50, ["neck", *biped.joint_names[1:]], torque=c.torque, dof_pos=c.dof_pos, dof_vel=c.dof_vel, assist=c.assist)], biped)
    with pytest.raises(ConfigError, match=f"missing {biped.joint_names[0]}; extra neck"): TorqueWindows([TorqueClip(50, ["neck", *biped.joint_names[1:]], torque=c.torque, dof_pos=c.dof_pos)], biped)
    with pytest.raises(ConfigError, match="fps 50 and 60"): TorqueWindows([c, replace(c, fps=60)], biped)
    with pytest.raises(ConfigError, match="has no dof_positions"): TorqueWindows([TorqueClip(50, biped.joint_names, torque=c.torque)], biped)
    with pytest.raises(InvalidMotion, match="no clip has 4 frames"): TorqueWindows([TorqueClip(50, biped.joint_names, torque=c.torque[:3], dof_pos=c.dof_pos[:3])], biped)
    silent = TorqueClip(50, biped.joint_names, dof_pos=c.dof_pos)
    with pytest.raises(ConfigError, match="no joint_torques.*no-use-torque-amp"): train_torque([silent], biped, SMALL)
    assert train_torque([silent], biped, replace(SMALL, steps=16), TorqueConfig(0)).record["other_definitions"] == []


def test_a_fresh_episode_remembers_the_references_torques(clips, biped):
    windows = TorqueWindows(clips, biped)
    run = TorqueRun(windows, biped, SMALL, TorqueConfig())
    kinematic, torques = (f(128, torch.Generator().manual_seed(0)) for f in (windows.sample, windows.sample_torques))
    for i in range(4):
        start = (kinematic[:, -1, :9] - run.seen[i, :9]).abs().amax(1).argmin()
        assert torch.equal(run.episodes.torques[i], torques[start, :, 9:])
    assert np.isnan(run.episodes.env.torque).all()
    old = run.episodes.torques.clone()
    seen, *_ = run.episodes.step(run.seen[:, :9].numpy())
    w = run.episodes.torque_windows()
    assert torch.equal(w[:, 0, 9:], old[:, 1]) and np.allclose(w[:, 1, 9:], run.episodes.env.torque, atol=1e-5) and torch.equal(w[:, 1, :9], seen[:, :9]) and torch.isfinite(w).all()


def test_a_policy_that_does_what_the_collector_did_has_the_references_windows(walks, biped):
    "The same targets from the same state: torque windows of the episode are those of the file, frame by frame."
    clip, targets = walks[0]
    reference = np.concatenate([clip.dof_pos, clip.torque], 1)
    windows, first = TorqueWindows([clip], biped), 20
    poses = torch.tensor(clip.dof_pos[None, first - 2:first + 2], dtype=torch.float32)
    episodes = TorqueEpisodes(biped, windows_of(poses), torch.tensor(clip.torque[None, first - 1:first + 1], dtype=torch.float32), 50.0, replace(SMALL, num_envs=1))
    episodes.env.states = replace(episodes.env.states, joint_pos=clip.dof_pos[first:first + 1], joint_vel=clip.dof_vel[first:first + 1])
    episodes.reset(np.ones(1, bool))
    for t in range(first + 1, first + 21):
        episodes.step(targets[t:t + 1])
        assert np.allclose(episodes.torque_windows()[0], reference[t - 1:t + 1], atol=2e-3), t


def windows_of(poses):
    "Kinematic windows of consecutive poses at 50 fps."
    from motionbench.amp.style import windows_from_poses
    windows = windows_from_poses(poses, 50.0)
    assert torch.allclose(poses_from_windows(windows, 50.0), poses, atol=1e-4)
    return windows


def test_torques_of_another_definition_are_refused(clips, biped, tmp_path):
    mine = Simulation(biped, base="fixed", fps=50).settings()
    assert check_definitions(TorqueWindows(clips, biped), mine) == []
    other = lambda **k: [clips[0], replace(clips[1], meta={**clips[1].meta, "simulation": {**mine, **k}})]
    for k, v in dict(substeps=8, kp=[2*x for x in mine["kp"]], limit=[None]*9, base="floating").items():
        with pytest.raises(ConfigError, match=f"clip 1 .* another {k} .*torque collect --task biped-fixed.*--mixed-torques"): train_torque(other(**{k: v}), biped, SMALL)
    bare = write_torque(replace(clips[0], meta={"torque": "inverse dynamics", "assisted": True}), tmp_path/"id.npz")
    with pytest.raises(ConfigError, match="id.npz does not say.*inverse dynamics"): train_torque([bare], biped, SMALL)
    record = train_torque([bare, *other(substeps=8)[1:]], biped, replace(SMALL, steps=16), TorqueConfig(mixed_torques=True)).record
    assert record["mixed_torques"] and len(record["other_definitions"]) == 2 and "substeps" in record["other_definitions"][1] and record["files"][0]["torque"] == "inverse dynamics"
    for strange in ({"simulation": "mine"}, {"simulation": {}}, {"simulation": {"kp": ["a"]}}): assert len(other_definitions(TorqueWindows([replace(clips[0], meta={**clips[0].meta, **strange})], biped), mine)) == 1


def test_what_the_collector_writes_is_of_this_definition(biped, tmp_path):
    motion, = collect_tracking(retarget(walk(1.2, 1.0), "biped"), biped, method="fixed")
    file = write_torque(motion, tmp_path/"walk.npz", biped)
    assert train_torque([file], biped, replace(SMALL, steps=16)).record["other_definitions"] == []
    free, = collect_tracking(retarget(walk(1.2, 1.0), "biped"), biped, method="free")
    with pytest.raises(ConfigError, match="another base"): train_torque([write_torque(free, tmp_path/"free.npz", biped)], biped, SMALL)


def test_the_weight_follows_the_accuracies():
    assert abs(adapted_weight(1.0, 1.0, 0.6, 0.95) - (0.5/0.15)**0.05) < 1e-12 and abs(adapted_weight(1.0, 1.0, 0.95, 0.6) - (0.15/0.5)**0.05) < 1e-12
    assert abs(adapted_weight(1.0, 2.0, 0.3, 0.45) - 2**0.05) < 1e-12     # below chance counts as chance
    with pytest.raises(ConfigError, match="nothing to adapt"): TorqueConfig(0, adaptive_weight=True)
    for bad in (-1, np.nan, np.inf):
        with pytest.raises(ConfigError, match="torque_weight is"): TorqueConfig(bad)


@given(st.floats(0.01, 100), st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=200))
@settings(max_examples=50, deadline=None)
def test_the_weight_stays_within_its_bounds(base, accuracies):
    weight = base
    for k, t in accuracies:
        before, weight = weight, adapted_weight(weight, base, k, t)
        assert base/4.0001 <= weight <= base*4.0001 and (t >= k or weight <= max(before, base)*1.0001) and abs(np.log(weight/before)) <= 0.05*np.log(16.01)


def test_an_adaptive_training_logs_the_weight_it_used(clips, biped):
    log, weight = train_torque(clips, biped, SMALL, TorqueConfig(2.0, adaptive_weight=True)).log, 2.0
    for row in log:
        weight = adapted_weight(weight, 2.0, row["disc_acc_kinematic"], row["disc_acc_torque"])
        assert row["torque_weight"] == weight and abs(row["style_reward"] - (row["style_reward_kinematic"] + weight*row["style_reward_torque"])/(1 + weight)) < 1e-5
    assert len(log) == 6 and len({row["torque_weight"] for row in log}) > 1


def test_the_log_has_both_streams(trained):
    expected = {"steps", "learning_rate", "torque_weight", "style_reward", "pose_error", "velocity_ratio", "torque_error", *(f"{k}_{which}" for k in JUDGED for which in ("kinematic", "torque"))}
    assert all(set(row) == expected for row in trained.log) and np.isfinite([list(row.values()) for row in trained.log]).all()


def test_a_resumed_training_is_the_uninterrupted_one(clips, biped, tmp_path, monkeypatch):
    torque, how = TorqueConfig(1.0, adaptive_weight=True, checkpoint_every=2), dict(files=clips, robot=biped)
    whole = train_torque(config=SMALL, torque=torque, out=tmp_path/"whole", **how)
    save, calls = train_module.save_checkpoint, []
    def dies(run, *args, **about):
        calls.append(len(run.agent.log))
        if calls[-1] == 4: raise KeyboardInterrupt
        return save(run, *args, **about)
    monkeypatch.setattr(train_module, "save_checkpoint", dies)
    with pytest.raises(KeyboardInterrupt): train_torque(config=SMALL, torque=torque, out=tmp_path/"cut", **how)
    monkeypatch.setattr(train_module, "save_checkpoint", save)
    assert [p.stem for p in checkpoints(tmp_path/"cut/checkpoints")] == ["update_0000002"]
    with open(tmp_path/"cut/log.jsonl", "a") as f: f.write('{"steps": 80, "lear')       # and a line that was being written
    torch.manual_seed(99)
    resumed = train_torque(config=SMALL, torque=torque, out=tmp_path/"cut", resume=True, **how)
    assert same(whole, resumed) and len(resumed.log) == 6
    assert [(tmp_path/d/"log.jsonl").read_text() for d in ("whole", "cut")][0] == (tmp_path/"cut/log.jsonl").read_text() and json.loads((tmp_path/"cut/log.jsonl").read_text().splitlines()[-1]) == whole.log[-1]
    assert [p.read_bytes() for p in checkpoints(tmp_path/"whole/checkpoints")] == [p.read_bytes() for p in checkpoints(tmp_path/"cut/checkpoints")]
    assert {p.suffix for p in (tmp_path/"cut").rglob("*") if p.is_file()} == {".safetensors", ".jsonl"}
    longer = train_torque(config=replace(SMALL, steps=128), torque=torque, out=tmp_path/"cut", resume=True, **how)
    assert same(longer, train_torque(config=replace(SMALL, steps=128), torque=torque, **how))


def test_kinematic_trainings_resume_too(clips, biped, tmp_path):
    how = dict(files=clips, robot=biped, torque=TorqueConfig(0, checkpoint_every=2))
    train_torque(config=replace(SMALL, steps=32), out=tmp_path, **how)
    assert same(train_torque(config=SMALL, out=tmp_path, resume=True, **how), train_torque(config=SMALL, **how))


def test_what_cannot_be_resumed_is_said(clips, biped, tmp_path):
    short, how = replace(SMALL, steps=32), dict(robot=biped, torque=TorqueConfig(checkpoint_every=1), out=tmp_path/"run")
    with pytest.raises(ConfigError, match="no checkpoint to go on from"): train_torque(clips, config=short, **how, resume=True)
    train_torque(clips, config=short, **how)
    with pytest.raises(ConfigError, match="holds a training already, up to update_0000002"): train_torque(clips, config=short, **how)
    with pytest.raises(ConfigError, match="seed was 0, now 1"): train_torque(clips, config=replace(SMALL, seed=1), **how, resume=True)
    with pytest.raises(ConfigError, match="files was"): train_torque(clips[:1], config=SMALL, **how, resume=True)
    with pytest.raises(ConfigError, match="torque_weight was 1.0, now 2.0"): train_torque(clips, config=SMALL, **{**how, "torque": TorqueConfig(2.0)}, resume=True)
    newest = checkpoints(tmp_path/"run/checkpoints")[-1]
    (tmp_path/"run/log.jsonl").write_text("{}\n")
    with pytest.raises(MotionFormatError, match="of update 2, but the log has 1 lines"): train_torque(clips, config=SMALL, **how, resume=True)
    newest.write_bytes(newest.read_bytes()[:5000])
    with pytest.raises(MotionFormatError, match="is no checkpoint"): train_torque(clips, config=SMALL, **how, resume=True)


def test_remembered_windows_are_the_newest():
    replay = Replay(10, 1)
    replay.add(torch.arange(4.)[:, None])
    assert set(replay.sample(200, torch.Generator().manual_seed(0)).flatten().tolist()) == {0, 1, 2, 3}
    for k in range(1, 4): replay.add(torch.arange(4.)[:, None] + 4*k)
    replay.add(torch.arange(100, 113.)[:, None])
    assert set(replay.sample(400, torch.Generator().manual_seed(0)).flatten().tolist()) == set(range(103, 113))


def test_torque_error_is_a_distance_of_distributions():
    x = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0))*torch.tensor([1., 5, 20])
    std = x.std(0)
    assert torque_error(x[torch.randperm(4000)], x, std) < 1e-6 and abs(torque_error(x + std, x, std) - 1) < 0.01 and abs(torque_error(3*x, x, std) - 1.6) < 0.05


def test_measures_and_files(clips, biped, trained, tmp_path):
    windows = TorqueWindows(clips, biped)
    found = measure_torque(trained, windows, biped, skip=5, num_envs=3, steps=30)
    assert set(found) == {"pose_error", "velocity_ratio", "torque_error"} and found == measure_torque(trained, windows, biped, skip=5, num_envs=3, steps=30)
    back = load_training(save_training(tmp_path, trained))
    seen, about = np.random.default_rng(0).normal(size=(5, 18)), json.loads((tmp_path/"training.json").read_text())
    assert np.array_equal(back.policy.act(seen), trained.policy.act(seen)) and back.log == trained.log and about["torque"]["torque_weight"] == 1 and about["torque"]["files"][0]["assisted"]
    assert {p.name for p in tmp_path.iterdir()} == {"training.json", "weights.safetensors"}


def command(*words):
    "Run `motionbench torque train`."
    parser = Parser(prog="motionbench torque")
    add_torque_train(parser.add_subparsers(parser_class=Parser))
    args = parser.parse_args(with_hyphens(["train", *map(str, words)]))
    return args.function(args)


@pytest.fixture
def files(clips, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train_module, "measure_torque", lambda *a: measure_torque(*a, skip=5, num_envs=2, steps=20))
    return [str(write_torque(c, f"{n}.npz")) for n, c in zip("ab", clips)]


TINY = ("--num_envs", 4, "--max_iterations", 2)


def test_the_command_of_the_guide(files, tmp_path, capsys):
    guide = ("--task", "biped-fixed", "--use_torque_amp", "--torque_motion_files", *files, "--torque_weight", 1.0, *TINY, "--checkpoint_every", 1)
    assert command(*guide, "--weights", 2, 1, "--json") == 0
    said, about = json.loads(capsys.readouterr().out), json.loads((tmp_path/"torque_training/training.json").read_text())
    assert said["updates"] == 2 and said["untrained"]["torque_error"] > 0 and {"disc_acc_kinematic", "disc_acc_torque"} <= set(said)
    assert about["config"]["steps"] == 32 and [f["weight"] for f in about["torque"]["files"]] == [2, 1] and len((tmp_path/"torque_training/log.jsonl").read_text().splitlines()) == 2
    assert command("--resume", "--max-iterations", 3) == 0
    text = capsys.readouterr().out
    assert "3 updates, seed 0, torque weight 1" in text and "torque discriminator" in text
    with pytest.raises(ConfigError, match="torque_weight was 1.0, now 0.5"): command("--resume", "--torque-weight", 0.5)


def test_torques_are_used_where_there_are_some(files, clips, biped, capsys):
    write_torque(clips[0], "t.npz")
    np.savez("k.npz", fps=50, dof_names=np.array(biped.joint_names), dof_positions=clips[0].dof_pos)
    assert command("--torque-motion-files", "k.npz", "--task", "biped-fixed", *TINY, "--out", "k") == 0 and "without torques" in capsys.readouterr().out
    assert command("--torque-motion-files", files[0], *TINY, "--no-use-torque-amp", "--out", "n") == 0 and "without torques" in capsys.readouterr().out
    assert command("--torque-motion-files", files[0], *TINY, "--out", "t") == 0 and "torque weight 1" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="has no joint_torques"): command("--torque-motion-files", "k.npz", "--task", "biped-fixed", *TINY, "--use-torque-amp", "--out", "u")
    with pytest.raises(ConfigError, match="give one of them"): command("--torque-motion-files", files[0], "--no-use-torque-amp", "--torque-weight", 1)
    with pytest.raises(ConfigError, match="give one of them"): command("--torque-motion-files", files[0], "--use-torque-amp", "--torque-weight", 0)


@pytest.mark.parametrize("task, match", [("Simon.tasks.locomotion.HumanoidTorqueAMPEnv", "needs Isaac Sim.*biped-fixed"), ("Isaac-Humanoid-AMP-Walk-Direct-v0", "needs Isaac Sim"),
                                         ("biped-floating", "floating base is not trained"), ("biped", "expected the name of a robot and -fixed.*biped-fixed")])
def test_tasks_that_cannot_be_trained(files, task, match):
    with pytest.raises(ConfigError, match=match): command("--torque-motion-files", files[0], "--task", task)


def test_settings_of_skrl_and_of_the_command_line(files, tmp_path):
    (tmp_path/"skrl.yaml").write_text("agent:\n  class: AMP\n  rollouts: 8\n  learning_epochs: 2\n  mini_batches: 2\n  discount_factor: 0.9\n")
    assert command("--torque-motion-files", *files, *TINY, "--config", "skrl.yaml", "--seed", 3, "--adaptive_weight") == 0
    about = json.loads((tmp_path/"torque_training/training.json").read_text())
    assert (about["config"]["rollout_steps"], about["config"]["steps"], about["config"]["discount"], about["config"]["seed"], about["torque"]["adaptive_weight"]) == (8, 16, 0.9, 3, True)
    with pytest.raises(ConfigError, match="two names for one budget"): command("--torque-motion-files", files[0], "--steps", 32, "--max-iterations", 2)
    with pytest.raises(ConfigError, match="name the torque files"): command("--task", "biped-fixed")
