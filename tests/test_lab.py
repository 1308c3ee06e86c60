"""The start notebook in JupyterLab, as a person uses it: run all cells, move a slider, scrub, turn the knob."""
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import nbformat
import pytest

from browser import CHROMIUM, Browser

ROOT = Path(__file__).parents[1]
START = ROOT/"nbs/tutorials/00_start.ipynb"
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (on Debian and Ubuntu: apt install chromium)")
needs_lab = pytest.mark.skipif(find_spec("jupyterlab") is None or find_spec("websocket") is None, reason="no JupyterLab here")
BENIGN = ()     # messages of JupyterLab itself that are no fault of ours
# the panel, its code cells and the first element of a class in the outputs; JupyterLab only keeps the cells in sight in the page
HELPERS = """window.lab = {
  get panel() { return [...jupyterapp.shell.widgets('main')].find(w => w.content?.widgets) }, get notebook() { return this.panel.content }, get kernel() { return this.panel.sessionContext.session?.kernel },
  get code() { return this.notebook.widgets.filter(c => c.model.type === 'code') }, get outputs() { return this.code.flatMap(c => c.model.outputs.toJSON()) },
  get players() { return [...this.panel.node.querySelectorAll('.jp-OutputArea *')].map(e => e.player).filter(p => p?.clip) },
  async go(text) { const i = this.notebook.widgets.findIndex(c => c.model.sharedModel.source.includes(text)); await this.notebook.scrollToItem(i, 'start'); return i } }; true"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextmanager
def lab(folder, theme="JupyterLab Light", **env):
    "JupyterLab on the folder, with settings of its own; its address. Server and kernels are gone afterwards."
    home, port = Path(folder)/".home", free_port()
    settings = home/"lab/user-settings/@jupyterlab/apputils-extension"
    settings.mkdir(parents=True)
    (settings/"themes.jupyterlab-settings").write_text(json.dumps({"theme": theme}))
    (settings/"notification.jupyterlab-settings").write_text(json.dumps({"fetchNews": "false", "checkForUpdates": False}))
    environment = {**os.environ, "JUPYTER_CONFIG_DIR": str(home/"config"), "JUPYTER_DATA_DIR": str(home/"data"), "JUPYTER_RUNTIME_DIR": str(home/"runtime"), "IPYTHONDIR": str(home/"ipython"),
                   "JUPYTERLAB_SETTINGS_DIR": str(home/"lab/user-settings"), "JUPYTERLAB_WORKSPACES_DIR": str(home/"lab/workspaces"), "JUPYTER_PLATFORM_DIRS": "0", **env}
    for name in ("MOTIONBENCH_PLAYER", "MPLBACKEND"): environment.pop(name, None)
    log = open(home/"log.txt", "wb")
    server = subprocess.Popen([sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0", f"--ServerApp.root_dir={folder}",
                               "--IdentityProvider.token=", "--ServerApp.disable_check_xsrf=True", "--LabApp.expose_app_in_browser=True", "--LabApp.extension_manager=readonly"],
                              cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    address, end = f"http://127.0.0.1:{port}", time.time() + 90
    try:
        while True:
            try: urllib.request.urlopen(f"{address}/api/status", timeout=5).close(); break
            except (urllib.error.URLError, OSError):
                if server.poll() is not None or time.time() > end: raise RuntimeError("JupyterLab does not start: " + (home/"log.txt").read_text()[-2000:]) from None
                time.sleep(0.1)
        yield address
    finally:
        server.send_signal(signal.SIGTERM)      # takes its kernels along
        try: server.wait(20)
        except subprocess.TimeoutExpired: os.killpg(server.pid, signal.SIGKILL)
        log.close()


def opened(browser, address, name, seconds=90):
    "Open the notebook and run all of it; the outputs."
    browser.open(f"{address}/lab/tree/{name}?reset", "globalThis.jupyterapp")
    browser.run(HELPERS)
    browser.until("lab.notebook.widgets.length > 5", seconds)
    browser.until("lab.kernel?.status === 'idle'", seconds)
    browser.run("lab.done = null; jupyterapp.shell.activateById(lab.panel.id); jupyterapp.commands.execute('notebook:run-all-cells').then(() => lab.done = true, e => lab.done = String(e)); true")
    browser.until("lab.done", seconds)
    outputs = browser.run("lab.outputs")
    errors = [o for o in outputs if o["output_type"] == "error"]
    assert not errors, errors
    assert browser.run("lab.done === true && lab.code.every(c => c.model.executionCount)")
    return outputs


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    "A browser on the start notebook, all of it run."
    folder = tmp_path_factory.mktemp("lab")
    shutil.copy(START, folder)
    with lab(folder, MOTIONBENCH_CACHE=str(folder/".home/cache")) as address, Browser() as browser:
        browser.look(1280, 1000)
        browser.send("Emulation.setFocusEmulationEnabled", enabled=True)
        browser.outputs = opened(browser, address, START.name)
        browser.run("lab.go('LinkedPlayer(')")
        browser.until("lab.players.length && document.querySelector('.widget-readout') && document.querySelector('.motionbench-plot')", 60)
        yield browser


def put(browser, selector, value):
    "Type a number into the readout of a slider."
    browser.run(f"""(() => {{ const e = document.querySelector("{selector}"); e.focus(); e.textContent = "{value}"; e.dispatchEvent(new InputEvent("input", {{bubbles: true}}));
        e.dispatchEvent(new KeyboardEvent("keydown", {{key: "Enter", code: "Enter", keyCode: 13, which: 13, bubbles: true}})); e.blur(); }})()""")


def picture(browser):
    "What is seen of the live player."
    box = browser.run("(() => { const r = lab.players[0].canvas.getBoundingClientRect(); return {x: r.x, y: r.y, width: r.width, height: r.height, scale: 0.5} })()")
    return browser.send("Page.captureScreenshot", format="png", clip=box)["data"]


@needs_browser
@needs_lab
def test_every_kind_of_output_is_there(page):
    kinds = [kind for o in page.outputs for kind in o.get("data", {})]
    assert kinds.count("application/vnd.jupyter.widget-view+json") == 2 and kinds.count("image/png") >= 2 and kinds.count("text/html") >= 5


@needs_browser
@needs_lab
def test_a_slider_moves_the_robot_and_the_plot(page):
    plot, seen = page.run("document.querySelector('.motionbench-plot').src"), picture(page)
    put(page, ".widget-slider .widget-readout", 90)
    page.until("lab.players[0].told === 90", 30)
    end = time.time() + 30
    while picture(page) == seen: assert time.time() < end, "the picture stays as it was"
    page.until("document.body.innerText.includes('frame 90 · 1.50 s')", 30)             # Python wrote that
    page.until(f"document.querySelector('.motionbench-plot').src !== {json.dumps(plot)}", 30)


@needs_browser
@needs_lab
def test_python_sees_what_is_done_in_the_player(page):
    page.run("(() => { const s = lab.players[0].scrub; s.value = 30; s.dispatchEvent(new Event('input', {bubbles: true})); })()")
    page.until("document.querySelector('.widget-slider .widget-readout').textContent === '30'", 30)
    page.until("document.body.innerText.includes('frame 30 · 0.50 s')", 30)
    answer = page.run("""(async () => { const f = lab.kernel.requestExecute({code: 'print("it is", scene.frame, scene.player.playing)'}); let said = '';
        f.onIOPub = m => { if (m.header.msg_type === 'stream') said += m.content.text }; await f.done; return said })()""")
    assert answer.strip() == "it is 30 False"


@needs_browser
@needs_lab
def test_the_knob_brings_another_walk(page):
    page.run("lab.go('Knob(')")
    page.until("document.querySelectorAll('.widget-slider .widget-readout').length", 30)
    knob = "[...document.querySelectorAll('.widget-hslider')].find(e => e.innerText.includes('speed'))"
    page.until(knob, 30)
    page.run(f"{knob}.querySelector('.widget-readout').id = 'knob'; true")
    put(page, "#knob", 0.8)
    page.until("document.body.innerText.includes('walk at 0.8 m/s')", 60)
    page.run("lab.go('LinkedPlayer(')")
    page.until("lab.players.some(p => p.clip.title === 'walk at 0.8 m/s')", 60)


@needs_browser
@needs_lab
def test_the_console_is_quiet(page):
    page.run("console.error('heard')")
    assert [c for c in page.complaints() if not any(b in c for b in BENIGN)] == ["heard"]      # the one above, so that we know they are heard


def test_make_lab_opens_the_start_notebook():
    shown = subprocess.run(["make", "-n", "lab"], cwd=ROOT, capture_output=True, text=True, timeout=60).stdout
    assert START.relative_to(ROOT/"nbs").as_posix() in shown and START.is_file()


def test_the_start_notebook_runs_on_the_bundled_robot_alone(tmp_path):
    "Without the extra `robots`, in a folder of its own, and it leaves nothing there."
    code = ("import sys; from execnb.shell import CaptureShell; from fastcore.nbio import read_nb; nb = read_nb(sys.argv[1]); "
            "[c.set_source(c.source.replace('(\"biped\", \"unitree_g1\")', '(\"biped\",)')) for c in nb.cells]; CaptureShell().run_all(nb, exc_stop=True)")
    assert '("biped", "unitree_g1")' in START.read_text().replace('\\"', '"')
    done = subprocess.run([sys.executable, "-c", code, START], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not list(tmp_path.iterdir())


def test_the_start_notebook_is_short_and_leads_on():
    cells = nbformat.read(START, as_version=4).cells
    assert sum(c.cell_type == "code" for c in cells) <= 14
    last = cells[-1].source
    assert all((START.parent/link).is_file() for link in re.findall(r"\]\(([^)]+)\)", last))
