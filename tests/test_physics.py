"The simulated robots against plain MuJoCo, a plain PD law, and what must not depend on the neighbours."
import os
from pathlib import Path

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from motionbench.core.errors import ConfigError, InvalidMotion, RobotError
from motionbench.core.gait import bundled_clips
from motionbench.core.motion import Motion, concatenate
from motionbench.core.robot import load_robot
from motionbench.core.rotation import quat_mul, quat_rotate
from motionbench.physics.environment import Environment, observe, rest_state, rollout, up_in_root
from motionbench.physics.simulation import Gains, Simulation, State, motion_states, pd_gains, scene_model
from motionbench.retarget.clip import retarget

GMR = Path(os.environ.get("MOTIONBENCH_TEST_DATA", Path(__file__).parents[1]/"../shared/data"))/"gmr"


@pytest.fixture(scope="module")
def biped(): return load_robot("biped")


@pytest.fixture(scope="module")
def walk(): return retarget(bundled_clips()["walk"], "biped")


def wild(robot, n, seed=0, height=1.0):
    "Random states in the air, and random targets."
    rng = np.random.default_rng(seed)
    low, high = robot.joint_range.T
    quat = rng.normal(size=(n, 4))
    state = State(rng.uniform(low, high, (n, len(low))), rng.normal(size=(n, len(low))), rng.normal(size=(n, 3)) + [0, 0, height],
                  quat/np.linalg.norm(quat, axis=1)[:, None], rng.normal(size=(n, 3)), rng.normal(size=(n, 3)))
    return state, rng.uniform(low, high, (n, len(low)))


@pytest.mark.parametrize("base", ["floating", "fixed"])
def test_a_step_is_plain_mujoco_with_the_same_torques(biped, base):
    sim, (state, target) = Simulation(biped, 3, base=base), wild(biped, 3)
    sim.set_state(state)
    model = scene_model(biped, base, timestep=0.005)
    for i in range(3):
        data, torques = mujoco.MjData(model), []
        for k, name in enumerate(biped.joint_names): data.joint(name).qpos, data.joint(name).qvel = state.joint_pos[i, k], state.joint_vel[i, k]
        if base == "floating":
            rotation = np.zeros(9)
            mujoco.mju_quat2Mat(rotation, state.root_quat[i])
            data.qpos[:7], data.qvel[:3], data.qvel[3:6] = [*state.root_pos[i], *state.root_quat[i]], state.root_lin_vel[i], rotation.reshape(3, 3).T @ state.root_ang_vel[i]
        for _ in range(4):
            torques.append([])
            for k, name in enumerate(biped.joint_names):
                limit = biped.effort_limit[k]
                t = sim.gains.kp[k]*(target[i, k] - data.joint(name).qpos[0]) - sim.gains.kd[k]*data.joint(name).qvel[0]
                torques[-1].append(min(max(t, -limit), limit))
            for name, t in zip(biped.joint_names, torques[-1]): data.joint(name).qfrc_applied = t
            mujoco.mj_step(model, data)
        if i == 0: after = sim.advance(target)
        assert np.allclose(after.joint_pos[i], [data.joint(n).qpos[0] for n in biped.joint_names], rtol=0, atol=1e-12)
        assert np.allclose(after.torque[i], np.mean(torques, 0), atol=1e-12)
        if base == "floating": assert np.allclose(after.root_pos[i], data.qpos[:3], atol=1e-12) and np.allclose(after.root_quat[i], data.qpos[3:7], atol=1e-12)
        else: assert np.array_equal(after.root_pos[i], [0, 0, 1]) and data.body(biped.root_body).xpos[2] == 1


def test_the_files_own_actuators_are_off(biped):
    "At the targets and at rest nothing acts but gravity."
    sim = Simulation(biped, 1)
    sim.set_state(rest_state(biped))
    sim.data[0].ctrl[:] = 1.0
    assert np.abs(sim.advance(np.zeros((1, 9))).joint_pos).max() < 0.02 and not sim.data[0].qfrc_actuator.any()


@given(st.integers(0, 10**6), st.integers(2, 5))
@settings(max_examples=10, deadline=None)
def test_a_batch_is_its_rows(biped, seed, n):
    (state, target), many = wild(biped, n, seed), Simulation(biped, n)
    many.set_state(state)
    for _ in range(3): together = many.advance(target)
    for i in range(n):
        one = Simulation(biped, 1)
        one.set_state(state[[i]])
        for _ in range(3): alone = one.advance(target[[i]])
        assert alone.hold is None is together.hold
        for k in State.__dataclass_fields__.keys() - {"hold"}: assert np.array_equal(getattr(alone, k)[0], getattr(together, k)[i], equal_nan=True), k


def test_root_velocities_are_in_the_world(biped):
    "A tumbling robot in the air: the velocities of the state against differences of its poses."
    sim, (state, target) = Simulation(biped, 4, fps=500, substeps=1), wild(biped, 4, height=50.0)
    sim.set_state(state)
    back = sim.state()
    for k in ("root_lin_vel", "root_ang_vel", "root_quat", "joint_vel"): assert np.allclose(getattr(back, k), getattr(state, k)), k
    states = [sim.advance(target) for _ in range(40)]
    for i in range(4):
        motion = Motion(500, *(np.stack([getattr(s, k)[i] for s in states]) for k in ("root_pos", "root_quat", "joint_pos")), biped.joint_names, "biped")
        for k, v in zip(("joint_vel", "root_lin_vel", "root_ang_vel"), motion.velocities()):
            stated = np.stack([getattr(s, k)[i] for s in states])[1:-1]
            assert np.sqrt(((v[1:-1] - (stated + np.stack([getattr(s, k)[i] for s in states])[2:])/2)**2).mean()) < 0.02*np.abs(stated).max(), k


def test_gains_follow_the_stated_rule(biped):
    model = scene_model(biped, timestep=0.005)
    data, mass = mujoco.MjData(model), np.zeros((model.nv, model.nv))
    mujoco.mj_forward(model, data)
    for i in range(model.nv):      # the mass matrix column by column, from inverse dynamics
        data.qacc[:], data.qvel[:] = np.eye(model.nv)[i], 0
        mujoco.mj_rne(model, data, 1, mass[i])
        data.qacc[:] = 0
        bias = np.zeros(model.nv)
        mujoco.mj_rne(model, data, 1, bias)
        mass[i] += model.dof_armature*np.eye(model.nv)[i] - bias
    inertia, gains = 1/np.diag(np.linalg.inv(mass))[6:], pd_gains(biped, model)
    assert np.allclose(gains.kp, np.minimum(biped.effort_limit/0.4, inertia*1e4)) and np.allclose(gains.kd, 2*np.sqrt(gains.kp*inertia))
    free = pd_gains(biped, scene_model(biped, timestep=0.05))
    assert (free.kp < gains.kp).all(), "a coarse physics step needs softer joints"


def test_torque_stays_within_the_limits_and_a_stiff_law_does_not_explode(biped):
    sim, (state, _) = Simulation(biped, 8, base="fixed"), wild(biped, 8)
    sim.set_state(state)
    for k in range(100):
        after = sim.advance(wild(biped, 8, k)[1])
        assert (np.abs(after.torque) <= biped.effort_limit).all()
    assert np.abs(after.joint_vel).max() < 60


def test_reset_draws_by_seed_and_only_where_asked(biped, walk):
    states = motion_states(walk, biped)
    env = [Environment(biped, 6, states, base="fixed", seed=s) for s in (1, 1, 2)]
    starts = [e.reset()[1]["start"] for e in env]
    assert (starts[0] == starts[1]).all() and (starts[0] != starts[2]).any()
    assert np.array_equal(env[0].state().joint_pos, states.joint_pos[starts[0]]) and np.array_equal(env[0].state().joint_vel, states.joint_vel[starts[0]])
    for e in env[:2]: e.step(states.joint_pos[:6])
    before, mask = env[0].state().joint_pos, np.array([0, 1, 0, 0, 1, 0], bool)
    seen, info = env[0].reset(options=dict(reset_mask=mask))
    assert ((info["start"] >= 0) == mask).all() and list(env[0].steps) == [1, 0, 1, 1, 0, 1]
    assert np.array_equal(env[0].state().joint_pos[~mask], before[~mask]) and not np.array_equal(seen[mask, :9], before[mask])
    assert np.array_equal(env[0].reset(seed=1)[1]["start"], starts[0])


def test_the_same_seed_gives_the_same_motion(biped, walk):
    run = lambda: rollout(Environment(biped, 3, motion_states(walk, biped), base="fixed"), lambda seen: 0.5*seen[:, :9], 20, seed=5)
    for a, b in zip(run(), run()): assert np.array_equal(a.dof_pos, b.dof_pos) and np.array_equal(a.torque, b.torque)


def test_episodes_end(biped):
    env, lying = Environment(biped, 3, max_steps=2, min_height=0.6), rest_state(biped)[[0, 0, 0]]
    env.reset()
    lying.root_pos[[0, 2], 2] = 1
    lying.root_quat[2] = [np.cos(0.6), np.sin(0.6), 0, 0]
    env.set_state(lying)
    _, reward, terminated, truncated, _ = env.step(np.zeros((3, 9)))
    assert list(terminated) == [False, True, True] and not truncated.any() and not reward.any()
    assert env.step(np.zeros((3, 9)))[3].all()


def test_a_state_that_explodes_ends_its_own_episode_only(biped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    env, wildest = Environment(biped, 2, base="fixed"), rest_state(biped)[[0, 0]]
    wildest.joint_vel[0] = 1e200
    env.set_state(wildest)
    for _ in range(3): _, _, terminated, _, info = env.step(np.zeros((2, 9)))
    assert list(terminated) == [True, False] and np.isfinite(info["state"].joint_pos[1]).all()
    seen, _ = env.reset(options=dict(reset_mask=terminated))
    assert np.isfinite(seen).all() and not env.step(np.zeros((2, 9)))[2].any()


def test_rollout_ends_with_the_fall_and_carries_what_was_simulated(biped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)      # MuJoCo writes a log of the explosion there
    states = rest_state(biped)[[0]]
    states.root_lin_vel[0, 0] = 2
    (motion,) = rollout(Environment(biped, 1, states), lambda seen: np.zeros((1, 9)), 100)
    assert 10 < len(motion) < 30 and up_in_root(motion.root_quat)[-1, 2] < np.cos(1.0) < up_in_root(motion.root_quat)[-2, 2]
    assert motion.torque.shape == (len(motion), 9) and np.abs(motion.root_lin_vel[1:-1] - motion.velocities().root_lin_vel[1:-1]).max() < 0.3
    states.joint_vel[0] = 1e200
    assert rollout(Environment(biped, 1, states, base="fixed"), lambda seen: np.zeros((1, 9)), 3) == [None]


@given(st.floats(-3, 3), st.floats(-5, 5))
@settings(max_examples=20, deadline=None)
def test_observations_know_neither_place_nor_heading(biped, heading, x):
    state, turn = wild(biped, 2)[0], np.array([np.cos(heading/2), 0, 0, np.sin(heading/2)])
    moved = State(state.joint_pos, state.joint_vel, quat_rotate(turn, state.root_pos) + [x, -x, 0], quat_mul(turn, state.root_quat), quat_rotate(turn, state.root_lin_vel), quat_rotate(turn, state.root_ang_vel))
    assert np.allclose(observe(state), observe(moved)) and observe(state).shape == (2, 28) and observe(state, "fixed").shape == (2, 18)


def test_an_audited_walk_can_be_tracked_in_the_air(biped, walk):
    "Targets a little ahead of the reference, from its own states: the joints follow within a few degrees."
    clip = walk.resample(50)
    env = Environment(biped, 1, motion_states(clip, biped)[[0]], base="fixed")
    env.reset()
    lead = clip.dof_pos + clip.velocities().dof_vel*env.gains.kd/env.gains.kp
    followed = np.array([env.step(target[None])[4]["state"].joint_pos[0] for target in lead[1:]])
    assert np.sqrt(((followed - clip.dof_pos[1:])**2).mean()) < 0.06


@pytest.mark.parametrize("name", ["booster_t1", "unitree_g1"])
def test_other_robots_stand(name):
    path = GMR/f"robots/{name}_gmr.xml"
    if not path.is_file(): pytest.skip(f"no {path}; set MOTIONBENCH_TEST_DATA")
    robot = load_robot(path)
    env = Environment(robot, 1)
    env.reset()
    J = len(robot.joint_names)
    for _ in range(10): _, _, terminated, _, info = env.step(env.states.joint_pos)
    assert not terminated.any() and abs(info["state"].root_pos[0, 2] - env.states.root_pos[0, 2]) < 0.05
    hanging = Simulation(robot, base="fixed")
    hanging.advance(env.states.joint_pos)
    assert hanging.model.nq == J and hanging.data[0].ncon == 0


def test_errors_say_what_fits(biped, walk):
    with pytest.raises(ConfigError, match="expected floating or fixed"): Simulation(biped, base="air")
    with pytest.raises(ConfigError, match="num_envs is 0"): Simulation(biped, 0)
    with pytest.raises(ConfigError, match="max_steps is 0"): Environment(biped, max_steps=0)
    with pytest.raises(ConfigError, match=r"\(3,\).*\(2, 9\)"): Simulation(biped, 2).advance(np.zeros(3))
    with pytest.raises(InvalidMotion, match="several clips"): motion_states(concatenate([walk, walk], boundaries=True), biped)
    with pytest.raises(RobotError, match="missing"): motion_states(Motion(50, np.zeros((2, 3)), np.tile([1., 0, 0, 0], (2, 1)), np.zeros((2, 1)), ("knee",), "x"), biped)


def test_what_holds_a_fixed_base(biped):
    sim = Simulation(biped, 2, base="fixed", base_quat=(0.8, 0.6, 0, 0))
    for _ in range(150): state = sim.advance(np.tile(np.where([n.endswith("knee_pitch") for n in biped.joint_names], 1.0, 0.0), (2, 1)))
    mujoco.mj_forward(sim.model, sim.data[0])
    weight = np.array([0, 0, 9.81*biped.model.body_mass.sum()])
    assert np.allclose(state.hold[0, :3], weight, atol=1e-2) and np.allclose(state.hold[1], state.hold[0])
    assert np.allclose(state.hold[0, 3:], np.cross(sim.data[0].subtree_com[0] - [0, 0, 1], weight), atol=1e-2)


def test_an_assist_carries_and_is_recorded(biped):
    sim, state = Simulation(biped), wild(biped, 1, height=5.0)[0]
    sim.set_state(state)
    weight = 9.81*biped.model.body_mass.sum()
    first = sim.advance(state.joint_pos, assist=lambda s, left: np.array([[3.0, 0, weight, 0, 0, 2.0]]))
    assert np.allclose(first.hold, [[3, 0, weight, 0, 0, 2]])
    assert sim.advance(state.joint_pos).hold is None and not sim.data[0].qfrc_applied[sim.free[1]:sim.free[1] + 6].any()
    with pytest.raises(ConfigError, match="a fixed base is held already"): Simulation(biped, base="fixed").advance(np.zeros((1, 9)), assist=lambda s, left: np.zeros((1, 6)))


def test_velocity_targets_and_feedforward(biped):
    gains, zero = Simulation(biped).gains, np.zeros(9)
    assert np.allclose(gains.torque(zero, zero, zero, 1.0, 0.5), np.clip(gains.kd + 0.5, -gains.limit, gains.limit))
