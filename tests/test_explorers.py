"Explorers: filters, choices and sliders from Python, what stands on pages without a person, and errors without ipywidgets."
import sys

import numpy as np, pytest

from motionbench.core.errors import ConfigError, MotionFormatError
from motionbench.core.gait import bundled_clips
from motionbench.core.motion import Motion
from motionbench.core.robot import load_robot
from motionbench.io.library import MotionLibrary
from motionbench.io.native import write_npz
from motionbench.pipeline.browse import browse
from motionbench.pipeline.steps import audit_folder
from motionbench.retarget.clip import retarget
from motionbench.retarget.config import load_config
from motionbench.retarget.tuner import PARTS, Settings, part_of, tuned_config, tuner
from motionbench.view.explorers import choices, filter_rows, foot_figure, foot_series, foot_tracks


@pytest.fixture(scope="module")
def motions():
    return {n: retarget(bundled_clips()[n], "biped") for n in ("walk", "squat", "turn")}


@pytest.fixture(scope="module")
def folder(motions, tmp_path_factory):
    folder = tmp_path_factory.mktemp("browse")
    for name, motion in motions.items(): write_npz(motion, folder/f"{name}.npz")
    (folder/"bad <b>.npz").write_bytes(b"PK\3\4 no archive")
    return folder


@pytest.fixture(autouse=True)
def places(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("MOTIONBENCH_CACHE", str(tmp_path_factory.getbasetemp()/"cache"))
    monkeypatch.setenv("MOTIONBENCH_PLAYER", "figure")


def test_filters():
    rows = [dict(clip=c, robot=r, grade=g, failed=f) for c, r, g, f in (("a walk", "g1", "pass", ""), ("b", "t1", "fail", "foot skate"), ("c", "g1", "n/a", None))]
    assert [r["clip"] for r in filter_rows(rows, "SKATE")] == ["b"] and filter_rows(rows, "walk b") == [] and len(filter_rows(rows)) == 3
    assert choices(rows, "grade") == [("all grades (3)", ""), ("fail (1)", "fail"), ("pass (1)", "pass"), ("n/a (1)", "n/a")] and choices([], "robot") == [("all robots (0)", "")]


def test_curves_of_feet(motions):
    robot = load_robot("biped")
    series = foot_series(motions["walk"], robot)
    assert list(series) == ["sole height [cm]", "sole speed [m/s]"] and len(foot_tracks(motions["walk"], robot)) == 3 and len(foot_figure(motions["walk"], robot).axes) == 2
    still = Motion(30, *(getattr(motions["walk"], k)[:1] for k in ("root_pos", "root_quat", "dof_pos")), motions["walk"].joint_names, "biped")
    assert foot_series(still, robot)["sole speed [m/s]"]["left"].tolist() == [0]


def test_browser_live(folder):
    clips = browse(folder, n_jobs=1)
    assert {r["clip"]: r["grade"] for r in clips.rows}["bad <b>"] == "error"
    clips.widget
    c = clips.controls
    c["search"].value = "turn"
    assert [r["clip"] for r in c["rows"].rows] == ["turn"] and clips.row["clip"] == "turn" and "self-collision" in c["facts"].value
    view = c["place"].children[0]
    assert view.shown.data["title"] == "turn" and view.n_frames == 241
    c["search"].value = "bad"
    assert "bad &lt;b&gt;.npz" in c["facts"].value and "<b>.npz" not in c["facts"].value and c["place"].layout.display == "none"
    c["search"].value = "nothing fits"
    assert clips.row is None and c["rows"].selected == -1
    c["search"].value = ""
    c["rows"].selected = [r["clip"] for r in clips.rows].index("walk")
    assert view.shown.data["title"] == "walk" and c["place"].layout.display == ""


def test_browser_still(folder, monkeypatch):
    clips = browse(folder, n_jobs=1)
    shown = clips._repr_mimebundle_()
    assert set(shown) == {"text/html", "text/plain"} and shown["text/html"].count("<figure") == 1 and "<table" in shown["text/html"] and clips._widget is None
    clips.filter("bad")
    assert "<b>" not in clips.still().replace("</b>", "").split("no readable")[0] and "<figure" not in clips.still()
    clips.filter("nothing fits")
    assert "no clip is chosen" in clips.still()


def test_browser_of_a_run_and_of_a_library(folder, motions, tmp_path):
    audit_folder(str(folder), tmp_path/"run", "biped", n_jobs=1)
    assert {r["clip"] for r in browse(tmp_path/"run").rows} == {"walk", "squat", "turn", "bad <b>"}
    library = MotionLibrary.create(tmp_path/"library", motions, grade={"walk": "pass"})
    clips = browse(tmp_path/"library")
    assert [r["grade"] for r in clips.rows] == ["pass", "n/a", "n/a"] and len(browse(library).rows) == 3
    clips.filter(grade="pass")
    assert "foot skate" in clips.verdicts().text() and "<figure" in clips.still()
    with pytest.raises(MotionFormatError, match="no such file"): browse(tmp_path/"nowhere")


def test_browser_uses_its_cache(folder, monkeypatch):
    browse(folder, n_jobs=1)
    monkeypatch.setattr("motionbench.audit.audit.measure", lambda *_: 1/0)
    assert sum(r["grade"] != "error" for r in browse(folder, n_jobs=1).rows) == 3


@pytest.mark.parametrize("robot", ["biped"])
def test_tuned_config_is_a_config(robot):
    config = load_config(robot)
    assert tuned_config(config, Settings()) == config
    more = tuned_config(config, Settings({"feet": 2}, {"legs": 0.5}, 1.1, 0.9))
    for a, b in zip(config.bodies, more.bodies):
        assert b.position_weight == a.position_weight*(2 if part_of(a.joint) == "feet" else 1) and b.rotation_weight == a.rotation_weight*(0.5 if part_of(a.joint) == "legs" else 1)
    assert more.root_scale == config.root_scale*1.1 and more.scale["left_knee"] == config.scale["left_knee"]*0.9
    for bad in (Settings({"toes": 1}), Settings(rotation={"feet": -1}), Settings(root_scale=float("nan"))):
        with pytest.raises(ConfigError): tuned_config(config, bad)


def test_every_joint_belongs_to_a_part():
    from motionbench.core.motion import SMPLX_JOINTS
    assert {part_of(j) for j in SMPLX_JOINTS} == set(PARTS)


def test_tuner_from_python(tmp_path):
    t = tuner(bundled_clips()["walk"], "biped")
    first = t.motion
    rows = {r["metric"]: r for r in t.tune(contact=False, floor=False)}
    assert rows["foot skate (mean)"]["at_first"] != rows["foot skate (mean)"]["now"] and t.motion is not first
    for bad in (dict(contacts=True), dict(position={"toes": 2}), dict(smooth=-1), dict(limb_scale=-1)):
        before = t.settings
        with pytest.raises(ValueError): t.tune(**bad)
        assert t.settings == before
    path = t.save(tmp_path/"mine.yaml")
    assert "--terms collision,smooth,velocity" in path.read_text() and load_config(path).robot == "biped"
    t.tune(root_scale=0.9)
    t.save(path)        # its own file
    assert load_config(path).root_scale == round(0.9*load_config("biped").root_scale, 6)
    (tmp_path/"other.yaml").write_text("mine: 1")
    with pytest.raises(ConfigError, match="already"): t.save(tmp_path/"other.yaml")
    with pytest.raises(ConfigError, match="YAML"): t.save(tmp_path/"mine.txt")


def test_saved_config_retargets_the_same(tmp_path):
    t = tuner(bundled_clips()["squat"], "biped")
    t.tune(position={"feet": 2}, root_scale=0.95, smooth=5)
    again = retarget(bundled_clips()["squat"], "biped", t.save(tmp_path/"a.yaml"), terms=t.settings.terms)
    assert np.abs(again.dof_pos - t.motion.dof_pos).max() < 1e-3


def test_tuner_live(tmp_path):
    t = tuner(bundled_clips()["squat"], "biped")
    t.widget
    c = t.controls
    first = c["view"].shown
    c["view"].frame = 40
    c["terms"]["contact"].value = False
    assert t.settings.terms.contact is False and c["view"].shown is not first and c["view"].frame == 40 and c["view"].shown.data.get("ghost")
    c["position"]["feet"].value = 2.0
    assert t.settings.position == {"feet": 2.0}
    solved = t.motion
    c["reset"].click()
    assert t.settings == Settings() and t.motion is not solved
    c["name"].value = str(tmp_path/"tuned.yaml")
    c["save"].click()
    assert (tmp_path/"tuned.yaml").is_file() and "written" in c["said"].value
    c["name"].value = "<b>.txt"
    c["save"].click()
    assert "&lt;b&gt;.txt" in c["said"].value


def test_tuner_still():
    t = tuner(bundled_clips()["squat"], "biped")
    html = t._repr_mimebundle_()["text/html"]
    assert html.count("<figure") == 1 and html.count("<table") == 1 and html.count("data:image/png") == 2 and t._widget is None


@pytest.mark.parametrize("gone", ["ipywidgets", "anywidget"])
def test_without_widgets_there_is_a_picture_and_a_reason(gone, monkeypatch, folder):
    from motionbench.view import explorers, widget
    explorers.list_class.cache_clear(), widget.widget_class.cache_clear()
    monkeypatch.setitem(sys.modules, gone, None)
    for explorer in (tuner(bundled_clips()["squat"], "biped"), browse(folder, n_jobs=1)):
        with pytest.raises(ImportError, match="pip install .*anywidget"): explorer.widget
        monkeypatch.setenv("MOTIONBENCH_PLAYER", "page")
        shown = explorer._repr_mimebundle_()
        assert "pip install" in shown["text/html"] and "<figure" in shown["text/html"] and set(shown) == {"text/html", "text/plain"}
    explorers.list_class.cache_clear(), widget.widget_class.cache_clear()


def test_live_bundle_has_both_faces(monkeypatch):
    monkeypatch.setenv("MOTIONBENCH_PLAYER", "page")
    shown = tuner(bundled_clips()["squat"], "biped")._repr_mimebundle_()
    assert {"application/vnd.jupyter.widget-view+json", "text/html", "text/plain"} <= set(shown)
