"""Pictures of the player for a person to look at: `make screenshots` writes them into out/screenshots/.

Robots without their data package are left out. Needs chromium.
"""
import sys
import time
from pathlib import Path

from browser import CHROMIUM, Browser

from motionbench.core.errors import RobotError
from motionbench.core.gait import bundled_clips
from motionbench.core.motion import transform
from motionbench.core.robot import load_robot
from motionbench.io.native import write_npz
from motionbench.io.registry import read_motion
from motionbench.retarget.clip import retarget
from motionbench.view.player import complete_page, player

OUT = Path("out/screenshots")
WIDTHS = {"1280": dict(width=1280, height=800), "390": dict(width=390, height=780, mobile=True)}


def motion_of(robot, name):
    "The bundled clip on the robot, made once."
    path = OUT/"clips"/f"{robot}_{name}.npz"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_npz(retarget(bundled_clips()[name], load_robot(robot)), path)
    return read_motion(path)


def pages():
    "Name of a page -> its HTML and the frame to look at."
    humans = bundled_clips()
    for robot, clip, more in (("unitree_g1", "walk", dict(colour=None)), ("unitree_g1", "jump", dict(colour="limits", human=True)), ("booster_t1", "run", dict(ghost=True, beside=True)),
                              ("unitree_h1", "squat", dict(colour="velocity")), ("biped", "wave", dict(ghost=True))):
        try: motion = motion_of(robot, clip)
        except RobotError as e: print(f"left out: {e}", file=sys.stderr); continue
        if more.pop("human", False): more["human"] = humans[clip]
        if more.pop("ghost", False): more["ghost"] = transform(motion, 0.0 if more.get("beside") else 0.3)
        yield f"{robot}_{clip}", lambda motion=motion, clip=clip, more=more, **kw: player(motion, title=clip, frame=int(0.45*len(motion)), autoplay=False, **more, **kw)


def main():
    if CHROMIUM is None: raise SystemExit("tests/screenshots.py: no chromium on this machine")
    OUT.mkdir(parents=True, exist_ok=True)
    wanted = sys.argv[1:]
    with Browser() as browser:
        sharp = "(() => { const p = window.player ?? document.querySelector('figure').player; p.stage.quality = 1; p.stage.resize(p.width, p.height); p.draw(); return true })()"
        for name, make in pages():
            if wanted and name not in wanted: continue
            file = make().save(OUT/f"{name}.html").resolve()
            for width, size in WIDTHS.items():
                for dark in (False, True):
                    browser.look(dark=dark, **size)
                    browser.open(file.as_uri(), "window.player")
                    browser.run(sharp)
                    time.sleep(0.4)
                    browser.picture(OUT/f"{name}_{width}_{'dark' if dark else 'light'}.png")
                    if complaints := browser.complaints(): print(f"{name}: {complaints}", file=sys.stderr)
        if wanted: return
        shown = make(height=380)
        body = f"<body style='font:16px system-ui;max-width:900px;margin:2rem auto;padding:0 12px'><h2>A page of the site</h2><p>Text above.</p>{shown.figure()}<p>Text below.</p>{shown.figure()}</body>"
        page = (OUT/"page.html").resolve()
        page.write_text("<!doctype html><meta charset=utf-8><meta name=viewport content='width=device-width,initial-scale=1'>" + complete_page(body, shown.scenes), encoding="utf-8")
        for width, size in WIDTHS.items():
            browser.look(**size)
            browser.open(page.as_uri(), "document.querySelector('figure')?.player")
            browser.run(sharp)
            time.sleep(0.4)
            browser.picture(OUT/f"page_{width}.png")
    print(f"{OUT}/: {len(list(OUT.glob('*.png')))} pictures")


if __name__ == "__main__": main()
