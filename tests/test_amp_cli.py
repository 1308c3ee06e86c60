"The guide's six steps with our commands, and what the commands refuse."
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from motionbench.amp.files import read_amp
from motionbench.cli import main
from motionbench.core.gait import bundled_clips
from motionbench.core.robot import ASSETS
from motionbench.io.native import write_npz

CONFIG = ASSETS/"biped/robot_config.yaml"


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    "Call the command in a folder of its own: exit code, output, errors."
    monkeypatch.chdir(tmp_path)
    def call(*words):
        try: code = main([str(w) for w in words])
        except SystemExit as e: code = e.code
        return code, *capsys.readouterr()
    return call


@pytest.fixture(scope="module")
def amass(tmp_path_factory):
    "A folder as a download has it: two walks among other things."
    folder = tmp_path_factory.mktemp("KIT")
    for name, clip in (("3/walking_slow01", "walk"), ("3/walking_turn02", "turn"), ("7/wave01", "wave"), ("7/run03", "run")):
        (folder/name).parent.mkdir(exist_ok=True)
        write_npz(bundled_clips()[clip], folder/f"{name}.npz")
    return folder


def test_the_guide_from_mocap_to_the_training_config(cli, amass):
    code, out, err = cli("retarget", amass, "--robot", "biped", "--out", "motions", "--include", "walking_*", "--json")
    assert code == 0 and [r["clip"] for r in json.loads(out)["clips"]] == ["3/walking_slow01", "3/walking_turn02"], err
    code, out, err = cli("amp", "convert", "--robot-config", CONFIG, "--input-dir", "motions", "--output-dir", "data", "--target_fps", "50", "--merged-output", "walking_motions_merged.pkl")
    assert code == 0 and "data/walking_motions_merged.pkl: 2 clips, 402 frames of 29 features at 50 fps" in out, err
    assert {p.name for p in Path("data/3").iterdir()} == {f"walking_{n}_amp{s}" for n in ("slow01", "turn02") for s in (".npz", ".pkl", ".joint_order.json")}
    code, out, err = cli("amp", "normalize", "data/walking_motions_merged.pkl")
    assert code == 0 and "0 of 402 frames (0.0 %) became zero vectors" in out
    data = pickle.loads(Path("data/walking_motions_normalized_vel.pkl").read_bytes())
    assert data["features"].shape == (402, 29) and data["feature_dim"] == 29 and data.get("velocity_normalized") is True
    import yaml
    assert data["joint_names"] == yaml.safe_load(CONFIG.read_text())["actuators"]["joints"]                 # the guide's last check
    code, out, err = cli("amp", "verify", "data/walking_motions_normalized_vel.pkl", "--robot-config", CONFIG, "--no-audit")
    assert code == 0 and "dataset_path: data/walking_motions_normalized_vel.pkl" in out and "amp_feature_dim: 29" in out, out + err


@pytest.fixture
def motions(cli, amass):
    assert cli("retarget", amass, "--robot", "biped", "--out", "motions", "--include", "walking_*,run*")[0] == 0


def test_copies_layouts_and_thresholds_on_the_command_line(cli, motions):
    code, out, err = cli("amp", "convert", "motions/3/walking_slow01.npz", "--out", "a.npz", "--mirror", "--speeds", "0.8,1.2", "--warps", "1", "--json")
    assert code == 0 and json.loads(out) == dict(file="a.npz", frames=2*(201 + 251 + 167 + 201), dim=29, fps=50.0, clips=8, layout="exact")
    code, out, err = cli("amp", "convert", "motions/3/walking_slow01.npz", "--out", "b.pkl", "--layout", "isaaclab-humanoid", "--key-bodies", "left_foot,right_foot", "--json")
    assert code == 0 and json.loads(out)["dim"] == 18 + 1 + 6 + 6 + 6
    code, out, err = cli("amp", "convert", "motions/3/walking_slow01.npz", "--out", "c.npz", "--contacts", "none", "--json")
    assert code == 0 and json.loads(out)["dim"] == 25
    code, out, err = cli("amp", "convert", "motions", "--out", "data", "--include", "7/*", "--json")
    assert code == 0 and [r["clip"] for r in json.loads(out)["clips"]] == ["7/run03"]


def test_merging_with_weights_and_reporting(cli, motions):
    assert cli("amp", "convert", "motions", "--out", "data")[0] == 0
    code, out, err = cli("amp", "merge", "data", "--out", "data/all.npz", "--weight", "run03_amp=3", "--json")
    assert code == 2 and "a weight is given for run03_amp, but the clips are 3/walking_slow01" in err
    code, out, err = cli("amp", "merge", "data", "--out", "data/all.npz", "--weight", "7/run03=3", "--json")
    assert code == 0 and json.loads(out)["names"] == ["3/walking_slow01", "3/walking_turn02", "7/run03"], err
    for name in ("data/all.npz", "whole.npz", "data/more.pkl"):                                            # results of earlier merges are no sources, and that is said
        code, out, err = cli("amp", "merge", "data", "--out", name, "--validation", "0.3", "--json")
        assert code == 0 and json.loads(out)["clips"] == 3 and "data/all.npz" in err and "a merged dataset" in err
    code, out, err = cli("amp", "merge", "data/3", "data/7", "--out", "parts.npz", "--validation", "0.3", "--json")
    train, validation = (read_amp(f"parts_{k}.npz") for k in ("train", "validation"))
    assert code == 0 and len(train) + len(validation) == 553 and {c.name for c in train.clips}.isdisjoint(c.name for c in validation.clips)
    code, out, err = cli("amp", "report", "data/all.npz", "--command", "0.5,1.0", "--out", "all.png")
    assert code == 0 and "within the commanded 0.5 to 1 m/s" in out and "root_linear_velocity" in out and Path("all.png").read_bytes()[:4] == b"\x89PNG"
    code, out, err = cli("amp", "export", "data/all.npz", "--to", "isaaclab", "--out", "lab", "--json")
    assert code == 0 and len(json.loads(out)["files"]) == 3 and Path("lab/7/run03.npz").exists()
    with np.load("lab/7/run03.npz") as f: assert f["dof_names"].shape == (9,) and f["body_rotations"].shape == (151, 10, 4)


@pytest.mark.parametrize("words, message", [
    (["convert", "motions/7/run03.npz", "--out", "a.csv"], "written as .npz or .pkl"), (["convert", "motions/7/run03.npz", "--layout", "amp"], "layout is 'amp', expected exact, wildrobot-v1"),
    (["convert", "motions/7/run03.npz", "--contacts", "heuristic"], "contact rule of exact is 'heuristic', expected sole or none"), (["convert", "motions", "--out", "d", "--include", "jump*"], "fits 'jump*'"),
    (["convert", "motions/7/run03.npz", "--speeds", "fast"], "'fast' are no numbers"), (["convert", "motions/7/run03.npz", "--merged-output", "a.pkl"], "is for a folder"),
    (["convert", "motions", "--out", "d", "--merged-output", "a.csv"], "not as .csv"), (["convert", "motions/7/run03.npz", "--robot-config", "none.yaml"], "no such robot config"),
    (["merge", "motions", "--out", "a.npz"], "lacks features"), (["merge", "nowhere", "--out", "a.npz"], "no such file or folder"), (["normalize"], "name an AMP file"),
    (["verify", "motions/7/run03.npz"], "lacks features"), (["report", "motions/7/run03.npz", "--command", "1,0"], "is no range"), (["verify", "motions/7/run03.npz", "--disc-acc", "0.9"], "name its rollouts with --policy"),
    (["merge", "motions/7/run03.npz", "--out", "a.npz", "--validation", "1.5"], "1.5 is no share"), (["normalize", "motions/7/run03.npz", "--mode", "raw"], "say with --output")])
def test_what_the_commands_refuse(cli, motions, words, message):
    code, out, err = cli("amp", *words)
    assert code == 2 and message in err and len(err.strip().splitlines()) == 1, err
    assert not [p for p in Path(".").rglob("*") if p.name.startswith("a.")]


def test_nothing_is_written_over_what_was_read(cli, motions):
    before = Path("motions/7/run03.npz").read_bytes()
    code, out, err = cli("amp", "convert", "motions", "--out", "data", "--merged-output", "motions/7/run03.npz")
    assert code == 2 and "is in the folder that is read" in err and Path("motions/7/run03.npz").read_bytes() == before
    assert cli("amp", "convert", "motions/7/run03.npz", "--out", "run.npz")[0] == 0
    code, out, err = cli("amp", "export", "run.npz", "--to", "npz", "--out", "motions/7")
    assert code == 2 and "is there already" in err and Path("motions/7/run03.npz").read_bytes() == before
    assert read_amp("run.npz").clips[0].name == "run03"                                                    # of the file, not of the recording


def test_bad_requests_for_a_folder_are_refused_once(cli, motions):
    for words, message in ((["--layout", "zz"], "layout is 'zz'"), (["--layout", "amp-rsl-rl", "--contacts", "sole"], "contact rule of amp-rsl-rl"), (["--speeds", "99"], "speed factor 99"),
                           (["--layout", "mimickit", "--key-bodies", "nope", "--robot", "biped"], "key bodies nope")):
        code, out, err = cli("amp", "convert", "motions", "--out", "data", *words)
        assert code == 2 and message in err and len(err.strip().splitlines()) == 1 and not Path("data/3").exists(), err


def test_mixed_rates_and_layouts_are_not_merged(cli, motions):
    for name, more in (("a", []), ("b", ["--fps", "30"]), ("c", ["--layout", "wildrobot-v2"])): assert cli("amp", "convert", "motions/7/run03.npz", "--out", f"{name}.npz", *more)[0] == 0
    for other, words in (("b", "fps is 50.0 against 30.0"), ("c", "layout is exact against wildrobot-v2")):
        code, out, err = cli("amp", "merge", "a.npz", f"{other}.npz", "--out", "all.npz")
        assert code == 2 and words in err and not Path("all.npz").exists()


def test_a_clip_that_fails_stops_the_merge_but_not_the_others(cli, motions):
    Path("motions/7/bad.npz").write_bytes(b"PK broken")
    code, out, err = cli("amp", "convert", "motions", "--out", "data", "--merged-output", "all.pkl", "--json")
    assert code == 1 and len(json.loads(out)["clips"]) == 3 and json.loads(out)["failed"][0]["clip"] == "7/bad"
    assert not Path("data/all.pkl").exists() and "all.pkl is not written, because clips are missing" in err and Path("data/7/run03_amp.npz").exists()


def test_verify_ends_with_one_when_a_check_fails(cli, motions):
    assert cli("amp", "convert", "motions/7/run03.npz", "--out", "a.npz")[0] == 0
    with np.load("a.npz") as f: data = dict(f)
    data["features"][:, 9:18] /= 50
    np.savez("bad.npz", **data)
    code, out, err = cli("amp", "verify", "bad.npz", "--no-audit", "--json")
    found = json.loads(out)
    assert code == 1 and not found["passed"] and [c["remedy"] for c in found["checks"] if c["result"] == "fail"] == ["The values are per frame, not per second"]
    other = CONFIG.read_text().replace("joints: [waist_yaw, left_hip_pitch", "joints: [left_hip_pitch, waist_yaw", 1)
    Path("other.yaml").write_text(other)
    code, out, err = cli("amp", "verify", "a.npz", "--robot-config", "other.yaml", "--robot", "biped", "--no-audit")
    assert code == 1 and "the same joints in another order: column 0 is waist_yaw, the config has left_hip_pitch" in out


def test_a_short_training_and_the_leaks_of_its_policy(cli, motions):
    "The whole circle: data, training, rollouts in the data's layout, and what gives the policy away."
    assert cli("amp", "convert", "motions", "--out", "data", "--include", "3/*", "--merged-output", "walks.npz")[0] == 0
    code, out, err = cli("amp", "train", "data/walks.npz", "--steps", "32", "--num-envs", "4", "--out", "trained", "--rollouts", "rollouts.npz", "--json")
    found = json.loads(out)
    assert code == 0 and found["updates"] == 2 and 0.02 < found["untrained"]["pose_error"] < 1 and sorted(p.name for p in Path("trained").iterdir()) == ["training.json", "weights.safetensors"], err
    policy = read_amp("rollouts.npz")
    assert policy.layout == read_amp("data/walks.npz").layout and len(policy.clips) == 16 and policy.clips[0].source["steps"]
    code, out, err = cli("amp", "verify", "data/walks.npz", "--policy", "rollouts.npz", "--disc-acc", "0.98", "--no-audit", "--json")
    found = json.loads(out)
    assert code == 1 and found["passed"] and "root_linear_velocity" in found["leaking"] and any("constant" in line for line in found["diagnosis"])     # a robot on a stand does not move its root
    code, out, err = cli("amp", "train", "data/walks.npz", "--steps", "-1")
    assert code == 2 and "steps is -1" in err
