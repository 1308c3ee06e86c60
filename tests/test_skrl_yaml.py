"Settings of skrl 1.x: accepted by skrl 2 itself, with factors checked against its own losses, and errors that name key and line."
import pickle
from dataclasses import asdict, fields

import gymnasium
import numpy as np
import pytest
import torch
import yaml
from skrl.agents.torch import ExperimentCfg
from skrl.agents.torch.amp import AMP, AMP_CFG
from skrl.agents.torch.amp.amp import compute_gae
from skrl.memories.torch import RandomMemory
from skrl.resources.preprocessors.torch import RunningStandardScaler
from skrl.resources.schedulers.torch import KLAdaptiveLR

from motionbench.amp.agent import AmpConfig, Policy, _Net, make_agent
from motionbench.amp.style import Scale, discriminator_loss, mlp, style_reward
from motionbench.core.errors import ConfigError, MotionFormatError
from motionbench.torque.skrl_yaml import FIXED, TAKEN, load_skrl_yaml, read_skrl_yaml, skrl2_settings

OLD = """\
# every key that 1.x's AMP has, and some that its Runner adds
seed: 7
models:
  separate: True
  policy:
    class: GaussianMixin
    clip_actions: False
    initial_log_std: -2.9
    fixed_log_std: True
    network:
      - {name: net, input: STATES, layers: [96, 48], activations: relu}
    output: ACTIONS
  value:
    class: DeterministicMixin
    network:
      - {name: net, input: STATES, layers: [96, 48], activations: relu}
    output: ONE
  discriminator:
    class: DeterministicMixin
    network:
      - {name: net, input: STATES, layers: [96, 48], activations: relu}
    output: ONE
memory: {class: RandomMemory, memory_size: -1}
motion_dataset: {class: RandomMemory, memory_size: 20000}
reply_buffer: {class: RandomMemory, memory_size: 1e5}
agent:
  class: AMP
  rollouts: 24
  learning_epochs: 5
  mini_batches: 3
  discount_factor: 0.97
  lambda: 0.9
  learning_rate: 5e-5
  learning_rate_scheduler: KLAdaptiveLR
  learning_rate_scheduler_kwargs: {kl_threshold: 8e-3}
  state_preprocessor: RunningStandardScaler
  state_preprocessor_kwargs: null
  value_preprocessor: RunningStandardScaler
  value_preprocessor_kwargs: null
  amp_state_preprocessor: RunningStandardScaler
  amp_state_preprocessor_kwargs: {epsilon: 1.0e-6}
  random_timesteps: 0
  learning_starts: 0
  kl_threshold: 0.0
  grad_norm_clip: 0.0
  ratio_clip: 0.2
  value_clip: 0.3
  clip_predicted_values: True
  entropy_loss_scale: 0.0
  value_loss_scale: 2.5
  discriminator_loss_scale: 5.0
  amp_batch_size: 512
  task_reward_weight: 0.25
  style_reward_weight: 0.75
  discriminator_batch_size: 640
  discriminator_reward_scale: 4.0
  discriminator_logit_regularization_scale: 0.05
  discriminator_gradient_penalty_scale: 5
  discriminator_weight_decay_scale: 1.0e-04
  rewards_shaper_scale: 0.5
  time_limit_bootstrap: False
  mixed_precision: False
  experiment:
    directory: walk
    experiment_name: ""
    write_interval: auto
    checkpoint_interval: 1000
    wandb_kwargs: {}
trainer: {class: SequentialTrainer, timesteps: 1200, environment_info: log}
"""


@pytest.fixture
def write(tmp_path):
    "A function text -> path, with parts of the old file replaced."
    def made(*changes, text=OLD):
        for was, now in changes:
            assert text.count(was) == 1, was
            text = text.replace(was, now)
        path = tmp_path/"agent.yaml"
        path.write_text(text)
        return path
    return made


def agent(**change): return {**yaml.safe_load(OLD)["agent"], **change}


# ---- skrl 2

def test_skrl_accepts_a_full_old_file_and_reads_the_same_out_of_it(write):
    settings, notes = skrl2_settings(load_skrl_yaml(write()))
    cfg = AMP_CFG(**settings)
    assert (cfg.gae_lambda, cfg.task_reward_scale, cfg.style_reward_scale, cfg.value_clip, cfg.grad_norm_clip) == (0.9, 0.25, 0.75*4, 0.3, 0)
    assert (cfg.rollouts, cfg.learning_epochs, cfg.mini_batches, cfg.discount_factor, cfg.learning_rate, cfg.amp_batch_size) == (24, 5, 3, 0.97, 5e-5, 512)
    assert cfg.observation_preprocessor is cfg.value_preprocessor is cfg.amp_observation_preprocessor is RunningStandardScaler and cfg.state_preprocessor is None
    assert (cfg.observation_preprocessor_kwargs, cfg.value_preprocessor_kwargs, cfg.amp_observation_preprocessor_kwargs) == ({}, {}, {"epsilon": 1e-6})
    assert cfg.learning_rate_scheduler is KLAdaptiveLR and cfg.learning_rate_scheduler_kwargs == {"kl_threshold": 8e-3}
    assert cfg.experiment == ExperimentCfg(directory="walk", checkpoint_interval=1000) and isinstance(cfg.experiment.checkpoint_interval, int)
    assert cfg.rewards_shaper(torch.ones(3), 0, 1).tolist() == [0.5]*3 and pickle.loads(pickle.dumps(cfg.rewards_shaper))(2.0) == 1.0
    kinds = [n.split(":")[0] for n in notes]
    assert {k: kinds.count(k) for k in set(kinds)} == {"renamed": 6, "dropped": 3, "joined": 3, "read": 2, "changed": 4}


def test_an_agent_can_be_built_and_learns_with_the_translation(write):
    settings, _ = skrl2_settings(load_skrl_yaml(write(("rollouts: 24", "rollouts: 4"), ("amp_batch_size: 512", "amp_batch_size: 16"))))
    box = lambda n: gymnasium.spaces.Box(-np.inf, np.inf, (n,))
    made = make_agent(AmpConfig(rollout_steps=4, num_envs=2, hidden=(8,)), Policy(Scale(torch.zeros(4), torch.ones(4)), 0.5, np.ones((2, 2)), (8,)), mlp(8, 8, 1), lambda n: torch.randn(n, 8), torch.randn(9, 4))
    for name, size in (("observation", 4), ("value", 1), ("amp_observation", 8)): settings[f"{name}_preprocessor_kwargs"] |= dict(size=size, device="cpu")
    settings["experiment"].write_interval = settings["experiment"].checkpoint_interval = 0
    a = AMP(models=made.models, memory=RandomMemory(memory_size=4, num_envs=2, device="cpu"), cfg=AMP_CFG(**settings), observation_space=box(4), action_space=box(2), device="cpu",
            amp_observation_space=box(8), motion_dataset=RandomMemory(memory_size=32, device="cpu"), reply_buffer=RandomMemory(memory_size=32, device="cpu"), collect_reference_motions=lambda n: torch.randn(n, 8))
    a.init()
    a.enable_training_mode(True)
    before = [p.clone() for p in a.discriminator.parameters()]
    no = torch.zeros(2, 1, dtype=torch.bool)
    for t in range(4):
        with torch.no_grad():
            seen = torch.randn(2, 4)
            actions, _ = a.act(seen, None, timestep=t, timesteps=4)
            a.record_transition(observations=seen, states=None, actions=actions, rewards=torch.ones(2, 1), next_observations=seen, next_states=None, terminated=no, truncated=no,
                                infos=dict(amp_obs=torch.randn(2, 8)), timestep=t, timesteps=4)
        a.post_interaction(timestep=t, timesteps=4)
    assert any(not torch.equal(p, q) for p, q in zip(before, a.discriminator.parameters()))
    assert torch.equal(a.memory.get_tensor_by_name("rewards"), torch.full((4, 2, 1), 0.5))         # shaped


@pytest.mark.parametrize("old, new", [("lambda", "gae_lambda"), ("task_reward_weight", "task_reward_scale")])
def test_renamed_numbers(old, new):
    settings, notes = skrl2_settings({old: 0.5})
    assert settings[new] == 0.5 and old not in settings and f"renamed: {old} is {new}" in notes
    with pytest.raises(TypeError): AMP_CFG(**{old: 0.5})
    with pytest.raises(ConfigError, match=f"both {old} .* and {new}"): skrl2_settings({old: 0.5, new: 0.5})


def test_a_state_is_an_observation_unless_both_are_there():
    one = skrl2_settings({"state_preprocessor": "RunningStandardScaler", "state_preprocessor_kwargs": {"epsilon": 1.0}})
    assert one[0] == {"observation_preprocessor": RunningStandardScaler, "observation_preprocessor_kwargs": {"epsilon": 1.0}} and len(one[1]) == 2
    both = {"state_preprocessor": RunningStandardScaler, "observation_preprocessor": None}
    assert skrl2_settings(both) == (both, [])
    assert skrl2_settings({"amp_state_preprocessor": "RunningStandardScaler"})[0]["amp_observation_preprocessor"] is RunningStandardScaler


@pytest.mark.parametrize("given, product", [(dict(style_reward_weight=0.5), 1.0), (dict(discriminator_reward_scale=3), 3.0), (dict(style_reward_weight=0.5, discriminator_reward_scale=3), 1.5)])
def test_style_scales_multiply_and_a_missing_one_is_the_old_default(given, product):
    settings, notes = skrl2_settings(given)
    assert settings["style_reward_scale"] == product and any(n.startswith("joined: style_reward_weight") for n in notes)
    logits = torch.linspace(-20, 20, 50)
    old = given.get("style_reward_weight", 1.0)*(given.get("discriminator_reward_scale", 2.0)*style_reward(logits))
    assert torch.allclose(old, settings["style_reward_scale"]*style_reward(logits))


@pytest.mark.parametrize("given, clip", [({"clip_predicted_values": True}, 0.2), ({"clip_predicted_values": True, "value_clip": 0.3}, 0.3), ({"clip_predicted_values": False, "value_clip": 0.3}, 0.0),
                                         ({"lambda": 0.9}, 0.0), ({"value_clip": 0.3}, 0.3), ({}, 0.2)])
def test_value_clip(given, clip): assert AMP_CFG(**skrl2_settings(given)[0]).value_clip == clip


def test_silence_means_the_defaults_of_the_files_own_version():
    settings, notes = skrl2_settings({"lambda": 0.95})
    assert settings == dict(gae_lambda=0.95, grad_norm_clip=0.0, value_clip=0.0) and sum(n.startswith("filled in") for n in notes) == 2
    assert skrl2_settings({"gae_lambda": 0.95}) == ({"gae_lambda": 0.95}, []) and skrl2_settings({"lambda": 0.95, "grad_norm_clip": 0.7})[0]["grad_norm_clip"] == 0.7


@pytest.mark.parametrize("key, value", [("random_timesteps", 10), ("learning_starts", 10), ("kl_threshold", 0.01)])
def test_dropped_keys_say_why_and_what_they_were(key, value):
    settings, (note,) = skrl2_settings({key: value})
    assert settings == {} and note.startswith(f"dropped: {key}, here {value}: ")


def test_a_shaper_of_one_is_none():
    assert skrl2_settings({"rewards_shaper_scale": 1.0})[0] == skrl2_settings({"rewards_shaper_scale": None})[0] == {}


def test_settings_of_skrl_2_pass_unchanged():
    default = {f.name: getattr(AMP_CFG(), f.name) for f in fields(AMP_CFG)}
    assert skrl2_settings(default) == (default, [])
    assert skrl2_settings(dict(learning_rate=(1e-3, 1e-3, 1e-4))) == (dict(learning_rate=(1e-3, 1e-3, 1e-4)), [])
    given = dict(rollouts=8)
    assert skrl2_settings({"class": "amp", **given})[0] == given == skrl2_settings({"agent": {"class": "AMP", **given}, "trainer": {}})[0]
    before = agent()
    skrl2_settings(before)
    assert before == agent()


@pytest.mark.parametrize("given, words", [
    ([1], "expected a mapping"), (None, "expected a mapping"), ({"agent": "AMP"}, "expected a mapping"), ({"models": {}, "trainer": {}}, "no agent section"),
    ({"class": "PPO"}, "class is PPO, expected AMP"), ({"class": ["AMP"]}, "expected AMP"), ({"agent": {"class": "PPO"}}, "expected AMP"),
    ({"lerning_rate": 1e-4}, r"unknown key lerning_rate \(did you mean learning_rate\?\)"), ({"rolouts": 1, "lamda": 1}, r"rollouts\?\); .*lamda \(did you mean lambda"), ({3: 1}, "unknown key 3"),
    ({"learning_rate": "0.001"}, "is '0.001' .str., expected a finite number, without quotes"), ({"learning_rate": float("nan")}, "finite"), ({"learning_rate": True}, "finite"),
    ({"learning_rate": "1e999"}, "finite"), ({"learning_rate": None}, "finite"), ({"learning_rate": [1e-3, 1e-3]}, "one or three"), ({"learning_rate": {}}, "finite"),
    ({"rollouts": 1.5}, "expected a whole number"), ({"rollouts": "many"}, "whole"), ({"lambda": "x"}, "lambda|gae_lambda"), ({"time_limit_bootstrap": "no"}, "true or false"),
    ({"value_preprocessor": "__import__('os').abort()"}, "expected RunningStandardScaler"), ({"learning_rate_scheduler": "RunningStandardScaler"}, "expected KLAdaptiveLR"),
    ({"value_preprocessor_kwargs": [1]}, "expected a mapping"), ({"rewards_shaper": "lambda r: r"}, "function"), ({"style_reward_weight": "much"}, "finite"),
    ({"clip_predicted_values": 1}, "true or false"), ({"experiment": "walk"}, "expected a mapping"), ({"experiment": {"directry": "x"}}, "did you mean directory"),
    ({"experiment": {"write_interval": "often"}}, "whole number"), ({"experiment": {"wandb": "yes"}}, "true or false"), ({"style_reward_weight": 1.0, "style_reward_scale": 1.0}, "keep one"),
    ({"rewards_shaper_scale": 2.0, "rewards_shaper": None}, "keep one")])
def test_errors_name_the_key(given, words):
    with pytest.raises(ConfigError, match=words): skrl2_settings(given)


@pytest.mark.parametrize("text, value", [("5e-5", 5e-5), ("1E-3", 1e-3), ("5.0e5", 5e5), (".5e2", 50.0), ("1.25e10", 1.25e10), ("1e-07", 1e-7), ("+3e+2", 300.0)])
def test_numbers_that_yaml_takes_for_text(text, value):
    read = yaml.safe_load(f"learning_rate: {text}")
    assert isinstance(read["learning_rate"], str)
    settings, (note,) = skrl2_settings(read)
    assert settings == {"learning_rate": value} and note.startswith(f"read: learning_rate: YAML takes {text} for text")
    assert yaml.safe_load(note.rsplit("Write ", 1)[1]) == value


def test_only_true_keeps_episodes_apart_and_the_value_is_scaled_by_the_task():
    torch.manual_seed(0)
    gamma, lam, (r, v), after = 0.9, 0.8, torch.randn(2, 6, 1, 1), torch.randn(6, 1, 1)
    cut, no = torch.tensor([0, 0, 1, 0, 0, 0]).bool().view(6, 1, 1), torch.zeros(6, 1, 1).bool()
    following = torch.cat([v[1:], after[-1:]])
    following[2] = after[2]
    old, a = torch.zeros(6, 1, 1), 0
    for i in reversed(range(6)): a = old[i] = r[i] - v[i] + gamma*(following[i] + lam*~cut[i]*a)          # 1.x with false
    gae = lambda rewards, flag: compute_gae(rewards=rewards, terminated=no, truncated=cut, values=v, last_values=after[-1], discount_factor=gamma, lambda_coefficient=lam, time_limit_bootstrap=flag)[0]
    assert torch.allclose(gae(r + gamma*after*cut, True), old + v, atol=1e-6) and not torch.allclose(gae(r, False), old + v, atol=1e-2)


# ---- our training

def test_a_full_old_file_as_our_settings(write):
    out, notes = read_skrl_yaml(write())
    assert out == dict(seed=7, steps=1200, replay=100000, hidden=(96, 48), log_std=-2.9, rollout_steps=24, learning_epochs=5, mini_batches=3, discount=0.97, learning_rate=5e-5,
                       disc_lr=5e-5, update_steps=15, disc_batch=640, r1_gamma=10, kl_threshold=8e-3)
    assert AmpConfig(**out).num_envs == AmpConfig().num_envs
    said = " ".join(notes)
    for word in ("motion_dataset.memory_size", "relu", "observation_preprocessor", "amp_batch_size", "style_reward_scale", "discriminator_loss_scale", "experiment", "rewards_shaper",
                 "time_limit_bootstrap is True, by the file False", "gae_lambda is 0.95, by the file 0.9", "same value: ratio_clip, value_loss_scale, entropy_loss_scale, mixed_precision"): assert word in said, word
    settings, _ = skrl2_settings(load_skrl_yaml(write()))
    silent = [k for k in settings if k not in said and k not in TAKEN and not k.endswith("_kwargs")]
    assert silent == [], "every setting is taken or mentioned"


def test_the_same_file_written_for_skrl_2_gives_the_same(write):
    new = write(("lambda:", "gae_lambda:"), ("  task_reward_weight", "  task_reward_scale"), ("  style_reward_weight: 0.75\n", "  style_reward_scale: 3.0\n"), ("  discriminator_reward_scale: 4.0\n", ""),
                ("  state_preprocessor: R", "  observation_preprocessor: R"), ("  state_preprocessor_kwargs", "  observation_preprocessor_kwargs"),
                ("amp_state_preprocessor: R", "amp_observation_preprocessor: R"), ("amp_state_preprocessor_kwargs", "amp_observation_preprocessor_kwargs"))
    settings = skrl2_settings(load_skrl_yaml(new))[0]
    ours = read_skrl_yaml(new)[0]
    old = write()
    assert read_skrl_yaml(old)[0] == ours
    asdicts = [{k: v for k, v in asdict(AMP_CFG(**s)).items() if k != "rewards_shaper"} for s in (settings, skrl2_settings(load_skrl_yaml(old))[0])]
    assert asdicts[0] == asdicts[1]


def test_the_penalty_has_twice_the_factor_of_skrls_own_loss():
    torch.manual_seed(0)
    real, net = torch.randn(1, 8), mlp(8, 16, 1)
    agent = make_agent(AmpConfig(rollout_steps=4, num_envs=2, learning_epochs=1, mini_batches=1, hidden=(8,), update_steps=0), Policy(Scale(torch.zeros(4), torch.ones(4)), 0.5, np.ones((2, 2)), (8,)),
                       net, lambda n: real.expand(n, 8), torch.randn(9, 4))
    for name in ("motion_dataset", "memory"): assert len(getattr(agent, name).tensors) > 0
    fake = torch.randn(4, 2, 8)
    for t in range(4):
        with torch.no_grad():
            seen = torch.randn(2, 4)
            actions, _ = agent.act(seen, None, timestep=t, timesteps=4)
            flags = dict.fromkeys(("terminated", "truncated"), torch.zeros(2, 1, dtype=torch.bool))
            agent.record_transition(observations=seen, states=None, actions=actions, rewards=torch.zeros(2, 1), next_observations=seen, next_states=None, **flags, infos=dict(amp_obs=fake[t]), timestep=t, timesteps=4)
    agent.cfg.discriminator_loss_scale, agent.cfg.discriminator_batch_size = 1.0, -1
    for penalty in (0.0, 5.0):
        agent.cfg.discriminator_gradient_penalty_scale = penalty
        agent.tracking_data.clear()
        agent.reply_buffer.reset()
        AMP.update(agent, timestep=3, timesteps=4)
        assert agent.tracking_data["Loss / Discriminator loss"][0] == pytest.approx(discriminator_loss(net, real, fake.flatten(0, 1), r1_gamma=2*penalty).item(), abs=1e-5)


def test_what_is_called_fixed_is_what_our_agent_has():
    agent = make_agent(AmpConfig(hidden=(8,), num_envs=2), Policy(Scale(torch.zeros(4), torch.ones(4)), 0.5, np.ones((2, 2)), (8,)), mlp(8, 8, 1), lambda n: torch.randn(n, 8), torch.randn(9, 4))
    assert {k: getattr(agent.cfg, k) for k in FIXED} == FIXED
    assert agent.cfg.style_reward_scale == 1 and agent.cfg.value_preprocessor is RunningStandardScaler and agent.cfg.rewards_shaper is None


@pytest.mark.parametrize("change, words, taken", [
    (("learning_rate_scheduler: KLAdaptiveLR", "learning_rate_scheduler: null"), "no learning_rate_scheduler", {"kl_threshold": None}),
    (("{kl_threshold: 8e-3}", "null"), "never above learning_rate", {"kl_threshold": 0.008}),
    (("discriminator_batch_size: 640", "discriminator_batch_size: 0"), "all of a mini-batch", {"disc_batch": None}),
    (("seed: 7", "seed: -1"), "draws one at random", {"seed": None}), (("seed: 7", "seed: null"), "", {"seed": None}),
    (("learning_rate: 5e-5", "learning_rate: [1.0e-3, 1.0e-3, 1.0e-4]"), "first of several", {"learning_rate": 1e-3, "disc_lr": 1e-3}),
    (("separate: True", "separate: False"), "shares layers", {}), (("    fixed_log_std: True\n", ""), "noise of the actions be learned", {}),
    (("  discriminator:\n    class: DeterministicMixin\n    network:\n      - {name: net, input: STATES, layers: [96, 48]", "  discriminator:\n    class: DeterministicMixin\n    network:\n      - {name: net, input: STATES, layers: [64]"), "those of the policy", {"hidden": (96, 48)})])
def test_what_differs_is_said(write, change, words, taken):
    out, notes = read_skrl_yaml(write(change))
    assert words in " ".join(notes) and {k: out.get(k) for k in taken} == taken


@pytest.mark.parametrize("change, words", [
    (("  rollouts:", "  rolouts:"), r"agent.yaml, line LINE: unknown key rolouts \(did you mean rollouts\?\)"), (("class: AMP", "class: PPO"), "line LINE: the agent's class is PPO"),
    (("mini_batches: 3", "mini_batches: three"), "line LINE: mini_batches is 'three'"), (("directory: walk", "directry: walk"), "line LINE: unknown key directry"), (("checkpoint_interval: 1000", "checkpoint_interval: 0.5"), "line LINE"),
    (("trainer:", "trianer:"), "unknown key trianer .did you mean trainer"), (("timesteps: 1200", "timestep: 1200"), "did you mean timesteps"), (("timesteps: 1200", "timesteps: 7"), "less than the 24 rollout_steps"),
    (("reply_buffer: {class: RandomMemory, memory_size: 1e5}", "reply_buffer: 100000"), "reply_buffer is 100000, expected a mapping"), (("  value:\n    class: DeterministicMixin\n    network:\n      - {name: net, input: STATES, layers: [96, 48]", "  value:\n    class: DeterministicMixin\n    network:\n      - {name: net, input: STATES, layers: [96, conv]"), "positive whole"),
    (("seed: 7", "seed: lucky"), "seed is 'lucky'"), (("  mini_batches: 3\n", "  mini_batches: 3\n  rollouts: 3\n"), "rollouts stands there a second time.*line LINE"), (("seed: 7", "seed: !!python/object/apply:os.abort []"), "not YAML"),
    (("seed: 7", "seed: [7"), "not YAML"), (("seed: 7", "<<: {seed: 7}"), "expected a plain key"), (("seed: 7", "? [1]\n: 7"), "expected a plain key"), (("discriminator_batch_size: 640", "discriminator_batch_size: 1"), "disc_batch is 1, expected at least 2")])
def test_errors_name_file_and_line(write, change, words):
    path, now = write(change), change[1].rstrip()
    text = path.read_text()
    line = text[:text.index(now) + len(now)].count("\n") + 1
    with pytest.raises(ConfigError, match=words.replace("LINE", str(line))) as e: read_skrl_yaml(path)
    assert "agent.yaml" in str(e.value)


@pytest.mark.parametrize("text, words", [("- 1\n", "found list"), ("seed: 1\n", "has no agent section"), ("agent: 5\n", "expected a mapping"), ("x: " + "[" * 3000, "not YAML"), ("a: 2020-13-45", "not YAML"),
                                         ("# " + "x" * 1_000_001, "more than the 1000000")])
def test_files_that_are_none(write, text, words):
    with pytest.raises(ConfigError, match=words): read_skrl_yaml(write(text=text))


def test_no_file(tmp_path):
    with pytest.raises(MotionFormatError, match="no such file"): read_skrl_yaml(tmp_path/"none.yaml")
    (tmp_path/"bytes.yaml").write_bytes(b"\xff\xfe\x00seed")
    with pytest.raises(ConfigError, match="not YAML"): read_skrl_yaml(tmp_path/"bytes.yaml")
