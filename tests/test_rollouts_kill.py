"An export that is killed twenty times, each time somewhere else, and run again has the bytes of one that was not; what is damaged is named, and costs itself alone."
import json, os, pickle, select, shutil, signal, sys, time
from hashlib import sha256

import numpy as np
import pytest

import motionbench.rollouts.export as exporting
from motionbench.core.errors import ConfigError, MotionFormatError
from motionbench.core.robot import load_robot
from motionbench.io.grail import ObjectMotion, write_grail, write_grail_object
from motionbench.io.safe_pickle import dump, load
from motionbench.rollouts.export import export_shard
from motionbench.rollouts.manifest import MANIFEST
from motionbench.rollouts.metrics import metrics_table
from motionbench.rollouts.processes import in_processes, only_writer
from motionbench.rollouts.shard import METRICS, PROVENANCE, write_json
from motionbench.rollouts.trajectory import Rollout, write_trajectory

pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes are forked and killed")
KEYS, T, KILLS = [f"carry_{i}" for i in range(6)], 9, 20
TOUCHES = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir")


def motion_of(robot, seed, frames, fps):
    rng, t = np.random.default_rng(seed), np.arange(frames)[:, None]/fps
    q = np.tile(robot.model.qpos0, (frames, 1))
    q[:, :3] += 0.1*np.sin(t*rng.uniform(1, 3, 3))
    q[:, robot.tree.qpos_adr] += 0.2*np.sin(t*rng.uniform(1, 3, len(robot.joint_names)))
    return robot.motion(q, fps)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    "A library of six motions with objects, geometry, textures and tables, and their rollouts, of which the last fell."
    home, robot = tmp_path_factory.mktemp("kill"), load_robot("biped")
    for i, key in enumerate(KEYS):
        motion = motion_of(robot, i, 2*T - 1, 50)
        write_grail(motion, home/f"lib/robot/{key}.pkl", robot)
        write_grail_object(ObjectMotion(50, motion.root_pos, motion.root_quat, "box", 1.0, dict(left={4: np.ones((2, 3))})), home/f"lib/objects/{key}.pkl")
        dump(dict(table_pos=np.zeros(3), table_quat=np.array([1.0, 0, 0, 0]), table_quat_order="wxyz"), home/f"lib/meta/{key}.pkl")
        (home/f"lib/object_usd/textures/{key}").mkdir(parents=True)
        (home/f"lib/object_usd/{key}.usda").write_text(f"#usda 1.0\n# {key}\n")
        (home/f"lib/object_usd/textures/{key}/wood.png").write_text(key)
        run = motion_of(robot, i, T, 25)
        write_trajectory(Rollout(key, i, run, object_pos=run.root_pos, object_quat=run.root_quat), home/f"shard/{key}.trajectory.pkl", robot)
    (home/"lib/object_usd/config.yaml").write_text("mass: 1\n")
    row = lambda i, fell: dict(key=KEYS[i], terminated=fell, terminate_reason="fallen"*fell, progress=.5 if fell else 1.0, frames=T, metrics=dict(obj_pos_error=.01*i))
    write_json(home/"shard"/METRICS, metrics_table([row(i, i == 5) for i in range(6)]))
    return home


def export(home, out, **limits): return export_shard(home/"shard", home/"lib", out, robot="biped", **limits)
def tree(folder): return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
def visible(folder): return {r: b for r, b in tree(folder).items() if not any(x.startswith(".") for x in r.split("/"))}


def touched(home, out, kill_at=0):
    "How often an export in a child touches its output; it kills itself before it does so for the `kill_at`-th time. The file that it was to rename then is only half written."
    reads, writes = os.pipe()
    pid = os.fork()
    if not pid:
        seen = [0]
        def hook(event, args):
            if event not in TOUCHES or not str(args[0]).startswith(str(out)): return
            seen[0] += 1
            if seen[0] != kill_at: return
            if event == "os.rename": os.truncate(args[0], os.stat(args[0]).st_size//2)
            os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
        try: export(home, out)
        except BaseException: os._exit(7)
        os.write(writes, str(seen[0]).encode())
        os._exit(0)
    os.close(writes)
    status = os.waitpid(pid, 0)[1]
    with os.fdopen(reads) as f: told = f.read()
    if kill_at: assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    else: assert status == 0
    return int(told or 0)


@pytest.mark.parametrize("before", [False, True], ids=["new", "again"])
def test_killed_twenty_times(home, tmp_path, before):
    "`again`: over an export with other limits, which had fewer motions."
    export(home, tmp_path/"whole")
    want, manifest = tree(tmp_path/"whole"), tree(tmp_path/"whole")[MANIFEST]
    assert len(json.loads(manifest)["exported_motions"]) == 5
    def begin(name):
        if before: export(home, tmp_path/name, obj_pos_threshold=.015)
        return tmp_path/name
    moments = np.random.default_rng(before).choice(np.arange(1, touched(home, begin("counted")) + 1), KILLS, replace=False)
    half = 0
    for n in map(int, moments):
        out = begin(f"out_{n}")
        touched(home, out, n)
        left = visible(out) if out.exists() else {}
        if MANIFEST in left:                                            # whoever finds a manifest finds all that it lists
            assert {r: sha256(b).hexdigest() for r, b in left.items() if r != MANIFEST} == json.loads(left[MANIFEST])["sha256"], n
        assert all(b == want[r] for r, b in left.items() if r != MANIFEST), n         # no half file has a name
        half += out.exists() and len(tree(out)) > len(left)
        export(home, out)
        assert tree(out) == want, n
    assert half >= 3, "hardly any kill came while a file was written"


def test_no_process_is_left_of_a_killed_export(home, tmp_path, monkeypatch):
    "Each of two children holds an answer that no pipe takes at once, when their parent is killed."
    real, parent = exporting._one, []
    def slow(job, key):
        if os.getpid() == parent[0]:
            time.sleep(1)
            os.kill(os.getpid(), signal.SIGKILL)
        entry, files = real(job, key)
        return entry | dict(note="x"*200_000), files
    monkeypatch.setattr(exporting, "_one", slow)
    for n_jobs in (2, 3):
        alive, held = os.pipe()                                          # all descendants hold its other end
        pid = os.fork()
        if not pid:
            os.setpgid(0, 0)
            parent[:] = [os.getpid()]
            try: export(home, tmp_path/"out", n_jobs=n_jobs)
            finally: os._exit(7)
        os.close(held)
        assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
        gone = bool(select.select([alive], [], [], 5)[0])
        os.close(alive)
        if not gone: os.killpg(pid, signal.SIGKILL)
        assert gone, f"of {n_jobs} processes some live on"
    monkeypatch.undo()
    export(home, tmp_path/"out", n_jobs=2)
    export(home, tmp_path/"whole")
    assert tree(tmp_path/"out") == tree(tmp_path/"whole")


class TwoWords(Exception):
    "It can be pickled, but not read again."
    def __init__(self, a, b): super().__init__(f"{a} {b}")


def test_what_went_wrong_in_another_process_is_told():
    def fail(i):
        if i == 1: raise TwoWords("disk", "broken")
        if i == 2: raise MotionFormatError("a.pkl", "is bad")
    with pytest.raises(RuntimeError, match="TwoWords: disk broken"): in_processes(fail, [(0,), (1,)], 2)
    with pytest.raises(MotionFormatError, match="a.pkl: is bad"): in_processes(fail, [(0,), (2,)], 2)


def test_one_export_at_a_time_writes_to_a_folder(home, tmp_path):
    with only_writer(tmp_path/"out"), pytest.raises(ConfigError, match="another process is writing there"): export(home, tmp_path/"out")
    assert export(home, tmp_path/"out")["exported_count"] == 5


# ---- what is damaged costs itself alone

FACTS = {"a list": [1], "a number as name": {1: 2}, "the rate": {"fps": 2}, "a grade": {"grade": "pass"}, "an array": {"assist": np.zeros(3)}, "nan": {"assist": float("nan")}, "huge": {"assist": 10**400}, "no text": {"assist": "\ud800"}}
BAD = {f"facts: {k}": dict(evaluation={"facts": v}) for k, v in FACTS.items()} | {
    f"{k}: {v!r}": {k: v} for k in ("root_pos_w", "root_quat_w", "dof_pos", "object_pos_w", "object_quat_w") for v in (np.float64(3), "abc", {}, [10**400])} | {
    f"{k}: {v!r}": {k: v} for k in ("fps", "quat_format", "motion_key", "total_frames", "joint_names") for v in ({}, [1, 2], np.zeros(2), "\ud800", 10**400, float("nan"))}


@pytest.mark.parametrize("change", BAD.values(), ids=[ascii(k)[:40] for k in BAD])
def test_a_malformed_trajectory_is_one_error(home, tmp_path, change):
    mine = shutil.copytree(home, tmp_path/"home")
    path = mine/"shard/carry_2.trajectory.pkl"
    dump(load(path) | change, path)
    for n_jobs in (1, 2):
        done = export(mine, tmp_path/"out", n_jobs=n_jobs)
        assert list(done["errors"]) == ["carry_2"] and done["exported_count"] == 4 and not (tmp_path/"out/robot/carry_2.pkl").exists()
    assert json.loads((tmp_path/"out"/MANIFEST).read_text(encoding="utf-8")) == done and "--fps" not in done["errors"]["carry_2"]


def test_facts_of_an_evaluation_stand_beside_those_of_the_export(home, tmp_path):
    mine = shutil.copytree(home, tmp_path/"home")
    path = mine/"shard/carry_2.trajectory.pkl"
    dump(load(path) | dict(evaluation={"facts": {"assist_force_mean_pct": 3.5, "surface": "sand"}}), path)
    entry, = (m for m in export(mine, tmp_path/"out")["exported_motions"] if m["motion_key"] == "carry_2")
    assert entry["assist_force_mean_pct"] == 3.5 and entry["surface"] == "sand" and entry["fps"] == 25


@pytest.mark.parametrize("told, says", [(dict(robot=["biped"]), "robot is"), (dict(robot=7), "robot is 7"), (dict(source=dict(sha256=7)), "sha256 of the source is 7")])
def test_a_provenance_that_makes_no_sense_is_named(home, tmp_path, told, says):
    mine = shutil.copytree(home, tmp_path/"home")
    (mine/"shard"/PROVENANCE).write_text(json.dumps(told))
    with pytest.raises(MotionFormatError, match=f"{PROVENANCE}: its {says}"): export_shard(mine/"shard", mine/"lib", tmp_path/"out")

class Trap:
    def __init__(self, path): self.path = path
    def __reduce__(self): return os.system, (f"touch {self.path}",)


def truncated(path, trap): path.write_bytes(path.read_bytes()[:-path.stat().st_size//3])
def hostile(path, trap): path.write_bytes(pickle.dumps({path.stem: Trap(trap)}))


@pytest.mark.parametrize("harm, says", [(truncated, "truncated or damaged"), (hostile, "refused")])
@pytest.mark.parametrize("file", ["shard/carry_2.trajectory.pkl", "lib/robot/carry_2.pkl", "lib/objects/carry_2.pkl", "lib/meta/carry_2.pkl"])
def test_a_harmed_pickle_is_named_and_the_others_are_exported(home, tmp_path, file, harm, says):
    mine = shutil.copytree(home, tmp_path/"home")
    export(mine, tmp_path/"whole")
    harm(mine/file, tmp_path/"trapped")
    done = export(mine, tmp_path/"out")
    assert list(done["errors"]) == ["carry_2"] and file in done["errors"]["carry_2"] and says in done["errors"]["carry_2"] and "\n" not in done["errors"]["carry_2"]
    assert not (tmp_path/"trapped").exists() and done["exported_count"] == 4
    assert {r: b for r, b in tree(tmp_path/"out").items() if r != MANIFEST} == {r: b for r, b in tree(tmp_path/"whole").items() if r != MANIFEST and "carry_2" not in r}


@pytest.mark.parametrize("table, says", [(b"{", "no readable"), (b"\x00\xff", "no readable"), (b"[]", METRICS), (None, "evaluated to its end")])
def test_an_unreadable_shard_is_one_error_and_the_export_that_is_there_stays(home, tmp_path, table, says):
    mine = shutil.copytree(home, tmp_path/"home")
    export(mine, tmp_path/"out")
    before = tree(tmp_path/"out")
    if table is None: (mine/"shard"/METRICS).unlink()
    else: (mine/"shard"/METRICS).write_bytes(table)
    with pytest.raises(MotionFormatError, match=says): export(mine, tmp_path/"out")
    with pytest.raises(MotionFormatError, match="no such folder|evaluated to its end"): export_shard(tmp_path/"nowhere", mine/"lib", tmp_path/"out", robot="biped")
    assert tree(tmp_path/"out") == before
