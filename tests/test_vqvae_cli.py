"The guide's training and the way to tokens and back with our commands, and what the commands refuse."
import json
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from motionbench.cli import main
from motionbench.core.gait import bundled_clips
from motionbench.core.motion import concatenate
from motionbench.core.robot import load_robot
from motionbench.io.arrays import write_motionvqvae
from motionbench.io.native import write_npz
from motionbench.io.registry import read_motion
from motionbench.retarget.clip import retarget
from motionbench.vqvae.checkpoint import load_tokenizer
from motionbench.vqvae.config import load_config
from motionbench.vqvae.data import read_data
from motionbench.vqvae.metrics import motion_errors
from motionbench.vqvae.pages import joint_pairs, liveliest, report_figure, report_page, some_of
from motionbench.vqvae.report import report_dict, report_table, vqvae_report
from motionbench.vqvae.tokens import read_tokens
from motionbench.vqvae.train import train_vqvae

TINY = ("--set", "width=16", "code_dim=8", "nb_code=16", "depth=1", "batch_size=8", "total_iter=20", "print_iter=10", "val_every=10", "save_every=10", "warmup_iter=2")


def call(*words):
    try: return main([str(w) for w in words])
    except SystemExit as e: return e.code


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    "Call the command in a folder of its own, its figure a blank: exit code, output, errors."
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("motionbench.vqvae.pages.picture_bytes", lambda report: b"blank")
    return lambda *words: (call("vqvae", *words), *capsys.readouterr())


@pytest.fixture(scope="module")
def biped(): return load_robot("biped")


@pytest.fixture(scope="module")
def motions(biped): return {n: retarget(bundled_clips()[n], biped, fps=30) for n in ("walk", "run", "turn")}


@pytest.fixture(scope="module")
def clips(motions, tmp_path_factory):
    "A folder of three clips, one of them in a folder below."
    folder = tmp_path_factory.mktemp("clips")
    for name, motion in motions.items(): write_npz(motion, folder/("more" if name == "turn" else ".")/f"{name}.npz")
    return folder


@pytest.fixture(scope="module")
def trained(clips, tmp_path_factory):
    "The folder of a training."
    out = tmp_path_factory.mktemp("trained")/"out"
    assert call("vqvae", "train", clips, "--out", out, *TINY) == 0
    return out


@pytest.fixture(scope="module")
def tokens(clips, trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("tokens")
    assert call("vqvae", "encode", trained/"tokenizer.safetensors", clips, "--out", out) == 0
    return out


def refused(result, *said):
    "One clear line, exit code 2."
    code, out, err = result
    assert code == 2 and len(err.strip().splitlines()) == 1 and "internal error" not in err and all(s in err for s in said), (code, err)


def test_training_leaves_tokenizer_log_and_report(trained, clips):
    assert (trained/"report.png").read_bytes()[:4] == b"\x89PNG" and {p.name for p in trained.iterdir()} == {"tokenizer.safetensors", "log.jsonl", "state.pt", "training.json", "report.json", "report.png", "report.html"}
    report, t = json.loads((trained/"report.json").read_text()), load_tokenizer(trained/"tokenizer.safetensors")
    assert report["tokenizer"]["digest"] == t.digest and [c["clip"] for c in report["clips"]] in (["walk"], ["run"], ["more/turn"])           # one of three is held out
    clip = read_motion(clips/f"{report['clips'][0]['clip']}.npz")
    errors = [motion_errors(clip, t.decode(t.encode(clip, follow=f)), load_robot("biped"))["dof_rmse_rad"] for f in (True, False)]
    assert errors == [pytest.approx(report["total"]["dof_rmse_rad"]), pytest.approx(t.metrics["joint_rmse_rad"], rel=1e-3)]                    # the report measures what encode gives, the training the nearest codes
    assert [json.loads(line)["iter"] for line in (trained/"log.jsonl").read_text().splitlines()] == [10, 10, 20, 20]


def test_resume_needs_no_more_than_the_folder_and_ends_in_the_same_weights(cli, clips, trained):
    config = load_config(None, **dict(w.split("=") for w in TINY[1:]))
    train_vqvae(read_data(clips, config), config, "half", robot=load_robot("biped"), stop=lambda i: i == 10)
    shutil.copy(trained/"training.json", "half")
    code, out, err = cli("train", "--out", "half", "--resume", "--json")
    assert code == 0 and json.loads(out)["iterations"] == 20, err
    assert json.loads(out)["tokenizer"] == load_tokenizer(trained/"tokenizer.safetensors").digest
    refused(cli("train", "--out", "nowhere", "--resume"), "nothing to resume in nowhere")
    refused(cli("train", "--out", "half", "--resume", "--set", "lr=0.1"), "lr was 0.001, is 0.1")
    assert json.loads(Path("half/training.json").read_text()) == json.loads((trained/"training.json").read_text())        # what was refused left no trace


def run_until(iteration, sent, out, *words):
    "The command in a process of its own, which gets a signal once its log has the iteration: its exit code."
    code = ("import sys, time; from motionbench.cli import main; from motionbench.vqvae import train; step = train._Run.step\n"
            "train._Run.step = lambda *a: (time.sleep(0.03), step(*a))[1]\n"                                                                       # slow enough for the signal to find it at work
            "sys.exit(main(sys.argv[1:]))")
    process, log = subprocess.Popen([sys.executable, "-c", code, "vqvae", "train", *map(str, words), "--out", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL), Path(out)/"log.jsonl"
    while process.poll() is None and not (log.is_file() and any(row.startswith(f'{{"iter": {iteration},') for row in log.read_text().splitlines())): time.sleep(0.01)
    process.send_signal(sent)
    return process.wait(60)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_training_that_was_killed_goes_on_with_resume(cli, clips):
    words, at = (clips, *TINY[:6], "total_iter=240", "print_iter=10", "val_every=50", "save_every=20", "warmup_iter=2"), np.random.default_rng().integers(3, 10, 2)*10
    assert cli("train", *words, "--out", "whole")[0] == 0
    assert run_until(at[0], signal.SIGKILL, "parts", *words) == -signal.SIGKILL and run_until(at[0] + at[1], signal.SIGINT, "parts", "--resume") == 130
    assert not Path("parts/report.html").exists()                                                                                              # neither came to its end
    code, out, err = cli("train", "--out", "parts", "--resume", "--json")
    assert code == 0 and json.loads(out)["iterations"] == 240, err
    a, b = (torch.load(f"{out}/state.pt", weights_only=True) for out in ("whole", "parts"))
    assert all(torch.equal(a["model"][k], b["model"][k]) for k in a["model"]), f"interrupted at {at}"
    assert Path("whole/tokenizer.safetensors").read_bytes() == Path("parts/tokenizer.safetensors").read_bytes()


def test_the_guides_command_line(cli, motions):
    write_motionvqvae(concatenate([m for m in motions.values()], boundaries=True), "motion.npy")
    Path("configs").mkdir()
    Path("configs/agent.yaml").write_text("agent:\n  config:\n    batch_size: 8\n    window_size: 32\n    total_iter: 6\n    lr: 2e-4\n    code_dim: 8\n    nb_code: 16\n    num_joints: 24\n    prefer_expmap: false\n"
                                          "    apply_sim_to_real_map: false\n    real_dof: null\n    sim_to_real_idx: null\n    width: 16\n    use_wandb: false\n")
    code, out, err = cli("train", "--motion_file", "motion.npy", "--config", "configs/agent.yaml", "--robot", "biped")
    assert code == 0 and "6 iterations on 3 clips of 3 motions, 11 s of motion, 9 joints of biped" in out and "vqvae_training/report.html" in out, out + err
    assert "num_joints has no effect" in err and json.loads(Path("vqvae_training/training.json").read_text())["config"]["lr"] == 2e-4
    refused(cli("train", "--motion_file", "motion.npy", "--config", "configs/agent.yaml"), "holds a training")
    code, out, err = cli("train", "--motion_file", "motion.npy", "--config", "configs/agent.yaml", "--out", "numbered")    # the guide's command as it is: joints by number, no robot
    assert code == 0 and "no report" in out and load_tokenizer("numbered/tokenizer.safetensors").layout.joint_names[0] == "dof_0", out + err
    code, out, err = cli("train", "motion.npy", "--robot", "biped", "--out", "steps", *TINY, "layout=robot50", "total_iter=2", "--json")
    assert code == 0 and "neither height nor tilt of the root" in json.loads(out)["no_report"] and Path("steps/tokenizer.safetensors").is_file(), err


def test_bundled_clips_need_only_a_robot(cli):
    refused(cli("train"), "name motion files or folders, or with --robot NAME alone")
    code, out, err = cli("train", "--robot", "biped", "--out", "own", *TINY[:7], "total_iter=2", "--json")
    assert code == 0 and len(json.loads(out)["held_out"]) == 1 and len(list(Path("own/retarget/biped").glob("*.npz"))) == len(bundled_clips()), err


def test_there_and_back_in_any_format(cli, clips, trained, tokens, motions):
    assert sorted(p.relative_to(tokens).as_posix() for p in tokens.rglob("*.npz")) == ["more/turn.npz", "run.npz", "walk.npz"]
    code, out, err = cli("decode", trained/"tokenizer.safetensors", tokens, "--out", "decoded")
    again = read_motion("decoded/more/turn.npz")
    assert code == 0 and len(again) == len(motions["turn"]) and again.joint_names == motions["turn"].joint_names, err
    np.testing.assert_allclose(again.root_pos[0, :2], motions["turn"].root_pos[0, :2], atol=1e-6)
    t = load_tokenizer(trained/"tokenizer.safetensors")
    np.testing.assert_allclose(again.dof_pos, t.decode(t.encode(motions["turn"])).dof_pos, atol=1e-5)
    code, out, err = cli("decode", trained/"tokenizer.safetensors", tokens/"walk.npz", "--out", "gmr", "--format", "gmr", "--json")
    assert code == 0 and json.loads(out)["clips"][0]["out"] == "gmr/walk.pkl" and len(read_motion("gmr/walk.pkl", robot=load_robot("biped"))) == len(motions["walk"])
    refused(cli("decode", trained/"tokenizer.safetensors", tokens, "--out", tokens), "would overwrite its tokens")
    refused(cli("decode", trained/"tokenizer.safetensors", tokens, "--out", "x", "--to", "nonsense"), "nonsense")
    refused(cli("encode", trained/"tokenizer.safetensors", clips, "--out", clips), "would overwrite a motion")


def test_a_clip_that_fails_is_named_and_the_others_go_on(cli, clips, trained, motions):
    shutil.copytree(clips, "mixed")
    write_npz(retarget(bundled_clips()["run"], load_robot("biped"), fps=50), "mixed/fast.npz")
    Path("mixed/broken.npz").write_bytes((clips/"walk.npz").read_bytes()[:3000])
    Path("mixed/notes.txt").write_text("not a motion")
    code, out, err = cli("encode", trained/"tokenizer.safetensors", "mixed", "--out", "tokens", "--json")
    failed = [row["file"] for row in json.loads(out)["failed"]]
    assert code == 1 and len(json.loads(out)["clips"]) == 3 and sorted(map(lambda f: Path(f).name, failed)) == ["broken.npz", "fast.npz"] and "skipped notes.txt" in err and "--resample" in err
    code, out, err = cli("encode", trained/"tokenizer.safetensors", "mixed/fast.npz", "--out", "tokens", "--resample")
    assert code == 0 and read_tokens("tokens/fast.npz").fps == 30
    code, out, err = cli("report", trained/"tokenizer.safetensors", "mixed", "--include", "walk*,fast*,broken*", "--json")
    assert code == 1 and [c["clip"] for c in json.loads(out)["clips"]] == ["walk"] and len(json.loads(out)["failed"]) == 2
    assert any(row["error"].startswith("fast: the clip has 50 fps, the tokenizer 30") for row in json.loads(out)["failed"])                  # named once
    Path("mixed/fast.npz").unlink()
    code, out, err = cli("train", "mixed", "--out", "mixed/out", *TINY[:7], "total_iter=2")
    assert code == 1 and "on 3 clips of 3 motions" in out and "failed mixed/broken.npz" in err
    refused(cli("train", "mixed", "--out", "mixed/out", *TINY[:7], "total_iter=2"), "holds a training")
    Path("mixed/out/state.pt").unlink(), Path("mixed/out/tokenizer.safetensors").unlink()
    code, out, err = cli("train", "mixed", "--out", "mixed/out", *TINY[:7], "total_iter=2", "--json")                                        # its own results are no source
    assert code == 1 and len(json.loads(out)["failed"]) == 1 and not any("out/" in row["file"] for row in json.loads(out)["skipped"])


def test_report_of_clips(cli, clips, trained):
    code, out, err = cli("report", trained/"tokenizer.safetensors", clips, "--out", "report")
    assert code == 0 and "bit/s: a token of 4 bits (16 codes) for 4 frames at 30 fps" in out and out.count("\nall ") == 1, err
    assert {p.name for p in Path("report").iterdir()} == {"report.json", "report.png", "report.html"}
    html = Path("report/report.html").read_text()
    assert html.count('class="motionbench-player"') == 3 and "http://" not in html.partition("<script")[0]
    made = json.loads(Path("report/report.json").read_text())
    assert len(made["clips"]) == 3 and sum(c["tokens"] for c in made["clips"]) == made["tokens"]["tokens"]
    assert made["total"]["dof_max_rad"] == max(c["dof_max_rad"] for c in made["clips"])


def test_report_knows_a_perfect_tokenizer(trained, motions, biped, monkeypatch):
    t = load_tokenizer(trained/"tokenizer.safetensors")
    real = vqvae_report(t, motions.items(), biped)
    monkeypatch.setattr(type(t), "decode", lambda self, tokens: next(m for m in motions.values() if len(m) == tokens.frames and np.allclose(m.root_pos[0, :2], tokens.start[:2])))
    same = vqvae_report(t, [("run", motions["run"])], biped)
    assert same.total["dof_max_rad"] == same.total["mpjpe_world_mm"] == 0 and same.total["penetration_max_cm"] == same.total["penetration_reference_max_cm"]
    assert real.total["dof_rmse_rad"] > 0.05 and [c.name for c in real.ranked()] != [] and real.ranked()[0].errors["dof_rmse_rad"] == min(c.errors["dof_rmse_rad"] for c in real.clips)
    assert len(report_table(same)) == 1 and len(report_table(real)) == 4 and report_dict(same)["clips"][0]["frames"] == len(motions["run"])


def test_figure_leaves_out_what_is_not_known(trained, motions, biped):
    import matplotlib.pyplot as plt
    t = load_tokenizer(trained/"tokenizer.safetensors")
    without, log = vqvae_report(t, motions.items(), biped), [json.loads(line) for line in (trained/"log.jsonl").read_text().splitlines()]
    for report, axes in ((without, 6), (vqvae_report(t, motions.items(), biped, log), 8)):
        fig = report_figure(report)
        assert len(fig.axes) == axes
        plt.close(fig)
    assert joint_pairs(("left_knee_pitch", "waist_yaw_joint", "right_knee_pitch", "LeftElbow")) == {"knee pitch": {"left": 0, "right": 2}, "waist yaw": {"": 1}, "Elbow": {"left": 3}}
    lively = liveliest(motions["walk"])
    assert len(lively) == 4 and len({motions["walk"].joint_names[j].split("_", 1)[1] for j in lively}) == 4
    assert some_of([1, 2, 3, 4, 5, 6, 7], 3) == [7, 4, 1] and some_of([1, 2], 4) == [2, 1] and some_of([1, 2, 3], 1) == [3]


def test_generated_motion_has_the_length_and_repeats_with_the_seed(cli, trained, tokens):
    for seed, name in ((1, "a"), (1, "b"), (2, "c")):
        code, out, err = cli("generate", trained/"tokenizer.safetensors", tokens, "--seconds", 2.5, "--seed", seed, "--out", f"{name}.npz")
        assert code == 0 and "76 frames at 30 fps, 19 tokens" in out, err
    a, b, c = (read_motion(f"{n}.npz") for n in "abc")
    assert a.duration == 2.5 and np.array_equal(a.dof_pos, b.dof_pos) and not np.array_equal(a.dof_pos, c.dof_pos)
    refused(cli("generate", trained/"tokenizer.safetensors", tokens, "--out", "a.csv"), "the format npz is written to .npz")
    assert cli("generate", trained/"tokenizer.safetensors", tokens, "--seconds", "-1", "--out", "a.npz")[0] == 2


def test_bad_input_of_a_training_is_one_line(cli, clips, motions, biped):
    Path("empty").mkdir()
    refused(cli("train", "empty"), "no robot motion here")
    refused(cli("train", "no_such_folder"), "no such file or folder")
    refused(cli("train", clips, "--set", "nb_code=0"), "nb_code is 0")
    Path("bad.yaml").write_text("agent:\n  config:\n    nb_code: 0\n")
    refused(cli("train", clips, "--config", "bad.yaml"), "bad.yaml: nb_code is 0: input should be greater than or equal to 2")
    refused(cli("train", clips, "--set", "nb_codes=64"), "unknown key nb_codes, did you mean nb_code?")
    refused(cli("train", clips, "--set", "seed"), "write KEY=VALUE")
    refused(cli("train", clips, "--config", "no.yaml"), "no.yaml")
    refused(cli("train", clips, *TINY, "window_size=500"), "window_size is 500 frames, but the longest of 3 clips has 121")
    write_npz(motions["walk"].resample(50), "fps/a.npz"), write_npz(motions["run"], "fps/b.npz")
    refused(cli("train", "fps", *TINY), "a has 50 fps, but b has 30", "--resample")
    assert cli("train", "fps", "--resample", "--out", "same", *TINY[:7], "total_iter=2")[0] == 0 and load_tokenizer("same/tokenizer.safetensors").layout.fps == 30
    g1 = load_robot("unitree_g1")
    write_npz(retarget(bundled_clips()["wave"], g1), "fps/c.npz")
    refused(cli("train", "fps/b.npz", "fps/c.npz", *TINY), "c has other joints than b")
    refused(cli("train", "fps/b.npz", "--robot", "unitree_g1", *TINY), "joint")
    write_motionvqvae(motions["run"], "run.npy")
    table = np.load("run.npy")
    table[7, 12] = np.nan
    np.save("nan.npy", table)
    refused(cli("train", "nan.npy", "--robot", "biped", *TINY), "nan.npy: table is nan at frame 7, entry (12,)")
    write_npz(bundled_clips()["walk"], "human.npz")
    refused(cli("train", "human.npz", *TINY), "human motion")
    assert not Path("vqvae_training").exists()                                                                                               # nothing was begun


def test_bad_tokenizers_and_tokens_are_one_line(cli, clips, trained, tokens, motions):
    Path("last.ckpt").write_bytes(pickle.dumps({"model": [1]}))
    refused(cli("encode", "last.ckpt", clips, "--out", "x"), "is a pickle")
    torch.save({"model": torch.zeros(2)}, "renamed.safetensors")
    refused(cli("decode", "renamed.safetensors", tokens, "--out", "x"), "is a pickle, as torch.save writes it", "Train again with motionbench vqvae train")
    refused(cli("report", "gone.safetensors", clips), "no such file")
    refused(cli("decode", clips/"walk.npz", tokens, "--out", "x"), "walk.npz: is no tokenizer")
    Path("empty").mkdir()
    refused(cli("encode", trained/"tokenizer.safetensors", "empty", "--out", "x"), "empty: no robot motion here")
    refused(cli("decode", trained/"tokenizer.safetensors", "empty", "--out", "x"), "empty: holds no token file. motionbench vqvae encode makes them")
    arrays = dict(np.load(clips/"walk.npz"))
    arrays["dof_pos"][3, 2] = np.nan
    np.savez("nan.npz", **arrays)
    refused(cli("encode", trained/"tokenizer.safetensors", "nan.npz", "--out", "x"), "nan.npz: dof_pos is nan at frame 3")
    refused(cli("decode", trained/"tokenizer.safetensors", clips/"walk.npz", "--out", "x"), "walk.npz")
    refused(cli("decode", trained/"tokenizer.safetensors", trained, "--out", "x"), "holds no token file")
    write_npz(retarget(bundled_clips()["wave"], load_robot("unitree_g1"), fps=30), "g1.npz")
    for command in (("encode", "--out", "x"), ("report",)):
        refused(cli(command[0], trained/"tokenizer.safetensors", "g1.npz", *command[1:]), "g1: the clip's joints are not those of the tokenizer (biped): missing waist_yaw", "and 3 more", "give clips of biped, or train one for unitree_g1")
    write_npz(motions["walk"].resample(50), "fast.npz")
    refused(cli("encode", trained/"tokenizer.safetensors", "fast.npz", "--out", "x"), "fast: the clip has 50 fps, the tokenizer 30", "--resample")
    assert cli("train", clips, "--out", "other", *TINY[:7], "total_iter=2")[0] == 0
    refused(cli("decode", "other/tokenizer.safetensors", tokens/"walk.npz", "--out", "x"), "these tokens are of the tokenizer")
    refused(cli("generate", "other/tokenizer.safetensors", tokens, "--out", "x.npz"), "these tokens are of the tokenizer")
