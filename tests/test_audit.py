"The audit against motions whose truth is known, and against figures measured on real retargeted clips."
import json
import os
from dataclasses import replace
from pathlib import Path

import mujoco
import numpy as np
import pytest
import yaml
from hypothesis import given, settings, strategies as st
from PIL import Image

from motionbench.audit.audit import audit_motion, measure
from motionbench.audit.collisions import self_collisions
from motionbench.audit.gates import DEFAULT_GATES, load_gates
from motionbench.audit.metrics import held_frames, pose_rate, quat_flips, quat_norm_error, root_motion, root_step_velocity, skate_speed
from motionbench.audit.report import audit_dict, audit_figure, save_figure, summary_rows, value_text, verdict_rows
from motionbench.core.errors import ConfigError, InvalidMotion, RobotError
from motionbench.core.figure import foot_points
from motionbench.core.gait import run, walk
from motionbench.core.motion import CONTACT_NAMES, Motion, concatenate, transform
from motionbench.core.robot import available_robots, load_robot
from motionbench.core.rotation import quat_exp
from motionbench.io.gmr import read_gmr

GMR = Path(os.environ.get("MOTIONBENCH_TEST_DATA", "../shared/data"))/"gmr"
BIPED = load_robot("biped")
FPS = 50
fast = settings(max_examples=15, deadline=None)


def standing(frames=61, shift=(0, 0, 0), velocity=(0, 0, 0), contact=True, fps=FPS):
    "The biped with slightly bent knees, soles flat at the height `shift[2]`, carried along at a velocity."
    qpos = np.tile(BIPED.model.key_qpos[0], (frames, 1))
    qpos[:, :3] += np.asarray(shift) + np.outer(np.arange(frames)/fps, velocity)
    more = dict(contacts=np.ones((frames, 4)), contact_names=CONTACT_NAMES) if contact else {}
    return BIPED.motion(qpos, fps, **more)


def put(motion, joint, values):
    dof = motion.dof_pos.copy()
    dof[:, motion.joint_names.index(joint)] = values
    return replace(motion, dof_pos=dof)


def metrics(motion, robot=BIPED): return measure(motion, robot)[0]
def verdict(audit, name): return next(v for v in audit.gates if v.name == name)


def step_along(speed=0.4, period=0.8, duty=0.6, seconds=4, fps=FPS, root_share=1.0):
    "A walking biped by exact inverse kinematics of its planar legs: flat feet that stand still, minimum jerk in the swing. Contacts are its truth."
    t = np.arange(round(seconds*fps) + 1)/fps
    qpos, contacts = np.tile(BIPED.model.qpos0, (len(t), 1)), []
    qpos[:, 0], qpos[:, 2] = root_share*speed*t, 0.48
    for side, start, sign in (("left", 0.0, 1), ("right", 0.5, -1)):
        n, u = np.divmod(t/period + start + 1e-9, 1)
        s = np.clip((u - duty)/(1 - duty), 0, 1)
        x = speed*period*(n - start + duty/2 + s**3*(10 - 15*s + 6*s*s)) - speed*t
        z = 0.045 - 0.45 + 0.05*np.sin(np.pi*s)**2
        knee = np.pi - np.arccos(1 - (x*x + z*z)/(2*0.22**2))
        hip = -np.arctan2(x, -z) - knee/2
        for name, angle in (("hip_pitch", sign*hip), ("knee_pitch", knee), ("ankle_pitch", -hip - knee)):
            qpos[:, BIPED.tree.qpos_adr[BIPED.joint_names.index(f"{side}_{name}")]] = angle
        contacts += [u < duty, u < duty]
    return BIPED.motion(qpos, fps, contacts=np.stack(contacts, 1), contact_names=CONTACT_NAMES)


def test_a_true_walk_passes_every_gate():
    audit = audit_motion(step_along(), BIPED)
    assert audit.grade == "pass" and audit.passed
    assert {v.name for v in audit.gates if v.result == "n/a"} == {"tracking_pos_mean_cm", "tracking_rot_mean_deg"}
    assert audit.metrics["skate_mean_m_s"] < 1e-3 and audit.metrics["penetration_max_cm"] < 1e-6 and audit.metrics["floating_share"] == 0
    assert audit.metrics["root_speed_max_m_s"] == pytest.approx(0.4) and audit.metrics["longest_flight_s"] == 0


def test_the_same_walk_with_a_slow_root_slides_by_what_is_missing():
    motion, truth = step_along(root_share=0.6), step_along()
    inner = (motion.contacts[:, 0] & np.roll(motion.contacts[:, 0], 1) & np.roll(motion.contacts[:, 0], -1))[1:-1]
    skate = measure(motion, BIPED)[1].skate["left"][1:-1][inner]
    assert np.allclose(skate, 0.4*0.4) and np.allclose(measure(truth, BIPED)[1].skate["left"][1:-1][inner], 0, atol=1e-9)
    assert not audit_motion(motion, BIPED).passed


@fast
@given(st.floats(0.001, 3), st.floats(-3.1, 3.1))
def test_skate_is_the_speed_of_the_slide(speed, heading):
    motion = transform(standing(velocity=(speed, 0, 0)), heading)
    m = metrics(motion)
    for name in ("skate_mean_m_s", "skate_p95_m_s", "foot_skate_mean_m_s", "root_speed_max_m_s"): assert m[name] == pytest.approx(speed, abs=1e-9)
    assert m["contact_source"] == "motion"
    if abs(speed - 0.5) > 1e-6: assert m["drag_share"] == (speed > 0.5)


def test_a_fast_slide_without_contacts_is_found_by_dragging():
    audit = audit_motion(standing(velocity=(1, 0, 0), contact=False), BIPED)
    assert audit.metrics["contact_source"] == "soles" and verdict(audit, "skate_mean_m_s").result == "n/a" and verdict(audit, "drag_share").result == "fail"
    slow = metrics(standing(velocity=(0.2, 0, 0), contact=False))
    assert slow["skate_mean_m_s"] == pytest.approx(0.2) and slow["floating_share"] is None


@fast
@given(st.floats(0.0005, 0.1))
def test_penetration_and_floating_are_the_height_of_the_shift(d):
    sunk, raised = metrics(standing(shift=(0, 0, -d))), metrics(standing(shift=(0, 0, d)))
    assert sunk["penetration_max_cm"] == pytest.approx(100*d, abs=1e-6) and sunk["penetration_p95_cm"] == pytest.approx(100*d, abs=1e-6)
    assert sunk["sole_height_median_cm"] == pytest.approx(-100*d, abs=1e-6) and sunk["floating_share"] == 0
    assert raised["sole_height_median_cm"] == pytest.approx(100*d, abs=1e-6) and raised["penetration_max_cm"] < 1e-6
    if abs(d - 0.02) > 1e-6: assert raised["floating_share"] == (d > 0.02)
    if abs(d - 0.01) > 1e-6: assert sunk["penetration_share"] == (d > 0.01)


def test_a_clip_in_the_air_is_a_long_flight():
    motion = standing(101, contact=False)
    z = motion.root_pos.copy()
    z[20:60, 2] += 1
    assert metrics(replace(motion, root_pos=z))["longest_flight_s"] == pytest.approx(40/FPS)
    audit = audit_motion(standing(101, shift=(0, 0, 1), contact=False), BIPED)
    assert verdict(audit, "longest_flight_s").result == "fail" and audit.metrics["contact_share"] == 0


@fast
@given(st.floats(0.001, 1), st.sampled_from(BIPED.joint_names), st.sampled_from([0, 1]))
def test_limit_excess_is_what_was_driven_past_it(x, joint, end):
    limit = BIPED.joint_range[BIPED.joint_names.index(joint), end]
    motion = standing()
    values = motion.dof_pos[:, motion.joint_names.index(joint)].copy()
    values[10:20] = limit + (2*end - 1)*x
    m = metrics(put(motion, joint, values))
    assert m["limit_violation_max_rad"] == pytest.approx(x) and m["limit_violation_joint"] == joint
    assert m["limit_violation_share"] == pytest.approx(10/61/9) and m["at_limit_share"] == pytest.approx(10/61/9)
    assert metrics(motion)["limit_violation_max_rad"] == 0 and metrics(motion)["limit_violation_joint"] is None


def test_peaks_are_those_that_were_planted():
    spike = np.full(61, 0.5)
    spike[30] += 0.5
    m = metrics(put(standing(), "left_knee_pitch", spike))
    assert m["velocity_max_rad_s"] == pytest.approx(25) and m["velocity_ratio"] == pytest.approx(25/16) and m["velocity_ratio_joint"] == "left_knee_pitch"
    assert m["velocity_over_share"] == pytest.approx(2/60) and m["acceleration_max_rad_s2"] == pytest.approx(2*0.5*FPS**2)
    unknown = audit_motion(put(standing(), "left_knee_pitch", spike), replace(BIPED, velocity_limit=None, effort_limit=None))
    assert unknown.metrics["velocity_ratio"] is None and unknown.metrics["velocity_max_rad_s"] == pytest.approx(25)
    assert verdict(unknown, "velocity_ratio").result == "n/a" and verdict(unknown, "acceleration_ratio").result == "n/a"


def test_held_frames_are_found_and_a_pause_is_not():
    t = np.arange(200)/FPS
    moving = put(standing(200), "waist_yaw", 0.5*np.sin(4*t))
    planted = np.arange(200)
    planted[[20, 71, 72]] = [19, 70, 70]
    rate = lambda m: pose_rate(m.root_pos, m.root_quat, m.dof_pos, m.fps)
    broken = put(moving, "waist_yaw", moving.dof_pos[planted, 0] + 1e-7*(np.arange(200) % 2))       # single precision is not exact
    assert np.flatnonzero(held_frames(rate(broken), FPS)).tolist() == [20, 71, 72]
    stretched = put(moving, "waist_yaw", moving.dof_pos[np.arange(200)//2, 0])
    assert metrics(stretched)["held_share"] == pytest.approx(0.5, abs=0.05)          # not where the swing turns back
    smooth = np.clip(t - 1, 0, 1)
    paused = put(moving, "waist_yaw", smooth**2*(3 - 2*smooth))
    assert metrics(moving)["held_share"] == metrics(paused)["held_share"] == metrics(standing())["held_share"] == 0


def test_planted_quaternion_faults_are_counted():
    quat = quat_exp(np.outer(np.linspace(0, 3, 61), [0, 0, 1]))
    quat[20:40] *= -1
    motion = replace(standing(), root_quat=quat)
    assert metrics(motion)["quat_flips"] == quat_flips(quat) == 2 and audit_motion(motion, BIPED).metrics["quat_norm_error"] < 1e-9
    quat[5] *= 1.3
    assert quat_norm_error(quat) == pytest.approx(0.3) and verdict(audit_motion(motion, BIPED), "quat_flips").result == "warn"


def test_a_root_spike_is_found_and_a_landing_is_not():
    pos = standing(velocity=(1, 0, 0)).root_pos.copy()
    pos[30, 1] += 0.1
    m = metrics(replace(standing(), root_pos=pos))
    assert m["root_spikes"] == 1 and m["root_spike_max_m_s"] == pytest.approx(1.5*0.1*FPS) and m["root_speed_max_m_s"] == pytest.approx(np.hypot(1, 5))
    fall = np.cumsum(np.r_[-9.81*np.arange(20)/FPS, np.linspace(-3.8, 0, 8), np.zeros(10)])/FPS                # 4 m/s stopped within 0.16 s
    landing = root_motion(root_step_velocity(np.stack([0*fall, 0*fall, fall], 1), FPS))
    assert landing["root_spikes"] == 0 and landing["root_speed_max_m_s"] > 3.5


def test_legs_that_cross_collide():
    motion = standing(50)
    motion = put(put(motion, "left_hip_roll", np.linspace(0, -0.35, 50)), "right_hip_roll", np.linspace(0, 0.35, 50))
    frames, pairs = self_collisions(BIPED, BIPED.qpos(motion))
    assert not frames[:5].any() and frames[-10:].all() and all({n.split("_")[0] for n in p.split("/")} == {"left", "right"} for p in pairs)
    assert BIPED.model.geom_contype.sum() == load_robot("biped").model.geom_contype.sum()           # the robot itself is untouched
    bare = load_robot("biped")
    bare.model.geom_contype[:] = bare.model.geom_conaffinity[:] = 0
    assert metrics(motion, bare)["self_collision_share"] is None


def test_shapes_of_group_3_stand_in_where_no_geom_collides():
    "Compiled with every collision switched off, as Menagerie's Apollo is, a robot collides as it does otherwise."
    from types import SimpleNamespace
    spec = mujoco.MjSpec.from_file(str(BIPED.path))
    for geom in spec.geoms:
        geom.group = 3 if geom.parent.name != "world" and (geom.contype or geom.conaffinity) else 2
        geom.contype = geom.conaffinity = 0
    silent, q = SimpleNamespace(model=spec.compile()), np.tile(BIPED.model.qpos0, (200, 1))
    q[:, BIPED.tree.qpos_adr] = np.random.default_rng(0).uniform(*np.clip(BIPED.joint_range, -2, 2).T, (200, 9))
    (frames, pairs), (want, same) = self_collisions(silent, q), self_collisions(BIPED, q)
    assert 5 < want.sum() < 100 and (frames == want).all() and pairs == same
    silent.model.geom_group[:] = 2
    assert self_collisions(silent, q) == (None, None)


@pytest.mark.parametrize("name", [r["name"] for r in available_robots() if r["where"] != "download"])
def test_every_robot_as_drawn_is_free_of_faults_of_its_own(name):
    robot = load_robot(name)
    m = metrics(robot.motion(np.tile(robot.model.qpos0, (3, 1)), 30), robot)
    assert not m["self_collision_share"] and m["velocity_max_rad_s"] == 0 and m["held_share"] == 0 and m["tracking_pos_mean_cm"] is None


def wild(seed, frames=40):
    rng = np.random.default_rng(seed)
    walk_to = lambda n, size: np.cumsum(rng.normal(size=(frames, n))*size, 0)
    qpos = np.concatenate([walk_to(3, 0.01) + [0, 0, 0.5], quat_exp(walk_to(3, 0.05)), np.clip(walk_to(9, 0.1), *BIPED.joint_range.T)], 1)
    return BIPED.motion(qpos, FPS, contacts=rng.random((frames, 4)) < 0.6, contact_names=CONTACT_NAMES,
                        extra=dict(tracking_pos_error=rng.random((frames, 5)), tracking_rot_error=rng.random((frames, 5))))


def same(a, b):
    assert a.keys() == b.keys()
    for k in a: assert a[k] == (pytest.approx(b[k], rel=1e-6, abs=1e-8) if isinstance(b[k], float) else b[k]), k


@fast
@given(st.floats(-7, 7), st.integers(0, 999))
def test_no_metric_depends_on_heading_or_place(heading, seed):
    motion = wild(seed)
    same(metrics(motion), metrics(transform(motion, heading, (3, -2, 0))))


@fast
@given(st.permutations(range(9)), st.permutations(range(4)), st.integers(0, 999))
def test_joints_and_contacts_go_by_name(joints, contacts, seed):
    m = wild(seed)
    shuffled = replace(m, dof_pos=m.dof_pos[:, joints], joint_names=[m.joint_names[i] for i in joints], contacts=m.contacts[:, contacts], contact_names=[CONTACT_NAMES[i] for i in contacts])
    same(metrics(m), metrics(shuffled))


@pytest.mark.parametrize("human, speed", [(walk(1.2, duration=5), 1.2), (walk(0.8, turn_rate=0.5), 0.8), (run(3.0), 3.0)])
def test_generated_gaits_have_no_skate_at_the_human_side(human, speed):
    points, truth = foot_points(human), human.contacts
    inner = truth & np.roll(truth, 1, 0) & np.roll(truth, -1, 0)
    inner[[0, -1]] = False
    for c in range(4):
        assert np.nanmax(skate_speed(points[:, c:c+1], inner[:, c:c+1], human.fps)) < 1e-6
    pushed = points + np.outer(human.times, [0.1, 0.2, 0])[:, None]
    assert np.nanmean(skate_speed(pushed, inner, human.fps)) == pytest.approx(np.hypot(0.1, 0.2), abs=1e-6)
    pelvis = root_step_velocity(human.joint("pelvis")[0], human.fps)
    assert np.linalg.norm(pelvis[:, :2], axis=1).mean() == pytest.approx(speed, rel=0.03)


def test_what_is_missing_is_none_never_zero():
    m = metrics(standing(2, contact=False))
    assert m["acceleration_max_rad_s2"] is m["acceleration_ratio"] is m["root_spike_max_m_s"] is m["tracking_pos_mean_cm"] is m["floating_share"] is None
    never = metrics(replace(standing(), contacts=np.zeros((61, 4))))
    assert never["skate_mean_m_s"] is never["sole_height_median_cm"] is never["floating_share"] is None and never["contact_share"] == 0
    known = replace(standing(), extra=dict(tracking_pos_error=np.full((61, 2), 0.03), tracking_rot_error=np.full((61, 2), 0.1)))
    assert metrics(known)["tracking_pos_mean_cm"] == pytest.approx(3) and metrics(known)["tracking_rot_p95_deg"] == pytest.approx(np.degrees(0.1))


def test_what_cannot_be_audited_says_why():
    with pytest.raises(InvalidMotion, match="at least two frames"): audit_motion(standing(1), BIPED)
    with pytest.raises(InvalidMotion, match="split"): audit_motion(concatenate([standing(), standing()], boundaries=True), BIPED)
    m = standing()
    with pytest.raises(RobotError, match="missing waist_yaw"): audit_motion(Motion(FPS, m.root_pos, m.root_quat, m.dof_pos[:, 1:], m.joint_names[1:], "biped"), BIPED)


def test_gates_give_their_reasons_and_name_metrics():
    gates, known = load_gates(), metrics(wild(0))
    assert set(gates) <= set(known) and all(len(g.why) > 30 for g in gates.values()) and list(yaml.safe_load(DEFAULT_GATES.read_text())) == list(gates)


@pytest.mark.parametrize("change, words", [
    ("skate: {fail: 1}", "unknown gate 'skate'; there are skate_mean_m_s"), ("skate_mean_m_s: {max: 1}", "max: Extra inputs"), ("skate_mean_m_s: {fail: 0.001}", "is below good"),
    ("skate_mean_m_s: {good: fast}", "good: .*number"), ("skate_mean_m_s: 0.1", "expected good and fail"), ("skate_mean_m_s: {why: ''}", "why"), ("- a", "expected a mapping"), ("a: [", "not YAML"),
    ("skate_mean_m_s: {fail: .nan}", "fail")])
def test_bad_gates_end_in_one_clear_error(tmp_path, change, words):
    (tmp_path/"gates.yaml").write_text(change)
    with pytest.raises(ConfigError, match=words) as e: load_gates(tmp_path/"gates.yaml")
    assert "gates.yaml" in str(e.value) and "\n" not in str(e.value)


def test_own_gates_change_only_what_they_say(tmp_path):
    (tmp_path/"mine.yaml").write_text("skate_mean_m_s: {good: 0.3, fail: 0.5}\nskate_p95_m_s: null\n")
    gates, slide = load_gates(tmp_path/"mine.yaml"), standing(velocity=(0.2, 0, 0))
    assert gates["skate_mean_m_s"].why == load_gates()["skate_mean_m_s"].why and "skate_p95_m_s" not in gates
    assert audit_motion(slide, BIPED).grade == "fail" and audit_motion(slide, BIPED, gates).grade == "pass"
    with pytest.raises(ConfigError, match="no such gates file"): load_gates(tmp_path/"none.yaml")


def test_the_grade_is_that_of_the_worst_gate():
    warn = audit_motion(standing(velocity=(0.04, 0, 0)), BIPED)
    assert warn.grade == "warn" and warn.passed and warn.gates[0].name == "skate_mean_m_s" and "skate_mean_m_s" in repr(warn)
    assert audit_motion(standing(velocity=(0.06, 0, 0)), BIPED).grade == "fail"


def test_reports_say_the_same_in_every_form(tmp_path):
    audit = audit_motion(standing(velocity=(0.2, 0, 0)), BIPED, clip="slide|1")
    data = json.loads(json.dumps(audit_dict(audit), allow_nan=False))
    assert data["grade"] == "fail" and data["gates"][0]["name"] == "skate_mean_m_s" and data["metrics"]["tracking_pos_mean_cm"] is None
    row, = summary_rows([audit])
    assert row["skate"] == "0.2 m/s" and row["tracking"] == "n/a" and row["failed"] == "foot skate (mean)"
    table = summary_rows([audit])
    assert table.markdown().count("\n") == 2 and "slide\\|1" in table.markdown() and summary_rows([]).markdown() == "none"
    assert len(verdict_rows(audit)) == len(load_gates()) and "color:#cf2f3c" in table._repr_html_() and value_text("held_share", 0.5) == "50 %"
    save_figure(audit, tmp_path/"deep"/"slide.png")
    assert Image.open(tmp_path/"deep"/"slide.png").size == (900, 700) and os.listdir(tmp_path/"deep") == ["slide.png"]


@pytest.mark.parametrize("motion", [standing(2, contact=False), standing(2000, velocity=(0.5, 0.2, 0)), wild(1)], ids=["two frames", "long", "wild"])
def test_every_clip_has_a_figure(motion):
    for robot in (BIPED, replace(BIPED, velocity_limit=None)): audit_figure(audit_motion(motion, robot)).draw_without_rendering()


@pytest.mark.skipif(not GMR.is_dir(), reason="no test data; set MOTIONBENCH_TEST_DATA")
@pytest.mark.parametrize("robot", ["unitree_g1", "booster_t1"])
def test_figures_measured_on_gmr_are_found_again(robot):
    """Ankle skate, limits, speeds and self-collision are defined alike and agree. Sole figures were measured on the vertices of the foot meshes, which the models
    here lack: ours use the collision points and agree to 1 cm. The collision meshes of G1 were stripped too, so its self-collision is checked on Menagerie's."""
    name = "cmu_01_01_jump"
    r, want = load_robot(GMR/"robots"/f"{robot}_gmr.xml"), json.loads((GMR/"quality.json").read_text())[f"{name}__{robot}"]
    motion = read_gmr(GMR/f"{name}__{robot}.pkl", r)
    with np.load(GMR/f"{name}_human.npz") as human: pos, joints = human["pos"][:len(motion)], [str(n) for n in human["joint_names"]]
    toes = [pos[:, joints.index(f"{side}_foot")] for side in ("left", "right")]
    touch = [(np.linalg.norm(np.gradient(toe, axis=0), axis=1)*motion.fps < 0.25) & (toe[:, 2] < 0.05) for toe in toes]
    motion = replace(motion, contacts=np.stack([touch[0], touch[0], touch[1], touch[1]], 1), contact_names=CONTACT_NAMES)
    m = metrics(motion, r)
    for ours, theirs, scale in (("foot_skate_mean_m_s", "skate_mean_m_s", 1), ("foot_skate_p95_m_s", "skate_p95", 1), ("limit_violation_share", "limit_viol_pct", 100),
                                ("at_limit_share", "at_limit_pct", 100), ("velocity_max_rad_s", "vel_max", 1)):
        assert scale*m[ours] == pytest.approx(want[theirs], rel=1e-6, abs=1e-9), ours
    assert m["sole_height_median_cm"] == pytest.approx(want["sole_z_contact_median_cm"], abs=0.3) and m["penetration_max_cm"] == pytest.approx(want["pen_max_cm"], abs=1)
    if robot == "unitree_g1":
        if not any(r["name"] == robot and r["where"] != "download" for r in available_robots()): return
        r = load_robot(robot)
    frames, pairs = self_collisions(r, r.qpos(motion))
    assert 100*frames.mean() == pytest.approx(want["self_collision_pct"], rel=1e-6) and dict(pairs.most_common(5)) == want["pairs"]
