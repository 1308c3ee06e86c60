"""Pictures of the run's page and of the explorers for a person to look at, into out/screenshots/; part of `make screenshots`. Needs chromium."""
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

from browser import CHROMIUM, Browser
from test_lab import lab, opened

from motionbench.pipeline.run import run

OUT = Path("out/screenshots")
WIDTHS = {"1280": dict(width=1280, height=800), "390": dict(width=390, height=780, mobile=True)}
SHARP = "(() => { const p = window.player; p.pause(); p.setFrame(30); p.stage.quality = 1; p.stage.resize(p.width, p.height); p.draw(); return true })()"


def index_pictures(browser):
    "The page of a run: as it opens, filtered, and with a clip."
    run(out=OUT/"run", robot="biped,unitree_g1", say=lambda line: None)
    page = (OUT/"run/index.html").resolve().as_uri()
    for width, size in WIDTHS.items():
        for dark in (False, True):
            name = f"{width}_{'dark' if dark else 'light'}"
            browser.look(dark=dark, **size)
            browser.open(page)
            time.sleep(0.5)
            browser.picture(OUT/f"index_{name}.png")
            browser.run("document.querySelector('.grades [data-is=warn]').click()")
            if width == "390":
                browser.run("document.querySelector('.cards').scrollIntoView()")
                time.sleep(0.3)
                browser.picture(OUT/f"index_cards_{name}.png")
            browser.run("[...document.querySelectorAll('#cards li')].find(e => e.dataset.id === 'unitree_g1/walk').querySelector('a').click()")
            browser.until("window.player")
            browser.run(SHARP)
            time.sleep(0.7)
            browser.picture(OUT/f"index_clip_{name}.png")
            if complaints := browser.complaints(): print(f"index {name}: {complaints}", file=sys.stderr)


EXPLORERS = {
    "tuner": "from motionbench.core.gait import bundled_clips\nfrom motionbench.retarget.tuner import tuner\ntuned = tuner(bundled_clips()['walk'], 'unitree_g1')\ntuned",
    "browser": "from motionbench.pipeline.browse import browse\nclips = browse('run')\nclips",
}


def explorer_pictures():
    "Both explorers in JupyterLab, after a switch was moved or another clip was chosen."
    code = lambda source: dict(cell_type="code", id="code", metadata={}, source=source, outputs=[], execution_count=None)
    empty = [dict(cell_type="markdown", id=f"empty{i}", metadata={}, source="") for i in range(6)]      # `opened` waits for more than five cells
    book = lambda source: json.dumps(dict(cells=[code(source), *empty], metadata=dict(kernelspec=dict(name="python3", display_name="Python 3", language="python")), nbformat=4, nbformat_minor=5))
    for dark in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(OUT/"run", f"{folder}/run")
            for name, source in EXPLORERS.items(): Path(folder, f"{name}.ipynb").write_text(book(source))
            with lab(folder, f"JupyterLab {'Dark' if dark else 'Light'}") as address:
                for name in EXPLORERS:
                    for width, size in {"1280": dict(width=1280, height=1000), "390": dict(width=390, height=1200)}.items():
                        with Browser() as browser: explorer_picture(browser, address, name, f"{name}_{width}_{'dark' if dark else 'light'}", dark=dark, **size)


def explorer_picture(browser, address, name, picture, **size):
    browser.look(**size)
    browser.send("Emulation.setFocusEmulationEnabled", enabled=True)
    opened(browser, address, f"{name}.ipynb")
    browser.run("jupyterapp.commands.execute('application:toggle-left-area')")
    browser.until("document.querySelector('.jp-OutputArea .mb-player canvas')", 60)
    time.sleep(2)
    if name == "tuner": browser.run("document.querySelector('.widget-checkbox input').click()")
    else:
        browser.run("document.querySelector('.mb-list').focus()")
        for _ in range(3): browser.key("ArrowDown")
    time.sleep(4)
    browser.picture(OUT/f"lab_{picture}.png")
    if complaints := browser.complaints(): print(f"lab {picture}: {complaints}", file=sys.stderr)


def main():
    if CHROMIUM is None: raise SystemExit("tests/screenshots_pages.py: no chromium on this machine")
    OUT.mkdir(parents=True, exist_ok=True)
    with Browser() as browser: index_pictures(browser)
    if "index" not in sys.argv: explorer_pictures()


if __name__ == "__main__": main()
