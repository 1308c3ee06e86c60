"The engine, the cache, the parallel map and `run`: what does not read well in a notebook."
import os, re, sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from motionbench.core.errors import MotionbenchError
from motionbench.pipeline.engine import NotebookError, execute

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
