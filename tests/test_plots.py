"Plots: axes come back, every axis has its unit, nothing hangs on colour alone, the reader's matplotlib stays as it was."
import re
from dataclasses import replace

import matplotlib
import numpy as np
import pytest

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from motionbench.core.errors import InvalidMotion
from motionbench.core.gait import bundled_clips
from motionbench.core.robot import load_robot
from motionbench.retarget.clip import retarget
from motionbench.view import plots
from motionbench.view.linked import Knob, LinkedPlayer, TimePlot
from motionbench.view.style import DASHES, LINE_DASHES, LINES, MARKS, SIDES, STYLE, VERDICTS, figure_png, key, mark, new_axes, style, tidy


@pytest.fixture(scope="module")
def robot(): return load_robot("biped")


@pytest.fixture(scope="module")
def human(): return bundled_clips()["walk"].cut(0, 90)


@pytest.fixture(scope="module")
def motion(robot, human):
    motion = retarget(human, robot)
    return replace(motion, torque=motion.dof_pos*10)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def knees(robot): return [n for n in robot.joint_names if "knee" in n]


OF_A_MOTION = {
    "contacts": lambda m, h, r, ax: plots.plot_contacts(m, ax), "contacts of a human": lambda m, h, r, ax: plots.plot_contacts(h, ax), "human": lambda m, h, r, ax: plots.plot_human(h, 5, ax),
    "soles": lambda m, h, r, ax: plots.plot_sole_height(m, r, ax), "joints": lambda m, h, r, ax: plots.plot_joints(m, knees(r), r, ax), "torque": lambda m, h, r, ax: plots.plot_torque(m, knees(r), ax),
    "speed": lambda m, h, r, ax: plots.plot_joint_speed(m, r, ax), "path": lambda m, h, r, ax: plots.plot_root_path(m, ax), "height": lambda m, h, r, ax: plots.plot_root_height(m, ax),
    "grades": lambda m, h, r, ax: plots.plot_grades([dict(robot="a", grade="pass"), dict(robot="b", grade="fail")], ax=ax)}


@pytest.mark.parametrize("plot", OF_A_MOTION.values(), ids=OF_A_MOTION)
def test_a_motion_in_axes_out_with_units(plot, motion, human, robot):
    before = dict(matplotlib.rcParams)
    ax = plot(motion, human, robot, None)
    assert isinstance(ax, Axes) and dict(matplotlib.rcParams) == before
    own = Figure().add_subplot()
    assert plot(motion, human, robot, own) is own
    for a in (ax, own):
        up = a.get_title("left")
        assert re.search(r"\[[^\]]+\]", a.get_xlabel()), a.get_xlabel()
        assert re.search(r"\[[^\]]+\]", up) or up.startswith(("contact", "grades")), up         # those two have names up the page
        assert a.get_xticks().size and not a.spines["top"].get_visible()


@pytest.mark.parametrize("plot", OF_A_MOTION.values(), ids=OF_A_MOTION)
def test_every_text_is_inside_and_none_lies_on_another(plot, motion, human, robot):
    ax = plot(motion, human, robot, None)
    ax.figure.canvas.draw()
    texts = [t for t in [ax.title, ax._left_title, ax.xaxis.label, *(ax.get_legend().get_texts() if ax.get_legend() else ())] if t.get_text()]
    boxes = [t.get_window_extent() for t in texts]
    whole = ax.figure.bbox
    for i, box in enumerate(boxes):
        assert whole.x0 - 1 <= box.x0 and box.x1 <= whole.x1 + 1 and whole.y0 - 1 <= box.y0 and box.y1 <= whole.y1 + 1, texts[i]
        assert not any(box.overlaps(b) for b in boxes[i+1:]), texts[i]


def test_one_frame_and_strange_clips(motion, human, robot):
    one = motion.cut(0, 1)
    for name in ("contacts", "contacts of a human", "human", "soles", "joints", "torque", "path", "height"): figure_png(OF_A_MOTION[name](one, human.cut(0, 1), robot, None).figure)
    with pytest.raises(InvalidMotion, match="two frames"): plots.plot_joint_speed(one, robot)
    with pytest.raises(InvalidMotion, match="no contacts"): plots.plot_contacts(replace(motion, contacts=None, contact_names=None))
    with pytest.raises(InvalidMotion, match="no torques"): plots.plot_torque(replace(motion, torque=None), knees(robot))
    with pytest.raises(InvalidMotion, match="no joint elbow; the motion has"): plots.plot_joints(motion, "elbow", robot)
    with pytest.raises(InvalidMotion, match="can be told apart"): plots.plot_joints(motion, list(robot.joint_names)[:7], robot)
    with pytest.raises(InvalidMotion, match="without 'robot'"): plots.plot_grades([dict(grade="pass")])
    assert plots.plot_sole_height(replace(motion, contacts=None, contact_names=None), robot).get_title("left") == "sole height [cm]"
    assert plots.plot_grades([]).get_xlim() == (0, 1)


def test_nothing_hangs_on_colour_alone(motion, robot):
    assert len(set(map(str, DASHES.values()))) == len(SIDES) and len(set(MARKS.values())) == len(VERDICTS) and len(set(plots.HATCHES.values())) == len(VERDICTS)
    assert len(LINES) == len(LINE_DASHES) == len(set(LINES))
    left, right = [line for line in plots.plot_joints(motion, knees(robot), robot).lines if not line.get_label().startswith("_")]
    assert left.get_linestyle() == "-" and right.get_linestyle() == "--" and left.get_color() == SIDES["left"]
    speed = np.full((20, 2), 9.0)
    names = plots.draw_joint_speed(new_axes(), np.arange(21)/10, speed, ("calm", "hasty"), np.array([10.0, 5.0])).get_yticklabels()
    assert [n.get_weight() for n in names] == ["normal", "bold"]


def test_the_strip_of_speeds_keeps_a_spike():
    "A long clip is folded by the maximum."
    speed = np.zeros((5000, 3))
    speed[1234, 1] = 7.0
    ax = plots.draw_joint_speed(new_axes(), np.arange(5001)/50, speed, ("a", "b", "c"), np.full(3, 5.0))
    image = ax.images[0].get_array()
    assert image.shape[1] <= 600 and image.max() == pytest.approx(1.4) and np.argmax(image.max(1)) == 1


def test_style_ends_with_the_block():
    before = matplotlib.rcParams.copy()
    with pytest.raises(KeyError), style({"font.size": 20}):
        assert matplotlib.rcParams["font.size"] == 20 and matplotlib.rcParams["axes.grid"] is STYLE["axes.grid"]
        raise KeyError
    assert matplotlib.rcParams == before


def test_a_moment_is_one_line():
    ax = tidy(new_axes(), "x [m]", [0, 1])
    for s in (0.1, 0.5): mark(ax, s)
    assert len(ax.lines) == 1 and ax.lines[0].get_xdata() == [0.5, 0.5]
    assert key(ax).get_legend() is None                         # nothing to explain


def test_the_clip_figure_is_as_large_as_it_says(motion, robot):
    from motionbench.audit.audit import audit_motion
    from motionbench.audit.report import audit_figure
    fig = audit_figure(audit_motion(motion, robot))
    assert isinstance(fig, Figure) and figure_png(fig)[16:24] == (900).to_bytes(4, "big") + (700).to_bytes(4, "big")
    assert not plt.get_fignums()                                # nothing is left open


def test_linked_parts_move_together(motion, robot):
    pytest.importorskip("anywidget")
    scene = LinkedPlayer(motion, plots.plot_joints(motion, knees(robot), robot), robot=robot)
    scene.frame = 5                                             # before anybody looks
    assert scene.widget.children[0] is scene.player and scene.slider.value == scene.player.frame == 5
    first = scene.picture.value
    scene.slider.value = 60
    assert scene.player.frame == 60 and scene.picture.value != first and scene.readout.value.startswith("frame 60 · 1.00 s")
    short = motion.cut(0, 30)
    scene.show(short, plots.plot_joints(short, knees(robot), robot))
    assert scene.frame == scene.slider.value == scene.slider.max == 29
    longer = motion.cut(0, 80)
    scene.show(longer, plots.plot_joints(longer, knees(robot), robot))
    assert scene.slider.max == 79 and scene.frame == 29
    with pytest.raises(InvalidMotion, match="frame is 80, the motion has 80"): scene.frame = 80
    with pytest.raises(InvalidMotion, match="one per frame"): TimePlot(plots.plot_joints(motion, knees(robot), robot), short.times)
    assert "<img" in scene.still() and not plt.get_fignums()


def test_a_knob_says_what_is_wrong():
    pytest.importorskip("ipywidgets")
    def f(x):
        if x > 1: raise InvalidMotion("too <much>")
        return f"fine & {x}"
    knob = Knob(f, "x [m]", 0, 2, 1)
    assert "fine &amp; 1" in knob.still() and "fine &amp; 1" in knob.widget.children[1].value
    knob.slider.value = 1.5
    assert "too &lt;much&gt;" in knob.output.value
