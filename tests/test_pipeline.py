"The engine, the cache, the parallel map and `run`: what does not read well in a notebook."
import os, re, signal, subprocess, sys, time
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from motionbench.core.errors import ConfigError, MotionbenchError
from motionbench.core.gait import bundled_clips
from motionbench.io.native import write_npz
from motionbench.pipeline.cache import code_key, read_json, record_path
from motionbench.pipeline.clips import Clip, make_clip, map_clips
from motionbench.pipeline.engine import NotebookError, execute
from motionbench.pipeline.work import clip_names

ANSI = re.compile(r"\x1b\[[0-9;]*m")


def notebook(path, *cells, parameters="clip: str = 'walk'  # which clip"):
    "Write a notebook of these code cells, the first tagged `parameters`."
    cells = [new_code_cell(parameters, metadata={"tags": ["parameters"]}), new_markdown_cell("# A report"), *map(new_code_cell, cells)]
    nbformat.write(new_notebook(cells=cells), path)
    return path


def outputs(path):
    "The outputs of an executed notebook, cell by cell, streams joined and colours removed."
    result = []
    for cell in nbformat.read(path, as_version=4).cells:
        joined = []
        for o in cell.get("outputs", []):
            o = dict(o)
            if o["output_type"] == "stream" and joined and joined[-1].get("name") == o["name"]: joined[-1]["text"] += o["text"]; continue
            if "traceback" in o: o["traceback"] = ANSI.sub("", "\n".join(o["traceback"]))
            joined.append(o)
        result.append((cell.get("execution_count"), joined))
    return result


CELLS = ["import sys\nprint('first', clip)\nprint('second')", "print('warning', file=sys.stderr)",
         "from IPython.display import HTML, display\ndisplay(HTML('<b>table</b>'))\nprint('between')\ndisplay({'a': 1})\nhandle = display('50 %', display_id='bar')",
         "handle.update('100 %')\n[1, 2, 3]",
         "import matplotlib.pyplot as plt\nplt.rcParams['lines.linewidth'] = 7\nfig, axes = plt.subplots(figsize=(3, 1), dpi=60)\naxes.plot([0, 1, 0])\naxes.set_title(clip);",
         "plt.plot([1, 2])\nplt.show()\nprint('after the figure')",
         "%env MOTIONBENCH_LEAK=1\nimport os\nos.chdir('/')\nHTML('<i>end</i>')"]


def test_both_engines_give_the_same_notebook(tmp_path):
    import matplotlib.pyplot as plt
    plt.close("all")                                                        # figures that other tests have left open would be drawn on
    nb, cwd = notebook(tmp_path/"nb.ipynb", *CELLS), os.getcwd()
    fast = outputs(execute(nb, tmp_path/"fast.ipynb", {"clip": "run"}))
    import matplotlib
    width = matplotlib.rcParamsDefault["lines.linewidth"]
    assert os.getcwd() == cwd and "MOTIONBENCH_LEAK" not in os.environ and matplotlib.rcParams["lines.linewidth"] == width
    assert outputs(execute(nb, tmp_path/"again.ipynb", {"clip": "run"})) == fast, "a second notebook in this process sees a fresh shell"
    slow = outputs(execute(nb, tmp_path/"slow.ipynb", {"clip": "run"}, engine="kernel"))
    for a, b in zip(fast, slow, strict=True): assert a == b
    kinds = [o["output_type"] for _, cell in fast for o in cell]
    assert kinds.count("stream") == 5 and sum("image/png" in o.get("data", {}) for _, cell in fast for o in cell) == 2


@pytest.mark.parametrize("engine", ["inprocess", "kernel"])
def test_a_failing_cell_stops_the_notebook_and_leaves_its_traceback(tmp_path, engine):
    nb = notebook(tmp_path/"nb.ipynb", "def half(x): return x/0\nhalf(1)", "print('never')")
    with pytest.raises(NotebookError, match="ZeroDivisionError: division by zero") as e: execute(nb, tmp_path/"out.ipynb", engine=engine)
    assert "Traceback" not in str(e.value) and "\n" not in str(e.value)
    executed = nbformat.read(tmp_path/"out.ipynb", as_version=4)
    error = [o for c in executed.cells for o in c.get("outputs", []) if o.output_type == "error"]
    assert len(error) == 1 and "half(x)" in ANSI.sub("", "\n".join(error[0].traceback)) and not executed.cells[-1].outputs
    assert list(tmp_path.glob(".*")) == []


# ---- clips: functions at module level, so that worker processes find them

def shout(inputs, outputs, mark="!", wait=0.0):
    "Two outputs from one text; some texts misbehave."
    text = inputs[0].read_text()
    if text == "bad": raise MotionbenchError(f"{inputs[0].name}: line 1:\n  'bad' is no motion")
    if text == "bug": raise KeyError("left_toe")
    time.sleep(wait)
    if text == "kill" or text == "kill once" and not inputs[0].with_suffix(".killed").exists():
        inputs[0].with_suffix(".killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    outputs[0].write_text(text.upper() + mark)
    outputs[1].write_text(str(len(text)))
    return {"letters": len(text)}


def lost(inputs, outputs): outputs[0].write_text("half")


def folder_of(tmp_path, **texts):
    "Input files and their clips."
    (tmp_path/"in").mkdir(exist_ok=True)
    for name, text in texts.items(): (tmp_path/"in"/f"{name}.txt").write_text(text)
    return [Clip(n, (tmp_path/"in"/f"{n}.txt",), (f"loud/{n}.txt", f"loud/{n}.len")) for n in texts]


def states(results): return [r.state for r in results]


def test_only_what_changed_is_made_again(tmp_path):
    clips, out = folder_of(tmp_path, walk="left", run="right"), tmp_path/"out"
    go = lambda **kw: map_clips(shout, clips, out, n_jobs=1, **kw)
    assert states(go()) == ["made", "made"] and states(go()) == ["kept", "kept"]
    assert go()[1].row == {"letters": 5}, "a kept clip still has its row"
    dates = lambda: {p.name: p.stat().st_mtime_ns for p in (out/"loud").iterdir()}
    before = dates()
    (out/"loud/walk.txt").unlink()
    assert states(go()) == ["made", "kept"]
    assert {n for n, t in dates().items() if t != before[n]} == {"walk.txt"}, "one output lost, one output remade"
    (out/"loud/run.len").write_text("9")
    assert states(go()) == ["kept", "made"] and (out/"loud/run.len").read_text() == "5"
    os.utime(tmp_path/"in/walk.txt")
    assert states(go()) == ["kept", "kept"], "a new date is no new content"
    (tmp_path/"in/walk.txt").write_text("heel")
    assert states(go()) == ["made", "kept"]
    assert states(go(parameters={"mark": "?"})) == ["made", "made"] and states(go(parameters={"mark": "?"}, force=True)) == ["made", "made"]


def test_new_code_makes_everything_again(tmp_path, monkeypatch):
    clips = folder_of(tmp_path, walk="left")
    map_clips(shout, clips, tmp_path/"out", n_jobs=1)
    monkeypatch.setattr("motionbench.pipeline.clips.code_key", lambda: "after an edit")
    assert states(map_clips(shout, clips, tmp_path/"out", n_jobs=1)) == ["made"]


def test_code_key_sees_an_edit_but_not_a_compiled_file(tmp_path):
    (tmp_path/"a.py").write_text("x = 1")
    key = code_key(str(tmp_path))
    (tmp_path/"__pycache__").mkdir()
    (tmp_path/"__pycache__/a.pyc").write_text("")
    code_key.cache_clear()
    assert code_key(str(tmp_path)) == key
    (tmp_path/"a.py").write_text("x = 2")
    code_key.cache_clear()
    assert code_key(str(tmp_path)) != key


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_failing_clip_is_reported_and_the_rest_is_made(tmp_path, n_jobs):
    clips, out = folder_of(tmp_path, walk="left", bad="bad", bug="bug", run="right"), tmp_path/"out"
    results = map_clips(shout, clips, out, n_jobs=n_jobs)
    assert states(results) == ["made", "failed", "failed", "made"]
    assert results[1].error == "bad.txt: line 1: 'bad' is no motion" and results[2].error == "KeyError: 'left_toe'"
    assert "raise KeyError" in read_json(record_path(out, "shout", "bug"))["traceback"]
    assert sorted(p.name for p in (out/"loud").iterdir()) == ["run.len", "run.txt", "walk.len", "walk.txt"]
    (tmp_path/"in/walk.txt").write_text("bad")
    assert states(map_clips(shout, clips, out, n_jobs=1))[0] == "failed" and not (out/"loud/walk.txt").exists(), "no output of an earlier input stays"
    assert map_clips(lost, [Clip("x", clips[3].inputs, ("a.txt", "b.txt"))], out, n_jobs=1)[0].error.endswith("did not write b.txt")
    assert not (out/"a.txt").exists() and list((out/".motionbench/scratch").iterdir()) == []


def test_a_killed_worker_loses_no_clip(tmp_path):
    texts = {f"clip{i}": f"text{i}" for i in range(6)} | {"once": "kill once", "always": "kill"}
    clips = folder_of(tmp_path, **texts)
    results = {r.name: r for r in map_clips(shout, clips, tmp_path/"out", n_jobs=2)}
    assert [n for n, r in results.items() if r.state != "made"] == ["always"]
    assert "killed" in results["always"].error and "\n" not in results["always"].error
    assert {r.state for n, r in {r.name: r for r in map_clips(shout, clips[:7], tmp_path/"out", n_jobs=1)}.items()} == {"kept"}


def test_workers_start_by_themselves_when_they_pay(tmp_path, monkeypatch):
    used = []
    monkeypatch.setattr("motionbench.pipeline.clips.in_workers", lambda f, todo, *_: used.append(len(todo)) or iter([make_clip(f, c, str(tmp_path/"out"), "shout", {}, os.getpid()) for c in todo]))
    monkeypatch.setattr("motionbench.pipeline.clips.WORKER_START", 0.02)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    clips = folder_of(tmp_path, **{f"clip{i}": "text" for i in range(8)})
    map_clips(shout, clips, tmp_path/"out", {"wait": 0.02})
    assert used == [6]


def test_a_run_killed_in_the_middle_is_resumed(tmp_path):
    clips, out = folder_of(tmp_path, **{f"clip{i}": f"text{i}" for i in range(5)}), tmp_path/"out"
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from test_pipeline import *; from pathlib import Path\n" \
           f"map_clips(shout, folder_of(Path({str(tmp_path)!r}), **{{f'clip{{i}}': f'text{{i}}' for i in range(5)}}), {str(out)!r}, {{'wait': 0.3}}, n_jobs=1)"
    process = subprocess.Popen([sys.executable, "-c", code])
    while not (out/"loud/clip1.txt").exists() and process.poll() is None: time.sleep(0.01)
    time.sleep(0.15)
    process.kill()
    process.wait()
    done = [(out/f"loud/clip{i}.len").exists() for i in range(5)]
    assert done == [True, True, False, False, False] and list((out/".motionbench/scratch").iterdir()), "killed inside the third clip"
    assert states(map_clips(shout, clips, out, {"wait": 0.3}, n_jobs=1)) == ["kept", "kept", "made", "made", "made"]
    assert list((out/".motionbench/scratch").iterdir()) == []


def test_an_interrupted_notebook_is_an_interrupt(tmp_path):
    with pytest.raises(KeyboardInterrupt): execute(notebook(tmp_path/"nb.ipynb", "raise KeyboardInterrupt"), tmp_path/"o.ipynb")


def test_no_two_files_of_a_folder_share_a_clip_name():
    names = clip_names(Path("d"), [Path("d")/n for n in ("walk.npz", "walk.bvh", "walk.npz.bvh", "run.v2.bvh")])
    assert list(names.values()) == ["walk.npz", "walk.bvh", "walk.npz.bvh", "run.v2"]


def test_the_torque_notebook_in_a_pipeline_of_ones_own(tmp_path, monkeypatch):
    "Retargeted clips to torques and their analysis; the second run finds everything done."
    from motionbench.pipeline.run import run
    monkeypatch.chdir(tmp_path)
    write_npz(bundled_clips()["walk"], "in/walk.npz")
    Path("mine.yaml").write_text("steps:\n  - {name: retarget, notebook: 10_retarget.ipynb}\n  - {name: torque, notebook: 40_torque.ipynb}\n")
    said = []
    summary = run("mine.yaml", "in", "biped", "out", say=said.append)
    assert not summary.failed and sorted(p.name for p in Path("out/torque/biped").iterdir()) == ["walk.csv", "walk.json", "walk.npz", "walk.pdf", "walk.png"]
    with np.load("out/torque/biped/walk.npz") as f: assert f["joint_torques"].shape == (len(f["dof_positions"]), 9) and "inverse dynamics" in str(f["metadata"])
    with pytest.raises((ConfigError, NotebookError), match="fits 'hop'"): run("mine.yaml", "in", "biped", "out", typed=["torque.include=hop"], say=said.append)
    said.clear()
    assert run("mine.yaml", "in", "biped", "out", say=said.append) and run("mine.yaml", "in", "biped", "out", say=said.append) and [line.split()[1:4] for line in said[2:]] == [["up", "to", "date"]]*2
