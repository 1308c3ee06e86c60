"The command line: speed, bad input, the guides' flags, and `run` from end to end."
import json, os, pickle, shutil, subprocess, sys
from pathlib import Path

import numpy as np
import pytest

from motionbench.cli import main

DATA = Path(os.environ.get("MOTIONBENCH_TEST_DATA", Path(__file__).parents[1]/"../shared/data")).resolve()
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no test data in {DATA}; set MOTIONBENCH_TEST_DATA")


@pytest.fixture
def cli(capsys, tmp_path, monkeypatch):
    "Run a command in an empty folder: exit code, standard output, standard error."
    monkeypatch.chdir(tmp_path)
    def call(*words):
        try: code = main([str(w) for w in words])
        except SystemExit as e: code = e.code
        out = capsys.readouterr()
        return code, out.out, out.err
    return call


def test_help_is_fast_and_imports_nothing_heavy():
    code = "import sys, time; t = time.perf_counter(); from motionbench.cli import main\n" \
           "try: main(['--help'])\nexcept SystemExit: pass\n" \
           "heavy = [m for m in ('numpy', 'scipy', 'torch', 'mujoco', 'matplotlib', 'IPython', 'papermill', 'pydantic', 'yaml', 'smplx', 'joblib') if m in sys.modules]\n" \
           "assert not heavy, heavy\nassert time.perf_counter() - t < 0.5"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("words, says", [
    (["run", "--inptu", "x"], "did you mean --input?"), (["dance"], "invalid choice"), (["run", "--fps", "fast"], "no frame rate"), (["run", "--n-jobs", "0"], "no positive whole number"),
    (["run", "--input", "nowhere"], "no such file or folder"), (["run", "nowhere.yaml"], "no such pipeline file"), (["run", "-p", "retarget.solvr=x"], "did you mean 'solver'?"),
    (["run", "-p", "retarget.fps=fast"], "float | None"), (["run", "-p", "polish.x=1"], "the steps are retarget, audit, amp"), (["run", "--robot", "unitree_g7"], "unknown robot 'unitree_g7'"),
    (["run", "--resume"], "no run to resume"), (["retarget"], "name a file or folder"), (["retarget", "a.bvh", "--bvh_file", "b.bvh"], "once, not"), (["audit", "nowhere"], "no such file")])
def test_bad_usage_is_one_line_and_code_2(cli, tmp_path, words, says):
    code, out, err = cli(*words)
    assert code == 2 and says in err and len(err.strip().splitlines()) == 1 and "Traceback" not in err, err
    assert not (tmp_path/"out"/"retarget").exists(), "nothing ran"


def test_errors_have_a_traceback_only_on_request(cli, monkeypatch):
    monkeypatch.setenv("MOTIONBENCH_DEBUG", "1")
    with pytest.raises(ValueError, match="no such file"): cli("inspect", "nowhere.bvh")


# ---- bad input

class Bomb:
    def __reduce__(self): return os.system, ("touch bomb_went_off",)


def bad_files(folder):
    "The bad inputs of the issue, each with a word its error must hold."
    good = (DATA/"mocap/cmu/02_01.bvh").read_text().splitlines()
    start = next(i for i, line in enumerate(good) if line.startswith("Frame Time")) + 1
    head, frames = good[:start], good[start:start + 40]
    amass = {"poses": np.zeros((20, 165)), "trans": np.zeros((20, 3)), "betas": np.zeros(16), "gender": "neutral", "mocap_frame_rate": 30.0, "surface_model_type": "smplx",
             "root_orient": np.zeros((20, 3)), "pose_body": np.zeros((20, 63))}
    count = [f"Frames: {len(frames)}" if line.startswith("Frames:") else line for line in head]
    one = ["Frames: 1" if line.startswith("Frames:") else line for line in head]
    write = lambda name, lines: (folder/name).write_text("\n".join(lines) + "\n")
    (folder/"empty.bvh").write_text("")
    write("truncated.bvh", count + frames[:20] + [" ".join(frames[20].split()[:7])])
    write("nan.bvh", count + frames[:10] + [" ".join(["nan", *frames[10].split()[1:]])] + frames[11:])
    names = {w for line in head for w in [line.split()[-1]] if line.strip().startswith(("ROOT", "JOINT"))}
    text = "\n".join(count + frames)
    for i, n in enumerate(sorted(names, key=len, reverse=True)): text = text.replace(f" {n}\n", f" bone{i}\n")
    (folder/"skeleton.bvh").write_text(text)
    write("oneframe.bvh", one + frames[1:2])
    np.savez(folder/"nofps.npz", **{k: v for k, v in amass.items() if k != "mocap_frame_rate"})
    (folder/"bomb.pkl").write_bytes(pickle.dumps({"fps": 30, "root_pos": Bomb(), "root_rot": 0, "dof_pos": 0}))
    return {"empty.bvh": "empty", "truncated.bvh": "line", "nan.bvh": "nan", "skeleton.bvh": "joint", "oneframe.bvh": "frame", "nofps.npz": "rate", "bomb.pkl": "refused"}


def zero_quaternion(path):
    "Our own robot clip with a quaternion of length zero."
    from motionbench.core.robot import load_robot
    from motionbench.io.native import write_npz
    biped = load_robot("biped")
    write_npz(biped.motion(np.tile(biped.model.qpos0, (30, 1)), 30.0), path)
    arrays = dict(np.load(path))
    arrays["root_quat"][3] = 0
    np.savez(path, **arrays)


@needs_data
def test_each_bad_file_is_one_clear_error(cli, tmp_path):
    (tmp_path/"in").mkdir()
    words = bad_files(tmp_path/"in")
    for name, word in words.items():
        code, out, err = cli("retarget", f"in/{name}", "--robot", "biped", "--save_path", "result.pkl")
        assert code == 2 and len(err.strip().splitlines()) == 1 and name in err and word in err.lower(), (name, err)
    code, out, err = cli("retarget", "in/missing.bvh", "--robot", "biped", "--save_path", "result.pkl")
    assert code == 2 and "no such file" in err and len(err.strip().splitlines()) == 1
    zero_quaternion(tmp_path/"zero.npz")
    for command in (["audit", "zero.npz"], ["amp", "convert", "zero.npz", "--output", "result.pkl"]):
        code, out, err = cli(*command)
        assert code == 2 and "unit quaternion" in err and "frame 3" in err and len(err.strip().splitlines()) == 1, err
    config = json.loads((DATA/"gmr/ik_configs/smplx_to_g1.json").read_text())
    for name in ("ik_match_table1", "ik_match_table2"): config[name]["left_flipper_link"] = config[name].pop("left_knee_link")
    (tmp_path/"config.json").write_text(json.dumps(config))
    code, out, err = cli("retarget", DATA/"mocap/cmu/02_01.bvh", "--robot", DATA/"gmr/robots/unitree_g1_gmr.xml", "--config", "config.json", "--save_path", "result.pkl")
    assert code == 2 and "left_flipper_link" in err and len(err.strip().splitlines()) == 1, err
    left = [p.name for p in tmp_path.rglob("*") if p.is_file() and p.parent.name != "in"]
    assert sorted(left) == ["config.json", "zero.npz"], "no half-written file, and the bomb did not go off"


@needs_data
def test_bad_files_of_a_folder_are_listed_and_the_rest_is_made(cli, tmp_path):
    (tmp_path/"in/deep").mkdir(parents=True)
    words = bad_files(tmp_path/"in")
    shutil.copy(DATA/"mocap/bandai/dataset-2_run_normal_001.bvh", tmp_path/"in/deep/run.bvh")
    (tmp_path/"in/notes.txt").write_text("two roads diverged")
    code, out, err = cli("run", "--input", "in", "--robot", "biped", "--out", "result", "--json", "--n-jobs", "1")
    summary = json.loads(out)
    assert code == 1
    assert [(r["clip"], r["robot"]) for r in summary["clips"]] == [("deep/run", "biped")]
    failed = {Path(r["file"]).name: r["error"] for r in summary["failed"]}
    assert set(failed) | {r["file"] for r in summary["skipped"]} == {*words, "notes.txt"}
    assert all(word in failed[name].lower() and "\n" not in failed[name] for name, word in words.items() if name in failed)
    assert set(words) - set(failed) <= set(), "what claims to be motion is a failure, not something else"
    made = sorted(p.relative_to(tmp_path/"result").as_posix() for p in (tmp_path/"result").rglob("*") if p.is_file() and ".motionbench" not in p.parts)
    assert made == sorted(["summary.json", "summary.md", *(f"reports/{n}.ipynb" for n in ("10_retarget", "20_audit", "30_amp")),
                           *(f"retarget/biped/deep/run.{s}" for s in ("npz", "pkl")), *(f"audit/biped/deep/run.{s}" for s in ("json", "png")),
                           *(f"amp/biped/deep/run_amp.{s}" for s in ("npz", "pkl", "joint_order.json"))])
    assert not (tmp_path/"bomb_went_off").exists()
