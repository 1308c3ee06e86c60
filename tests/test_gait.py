"""Generated motion keeps its promises at every speed, height and turn."""
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from motionbench.core.body import chain
from motionbench.core.errors import InvalidMotion
from motionbench.core.figure import REST, figure, foot_points
from motionbench.core.gait import G, bundled_clips, jump, run, squat, stand, turn, walk, wave
from motionbench.core.motion import CONTACT_NAMES, SMPLX_JOINTS, SMPLX_PARENTS
from motionbench.core.rotation import angular_velocity, quat_conj, quat_mul, quat_rotate, yaw
from motionbench.core.stride import leg_angles

heights, fpss = st.floats(1.2, 2.1), st.sampled_from([24., 30., 50., 60., 120.])


def heading(human): 
    forward = quat_rotate(human.joint("pelvis")[1], np.array([0., 0, 1]))
    return np.unwrap(np.arctan2(forward[:, 1], forward[:, 0]))


def check(human):
    "What every generated motion promises."
    fig, points, down = figure(human.height), foot_points(human), human.contacts
    assert human.contact_names == CONTACT_NAMES and human.joint_names == SMPLX_JOINTS
    both = down[1:] & down[:-1]
    assert np.abs(np.diff(points, axis=0))[both].max(initial=0) < 1e-9                     # zero skate
    standing = np.array([fig.toe_height, 0, fig.toe_height, 0])
    assert np.abs(points[..., 2] - standing)[down].max(initial=0) < 1e-8                   # on the ground
    assert (points[..., 2] - standing).min() > -1e-8                                       # never below it
    assert (points[..., 2] - standing)[~down].min(initial=1) > -1e-9
    toes = human.joint_pos[:, 10:12] + quat_rotate(quat_mul(human.joint_quat[:, 10:12], quat_conj(REST)), np.array([0.035*fig.height, 0, -fig.toe_height]))
    assert toes[..., 2].min() > -1e-8                                                      # nor are the tips of the toes
    local = human.joint_quat.copy()
    for k, p in enumerate(SMPLX_PARENTS[1:], 1): local[:, k] = quat_mul(quat_conj(human.joint_quat[:, p]), human.joint_quat[:, k])
    rest = quat_rotate(quat_conj(REST), fig.rest)
    assert np.abs(chain(local, rest, human.joint_pos[:, 0])[0] - human.joint_pos).max() < 1e-9   # positions = FK of orientations
    bones = np.linalg.norm(human.joint_pos[:, 1:] - human.joint_pos[:, SMPLX_PARENTS[1:]], axis=-1)
    assert np.ptp(bones, axis=0).max() < 1e-9
    for side in ("left", "right"):
        knee = leg_angles(human, side)["knee"]
        assert 1 < knee.min() and knee.max() < 140                                         # forwards only, never straight
    assert np.abs(human.joint_pos[0, 0, :2]).max() < 1e-12 and abs(heading(human)[0]) < 1e-9


def check_truth(human, speed, turn_rate):
    "Speed and heading over whole strides."
    path, T = human.extra, human.duration
    pelvis, yaws = human.joint("pelvis")[0][:, :2], heading(human)
    if not turn_rate: assert np.allclose(pelvis[:, 0], speed*human.times, atol=1e-9)
    period = 120/path["cadence"]
    n = round(period*human.fps)
    if abs(n - period*human.fps) < 1e-9:       # whole strides fall on frames
        assert np.allclose(np.diff(yaws[::n]), turn_rate*period, atol=1e-9)
        angles = leg_angles(human)
        for a in angles.values(): assert np.abs(a[n:] - a[:-n]).max() < 1e-6
        assert np.array_equal(human.contacts[n:], human.contacts[:-n])


@settings(max_examples=25, deadline=None)
@given(heights, st.floats(0.2, 1.2), st.floats(-1, 1), fpss, st.booleans())
def test_walking(height, relative, turning, fps, straight):
    speed = relative*height
    rate = 0. if straight else turning*min(2*speed, 1.2)
    human = walk(speed, 2.5, None, rate, height, fps)
    check(human)
    check_truth(human, speed, rate)
    assert human.contacts.any(1).all()          # walkers never fly


@settings(max_examples=25, deadline=None)
@given(heights, st.floats(1.0, 2.4), st.floats(-0.5, 0.5), fpss)
def test_running(height, relative, rate, fps):
    speed = relative*height
    human = run(speed, 2.0, None, rate, height, fps)
    check(human)
    check_truth(human, speed, rate)
    fly = ~human.contacts.any(1)
    assert 0.02 < fly.mean() < 0.5
    z, inside = human.joint("pelvis")[0][:, 2], fly[:-2] & fly[1:-1] & fly[2:]
    assert np.allclose(np.diff(z, 2)[inside]*fps**2, -G, atol=1e-6)


@pytest.mark.parametrize("make,speed,cadence,rate", [(walk, 1.2, 120, 0.), (walk, 0.8, 100, 0.5), (turn, 0.9, 100, -0.7), (run, 3., 180, 0.), (run, 2.5, 150, 0.4)])
def test_periodic_and_exact(make, speed, cadence, rate):
    human = make(speed, duration=4*120/cadence, cadence=cadence, turn_rate=rate, fps=60)
    check(human)
    check_truth(human, speed, rate)
    contacts = human.contacts[:-1].reshape(4, -1, 4).mean((0, 1))
    assert np.isclose((human.contacts[:-1, :2].any(1)).mean(), human.extra["duty"], atol=0.03)
    assert np.allclose(contacts[:2], contacts[2:], atol=0.05)
    if rate:    # the pelvis circles: equal distances from the circle's centre a stride apart
        pelvis, n = human.joint("pelvis")[0][:, :2], round(120/cadence*60)
        step = pelvis[n::n] - pelvis[:-n:n]
        assert np.allclose(np.linalg.norm(step, axis=1), 2*np.hypot(*(np.linalg.lstsq(*_circle(pelvis[::n]), rcond=None)[0] - pelvis[0]))*abs(np.sin(rate*60/cadence)), rtol=1e-6)


def _circle(p):
    "Linear equations for the centre of the circle through points `(N, 2)`."
    return 2*(p[1:] - p[0]), (p[1:]**2).sum(1) - (p[0]**2).sum()


@settings(max_examples=10, deadline=None)
@given(heights, fpss, st.floats(0.03, 0.25), st.floats(30, 120))
def test_in_place(height, fps, rise, depth):
    for human in (stand(2.0, height, fps), wave(3.0, height, fps), squat(depth, 2.0, None, height, fps)):
        check(human)
        assert human.contacts.all()
    human = jump(rise*height, 3.5, height, fps)
    check(human)
    fly, z = ~human.contacts.any(1), human.joint("pelvis")[0][:, 2]
    inside = fly[:-2] & fly[1:-1] & fly[2:]
    assert np.allclose(np.diff(z, 2)[inside]*fps**2, -G, atol=1e-5)
    t = human.times
    assert np.array_equal(fly, (t > human.extra["take_off"]) & (t < human.extra["landing"]))


@pytest.mark.parametrize("make", [lambda: walk(1.3, 1.2, fps=2000), lambda: walk(0.5, 1.6, fps=2000), lambda: run(3., 0.8, fps=2000), lambda: turn(duration=1.2, fps=2000), lambda: jump(0.3, 2.8, fps=2000)])
def test_velocities_have_no_jumps(make):
    human = make()
    w = angular_velocity(human.joint_quat, human.fps)
    v = np.gradient(human.joint_pos, axis=0)*human.fps
    assert np.abs(np.diff(w, axis=0)).max() < 1 and np.abs(np.diff(v, axis=0)).max() < 0.2
    assert np.linalg.norm(w, axis=-1).max() < 25


def test_bundled_clips():
    clips = bundled_clips()
    assert list(clips) == ["walk", "run", "turn", "squat", "jump", "wave", "stand"]
    for c in clips.values():
        check(c)
        assert 3 <= c.duration <= 5 and c.fps in (30, 60) and c.source["steps"][0]["generator"]
    again = bundled_clips()
    assert all(np.array_equal(clips[k].joint_quat, again[k].joint_quat) for k in clips)


@pytest.mark.parametrize("call,match", [(lambda: walk(3.0), "speed is 3.0"), (lambda: run(0.5), "speed is 0.5"), (lambda: walk(1.0, cadence=10), "cadence is 10"),
                                        (lambda: walk(1.9, cadence=60), "steps of"), (lambda: turn(0.5, turn_rate=3.0), "turn rate"), (lambda: walk(height=3.0), "body height"),
                                        (lambda: jump(rise=2.0), "rise is"), (lambda: squat(170), "depth"), (lambda: wave(1.0), "at least 2"), (lambda: jump(duration=1.0), "takes"),
                                        (lambda: walk(cadence=0), "cadence is 0"), (lambda: walk(turn_rate=np.nan), "turn rate"), (lambda: squat(reps=0), "reps is 0"),
                                        (lambda: walk(duration=-1.0), "two frames"), (lambda: stand(duration=0.0), "two frames"), (lambda: squat(duration=np.nan), "two frames"),
                                        (lambda: wave(fps=0.0), "two frames"), (lambda: run(fps=np.inf), "two frames")])
def test_refusals(call, match):
    with pytest.raises(InvalidMotion, match=match): call()
