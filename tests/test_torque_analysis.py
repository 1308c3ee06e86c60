"Gait events, effort and patterns against what is known by construction."
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from motionbench.core.errors import InvalidMotion, RobotError
from motionbench.core.gait import bundled_clips
from motionbench.core.mirror import mirror_motion
from motionbench.core.motion import Motion, concatenate
from motionbench.core.robot import load_robot
from motionbench.retarget.clip import retarget
from motionbench.torque.analysis import analysis_dict, analysis_figure, analysis_table, analyze_torque, similarity_table, write_profiles
from motionbench.torque.effort import available_torque, cost_of_transport, effort_table, joint_power, joint_work, saturation, symmetry
from motionbench.torque.gait import foot_stances, gait_events, profiles, time_normalize
from motionbench.torque.patterns import band_share, directions, dtw_distance, principal_components, similarity, spectrum, synergies


@pytest.fixture(scope="module")
def biped(): return load_robot("biped")


@pytest.fixture(scope="module")
def walk(biped): return retarget(bundled_clips()["walk"], biped)


def swinging(biped, seconds=4.0, fps=100.0, amplitude=3.0):
    "A standing robot whose joints swing, with torques in phase with their velocities."
    t = np.arange(int(seconds*fps) + 1)/fps
    vel = np.cos(2*np.pi*t)[:, None]*np.linspace(0.5, 2, 9)
    pos = np.sin(2*np.pi*t)[:, None]*np.linspace(0.5, 2, 9)/(2*np.pi)
    return Motion(fps, np.outer(t, [0.5, 0, 0]) + [0, 0, .5], np.tile([1., 0, 0, 0], (len(t), 1)), pos, biped.joint_names, "biped", dof_vel=vel, torque=amplitude*vel)


# ---- gait

def test_strides_are_the_generators(walk, biped):
    "The generated walk has a known stride, and left and right alternate at half of it."
    human, events = bundled_clips()["walk"], gait_events(walk, biped)
    contact = human.resample(walk.fps).contacts[:, [0, 1]].any(1)
    strikes = np.flatnonzero(np.diff(contact.astype(int)) == 1) + 1
    period = np.diff(strikes).mean()/walk.fps
    for e in events.values():
        assert np.allclose(np.diff(e.strikes)/walk.fps, period, atol=0.03) and (np.diff(e.strides) > 0).all()
        assert e.stance[e.strikes].all() and not e.stance[e.strikes - 1].any() and not e.stance[e.leaves].any()
    apart = np.abs(events["left"].strikes[:, None] - events["right"].strikes[None]).min(1)/walk.fps
    assert np.allclose(apart, period/2, atol=0.05)


def test_events_come_from_the_soles_where_a_clip_has_no_contacts(walk, biped):
    bare = replace(walk, contacts=None, contact_names=None)
    own, seen = foot_stances(walk, biped), foot_stances(bare, biped)
    assert all((own[s] == seen[s]).mean() > 0.8 for s in own)
    with pytest.raises(InvalidMotion, match="several clips"): gait_events(concatenate([walk, walk], boundaries=True), biped)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(5, 60), min_size=1, max_size=5), st.integers(1, 4), st.integers(0, 99))
def test_strides_of_any_length_become_the_same_curve(lengths, columns, seed):
    ends = np.cumsum([0, *lengths])
    shape = np.random.default_rng(seed).normal(size=(2, columns))
    phase = np.interp(np.arange(ends[-1] + 1), ends, np.arange(len(ends)))[:, None] % 1
    curve = phase*shape[0] + (1 - phase)*shape[1]                     # linear within a stride: exact under linear interpolation
    cycles = time_normalize(curve, np.stack([ends[:-1], ends[1:]], 1))
    inner = cycles[:, 5:80]
    assert cycles.shape == (len(lengths), 101, columns) and np.ptp(inner, axis=0).max() < 0.6*np.abs(shape[0] - shape[1]).max() + 1e-9
    assert np.allclose(cycles[:, 0], shape[1], atol=1e-9)


def test_a_stand_has_no_profile(biped):
    stand = retarget(bundled_clips()["stand"], biped)
    with pytest.raises(InvalidMotion, match="no foot strikes the ground twice"): profiles(stand, biped, stand.dof_pos)


# ---- effort

def test_power_and_work_by_hand(biped):
    m = swinging(biped)
    speed = np.linspace(0.5, 2, 9)
    work = joint_work(m)
    assert np.allclose(joint_power(m), 3*m.dof_vel**2) and np.allclose(work["positive"], 3*speed**2*4/2, rtol=1e-4) and (work["negative"] == 0).all()
    brake = joint_work(replace(m, torque=-m.torque))
    assert np.allclose(brake["negative"], -work["positive"]) and (brake["positive"] == 0).all() and np.allclose(brake["absolute"], work["absolute"])
    cost = cost_of_transport(m, biped)
    weight = biped.model.body_mass.sum()*9.81
    assert cost["way_m"] == pytest.approx(2) and cost["absolute"] == pytest.approx(work["absolute"].sum()/(weight*2), rel=1e-3)
    still = replace(m, root_pos=m.root_pos*[0, 0, 1])
    assert cost_of_transport(still, biped)["absolute"] is None


def test_what_has_no_torque_has_no_effort(walk, biped):
    with pytest.raises(InvalidMotion, match="has no torques"): joint_power(walk)
    m = swinging(biped)
    with pytest.raises(InvalidMotion, match="several clips"): joint_power(concatenate([m, m], boundaries=True))
    with pytest.raises(RobotError, match="states no effort limits"): saturation(m, replace(biped, effort_limit=None))


def test_a_motor_has_less_when_it_is_fast_but_not_when_it_brakes(biped):
    limit, fastest = np.array([20.]), np.array([10.])
    assert available_torque(limit, fastest, np.array([[0.], [5.], [7.5], [10.], [-12.]])).ravel().tolist() == [20, 20, 10, 0, 0]
    assert available_torque(limit, None, np.array([[9.]])) == 20
    m = swinging(biped)
    j = m.joint_names.index("left_knee_pitch")
    fast = np.full_like(m.dof_vel, 0.75*biped.velocity_limit[j])
    push = np.full_like(m.torque, biped.effort_limit[j])
    assert np.allclose(saturation(replace(m, dof_vel=fast, torque=push), biped)[:, j], 2) and np.allclose(saturation(replace(m, dof_vel=fast, torque=-push), biped)[:, j], 1)


def test_joint_order_does_not_matter(biped):
    m, order = swinging(biped), np.random.default_rng(0).permutation(9)
    shuffled = replace(m, joint_names=tuple(np.array(m.joint_names)[order]), dof_pos=m.dof_pos[:, order], dof_vel=m.dof_vel[:, order], torque=m.torque[:, order])
    a, b = ({r["joint"]: r for r in effort_table(x, biped)} for x in (m, shuffled))
    assert a.keys() == b.keys() and all(a[k] == pytest.approx(b[k], rel=1e-12) if not isinstance(a[k], dict) else all(a[k][q] == pytest.approx(b[k][q]) for q in a[k]) for k in a)


def test_a_mirrored_walk_swaps_left_and_right(walk, biped):
    m = replace(walk, torque=walk.dof_pos*5 + 1)
    rows, image = (symmetry(x, biped) for x in (m, mirror_motion(m, biped)))
    for a, b in zip(rows, image): assert a["rms_left"] == pytest.approx(b["rms_right"]) and a["index"] == pytest.approx(b["index"]) and a["correlation"] == pytest.approx(b["correlation"], abs=1e-6)
    with pytest.raises(RobotError): symmetry(m, replace(biped, mirror=None))


# ---- patterns

@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(0, 999))
def test_components_account_for_what_they_are_made_of(rank, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(60, rank)) @ rng.normal(size=(rank, 7)) + rng.normal(size=7)
    p = principal_components(x, 5)
    assert p.accounted[rank - 1] > 1 - 1e-9 and (np.diff(p.accounted) >= -1e-12).all() and np.allclose(p.scores @ p.shapes + p.mean, x)
    assert np.allclose(p.shapes[:rank] @ p.shapes[:rank].T, np.eye(rank), atol=1e-9)
    with pytest.raises(InvalidMotion): principal_components(np.ones((5, 3)))


def test_synergies_find_planted_factors():
    rng = np.random.default_rng(1)
    w = np.maximum(np.sin(np.linspace(0, 12, 200)[:, None] + [0, 2, 4]), 0)
    h = np.eye(3).repeat(2, 1) + 0.05
    p = synergies(w @ h, 3, seed=2)
    assert p.accounted[-1] > 0.99 and (np.diff(p.accounted) > 0).all() and np.array_equal(p.scores, synergies(w @ h, 3, seed=2).scores)
    match = np.abs(np.corrcoef(p.scores.T, w.T)[:3, 3:])
    assert (match.max(1) > 0.97).all() and len(set(match.argmax(1))) == 3
    x = rng.normal(size=(50, 4))
    assert np.allclose(directions(x)[:, :4] - directions(x)[:, 4:], x) and (directions(x) >= 0).all()
    with pytest.raises(InvalidMotion, match="not negative"): synergies(x, 2)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 999), st.integers(0, 8))
def test_dtw_forgives_a_shift_and_is_symmetric(seed, shift):
    rng = np.random.default_rng(seed)
    curve = np.cumsum(rng.normal(size=(60, 2)), 0)
    late = np.concatenate([curve[:1].repeat(shift, 0), curve])[:60]
    assert dtw_distance(curve, curve) == 0 and dtw_distance(curve, late) <= np.linalg.norm(curve - late, axis=1).mean() + 1e-9
    assert dtw_distance(curve, late, 0.3) == pytest.approx(dtw_distance(late, curve, 0.3), rel=1e-6, abs=1e-9)
    with pytest.raises(InvalidMotion, match="2 and 1 columns"): dtw_distance(curve, curve[:, :1])


def test_similarity_and_spectra():
    t = np.arange(400)/100
    a = np.stack([np.sin(2*np.pi*t), 0*t], 1)
    assert similarity(a[:101], a[:101]) == dict(correlation=pytest.approx(1), rms=0, dtw=0) and similarity(a[:101], -a[:101])["correlation"] == pytest.approx(-1)
    f, p = spectrum(np.stack([3*np.sin(2*np.pi*5*t)], 1), 100)
    assert f[p[:, 0].argmax()] == 5 and np.trapezoid(p[:, 0], f) == pytest.approx(4.5, rel=0.05)            # mean square of the sine
    assert band_share(np.stack([np.sin(2*np.pi*3*t), np.sin(2*np.pi*30*t)], 1), 100).round(2).tolist() == [0, 1]


# ---- the analysis of a clip

@pytest.fixture(scope="module")
def analysis(walk, biped): return analyze_torque(walk, biped, "walk")


def test_a_generated_walk_is_physical(analysis, biped):
    f = analysis.facts
    assert f["strides"] >= 4 and abs(f["ground_force_mean"] - 1) < 0.02 and f["physical"]["root_force_median_pct"] < 5 and "inverse dynamics" in f["torques"]
    assert 0.1 < f["cost_of_transport"]["absolute"] < 1 and f["peak_torque"] == pytest.approx(np.abs(analysis.motion.torque).max()) and (np.diff(f["components"]) > 0).all()
    found = json.loads(json.dumps(analysis_dict(analysis)))
    assert {r["joint"] for r in found["effort"]} == set(biped.joint_names) and all(r["correlation"] > 0.95 for r in found["symmetry"] if r["correlation"] is not None)


def test_stored_torques_are_taken_as_they_are(biped):
    m = swinging(biped)
    a = analyze_torque(m, biped, "swing")
    assert a.computed is None and a.facts["torques"] == "as stored" and "physical" not in a.facts and np.array_equal(a.motion.torque, m.torque)
    assert a.facts["components"][0] == pytest.approx(1) and len(analysis_table([a])) == 1                # all joints swing in phase: one component


def test_profiles_and_figures_of_clips_with_and_without_strides(analysis, biped, tmp_path):
    still = analyze_torque(retarget(bundled_clips()["squat"], biped), biped, "squat")
    assert still.strides == {} and still.facts["strides"] == 0
    for a, first, rows in ((analysis, "percent", 101), (still, "time", len(still.motion))):
        path = write_profiles(a, tmp_path/f"{a.name}.csv")
        head, *lines = path.read_text().splitlines()
        assert head.startswith(first) and len(lines) == rows
        assert len(analysis_figure(a).axes) >= 6
    rows = similarity_table([analysis, replace(analysis, name="again"), still])
    assert [r["clips"] for r in rows] == ["walk / again"] and rows[0]["correlation"] == pytest.approx(1) and rows[0]["dtw"] == 0


def test_the_command(tmp_path, monkeypatch, capsys, walk, biped):
    from motionbench.cli import main
    from motionbench.io.gmr import write_gmr
    from motionbench.io.native import write_npz
    monkeypatch.chdir(tmp_path)
    write_npz(walk, "in/walk.npz"), write_gmr(walk, "in/walk.pkl"), write_npz(retarget(bundled_clips()["squat"], biped), "in/squat.npz")
    (tmp_path/"in/notes.txt").write_text("hello")
    assert main(["torque", "analyze", "in", "--out", "out", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [c["clip"] for c in found["clips"]] == ["squat", "walk"] and len(found["skipped"]) == 2 and sorted(p.name for p in (tmp_path/"out").iterdir()) == [f"{n}.{s}" for n in ("squat", "walk") for s in ("csv", "json", "pdf", "png")]
    assert main(["torque", "analyze", "in/walk.npz", "--feasibility", "8", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["feasibility"]
    assert [r["payload"] for r in rows] == [0, 8] and rows[1]["share"] > rows[0]["share"] and rows[0]["says"].startswith("feasible as it is")
    assert main(["torque", "analyze", "in", "--include", "hop*"]) == 2 and "fits 'hop*'" in capsys.readouterr().err
    assert main(["torque", "analyze", "in/walk.npz", "--cutoff", "99"]) == 2 and "cutoff is 99" in capsys.readouterr().err
