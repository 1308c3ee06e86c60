"The page of a run: safe, relative, incremental, and quick with 200 clips in a browser without a network."
import json, shutil, time
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np, pytest

from browser import CHROMIUM, Browser

from motionbench.core.motion import Motion
from motionbench.core.robot import load_robot
from motionbench.io.native import write_npz
from motionbench.pipeline.page import facts_of, report_player, write_page
from motionbench.pipeline.run import run
from motionbench.pipeline.steps import audit_folder, retarget_folder
from motionbench.view.index import Entry, clip_script, index_html, put_text, share_assets, thumbnail
from motionbench.view.player import player

ODD = "<img src=x onerror=\"window.hacked=1\"> & 'q' #1 100%? ü"
browser_only = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


def swing(frames=60):
    robot = load_robot("biped")
    dof = 0.2*np.sin(np.linspace(0, 6, frames))[:, None]*np.ones(len(robot.joint_names))
    return Motion(30, np.tile(robot.model.qpos0[:3], (frames, 1)), np.tile([1., 0, 0, 0], (frames, 1)), np.clip(dof, *robot.joint_range.T), robot.joint_names, "biped")


def tags(html):
    "Names and attributes of all elements."
    found, reader = [], HTMLParser()
    reader.handle_starttag = lambda tag, attributes: found.append((tag, dict(attributes)))
    reader.feed(html)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "A finished run of two steps, one clip with an odd name and a damaged file among its motions."
    out = tmp_path_factory.mktemp("page")/"a run <b>"
    motions = tmp_path_factory.mktemp("motions")
    for name in ("one", "sub/two", ODD): write_npz(swing(), motions/f"{name}.npz")
    (motions/"broken.npz").write_bytes(b"PK\3\4 no archive")
    step = audit_folder(str(motions), out, "biped", n_jobs=1)
    page = write_page(out, {"biped": "biped"}, [{"name": "audit", "report": "reports/10_audit.ipynb"}], [{"step": "audit", **r} for r in step.failed], step.skipped, [motions], n_jobs=1)
    return out, motions, page


def test_names_are_text_everywhere(folder):
    out, motions, page = folder
    html = page.read_text(encoding="utf-8")
    found = tags(html)
    assert {t for t, _ in found} <= {"html", "head", "meta", "title", "style", "body", "header", "h1", "h2", "p", "div", "button", "b", "i", "input", "select", "option", "output", "main", "section", "ol", "li", "a",
                                     "img", "span", "strong", "aside", "details", "summary", "table", "thead", "tbody", "tr", "th", "td", "script"}
    assert not any(k.startswith("on") for _, a in found for k in a) and all(a["src"].startswith("view/") for t, a in found if t == "img")
    assert ODD in [a["data-name"] for t, a in found if t == "li"]
    assert html.count("<title>a run &lt;b&gt;</title>") == 1


def test_links_are_relative_and_lead_somewhere(folder):
    out, motions, page = folder
    files = [a.get("data-script") or a.get("src") for t, a in tags(page.read_text()) if t in ("li", "img")]
    assert len([f for f in files if f]) == 6
    assert all((out/unquote(f)).is_file() for f in files if f)
    everything = "".join(p.read_text() for p in [page, *out.glob("view/**/*.js")])
    for place in (out.parent, motions, Path.home()): assert str(place) not in everything
    assert "http://" not in page.read_text() and "https://" not in page.read_text()


def test_failed_clip_is_on_the_page(folder):
    cards = {a["data-name"]: a for t, a in tags(folder[2].read_text()) if t == "li"}
    assert cards["broken"]["data-grade"] == "error" and cards["broken"]["data-script"] == "" and cards["broken"]["data-note"].startswith("broken.npz: ")
    assert cards["one"]["data-grade"] in ("pass", "warn", "fail")


def test_unchanged_clips_are_kept(folder, tmp_path):
    out, motions, _ = folder
    made = {p: p.stat().st_mtime_ns for p in out.rglob("view/**/*") if p.is_file()}
    write_page(out, {"biped": "biped"}, n_jobs=1)
    assert {p: p.stat().st_mtime_ns for p in made} == made
    write_npz(swing(45), motions/"one.npz")
    audit_folder(str(motions), out, "biped", n_jobs=1)
    write_page(out, {"biped": "biped"}, n_jobs=1)
    changed = {p.name for p in made if p.stat().st_mtime_ns != made[p]}
    assert "one.js" in changed and "two.js" not in changed and "player.js" not in changed


def test_run_writes_the_page_once(tmp_path):
    (tmp_path/"short.yaml").write_text("steps:\n- {name: retarget, notebook: 10_retarget.ipynb}\n- {name: audit, notebook: 20_audit.ipynb}")
    again = lambda: run(tmp_path/"short.yaml", robot="biped", out=tmp_path/"out", n_jobs=1, say=lambda line: None)
    summary, page = again(), tmp_path/"out/index.html"
    before = page.stat().st_mtime_ns
    assert page.read_text().count("<li ") == 7 and str(tmp_path) not in page.read_text()
    for step in summary.steps:
        report = tmp_path/"out"/step["report"]
        assert f'href="{step["report"]}"' in page.read_text() and 100_000 < report.stat().st_size < 2_000_000 and "<iframe" in report.read_text()
    again()
    assert page.stat().st_mtime_ns == before
    page.unlink()
    again()
    assert page.is_file()


def test_clips_without_an_audit(tmp_path):
    retarget_folder("", tmp_path, "biped", n_jobs=1)
    page = write_page(tmp_path, {"biped": "biped"}, n_jobs=1).read_text()
    assert page.count('data-grade="n/a"') == 7 and "tracking" in page


def test_clip_that_has_no_player_says_why(tmp_path):
    out, source = tmp_path/"out", tmp_path/"in"
    write_npz(swing(), source/"a.npz")
    audit_folder(str(source), out, "biped", n_jobs=1)
    (source/"a.npz").write_bytes(b"gone bad")
    cards = [a for t, a in tags(write_page(out, {"biped": "biped"}, n_jobs=1).read_text()) if t == "li"]
    assert len(cards) == 1 and cards[0]["data-note"].startswith("no player: ") and str(tmp_path) not in cards[0]["data-note"]


def test_long_clip_is_a_picture_in_a_report(tmp_path, monkeypatch):
    from IPython.display import HTML, Image
    write_npz(swing(), tmp_path/"a.npz")
    assert isinstance(report_player(tmp_path/"a.npz", "biped"), HTML)
    monkeypatch.setattr("motionbench.pipeline.page.MOST", 1000)
    assert isinstance(report_player(tmp_path/"a.npz", "biped"), Image)


def test_text_is_written_only_if_it_differs(tmp_path):
    assert put_text(tmp_path/"a", "é\n") and not put_text(tmp_path/"a", "é\n") and (tmp_path/"a").read_bytes() == "é\n".encode()


def test_facts_are_n_a_where_the_audit_knows_nothing():
    row = {"failed_gates": ["skate_mean_m_s"], "warned_gates": [], "metrics": {"skate_mean_m_s": 0.3}}
    facts = {f["label"]: f for f in facts_of(row)}
    assert facts["skate"]["result"] == "fail" and facts["skate"]["value"] == "0.3 m/s" and facts["tracking"]["result"] == "n/a" and facts["tracking"]["value"] == "n/a"
    assert facts_of(None) == ()


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    "A page of 200 clips, each with its own script and picture."
    out = tmp_path_factory.mktemp("many")
    shown = player(swing(300), title="swing")
    picture, entries = thumbnail(shown), []
    (out/"view/biped").mkdir(parents=True)
    for i in range(200):
        name, grade = ODD if i == 7 else f"clip {i:03d}", ("pass", "warn", "fail")[i % 3]
        entry = Entry(name, "biped" if i % 2 else "other", grade, "10 s", ({"label": "skate", "value": f"{i/1000} m/s", "number": i/1000, "result": grade},), ("foot skate",)*(grade == "fail"), f"view/biped/{i}.jpg", f"view/biped/{i}.js")
        entries.append(entry)
        (out/entry.script).write_text(clip_script(entry.id, shown, [dict(result=grade, gate="foot skate", value="1", good="1", fail="2")]))
        (out/entry.still).write_bytes(picture)
    share_assets(out/"view", [shown.scene])
    put_text(out/"index.html", index_html("many", entries))
    return out


@browser_only
def test_200_clips_in_a_browser(many):
    visible = "[...document.querySelectorAll('#cards li')].filter(e => !e.hidden).length"
    with Browser() as browser:
        browser.look(width=1280, height=800)
        began = time.perf_counter()
        browser.open((many/"index.html").as_uri(), "document.readyState === 'complete' && document.querySelectorAll('#cards li').length === 200")
        seconds = time.perf_counter() - began
        assert seconds < 3, f"the page needs {seconds:.1f} s"
        scripts = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent" and e["params"]["request"]["url"].endswith(".js")]
        assert scripts == []        # nothing of the player before a clip is chosen
        assert browser.run("document.querySelector('#cards li').dataset.grade") == "fail"
        browser.run("document.querySelector('.grades [data-is=warn]').click()")
        assert browser.run(visible) == 67
        browser.run("document.querySelector('.grades button').click(); robot.value = 'other'; robot.dispatchEvent(new Event('change')); search.value = 'CLIP 19'; search.dispatchEvent(new Event('input'))")
        assert browser.run(visible) == 5 and browser.run("count.value") == "5 of 200 clips"
        browser.run("robot.value = ''; search.value = ''; search.dispatchEvent(new Event('input')); sort.value = 'x0'; sort.dispatchEvent(new Event('change'))")
        assert browser.run("document.querySelector('#cards li').dataset.name") == "clip 199"
        for n in range(20):     # more players than a browser has contexts for
            browser.run(f"window.player = null; document.querySelectorAll('#cards li')[{n}].querySelector('a').click()")
            browser.until("window.player?.clip")
        assert browser.run("document.querySelectorAll('#detail canvas').length") > 0 and browser.run("document.querySelectorAll('.card[aria-current]').length") == 1
        browser.run(f"window.player = null; [...document.querySelectorAll('#cards li')].find(e => e.dataset.name === {json.dumps(ODD)}).querySelector('a').click()")
        browser.until("window.player?.clip")
        assert browser.run("document.querySelector('#clip-name').textContent").startswith(ODD) and browser.run("window.hacked") is None
        browser.key("Escape")
        assert browser.run("document.querySelector('#clip').hidden") and not browser.run("document.querySelector('#overview').hidden")
        browser.key("ArrowUp")
        assert browser.run("document.activeElement.className") == "card"
        assert [c for c in browser.complaints() if "GPU stall" not in c] == [] and browser.requests() == []


@browser_only
def test_address_of_a_clip_and_a_missing_file(many, tmp_path):
    shutil.copytree(many, tmp_path/"moved here")
    (tmp_path/"moved here/view/biped/5.js").unlink()
    page = (tmp_path/"moved here/index.html").as_uri()
    with Browser() as browser:
        browser.look(width=390, height=780, mobile=True)
        browser.open(page + "#biped/clip%20001", "window.player?.clip")
        assert browser.run("document.activeElement.id") == "clip-name" and browser.run("document.documentElement.scrollWidth <= 390")
        browser.run("location.hash = 'biped/clip%20005'")
        browser.until("document.querySelector('[role=alert]')?.textContent.includes('5.js is missing')")
        browser.run("document.querySelector('.close').click()")
        assert browser.run("document.querySelector('#clip').hidden")
