"A training on two processes: each learns from its own windows, both end with the same weights, one of them writes."
import json, subprocess, sys

import pytest
import torch.distributed

gloo = torch.distributed.is_available() and torch.distributed.is_gloo_available()
needs_gloo = pytest.mark.skipif(not gloo, reason="this torch has no torch.distributed with gloo")

SCRIPT = '''
import json, sys
from pathlib import Path

import numpy as np
import torch.distributed
from accelerate import PartialState

from motionbench.core.motion import Motion
from motionbench.vqvae.config import load_config
from motionbench.vqvae.data import make_data
from motionbench.vqvae.train import train_vqvae

rank, out, settings, t = PartialState(cpu=True).process_index, Path(sys.argv[1]), json.loads(sys.argv[2]), np.arange(60)/30
swing = lambda f: Motion(30, np.c_[t, 0*t, 0*t + 1], np.tile([1., 0, 0, 0], (60, 1)), 0.5*np.sin(f*t[:, None] + np.arange(3)), ("hip", "knee", "ankle"), "leg")
clips = {"slow": swing(3), "fast": swing(7)}
c = load_config(width=16, code_dim=8, nb_code=16, window_size=16, batch_size=8, total_iter=10, warmup_iter=2, print_iter=10, save_every=5, validation=0, **settings)
data = make_data(clips, c)
about = lambda done: dict(digest=done.tokenizer.digest, loss=done.log[-1]["loss"], iterations=done.log[-1]["iter"])
whole = train_vqvae(data, c, out/f"out_{rank}")
train_vqvae(data, c, out/"parts", stop=lambda i: i == 5)
torch.distributed.barrier()
parts = train_vqvae(data, c, out/"parts", resume=True)
(out/f"rank_{rank}.json").write_text(json.dumps(dict(processes=torch.distributed.get_world_size(), whole=about(whole), parts=about(parts))))
'''


def on_two(folder, **settings):
    "What each of two processes says of its training."
    (folder/"train.py").write_text(SCRIPT)
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2", "train.py", str(folder), json.dumps(settings)]
    done = subprocess.run(run, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads((folder/f"rank_{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    "The folder of a training with the default quantizer, and what its processes say."
    folder = tmp_path_factory.mktemp("two")
    return folder, *on_two(folder)


def same_weights(a, b):
    "Both processes did all iterations and have the same weights, from different windows."
    return a["iterations"] == b["iterations"] == 10 and a["digest"] == b["digest"] and a["loss"] != b["loss"]


@needs_gloo
def test_two_processes_end_with_the_same_weights_and_one_writes(trained):
    folder, first, second = trained
    assert first["processes"] == second["processes"] == 2 and same_weights(first["whole"], second["whole"])
    assert sorted(p.name for p in (folder/"out_0").iterdir()) == ["log.jsonl", "state.pt", "tokenizer.safetensors"] and not (folder/"out_1").exists()


@needs_gloo
def test_two_resumed_processes_end_as_if_never_stopped(trained):
    folder, first, second = trained
    assert same_weights(first["parts"], second["parts"]) and first["parts"]["digest"] == first["whole"]["digest"]


@needs_gloo
def test_residual_books_on_two_processes(tmp_path):
    first, second = on_two(tmp_path, quantizer="rvq", num_quantizers=2)
    assert same_weights(first["whole"], second["whole"])
