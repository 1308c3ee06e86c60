"Training and tokenizers: what is held out, what is kept, what a resumed training ends in, and that one file decodes alone."
import json
import math
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from time import process_time

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from safetensors.torch import save

from motionbench.core.errors import ConfigError, InvalidMotion, MotionFormatError
from motionbench.core.gait import bundled_clips
from motionbench.core.robot import load_robot
from motionbench.io.arrays import write_motionvqvae
from motionbench.retarget.clip import retarget
from motionbench.vqvae.agent import MVQVAEAgent
from motionbench.vqvae.checkpoint import FORMAT, Tokenizer, load_tokenizer, save_tokenizer
from motionbench.vqvae.config import ConfigLoader, load_config
from motionbench.vqvae.data import make_data, split, statistics, units
from motionbench.vqvae.losses import reconstruction_loss, velocity_loss
from motionbench.vqvae.train import body_loss, held_out_error, learning_rate, load_state, seeded, train_vqvae
from motionbench.vqvae.trackers import JsonlLog, Tracker, read_log

SMALL = dict(width=16, code_dim=8, nb_code=16, window_size=16, batch_size=8, total_iter=40, warmup_iter=5, val_every=10, save_every=10, print_iter=10)


@pytest.fixture(scope="module")
def biped(): return load_robot("biped")


@pytest.fixture(scope="module")
def clips(biped): return {n: retarget(bundled_clips()[n], biped, fps=30) for n in ("walk", "turn", "run", "squat")}


@pytest.fixture(scope="module")
def data(clips, biped): return make_data(clips, load_config(**SMALL), biped)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory): return train_vqvae(data, load_config(**SMALL), tmp_path_factory.mktemp("trained")/"out")


def test_clips_that_are_held_out_are_not_learnt_from(data, trained, biped):
    train, held = split(data, 0.15, 0)
    assert trained.held_out == held.names and len(held.names) == 1 and not {*held.names} & {*train.names}
    mean, std = statistics(train)[0], units(train, trained.tokenizer.config, biped)
    assert np.array_equal(trained.tokenizer.mean.numpy(), mean) and np.array_equal(trained.tokenizer.std.numpy(), std)      # nor do they colour the statistics


def test_the_best_network_is_kept(data, trained):
    rows = [r for r in trained.log if "held_out_loss" in r]
    best = min(rows, key=lambda r: r["held_out_loss"])
    again = held_out_error(load_tokenizer(trained.folder/"tokenizer.safetensors"), split(data, 0.15, 0)[1])
    assert len(rows) == 4 and again["loss"] == best["held_out_loss"] and trained.tokenizer.metrics["iteration"] == best["iter"]


def test_the_held_out_error_is_that_of_whole_clips(data, trained):
    "Against a plain loop."
    t, (_, held) = trained.tokenizer, split(data, 0.15, 0)
    x = held.clips[0]
    z = torch.as_tensor((x - t.mean.numpy())/t.std.numpy())
    with torch.no_grad(): recon = t.model(z[None]).recon[0]
    square = ((recon*t.std + t.mean).numpy() - x)[:, t.layout.slices["dof_pos"]]**2
    found = held_out_error(t, held)
    assert math.isclose(found["joint_rmse_rad"], square.mean()**0.5, rel_tol=1e-4)
    smooth = torch.nn.functional.smooth_l1_loss
    assert math.isclose(found["loss"], float(smooth(recon, z) + 0.5*smooth(recon.diff(dim=0), z.diff(dim=0))), rel_tol=1e-4)


@pytest.mark.parametrize("stop", [7, 23, 39])
@pytest.mark.parametrize("quantizer", ["ema_reset", "rvq"])
def test_a_resumed_training_ends_in_the_same_weights(data, tmp_path, stop, quantizer):
    c = load_config(**SMALL, quantizer=quantizer, num_quantizers=2)
    whole = train_vqvae(data, c, tmp_path/"whole")
    train_vqvae(data, c, tmp_path/"parts", stop=lambda i: i == stop)
    if stop < 10:
        with pytest.raises(ConfigError, match="nothing to resume"): train_vqvae(data, c, tmp_path/"parts", resume=True)
        return
    parts = train_vqvae(data, c, tmp_path/"parts", resume=True)
    for k, x in whole.tokenizer.tensors().items(): assert torch.equal(x, parts.tokenizer.tensors()[k]), k
    assert (tmp_path/"whole/tokenizer.safetensors").read_bytes() == (tmp_path/"parts/tokenizer.safetensors").read_bytes()
    drop = lambda rows: [{k: v for k, v in r.items() if k != "seconds"} for r in rows]
    assert drop(read_log(tmp_path/"whole/log.jsonl")) == drop(read_log(tmp_path/"parts/log.jsonl")) == drop(parts.log)
    a, b = (torch.load(tmp_path/n/"state.pt", weights_only=True) for n in ("whole", "parts"))
    assert all(torch.equal(a["model"][k], b["model"][k]) for k in a["model"])


def test_the_same_seed_is_the_same_training_and_the_callers_random_state_stays(data, tmp_path):
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    one, two, other = (train_vqvae(data, load_config(**{**SMALL, "total_iter": 10}, seed=s)).tokenizer.digest for s in (1, 1, 2))
    assert one == two != other and torch.equal(torch.rand(2), wanted)
    assert train_vqvae(data, load_config(**{**SMALL, "total_iter": 10}, seed=1), tmp_path).tokenizer.digest == one                # whether or not it is written


def test_resume_refuses_other_settings_other_data_and_no_state(data, clips, biped, trained, tmp_path):
    with pytest.raises(ConfigError, match="lr was 0.001, is 0.002"): train_vqvae(data, load_config(**SMALL, lr=2e-3), trained.folder, resume=True)
    other = make_data({k: clips[k] for k in ("walk", "turn")}, load_config(**SMALL), biped)
    with pytest.raises(ConfigError, match="started with other data"): train_vqvae(other, load_config(**SMALL), trained.folder, resume=True)
    with pytest.raises(ConfigError, match="nothing to resume"): train_vqvae(data, load_config(**SMALL), tmp_path, resume=True)
    with pytest.raises(ConfigError, match="holds a training"): train_vqvae(data, load_config(**SMALL), trained.folder)
    (tmp_path/"state.pt").write_bytes(b"garbage")
    with pytest.raises(MotionFormatError, match="is no state of a training"): train_vqvae(data, load_config(**SMALL), tmp_path, resume=True)


def test_a_state_cannot_run_code(tmp_path):
    class Evil:
        def __reduce__(self): return (open, (str(tmp_path/"owned"), "w"))
    torch.save({"format": "motionbench-vqvae-state", "x": Evil()}, tmp_path/"state.pt")
    with pytest.raises(MotionFormatError, match="is no state of a training"): load_state(tmp_path/"state.pt", load_config(**SMALL), "")
    assert not (tmp_path/"owned").exists()


def test_resume_refuses_columns_in_other_units(data, biped, tmp_path):
    nobodys = replace(data, layout=replace(data.layout, robot="nobody's"))
    train_vqvae(nobodys, load_config(**SMALL), tmp_path/"out", stop=lambda i: i == 12)
    with pytest.raises(ConfigError, match="weighed otherwise"): train_vqvae(nobodys, load_config(**SMALL), tmp_path/"out", resume=True, robot=biped)


def test_a_robot_of_this_machine_needs_no_naming(data, biped):
    config = load_config(**{**SMALL, "total_iter": 2})
    assert train_vqvae(data, config).tokenizer.digest == train_vqvae(data, config, robot=biped).tokenizer.digest
    assert train_vqvae(replace(data, layout=replace(data.layout, robot="nobody's")), config).tokenizer.std.ne(train_vqvae(data, config).tokenizer.std).any()


def test_a_training_that_was_over_stays_over(data, tmp_path):
    config = load_config(**{**SMALL, "total_iter": 200, "patience": 1, "val_every": 5})
    whole = train_vqvae(data, config, tmp_path/"out")
    again = train_vqvae(data, config, tmp_path/"out", resume=True)
    assert whole.log[-1]["iter"] < 200 and again.log == whole.log and again.tokenizer.digest == whole.tokenizer.digest


def test_resume_refuses_clips_under_other_names_and_a_state_without_its_parts(data, trained, tmp_path):
    shutil.copytree(trained.folder, tmp_path/"out")
    with pytest.raises(ConfigError, match="other data"): train_vqvae(replace(data, names=tuple(f"{n}_" for n in data.names)), load_config(**SMALL), tmp_path/"out", resume=True)
    state = torch.load(tmp_path/"out/state.pt", weights_only=True)
    torch.save({k: v for k, v in state.items() if k != "units"}, tmp_path/"out/state.pt")
    with pytest.raises(MotionFormatError, match="lacks units"): train_vqvae(data, load_config(**SMALL), tmp_path/"out", resume=True)


def test_a_tokenizer_is_told_by_its_network_too(trained, tmp_path):
    t = trained.tokenizer
    assert replace(t, config=t.config.model_copy(update=dict(smooth=False))).digest != t.digest == replace(t, config=t.config.model_copy(update=dict(print_iter=7))).digest
    old = tmp_path/"old.safetensors"
    about = dict(format=FORMAT, version=1, layout=asdict(t.layout), config={k: v for k, v in t.config.model_dump().items() if k != "smooth"}, metrics={})
    old.write_bytes(save({k: v.contiguous() for k, v in t.tensors().items()}, metadata={FORMAT: json.dumps(about)}))
    with pytest.raises(MotionFormatError, match="does not say the setting smooth"): load_tokenizer(old)


def test_the_agents_codes_are_those_of_encode(trained, data, clips):
    agent = MVQVAEAgent(trained.tokenizer.config)
    agent.setup(data)
    agent.load(trained.folder/"tokenizer.safetensors")
    want = [trained.tokenizer.encode(clips[n]).codes for n in data.names]
    assert all(np.array_equal(a, b) for a, b in zip(agent.get_codebook_seq(), want)) and np.array_equal(agent.evaluate_policy_rec(0)[2], want[0])


def test_early_stopping(data):
    done = train_vqvae(data, load_config(**{**SMALL, "lr": 1e-9, "warmup_iter": 0, "total_iter": 200, "patience": 2, "commit": 0}, quantizer="fsq", levels=(4, 4)))
    assert done.log[-1]["iter"] < 200


def test_body_loss(data, biped):
    mean, std = (torch.as_tensor(x) for x in statistics(data))
    loss, x = body_loss(biped, data.layout, mean, std), (torch.as_tensor(data.frames[:32]) - mean)[None]/std
    assert loss(x, x, None) == 0 and 0.001 < float(loss(x + 0.3, x, None)) < 0.5
    with pytest.raises(ConfigError, match="name it with --robot"): body_loss(None, data.layout, mean, std)
    assert train_vqvae(data, load_config(**{**SMALL, "total_iter": 10}, loss_fk=1.0), robot=biped).log[0]["bodies"] > 0


@given(st.integers(0, 2000))
def test_learning_rate(i):
    c = load_config(total_iter=2000, warmup_iter=50)
    assert 0 < learning_rate(i, c) <= c.lr and (i < 50 or learning_rate(i, c) >= 0.0099*c.lr)
    m = load_config(total_iter=2000, warmup_iter=0, lr_scheduler=[500, 1500], gamma=0.1)
    assert math.isclose(learning_rate(i, m), m.lr*0.1**((i >= 500) + (i >= 1500)))


# The one file

def test_a_tokenizer_decodes_alone(trained, clips, tmp_path):
    "In another process that sees nothing but the file and the tokens."
    from motionbench.vqvae.tokens import write_tokens
    tokenizer = trained.tokenizer
    tokens = tokenizer.encode(clips["walk"])
    write_tokens(tokens, tmp_path/"walk.npz")
    save_tokenizer(tmp_path/"t.safetensors", tokenizer)
    code = ("import numpy as np, sys; from motionbench.vqvae.checkpoint import load_tokenizer; from motionbench.vqvae.tokens import read_tokens\n"
            "m = load_tokenizer('t.safetensors').decode(read_tokens('walk.npz')); np.savez('out.npz', dof=m.dof_pos, root=m.root_pos)")
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=120)
    with np.load(tmp_path/"out.npz") as out: assert np.allclose(out["dof"], tokenizer.decode(tokens).dof_pos, atol=1e-5) and np.allclose(out["root"], tokenizer.decode(tokens).root_pos, atol=1e-4)


def test_encoding_refuses_what_does_not_fit(trained, clips):
    t, walk = trained.tokenizer, clips["walk"]
    with pytest.raises(InvalidMotion, match="the clip has 60 fps, the tokenizer 30; say resample"): t.encode(walk.resample(60))
    assert len(t.encode(walk.resample(60), resample=True)) > 0
    with pytest.raises(InvalidMotion, match="missing left_hip_pitch|missing waist_yaw"): t.encode(type(walk)(30, walk.root_pos, walk.root_quat, walk.dof_pos, [f"j{k}" for k in range(9)], "other"))
    order = np.random.default_rng(0).permutation(9)
    turned = type(walk)(30, walk.root_pos, walk.root_quat, walk.dof_pos[:, order], [walk.joint_names[k] for k in order], "biped")
    assert np.array_equal(t.encode(turned).codes, t.encode(walk).codes)


def test_tokens_of_another_tokenizer(trained, data, clips):
    other = train_vqvae(data, load_config(**{**SMALL, "total_iter": 10}, seed=5)).tokenizer
    with pytest.raises(InvalidMotion, match="their codes mean something else here"): other.decode(trained.tokenizer.encode(clips["walk"]))


@pytest.mark.parametrize("content,message", [(b"\x80\x04K\x01.", "is a pickle"), (b"PK\x03\x04rest", "is a pickle"), (b"garbage of some length", "is no tokenizer"), (b"\x08\0\0\0\0\0\0\0{}      ", "is no tokenizer")])
def test_files_that_are_no_tokenizer(tmp_path, content, message):
    (tmp_path/"x.safetensors").write_bytes(content)
    with pytest.raises(MotionFormatError, match=message): load_tokenizer(tmp_path/"x.safetensors")


def test_a_torch_checkpoint_is_refused(trained, tmp_path):
    torch.save({"model": trained.tokenizer.model.state_dict(), "epoch": 3}, tmp_path/"last.ckpt")
    with pytest.raises(MotionFormatError, match="without mean, deviation and layout"): load_tokenizer(tmp_path/"last.ckpt")


def test_a_later_version_is_refused(trained, tmp_path):
    from safetensors.torch import save_file
    about = dict(format="motionbench-vqvae", version=99)
    save_file(trained.tokenizer.tensors(), tmp_path/"t.safetensors", metadata={"motionbench-vqvae": json.dumps(about)})
    with pytest.raises(MotionFormatError, match="is of version 99"): load_tokenizer(tmp_path/"t.safetensors")


# The guide

def test_the_guides_usage(guide_yaml, clips, tmp_path, monkeypatch):
    "Its YAML as printed but for the number of iterations and the width, on a file in its format, without a robot."
    from motionbench.core.motion import concatenate
    monkeypatch.chdir(tmp_path)
    Path("configs").mkdir()
    Path("configs/agent.yaml").write_text(guide_yaml)
    whole = ConfigLoader("configs/agent.yaml").to_dict()
    assert load_config(whole).lr == 2e-4 and load_config(whole).code_dim == 512
    Path("configs/agent.yaml").write_text(guide_yaml.replace("total_iter: 10000", "total_iter: 20").replace("batch_size: 256", "batch_size: 8\n    width: 16\n    val_every: 10").replace("code_dim: 512", "code_dim: 8"))
    write_motionvqvae(concatenate([clips["walk"], clips["turn"]], boundaries=True), "motion.npy")
    config_loader = ConfigLoader('configs/agent.yaml')
    config = config_loader.to_dict()
    agent = MVQVAEAgent(config=config)
    agent.setup_from_file('motion.npy')
    agent.fit()
    assert agent.tokenizer.layout.joint_names[0] == "dof_0" and len(agent.data.names) == 2
    recon, original, codes = agent.evaluate_policy_rec(0)
    assert recon.shape == original.shape == (len(clips["walk"]), 25) and agent.evaluate_from_codebook_seq(codes[:3]).shape == (12, 25)
    assert [len(c) for c in agent.get_codebook_seq()] == [-(-len(clips[n])//4) for n in ("walk", "turn")]
    agent.save("again.safetensors")
    fresh = MVQVAEAgent(config)
    fresh.load("again.safetensors")
    assert fresh.tokenizer.digest == agent.tokenizer.digest
    with pytest.raises(ConfigError, match="no data yet"): fresh.validate()
    with pytest.raises(ConfigError, match="clip 9 is not there"): agent.evaluate_policy_rec(9)


def test_one_clip_gives_full_batches(clips, biped):
    one = make_data({"walk": clips["walk"]}, load_config(**SMALL), biped)
    done = train_vqvae(one, load_config(**{**SMALL, "total_iter": 10}))
    assert done.held_out == ("walk",) and done.log[-1]["held_out_loss"] > 0                  # its end is held out


# Logs

def test_trackers(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.raises(ConfigError, match="expected one of jsonl"): Tracker("mlflow", JsonlLog(tmp_path/"a/log.jsonl"), {})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install trackio"): Tracker("trackio", JsonlLog(tmp_path/"b/log.jsonl"), {})
    (tmp_path/"bad.jsonl").write_text('{"iter": 1}\nnot json\n{"iter": 2}\n')
    with pytest.raises(MotionFormatError, match="line 2 is no JSON"): read_log(tmp_path/"bad.jsonl")


def test_a_run_is_told_to_wandb(data, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    train_vqvae(data, load_config(**{**SMALL, "total_iter": 20}, use_wandb=True, wandb_project="p", wandb_tags=["a"]), tmp_path/"out")
    assert len(read_log(tmp_path/"out/log.jsonl")) == 4 and list((tmp_path/"out").rglob("*.wandb"))
