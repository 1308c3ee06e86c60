"""Pictures of the start notebook in JupyterLab, light and dark, for a person to look at: `make screenshots` writes them into out/screenshots/. Needs chromium."""
import shutil
import tempfile
import time
from pathlib import Path

from browser import CHROMIUM, Browser
from test_lab import START, lab, opened

OUT = Path("out/screenshots")
PLACES = {"human": "plot_human(", "player": "player(motion", "live": "LinkedPlayer(", "audit": "audits =", "knob": "Knob("}


def main():
    if CHROMIUM is None: raise SystemExit("tests/screenshots_lab.py: no chromium on this machine")
    OUT.mkdir(parents=True, exist_ok=True)
    for theme in ("light", "dark"):
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(START, folder)
            with lab(folder, f"JupyterLab {theme.title()}") as address, Browser() as browser:
                browser.look(1280, 1000, dark=theme == "dark")
                browser.send("Emulation.setFocusEmulationEnabled", enabled=True)
                opened(browser, address, START.name)
                browser.run("jupyterapp.commands.execute('application:toggle-left-area')")
                for name, text in PLACES.items():
                    browser.run(f"lab.go({text!r})")
                    time.sleep(3)     # pictures settle
                    browser.picture(OUT/f"start_{name}_{theme}.png")
                if complaints := browser.complaints(): print(f"start notebook, {theme}: {complaints}")
    print(f"{OUT}/: {2*len(PLACES)} pictures of the start notebook")


if __name__ == "__main__": main()
