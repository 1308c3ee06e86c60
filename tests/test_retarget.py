"Retargeting against GMR's goldens, against MuJoCo's Jacobians, and the properties a batch must have."
import json
import os
from dataclasses import replace
from pathlib import Path

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from motionbench.audit.ground import ground_shift
from motionbench.core.errors import ConfigError, InvalidMotion, RobotError
from motionbench.core.gait import bundled_clips
from motionbench.core.kinematics import compile_tree, forward_kinematics, sole_positions
from motionbench.core.motion import HumanMotion, transform
from motionbench.core.robot import joint_ranges, load_robot
from motionbench.core.rotation import quat_conj, quat_exp, quat_log, quat_mul, quat_rotate, quat_to_matrix
from motionbench.io.safe_pickle import load as load_pickle
from motionbench.retarget.clip import retarget, retarget_many
from motionbench.retarget.config import bundled_configs, from_gmr, load_config, weights
from motionbench.retarget.elimination import eliminate, joint_twists, solve_base, spatial_inertias, substitute, wrenches
from motionbench.retarget.fit import fit_config
from motionbench.retarget.solver import evaluate, rotation_error
from motionbench.retarget.stream import Retargeter
from motionbench.retarget.targets import make_targets
from motionbench.retarget.tree import body_positions, kinematics, solver_tree
from motionbench.retarget.whole import PLAIN, Terms

GMR = Path(os.environ.get("MOTIONBENCH_TEST_DATA", Path(__file__).parents[1]/"../shared/data"))/"gmr"
needs_goldens = pytest.mark.skipif(not GMR.is_dir(), reason=f"no goldens at {GMR}; set MOTIONBENCH_TEST_DATA")
SHORT = dict(unitree_g1="g1", booster_t1="t1")
CLIP = "cmu_01_01_jump"
ALONE = dict(ground="none", terms=PLAIN, level=False)   # the tracking problem that GMR solves, and nothing else


def golden(name, clip=CLIP):
    "Robot, GMR's config and the human clip."
    with np.load(GMR/f"{clip}_human.npz") as z:
        human = HumanMotion(float(z["fps"]), z["pos"], z["quat_wxyz"], tuple(map(str, z["joint_names"])), (-1,)*len(z["joint_names"]), 1.75)
    return load_robot(GMR/f"robots/{name}_gmr.xml"), load_config(GMR/f"ik_configs/smplx_to_{SHORT[name]}.json"), human


def measure(robot, config, human, qpos):
    "Mean cost and mean position error of the bodies with a position weight, from frame 5 on."
    tree, w = solver_tree(robot.tree, robot.joint_range, [b.body for b in config.bodies]), weights(config)
    s = evaluate(tree, qpos[:, :3], qpos[:, 3:7], qpos[:, tree.qpos], *make_targets(config, human), *w)
    return s.cost[5:].mean(), s.pos_error[5:, w[0] > 0].mean()


def violations(robot, motion): return ((motion.dof_pos < robot.joint_range[:, 0]) | (motion.dof_pos > robot.joint_range[:, 1])).sum()


@needs_goldens
@pytest.mark.parametrize("name", SHORT)
def test_beats_gmr_on_its_own_goldens(name):
    robot, config, human = golden(name)
    g = load_pickle(GMR/f"{CLIP}__{name}.pkl")
    cost, pos = measure(robot, config, human, np.hstack([g["root_pos"], g["root_rot"][:, [3, 0, 1, 2]], g["dof_pos"]]))
    motion = retarget(human, robot, config, **ALONE)
    our_cost, our_pos = measure(robot, config, human, robot.qpos(motion))
    print(f"{name}: cost {our_cost:.2f} (GMR {cost:.2f}), position {100*our_pos:.2f} cm (GMR {100*pos:.2f})")
    assert our_cost <= cost and our_pos <= pos
    assert violations(robot, motion) == 0
    assert np.allclose(motion.extra["tracking_cost"][5:].mean(), our_cost, rtol=1e-4)      # single precision reports the same cost
    bad = golden(name, f"{CLIP}_tposeframe0")[2]
    assert measure(robot, config, bad, robot.qpos(retarget(bad, robot, config, **ALONE)))[0] < 1.02*our_cost


@needs_goldens
def test_mink_loop_is_gmr():
    robot, config, human = golden("unitree_g1")
    human = human.cut(0, 40)
    theirs = load_pickle(GMR/f"{CLIP}__unitree_g1.pkl")["dof_pos"][:40]
    ours = retarget(human, robot, config, solver="mink", ground="none", level=False)
    assert np.allclose(ours.dof_pos, theirs, atol=1e-6)                                     # the same targets and the same loop


@needs_goldens
@settings(max_examples=8, deadline=None)
@given(st.sampled_from(sorted(SHORT)), st.floats(-np.pi, np.pi))
def test_heading_does_not_matter(name, angle):
    robot, config, human = golden(name)
    human = human.cut(300, 450)
    straight, turned = (retarget(h, robot, config, **ALONE).extra["tracking_cost"] for h in (human, transform(human, heading=angle, shift=(40, -70, 0))))
    assert abs(turned.mean()/straight.mean() - 1) < 0.01


@needs_goldens
def test_gmr_configs_are_read_unchanged(tmp_path):
    for path in sorted((GMR/"ik_configs").glob("*.json")):
        config, raw = load_config(path), json.loads(path.read_text())
        rows = {b.body: b for b in config.bodies}
        for body, (joint, p, r, *_) in raw["ik_match_table2"].items():
            if p or r: assert (rows[body].joint, rows[body].position_weight, rows[body].rotation_weight) == (joint, p, r)
        assert config.rotation_blend == 0 and config.height_rule == "gmr" and config.human_height == 1.8
    raw["ground_hight"] = 0
    (tmp_path/"c.json").write_text(json.dumps(raw))
    with pytest.raises(ConfigError, match="c.json: unknown key ground_hight"): load_config(tmp_path/"c.json")


@pytest.mark.parametrize("name", bundled_configs())
def test_bundled_configs(name):
    "Fitted as they say, soles on the ground, limits kept, feet close to their targets, starts and neighbours without influence."
    robot, config, clips = load_robot(name), load_config(name), bundled_clips()
    again = fit_config(robot, config.robot_root, {b.body: (b.joint, b.position_weight, b.rotation_weight) for b in config.bodies},
                       config.reference_pose, config.landmarks, config.start_pose)
    assert again.scale == pytest.approx(config.scale, abs=1e-4)
    for a, b in zip(again.bodies, config.bodies):
        assert a.position_offset == pytest.approx(b.position_offset, abs=2e-4) and a.rotation_offset == pytest.approx(b.rotation_offset, abs=2e-5)
    motions = dict(zip(clips, retarget_many(list(clips.values()), robot)))
    for clip, motion in motions.items():
        human = clips[clip]
        assert len(motion) == len(human) and motion.fps == human.fps and violations(robot, motion) == 0
        assert (motion.contacts == human.contacts).all()
        pos = 100*motion.extra["tracking_pos_error"].mean(0)
        feet = [b.joint.endswith("ankle") for b in config.bodies]
        assert pos.mean() < 4 and pos[feet].max() < 4, f"{clip}: {dict(zip(motion.extra['tracking_bodies'], pos.round(1)))} cm"
        if motion.contacts.any():
            low = [z.min(1) for z in (sole_positions(robot, motion)[side][..., 2] for side in ("left", "right"))]
            touching = np.concatenate([low[0][motion.contacts[:, :2].any(1)], low[1][motion.contacts[:, 2:].any(1)]])
            assert abs(np.median(touching)) < 0.006                                       # the biped and H1 cannot roll their feet flat
    alone, late = retarget(clips["run"], robot), retarget(clips["run"].cut(50), robot)
    assert np.allclose(alone.dof_pos, motions["run"].dof_pos, atol=0.02) and np.allclose(alone.root_pos, motions["run"].root_pos, atol=1e-3)
    free, cut = (retarget(h, robot, **ALONE) for h in (clips["run"], clips["run"].cut(50)))
    assert np.allclose(cut.dof_pos, free.dof_pos[50:], atol=1e-3)
    assert np.median(np.abs(late.dof_pos[10:] - alone.dof_pos[60:])) < 0.005             # the plan of the feet knows of the cut, half a second later nothing does


def sliding(robot, motion, touch):
    "Speed over the ground `(N,)` m/s of the slowest standing sole point, in the frames and feet that touch."
    soles, out = sole_positions(robot, motion), []
    for foot, c in zip(robot.feet, (0, 2)):
        speed = np.linalg.norm(np.gradient(soles[foot.side][..., :2], axis=0), axis=-1)*motion.fps
        stands = np.where(foot.toe, touch[:, c:c+1], touch[:, c+1:c+2])
        out.append(np.where(stands, speed, np.inf).min(1)[stands.any(1)])
    return np.concatenate(out)


@pytest.mark.parametrize("name", ["unitree_g1", "booster_t1", "unitree_h1", "apptronik_apollo", "biped"])
def test_terms_keep_what_they_say(name):
    "Soles that stand neither slide, sink nor float; joints keep limits and speeds; each against the same clip without terms."
    robot, walk = load_robot(name), bundled_clips()["walk"]
    free, whole = (retarget(walk, robot, terms=t) for t in (PLAIN, Terms()))
    low = lambda m: np.min([s[..., 2].min(1) for s in sole_positions(robot, m).values()], 0)
    assert sliding(robot, whole, walk.contacts).mean() < min(0.02, 0.5*sliding(robot, free, walk.contacts).mean())
    assert low(whole).min() > -0.008 and low(whole)[walk.contacts.any(1)].max() < 0.02
    assert violations(robot, whole) == 0
    if robot.velocity_limit is None: return
    for share in (1.0, 0.4):
        slow = retarget(walk, robot, terms=Terms(velocity=share))
        assert (np.abs(np.diff(slow.dof_pos, axis=0))*slow.fps <= share*robot.velocity_limit*(1 + 1e-9)).all()


def test_windows_join_without_a_seam(monkeypatch):
    "A clip solved in windows of 64 frames is the clip solved at once."
    import motionbench.retarget.whole as whole
    run = bundled_clips()["run"]
    once = retarget(run, "unitree_g1")
    monkeypatch.setattr(whole, "CHUNK", 64)
    pieces = retarget(run, "unitree_g1")
    assert np.abs(once.dof_pos - pieces.dof_pos).max() < 1e-3 and np.abs(once.root_pos - pieces.root_pos).max() < 1e-4


@settings(max_examples=10, deadline=None)
@given(st.floats(-np.pi, np.pi), st.sampled_from(["walk", "jump", "squat"]), st.sampled_from(["unitree_g1", "booster_t1"]))
def test_heading_does_not_matter_with_all_terms(angle, clip, name):
    human = bundled_clips()[clip]
    straight, turned = (retarget(h, name) for h in (human, transform(human, heading=angle, shift=(40, -70, 0))))
    assert np.abs(straight.dof_pos - turned.dof_pos).max() < 0.02


def test_torch_is_numpy():
    "The same code on tensors gives the same motion."
    walk = bundled_clips()["walk"].cut(0, 90)
    for name in ("biped", "unitree_g1"):
        ours, theirs = retarget(walk, name), retarget(walk, name, device="cpu")
        assert np.abs(ours.dof_pos - theirs.dof_pos).max() < 0.01 and np.abs(ours.root_pos - theirs.root_pos).max() < 1e-3
    with pytest.raises(ConfigError, match="device 'gpu9' is not there"): retarget(walk, "biped", device="gpu9")


@needs_goldens
def test_the_frame_rate_does_not_matter():
    "120 Hz and every fourth frame of it: the same motion at common times, soles and joints."
    from motionbench.io.registry import read_motion
    human = read_motion(GMR.parent/"mocap/cmu/01_01.bvh").cut(0, 1201)
    robot = load_robot("unitree_g1")
    fast, slow = retarget(human, robot), retarget(human.resample(30), robot)
    assert fast.fps == 120 and slow.fps == 30 and len(slow) == 301
    (p, _), (q, _) = (forward_kinematics(robot.tree, m.root_pos[::k], m.root_quat[::k], m.dof_pos[::k]) for m, k in ((fast, 4), (slow, 1)))
    off = np.linalg.norm(p - q, axis=-1).max(1)
    assert np.percentile(off, 95) < 0.01, np.percentile(off, [50, 95, 100])


def test_actors_of_any_height_give_the_robots_size():
    walk = bundled_clips()["walk"]
    tall = HumanMotion(walk.fps, walk.joint_pos*1.15, walk.joint_quat, walk.joint_names, walk.parents, walk.height*1.15, contacts=walk.contacts, contact_names=walk.contact_names)
    a, b = retarget(walk, "biped"), retarget(tall, "biped")
    assert np.allclose(a.dof_pos, b.dof_pos, atol=0.02) and np.allclose(a.root_pos, b.root_pos, atol=1e-3)


@pytest.mark.parametrize("fps", [60, 120])
def test_both_feet_are_levelled_at_high_rates(fps):
    "A runner's stances are short: thinned-out contacts alone would leave one of the feet as it is."
    run = bundled_clips()["run"].resample(fps)
    quat = run.joint_quat.copy()
    for joint in ("left_ankle", "left_foot", "right_ankle", "right_foot"): quat[:, run.joint_names.index(joint)] = quat_mul(run.joint(joint)[1], quat_exp(np.radians([8., 0, 0])))
    tilted = replace(run, joint_quat=quat, contacts=None, contact_names=None)
    motion = retarget(tilted, "biped")
    assert motion.source["steps"][-1]["feet_tilt_deg"] == {"left": 8.0, "right": 8.0}
    assert np.allclose(motion.dof_pos, retarget(replace(tilted, joint_quat=run.joint_quat), "biped").dof_pos, atol=1e-3)


def test_tracking_only_stands_on_the_ground_too():
    robot, walk = load_robot("biped"), transform(bundled_clips()["walk"], shift=(0, 0, 0.3))
    tracked, put = (retarget(walk, robot, terms=PLAIN, ground=g) for g in ("none", "contact"))
    shift = put.source["steps"][-1]["ground_shift"]
    assert -0.4 < shift < -0.1 and tracked.source["steps"][-1]["ground_shift"] == 0
    assert np.allclose(put.root_pos, tracked.root_pos + [0, 0, shift], atol=1e-5) and np.array_equal(put.dof_pos, tracked.dof_pos)
    assert abs(ground_shift(put, robot)) < 1e-6


def test_unknown_velocity_limits_are_told():
    robot, wave = load_robot("biped"), bundled_clips()["wave"]
    said = lambda r, **how: retarget(wave, r, load_config("biped"), **how).source["steps"][-1]["velocity_limits"]
    assert (said(robot), said(replace(robot, velocity_limit=None)), said(robot, terms=PLAIN), said(robot, terms=Terms(velocity=0))) == ("kept", "unknown", "off", "off")


@pytest.mark.parametrize("name", ["biped", "unitree_g1"])
def test_a_stream_is_a_motion(name):
    "It is what the whole-clip solver makes of it, nearly, within ranges and speeds; and a new stream starts fresh."
    robot, walk = load_robot(name), bundled_clips()["walk"].cut(0, 120)
    stream = lambda: (live := Retargeter(robot, walk.fps, walk.height)).motion([live.step(p, q) for p, q in zip(walk.joint_pos, walk.joint_quat)])
    motion, whole = stream(), retarget(walk, robot)
    assert violations(robot, motion) == 0 and (np.abs(np.diff(motion.dof_pos, axis=0))*motion.fps <= robot.velocity_limit).all()
    assert np.abs(motion.dof_pos - whole.dof_pos).mean() < 0.1 and np.abs(motion.root_pos - whole.root_pos).max() < 0.1
    assert (motion.contacts == walk.contacts).mean() > 0.85 and np.array_equal(motion.dof_pos, stream().dof_pos)


@pytest.mark.parametrize("cutoff", [2.0, 3.0, 14.0, 40.0, 1e9])
def test_any_cutoff_is_survived(cutoff):
    motion = retarget(bundled_clips()["walk"], "biped", terms=Terms(smooth=cutoff))
    assert np.isfinite(motion.dof_pos).all() and violations(load_robot("biped"), motion) == 0


def test_exact_rate_and_provenance():
    motion = retarget(bundled_clips()["walk"], "biped", fps=100/3)
    assert motion.fps == 100/3 and np.allclose(motion.times, np.arange(len(motion))*0.03)
    step = motion.source["steps"][-1]
    assert step["step"] == "retarget" and step["ground"] == "contact" and step["ground_shift"] != 0
    json.dumps(motion.source)


ODD = """<mujoco><compiler angle="radian"/><worldbody><body name="table" pos="2 0 0"><geom size=".1"/></body>
<body name="base" pos="0 0 1"><freejoint/><geom size=".1"/>
 <body name="fixed" pos="0.1 0 0" quat="0.8 0.6 0 0"><geom size=".02"/>
  <body name="lift" pos="0 0.1 0.2"><joint name="lift" type="slide" axis="0.6 0 0.8" pos="0.1 0 0" range="-.2 .3" limited="true"/><geom size=".05"/>
   <body name="arm" pos="0.2 0 0"><joint name="j1" axis="0 1 0" pos="0 0.05 0.1" ref="0.3"/><joint name="j2" axis="1 0 0.5" pos="-0.1 0 0"/><geom size=".05"/>
    <body name="tip" pos="0.3 0.1 0" quat="0.7 0 0.7 0"><geom size=".05"/></body></body></body></body>
 <body name="leg" pos="0 0 -.3"><joint name="j3" axis="0 0 1"/><geom size=".05"/></body></body>
</worldbody></mujoco>"""


def odd(bodies):
    "The odd model and the solver's tree for some of its bodies."
    model = mujoco.MjModel.from_xml_string(ODD)
    tree = compile_tree(model)
    return model, solver_tree(tree, joint_ranges(model, tree), bodies)


def test_odd_models_against_mujoco():
    "Slides, several joints on a body, anchors off the origin, a reference angle, unlimited joints, fixed bodies and a body of the world."
    model, tree = odd(["base", "tip", "leg"])
    data = mujoco.MjData(model)
    assert tree.joint_names == ("lift", "j1", "j2", "j3") and np.isinf(tree.high[1:]).all()
    rng = np.random.default_rng(0)
    q, e, phi = rng.normal(size=(4, 1)), rng.normal(size=(3, 3, 1)), rng.normal(size=(3, 3, 1))
    wp2, wr2 = rng.uniform(1, 9, 3), rng.uniform(1, 9, 3)
    R, P = kinematics(tree, np.eye(3)[..., None], q)
    p, a = body_positions(tree, R, P), joint_twists(tree, R, P)
    data.qpos[tree.base_qpos:tree.base_qpos + 7], data.qpos[tree.qpos] = (0, 0, 0, 1, 0, 0, 0), q[:, 0]
    mujoco.mj_kinematics(model, data), mujoco.mj_comPos(model, data)
    assert np.allclose(p[..., 0], [data.body(b).xpos for b in tree.bodies], atol=1e-12)
    U, invD, u, A, f = eliminate(tree, a, list(zip(tree.body_node, spatial_inertias(p, wp2, wr2), wrenches(p, e, phi, wp2, wr2))), 0.5, np.zeros((4, 1), bool))
    v = solve_base(A, f)
    ours = np.concatenate([v[3:], v[:3], substitute(tree, a, U, invD, u, v, np.full((4, 1), -np.inf), np.full((4, 1), np.inf))])[:, 0]
    H, g = np.zeros((model.nv, model.nv)), np.zeros(model.nv)
    for k, body in enumerate(tree.bodies):
        Jp, Jr = np.zeros((3, model.nv)), np.zeros((3, model.nv))
        mujoco.mj_jacBody(model, data, Jp, Jr, model.body(body).id)
        H += wp2[k]*Jp.T@Jp + wr2[k]*Jr.T@Jr
        g += wp2[k]*Jp.T@e[k, :, 0] + wr2[k]*Jr.T@phi[k, :, 0]
    dense = np.linalg.solve(H + 0.5*np.eye(model.nv), g)
    assert np.allclose(ours, dense[:len(ours)], atol=1e-10)


def test_models_that_cannot_be_moved():
    for bodies in (["table"], ["tip", "table"]):
        with pytest.raises(RobotError, match="floating base base, but table stands in the world"): odd(bodies)


@pytest.mark.parametrize("dtype", [np.float32, float])
def test_rotation_errors_up_to_a_half_turn(dtype):
    rng = np.random.default_rng(0)
    for angle in (0, 1e-7, 1e-3, 1, 3, np.pi - 1e-3, np.pi - 1e-5, np.pi - 1e-7, np.pi):
        v = rng.normal(size=(200, 3))
        v *= angle/np.linalg.norm(v, axis=1, keepdims=True)
        start = quat_exp(rng.normal(size=(200, 3)))
        columns = lambda q: quat_to_matrix(q).transpose(2, 1, 0)[None].astype(dtype)
        error = rotation_error(columns(start), columns(quat_mul(quat_exp(v), start)))[0].T
        apart = np.linalg.norm(quat_log(quat_mul(quat_exp(error), quat_conj(quat_exp(v)))), axis=1)        # the axis of a half turn has no sign
        assert np.allclose(np.linalg.norm(error, axis=1), angle, atol=3e-6) and apart.max() < 1e-3


def test_long_ways_in_single_precision():
    "Ten kilometres from the origin a clip is solved as well as at the origin."
    walk, robot, config = bundled_clips()["walk"].cut(0, 60), load_robot("biped"), load_config("biped")
    far = transform(walk, shift=(1e4, 0, 0))
    near, far = (retarget(h, robot, config).extra["tracking_cost"].mean() for h in (walk, far))
    assert far == pytest.approx(near, rel=1e-3)


def broken(text, old, new): return text.replace(old, new, 1)


@pytest.mark.parametrize("old, new, message", [
    ("body: pelvis,", "body: pelviss,", "has no body 'pelviss', did you mean 'pelvis'\\?"),
    ("robot_root: pelvis", "robot_root: hips", "has no body 'hips'"),
    ("body: torso,", "body: torsoo,", "has no body 'torsoo', did you mean 'torso'\\?"),
    ("joint: spine3,", "joint: spine9,", "scale lacks the joint 'spine9'"),
    ("root_joints: [left_hip, right_hip]", "root_joints: [left_hip, hip]", "human has no joint 'hip'"),
    ("root_scale:", "root_scal:", "root_scal: unknown key \\(did you mean root_scale\\?\\)"),
    ("position_weight: 100.0", "position_weight: heavy", "bodies.0.position_weight"),
    ("rotation_weight: 10.0", "rotation_weight: -1", "greater than or equal to 0"),
    ("rotation_offset: [0.5, -0.5, -0.5, -0.5]", "rotation_offset: [0, 0, 0, 0]", "norm is 0"),
    ("anchor: {spine3: pelvis}", "anchor: {spine3: pelvis, pelvis: spine3}", "runs in a circle"),
    ("start_pose: {", "start_pose: {hip: 1, ", "start_pose names hip"),
    ("bodies:", "bodies: [", "not readable as yaml"),
    ("root_scale:", "root_scale: .inf #", "root_scale: Input should be a finite number"),
])
def test_bad_configs(tmp_path, old, new, message):
    text = Path(load_config.__globals__["ASSETS"]/"biped.yaml").read_text()
    assert old in text
    (tmp_path/"my.yaml").write_text(broken(text, old, new))
    with pytest.raises(ConfigError, match=message) as e: retarget(bundled_clips()["stand"], "biped", tmp_path/"my.yaml")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("key, value, message", [
    ("ik_match_table1", {"T": ["pelvis", 1, 1, [0, 0], [1, 0, 0, 0]]}, "ik_match_table1: T.3.2"), ("ik_match_table2", {"T": [["pelvis"], 1, 1, [0, 0, 0], [1, 0, 0, 0]]}, "ik_match_table2: T.0"),
    ("ik_match_table1", [1], "ik_match_table1"), ("human_scale_table", 5, "human_scale_table"), ("ground_height", "low", "ground_height"), ("human_scale_table", {"head": 1}, "lacks the root")])
def test_bad_gmr_configs(key, value, message):
    row = ["pelvis", 100, 10, [0, 0, 0], [1, 0, 0, 0]]
    good = dict(robot_root_name="T", human_root_name="pelvis", ground_height=0.0, human_height_assumption=1.8, use_ik_match_table1=True, use_ik_match_table2=True,
                human_scale_table={"pelvis": .9}, ik_match_table1={"T": row}, ik_match_table2={"T": row})
    assert from_gmr(good).bodies[0].body == "T"
    with pytest.raises(ConfigError, match=message): from_gmr({**good, key: value})


def test_bad_requests():
    stand = bundled_clips()["stand"]
    with pytest.raises(ConfigError, match="no retarget config for 'nao'.*biped"): retarget(stand, "biped", "nao")
    with pytest.raises(ConfigError, match="unknown solver 'cyclic'"): retarget(stand, "biped", solver="cyclic")
    with pytest.raises(ConfigError, match="expected contact or none"): retarget(stand, "biped", ground="sky")
    with pytest.raises(InvalidMotion, match="at least two frames"): retarget(stand.cut(0, 1), "biped")
    with pytest.raises(ConfigError, match="no such file"): load_config("missing.yaml")
    assert retarget_many([], "biped") == []


def test_what_the_solver_cannot_do_is_refused():
    "A cutoff that would filter the motion away, too few frames for contacts, and terms that are no Terms."
    walk = bundled_clips()["walk"]
    with pytest.raises(ValueError, match="at least 2, or 0"): Terms(smooth=0.5)
    with pytest.raises(InvalidMotion, match="at least 5 frames per second"): retarget(walk, "biped", fps=2)
    with pytest.raises(ConfigError, match="expected Terms"): retarget(walk, "biped", terms="none")


def test_who_lies_on_the_back_does_not_stand():
    "Feet that point to the sky are no stance, though the heels touch: the robot lies as it does when it only tracks."
    stand = bundled_clips()["stand"]
    turn = quat_exp(np.array([0, -np.pi/2, 0]))
    pos, quat = quat_rotate(turn, stand.joint_pos), quat_mul(turn, stand.joint_quat)
    lying = replace(stand, joint_pos=pos + [0, 0, 0.1 - pos[..., 2].min()], joint_quat=quat, contacts=np.ones((len(stand), 4), bool))
    error = retarget(lying, "unitree_g1").extra["tracking_pos_error"]
    assert error.mean() < 0.05
