"AMP training: the discriminator's lessons against autograd and by hand, the same estimator on both sides, and a training that repeats."
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from motionbench.amp.agent import AmpConfig, Policy, StyleEpisodes, make_agent
from motionbench.amp.features import amp_features
from motionbench.amp.style import (Scale, discriminator_loss, judge, mlp, pose_error, poses_from_windows, r1_penalty, reference_scale, reference_windows, style_reward,
                                   velocity_ratio, windows_from_poses)
from motionbench.amp.train import load_training, measure_policy, policy_rollout, save_training, train_amp
from motionbench.amp.windows import AmpWindows
from motionbench.core.errors import ConfigError, MotionFormatError
from motionbench.core.gait import bundled_clips
from motionbench.core.motion import Motion
from motionbench.core.robot import load_robot
from motionbench.retarget.clip import retarget

SMALL = AmpConfig(steps=96, num_envs=8, reference_poses=256)
LOGGED = {"steps", "learning_rate", "disc_acc", "disc_acc_real", "disc_acc_fake", "d_real", "d_fake", "gradient_penalty", "style_reward", "pose_error", "velocity_ratio"}


class Fake:
    "Windows of consecutive rows of one array, columns named and in any order."
    def __init__(self, rows, columns, k=2, fps=50.0):
        self.rows, self.columns, self.k, self.fps = torch.as_tensor(rows, dtype=torch.float32), columns, k, fps

    def sample(self, n, generator=None): return self.rows[torch.randint(len(self.rows) - self.k + 1, (n, 1), generator=generator) + torch.arange(self.k)]


@pytest.fixture(scope="module")
def biped(): return load_robot("biped")


@pytest.fixture(scope="module")
def walk(biped):
    clip = amp_features(retarget(bundled_clips()["walk"], "biped"), biped, 50.0)
    names = [f"{b}.{j}" for b in ("joint_positions", "joint_velocities") for j in clip.layout.joint_names]
    return Fake(np.concatenate([clip["joint_positions"], clip["joint_velocities"]], 1), names)


@pytest.fixture(scope="module")
def trained(walk, biped): return train_amp(walk, biped, SMALL)


def test_r1_is_the_squared_gradient_and_only_of_real_windows():
    torch.manual_seed(0)
    net, real, fake = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)), torch.randn(7, 3), torch.randn(5, 3)
    w, b, v = net[0].weight, net[0].bias, net[2].weight
    by_hand = torch.stack([((v*(1 - torch.tanh(x @ w.T + b)**2)) @ w).square().sum() for x in real]).mean()
    assert abs(r1_penalty(net, real) - by_hand) < 1e-6
    plain, weighted = (discriminator_loss(net, real, fake, r1_gamma=g) for g in (0.0, 3.0))
    assert abs(weighted - plain - 1.5*by_hand) < 1e-6
    others = [discriminator_loss(net, real, 5*fake, r1_gamma=g) for g in (0.0, 3.0)]
    assert abs((others[1] - others[0]) - (weighted - plain)) < 1e-5
    (weighted - plain).backward()
    slope, eps = net[0].weight.grad[1, 2].item(), 1e-3
    with torch.no_grad(): net[0].weight[1, 2] += eps
    assert abs((1.5*r1_penalty(net, real) - 1.5*by_hand).item()/eps - slope) < 0.02*abs(slope) + 1e-3


def test_loss_without_penalty_is_two_cross_entropies():
    net, real, fake = nn.Linear(2, 1), torch.randn(50, 2), torch.randn(30, 2)
    p = lambda x: torch.sigmoid(net(x)).double()
    assert abs(discriminator_loss(net, real, fake).item() + (p(real).log().mean() + (1 - p(fake)).log().mean()).item()/2) < 1e-5
    assert torch.allclose(style_reward(net(fake)), -(1 - p(fake)).log().float(), atol=1e-5) and style_reward(torch.tensor(50.)) < 9.22


def test_noise_is_on_both_inputs_and_of_the_stated_size():
    seen = []
    net = lambda x: seen.append(x) or x[:, :1]
    zero = torch.zeros(20000, 2, requires_grad=True)
    discriminator_loss(net, zero, zero, noise_std=0.3)
    assert [round(x.std().item(), 2) for x in seen] == [0.3, 0.3] and not torch.equal(*seen)
    loss = [discriminator_loss(lambda x: x[:, :1], zero, zero, noise_std=0.3, generator=torch.Generator().manual_seed(1)).item() for _ in range(2)]
    assert loss[0] == loss[1]


@given(st.integers(2, 5), st.floats(10, 200))
@settings(max_examples=20, deadline=None)
def test_poses_and_windows_are_each_others_inverse(k, fps):
    poses = torch.randn(3, k + 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(k))
    assert torch.allclose(poses_from_windows(windows_from_poses(poses, fps), fps), poses)


def test_the_policys_windows_are_the_features_of_its_motion(biped, walk):
    "What the discriminator saw during an episode, against amp_features of the rollout as a motion."
    config, windows = replace(SMALL, num_envs=2), reference_windows(walk, biped)(64, torch.Generator().manual_seed(0))
    target = np.random.default_rng(0).uniform(-0.3, 0.3, (2, 9))
    episodes = StyleEpisodes(biped, windows, 50.0, config)
    episodes.reset(np.ones(2, bool))
    seen, states = [], []
    for _ in range(20):
        seen.append(episodes.step(target)[1])
        states.append(episodes.env.state())
    for i in range(2):
        motion = Motion(50, *(np.stack([getattr(s, k)[i] for s in states]) for k in ("root_pos", "root_quat", "joint_pos")), biped.joint_names, "biped")
        clip = amp_features(motion, biped, None)
        rows = np.concatenate([clip["joint_positions"], clip["joint_velocities"]], 1)
        for t in range(4, 20): assert np.allclose(seen[t][i], rows[t - 2:t], atol=2e-4), t


def test_an_episode_starts_inside_the_reference(biped, walk):
    episodes = StyleEpisodes(biped, reference_windows(walk, biped)(64, torch.Generator().manual_seed(0)), 50.0, SMALL)
    seen = episodes.reset(np.ones(8, bool))
    rows = walk.rows.numpy()
    near = [np.abs(rows - x).max(1).min() for x in seen.numpy()]
    assert max(near) < 1e-5
    windows = episodes.step(seen[:, :9].numpy())[1]
    for w in windows.numpy():
        where = np.abs(rows[:, :9] - w[1, :9]).max(1).argmin()
        assert np.abs(rows[where - 1, :9] - w[0, :9]).max() < 1e-4 and np.abs(rows[where - 1] - w[0])[9:].max() < 5e-3


def test_columns_are_matched_by_name(biped, walk):
    mixed = np.random.default_rng(0).permutation(18)
    shuffled = Fake(walk.rows[:, mixed], [walk.columns[i] for i in mixed])
    a, b = (reference_windows(s, biped)(50, torch.Generator().manual_seed(3)) for s in (walk, shuffled))
    assert torch.equal(a, b)


def test_the_packages_own_windows_are_such_a_sampler(biped, walk):
    dataset = amp_features(retarget(bundled_clips()["walk"], "biped"), biped, 50.0)
    drawn = reference_windows(AmpWindows(dataset, 2, ("joint_positions", "joint_velocities")), biped)(20, torch.Generator().manual_seed(0))
    assert drawn.shape == (20, 2, 18) and max((walk.rows - w[1]).abs().amax(1).min() for w in drawn) < 1e-6
    with pytest.raises(ConfigError, match="extra root_linear_velocity.x"): reference_windows(AmpWindows(dataset, 2), biped)


def test_statistics_are_the_references_and_stay_so(biped, walk, trained):
    frames = reference_windows(walk, biped)(SMALL.reference_poses, torch.Generator().manual_seed(SMALL.seed)).flatten(0, 1)
    scale = trained.policy.scale
    assert torch.allclose(scale.mean, frames.mean(0)) and (scale.std >= frames.std(0) - 1e-6).all() and not any(p.requires_grad for p in scale.buffers())
    still = torch.cat([frames[:, :9], frames[:, 9:]], 1).clone()
    still[:, 0], still[:, 9] = 0.1, 0
    floored = reference_scale(still[:, None])
    assert abs(floored.std[0] - 0.1*floored.std[:9].median()) < 1e-2 and floored.std[9] > 0.05 and torch.isfinite(floored(still)).all()
    assert torch.allclose(scale.undo(scale(frames)), frames, atol=1e-4) and scale(1e6 + frames).max() == scale.clip


def test_the_log_is_complete(trained):
    assert len(trained.log) == SMALL.steps//SMALL.rollout_steps and all(set(row) == LOGGED for row in trained.log)
    assert list(trained.column("steps")) == list(range(16, 97, 16)) and np.isfinite([list(r.values()) for r in trained.log]).all()
    for row in trained.log: assert abs(row["disc_acc"] - (row["disc_acc_real"] + row["disc_acc_fake"])/2) < 1e-6 and 0 <= row["style_reward"] < 9.3


def test_a_seed_repeats_and_leaves_the_callers_random_numbers_alone(walk, biped, trained):
    torch.manual_seed(7)
    expected, _ = torch.rand(1), torch.manual_seed(7)
    again = train_amp(walk, biped, SMALL)
    assert torch.equal(torch.rand(1), expected)
    assert again.log == trained.log and all(torch.equal(a, b) for a, b in zip(again.policy.parameters(), trained.policy.parameters()))
    assert train_amp(walk, biped, replace(SMALL, seed=1, steps=16)).log[0] != trained.log[0]


def parts(biped, walk, **more):
    "An agent with one rollout of noise in its memory."
    config = replace(SMALL, **more)
    windows = reference_windows(walk, biped)(256, torch.Generator().manual_seed(0))
    scale = reference_scale(windows)
    policy, discriminator = Policy(scale, config.action_reach, biped.joint_range, config.hidden), mlp(36, *config.hidden, 1)
    agent = make_agent(config, policy, discriminator, lambda n: scale(windows[torch.randint(256, (n,))]).flatten(1), windows[:, -1])
    with torch.no_grad():
        for t in range(config.rollout_steps):
            seen = torch.randn(8, 18)
            actions, _ = agent.act(seen, None, timestep=t, timesteps=16)
            flags = dict(terminated=torch.zeros(8, 1, dtype=torch.bool), truncated=torch.zeros(8, 1, dtype=torch.bool))
            agent.record_transition(observations=seen, states=None, actions=actions, rewards=torch.zeros(8, 1), next_observations=seen, next_states=None, **flags,
                                    infos=dict(amp_obs=torch.randn(8, 36)), timestep=t, timesteps=16)
    return agent, policy, discriminator


def test_policy_and_discriminator_learn_apart(biped, walk):
    torch.manual_seed(0)
    weights = lambda net: torch.cat([p.detach().flatten().clone() for p in net.parameters()])
    agent, policy, discriminator = parts(biped, walk, update_steps=0)
    p, d = weights(policy), weights(discriminator)
    agent.update(timestep=15, timesteps=16)
    assert torch.equal(weights(discriminator), d) and not torch.equal(weights(policy), p)
    p, lessons = weights(policy), []
    for _ in range(3): agent.lesson(torch.randn(64, 36)); lessons.append(weights(discriminator))
    assert torch.equal(weights(policy), p) and not torch.equal(lessons[0], lessons[1]) and not torch.equal(lessons[0], d)
    owned = lambda optimiser: {id(x) for g in optimiser.param_groups for x in g["params"]}
    assert owned(agent.disc_optimizer) == {id(x) for x in discriminator.parameters()} and not owned(agent.disc_optimizer) & owned(agent.optimizer)
    assert agent.disc_optimizer.param_groups[0]["lr"] == SMALL.disc_lr
    calm, _, _ = parts(biped, walk, update_steps=0, kl_threshold=1e-6)      # the policy's own rate, and only that, gives way to a divergence that is too large
    calm.update(timestep=15, timesteps=16)
    assert calm.optimizer.param_groups[0]["lr"] < SMALL.learning_rate and calm.disc_optimizer.param_groups[0]["lr"] == SMALL.disc_lr


@pytest.mark.parametrize("n", [1, 3])
def test_update_steps_is_the_number_of_lessons(biped, walk, monkeypatch, n):
    agent, _, discriminator = parts(biped, walk, update_steps=n)
    agent.update(timestep=15, timesteps=16)
    (state, *_) = agent.disc_optimizer.state.values()
    assert state["step"] == n


def test_the_knobs_make_the_discriminator_weaker_or_stronger(biped, walk):
    "The same fakes, the same start: what 100 lessons achieve."
    def accuracy(**knobs):
        torch.manual_seed(0)
        agent, _, discriminator = parts(biped, walk, **knobs)
        fake = agent.real(256) + torch.randn(256, 36)
        agent.reply_buffer.add_samples(observations=fake)
        for _ in range(100): agent.lesson(fake)
        return judge(discriminator, agent.real(512), agent.real(512) + torch.randn(512, 36))
    free = accuracy(disc_lr=1e-3, r1_gamma=0.0, disc_input_noise_std=0.0)
    slow, smooth, noisy = accuracy(disc_lr=1e-6, r1_gamma=0.0, disc_input_noise_std=0.0), accuracy(disc_lr=1e-3, r1_gamma=50.0), accuracy(disc_lr=1e-3, r1_gamma=0.0, disc_input_noise_std=2.0)
    assert free["disc_acc"] > 0.9 > noisy["disc_acc"] and slow["disc_acc"] < 0.7
    assert smooth["gradient_penalty"] < 0.1*free["gradient_penalty"] and noisy["gradient_penalty"] < free["gradient_penalty"]


def test_measures():
    reference = torch.tensor([[0., 0], [1, 1]])
    assert abs(pose_error([[0.3, 0.4], [1, 1]], reference) - 0.5/2**0.5/2) < 1e-6
    v = torch.randn(1000, 3)
    assert abs(velocity_ratio(2*v + 5, v) - 2) < 1e-6
    net = lambda x: x[:, :1]
    row = judge(net, torch.tensor([[1., 0], [-1, 0]]), torch.tensor([[-2., 0], [-2, 0], [3, 0]]))
    assert row["disc_acc_real"] == 0.5 and abs(row["disc_acc_fake"] - 2/3) < 1e-6 and row["d_real"] == 0 and abs(row["d_fake"] + 1/3) < 1e-6 and row["gradient_penalty"] == 1


def test_rollouts_are_motions_that_the_data_tools_take(walk, biped, trained):
    motions = policy_rollout(trained, walk, biped, num_envs=3, steps=30)
    assert len(motions) == 3 and all(len(m) == 30 and m.fps == 50 and np.abs(m.torque).max() <= 60 for m in motions)
    assert amp_features(motions[0], biped, 50.0)["joint_positions"].shape == (30, 9) and motions[0].source["steps"][-1]["updates"] == 6
    assert measure_policy(trained, walk, biped, skip=5, num_envs=3, steps=30) == measure_policy(trained, walk, biped, skip=5, num_envs=3, steps=30)
    untrained = train_amp(walk, biped, replace(SMALL, steps=0))
    assert untrained.log == [] and measure_policy(untrained, walk, biped, num_envs=3, steps=80)["velocity_ratio"] < 0.05
    with pytest.raises(ConfigError, match="more steps"): measure_policy(trained, walk, biped, steps=30)


def test_files_give_the_training_back(tmp_path, walk, biped, trained):
    back = load_training(save_training(tmp_path/"run", trained))
    assert (back.config, back.log, back.joint_names, back.fps, back.robot) == (trained.config, trained.log, trained.joint_names, 50.0, "biped")
    seen = np.random.default_rng(0).normal(size=(5, 18))
    assert np.array_equal(back.policy.act(seen), trained.policy.act(seen)) and torch.equal(back.discriminator(torch.ones(1, 36)), trained.discriminator(torch.ones(1, 36)))
    assert sorted(p.name for p in (tmp_path/"run").iterdir()) == ["training.json", "weights.safetensors"]
    about = json.loads((tmp_path/"run/training.json").read_text())
    for broken in ({**about, "config": {**about["config"], "disk_lr": 1}}, {k: v for k, v in about.items() if k != "fps"}, {**about, "joint_names": about["joint_names"][:5]}):
        (tmp_path/"run/training.json").write_text(json.dumps(broken))
        with pytest.raises(MotionFormatError, match="is no AMP training"): load_training(tmp_path/"run")
    (tmp_path/"run/training.json").write_text(json.dumps(about))
    (tmp_path/"run/weights.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{broken}")
    with pytest.raises(MotionFormatError, match="is no AMP training"): load_training(tmp_path/"run")
    with pytest.raises(MotionFormatError, match="no such file"): load_training(tmp_path/"nothing")


def test_errors_say_what_does_not_fit(walk, biped, trained):
    other = Fake(walk.rows, [c.replace("waist_yaw", "neck") for c in walk.columns])
    with pytest.raises(ConfigError, match="missing joint_positions.waist_yaw.*extra joint_positions.neck"): train_amp(other, biped, SMALL)
    with pytest.raises(ConfigError, match=r"\(1, 1, 18\).*at least 2"): train_amp(Fake(walk.rows, walk.columns, k=1), biped, SMALL)
    with pytest.raises(ConfigError, match="missing joint_velocities"): train_amp(Fake(walk.rows[:, :9], walk.columns[:9]), biped, SMALL)
    with pytest.raises(ConfigError, match="disc_lr is 0"): AmpConfig(disc_lr=0)
    with pytest.raises(ConfigError, match="r1_gamma is -1"): AmpConfig(r1_gamma=-1)
    with pytest.raises(ConfigError, match="disc_batch is 1"): AmpConfig(disc_batch=1)
    with pytest.raises(ConfigError, match="less than the 16 rollout_steps"): AmpConfig(steps=3)
    with pytest.raises(ConfigError, match="the policy moves waist_yaw"): policy_rollout(trained, walk, SimpleNamespace(name="tripod", joint_names=("a", "b")))


def test_a_time_budget_ends_a_training(walk, biped):
    training = train_amp(walk, biped, replace(SMALL, steps=10**6, seconds=1.0))
    assert 0 < len(training.log) < 200
