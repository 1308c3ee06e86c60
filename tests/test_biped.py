"The bundled biped: what the file promises, checked against MuJoCo and against its robot_config.yaml."
from pathlib import Path

import mujoco
import numpy as np
import pytest
import yaml

import motionbench

FOLDER = Path(motionbench.__file__).parent/"assets/robots/biped"
SOLES = ("left_toe", "left_heel", "right_toe", "right_heel")


@pytest.fixture(scope="module")
def model(): return mujoco.MjModel.from_xml_path(str(FOLDER/"biped.xml"))


@pytest.fixture(scope="module")
def config(): return yaml.safe_load((FOLDER/"robot_config.yaml").read_text(encoding="utf-8"))


def posed(model, key=None, **joints):
    data = mujoco.MjData(model)
    if key is not None: mujoco.mj_resetDataKeyframe(model, data, model.key(key).id)
    for name, angle in joints.items(): data.joint(name).qpos[0] = angle
    mujoco.mj_forward(model, data)
    return data


def corners(model, data, geom):
    g = model.geom(geom).id
    box = np.stack(np.meshgrid(*[[-1, 1]]*3), -1).reshape(-1, 3)*model.geom_size[g]
    return box@data.geom_xmat[g].reshape(3, 3).T + data.geom_xpos[g]


def with_floor():
    return mujoco.MjModel.from_xml_string(
        f'<mujoco><include file="{FOLDER/"biped.xml"}"/><worldbody><geom name="floor" type="plane" size="5 5 .1"/></worldbody></mujoco>')


def test_nine_hinges_on_a_free_root(model):
    assert (model.nq, model.nv, model.nu, model.nmesh) == (16, 15, 9, 0)
    assert model.jnt_type[0] == mujoco.mjtJoint.mjJNT_FREE and (model.jnt_type[1:] == mujoco.mjtJoint.mjJNT_HINGE).all()
    assert model.jnt_limited[1:].all() and model.actuator_forcelimited.all()
    assert [model.joint(i + 1).name for i in range(9)] == [model.joint(model.actuator_trnid[a, 0]).name for a in range(9)]
    assert not (model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE).any()
    kinds = {mujoco.mjtGeom.mjGEOM_CAPSULE, mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_SPHERE}
    assert {mujoco.mjtGeom(t) for t in model.geom_type} <= kinds


def test_size_and_mass(model):
    data = posed(model)
    assert 15 < model.body_mass.sum() < 17
    assert 0.8 < (data.geom_xpos[:, 2] + model.geom_rbound).max() < 1.0
    assert np.abs(data.subtree_com[1, 1]) < 1e-9                        # left and right weigh the same
    first, second, third = np.sort(model.body_inertia[1:], axis=1).T
    assert (first > 0).all() and (third <= first + second + 1e-12).all()   # bodies that can exist


@pytest.mark.parametrize("key", [None, "home"])
def test_soles_lie_on_the_ground(model, key):
    data = posed(model, key)
    for geom in SOLES:
        z = corners(model, data, geom)[:, 2]
        assert abs(z.min()) < 1e-12 and np.isclose(np.sort(z)[:4], 0, atol=1e-12).all()      # flat
    assert data.ncon == 0
    assert corners(model, data, "left_toe")[:, 0].min() > corners(model, data, "left_heel")[:, 0].max()


def test_it_stands_on_its_position_actuators():
    model = with_floor()
    data = posed(model, "home")
    start = data.qpos.copy()
    data.ctrl[:] = model.key("home").ctrl
    mujoco.mj_step(model, data, nstep=int(2/model.opt.timestep))
    assert np.abs(data.qpos[:3] - start[:3]).max() < 0.01 and data.qpos[3] > 0.9995      # not moved, not tilted
    assert np.abs(data.qpos[7:] - start[7:]).max() < 0.04 and np.abs(data.qvel).max() < 0.01
    assert (np.abs(data.actuator_force) < 0.5*model.actuator_forcerange[:, 1]).all()


def test_left_and_right_mirror_with_one_motor_mounted_the_other_way(model):
    axis = {model.joint(j).name: model.joint(j).axis for j in range(1, model.njnt)}
    assert (axis["right_hip_pitch"] == -axis["left_hip_pitch"]).all() and (axis["right_hip_roll"] == axis["left_hip_roll"]).all()
    pose = dict(hip_pitch=-0.6, hip_roll=0.3, knee_pitch=0.9, ankle_pitch=-0.4)
    sign = dict(hip_pitch=-1, hip_roll=-1, knee_pitch=1, ankle_pitch=1)
    one = posed(model, waist_yaw=0.4, **{f"left_{j}": q for j, q in pose.items()})
    other = posed(model, waist_yaw=-0.4, **{f"right_{j}": sign[j]*q for j, q in pose.items()})
    for body in ("thigh", "shank", "foot"):
        assert np.allclose(one.body(f"left_{body}").xpos*[1, -1, 1], other.body(f"right_{body}").xpos, atol=1e-12)
    for j in pose:
        left, right = model.joint(f"left_{j}").range, model.joint(f"right_{j}").range
        assert np.allclose(right, left if sign[j] > 0 else -left[::-1])


def test_self_collision_can_be_seen(model):
    assert posed(model, left_hip_roll=-0.3, right_hip_roll=0.3).ncon > 0                        # thighs pressed together
    bodies = {tuple(sorted(model.body(model.geom_bodyid[g]).name for g in c.geom)) for c in posed(model, left_hip_roll=-0.3, right_hip_roll=0.3).contact}
    assert all(a.startswith("left") and b.startswith("right") for a, b in bodies)
    for joints in (dict(waist_yaw=1.2), dict(left_knee_pitch=2.0), dict(left_ankle_pitch=0.8), dict(left_hip_pitch=-1.2), dict(left_hip_roll=0.7)):
        assert posed(model, **joints).ncon == 0                                                # neighbours do not count


def test_config_agrees_with_the_model(model, config):
    joints = [model.joint(i).name for i in range(1, model.njnt)]
    assert config["actuators"]["joints"] == config["joints"]["names"] == joints and config["actuators"]["names"] == [model.actuator(a).name for a in range(model.nu)]
    assert config["actuators"]["count"] == config["joints"]["count"] == len(config["joints"]["details"]) == model.nu
    for row in config["joints"]["details"]:
        assert np.allclose(row["range"], model.joint(row["name"]).range) and np.allclose(row["axis"], model.joint(row["name"]).axis)
    for row in config["actuators"]["details"]:
        assert row["effort_limit"] == model.actuator(row["name"]).forcerange[1] and row["velocity_limit"] > 0
    base = config["floating_base"]
    assert model.body(base["root_body"]).id == 1 and model.joint(base["name"]).id == 0
    for name in config["sensors"].values(): model.sensor(name)
    for name in config["feet"]["all_geoms"]: model.geom(name)
    for name in config["feet"]["sites"]: model.site(name)


def test_config_dimensions_add_up(config):
    dims = config["dimensions"]
    assert sum(dims["amp_feature_breakdown"].values()) == dims["amp_feature_dim"] == 29
    assert sum(dims["observation_breakdown"].values()) == dims["observation_dim"]
    ends = [0, *(s["end"] for s in config["observation_indices"].values())]
    assert [s["start"] for s in config["observation_indices"].values()] == ends[:-1] and ends[-1] == dims["observation_dim"]
