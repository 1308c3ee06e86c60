"The compiled steps against the array code: random trees, real robots, ground and limbs, bounds, half turns."
import os
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from motionbench.core.gait import bundled_clips
from motionbench.core.kinematics import compile_tree
from motionbench.core.robot import load_robot
from motionbench.core.rotation import quat_exp
from motionbench.retarget.collision import Apart
from motionbench.retarget.config import load_config
from motionbench.retarget.contact import Sole
from motionbench.retarget.ground import Ground, LOCK
from motionbench.retarget.lanes import kept_on_disk
from motionbench.retarget.solver import Frames, deviations, errors, started, step, steps
from motionbench.retarget.tree import node_targets, solver_tree
from motionbench.retarget.whole import PLAIN, make_job

NEAR = {np.float64: 1e-9, np.float32: 1e-4}


def random_tree(rng, n):
    "A tree of n joints, hinges and slides, several to a body, with limits or without."
    import mujoco
    spec = mujoco.MjSpec()
    root = spec.worldbody.add_body(name="b0", pos=[0, 0, 1])
    root.add_freejoint()
    bodies = [root]
    for k in range(n):
        body = bodies[rng.integers(len(bodies))].add_body(name=f"b{k+1}", pos=0.3*rng.normal(size=3), quat=quat_exp(rng.normal(size=3)))
        for j in range(rng.integers(1, 3)):
            slide = rng.uniform() < 0.25
            body.add_joint(name=f"j{k}_{j}", type=mujoco.mjtJoint.mjJNT_SLIDE if slide else mujoco.mjtJoint.mjJNT_HINGE, axis=rng.normal(size=3), pos=0.1*rng.normal(size=3), ref=0.2*rng.normal(),
                           limited=True, range=[-0.8, 0.9])
        bodies.append(body)
    for body in bodies: body.add_geom(size=[0.05, 0, 0])
    model = spec.compile()
    joints = [j for j in range(model.njnt) if model.jnt_type[j] != 0]
    limits = np.where(rng.uniform(size=(len(joints), 1)) < 0.8, model.jnt_range[joints], [-np.inf, np.inf])
    tracked = rng.choice(n + 1, min(4, n + 1), replace=False)
    return solver_tree(compile_tree(model), limits, [f"b{i}" for i in tracked])


def random_frames(rng, tree, T, dtype):
    "Poses and targets around them, some of them half a turn away."
    unit = lambda *shape: (x := rng.normal(size=shape))/np.linalg.norm(x, axis=-1, keepdims=True)
    K, low, high = len(tree.bodies), np.repeat(tree.low[:, None], T, 1), np.repeat(tree.high[:, None], T, 1)
    q = np.clip(rng.normal(size=(tree.n, T)), low, high)
    put = lambda x: np.ascontiguousarray(x, dtype)
    return Frames(put(unit(T, 4).T), put(0.1*rng.normal(size=(3, T))), put(q), put(low), put(high), (q <= low) | (q >= high), put(rng.normal(size=(K, 3, T))),
                  node_targets(tree, unit(T, K, 4), dtype), np.zeros(T, dtype))


def random_loads(rng, tree, T, dtype):
    "Two feet on the ground and a few close pairs."
    sole = lambda node: Sole("left", node, 0.2*rng.normal(size=(5, 3)), 0.2*rng.normal(size=(4, 3)), *(None,)*(len(Sole.__dataclass_fields__) - 4))
    feet = [int(rng.integers(tree.n + 1)) for _ in range(2)]
    grounds = [Ground(s := sole(node), (np.repeat(rng.uniform(size=(len(s.locks), 1)) < 0.5, T, 1)*LOCK**2).astype(dtype), rng.normal(size=(len(s.locks), 3, T)).astype(dtype),
                      rng.normal(size=T).astype(dtype), rng.uniform(size=(5, T)) < 0.3) for node in feet]
    frame = np.sort(rng.integers(T, size=6))
    node, normal = rng.integers(tree.n + 1, size=(2, 6)), rng.normal(size=(6, 3))
    slots = []
    for side in (0, 1):
        slots.append({int(n): ((some := np.flatnonzero(node[side] == n)), np.arange(len(some)), np.full(len(some), 0.5), len(some)) for n in np.unique(node[side])})
    return [*grounds, Apart(frame, node, tuple(0.2*rng.normal(size=(2, 6, 3)).astype(dtype)), (normal/np.linalg.norm(normal, axis=1, keepdims=True)).astype(dtype), tuple(slots), T)]


def fresh(loads): return [replace(x, watched=x.watched.copy()) if isinstance(x, Ground) else x for x in loads]


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.sampled_from([1, 15, 16, 37]), st.booleans())
def test_random_trees(seed, n, T, loaded):
    rng = np.random.default_rng(seed)
    tree = random_tree(rng, n)
    f, w = random_frames(rng, tree, T, np.float64), np.square(rng.uniform(1, 30, (2, len(tree.bodies))))
    loads = random_loads(rng, tree, T, np.float64) if loaded else []
    for _ in range(3):
        slow_loads, fast_loads = fresh(loads), fresh(loads)
        slow, fast = step(tree, f, *w, 30., slow_loads), steps(tree, f, *w, [30.], fast_loads)
        for name in ("quat", "offset", "q", "cost"): assert np.allclose(getattr(fast, name), getattr(slow, name), rtol=1e-9, atol=1e-9), name
        assert (fast.held == slow.held).all() and all((a.watched == b.watched).all() for a, b in zip(slow_loads[:2], fast_loads[:2]))
        f, loads = slow, slow_loads


@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize("name", ["biped", "unitree_g1", "booster_t1"])
def test_robots(name, dtype):
    try: robot = load_robot(name)
    except Exception as e: pytest.skip(str(e))
    job = make_job(robot, load_config(name), [bundled_clips()["walk"]], PLAIN, np.zeros(0, dtype))
    pos, quat = job.targets(np.arange(70))
    f, _ = started(job.tree, pos, quat, job.config.start_body, job.config.start_pose, job.like)
    slow = f
    for damping in (10., 10., 30.): slow = step(job.tree, slow, job.wp2, job.wr2, damping)
    fast = steps(job.tree, f, job.wp2, job.wr2, (10., 10., 30.))
    for key in ("quat", "offset", "q"): assert np.allclose(getattr(fast, key), getattr(slow, key), atol=NEAR[dtype]), key
    assert fast.q.dtype == dtype and np.allclose(fast.cost, slow.cost, rtol=NEAR[dtype])
    for ours, theirs in zip(deviations(job.tree, slow), errors(job.tree, slow)[3:]): assert np.allclose(ours, theirs, atol=NEAR[dtype])


def test_half_turns_and_boxes():
    rng = np.random.default_rng(3)
    tree = random_tree(rng, 4)
    f = random_frames(rng, tree, 20, np.float64)
    axes = errors(tree, f)[0][list(tree.body_node)]
    flip = np.diag([1., -1, -1]) + 1e-5*rng.normal(size=(3, 3))
    f = replace(f, target=np.einsum("dc,kicT->kidT", flip, axes), low=f.q - 0.01, high=f.q + 0.02)
    for ours, theirs in zip(deviations(tree, f), errors(tree, f)[3:]): assert np.allclose(ours, theirs, atol=1e-4)
    assert np.allclose(np.linalg.norm(deviations(tree, f)[1], axis=1), np.pi, atol=1e-3)
    after = steps(tree, f, np.ones(len(tree.bodies)), np.ones(len(tree.bodies)), [1.]*3)
    assert (after.q >= f.low).all() and (after.q <= f.high).all() and after.held.any()


def test_input_is_left_alone():
    rng = np.random.default_rng(4)
    tree = random_tree(rng, 5)
    f = random_frames(rng, tree, 20, np.float32)
    before = [x.copy() for x in vars(f).values()]
    steps(tree, f, np.ones(len(tree.bodies)), np.ones(len(tree.bodies)), [10.])
    assert all(np.array_equal(a, b) for a, b in zip(before, vars(f).values()))


def test_whether_a_compilation_is_kept(tmp_path, monkeypatch):
    (tmp_path/"half.py").write_text("from motionbench.retarget.lanes import compiled\n\n@compiled\ndef half(x): return x/2\n")
    monkeypatch.syspath_prepend(tmp_path)
    from half import half
    assert not kept_on_disk(half)
    assert half(3.) == 1.5 and kept_on_disk(half)
    os.utime(tmp_path/"half.py", (time.time() + 60,)*2)
    assert not kept_on_disk(half)                                             # the source has changed since
