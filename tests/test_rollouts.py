"The guide's steps end to end with its own flags: checkpoints of a sweep, shards of 200 motions, exports, one library; counted again from what was made up."
import json
import pickle
import shlex
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from motionbench.cli import main
from motionbench.core.errors import ConfigError
from motionbench.core.gait import bundled_clips
from motionbench.core.robot import load_robot
from motionbench.io.grail import ObjectMotion, read_grail, write_grail, write_grail_object
from motionbench.io.native import write_npz
from motionbench.io.safe_pickle import load
from motionbench.rollouts.manifest import MANIFEST, files_of, sha256_of
from motionbench.rollouts.metrics import metrics_table
from motionbench.rollouts.offscreen import gl_context
from motionbench.rollouts.other_stores import write_jsonl_run
from motionbench.rollouts.shard import METRICS, write_json
from motionbench.rollouts.stores import RunRef
from motionbench.rollouts.trajectory import Rollout, write_trajectory
from motionbench.rollouts.verify import verify_export

try: gl_context(); NO_GL = ""
except ConfigError as e: NO_GL = str(e)
STEP, SHARDS, FPS = 4000, 4, 25.0


@pytest.fixture(scope="module")
def biped(): return load_robot("biped")


def truth(n):
    "What happened to motion `n`: the only source of every count below."
    ended = n % 7 == 3
    return dict(key=f"reach_{n:03d}", frames=20 + n % 21, terminated=ended, progress=.4 if ended else .9 if n % 23 == 5 else 1.0, recorded=n not in (11, 60), longer=n % 5 == 0, mpjpe=10.0 + n)


def curve(n, frames, fps, columns):
    "Smooth, and at other rates the same motion."
    rng, t = np.random.default_rng([n, columns]), np.arange(frames)/fps
    return rng.uniform(.05, .2, columns)*np.sin(np.outer(t, rng.uniform(1, 4, columns)) + rng.uniform(0, 6, columns))


def turns(n, frames, fps): return Rotation.from_rotvec(curve(n + 1000, frames, fps, 3)).as_quat(scalar_first=True)
def body(robot, n, frames, fps): return robot.motion(np.concatenate([curve(n, frames, fps, 3) + [0, 0, .9], turns(n, frames, fps), curve(n, frames, fps, len(robot.joint_names))], 1), fps)


def make_library(folder, robot, numbers, with_object):
    "As retargeting leaves it, at twice the rate of the rollouts."
    for n in numbers:
        key, frames = truth(n)["key"], 2*truth(n)["frames"] - 1
        write_grail(body(robot, n, frames, 2*FPS), folder/f"robot/{key}.pkl", robot)
        if not with_object(n): continue
        write_grail_object(ObjectMotion(2*FPS, curve(n, frames, 2*FPS, 3), turns(n, frames, 2*FPS), "box", 1.0, dict(left={10: np.ones((1, 3))})), folder/f"objects/{key}.pkl")
        (folder/"object_usd").mkdir(exist_ok=True)
        (folder/f"object_usd/{key}.usda").write_text("#usda 1.0\n")
    return folder


def make_shard(folder, robot, numbers, with_object):
    "The table and the trajectories of these motions; some were recorded past their end."
    for row, n in enumerate(numbers):
        t = truth(n)
        frames = t["frames"] + 9*t["longer"]
        thing = dict(object_pos=curve(n, frames, FPS, 3), object_quat=turns(n, frames, FPS)) if with_object(n) else {}
        if t["recorded"]: write_trajectory(Rollout(t["key"], row, body(robot, n, frames, FPS), **thing), folder/f"{t['key']}.trajectory.pkl", robot)
    row = lambda t: dict(key=t["key"], terminated=t["terminated"], terminate_reason="fallen"*t["terminated"], progress=t["progress"], frames=t["frames"], metrics=dict(mpjpe_l=t["mpjpe"], mpjpe_g=2*t["mpjpe"], obj_pos_error=.01))
    write_json(folder/METRICS, metrics_table([row(truth(n)) for n in numbers]))


def run_with(text, capsys, **places):
    "A line of the guide, with our name of the command and its own flags; exit code and JSON."
    code = main(shlex.split(text.format(**places)) + ["--json"])
    return code, json.loads(capsys.readouterr().out)


EXPORT = "rollouts export --eval_dir {eval} --source_data {lib} --output_dir {out} --min_progress 1.0 --robot biped"
SHARES = [[*range(50)], [*range(50, 100), 3, 7, 8], [*range(100, 150)], [*range(150, 200), 8, 10, 121]]           # 3, 7, 8, 10 and 121 were evaluated twice; 3 and 10 fell


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, biped):
    home = tmp_path_factory.mktemp("rollouts")
    make_library(home/"lib", biped, range(200), lambda n: True)
    for i, numbers in enumerate(SHARES): make_shard(home/f"exp/eval/step_{STEP}/phase1_shard_{i}", biped, numbers, lambda n: True)
    rates = {"slow": {2000: .70, 4000: .84}, "fast": {4000: .86, 6000: .80}, "other": {1000: .99}}
    for run, steps in rates.items():
        ref = RunRef(run, f"run {run}", "g", "elsewhere" if run == "other" else "abc", "finished", {"experiment_dir": f"/data/{run}"})
        write_jsonl_run(ref, [{"step": s, "eval_step": s, "eval/success/success_rate": r, "eval/all/mpjpe_l": 30.0} for s, r in steps.items()], home/f"runs/{run}.jsonl")
    return home


def test_the_five_steps_of_the_guide_on_two_hundred_motions(evaluated, biped, capsys):
    home, exp = evaluated, evaluated/"exp"
    code, top = run_with("rollouts select --sweep abc --k 3 --store {runs} --out {topk}", capsys, runs=home/"runs", topk=home/"topk.json")
    assert code == 0 and [(t["run"], t["eval_step"], t["checkpoint"]) for t in top["top"]] == [("fast", 4000, "model_step_004000.pt"), ("slow", 4000, "model_step_004000.pt"), ("fast", 6000, "model_step_006000.pt")]

    told = [truth(n) for n in range(200)]
    stood = [t for t in told if not t["terminated"]]
    good = [t for t in stood if t["progress"] >= 1 and t["recorded"]]
    lost = [t["key"] for t in stood if t["progress"] >= 1 and not t["recorded"]]
    code, told_of = run_with("rollouts summarize --exp_dir {exp} --num_shards 4", capsys, exp=exp)
    result = told_of["results"][0]
    assert code == 0 and (result["step"], result["total_motions"], result["total_success"], result["evaluated_motions"]) == (STEP, 200, len(stood), 206)
    assert abs(result["mpjpe_l_mean"] - np.mean([t["mpjpe"] for t in told])) < 1e-9 and {d["motion_key"]: d["shards"] for d in result["duplicates"]} == {"reach_003": [0, 1], "reach_007": [0, 1], "reach_008": [0, 1, 3], "reach_010": [0, 3], "reach_121": [2, 3]}

    for i, numbers in enumerate(SHARES):
        code, m = run_with(EXPORT, capsys, eval=exp/f"eval/step_{STEP}/phase1_shard_{i}", lib=home/"lib", out=exp/f"exported/step_{STEP}/shard_{i}")
        assert m["exported_count"] == sum(truth(n) in good for n in numbers) and m["skipped_motions"] == [truth(n)["key"] for n in numbers if truth(n)["key"] in lost] and code == bool(m["skipped_motions"])

    merged = exp/f"exported/step_{STEP}/merged"
    code, said = run_with("rollouts merge --shards {shards} --output {out} --verify --card", capsys, shards=" ".join(str(exp/f"exported/step_{STEP}/shard_{i}") for i in range(SHARDS)), out=merged)
    assert code == 0 and said["verify"]["ok"] and said["verify"]["problems"] == [] and verify_export(merged, biped).counts["motions"] == len(good)
    m = json.loads((merged/MANIFEST).read_text())
    assert (m["num_shards"], m["total_motions_evaluated"], m["exported_count"], m["skipped_no_trajectory"], m["success_rate"]) == (SHARDS, 200, len(good), len(lost), len(good)/200)
    assert sorted(m["skipped_motions"]) == lost == ["reach_011", "reach_060"] and {c["motion_key"] for c in m["conflicts"]} == {"reach_007", "reach_008", "reach_121"} and {c["by"] for c in m["conflicts"]} == {"equal copies"}
    assert m["checkpoint"] == dict(experiment="exp", step=STEP) and [s["checkpoint"] for s in m["shards"]] == [dict(experiment="exp", step=STEP, shard=i) for i in range(SHARDS)]
    assert [s["exported_count"] for s in m["shards"]] == [sum(truth(n) in good for n in numbers) for numbers in SHARES] and m["source_library"]["motions"] == 200

    entries = {e["motion_key"]: e for e in m["exported_motions"]}
    assert sorted(entries) == [t["key"] for t in good]
    for t in good:
        e, n = entries[t["key"]], int(t["key"][-3:])
        assert (e["shard"], e["fps"], e["mpjpe_g"]) == (f"shard_{next(i for i, s in enumerate(SHARES) if n in s)}", FPS, 2*t["mpjpe"])
        assert (e["frames"], e["recorded_frames"]) == (t["frames"] - t["longer"], t["frames"] + 9*t["longer"])           # what went on after the end is cut, with the frame in which the simulator began anew
    files = {f"{d}/{t['key']}.{s}" for t in good for d, s in (("robot", "pkl"), ("objects", "pkl"), ("object_usd", "usda"))}
    assert files == set(files_of(merged)) - {"README.md"} and all(sha256_of(merged/r) == h for r, h in m["sha256"].items()) and f"| success rate | {100*len(good)/200:.1f} % |" in (merged/"README.md").read_text()


def test_what_comes_out_is_what_was_recorded(evaluated, biped):
    merged = evaluated/f"exp/exported/step_{STEP}/merged"
    if not merged.is_dir(): pytest.skip("the merged folder is made by the test of the five steps")
    for n in (0, 1, 8, 121, 198):
        key, frames = truth(n)["key"], truth(n)["frames"] - truth(n)["longer"]
        clip, want = read_grail(merged/f"robot/{key}.pkl", biped), body(biped, n, frames, FPS)
        for k in ("root_pos", "root_quat", "dof_pos"): np.testing.assert_allclose(getattr(clip, k), getattr(want, k), atol=1e-6, err_msg=f"{key} {k}")
        thing = load(merged/f"objects/{key}.pkl")[key]
        np.testing.assert_allclose(thing["root_pos"][:, 0], curve(n, frames, FPS, 3), atol=1e-6)
        assert list(thing["contact_points_left_hand"]) == [5]                  # 0.2 s, as at the library's rate


@pytest.fixture(scope="module")
def few(tmp_path_factory, biped):
    "Three motions in two shards, one without an object."
    home = tmp_path_factory.mktemp("few")
    some = lambda n: n != 2
    make_library(home/"lib", biped, range(3), some)
    for i, numbers in enumerate(([0, 1], [2])): make_shard(home/f"exp/eval/step_{STEP}/phase1_shard_{i}", biped, numbers, some)
    return home


def test_films_of_a_shard_come_along_and_a_page_shows_the_merged_folder(few, capsys):
    shards = [(few/f"exp/eval/step_{STEP}/phase1_shard_{i}", few/f"exported/shard_{i}") for i in range(2)]
    for i, (folder, out) in enumerate(shards):
        line = "rollouts replay --shard_dir {eval} --traj_dir {eval} --object_usd_dir {lib}/object_usd --output_dir {out}/vis --skip_existing --headless --robot biped --size 64x64 --n_jobs 1"
        if not NO_GL: assert run_with(line, capsys, eval=folder, lib=few/"lib", out=out)[0] == 0
        assert run_with(EXPORT, capsys, eval=folder, lib=few/"lib", out=out)[0] == 0
    code, said = run_with("rollouts merge --shards {a} {b} --output {out} --verify", capsys, a=shards[0][1], b=shards[1][1], out=few/"merged")
    assert code == 1 and {(p["file"], p["problem"]) for p in said["verify"]["problems"]} == {("objects", "lacks reach_002"), ("object_usd", "lacks reach_002")}           # trainers ask for one of each per robot
    if not NO_GL: assert sorted(p.name for p in (few/"merged/vis").iterdir()) == [f"reach_{n:03d}.mp4" for n in range(3)]
    assert main(["view", str(few/"merged"), "--robot", "biped", "-o", str(few/"page")]) == 0
    pages = "".join(p.read_text() for p in (few/"page").rglob("*.html"))
    assert all(f"reach_{n:03d}" in pages for n in range(3)) and str(few) not in pages


def test_the_guides_commands_on_the_g1_need_no_robot(tmp_path, capsys):
    "As the published recorder leaves them: files named by row, joints without names, 14 of the hands after the body's."
    g1, published = load_robot("unitree_g1"), ("dof_pos", "root_pos_w", "root_quat_w", "quat_format", "fps", "num_joints", "total_frames", "object_pos_w", "object_quat_w", "table_pos_w", "table_quat_w")
    make_library(tmp_path/"lib", g1, range(4), lambda n: False)
    shard = tmp_path/"exp/eval/step_1/phase1_shard_0"
    make_shard(shard, g1, range(4), lambda n: False)
    for i, path in enumerate(sorted(shard.glob("*.trajectory.pkl"))):
        raw = {k: v for k, v in load(path).items() if k in published}
        with open(shard/f"{i:06d}.trajectory.pkl", "wb") as f: pickle.dump(raw | dict(dof_pos=np.pad(raw["dof_pos"], ((0, 0), (0, 14))), num_joints=43), f, pickle.HIGHEST_PROTOCOL)
        path.unlink()
    code, m = run_with(EXPORT.removesuffix(" --robot biped"), capsys, eval=shard, lib=tmp_path/"lib", out=tmp_path/"out/shard_0")
    assert code == 0 and m["exported_count"] == 3 and m["joint_order"] == list(g1.joint_names)
    code, said = run_with("rollouts merge --shards {out} --output {merged} --verify", capsys, out=tmp_path/"out/shard_0", merged=tmp_path/"out/merged")
    assert code == 0 and said["verify"]["ok"] and (said["exported_count"], said["total_motions_evaluated"]) == (3, 4)
    np.testing.assert_allclose(read_grail(tmp_path/"out/merged/robot/reach_001.pkl", g1).dof_pos, body(g1, 1, truth(1)["frames"], FPS).dof_pos, atol=1e-6)


def test_the_rollouts_notebook_in_a_pipeline_of_ones_own(tmp_path, monkeypatch):
    "Retargeted clips to a merged library; the second run evaluates nothing again and writes the same bytes."
    from motionbench.pipeline.run import run
    monkeypatch.chdir(tmp_path)
    for name in ("stand", "squat"): write_npz(bundled_clips()[name], f"in/{name}.npz")
    Path("mine.yaml").write_text("steps:\n  - {name: retarget, notebook: 10_retarget.ipynb}\n  - {name: rollouts, notebook: 60_rollouts.ipynb}\n")
    said = []
    assert not run("mine.yaml", "in", "biped", "out", say=said.append).failed
    merged = Path("out/rollouts/biped/merged")
    m = json.loads((merged/MANIFEST).read_text())
    ended = [json.loads(p.read_text())["eval/all_metrics_dict"] for p in Path("out/rollouts/biped/eval").rglob(METRICS)]
    good = sorted(k for t in ended for k, lost in zip(t["motion_keys"], t["terminated"]) if not lost)
    assert good and [e["motion_key"] for e in m["exported_motions"]] == good == sorted(p.stem for p in (merged/"robot").iterdir()) and m["total_motions_evaluated"] == 2 and m["num_shards"] == 2
    assert verify_export(merged, "biped").ok
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(Path("out/rollouts").rglob("*.trajectory.pkl")) + sorted(merged.rglob("*.pkl")) + [merged/MANIFEST]}
    assert not run("mine.yaml", "in", "biped", "out", say=said.append).failed and said[2].split()[1:4] == ["up", "to", "date"]
    for p, (stamp, data) in before.items(): assert p.read_bytes() == data and (p.name == MANIFEST or p.stat().st_mtime_ns == stamp), p
