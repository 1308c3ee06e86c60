"Contacts, ground and foot tilt of humans: against the generator's truth, under noise and transformations, and on real clips."
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from motionbench.core.contacts import ground_height, human_contacts, hysteresis, intervals, level_feet
from motionbench.core.errors import InvalidMotion
from motionbench.core.feet import noise_level, smooth, speeds, tilt, foot_up
from motionbench.core.figure import rotate
from motionbench.core.gait import bundled_clips, jump, squat, stand
from motionbench.core.motion import CONTACT_NAMES, SMPLX_JOINTS, transform
from motionbench.core.rotation import quat_exp, quat_mul, quat_rotate
from motionbench.core.stride import run, turn, walk
from motionbench.io.registry import read_motion

DATA = Path(os.environ.get("MOTIONBENCH_TEST_DATA", Path(__file__).parents[1]/"../shared/data")).resolve()/"mocap"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no test data in {DATA}; set MOTIONBENCH_TEST_DATA")
FRAME = 1/30 + 1e-6
at = SMPLX_JOINTS.index


def bare(human): return replace(human, contacts=None, contact_names=None)


def shaken(human, sigma, seed=0):
    return replace(human, joint_pos=human.joint_pos + np.random.default_rng(seed).normal(size=human.joint_pos.shape)*sigma)


def delays(truth, found, fps):
    "Signed delays in s of every begin and end, by toe/heel and on/off; every stretch of the one must meet exactly one of the other."
    out = dict.fromkeys([(p, e) for p in ("toe", "heel") for e in ("on", "off")], ())
    for name, a, b in zip(CONTACT_NAMES, truth.T, found.T):
        part, T = name.split("_")[1], len(truth)
        meet = lambda x, others: [o for o in others if x[0] < o[1] and o[0] < x[1]]
        stub = lambda x: (x[0] == 0 or x[1] == T) and x[1] - x[0] < 0.15*fps       # cut off by the clip's ends
        a, b = intervals(a), intervals(b)
        assert all(len(meet(x, b)) == 1 or stub(x) for x in a) and all(len(meet(y, a)) == 1 or stub(y) for y in b), f"{name}: {a} against {b}"
        for s, e in a:
            for s2, e2 in meet((s, e), b):
                if s > 0: out[part, "on"] += ((s2 - s)/fps,)
                if e < T: out[part, "off"] += ((e2 - e)/fps,)
    return out


def worst(human, found):
    return max((abs(d) for ds in delays(human.contacts, found, human.fps).values() for d in ds), default=0.)


@pytest.mark.parametrize("name", list(bundled_clips()))
def test_bundled_clips_within_one_frame(name):
    human = bundled_clips()[name]
    assert worst(human, human_contacts(bare(human))) <= FRAME


@pytest.mark.parametrize("fps", [24, 30, 60, 120])
@pytest.mark.parametrize("make", [lambda f: walk(0.55, fps=f), lambda f: walk(0.9, fps=f), lambda f: walk(2.0, fps=f), lambda f: turn(0.8, fps=f, turn_rate=-0.8),
                                  lambda f: run(1.7, fps=f), lambda f: run(2.8, fps=f), lambda f: run(4.0, fps=f), lambda f: jump(0.1, fps=f), lambda f: jump(0.4, fps=f),
                                  lambda f: squat(fps=f), lambda f: walk(0.8, height=1.2, fps=f), lambda f: walk(1.4, height=2.1, fps=f)])
def test_begin_and_end_within_a_frame_of_30_hz(make, fps):
    human = make(fps)
    assert worst(human, human_contacts(bare(human))) <= max(FRAME, 1/fps + 1e-6)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([walk, run]), st.floats(0, 1), st.floats(1.2, 2.1), st.sampled_from([24., 30., 50., 60., 100., 120.]))
def test_any_speed_height_and_rate(make, share, height, fps):
    low, high = (0.32, 1.2) if make is walk else (1.0, 2.4)
    human = make((low + share*(high - low))*height, 3.0, height=height, fps=fps)
    assert worst(human, human_contacts(bare(human))) <= max(1.5*FRAME, 1/fps + 1e-6)


def test_a_very_slow_heel_is_late():
    "At 0.2 statures/s the heel rises by less than a millimetre in the first 50 ms; worst is a stretch that the clip's start cuts off."
    human = walk(0.34, 6.0, fps=120)
    late = delays(human.contacts, human_contacts(bare(human)), 120)
    assert max(late["heel", "off"]) < 0.14 and np.median(late["heel", "off"]) < 0.05
    assert max(abs(d) for k, ds in late.items() if k != ("heel", "off") for d in ds) < FRAME


@pytest.mark.parametrize("sigma, fps, slow", [(0.001, 120, 0.09), (0.003, 120, 0.13), (0.005, 120, 0.14), (0.002, 60, 0.14), (0.002, 30, 0.14)])
def test_noise_moves_the_heel_off_and_little_else(sigma, fps, slow):
    for human in (walk(1.2, fps=fps), run(2.8, fps=fps), jump(fps=fps), stand(fps=fps)):
        late = delays(human.contacts, human_contacts(bare(shaken(human, sigma))), fps)
        assert max(late["heel", "off"], default=0) < slow
        assert max((abs(d) for k, ds in late.items() if k != ("heel", "off") for d in ds), default=0) < 1.6*FRAME


@settings(max_examples=20, deadline=None)
@given(st.floats(-3, 3), st.floats(-2, 2), st.floats(0.7, 1.2), st.sampled_from(["walk", "run", "turn", "jump", "squat"]))
def test_heading_floor_and_size_do_not_matter(angle, up, size, name):
    human = bare(bundled_clips()[name])
    found, ground = human_contacts(human), ground_height(human)
    moved = transform(human, angle, (5, -3, up))
    assert (human_contacts(moved) == found).mean() > 0.995 and np.isclose(ground_height(moved), up + ground, atol=1e-3)
    sized = replace(human, joint_pos=human.joint_pos*size, height=human.height*size)
    assert (human_contacts(sized) == found).mean() > 0.98 and np.isclose(ground_height(sized), 0, atol=2e-3)


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(["walk", "run", "turn", "jump", "stand"]), st.floats(-1, 1), st.integers(0, 99), st.floats(0, 0.003))
def test_ground_is_found_within_a_centimetre(name, up, seed, sigma):
    human = transform(bare(bundled_clips()[name]), shift=(0, 0, up))
    assert abs(ground_height(human) - up) < 0.001 and abs(ground_height(shaken(human, sigma, seed)) - up) < 0.01


@settings(max_examples=10, deadline=None)
@given(st.floats(0.6, 2.0), st.sampled_from([30., 60.]))
def test_rates_agree(speed, fps):
    "A clip and its decimation agree except next to the ends of stretches."
    human = bare(walk(speed, 3.0, fps=120))
    step = int(120/fps)
    few = replace(human, fps=fps, joint_pos=human.joint_pos[::step], joint_quat=human.joint_quat[::step])
    differ = human_contacts(human)[::step] != human_contacts(few)
    assert differ.mean() < 0.04 and all(b - a <= 2*fps/30 for column in differ.T for a, b in intervals(column))


def on_steps(human, rise):
    "Feet raised by `rise` per 0.35 m of way."
    pos, t = human.joint_pos.copy(), np.arange(len(human))
    for k, side in enumerate(("left", "right")):
        ends = [i for a, b in intervals(human.contacts[:, 2*k:2*k+2].any(1)) for i in (a, b - 1)]
        steps = np.repeat([round(human.joint(f"{side}_ankle")[0][(a + b)//2, 0]/0.35)*rise for a, b in zip(ends[::2], ends[1::2])], 2)
        for joint in ("ankle", "foot"): pos[:, at(f"{side}_{joint}"), 2] += np.interp(t, ends, steps)
    return bare(replace(human, joint_pos=pos))


@pytest.mark.parametrize("rise", [0.17, -0.17])
def test_stairs(rise):
    human = walk(1.0, 6.0, fps=60)
    climb = on_steps(human, rise)
    assert (human_contacts(climb) == human.contacts).mean() > 0.98
    assert abs(ground_height(climb) - min(0, round(climb.joint_pos[-1, 0, 0]/0.35)*rise)) < 0.2


def test_a_foot_that_never_stands():
    for human in (stand(fps=60), walk(1.0, fps=60)):
        pos = human.joint_pos.copy()
        for joint in ("ankle", "foot"): pos[:, at(f"left_{joint}")] = pos[:, 0] + [-.1, .1, -.5]
        found = human_contacts(bare(replace(human, joint_pos=pos)))
        assert not found[:, :2].any() and (found[:, 2:] == human.contacts[:, 2:]).mean() > 0.95


@pytest.mark.parametrize("degrees", [45, 60])
def test_tiptoe_for_a_whole_clip(degrees):
    human = stand(fps=60)
    pos, quat, turn = human.joint_pos.copy(), human.joint_quat.copy(), rotate("y", np.full(len(human), np.radians(degrees)))
    for side in ("left", "right"):
        ankle, foot = at(f"{side}_ankle"), at(f"{side}_foot")
        quat[:, ankle], pos[:, ankle] = quat_mul(turn, quat[:, ankle]), pos[:, foot] + quat_rotate(turn, pos[:, ankle] - pos[:, foot])
    crouch = bare(replace(human, joint_pos=pos, joint_quat=quat))
    assert np.array_equal(human_contacts(crouch), np.tile([True, False, True, False], (len(human), 1)))
    assert abs(ground_height(crouch)) < 0.001 and level_feet(crouch)[0] is crouch


@settings(max_examples=20, deadline=None)
@given(st.floats(-28, 28), st.floats(-25, 25), st.sampled_from(["walk", "turn", "squat", "jump"]))
def test_a_tilted_file_is_levelled_and_its_contacts_stay(pitch, roll, name):
    human = bare(bundled_clips()[name])
    quat, turn = human.joint_quat.copy(), quat_exp(np.radians([pitch, 0, roll]))
    for joint in ("left_ankle", "left_foot"): quat[:, at(joint)] = quat_mul(quat[:, at(joint)], turn)
    leaning = replace(human, joint_quat=quat)
    size = tilt(foot_up(leaning, "left"))
    assert (human_contacts(leaning) == human_contacts(human)).mean() > 0.99
    level, degrees = level_feet(leaning)
    assert degrees["right"] == 0 and np.isclose(degrees["left"], size if size >= 1 else 0, atol=0.5)
    after = tilt(foot_up(level, "left"))
    assert after < 1.05 and np.array_equal(level.joint_pos, human.joint_pos)
    assert level_feet(level)[1]["left"] == 0 and np.array_equal(level.joint("right_ankle")[1], human.joint("right_ankle")[1])


def test_too_much_tilt_is_left_alone():
    human = bare(walk(1.2))
    quat = human.joint_quat.copy()
    for joint in ("left_ankle", "left_foot"): quat[:, at(joint)] = quat_mul(quat[:, at(joint)], quat_exp(np.radians([55., 0, 0])))
    human = replace(human, joint_quat=quat)
    assert level_feet(human, walk(1.2).contacts) == (human, dict(left=0., right=0.))


def test_ten_thousand_frames_are_quick():
    human = bare(walk(1.2, duration=84, fps=120))
    human_contacts(human)
    start = time.process_time()
    human_contacts(human)
    assert time.process_time() - start < 0.15           # 0.02 s on an idle core


def test_own_contacts_come_first_and_nonsense_is_refused():
    human = walk(1.2)
    assert human_contacts(human) is human.contacts
    with pytest.raises(InvalidMotion, match="at least two frames"): human_contacts(bare(human).cut(0, 1))
    with pytest.raises(InvalidMotion, match="no foot ever touches"): ground_height(human, np.zeros((len(human), 4)))
    with pytest.raises(InvalidMotion, match="contacts has shape"): level_feet(human, np.ones((len(human), 2)))
    legless = replace(bare(human), joint_pos=human.joint_pos[:, :7], joint_quat=human.joint_quat[:, :7], joint_names=SMPLX_JOINTS[:7], parents=human.parents[:7])
    with pytest.raises(InvalidMotion, match="no left_ankle, left_foot"): human_contacts(legless)
    for frames in range(2, 12): assert human_contacts(bare(human).cut(0, frames)).shape == (frames, 4)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=60))
def test_hysteresis_by_its_definition(levels):
    x = np.array(levels)
    want = np.zeros(len(x), bool)
    for a, b in intervals(x > 0): want[a:b] = (x[a:b] == 2).any()
    assert np.array_equal(hysteresis(x == 2, x > 0), want)


def test_noise_speed_and_smoothing():
    rng = np.random.default_rng(3)
    assert np.isclose(noise_level(rng.normal(size=(500, 4, 3))*0.002), 0.002, rtol=0.15)
    line = np.arange(50)[:, None, None]/100*np.array([1., 0, 0])
    for v in speeds(smooth(line, 100)[0], 100): assert np.allclose(v[5:-5], 1)
    assert smooth(line, 30)[1] == 1 and smooth(line, 120)[1] == 3 and smooth(line, 240)[1] == 5


RECORDINGS = [("run", 30), ("walk", 30), ("walk-turn-left", 30), ("wave-both-hands", 30), ("01_01", 120), ("02_01", 120)]


def files(name):
    b = f"dataset-2_{name}_normal_001"
    if name[0] == "0": return DATA/f"cmu/{name}.bvh", DATA/f"amass_smplx/cmu_{name}_stageii.npz", DATA/f"lafan1_layout/cmu_{name}.bvh"
    return DATA/f"bandai/{b}.bvh", DATA/f"amass_smplx/bandai_{b}_stageii.npz", DATA/f"lafan1_layout/bandai_{b}.bvh"


@needs_data
@pytest.mark.parametrize("name, fps", RECORDINGS)
def test_versions_of_a_recording_agree(name, fps):
    "BVH, its AMASS fit (feet tilted by 10 to 35 degrees, 1 to 3 cm off) and its LAFAN1 version: each label agrees at 90 % of the frames, all four on average at 94 %."
    def labels(path):
        human = read_motion(path)
        found = human_contacts(human)
        return found[np.round(np.arange(0, human.duration, 1/30)*human.fps).astype(int)]
    own, amass, lafan = map(labels, files(name))
    for other in (amass, lafan):
        n = min(len(own), len(other))
        same = (own[:n] == other[:n]).mean(0)
        assert same.min() > 0.9 and same.mean() > 0.94, same


@needs_data
def test_real_clips_are_plausible():
    for path in sorted(p for p in DATA.glob("*/*") if "LICENSE" not in p.name):
        human = read_motion(path)
        found, flying = human_contacts(human), "run" in path.name or "01_01" in path.name
        lengths = [(b - a)/human.fps for c in found.T for a, b in intervals(c) if a > 0 and b < len(c)]
        assert found.any(0).all() and min(lengths, default=1) >= 0.03, path
        if not flying: assert found.any(1).mean() > 0.84, path                       # walkers always touch, but feet that pivot in push-off count as moving
        assert np.median(np.abs(np.diff([len(intervals(c)) for c in found.T]))) <= 2, path
        assert abs(ground_height(human, found)) < (0.07 if "asap" in path.name else 0.04), path
        level, degrees = level_feet(human, found)
        assert all(d == 0 or 1 <= d <= 40 for d in degrees.values()) and max(level_feet(level, found)[1].values()) == 0, path
