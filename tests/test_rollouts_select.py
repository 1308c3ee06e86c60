"The same ranking from every store, whatever is missing; shards summed up; damaged files named."
import csv, json, math, os, random, sqlite3, struct, subprocess, sys, zlib
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings, strategies as st

from motionbench.cli.parser import Parser, with_hyphens
from motionbench.cli.rollouts_select import add_rollouts_select, add_rollouts_summarize
from motionbench.core.errors import ConfigError, MotionbenchError, MotionFormatError
from motionbench.rollouts.other_stores import JsonlStore, TrackioStore, open_store, read_jsonl_run, write_jsonl_run
from motionbench.rollouts.selection import STEP, SUCCESS, Checkpoint, checkpoints_of, rank, rank_key, select_checkpoints, selection_dict
from motionbench.rollouts.stores import RunRef, join_rows, matching
from motionbench.rollouts.summary import compared, pooled, read_figures, ShardFigures, summarize, wilson
from motionbench.rollouts.summary_files import write_summary
from motionbench.rollouts.wandb import WandbStore
from motionbench.rollouts.wandb_offline import BLOCK, HEAD, WandbOfflineStore, history_rows, read_wandb, wandb_records

L, G, OBJ = "eval/all/mpjpe_l", "eval/all/mpjpe_g", "eval/all/obj_pos_error"
# what three runs of a sweep log, call by call: numbers apart in time, one run never any of objects, one perfect, one evaluation twice
LOGGED = {
    "walk": [{SUCCESS: 0.5, L: 31.0, G: 60.0, STEP: 1000}, {"loss": 0.3}, {SUCCESS: 0.9, STEP: 2000}, {L: 28.0, STEP: 2000}, {SUCCESS: 0.9, L: 28.0, STEP: 3000}],
    "lift": [{SUCCESS: 0.9, L: 0.0, OBJ: 0.0, STEP: 2000}, {SUCCESS: 0.2, L: 50.0, OBJ: 0.02, STEP: 3000}, {SUCCESS: 0.9, L: 35.0, STEP: 3000}],
    "push": [{SUCCESS: 0.9, STEP: 1000}, {SUCCESS: 0.95, L: 40.0, OBJ: 0.5, STEP: 1500}],
}
WANTED = [("push", 1500), ("lift", 2000), ("walk", 3000), ("walk", 2000), ("lift", 3000), ("push", 1000), ("walk", 1000)]
WANTED_HOI = [("push", 1500), ("lift", 2000), ("lift", 3000), ("walk", 3000), ("walk", 2000), ("push", 1000), ("walk", 1000)]
strictly = lambda text: json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
names = lambda chosen: [(c.run.name, c.step) for c in chosen.top]


WRITE_WANDB = """
import json, sys, wandb
for name, rows in json.load(sys.stdin).items():
    with wandb.init(mode="offline", dir=sys.argv[1], project="tracking", group="may", name=name, id=f"id-{name}", config={"experiment_dir": f"exp/{name}", "lr": {"min": 1}},
                    settings=wandb.Settings(sweep_id="s7", x_disable_stats=True, x_disable_machine_info=True, console="off")) as run:
        for row in rows: run.log(row)
        run.config.update({"late": True})
        if name == "walk": run.log({"nested": {"a": float("nan"), "b": 2}, "text": "x"*100_000})
"""
WRITE_TRACKIO = """
import json, sys, trackio
for name, rows in json.load(sys.stdin).items():
    trackio.init(project="tracking", name=name, group="may", config={"experiment_dir": f"exp/{name}", "sweep": "s7"}, auto_log_gpu=False)
    for row in rows: trackio.log(row)
    trackio.log({"broken": float("nan")})
    trackio.finish()
"""


def write_with(script, folder):
    env = {**os.environ, "WANDB_SILENT": "true", "WANDB_MODE": "offline", "TRACKIO_DIR": str(folder), "HOME": str(folder), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", script, str(folder)], input=json.dumps(LOGGED), text=True, env=env, check=True, capture_output=True, timeout=120, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    "A folder of runs that the wandb package itself wrote, without network."
    pytest.importorskip("wandb", reason="wandb is not installed")
    return write_with(WRITE_WANDB, tmp_path_factory.mktemp("wandb"))


@pytest.fixture(scope="module")
def trackio(tmp_path_factory):
    pytest.importorskip("trackio", reason="trackio is not installed")
    return write_with(WRITE_TRACKIO, tmp_path_factory.mktemp("trackio"))


@pytest.fixture(scope="module")
def jsonl(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jsonl")
    for name, rows in LOGGED.items(): write_jsonl_run(RunRef(f"id-{name}", name, "may", "s7", "finished", {"experiment_dir": f"exp/{name}"}), rows, folder/f"deep/{name}.jsonl")
    return folder


class FakeApi:
    "Answers as wandb.Api does: filters on the server, scans that give only rows with all of the keys."
    def __init__(self, runs): self.all, self.scans = runs, []

    def run(self, id, name, rows, group="may", sweep="s7", state="finished", config=None):
        rows = [{"_step": k, **row} for k, row in enumerate(rows)]
        def scan_history(keys=None):
            self.scans.append(keys)
            return ({k: row[k] for k in keys} if keys else dict(row) for row in rows if all(k in row for k in keys or ()))
        self.all.append(SimpleNamespace(id=id, name=name, group=group, sweep_name=sweep, state=state, config=config or {"experiment_dir": f"exp/{name}"}, scan_history=scan_history))

    def runs(self, path=None, filters=None, order=None, lazy=True):
        self.path = path
        if path == "nobody/tracking": raise ValueError("Could not find project nobody/tracking")
        have = lambda run: dict(sweep=run.sweep_name, group=run.group, name=run.id, displayName=run.name)
        fits = lambda run, f: any(fits(run, g) for g in f["$or"]) if "$or" in f else all(have(run)[k] == v for k, v in f.items())
        return (run for run in self.all if all(fits(run, f) for f in (filters or {"$and": []})["$and"]))


@pytest.fixture
def online():
    api = FakeApi([])
    for name, rows in LOGGED.items(): api.run(f"id-{name}", name, rows)
    api.run("other", "other", [{SUCCESS: 1.0, STEP: 1}], sweep="s8", group="june")
    return WandbStore("lab", "tracking", api)


@pytest.fixture(params=["offline", "online", "trackio", "jsonl"])
def store(request):
    made = request.getfixturevalue(request.param)
    return made if request.param == "online" else open_store(made)


def test_the_ranking_is_the_same_from_every_store(store):
    for more in (dict(sweep="s7"), dict(group="may"), dict(sweep="s7", group="may")):
        assert names(select_checkpoints(store, k=9, **more)) == WANTED
    assert names(select_checkpoints(store, sweep="s7", k=9, metric="obj_pos_error")) == WANTED_HOI
    assert names(select_checkpoints(store, sweep="s7", k=2)) == WANTED[:2]
    assert names(select_checkpoints(store, run="walk")) == [w for w in WANTED if w[0] == "walk"]


def test_what_the_stores_say_is_the_same(store):
    value = selection_dict(select_checkpoints(store, sweep="s7", k=3))
    assert [(t["run_name"], t["checkpoint"], t["success_rate"], t["mpjpe_l"], t["mpjpe_g"], t["obj_pos_error"], t["experiment_dir"], t["group"]) for t in value["top"]] == [
        ("push", "model_step_001500.pt", 0.95, 40.0, None, 0.5, "exp/push", "may"), ("lift", "model_step_002000.pt", 0.9, 0.0, None, 0.0, "exp/lift", "may"),
        ("walk", "model_step_003000.pt", 0.9, 28.0, None, None, "exp/walk", "may")]
    assert value["run"] is None and value["tiebreak_key"] == L and not value["hoi"] and {r["run_name"]: r["checkpoints"] for r in value["runs"]} == dict(walk=3, lift=2, push=2)
    one = selection_dict(select_checkpoints(store, run="lift", metric="obj_pos_error"), step_pad=8)
    assert one["run_name"] == "lift" and one["experiment_dir"] == "exp/lift" and one["hoi"] and one["top"][0]["checkpoint"] == "model_step_00002000.pt"
    for asked in (dict(sweep="s9"), dict(group="x"), dict(run="nobody")):
        with pytest.raises(ConfigError, match="sweeps: s7.*groups: .*may.*runs: .*walk"): store.runs(**asked)


def test_sparse_keys_lose_no_row_and_each_is_asked_for_alone(online):
    "wandb gives only rows that have all keys: asked together, a run that logs no object errors would be empty."
    [walk] = online.runs(run="walk")
    assert list(online._runs[walk.id].scan_history([SUCCESS, L, OBJ])) == []
    assert [c.success_rate for c in checkpoints_of(walk, online.rows(walk, [SUCCESS, L, OBJ, STEP]))[0]] == [0.5, 0.9, 0.9]
    assert all(len(keys) == 2 and keys[1] == "_step" for keys in online.api.scans[1:]) and len(online.api.scans) == 5
    assert len(online.rows(walk)) == 5


def test_a_sweep_of_twenty_runs_with_crashed_ones():
    api, rng = FakeApi([]), random.Random(0)
    for k in range(20):
        rows = [{SUCCESS: round(rng.uniform(0, 0.9), 3), STEP: 100*n, **({L: rng.uniform(20, 60)} if rng.random() < 0.5 else {})} for n in range(1, 30)]
        api.run(f"r{k:02d}", f"run {k}", [] if k == 7 else rows, state="crashed" if k % 5 == 2 else "finished")
    api.all[12].scan_history = lambda keys=None: iter([{"_step": 0, keys[0]: {SUCCESS: 0.97, STEP: 50, L: float("nan")}[keys[0]]}] if keys[0] in (SUCCESS, STEP, L) else [])
    chosen = select_checkpoints(WandbStore(project="p", api=api), sweep="s7", k=4)
    assert (chosen.top[0].run.id, chosen.top[0].run.state, chosen.top[0].step, chosen.top[0].errors["mpjpe_l"]) == ("r12", "crashed", 50, None)
    assert len(chosen.runs) == 20 and sum(n for _, n in chosen.runs) == 18*29 + 1 and chosen.notes == ["run r07 (crashed): no evaluation logged"]
    assert [c.success_rate for c in chosen.top] == sorted((c.success_rate for c in chosen.top), reverse=True)
    strictly(json.dumps(selection_dict(chosen)))


def test_the_server_says_no(online):
    lost = WandbStore("nobody", "tracking", online.api)
    with pytest.raises(ConfigError, match="Could not find project.*--entity and --project"): lost.runs(sweep="s7")
    with pytest.raises(ConfigError, match="needs a project"): WandbStore("lab")
    assert [r.id for r in online.runs()] == ["id-walk", "id-lift", "id-push", "other"] and online.api.path == "lab/tracking"


def test_zero_is_a_value_and_what_is_missing_comes_last():
    run = RunRef("a")
    rows = [{"_step": k, SUCCESS: s, L: e, STEP: k} for k, (s, e) in enumerate([(0.0, 0.0), (0.0, None), (None, 0.0), (1.0, 0.0), (1.0, math.inf), (1.0, 1e-9), (True, 0.0), ("0.9", 0.0)])]
    made, lost = checkpoints_of(run, rows)
    assert [c.step for c in rank(made)] == [3, 5, 4, 0, 1, 7, 6, 2] and lost == 0
    assert [c.success_rate for c in rank(made)][5:] == [None]*3 and made[4].errors["mpjpe_l"] is None


def test_steps_without_eval_step():
    run = RunRef("a")
    assert [c.step for c in checkpoints_of(run, [{"_step": 5, SUCCESS: 0.5}, {"_step": 9, L: 3.0}])[0]] == [5, 9]
    made, lost = checkpoints_of(run, [{"_step": 5, SUCCESS: 0.5}, {"_step": 6, SUCCESS: 0.6, STEP: 100.0}, {"_step": 7, SUCCESS: 0.6, STEP: 100.5}, {"_step": 8, STEP: 200}])
    assert [c.step for c in made] == [100] and lost == 2
    store = SimpleNamespace(runs=lambda *a: [run], rows=lambda run, keys: [{"_step": 5, L: 0.5}], notes=[])
    with pytest.raises(ConfigError, match="no eval/success/success_rate was logged by a"): select_checkpoints(store)


values = st.sampled_from([None, 0.0, 0.25, 0.5, 1.0, math.nan, math.inf]) | st.floats(0, 1)
run_rows = st.lists(st.fixed_dictionaries({}, optional={SUCCESS: values, L: values, STEP: st.integers(0, 6)}), max_size=8).map(lambda rows: [{"_step": k, **r} for k, r in enumerate(rows)])


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from("abcdef"), run_rows, max_size=5), st.randoms(use_true_random=False))
def test_the_ranking_is_a_total_order_whatever_the_order_of_runs_and_rows(logged, rng):
    def ranked(runs, shuffle):
        found = []
        for name in runs:
            rows = list(logged[name])
            if shuffle: rng.shuffle(rows)
            found += checkpoints_of(RunRef(name), rows)[0]
        return rank(found)
    first = ranked(list(logged), False)
    again = ranked(rng.sample(list(logged), len(logged)), True)
    assert first == again
    keys = [rank_key(c) for c in first]
    assert all(a < b for a, b in zip(keys, keys[1:])), "two checkpoints of one place"
    rates = [c.success_rate for c in first]
    assert rates == sorted((r for r in rates if r is not None), reverse=True) + [None]*rates.count(None)


@settings(max_examples=100, deadline=None)
@given(run_rows)
def test_join_is_idempotent_and_keeps_every_key(rows):
    joined = join_rows(rows)
    assert join_rows(joined) == joined or any(isinstance(v, float) and math.isnan(v) for r in rows for v in r.values())
    for key in (SUCCESS, L, STEP): assert sum(key in r for r in joined) == sum(r.get(key) is not None for r in rows)


# offline files ---------------------------------------------------------------

def wandb_file(folder, name): return next(Path(folder).rglob(f"run-id-{name}.wandb"))


def test_a_run_as_wandb_wrote_it(offline):
    run = read_wandb(wandb_file(offline, "walk"))
    assert (run["id"], run["name"], run["group"], run["sweep"], run["project"], run["state"], run["cut"]) == ("id-walk", "walk", "may", "s7", "tracking", "finished", 0)
    assert run["config"]["experiment_dir"] == "exp/walk" and run["config"]["late"] is True
    rows = history_rows(run["history"], "x")
    last = rows[-1]
    assert last["nested.b"] == 2 and math.isnan(last["nested.a"]) and last["text"] == "x"*100_000     # over several blocks
    assert [{k: v for k, v in r.items() if k[0] != "_"} for r in rows[:-1]] == LOGGED["walk"]
    assert [r["_step"] for r in rows] == list(range(6))
    assert history_rows(run["history"], "x", ["nested.b", L]) == [{"_step": 0, L: 31.0}, {"_step": 3, L: 28.0}, {"_step": 4, L: 28.0}, {"_step": 5, "nested.b": 2}]


def test_a_cut_file_keeps_what_was_complete_and_says_so(offline, tmp_path):
    whole = wandb_file(offline, "lift").read_bytes()
    records, left = wandb_records(wandb_file(offline, "lift"))
    assert left == 0
    path, counts = tmp_path/"run-x.wandb", []
    for size in range(HEAD + 1, len(whole), 97):
        path.write_bytes(whole[:size])
        got, cut = wandb_records(path)
        assert got == records[:len(got)] and 0 <= cut <= size - HEAD
        counts.append(len(got))
    assert counts == sorted(counts) and counts[0] == 0
    path.write_bytes(whole[:-3])
    store = WandbOfflineStore(tmp_path)
    [run] = store.runs()
    assert run.state == "crashed" and len(store.rows(run)) == 3 and "incomplete record" in store.notes[0]
    path.write_bytes(whole[:20])
    for make in (lambda: WandbOfflineStore(tmp_path), lambda: open_store(tmp_path)):
        store = make()
        with pytest.raises(ConfigError, match="there is no run"): store.runs()
        assert "ends before the run is named" in store.notes[0]
    path.write_bytes(whole + bytes(300))
    assert wandb_records(path) == (records, 300)


@pytest.mark.parametrize("where", ["crc", "body", "type", "header"])
def test_a_damaged_file_is_refused(offline, tmp_path, where):
    data, path = bytearray(wandb_file(offline, "lift").read_bytes()), tmp_path/"run-x.wandb"
    data[{"header": 2, "crc": HEAD, "body": HEAD + HEAD + 2, "type": HEAD + 6}[where]] ^= 0x21
    path.write_bytes(data)
    with pytest.raises(MotionFormatError, match="header" if where == "header" else "wrong checksum at byte 7"): wandb_records(path)
    store = WandbOfflineStore(tmp_path)
    with pytest.raises(MotionFormatError, match=str(path)): store.runs()


def test_pieces_that_do_not_follow_and_records_that_are_none(tmp_path):
    pytest.importorskip("wandb", reason="wandb is not installed")
    piece = lambda body, kind: struct.pack("<IHB", zlib.crc32(body, zlib.crc32(bytes([kind]))), len(body), kind) + body
    head, path = struct.pack("<4sHB", b":W&B", 0xBEE1, 0), tmp_path/"a.wandb"
    for pieces in ([(b"a", 3)], [(b"a", 4)], [(b"a", 2), (b"b", 1)], [(b"a", 2), (b"b", 2)], [(b"a", 9)]):
        path.write_bytes(head + b"".join(piece(*p) for p in pieces))
        with pytest.raises(MotionFormatError, match="does not follow|of type"): wandb_records(path)
    path.write_bytes(head + piece(b"\xff\xff\xff", 1))
    with pytest.raises(MotionFormatError, match="record 0 is no message"): read_wandb(path)
    path.write_bytes(head + piece(b"a", 2))
    assert wandb_records(path) == ([], 8)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 400))
def test_any_bytes_are_read_or_refused(tmp_path_factory, junk, at):
    path = tmp_path_factory.getbasetemp()/"any.wandb"
    path.write_bytes((struct.pack("<4sHB", b":W&B", 0xBEE1, 0) + junk)[:at] or b"x")
    try: records, cut = wandb_records(path)
    except MotionFormatError: return
    assert isinstance(records, list) and cut >= 0


def test_a_resumed_run_has_its_rows_from_both_files(offline, tmp_path):
    from wandb.proto.wandb_internal_pb2 import Record
    piece = lambda body: struct.pack("<IHB", zlib.crc32(body, zlib.crc32(b"\1")), len(body), 1) + body
    records = [r for r in wandb_records(wandb_file(offline, "walk"))[0] if len(r) < 5000]
    kind = lambda r: Record.FromString(r).WhichOneof("record_type")
    history, [who], [end] = [r for r in records if kind(r) == "history"], [r for r in records if kind(r) == "run"], [r for r in records if kind(r) == "exit"]
    for name, part in dict(a=[who, *history[:2]], b=[who, *history[2:], end]).items():
        (tmp_path/name).mkdir()
        (tmp_path/name/"run-id-walk.wandb").write_bytes(struct.pack("<4sHB", b":W&B", 0xBEE1, 0) + b"".join(map(piece, part)))
    store = WandbOfflineStore(tmp_path)
    [run] = store.runs()
    assert run.state == "finished" and [r.get(STEP) for r in store.rows(run)] == [1000, None, 2000, 2000, 3000]
    assert len(WandbOfflineStore(tmp_path, project="tracking").runs()) == 1
    with pytest.raises(ConfigError, match="there is no run"): WandbOfflineStore(tmp_path, project="other").runs()
    assert len(WandbOfflineStore(offline).runs()) == 3     # latest-run is a link to one of them


def test_without_the_package_the_error_says_what_to_install(offline, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb.proto.wandb_internal_pb2", None)
    with pytest.raises(ConfigError, match="pip install wandb"): read_wandb(wandb_file(offline, "walk"))
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="pip install wandb"): WandbStore(project="p").runs(sweep="s")


# trackio, JSON lines, which store --------------------------------------------

def test_trackio_without_run_ids_and_damaged(trackio, tmp_path):
    with sqlite3.connect(tmp_path/"old.db") as db:
        db.execute("CREATE TABLE metrics (id INTEGER PRIMARY KEY, timestamp TEXT, run_name TEXT, step INTEGER, metrics TEXT)")
        db.execute("CREATE TABLE configs (id INTEGER PRIMARY KEY, run_name TEXT, config TEXT)")
        db.execute("INSERT INTO configs (run_name, config) VALUES ('silent', '{\"_Group\": \"g\"}')")
        db.execute("INSERT INTO metrics (timestamp, run_name, step, metrics) VALUES ('', 'walk', 3, '{\"x\": 2}'), ('', 'walk', 3, '{\"x\": 1}')")
    db.close()
    store = TrackioStore(tmp_path)
    assert [(r.id, r.group) for r in store.runs()] == [("walk", None), ("silent", "g")] and store.rows(store.runs(run="walk")[0]) == [{"_step": 3, "x": 1}]
    (tmp_path/"old.db").write_bytes((tmp_path/"old.db").read_bytes()[:4096] + b"x"*4096)
    with pytest.raises(MotionFormatError, match="no readable database of trackio"): TrackioStore(tmp_path).runs()
    with pytest.raises(ConfigError, match="no database of trackio for project 'lifting'; it holds tracking"): TrackioStore(trackio, "lifting").runs()
    place = tmp_path/"copy"
    place.mkdir()
    (place/"tracking.db").write_bytes((trackio/"tracking.db").read_bytes())
    assert len(TrackioStore(place).runs()) == 3 and [p.name for p in place.iterdir()] == ["tracking.db"]     # reading makes nothing beside it
    with sqlite3.connect(place/"tracking.db") as db:                                                      # while another writes, its log is read too
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("INSERT INTO metrics (run_id, timestamp, run_name, step, metrics) VALUES ('new', '', 'new', 1, '{}')")
        db.commit()
        assert len(TrackioStore(place).runs()) == 4
    db.close()


def test_json_lines(tmp_path):
    path = tmp_path/"a/log.jsonl"
    path.parent.mkdir()
    path.write_text('{"iter": 10, "loss": 1}\n{"iter": 20, "loss": 2}\n{"iter": 10, "loss": 3}\n{"iter": 30, "lo')
    store = JsonlStore(tmp_path)
    [run] = store.runs()
    assert run.id == "a" and store.rows(run, ["loss"]) == [dict(_step=10, loss=3), dict(_step=20, loss=2)] and "last line is incomplete" in store.notes[0]
    for text, match in {'{"a": 1}\n{"b"\n{"c": 1}\n': "line 2 is no JSON", "[1]\n": "no JSON object", '{"run": "x", "config": [1]}\n': "config of the first line", '{"run": "x", "group": 3}\n': "group of the first line", "{": "line 1"}.items():
        path.write_text(text)
        with pytest.raises(MotionFormatError, match=match): read_jsonl_run(path)
    path.write_text('{"run": "x"}\n')
    (tmp_path/"b.jsonl").write_text('{"run": "x"}\n')
    with pytest.raises(ConfigError, match="a second run 'x'"): JsonlStore(tmp_path).runs()
    with pytest.raises(ValueError): write_jsonl_run(RunRef("x"), [{"a": math.nan}], tmp_path/"c.jsonl")
    assert not (tmp_path/"c.jsonl").exists()


def test_a_store_is_told_by_its_content(offline, trackio, jsonl, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRACKIO_DIR", str(trackio))
    kinds = {offline: WandbOfflineStore, wandb_file(offline, "walk"): WandbOfflineStore, trackio: TrackioStore, trackio/"tracking.db": TrackioStore, jsonl: JsonlStore, jsonl/"deep/walk.jsonl": JsonlStore, "wandb": WandbStore, "trackio": TrackioStore}
    for place, kind in kinds.items(): assert type(open_store(place)) is kind
    assert len(open_store("trackio").runs()) == 3 and len(open_store(wandb_file(offline, "walk")).runs()) == 1
    (tmp_path/"wandb").symlink_to(offline)
    assert type(open_store("wandb")) is WandbOfflineStore
    (tmp_path/"notes.txt").write_text("hello")
    for place, match in {"notes.txt": "holds no runs", "none": "no such folder"}.items():
        with pytest.raises(ConfigError, match=match): open_store(place)
    with pytest.raises(ConfigError, match="2 runs are called 'w'; name one by its id: a, b"): matching([RunRef("a", "w"), RunRef("b", "w")], run="w")


# commands --------------------------------------------------------------------

@pytest.fixture
def cli(capsys):
    parser = Parser(prog="motionbench rollouts")
    commands = parser.add_subparsers(parser_class=Parser)
    add_rollouts_select(commands)
    add_rollouts_summarize(commands)
    def call(*words):
        args = parser.parse_args(with_hyphens([str(w) for w in words]))
        return args.function(args), *capsys.readouterr()
    return call


def test_the_guides_command(cli, offline, tmp_path):
    code, out, err = cli("select", "--sweep", "s7", "--k", "3", "--store", offline, "--out", tmp_path/"topk.json", "--json")
    assert code == 0 and strictly(out) == strictly((tmp_path/"topk.json").read_text())
    assert [(t["rank"], t["run_name"], t["eval_step"]) for t in strictly(out)["top"]] == [(k, *w) for k, w in enumerate(WANTED[:3], 1)]
    code, out, err = cli("select", "--group", "may", "--store", offline, "--hoi", "--k", "20", "--min_sr", "0.6")
    assert code == 0 and "6 checkpoints instead of 20 have a success rate of at least 0.6" in err and "from 7 checkpoints of 3 runs" in out
    assert [line.split()[2] for line in out.splitlines()[2:8]] == [name for name, _ in WANTED_HOI[:6]]
    for words, match in {("--sweep", "s9", "--store", offline): "sweeps: s7", (): "which runs", ("--store", offline, "--hoi", "--metric", "mpjpe_g"): "drop one"}.items():
        with pytest.raises(MotionbenchError, match=match): cli("select", *words)
    with pytest.raises(SystemExit): cli("select", "--sweep", "s7", "--min-sr", "nan")


def test_a_path_of_a_sweep_names_entity_and_project(cli, online, monkeypatch):
    monkeypatch.setattr("motionbench.rollouts.wandb.WandbStore", lambda entity, project: WandbStore(entity, project, online.api))
    code, out, _ = cli("select", "--sweep", "lab/tracking/s7", "--json")
    assert code == 0 and len(strictly(out)["top"]) == 5 and online.api.path == "lab/tracking"


# summary ---------------------------------------------------------------------

def shard_file(root, step, shard, keys, failed=(), **columns):
    path = Path(root)/f"step_{step}/phase1_shard_{shard}/metrics_eval.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    table = dict(motion_keys=list(keys), terminated=[k in failed for k in keys], **columns)
    path.write_text(json.dumps({"eval/success/success_rate": 1 - len([k for k in keys if k in failed])/max(1, len(keys)), "eval/all_metrics_dict": table}))
    return path


def test_wilson_is_the_root_of_its_equation():
    for n in (1, 5, 88, 4000):
        for s in {0, 1, n//3, n - 1, n}:
            low, high = wilson(s, n)
            assert 0 <= low <= s/n <= high <= 1 and (low == 0) == (s == 0) and (high == 1) == (s == n)
            for p in {low, high} - {0.0, 1.0}: assert abs(abs(s/n - p) - 1.959964*math.sqrt(p*(1 - p)/n)) < 1e-9


@settings(max_examples=80, deadline=None)
@given(st.lists(st.lists(st.tuples(st.sampled_from("abcdefghij"), st.booleans(), st.none() | st.floats(0, 100)), max_size=6, unique_by=lambda r: r[0]), min_size=1, max_size=4))
def test_every_motion_counts_once(rows):
    got = pooled({i: ShardFigures(tuple(k for k, *_ in r), [s for _, s, _ in r], {"mpjpe_l": [e for *_, e in r]}) for i, r in enumerate(rows)})
    first = {}
    for r in rows:
        for k, s, e in r: first.setdefault(k, (s, e))
    assert got["unique_motions"] == len(first) and got["evaluated_motions"] == sum(map(len, rows))
    assert got["real_success_rate"] == (sum(s for s, _ in first.values())/len(first) if first else None)
    errors = [e for _, e in first.values() if e is not None]
    assert got["mpjpe_l_motions"] == len(errors) and (not errors or got["mpjpe_l_mean"] == pytest.approx(sum(errors)/len(errors)))
    assert {d["motion_key"] for d in got["duplicates"]} == {k for k in first if sum(k == x for r in rows for x, *_ in r) > 1}
    strictly(json.dumps(got))


def test_shards_of_a_training(cli, tmp_path):
    root = tmp_path/"exp/walk/eval"
    shard_file(root, 1000, 0, "abcd", "d", mpjpe_l=[10, 20, 30, 40], mpjpe_g=[1, 1, 1, math.nan])
    shard_file(root, 1000, 1, "de", "e", mpjpe_l=[90, 60])
    shard_file(root, 2000, 0, "abcd", mpjpe_l=[10]*4)
    cut = shard_file(root, 2000, 1, "de")
    cut.write_text(cut.read_text()[:60])
    (root/"step_3000/phase1_shard_1").mkdir(parents=True)
    topk = tmp_path/"topk.json"
    topk.write_text(json.dumps(dict(top=[dict(rank=1, eval_step=1000, success_rate=0.99, run="w", experiment_dir="/old/exp/walk"), dict(rank=2, eval_step=1000, success_rate=0.7, run="v", experiment_dir="/old/exp/lift"),
                                         dict(rank=2, eval_step=2000, success_rate=0.3, run="w", experiment_dir="/old/exp/walk"), dict(rank=3, eval_step=9000, success_rate=0.5, run="w", experiment_dir="/old/exp/walk")])))
    code, out, err = cli("summarize", root, "--compare", topk, "--json", "--out", tmp_path/"report")
    got = strictly(out)
    one, two, three = got["results"]
    assert code == 1 and got["ranked_by_real_sr"] == [1000, 2000, 3000]
    assert (one["total_motions"], one["total_success"], one["real_success_rate"], one["success_rate_macro"], one["evaluated_motions"]) == (5, 3, 0.6, 0.375, 6)
    assert one["interval"] == list(wilson(3, 5)) and one["mpjpe_l_mean"] == 32.0 and one["mpjpe_g_mean"] == 1.0 and one["obj_pos_error_mean"] is None
    assert one["duplicates"] == [dict(motion_key="d", shards=[0, 1], agree=False)] and one["per_shard_wandb_sr_mean"] == 0.625
    assert two["partial_shards"][0]["shard"] == 1 and three["missing_shards"] == [0] and three["partial_shards"][0]["shard"] == 1 and three["real_success_rate"] is None
    assert [(c["run"], c["eval_step"], c["real_success_rate"], c["within_interval"]) for c in got["compare"]] == [("w", 1000, 0.6, False), ("w", 2000, 1.0, False), ("w", 9000, None, None)]
    for said in ("d (shards 0, 1, with different ends)", "step 2000: shard 1 is partial", "step 3000: 2 shards expected, missing: 0", "1 motion of the other checkpoints"): assert said in err
    assert [Path(f).name for f in got["files"]] == ["summary.json", "summary.csv", "summary.md", "summary.png"] and Path(got["files"][3]).read_bytes().startswith(b"\x89PNG")
    with open(tmp_path/"report/summary.csv", newline="") as f: assert [(r["step"], r["success"], r["shards"]) for r in csv.DictReader(f)] == [("1000", "0.6", "2/2"), ("2000", "1.0", "1/2"), ("3000", "", "0/2")]
    strictly((tmp_path/"report/summary.json").read_text())
    before = {f: Path(f).read_bytes() for f in got["files"]}
    write_summary(summarize(root, compare=json.loads(topk.read_text())), tmp_path/"report")
    assert {f: Path(f).read_bytes() for f in got["files"]} == before
    assert cli("summarize", "--exp_dir", tmp_path/"exp/walk", "--num_shards", "2")[0] == 1 and cli("summarize", root/"step_1000")[0] == 0
    with pytest.raises(ConfigError, match="shard 1 of 1"): summarize(root, 1)
    with pytest.raises(ConfigError, match="no such folder"): cli("summarize", tmp_path/"nowhere")
    assert cli("summarize", root/"step_3000", "--out", tmp_path/"none")[0] == 1 and "missing: 0" in (tmp_path/"none/summary.md").read_text()
    with pytest.raises(ConfigError, match="step 5 was chosen from the runs a and b"): compared([], dict(top=[dict(eval_step=5, run="a"), dict(eval_step=5, run="b")]), root)


def test_a_shard_that_is_not_what_it_should_be(tmp_path):
    good = dict(motion_keys=["a", "b"], terminated=[False, True], mpjpe_l=[1.0, None])
    path = shard_file(tmp_path, 1, 0, "a")
    write = lambda value: path.write_text(json.dumps(value))
    write({"eval/all_metrics_dict": good})
    assert read_figures(path.parent) == ShardFigures(("a", "b"), [True, False], {"mpjpe_l": [1.0, None]}, None)
    for bad in ([1], {}, {"eval/all_metrics_dict": [good]}, {"eval/all_metrics_dict": {**good, "terminated": [True]}}, {"eval/all_metrics_dict": {**good, "motion_keys": [1, 2]}}, {"eval/all_metrics_dict": {**good, "motion_keys": ["a", "a"]}},
                {"eval/all_metrics_dict": {"motion_keys": ["a"]}}, {"eval/all_metrics_dict": {**good, "mpjpe_l": [1.0]}}, {"eval/all_metrics_dict": {**good, "terminated": ["no", "yes"]}}, {"eval/all_metrics_dict": {**good, "terminated": [None, True]}}):
        write(bad)
        with pytest.raises(MotionFormatError): read_figures(path.parent)
    (tmp_path/"step_2/shard_1").mkdir(parents=True)
    (tmp_path/"step_2/phase1_shard_01").mkdir()
    with pytest.raises(ConfigError, match="the same number"): summarize(tmp_path)
