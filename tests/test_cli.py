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
    made = [n for n in made if not n.startswith(("view/model-", "view/player.js"))]
    assert made == sorted(["index.html", "view/biped/deep/run.js", "view/biped/deep/run.jpg", "summary.json", "summary.md", *(f"reports/{n}.ipynb" for n in ("10_retarget", "20_audit", "30_amp")),
                           *(f"retarget/biped/deep/run.{s}" for s in ("npz", "pkl")), *(f"audit/biped/deep/run.{s}" for s in ("json", "png")),
                           *(f"amp/{n}.{s}" for n in ("biped/deep/run_amp", "biped") for s in ("npz", "pkl", "joint_order.json"))])
    assert not (tmp_path/"bomb_went_off").exists()


# ---- run, end to end

@pytest.fixture(scope="module")
def walks(tmp_path_factory):
    "Two short bundled clips as files, in folders, beside a file that is no motion."
    from motionbench.core.gait import walk
    from motionbench.io.native import write_npz
    folder = tmp_path_factory.mktemp("walks")
    for name, speed in (("day1/slow", 0.8), ("day2/fast", 1.4)):
        (folder/name).parent.mkdir()
        write_npz(walk(speed, 1.5), folder/f"{name}.npz")
    (folder/"notes.txt").write_text("two roads diverged")
    return folder


def files(folder):
    "Every visible file below the folder with its date."
    return {p.relative_to(folder).as_posix(): p.stat().st_mtime_ns for p in Path(folder).rglob("*") if p.is_file() and ".motionbench" not in p.parts and not p.name.startswith("summary")}


def test_run_twice_then_lose_a_file_then_change_one(cli, walks, tmp_path):
    shutil.copytree(walks, tmp_path/"in")
    again = ("run", "--input", "in", "--robot", "biped,unitree_g1", "--out", "o")
    code, out, err = cli(*again, "--fps", "30")
    assert code == 0, err
    for word in ("day1/slow", "unitree_g1", "notes.txt", "no known motion format", "audit: "): assert word in out
    first = files("o")
    assert {"retarget/biped/day1/slow.npz", "retarget/unitree_g1/day2/fast.pkl", "audit/biped/day1/slow.json", "audit/biped/day1/slow.png", "amp/unitree_g1/day2/fast_amp.pkl",
            "reports/10_retarget.ipynb", "reports/20_audit.ipynb", "reports/30_amp.ipynb"} <= set(first)
    with open("o/retarget/biped/day1/slow.pkl", "rb") as f: gmr = pickle.load(f)
    assert gmr["fps"] == 30 and gmr["root_rot"].shape[1] == 4 and len(gmr["dof_pos"]) == 46
    with open("o/amp/biped/day1/slow_amp.pkl", "rb") as f: assert pickle.load(f)["features"].shape == (46, 29)

    code, out, err = cli(*again, "--fps", "30")
    assert code == 0 and out.count("up to date") == 3 and files("o") == first
    code, out, err = cli("run", "--resume", "--out", "o")
    assert code == 0 and out.count("up to date") == 3, "a resumed run remembers what it was asked for"

    Path("o/retarget/biped/day1/slow.pkl").unlink()
    assert cli(*again, "--fps", "30")[0] == 0
    changed = {n for n, t in files("o").items() if first.get(n) != t}
    assert changed == {"retarget/biped/day1/slow.pkl", "reports/10_retarget.ipynb"}, "one output lost, one output remade, and its report"

    second = files("o")
    shutil.copy("in/day2/fast.npz", "in/day1/slow.npz")
    assert cli(*again, "--fps", "30")[0] == 0
    changed = {n for n, t in files("o").items() if second.get(n) != t}
    merged = {f"amp/{r}.{s}" for r in ("biped", "unitree_g1") for s in ("npz", "pkl", "joint_order.json")}
    assert all("slow" in n or n.startswith("reports/") or n == "index.html" or n in merged for n in changed) and len([n for n in changed if "slow" in n]) == 18

    summary = json.loads(Path("o/summary.json").read_text())
    assert len(summary["clips"]) == 4 and summary["skipped"] == [{"file": "notes.txt", "reason": "no known motion format (text file)"}] and "| day1/slow | biped |" in Path("o/summary.md").read_text()
    bad = sum(bool(r["failed_gates"]) for r in summary["clips"])
    assert cli(*again, "--fps", "30", "--strict")[0] == (1 if bad else 0)


def test_both_engines_make_the_same(cli, walks, tmp_path):
    Path("one.yaml").write_text("steps:\n- {name: retarget, notebook: 10_retarget.ipynb, parameters: {solver: gauss_newton}}\n")
    for engine in ("inprocess", "kernel"):
        code, out, err = cli("run", "one.yaml", "--input", walks, "--robot", "biped", "--out", engine, "--engine", engine)
        assert code == 0, err
    assert {n for n in files("inprocess")} == {n for n in files("kernel")}
    for n in files("inprocess"):
        read = lambda engine: Path(engine, n).read_bytes()
        same = lambda engine: read(engine).replace(b"<title>" + engine.encode(), b"").replace(f"<h1>{engine}".encode(), b"") if n == "index.html" else read(engine)   # the page is named after its folder
        if not n.startswith("reports"): assert same("inprocess") == same("kernel"), n
    from test_pipeline import outputs
    fast, slow = (outputs(f"{e}/reports/10_retarget.ipynb") for e in ("inprocess", "kernel"))
    assert fast == slow and any("image/png" in o.get("data", {}) for _, cell in fast for o in cell)


def test_plain_papermill_works(walks, tmp_path):
    notebook = Path(__file__).parents[1]/"nbs/pipelines/10_retarget.ipynb"
    subprocess.run([Path(sys.executable).with_name("papermill"), notebook, "report.ipynb", "-p", "source", walks, "-p", "out", "o", "-p", "robot", "biped", "--no-progress-bar"],
                   cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path/"o/retarget/biped/day1/slow.pkl").exists()


def test_shipped_notebooks_are_the_ones_of_the_repository():
    from motionbench.pipeline.run import OURS
    folder = Path(__file__).parents[1]/"nbs/pipelines"
    assert {p.name: p.read_bytes() for p in OURS.glob("*.ipynb")} == {p.name: p.read_bytes() for p in folder.glob("*.ipynb")}


# ---- the guides' own words

def test_flags_of_the_guides(cli, walks, tmp_path):
    from motionbench.core.robot import ASSETS
    config = ASSETS/"biped/robot_config.yaml"
    assert cli("retarget", "--smplx_file", walks/"day1/slow.npz", "--robot", "biped", "--save_path", "motions/slow.pkl")[0] == 0
    code, out, err = cli("amp", "convert", "--input", "motions/slow.pkl", "--output", "data/slow_amp.pkl", "--robot-config", config, "--target_fps", "50")
    assert code == 0, err
    with open("data/slow_amp.pkl", "rb") as f: data = pickle.load(f)
    assert data["feature_dim"] == 29 and data["fps"] == 50
    assert cli("retarget", "--src_folder", walks, "--tgt-folder", "tgt", "--robot", "biped")[0] == 0
    code, out, err = cli("amp", "convert", "--robot-config", config, "--input-dir", "tgt", "--output-dir", "data", "--target_fps", "50", "--json")
    assert code == 0 and [r["clip"] for r in json.loads(out)["clips"]] == ["day1/slow", "day2/fast"]
    assert Path("tgt/day2/fast.pkl").exists() and Path("data/day2/fast_amp.pkl").exists()
    code, out, err = cli("audit", "tgt", "--json")
    clips = json.loads(out)["clips"]
    assert code == int(any(r["failed_gates"] for r in clips)) and len(clips) == 2
    code, out, err = cli("audit", "tgt/day1/slow.npz", "--markdown", "--out", "report")
    assert out.startswith("| clip | robot |") and Path("report/slow.png").exists()
    assert cli("inspect", "tgt/day1/slow.pkl")[0] == 0 and "biped" in cli("robots", "--json")[1]


def test_nothing_is_written_over_an_input_or_over_another_clip(cli, walks, tmp_path):
    shutil.copytree(walks, tmp_path/"in")
    shutil.copy("in/day1/slow.npz", "in/slow.npz")
    before = files("in")
    for command in (["run", "--input", "in", "--out", "in"], ["retarget", "in", "--out", "in", "--robot", "biped"], ["retarget", "in", "--out", "in/day1", "--robot", "biped"],
                    ["retarget", "in/slow.npz", "--out", "in/slow.npz", "--robot", "biped"]):
        code, out, err = cli(*command)
        assert code == 2 and len(err.strip().splitlines()) == 1 and any(w in err for w in ("that is read", "over an input", "overwrite")), err
    assert files("in") == before
    assert cli("retarget", "in", "--out", "result", "--robot", "biped")[0] == 0
    clips = json.loads(cli("audit", "result/day1/slow.npz", "result/slow.npz", "--out", "audits", "--json")[1])["clips"]
    assert [c["clip"] for c in clips] == ["day1/slow", "slow"] and Path("audits/day1/slow.png").exists() and Path("audits/slow.png").exists()


def test_results_inside_the_input_are_not_read_again(cli, walks, tmp_path):
    shutil.copytree(walks, tmp_path/"in")
    again = ("run", "--input", "in", "--out", "in/out", "--robot", "biped", "--fps", "30")
    assert cli(*again)[0] == 0
    code, out, err = cli(*again)
    assert code == 0 and out.count("up to date") == 3 and "files skipped: 1." in out


def test_robot_motion_among_human_motion_is_skipped(cli, walks, tmp_path):
    shutil.copytree(walks, tmp_path/"in")
    assert cli("retarget", "in/day1/slow.npz", "--out", "in/robot.npz", "--robot", "biped")[0] == 0
    code, out, err = cli("retarget", "in", "--out", "result", "--robot", "biped")
    assert code == 0 and "skipped robot.npz: holds robot motion, this step wants human motion" in err
    code, out, err = cli("audit", walks)
    assert code == 2 and "this step wants robot motion" in err


def test_a_model_file_that_is_added_later_counts(cli, walks, tmp_path):
    (tmp_path/"models").mkdir()
    again = ("run", "--input", walks, "--body-models", "models", "--robot", "biped", "--fps", "30")
    assert cli(*again)[0] == 0 and cli(*again)[1].count("up to date") == 3
    (tmp_path/"models/SMPLX_NEUTRAL.npz").write_bytes(b"other numbers")
    assert "retarget   2 made" in cli(*again)[1]


# ---- retarget: terms, configs, robots nobody has described

@pytest.mark.parametrize("words, says", [
    ("--terms contacts", "did you mean contact?"), ("--terms floor,gravity", "terms are contact, floor, collision, smooth, velocity, all or none"), ("--terms smooth=-1", "0 or more is expected"),
    ("--device abacus", "device 'abacus' is not there"), ("--solver mink --terms contact", "leave out the terms contact"), ("--auto --config mine.yaml", "choose one of the two"),
    ("--config unitree_g1", "written for unitree_g1, the robot is biped"), ("--robot biped,unitree_h1 --out one.npz", "one file, but 2 robots"), ("--option unit=cm", "option unit"), ("--ground moon", "invalid choice")])
def test_a_wrong_wish_is_one_line_and_nothing_is_made(cli, walks, tmp_path, words, says):
    for source, out in ((walks/"day1/slow.npz", "one.npz"), (walks, "many")):
        if "one file" in says and source == walks: continue
        code, made, err = cli("retarget", source, *(() if "--robot" in words else ("--robot", "biped")), "--out", out, *words.split())
        assert code == 2 and says in err and len(err.strip().splitlines()) == 1, err
        assert not list(tmp_path.rglob("*.npz")) and not list(tmp_path.rglob("*.yaml"))


def test_terms_are_heard_and_told(cli, walks, tmp_path):
    from motionbench.io.native import read_npz
    told = {}
    for words in ("all", "none", "contact,floor", "smooth=6", "smooth,velocity,collision,floor,contact"):
        code, out, err = cli("retarget", walks/"day1/slow.npz", "--robot", "biped", "--out", "slow.npz", "--terms", words, "--no-level", "--ground", "none", "--json")
        step = read_npz("slow.npz").source["steps"][-1]
        told[words] = json.loads(out)["terms"]
        assert code == 0 and (step["ground"], step["feet_tilt_deg"]) == ("none", {}) and step["terms"]["contact"] == (words != "none")
    assert list(told.values()) == ["all", "none", "contact,floor", "smooth=6", "all"]
    assert read_npz("slow.npz").source["steps"][-1]["terms"]["smooth"] > 0
    code, out, err = cli("retarget", walks/"day1/slow.npz", "--robot", "biped", "--out", "slow.npz", "--device", "cpu")
    assert code == 0 and "terms all" in out and "degrees" in out


def test_unknown_velocity_limits_are_one_line(cli, walks, tmp_path):
    from motionbench.core.robot import load_robot
    shutil.copytree(load_robot("biped").path.parent, "mine", ignore=shutil.ignore_patterns("robot_config.yaml"))
    Path("mine", load_robot("biped").path.name).rename("mine/mine.xml")
    line = "velocity: mine has no velocity limits, so none are kept"
    for source, out in ((walks/"day1/slow.npz", "one.npz"), (walks, "many")):
        code, said, err = cli("retarget", source, "--robot", "mine/mine.xml", "--config", "biped", "--out", out)
        assert code == 0 and said.count(line) == 1, said + err
    assert line not in cli("retarget", walks/"day1/slow.npz", "--robot", "mine/mine.xml", "--config", "biped", "--out", "one.npz", "--terms", "velocity=0")[1]
    assert line not in cli("retarget", walks/"day1/slow.npz", "--robot", "biped", "--out", "one.npz")[1]


def test_the_first_compilation_is_announced(cli, walks, monkeypatch):
    "Only if there is none on disk and none in this process, and only for the solver that is compiled."
    from motionbench.retarget import kernels, lanes
    class Cold: signatures = []
    said = lambda *words: cli("retarget", walks/"day1/slow.npz", "--robot", "biped", "--out", "one.npz", *words)[2]
    assert "compiling" not in said()
    monkeypatch.setattr(lanes, "kept_on_disk", lambda function: False)
    assert "compiling" not in said()                                          # it is in memory
    monkeypatch.setattr(kernels, "run_steps", Cold())
    assert said().splitlines() == ["compiling the solver once, about 10 s"] and "compiling" not in said("--device", "cpu")


def test_help_tells_a_newcomer_all(cli):
    code, out, err = cli("retarget", "--help")
    assert code == 0 and max(map(len, out.splitlines())) < 140
    for word in ("BVH", "C3D", "AMASS", "contact ", "floor ", "collision ", "smooth ", "velocity ", "--auto", "NAME_retarget.yaml", "GMR's JSON", "motionbench audit", "my_robot.xml", "--no-level", "subject=", "Exit code"): assert word in out, word


def one_legged(path, **more):
    "The biped's own config without the left leg."
    import yaml
    from motionbench.retarget.config import ASSETS
    config = yaml.safe_load((ASSETS/"biped.yaml").read_text())
    config["bodies"] = [row for row in config["bodies"] if not row["body"].startswith("left")]
    path.write_text(yaml.safe_dump(config | more))


def test_a_forgotten_limb_is_an_error_unless_it_is_meant(cli, walks, tmp_path):
    one_legged(tmp_path/"mine.yaml")
    for source, out in ((walks/"day1/slow.npz", "one.npz"), (walks, "many")):
        code, made, err = cli("retarget", source, "--robot", "biped", "--config", "mine.yaml", "--out", out)
        assert code == 2 and "nothing is tracked on the left leg" in err and "untracked: [left_leg]" in err and len(err.strip().splitlines()) == 1, err
    code, out, err = cli("run", "--input", walks, "--robot", "biped", "-p", "retarget.config=mine.yaml")
    assert code == 2 and "nothing is tracked on the left leg" in err
    code, out, err = cli("robots", "--check", "mine.yaml", "--robot", "biped", "--json")
    assert code == 1 and json.loads(out)["remarks"] == ["left_shank, left_foot (left_leg): nobody follows this limb"] and Path("mine.png").exists()
    one_legged(tmp_path/"mine.yaml", untracked=["left_leg"])
    code, out, err = cli("retarget", walks/"day1/slow.npz", "--robot", "biped", "--config", "mine.yaml", "--out", "one.npz", "--terms", "none")
    assert code == 0, err


@needs_data
def test_a_config_of_gmr_can_leave_arms_alone(cli, walks, tmp_path):
    config = json.loads((DATA/"gmr/ik_configs/smplx_to_g1.json").read_text())
    for name in ("ik_match_table1", "ik_match_table2"): config[name] = {b: row for b, row in config[name].items() if not any(w in b for w in ("shoulder", "elbow", "wrist"))}
    words = ("retarget", walks/"day1/slow.npz", "--robot", DATA/"gmr/robots/unitree_g1_gmr.xml", "--config", "legs.json", "--out", "one.npz")
    (tmp_path/"legs.json").write_text(json.dumps(config))
    code, out, err = cli(*words)
    assert code == 2 and "nothing is tracked on the left arm" in err
    (tmp_path/"legs.json").write_text(json.dumps(config | {"untracked": ["left_arm", "right_arm"]}))
    assert cli(*words)[0] == 0


def test_a_robot_without_feet_and_a_human_without_legs(cli, walks, tmp_path):
    from motionbench.core.motion import HumanMotion
    from motionbench.io.native import read_npz, write_npz
    (tmp_path/"cart.xml").write_text('<mujoco><worldbody><body name="cart" pos="0 0 1"><freejoint/><geom size=".2"/><body name="arm"><joint name="swing" axis="0 1 0"/><geom size=".1" pos=".3 0 .3"/></body></body></worldbody></mujoco>')
    for more in (["--auto"], ["--config", "biped"]):
        code, out, err = cli("retarget", walks/"day1/slow.npz", "--robot", "cart.xml", *more)
        assert code == 2 and "no left foot found" in err and len(err.strip().splitlines()) == 1, err
    human = read_npz(walks/"day1/slow.npz")
    own = [k for k, j in enumerate(human.joint_names) if not any(w in j for w in ("hip", "knee", "ankle", "foot"))]
    upper = HumanMotion(human.fps, human.joint_pos[:, own], human.joint_quat[:, own], tuple(human.joint_names[k] for k in own), tuple(own.index(p) if p in own else -1 for p in (human.parents[k] for k in own)), human.height)
    (tmp_path/"in").mkdir()
    write_npz(upper, tmp_path/"in/upper.npz")
    code, out, err = cli("retarget", "in/upper.npz", "--robot", "biped")
    assert code == 2 and "the human has no legs" in err and len(err.strip().splitlines()) == 1
    shutil.copy(walks/"day1/slow.npz", "in/whole.npz")
    code, out, err = cli("retarget", "in", "--robot", "biped", "--out", "out")
    assert code == 1 and "failed upper: " in err and "the human has no legs" in err and Path("out/whole.npz").exists() and not Path("out/upper.npz").exists()


def test_auto_proposes_once_and_keeps_what_a_person_changed(cli, walks, tmp_path):
    code, out, err = cli("retarget", walks/"day1/slow.npz", "--robot", "biped", "--auto", "--out", "new/slow.npz", "--json")
    row = json.loads(out)
    assert code == 0 and {p.name for p in Path("new").iterdir()} == {"slow.npz", "biped_retarget.yaml", "biped_retarget.png"}
    assert row["proposal"]["config"] == "new/biped_retarget.yaml" and len(row["proposal"]["bodies"]) == 8
    code, out, err = cli("retarget", walks/"day1/slow.npz", "--robot", "biped", "--config", "new/biped_retarget.yaml", "--out", "again.npz")
    same = [np.load(f) for f in ("new/slow.npz", "again.npz")]
    assert code == 0 and all((same[0][k] == same[1][k]).all() for k in ("root_pos", "dof_pos"))
    config = Path("new/biped_retarget.yaml")
    config.write_text(changed := config.read_text() + "# mine\n")
    assert "over the bundled walk (not over your clip)" in cli("retarget", walks/"day1/slow.npz", "--robot", "biped", "--auto", "--out", "told/slow.npz")[1]
    code, out, err = cli("retarget", walks, "--robot", "biped", "--auto", "--out", "new")
    assert code == 2 and "another than the proposal" in err and config.read_text() == changed
    code, out, err = cli("robots", "--propose", "biped", "--out", "new")
    assert code == 2 and config.read_text() == changed
    code, out, err = cli("robots", "--propose", "biped", "--out", "fresh")
    assert code == 0 and "left_knee" in out and "--config fresh/biped_retarget.yaml" in out
    assert cli("robots", "--check", "fresh/biped_retarget.yaml", "--robot", "biped", "--out", "fresh")[0] == 0
    assert cli("robots", "--check", "fresh/biped_retarget.yaml")[0] == 2 and cli("robots", "--propose", "biped", "--check", "biped")[0] == 2


@pytest.mark.parametrize("name", ["unitree_h1", "apptronik_apollo"])
def test_a_robot_never_seen_walks(cli, tmp_path, name):
    "From MJCF to a graded motion, by name and by path, with no hand edit."
    from motionbench.core.gait import bundled_clips
    from motionbench.core.robot import available_robots, load_robot
    from motionbench.io.native import write_npz
    if name not in {r["name"] for r in available_robots() if r["where"] != "download"}: pytest.skip(f"{name} is not installed here")
    (tmp_path/"in").mkdir()
    write_npz(bundled_clips()["walk"], tmp_path/"in/walk.npz")
    for more in ("mocap/bandai/dataset-2_walk_normal_001.bvh", "mocap/deepmimic/humanoid3d_walk.txt", "mocap/amass_smpl/asap_walk_level1_filter.npz"):
        if (DATA/more).is_file(): shutil.copy(DATA/more, tmp_path/"in")
    assert cli("retarget", "in", "--robot", name, "--auto", "--out", "out")[0] == 0
    code, out, err = cli("audit", "out", "--json")
    assert code == 0 and {r["grade"] for r in json.loads(out)["clips"]} <= {"pass", "warn"}, out
    path = load_robot(name).path
    assert cli("retarget", "in/walk.npz", "--robot", path, "--auto", "--out", "one/walk.npz")[0] == 0
    assert Path(f"one/{path.stem}_retarget.png").exists() and cli("audit", "one/walk.npz", "--robot", path)[0] == 0


def test_a_run_proposes_and_remembers_its_terms(cli, walks, tmp_path):
    words = ("run", "--input", walks, "--robot", "biped", "--fps", "30", "--out", "o", "-p", "retarget.auto=true", "--json")
    code, out, err = cli(*words, "-p", "retarget.terms=contact,floor")
    rows = json.loads(out)["clips"]
    assert code == 0 and {r["terms"] for r in rows} == {"contact,floor"} and all("ground_shift_cm" in r for r in rows), err
    assert Path("o/retarget/biped_retarget.yaml").exists() and Path("o/retarget/biped_retarget.png").exists()
    code, out, err = cli(*words, "-p", "retarget.terms=floor,contact")
    assert code == 0 and json.loads(out)["steps"][0]["clips"].startswith("2 kept"), "the same terms in other words"
    code, out, err = cli(*words, "-p", "retarget.level=false")
    assert code == 0 and json.loads(out)["steps"][0]["clips"].startswith("2 made") and {r["terms"] for r in json.loads(out)["clips"]} == {"all"}
    code, out, err = cli(*words, "-p", "retarget.terms=gravity")
    assert code == 2 and "unknown term 'gravity'" in err


def test_damaged_files_of_all_motion_suffixes_are_failures(cli, walks, tmp_path):
    (tmp_path/"in").mkdir()
    for name, content in (("a.c3d", b"no markers"), ("b.pt", b"PK\x03\x04 half"), ("c.p", pickle.dumps({"seq": Bomb()}))): (tmp_path/"in"/name).write_bytes(content)
    shutil.copy(walks/"day1/slow.npz", "in/whole.npz")
    code, out, err = cli("retarget", "in", "--robot", "biped", "--out", "out", "--json")
    assert code == 1 and [r["clip"] for r in json.loads(out)["failed"]] == ["a", "b", "c"] and len(json.loads(out)["clips"]) == 1


def test_a_file_of_several_people_or_clips(cli, walks, tmp_path):
    import joblib
    from motionbench.io.c3d_file import write_points
    from motionbench.io.markers import virtual_markers
    from test_inputs import omomo_clip, standin_walk
    human = standin_walk()
    marks = virtual_markers(human)
    track = np.stack(list(marks.values()), 1)
    (tmp_path/"in").mkdir()
    write_points(tmp_path/"in/two.c3d", [f"{who}:{m}" for who in ("Anna", "Ben") for m in marks], np.concatenate([track, track + [0, 2.0, 0]], 1), 30, "m")
    words = ("retarget", "in/two.c3d", "--robot", "biped", "--out", "ben.npz")
    code, out, err = cli(*words)
    assert code == 2 and "Anna, Ben" in err and "--option subject=NAME" in err
    code, out, err = cli(*words, "--name", "Ben")
    assert code == 2 and "no option name" in err and "subject" in err
    assert cli(*words, "--option", "subject=Ben")[0] == 0
    joblib.dump({0: omomo_clip(human, "sub3_box"), 1: omomo_clip(human, "sub4_mop")}, tmp_path/"in/seq.p")
    code, out, err = cli("retarget", "in/seq.p", "--robot", "biped", "--out", "mop.npz")
    assert code == 2 and "--name" in err
    assert cli("retarget", "in/seq.p", "--robot", "biped", "--out", "mop.npz", "--name", "sub4_mop")[0] == 0
    code, out, err = cli("retarget", "in", "--robot", "biped", "--out", "out", "--name", "sub4_mop", "--option", "subject=Anna")
    assert code == 0 and {p.stem for p in Path("out").glob("*.npz")} == {"two", "seq"}, "each option goes to the format that has it"


# ---- commands on files

def robot_clip(path, frames=40):
    "Our own clip of the bundled robot."
    from motionbench.core.robot import load_robot
    from motionbench.io.native import write_npz
    biped = load_robot("biped")
    q = np.tile(biped.model.qpos0, (frames, 1))
    q[:, 7:] += 0.1*np.sin(np.arange(frames)/10)[:, None]
    write_npz(biped.motion(q, 50.0), path)
    return path


def test_inspect_says_what_it_did_not_check(cli, tmp_path):
    robot_clip(tmp_path/"a.npz")
    assert "not checked" not in cli("inspect", "a.npz")[1]                                 # the clip names its robot
    stranger = dict(np.load("a.npz"))
    stranger["meta"] = np.array(json.dumps({**json.loads(str(stranger["meta"])), "robot": "unknown"}))
    np.savez("b.npz", **stranger)
    assert "not checked without a robot" in cli("inspect", "b.npz")[1]


def test_features_are_no_motion(cli, tmp_path):
    robot_clip(tmp_path/"a.npz")
    assert cli("amp", "convert", "a.npz", "--out", "features.pkl")[0] == 0
    code, out, err = cli("inspect", "features.pkl")
    assert code == 2 and "AMP features" in err and "motionbench amp export writes their clips" in err


def test_read_only_files_stay(cli, tmp_path):
    (tmp_path/"a.pkl").write_bytes(pickle.dumps({"fps": 30.0}))
    (tmp_path/"a.pkl").chmod(0o444)
    before = (tmp_path/"a.pkl").read_bytes()
    code, out, err = cli("pkl", "convert", "a.pkl", "a.pkl")
    assert code == 2 and "read-only" in err and (tmp_path/"a.pkl").read_bytes() == before


def test_inspect_says_what_it_is_and_what_is_wrong(cli, tmp_path):
    robot_clip(tmp_path/"a.npz")
    code, out, err = cli("inspect", "a.npz", "--json")
    facts = json.loads(out)
    assert code == 0 and facts["format"] == "npz" and facts["holds"] == "robot motion" and facts["arrays"]["dof_pos"] == [40, 9] and facts["findings"] == []
    assert cli("convert", "a.npz", "a.csv", "--to", "unitree_csv")[0] == 0
    code, out, err = cli("inspect", "a.csv", "--robot", "biped")
    assert code == 2 and "format          csv" in out and "no frame rate" in out and "--fps" in out
    code, out, err = cli("inspect", "a.csv", "--robot", "biped", "--fps", "50", "--quat_order", "xyzw")
    assert code == 0 and "quat order      xyzw" in out and "fps from        option" in out and "nothing wrong was found" in out
    held = dict(np.load("a.npz"))
    for k in ("root_pos", "root_quat", "dof_pos"): held[k] = np.repeat(held[k], 2, 0)
    np.savez("held.npz", **held)
    code, out, err = cli("inspect", "held.npz", "--json")
    assert code == 0 and any(f["kind"] == "held_frames" for f in json.loads(out)["findings"])


def test_convert_a_file_and_a_folder(cli, tmp_path):
    (tmp_path/"in/day1").mkdir(parents=True)
    robot_clip(tmp_path/"in/a.npz")
    robot_clip(tmp_path/"in/day1/b.npz")
    (tmp_path/"in/notes.md").write_text("two roads diverged")
    code, out, err = cli("convert", "in", "out", "--to", "legged", "--fps", "25")
    assert code == 0 and "left out: joint names" in out and "resampled from 50 to 25 fps" in out and "skipped" in err and "notes.md" in err
    assert sorted(p.relative_to(tmp_path/"out").as_posix() for p in (tmp_path/"out").rglob("*.*")) == ["a.txt", "day1/b.txt"]
    code, out, err = cli("convert", "out/a.txt", "back.pkl", "--to", "gmr", "--robot", "biped", "--json")
    row = json.loads(out)
    assert code == 0 and (row["source"], row["to"], row["fps"], row["frames"]) == ("legged", "gmr", 25.0, 20) and row["lost"] == ["joint velocities", "root velocity", "root angular velocity"]
    code, out, err = cli("convert", "in/a.npz", "in", "--to", "gmr")
    assert code == 0 and (tmp_path/"in/a.pkl").is_file(), "into a folder that is there"
    for words, says in (("convert in/a.npz x --to fbx", "no known format"), ("convert in/a.npz in/a.npz --to npz", "also the output"), ("convert in/a.npz x.pkl --to gmr --quat-order xyzw", "no option quat_order"),
                        ("convert in/a.npz x.pkl --to gmr --option nonsense", "NAME=VALUE"), ("convert nowhere x.pkl --to gmr", "no such file")):
        code, out, err = cli(*words.split())
        assert code == 2 and says in err and len(err.strip().splitlines()) == 1, (words, err)
    from motionbench.core.gait import bundled_clips
    from motionbench.io.native import write_npz
    write_npz(bundled_clips()["walk"], tmp_path/"in/human.npz")
    code, out, err = cli("convert", "in/human.npz", "x.pkl", "--to", "gmr")
    assert code == 2 and "motionbench retarget" in err and not (tmp_path/"x.pkl").exists()
    code, out, err = cli("convert", "in", "out2", "--to", "gmr")
    assert code == 1 and "failed" in err and "human.npz" in err and (tmp_path/"out2/day1/b.pkl").is_file()


def test_formats_are_listed(cli):
    code, out, err = cli("formats", "--json")
    assert code == 0 and {"gmr", "csv", "bvh"} <= {r["format"] for r in json.loads(out)}


def test_pkl_convert(cli, tmp_path):
    (tmp_path/"in").mkdir()
    (tmp_path/"in/a.pkl").write_bytes(pickle.dumps({"fps": np.float32(50), "root_pos": np.zeros((3, 3))}))
    code, out, err = cli("pkl", "convert", "in/a.pkl", "new/folder/a.pkl")
    assert code == 0 and pickle.loads((tmp_path/"new/folder/a.pkl").read_bytes()) == {"fps": 50.0, "root_pos": [[0.0]*3]*3}
    (tmp_path/"in/b.pkl").write_bytes(pickle.dumps({"bomb": Bomb()}))
    code, out, err = cli("pkl", "convert", "--input", "in", "--output", "out", "--json")
    report = json.loads(out)
    assert code == 1 and (report["converted"], report["failed"]) == (1, 1) and "b.pkl" in err and not (tmp_path/"bomb_went_off").exists()
    code, out, err = cli("pkl", "convert", "in/a.pkl", "b.pkl", "--verify", "--python", sys.executable)
    assert code == 0 and "verified by Python" in out
    assert cli("pkl", "convert", "in/a.pkl")[0] == 2


def test_library_commands(cli, tmp_path):
    robot_clip(tmp_path/"a.npz")
    (tmp_path/"more").mkdir()
    robot_clip(tmp_path/"more/b.npz", 30)
    code, out, err = cli("library", "append", "lib", "a.npz", "more", "--tags", "walk,slow")
    assert code == 0 and "2 added, 2 clips" in out, err
    code, out, err = cli("library", "info", "lib", "--json")
    assert code == 0 and json.loads(out)["frames"] == 70 and json.loads(out)["tags"] == {"slow": 2, "walk": 2}
    assert cli("library", "verify", "lib")[:2] == (0, "everything is intact\n")
    assert cli("library", "append", "lib", "a.npz")[0] == 2, "the name is taken"
    shard = next((tmp_path/"lib").glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-50])
    code, out, err = cli("library", "verify", "lib")
    assert code == 1 and shard.name in out
    assert cli("library", "info", "nowhere")[0] == 2


def test_repair_mends_a_copy_and_says_so(cli, tmp_path):
    from dataclasses import replace
    from motionbench.core.gait import bundled_clips
    from motionbench.io.native import read_npz, write_npz
    from motionbench.retarget.clip import retarget
    motion = retarget(bundled_clips()["walk"], "biped")
    held = np.repeat(np.arange(0, len(motion), 2), 2)[:len(motion)]
    write_npz(replace(motion, root_pos=motion.root_pos[held], root_quat=motion.root_quat[held], dof_pos=motion.dof_pos[held]), tmp_path/"held.npz")
    before = (tmp_path/"held.npz").read_bytes()
    code, _, err = cli("audit", "held.npz", "--repair")
    assert code == 2 and "--out" in err
    code, out, _ = cli("audit", "held.npz", "--repair", "--out", "out", "--json")
    row = json.loads(out)["repaired"][0]
    assert any("held_frames" in text for text in row["done"]) and not any(f["kind"] == "held_frames" for f in row["left"])
    changed = {c["gate"]: c for c in row["changed"]}
    assert changed["held_share"]["before"] > 0.4 and changed["held_share"]["after"] == 0 and row["grade_before"] == "fail"
    assert code == (row["grade_after"] == "fail") and json.loads(out)["clips"][0]["grade"] == row["grade_after"]
    mended = read_npz(tmp_path/"out/repaired/held.npz")
    assert np.abs(mended.root_pos - motion.root_pos[:len(mended)]).max() < 0.04 and mended.source["steps"][-1]["step"] == "repair"
    assert (tmp_path/"held.npz").read_bytes() == before
    code, out, _ = cli("audit", "out/repaired", "--repair", "--out", "again")
    assert "1 clips: 0 with a better grade than before, 0 with a worse one, 0 changed at the same grade, 1 left as they were" in out


def test_repair_says_what_it_cannot_mend(cli, tmp_path):
    from dataclasses import replace
    from motionbench.core.gait import bundled_clips
    from motionbench.io.native import write_npz
    from motionbench.retarget.clip import retarget
    motion = retarget(bundled_clips()["walk"], "biped")
    jump = np.zeros((len(motion), 3))
    jump[len(motion)//2:, 0] = 2.0
    write_npz(replace(motion, root_pos=motion.root_pos + jump), tmp_path/"torn.npz")
    code, out, err = cli("audit", "torn.npz", "--repair", "--out", "out")
    assert code == 1 and "torn: left: " in out and "internal error" not in err
