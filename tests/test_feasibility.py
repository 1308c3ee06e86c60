"What motors have against what a motion needs: a plain loop, statics of a squat, a pendulum by hand, and the smallest slowing."
from dataclasses import replace

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from motionbench.core.errors import ConfigError, InvalidMotion, RobotError
from motionbench.core.gait import bundled_clips
from motionbench.core.kinematics import sole_positions
from motionbench.core.motion import concatenate
from motionbench.core.robot import available_robots, load_robot
from motionbench.core.speed import change_speed
from motionbench.physics.ground import torque_from_motion
from motionbench.retarget.clip import retarget_many
from motionbench.torque.effort import saturation
from motionbench.torque.feasibility import draw_feasibility, feasibility_map, feasible_slowness, find_torso, slowed, sweep, with_payload
from motionbench.torque.gait import gait_events

BIPED = load_robot("biped")
NAMES = ("walk", "run", "stand")
G = 9.81


@pytest.fixture(scope="module")
def clips():
    humans = bundled_clips()
    return dict(zip(NAMES, retarget_many([humans[n] for n in NAMES], BIPED)))


@pytest.fixture(scope="module")
def pendulum(tmp_path_factory):
    "A hanging robot whose left leg is a rod that swings; no rotor, no friction, no damping."
    leg = lambda side, y: f"""<body name="{side}_leg" pos="0 {y} 0"><joint name="{side}_hip" axis="0 1 0" range="-3 3" limited="true" actuatorfrcrange="-{{limit}} {{limit}}"/>
      <inertial pos="0 0 -0.25" mass="2" diaginertia="0.01 0.01 0.001"/><geom type="box" size="0.08 0.03 0.02" pos="0 0 -0.5" mass="0"/></body>"""
    text = f"""<mujoco><worldbody><body name="base" pos="0 0 0.52"><freejoint/><inertial pos="0 0 0" mass="3" diaginertia="0.02 0.02 0.02"/>{leg("left", 0.1)}{leg("right", -0.1)}</body></worldbody></mujoco>"""
    def make(limit):
        path = tmp_path_factory.mktemp("pendulum")/"pendulum.xml"
        path.write_text(text.replace("{limit}", str(limit)))
        return load_robot(path)
    return make


def swing(robot, amplitude=0.3, hz=1.0, about=0.0, seconds=6, fps=200):
    "The left leg swings like a sine about an angle, the base held."
    t = np.arange(seconds*fps + 1)/fps
    qpos = np.tile(robot.model.qpos0, (len(t), 1))
    qpos[:, robot.tree.qpos_adr[0]] = about + amplitude*np.sin(2*np.pi*hz*t)
    return robot.motion(qpos, fps)


def squatting(robot, depth, lean, frames=31):
    "At rest on flat feet below the hips: knees bent by twice `depth`, everything above the hips leaning forward."
    qpos = np.tile(robot.model.qpos0, (frames, 1))
    qpos[:, 3:7] = np.cos(lean/2), 0, np.sin(lean/2), 0
    for side, sign in (("left", 1), ("right", -1)):
        for name, angle in (("hip_pitch", -sign*(depth + lean)), ("knee_pitch", 2*depth), ("ankle_pitch", -depth)): qpos[:, robot.tree.qpos_adr[robot.joint_names.index(f"{side}_{name}")]] = angle
    motion = robot.motion(qpos, 50)
    low = min(p[..., 2].min() for p in sole_positions(robot, motion).values())
    return replace(motion, root_pos=motion.root_pos - [0, 0, low])


# ---- the map

def test_the_map_is_a_plain_loop(clips):
    motion = torque_from_motion(clips["walk"], BIPED).motion
    share, events, found = saturation(motion, BIPED), gait_events(motion, BIPED), feasibility_map(motion, BIPED)
    for j, name in enumerate(motion.joint_names):
        strides = events["right" if name.startswith("right") else "left"].strides
        curves = [[np.interp(a + k/100*(b - a), np.arange(len(share)), share[:, j]) for k in range(101)] for a, b in strides]
        assert np.allclose(found.maximum[:, j], np.max(curves, 0)) and np.allclose(found.mean[:, j], np.mean(curves, 0))
    assert found.strides == max(len(e.strides) for e in events.values()) > 1 and np.array_equal(found.largest, share.max(0))
    assert share[found.peak.frame, motion.joint_names.index(found.peak.joint)] == found.peak.share == share.max()


def test_torques_are_computed_or_those_of_the_clip(clips):
    computed, given_ = feasibility_map(clips["walk"], BIPED), torque_from_motion(clips["walk"], BIPED).motion
    assert np.array_equal(computed.maximum, feasibility_map(given_, BIPED).maximum)
    assert np.allclose(feasibility_map(replace(given_, torque=2*given_.torque), BIPED).maximum, 2*computed.maximum)


def test_a_clip_without_strides_is_shown_over_its_time(clips):
    motion = torque_from_motion(clips["stand"], BIPED).motion
    found, share = feasibility_map(motion, BIPED), saturation(motion, BIPED)
    at = np.linspace(0, len(motion) - 1, 101)
    assert found.strides == 0 and np.array_equal(found.mean, found.maximum) and np.allclose(found.maximum[:, 3], np.interp(at, np.arange(len(motion)), share[:, 3]))


def test_beyond_the_top_speed_nothing_is_left_and_the_map_stays_finite(clips):
    motion = torque_from_motion(clips["walk"], BIPED).motion
    slow = replace(BIPED, velocity_limit=np.full(9, 0.5))
    found = feasibility_map(motion, slow)
    assert found.peak.share == np.inf and not found.feasible and np.isfinite(found.mean).all() and found.maximum.max() == 100
    assert draw_feasibility(found).axes[0].images


def test_what_cannot_be_said(clips):
    with pytest.raises(RobotError, match="effort limits.*actuatorfrcrange"): feasibility_map(clips["walk"], replace(BIPED, effort_limit=None))
    with pytest.raises(RobotError, match="actuatorfrcrange"): feasible_slowness(clips["walk"], replace(BIPED, effort_limit=None))
    with pytest.raises(InvalidMotion, match="several clips"): feasibility_map(concatenate([clips["walk"]]*2, boundaries=True), BIPED)
    with pytest.raises(ConfigError, match="slowness is 0"): slowed(clips["walk"], BIPED, 0)
    with pytest.raises(ConfigError, match="most is 0.5"): feasible_slowness(clips["walk"], BIPED, most=0.5)


# ---- payload

def test_the_payload_is_a_point_mass_in_the_torso_of_a_copy():
    before, loaded = BIPED.model.body_mass.copy(), with_payload(BIPED, 10)
    b = BIPED.model.body("torso").id
    assert loaded.model.body_mass[b] == before[b] + 10 and np.array_equal(BIPED.model.body_mass, before)
    assert np.array_equal(loaded.model.body_inertia, BIPED.model.body_inertia) and loaded.model.body_subtreemass[0] == pytest.approx(before.sum() + 10)
    data = [mujoco.MjData(r.model) for r in (BIPED, loaded)]
    for r, d in zip((BIPED, loaded), data): mujoco.mj_forward(r.model, d)
    gravity = data[1].qfrc_bias - data[0].qfrc_bias
    assert gravity[2] == pytest.approx(10*G) and np.allclose(gravity[:2], 0)
    with pytest.raises(RobotError, match="no body 'tail'; it has pelvis"): with_payload(BIPED, 1, "tail")
    for wrong in (-1, np.nan, np.inf):
        with pytest.raises(ConfigError, match="payload is"): with_payload(BIPED, wrong)


def test_the_torso_carries_arms_and_head():
    here = {r["name"] for r in available_robots() if r["where"] != "download"}
    wanted = dict(biped="torso", unitree_g1="torso_link", booster_t1="Trunk")
    for name in here & set(wanted): assert find_torso(load_robot(name)) == wanted[name], name


def statics(robot, motion):
    "Joint -> torque of hip, knee and ankle at rest, by hand: half of the weight pushes up each foot below the centre of mass; what hangs below a joint pulls down."
    m, data = robot.model, mujoco.MjData(robot.model)
    data.qpos[:] = robot.qpos(motion)[0]
    mujoco.mj_kinematics(m, data)
    weight, com = m.body_mass.sum()*G, (m.body_mass[:, None]*data.xipos).sum(0)[0]/m.body_mass.sum()
    out = {}
    for side in ("left", "right"):
        parts = [m.body(f"{side}_{n}").id for n in ("thigh", "shank", "foot")]
        for k, joint in enumerate(("hip_pitch", "knee_pitch", "ankle_pitch")):
            i = m.joint(f"{side}_{joint}").id
            x = data.xanchor[i][0]
            about_y = sum(m.body_mass[b]*G*(data.xipos[b][0] - x) for b in parts[k:]) - weight/2*(com - x)
            out[f"{side}_{joint}"] = -about_y*np.sign(data.xaxis[i][1])
    return out


@pytest.mark.parametrize("depth, lean", [(0.35, 0.15), (0.5, 0.3)])
def test_ten_kilos_on_a_squat_are_statics(depth, lean):
    motion, robots = squatting(BIPED, depth, lean), (BIPED, with_payload(BIPED, 10))
    by_hand, found = [statics(r, motion) for r in robots], [feasibility_map(motion, r) for r in robots]
    torques = [torque_from_motion(motion, r).torque for r in robots]
    for j, name in enumerate(motion.joint_names):
        if name not in by_hand[0]: continue
        for hand, map_, torque in zip(by_hand, found, torques):
            assert np.allclose(torque[:, j], hand[name], atol=0.05) and np.isclose(map_.largest[j], abs(hand[name])/BIPED.effort_limit[j], atol=1e-3)
        rise = (abs(by_hand[1][name]) - abs(by_hand[0][name]))/BIPED.effort_limit[j]
        assert found[1].largest[j] - found[0].largest[j] == pytest.approx(rise, abs=1e-3)
        assert rise > 0.02, name


# ---- slow motion

@settings(max_examples=8, deadline=None)
@given(s=st.floats(0.7, 4), amplitude=st.floats(0.1, 0.5))
def test_slowing_scales_inertia_and_leaves_gravity(pendulum, s, amplitude):
    "A rod of 2 kg, 0.25 m below its hinge, with 0.01 kg m² about its own centre: m g l sin(q) + (I + m l²) q'' / s²."
    robot = pendulum(50)
    motion, inside = swing(robot, amplitude), slice(400, 801)
    t = motion.times
    q, acc = amplitude*np.sin(2*np.pi*t), -amplitude*(2*np.pi)**2*np.sin(2*np.pi*t)
    slow = torque_from_motion(replace(motion, fps=motion.fps/s), robot, None, 6/s).torque[:, 0]
    held, moved = 2*G*0.25*np.sin(q), (0.01 + 2*0.25**2)*acc
    assert np.allclose(slow[inside], (held + moved/s**2)[inside], atol=0.01*np.abs(held).max())
    peak = slowed(motion, robot, s, None).peak
    assert peak.joint == "left_hip" and peak.share == pytest.approx(np.abs(slow).max()/50)


def test_the_smallest_slowing_of_a_swing_is_the_one_of_the_formula(pendulum):
    "At the turning points of two swings per second inertia, (I + m l²) A w²/s², works against gravity, m g l sin(A). Slowing helps until gravity is what is left."
    motion, a, robot = swing(pendulum(50), hz=2.0), 0.3, pendulum(0.8)
    inertia, gravity = 0.135*a*(4*np.pi)**2, 2*G*0.25*np.sin(a)
    found = feasible_slowness(motion, robot, ground=None)
    assert found.slowness == pytest.approx(np.sqrt(inertia/(0.8 + gravity)), rel=0.01) and found.after.peak.share <= 1 < slowed(motion, robot, 6.0, None).peak.share
    assert f"feasible when slowed {found.slowness:.2f}x: at full speed left_hip needs" in str(found) and found.after.unexplained is None and found.held is None


def test_slowing_does_not_help_to_hold_a_pose(pendulum):
    "A leg held out at 1 rad and moved a little: its static torque m g l sin(1.02) alone is too much."
    held = 2*G*0.25*np.sin(1.02)
    found = feasible_slowness(swing(pendulum(50), 0.02, 0.5, about=1.0), pendulum(3.0), ground=None)
    assert found.slowness is None and found.held == pytest.approx(held/3, rel=1e-3) and found.after.peak.joint == "left_hip" and found.after.peak.share > 1
    assert str(found).startswith("not feasible up to 3x slower: at best") and "slowing cannot help" in str(found)


def test_the_answer_is_feasible_and_slightly_below_is_not(clips):
    loaded = with_payload(BIPED, 8)
    found = feasible_slowness(clips["run"], BIPED, payload=8)
    assert 1 < found.slowness < 3 and slowed(clips["run"], loaded, found.slowness).peak == found.after.peak and found.after.peak.share <= 1
    assert slowed(clips["run"], loaded, found.slowness*0.994).peak.share > 1 and found.before.peak.share > 1
    assert feasibility_map(change_speed(clips["run"], 1/found.slowness), loaded).peak.share == pytest.approx(1, abs=0.02)
    as_it_is = feasible_slowness(clips["run"], BIPED)
    assert as_it_is.slowness == 1 and "as it is" in str(as_it_is) and as_it_is.before is as_it_is.after
    assert feasible_slowness(clips["run"], BIPED, payload=8, most=1).slowness is None


def test_the_sweep_is_every_pair(clips):
    grid = sweep(clips["run"], BIPED, payloads=(0, 8), slowness=(1.0, 2.0))
    assert [(r["payload"], r["slowness"], r["feasible"]) for r in grid] == [(0, 1, True), (0, 2, True), (8, 1, False), (8, 2, True)]
    alone = slowed(clips["run"], with_payload(BIPED, 8), 2.0)
    assert (grid[3]["share"], grid[3]["joint"], grid[3]["frame"], grid[3]["unexplained"]) == (alone.peak.share, alone.peak.joint, alone.peak.frame, alone.unexplained)


def test_the_figure_names_every_joint_and_marks_the_limit(clips):
    fig = draw_feasibility(feasibility_map(clips["run"], with_payload(BIPED, 8)), "run")
    heat, bar = fig.axes
    assert [t.get_text() for t in heat.get_yticklabels() if t.get_text()] == [n.replace("_", " ") for n in BIPED.joint_names] and "limit" in [t.get_text() for t in bar.get_yticklabels()]
    red = [t.get_text() for t in heat.texts if t.get_weight() == "bold"]
    assert red == ["118", "119"] and heat.get_title(loc="left").startswith("run: torque / available")
