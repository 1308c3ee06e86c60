"Configs proposed from a model alone: sane, symmetric, close to what was made by hand; and errors that say what to do."
import mujoco
import numpy as np
import pytest

from motionbench.core.errors import ConfigError, RobotError
from motionbench.core.gait import bundled_clips
from motionbench.core.kinematics import forward_kinematics
from motionbench.core.robot import available_robots, load_robot
from motionbench.core.rotation import quat_log, quat_mul, quat_conj
from motionbench.retarget.check import auto_config, check_limbs, config_report, follow, plot_overlay, t_pose_clip, untracked_limbs
from motionbench.retarget.clip import retarget
from motionbench.retarget.config import bundled_configs, check_names, load_config
from motionbench.retarget.fit import human_t_pose
from motionbench.retarget.limbs import find_anatomy
from motionbench.retarget.propose import bend_axis, proposal_yaml, propose_config
from motionbench.retarget.targets import make_targets, spread_arms

HERE = {r["name"] for r in available_robots() if r["where"] != "download"}
ROBOTS = [r for r in bundled_configs() if r in HERE]
ALL = [*ROBOTS, *({"robotis_op3"} & HERE)]
BY_HAND = dict(                       # pelvis, chest, then thigh, shank, foot, upper arm, forearm, hand of the left side, as a person chose them
    biped=("pelvis", "torso", "left_thigh", "left_shank", "left_foot"),
    unitree_g1=("pelvis", "torso_link", "left_hip_yaw_link", "left_knee_link", "left_ankle_roll_link", "left_shoulder_yaw_link", "left_elbow_link", "left_wrist_yaw_link"),
    unitree_h1=("pelvis", "torso_link", "left_hip_pitch_link", "left_knee_link", "left_ankle_link", "left_shoulder_yaw_link", "left_elbow_link", None),
    booster_t1=("Waist", "Trunk", "Hip_Yaw_Left", "Shank_Left", "left_foot_link", "AL3", "left_hand_link", None),
    apptronik_apollo=("base_link", "torso_link", "l_hip_fe_link", "l_knee_fe_link", "l_foot_link", "l_shoulder_fe_link", "l_elbow_fe_link", "l_wrist_pitch_link"),
    berkeley_humanoid=("torso", None, "ll_hfe", "ll_kfe", "ll_faa"),
    robotis_op3=("body_link", None, "l_hip_pitch_link", "l_knee_link", "l_ank_roll_link", "l_sho_roll_link", "l_el_link", None))


@pytest.mark.parametrize("name", sorted({*BY_HAND} & HERE))
def test_anatomy_is_what_a_person_would_say(name):
    found = find_anatomy(load_robot(name))
    left = [limb for limb in found.limbs if limb.side == "left"]
    assert (found.pelvis, found.chest, *(b for limb in left for b in (limb.upper, limb.lower, limb.end))) == BY_HAND[name]
    assert [limb.kind for limb in found.limbs] == ["leg", "leg", "arm", "arm"][:len(found.limbs)]


@pytest.mark.parametrize("name", ALL)
def test_proposals(name, tmp_path):
    "Poses within the ranges and mirrored, rows mirrored, nearly no residual in the T-pose, the same after writing and reading."
    robot, config = load_robot(name), propose_config(name)
    for pose in (config.reference_pose, config.start_pose):
        q = np.array([pose.get(j, 0.0) for j in robot.joint_names])
        assert (q >= robot.joint_range[:, 0] - 2e-3).all() and (q <= robot.joint_range[:, 1] + 2e-3).all()
        order, sign = robot.mirror
        assert np.allclose(q, sign*q[order], atol=1e-6)
    rows = {b.joint: b for b in config.bodies}
    for joint, row in rows.items():
        twin = rows.get(joint.replace("left", "right")) if joint.startswith("left") else None
        if twin: assert (row.position_weight, row.rotation_weight) == (twin.position_weight, twin.rotation_weight) and config.scale[joint] == pytest.approx(config.scale[twin.joint], rel=0.01)
    assert {f"{s}_{j}" for s in ("left", "right") for j in ("hip", "knee", "ankle")} <= {*rows} and not untracked_limbs(config, robot)
    report = config_report(config, robot)
    simple = {limb.name for limb in find_anatomy(robot).limbs if limb.kind == "arm" and len(limb.joints) < 4}
    for row in report: assert row["T-pose cm"] < 0.6 and (row["T-pose deg"] < 2 or simple) and row["note"] is None
    path = tmp_path/"config.yaml"
    path.write_text(proposal_yaml(config))
    again = load_config(path)
    assert again.reference_pose == pytest.approx(config.reference_pose) and again.scale == pytest.approx(config.scale) and [b.body for b in again.bodies] == [b.body for b in config.bodies]
    for a, b in zip(again.bodies, config.bodies): assert np.allclose(a.rotation_offset, b.rotation_offset, atol=1e-5) and np.allclose(a.position_offset, b.position_offset, atol=1e-5)


@pytest.mark.parametrize("name", ROBOTS)
def test_bundled_configs_are_proposals(name):
    config, again = load_config(name), propose_config(name)
    assert again.scale == pytest.approx(config.scale, abs=2e-3) and again.arm_spread == pytest.approx(config.arm_spread, abs=1e-5)
    for a, b in zip(again.bodies, config.bodies):
        assert (a.body, a.joint) == (b.body, b.joint)
        assert np.degrees(np.linalg.norm(quat_log(quat_mul(quat_conj(np.array(a.rotation_offset)), np.array(b.rotation_offset))))) % 360 < 1


def test_reference_pose_is_the_t_pose():
    "The pose that a person wrote for the G1: arms out by 90 degrees, elbows straight (1.57), nothing else by more than the human's own slack."
    by_hand = dict(left_shoulder_roll_joint=1.5708, right_shoulder_roll_joint=-1.5708, left_elbow_joint=1.5708, right_elbow_joint=1.5708)
    pose = propose_config("unitree_g1").reference_pose
    for joint in {*pose, *by_hand}: assert abs(pose.get(joint, 0) - by_hand.get(joint, 0)) < 0.3, joint


@pytest.mark.parametrize("name", ["unitree_g1", "unitree_h1", "booster_t1"])
def test_standing_arms_keep_clear_of_the_hips(name):
    from motionbench.audit.collisions import self_collisions
    robot = load_robot(name)
    for clip in ("stand", "wave", "walk"):
        frames, pairs = self_collisions(robot, robot.qpos(retarget(bundled_clips()[clip], robot)))
        assert frames.mean() <= 0.005, (clip, pairs)


def test_spread_leaves_the_t_pose_and_the_elbows_alone():
    still, wave = t_pose_clip(), bundled_clips()["wave"]
    assert np.abs(spread_arms(still, 0.3).joint_pos - still.joint_pos).max() < 0.02
    out = spread_arms(wave, 0.3)
    bend = lambda h: quat_mul(quat_conj(h.joint("left_shoulder")[1]), h.joint("left_elbow")[1])
    assert np.allclose(bend(out), bend(wave), atol=1e-9) and spread_arms(wave, 0.0) is wave
    length = lambda h: np.linalg.norm(h.joint("right_wrist")[0] - h.joint("right_elbow")[0], axis=-1)
    assert np.allclose(length(out), length(wave))
    kinect = wave.__class__(wave.fps, wave.joint_pos[:, :5], wave.joint_quat[:, :5], wave.joint_names[:5], wave.parents[:5], wave.height)
    with pytest.raises(ConfigError, match="arm_spread needs joints that the human lacks: spine3"): spread_arms(kinect, 0.1)


def test_proportions_of_an_actor():
    "A config fitted to a clip has the actor's bones; its own T-pose is met as well."
    walk = bundled_clips(height=1.9)["walk"]
    at, height = human_t_pose(walk)
    assert height == pytest.approx(1.9) and np.linalg.norm(at["left_knee"] - at["left_hip"]) == pytest.approx(np.linalg.norm(walk.joint("left_knee")[0] - walk.joint("left_hip")[0], axis=-1).mean(), rel=1e-3)
    config = propose_config("biped", walk)
    assert config.human_height == pytest.approx(1.9) and max(r["T-pose cm"] for r in config_report(config, "biped", walk)) < 0.5


def test_errors_name_what_is_missing():
    robot, config = load_robot("unitree_g1"), load_config("unitree_g1")
    one_arm = config.model_copy(update=dict(bodies=tuple(b for b in config.bodies if not b.body.startswith(("right_sh", "right_el", "right_wr")))))
    with pytest.raises(ConfigError, match=r"my.yaml: nothing is tracked on the right arm .*untracked: \[right_arm\]"): check_limbs(one_arm, robot, "my.yaml")
    assert [r["joint"] for r in config_report(one_arm, robot) if r["note"]] == ["right_arm"]
    check_limbs(one_arm.model_copy(update=dict(untracked=("right_arm",))), robot)
    thigh_only = config.model_copy(update=dict(bodies=tuple(b for b in config.bodies if not b.body.startswith(("left_kn", "left_an")))))
    with pytest.raises(ConfigError, match="left leg"): check_limbs(thigh_only, robot)
    upper = [j for j in bundled_clips()["walk"].joint_names if not j.endswith(("_hip", "_knee", "_ankle", "_foot"))]
    with pytest.raises(ConfigError, match="the human has no legs: left_hip"): check_names(config, robot.body_names, upper)


LEG = """<body name="{s}1" pos="0 {y} -.1"><joint name="{s}_a" axis="1 0 0"/><geom size=".03"/><body name="{s}2" pos="0 0 -.01"><joint name="{s}_b" axis="0 1 0"/><geom size=".03"/>{rest}</body></body>"""
REST_OF_LEG = """<body name="{s}3" pos="0 0 -.3"><joint name="{s}_c" axis="0 1 0" range="0 2"/><geom size=".03"/><body name="{s}4" pos="0 0 -.3"><joint name="{s}_d" axis="0 1 0"/>
<geom type="box" size=".1 .04 .02"/></body></body>"""


def robot_file(path, left, right, more=""):
    "A robot whose names say nothing."
    body = "".join(LEG.format(s=s, y=y, rest=rest.format(s=s)) for s, y, rest in (("p", 0.1, left), ("q", -0.1, right)))
    path.write_text(f'<mujoco><compiler angle="radian" autolimits="true"/><worldbody><body name="base" pos="0 0 1"><freejoint/><geom size=".1"/>{body}{more}</body></worldbody></mujoco>')
    return path


def test_names_are_not_needed(tmp_path):
    config = propose_config(robot_file(tmp_path/"plain.xml", REST_OF_LEG, REST_OF_LEG))
    assert {b.body: b.joint for b in config.bodies} == dict(base="pelvis", p2="left_hip", q2="right_hip", p3="left_knee", q3="right_knee", p4="left_ankle", q4="right_ankle")
    made = auto_config(tmp_path/"plain.xml", tmp_path/"new folder")
    assert made["yaml"].is_file() and made["png"].read_bytes()[:4] == b"\x89PNG" and max(r["T-pose cm"] for r in made["report"]) < 0.1


def test_robots_that_cannot_walk(tmp_path):
    with pytest.raises(RobotError, match="has 2 joints; at least 3"): propose_config(robot_file(tmp_path/"stump.xml", REST_OF_LEG, ""))
    no_knee = REST_OF_LEG.replace("0 1 0", "1 0 0")
    with pytest.raises(RobotError, match="no knee in the leg|looks like its knee"): propose_config(robot_file(tmp_path/"stiff.xml", no_knee, no_knee).rename(tmp_path/"stiff2.xml"))
    (tmp_path/"ball.xml").write_text('<mujoco><worldbody><body name="ball"><freejoint/><geom size=".1"/></body></worldbody></mujoco>')
    with pytest.raises(RobotError, match="no left foot"): propose_config(tmp_path/"ball.xml")


def test_wrong_side_is_seen(tmp_path):
    "Two swapped hands stand out in the report."
    config = load_config("unitree_g1")
    swap = {"left_wrist": "right_wrist", "right_wrist": "left_wrist"}
    wrong = config.model_copy(update=dict(bodies=tuple(b.model_copy(update=dict(joint=swap.get(b.joint, b.joint))) for b in config.bodies)))
    assert {r["joint"] for r in config_report(wrong, "unitree_g1") if r["note"]} >= {"left_wrist", "right_wrist"}


def test_picture_of_a_clip_of_ones_own():
    figure = plot_overlay("biped", "biped", bundled_clips()["squat"])
    assert len(figure.axes) == 4
