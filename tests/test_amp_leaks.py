"The leak report: planted faults are found in the right block with the right cause, halves of the same data never leak."
import os, time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from motionbench.amp.apart import wasserstein
from motionbench.amp.dataset import merge_clips
from motionbench.amp.diagnosis import diagnose, noise_for
from motionbench.amp.features import amp_features
from motionbench.amp.layout import AmpLayout
from motionbench.amp.leaks import leak_report, plot_leaks
from motionbench.core.errors import ConfigError, InvalidMotion
from motionbench.core.gait import bundled_clips, turn, walk
from motionbench.core.motion import transform
from motionbench.core.robot import load_robot
from motionbench.core.rotation import quat_rotate, yaw, yaw_quat
from motionbench.io.registry import read_motion
from motionbench.retarget.clip import retarget_many

DATA = Path(os.environ.get("MOTIONBENCH_TEST_DATA", Path(__file__).parents[1]/"../shared/data"))
JOINTS, VELOCITIES = ("joint_positions", "joint_velocities"), ("joint_velocities", "root_linear_velocity", "root_angular_velocity")


def dataset(motions, robot): return merge_clips([amp_features(m, robot, name=f"clip{i}") for i, m in enumerate(motions)])


@pytest.fixture(scope="module")
def motions():
    humans = [h for n, h in bundled_clips().items() if n in ("walk", "run", "turn")]
    return [transform(m, k) for k, m in enumerate(retarget_many(humans, load_robot("biped"), fps=50))]


@pytest.fixture(scope="module")
def biped(motions): return dataset(motions, load_robot("biped"))


@pytest.fixture(scope="module")
def single(motions): return dataset(motions[:1], load_robot("biped"))


@pytest.fixture(scope="module")
def walks():
    humans = [walk(v, 4.0) for v in (0.8, 1.0, 1.2, 1.4)] + [turn(0.9, 4.0, rate) for rate in (0.5, -0.5, 0.3, -0.3)]
    robot = load_robot("biped")
    return dataset([transform(m, k) for k, m in enumerate(retarget_many(humans, robot, fps=50))], robot)


@pytest.fixture(scope="module")
def g1():
    model, clip = DATA/"gmr/robots/unitree_g1_gmr.xml", DATA/"robot_motion/kimodo_csv/kimodo_walk.csv"
    if not model.is_file() or not clip.is_file(): pytest.skip(f"no G1 clip at {clip}; set MOTIONBENCH_TEST_DATA")
    return dataset([transform(read_motion(clip, fps=30, robot="unitree_g1"), 1.0)], load_robot(model))


def clip_of(d): return np.searchsorted(d.starts, np.arange(len(d.features)), "right") - 1


def planted(d, fault, value=None):
    "A copy with one fault."
    x, at, quat = d.features.copy(), d.layout.slices, d.root_quat
    if fault == "order":
        for b in JOINTS: x[:, at[b]] = x[:, at[b]][:, value]
    if fault == "world":
        for b in VELOCITIES[1:]: x[:, at[b]] = quat_rotate(yaw_quat(yaw(quat)), x[:, at[b]])
    if fault == "contacts": x[:, at["foot_contacts"]] = value
    if fault == "scale":
        for b in VELOCITIES: x[:, at[b]] *= value
    if fault == "height": x[:, at["root_height"]] += value
    return SimpleNamespace(features=x, layout=d.layout, fps=d.fps, starts=d.starts, root_quat=quat)


def found(report): return {f.block: f.kind for f in report.faults}


def swap(d, i, j):
    o = np.arange(len(d.layout.joint_names))
    o[[i, j]] = j, i
    return o


FAULTS = [("order", lambda d: np.random.default_rng(5).permutation(len(d.layout.joint_names)), dict.fromkeys(JOINTS, "order")),
          ("order", lambda d: swap(d, 3, 7), dict.fromkeys(JOINTS, "order")),
          ("world", None, dict.fromkeys(VELOCITIES[1:], "frame")),
          ("contacts", lambda d: 0, {"foot_contacts": "constant"}),
          ("scale", lambda d: 1/d.fps, dict.fromkeys(VELOCITIES, "scale")),
          ("height", lambda d: 0.02, {"root_height": "offset"}),
          ("height", lambda d: -0.05, {"root_height": "offset"})]


@pytest.mark.parametrize("fault, value, want", FAULTS, ids=lambda x: x if isinstance(x, str) else "")
def test_planted_faults_are_found_and_nothing_else(biped, fault, value, want):
    report = leak_report(biped, planted(biped, fault, value and value(biped)))
    assert found(report) == want and set(report.leaks) == set(want), report
    text = {f.block: f.message for f in report.faults}
    if fault == "scale": assert all("0.02 times the reference's" in m and "per frame, not per second?" in m for m in text.values())
    if fault == "height": assert f"{value(biped):+.3f} m throughout" in text["root_height"]
    if fault == "order":
        i = int(np.flatnonzero(value(biped) != np.arange(9))[0])
        assert f"{(value(biped) != np.arange(9)).sum()} of 9 joints" in text["joint_positions"] and any(f"{n} is where" in text["joint_positions"] for n in biped.layout.joint_names[i:])
    assert "Fix the data first" in diagnose(report, 0.98)[0] and set(want) == {line.split(":")[0] for line in diagnose(report)[1:]}


@pytest.mark.parametrize("fault, value, want", [f for f in FAULTS[:-1] if f[0] != "world"], ids=lambda x: x if isinstance(x, str) else "")
def test_four_seconds_are_enough(single, fault, value, want):
    assert found(leak_report(single, planted(single, fault, value(single)))) == want


@pytest.mark.parametrize("k", [2, 5])
def test_g1(g1, k):
    fault, value, want = FAULTS[k]
    assert found(leak_report(g1, planted(g1, fault, value and value(g1)))) == want


def test_other_faults(single):
    def report(change):
        d = planted(single, "")
        change(d.features, d.layout.slices)
        return leak_report(single, d)
    def degrees(x, at): x[:, at["joint_positions"]] *= 180/np.pi
    def flipped(x, at): x[:, at["joint_positions"].start + 3] *= -1
    def stuck(x, at): x[:, at["joint_velocities"]] = 0
    def direction(x, at): x[:, at["root_linear_velocity"]] /= np.linalg.norm(x[:, at["root_linear_velocity"]], axis=1, keepdims=True)
    def twice(x, at): x[:] = x[np.arange(len(x))//2*2]
    assert found(report(twice)) == {"joint_positions": "held"}
    assert found(report(degrees)) == {"joint_positions": "scale"}
    assert found(report(flipped)) == {"joint_positions": "sign"}
    assert found(report(stuck)) == {"joint_velocities": "constant"}
    assert found(report(direction)) == {"root_linear_velocity": "length"}


def test_another_movement_is_no_fault(walks):
    "A policy that trembles in place gives itself away, honestly."
    rng, d = np.random.default_rng(0), planted(walks, "")
    x, at = d.features, d.layout.slices
    tremble = np.cumsum(rng.normal(0, 0.05, (len(x), 9)), 0)
    x[:, at["joint_positions"]] = x[0, at["joint_positions"]] + tremble - tremble.mean(0)
    x[:, at["joint_velocities"]], x[:, at["root_linear_velocity"]] = np.gradient(tremble, axis=0)*50, rng.normal(0, 0.1, (len(x), 3))
    report = leak_report(walks, d)
    assert not report.faults and {"joint_positions", "joint_velocities", "root_linear_velocity"} <= set(report.leaks), report
    lines = diagnose(report, 0.98)
    assert "honest" in lines[0] and any("disc_lr (5e-5)" in line for line in lines) and any("noise" in line.lower() for line in lines)
    assert "other numbers" in diagnose(report, 0.5)[0]


# ---- halves

def halves(d, how, seed):
    "Both halves as datasets."
    rng, n, clip = np.random.default_rng(seed), len(d.features), clip_of(d)
    frame, length = np.arange(n) - np.array(d.starts)[clip], np.diff([*d.starts, n])[clip]
    mask = {"even": np.arange(n) % 2 == 0, "random": rng.random(n) < 0.5, "alternating": frame//25 % 2 == 0, "seconds": (frame//50 + seed) % 2 == 0,
            "clips": (rng.permutation(len(d.starts)) % 2 == 0)[clip], "first": frame < length/2}[how]
    def side(m): return SimpleNamespace(features=d.features[m], layout=d.layout, fps=d.fps, root_quat=d.root_quat[m], starts=tuple(np.flatnonzero(np.diff(clip[m], prepend=-1)).tolist()))
    return side(mask), side(~mask)


HALVES = [("single", h, 1) for h in ("even", "random", "alternating", "seconds", "first")] + [("biped", "clips", 1), ("biped", "first", 1),
          ("walks", "alternating", 1), ("walks", "clips", 1), ("g1", "seconds", 1), ("g1", "first", 1)]


@pytest.mark.parametrize("which, how, seeds", HALVES)
def test_halves_do_not_leak(which, how, seeds, request):
    d = request.getfixturevalue(which)
    for seed in range(seeds):
        report = leak_report(*halves(d, how, seed), seed)
        assert not report.leaks and not report.faults and not report.row("all")["leaks"], report


def test_a_fault_shows_between_different_recordings(walks):
    a, b = halves(walks, "clips", 1)
    for k in (1, 4): assert set(FAULTS[k][2]) <= set(found(leak_report(a, planted(b, FAULTS[k][0], FAULTS[k][1] and FAULTS[k][1](b)))))


# ---- properties

@settings(max_examples=2, deadline=None)
@given(order=st.permutations(range(9)), seed=st.integers(0, 9))
def test_the_order_of_the_joints_does_not_matter(single, order, seed):
    def shuffled(d):
        x = d.features.copy()
        for b in JOINTS: x[:, d.layout.slices[b]] = x[:, d.layout.slices[b]][:, order]
        layout = AmpLayout([d.layout.joint_names[i] for i in order], d.layout.contact_names)
        return SimpleNamespace(features=x, layout=layout, fps=d.fps, starts=d.starts, root_quat=d.root_quat)
    policy = planted(single, "height", 0.03)
    here, there = leak_report(single, policy, seed), leak_report(shuffled(single), shuffled(policy), seed)
    assert here.rows == there.rows and here.findings == there.findings and here.noise == there.noise


def test_wasserstein_is_scipys():
    from scipy.stats import wasserstein_distance
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(3000, 2)), rng.normal(0.3, 1.5, size=(2000, 2))
    assert np.allclose(wasserstein(a, b), [wasserstein_distance(x, y) for x, y in zip(a.T, b.T)], rtol=0.03)


def test_what_cannot_be_compared_is_refused(single):
    change = lambda **k: SimpleNamespace(**vars(planted(single, "")) | k)
    names, contacts = single.layout.joint_names, single.layout.contact_names
    with pytest.raises(ConfigError, match=f"joint_names are in another order: number 0 is {names[0]} against {names[-1]}"): leak_report(single, change(layout=AmpLayout(names[::-1], contacts)))
    with pytest.raises(ConfigError, match="only the reference has .*, only the policy knee"): leak_report(single, change(layout=AmpLayout(("knee", *names[1:]), contacts)))
    with pytest.raises(ConfigError, match="fps is 50 against 60"): leak_report(single, change(fps=60.))
    with pytest.raises(ConfigError, match="the policy has 20 frames, at least 50"): leak_report(single, change(features=single.features[:20], root_quat=single.root_quat[:20]))
    with pytest.raises(InvalidMotion, match="features of the policy is nan"): leak_report(single, change(features=np.where(single.features == single.features[7, 3], np.nan, single.features)))


def test_agreement_is_success(single):
    report = leak_report(single, single)
    assert not report.leaks and report.row("all")["accuracy"] == 0.5 and noise_for(report.noise) is None
    assert "success" in diagnose(report, 0.5)[0] and "other numbers" in diagnose(report, 0.97)[0]
    assert [label.get_text() for label in plot_leaks(report).get_yticklabels()] == [r["block"].replace("_", " ") for r in report.rows]
    with pytest.raises(ConfigError, match="such as 0.97"): diagnose(report, 97)


def test_a_hundred_thousand_frames(walks):
    times = 100_000//len(walks.features) + 1
    n, rng = times*len(walks.features), np.random.default_rng(0)
    long = SimpleNamespace(features=np.tile(walks.features, (times, 1)) + rng.normal(0, 1e-3, (n, walks.layout.dim)), layout=walks.layout, fps=50., root_quat=np.tile(walks.root_quat, (times, 1)),
                           starts=tuple(s + k*len(walks.features) for k in range(times) for s in walks.starts))
    assert found(leak_report(long, planted(long, "height", 0.03))) == {"root_height": "offset"}
