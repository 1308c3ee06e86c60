"""The tutorials, executed from top to bottom, here and on a machine without the robots extra."""
import subprocess
import sys
from pathlib import Path

import pytest

TUTORIALS = Path(__file__).parents[1]/"nbs/tutorials"
PAGE = TUTORIALS/"02_own_robot.ipynb"
RUN = "import sys; from execnb.shell import CaptureShell; from fastcore.nbio import read_nb; nb = read_nb(sys.argv[1]); "
BIPED = "[c.set_source(c.source.replace('load_robot(\"unitree_h1\" if', 'load_robot(\"unitree_h1\" if False and')) for c in nb.cells]; "


def run(page, folder, change=""):
    code = RUN + change + "CaptureShell().run_all(nb, exc_stop=True)"
    done = subprocess.run([sys.executable, "-c", code, page], capture_output=True, text=True, cwd=folder, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not list(folder.iterdir())                      # it works in a folder of its own and takes that away


@pytest.mark.parametrize("change", ["", BIPED], ids=["robot at hand", "biped"])
def test_own_robot(change, tmp_path): run(PAGE, tmp_path, change)


def test_amp(tmp_path): run(TUTORIALS/"03_amp.ipynb", tmp_path)


@pytest.mark.parametrize("name", ["02_own_robot", "03_amp"])
def test_outputs_name_no_folder_of_a_machine(name):
    text = (TUTORIALS/f"{name}.ipynb").read_text()
    assert "/tmp" not in text and "/home" not in text and "site-packages" not in text and len(text) < 400_000
