"Mirroring against MuJoCo, changed speed against the chain rule, windows against brute force."
import os
from dataclasses import replace
from functools import cache
from pathlib import Path

import mujoco
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from motionbench.core.errors import InvalidMotion, RobotError
from motionbench.core.kinematics import forward_kinematics, sole_positions
from motionbench.core.mirror import POLAR, mirror_bodies, mirror_error, mirror_joints, mirror_motion, sole_difference
from motionbench.core.motion import Motion, concatenate, transform
from motionbench.core.robot import available_robots, load_robot as read_robot
from motionbench.core.rotation import angular_velocity, quat_exp, quat_log, quat_mul, quat_conj
from motionbench.core.speed import change_speed, retime, warp_curve, warp_time
from motionbench.core.windows import clip_ids, clip_lengths, gather_windows, short_clips, window_starts
from motionbench.io.registry import read_motion

GMR = Path(os.environ.get("MOTIONBENCH_TEST_DATA", Path(__file__).parents[1]/"../shared/data"))/"gmr"
needs_goldens = pytest.mark.skipif(not GMR.is_dir(), reason=f"no goldens at {GMR}; set MOTIONBENCH_TEST_DATA")
LOCAL = [r["name"] for r in available_robots() if r["where"] != "download"]
local = pytest.mark.parametrize("name", LOCAL)
quick = settings(max_examples=15, deadline=None)
load_robot = cache(read_robot)


@pytest.fixture(scope="module")
def biped(): return load_robot("biped")


def smooth(robot, frames=90, fps=60.0, seed=0, slow=1.0):
    "A smooth motion over most of the joint ranges, with everything a `Motion` can hold."
    rng, t = np.random.default_rng(seed), np.arange(frames)/fps
    wave = lambda n: rng.uniform(.2, 1, n)*np.sin(2*np.pi*np.outer(t, slow*rng.uniform(.2, .8, n)) + rng.uniform(0, 6, n))
    low, high = np.clip(robot.joint_range, -2, 2).T
    quat = quat_mul(quat_exp(np.outer(t*slow, [0, 0, rng.uniform(-2, 2)])), quat_exp(0.6*wave(3)))
    m = Motion(fps, 0.3*wave(3) + np.outer(t*slow, [*rng.uniform(-1, 1, 2), 0]), quat, (low + high)/2 + 0.4*(high - low)*wave(len(low)), robot.joint_names, robot.name)
    dof_vel, lin, ang = m.velocities()
    pos, body_quat = forward_kinematics(robot.tree, m.root_pos, m.root_quat, m.dof_pos)
    return replace(m, dof_vel=dof_vel, root_lin_vel=lin, root_ang_vel=ang, torque=wave(len(low)), contacts=wave(4) > 0, contact_names=robot.contact_names, body_names=robot.body_names,
                   body_pos=pos, body_quat=body_quat, body_lin_vel=np.gradient(pos, axis=0)*fps, body_ang_vel=angular_velocity(body_quat, fps))


def arrays(m): return {k: getattr(m, k) for k in Motion._how if getattr(m, k) is not None}
def turned(a, b): return np.linalg.norm(quat_log(quat_mul(quat_conj(a), b)), axis=-1).max()


# ---- mirror

@local
def test_soles_of_the_mirror_image_are_the_mirrored_soles(name):
    robot = load_robot(name)
    assert robot.mirror is not None and mirror_error(smooth(robot), robot) < 0.002


@local
def test_all_bodies_are_the_mirror_image_in_mujoco(name):
    "Every body's centre of mass lies where the mirror shows its partner's, however the frames are placed; the models' masses are symmetric to a few mm in most bodies."
    robot = load_robot(name)
    clip = smooth(robot, 30)
    image, (partner, _, _), data = mirror_motion(clip, robot), mirror_bodies(robot), mujoco.MjData(robot.model)
    assert sorted(partner) == list(range(len(partner))) and (partner[partner] == np.arange(len(partner))).all()
    moving = (robot.model.body_mass[1:] > 0) & (robot.model.body_jntnum[1:] > 0)
    def masses(q):
        data.qpos[:] = q
        mujoco.mj_kinematics(robot.model, data); mujoco.mj_comPos(robot.model, data)
        return data.xipos[1:].copy()
    for a, b in zip(robot.qpos(clip)[::6], robot.qpos(image)[::6]):
        off = np.linalg.norm(masses(b) - masses(a)[partner]*POLAR, axis=1)[moving]
        assert np.median(off) < 0.004 and off.max() < 0.04


@local
def test_mirrored_bodies_and_velocities_are_those_of_the_mirrored_poses(name):
    robot = load_robot(name)
    clip = smooth(robot)
    image = mirror_motion(clip, robot)
    pos, quat = forward_kinematics(robot.tree, image.root_pos, image.root_quat, image.dof_pos)
    assert np.abs(image.body_pos - pos).max() < 5e-5 and turned(image.body_quat, quat) < 1e-4
    assert np.abs(image.body_ang_vel - angular_velocity(quat, 60)).max() < 2e-3 and np.abs(image.body_lin_vel - np.gradient(pos, axis=0)*60)[1:-1].max() < 5e-3
    for stored, computed in zip((image.dof_vel, image.root_lin_vel, image.root_ang_vel), image.velocities()): assert np.abs(stored - computed).max() < 1e-9


@local
def test_mirroring_twice_is_the_identity(name):
    robot = load_robot(name)
    clip = smooth(robot, 20)
    again = arrays(mirror_motion(mirror_motion(clip, robot), robot))
    assert again.keys() == arrays(clip).keys()
    for k, x in arrays(clip).items(): assert turned(x, again[k]) < 1e-7 if k.endswith("quat") else np.abs(again[k]*1 - x).max() < 1e-9, k


def test_signs_of_a_walk_to_the_left(biped):
    t = np.arange(40)/20
    quat = quat_exp(np.outer(t, [0, 0, 0.5]))
    image = mirror_motion(Motion(20, np.outer(t, [1, .5, .1]), quat, np.zeros((40, 9)), biped.joint_names, "biped"), biped)
    dof_vel, lin, ang = image.velocities()
    assert np.allclose(lin, [1, -.5, .1]) and np.allclose(ang, [0, 0, -0.5])


def test_joints_go_by_name(biped):
    clip, rng = smooth(biped), np.random.default_rng(2)
    p = rng.permutation(9)
    other = replace(clip, joint_names=tuple(np.array(clip.joint_names)[p]), dof_pos=clip.dof_pos[:, p], dof_vel=clip.dof_vel[:, p], torque=clip.torque[:, p])
    a, b = mirror_motion(clip, biped), mirror_motion(other, biped)
    for k in ("dof_pos", "dof_vel", "torque"): assert (getattr(a, k)[:, p] == getattr(b, k)).all()
    assert abs(mirror_error(other, biped) - mirror_error(clip, biped)) < 1e-12
    order, sign = mirror_joints(biped, other.joint_names)
    assert (sign*other.dof_pos[:, order] == b.dof_pos).all()


def test_a_wrong_sign_is_seen(biped):
    order, sign = biped.mirror
    for j in range(9):
        if biped.joint_names[j] == "waist_yaw": continue          # carries no foot
        wrong = sign.copy()
        wrong[[j, order[j]]] *= -1
        assert mirror_error(smooth(biped), replace(biped, mirror=(order, wrong))) > 0.01, biped.joint_names[j]
    assert mirror_error(smooth(biped), replace(biped, mirror=(np.arange(9), sign))) > 0.1


def test_a_longer_sole_is_seen(biped):
    left, right = biped.feet
    deeper = replace(biped, feet=(left, replace(right, points=right.points - [0, 0, 0.01])))
    assert sole_difference(biped) < 1e-9 and abs(sole_difference(deeper) - 0.01) < 1e-9 and mirror_error(smooth(biped), deeper) > 0.0099


def test_no_mirror_no_image(biped):
    with pytest.raises(RobotError, match="biped has no mirror map"): mirror_motion(smooth(biped), replace(biped, mirror=None))
    with pytest.raises(RobotError, match="unknown knee"): mirror_motion(replace(smooth(biped), joint_names=("knee", *biped.joint_names[1:])), biped)


def test_contacts_change_sides(biped):
    clip = replace(smooth(biped, 8), contacts=np.eye(8, 4, dtype=bool))
    assert (mirror_motion(clip, biped).contacts == np.eye(8, 4, dtype=bool)[:, [2, 3, 0, 1]]).all()
    bodies = replace(clip, contact_names=("right_foot", "pelvis", "left_foot", "torso"))
    assert (mirror_motion(bodies, biped).contacts == clip.contacts[:, [2, 1, 0, 3]]).all()
    odd = mirror_motion(replace(clip, contact_names=("LeftToe", "tail", "RightToe", "left_hand")), biped)
    assert odd.contacts is None and odd.contact_names is None and "tail, left_hand" in odd.source["steps"][-1]["dropped"]["contacts"]


def test_bodies_of_no_model_are_left_out_and_said(biped):
    clip = smooth(biped, 8)
    odd = mirror_motion(replace(clip, body_names=("sled", *biped.body_names[1:]), extra={"object_pos": np.zeros((8, 3)), "time": np.arange(8.)}), biped)
    dropped = odd.source["steps"][-1]["dropped"]
    assert odd.body_pos is odd.body_names is None and "sled" in dropped["body_quat"] and "extra.object_pos" in dropped and list(odd.extra) == ["time"]
    some = [biped.body_names.index(n) for n in ("torso", "left_foot", "pelvis")]
    part = replace(clip, body_names=("torso", "left_foot", "pelvis"), **{k: getattr(clip, k)[:, some] for k in ("body_pos", "body_quat", "body_lin_vel", "body_ang_vel")})
    assert "no mirror image of left_foot" in mirror_motion(part, biped).source["steps"][-1]["dropped"]["body_pos"]


def test_positions_alone_of_frames_that_are_placed_differently():
    "The head of this robot has its frame 19 mm off the middle plane: without its orientation the mirror image is not known."
    robot = load_robot("robotis_op3")
    bare = mirror_motion(replace(smooth(robot, 8), body_quat=None), robot)
    assert bare.body_pos is None and "body_quat unknown" in bare.source["steps"][-1]["dropped"]["body_pos"] and bare.body_ang_vel is not None


def test_mirror_keeps_boundaries_and_turns_with_the_room(biped):
    a, b = replace(smooth(biped, 20), extra={}), replace(smooth(biped, 31, seed=1), extra={})
    image = mirror_motion(concatenate([a, b], boundaries=True), biped)
    assert image.starts == (0, 20) and all((x == arrays(image.split()[1])[k]).all() for k, x in arrays(mirror_motion(b, biped)).items())
    left, right = arrays(mirror_motion(transform(a, 0.7, (1, 2, 3)), biped)), arrays(transform(mirror_motion(a, biped), -0.7, (1, -2, 3)))
    for k in left: assert turned(left[k], right[k]) < 1e-7 if k.endswith("quat") else np.abs(left[k]*1 - right[k]).max() < 1e-9, k


@needs_goldens
@pytest.mark.parametrize("name", ["unitree_g1", "booster_t1"])
def test_a_real_jump(name):
    robot = load_robot(name)
    clip = read_motion(GMR/f"cmu_01_01_jump__{name}.pkl", robot=robot)
    assert mirror_error(clip, robot) < 0.002
    low = lambda m: {s: p[..., 2].min(1) for s, p in sole_positions(robot, m).items()}
    here, there = low(clip), low(mirror_motion(clip, robot))
    assert max(np.abs(here["left"] - there["right"]).max(), np.abs(here["right"] - there["left"]).max()) < 0.002


# ---- speed

FACTORS = st.floats(0.4, 2.5)


@quick
@given(FACTORS, st.integers(3, 120), st.integers(0, 99))
def test_durations_are_right(factor, frames, seed):
    clip = smooth(load_robot("biped"), frames, seed=seed)
    if int((frames - 1)/factor + 1e-9) < 1:
        with pytest.raises(InvalidMotion, match="one frame left"): change_speed(clip, factor)
        return
    new = change_speed(clip, factor)
    left = new.source["steps"][-1].get("remainder_s", 0) if factor != 1 else 0
    assert new.fps == clip.fps and 0 <= left < factor/clip.fps + 1e-9 and abs(new.duration*factor + left - clip.duration) < 1e-8


@quick
@given(FACTORS, st.integers(0, 99))
def test_a_factor_and_its_inverse_give_the_clip_back(factor, seed):
    clip = smooth(load_robot("biped"), 120, seed=seed, slow=0.5)
    again = change_speed(change_speed(clip, factor), 1/factor)
    n = len(again)
    assert 0 <= len(clip) - n <= np.ceil(factor) + 1
    bend = max(1, factor)**2/8*2                                         # linear interpolation misses h²/8 of the second derivative, here twice
    for k in ("root_pos", "dof_pos", "body_pos", "dof_vel", "root_lin_vel", "root_ang_vel"):
        x = getattr(clip, k)
        assert np.abs(getattr(again, k) - x[:n]).max() < bend*1.3*np.abs(np.diff(x, 2, axis=0)).max() + 1e-9, k
    assert turned(again.root_quat, clip.root_quat[:n]) < bend*1.5*np.abs(np.diff(clip.root_ang_vel, axis=0)).max()/clip.fps


@quick
@given(FACTORS, st.floats(0, 1), st.floats(-3, 3), st.integers(0, 99))
def test_speed_does_not_care_where_the_room_faces(factor, strength, heading, seed):
    clip = smooth(load_robot("biped"), 60, seed=seed)
    for f in (lambda m: change_speed(m, factor), lambda m: warp_time(m, strength, seed)):
        a, b = arrays(f(transform(clip, heading, (1, -2, 0.5)))), arrays(transform(f(clip), heading, (1, -2, 0.5)))
        for k in a: assert turned(a[k], b[k]) < 1e-7 if k.endswith("quat") else np.abs(a[k]*1 - b[k]).max() < 1e-9, k


def test_doing_nothing_is_the_identity(biped):
    clip = smooth(biped)
    for same in (change_speed(clip, 1), change_speed(clip, 1.0), warp_time(clip, 0, seed=3)):
        assert all((x == arrays(same)[k]).all() for k, x in arrays(clip).items()) and same.torque is not None


@pytest.mark.parametrize("factor", [2, 3])
def test_whole_factors_pick_frames(biped, factor):
    clip = smooth(biped, 91)
    fast = change_speed(clip, factor)
    for k in ("root_pos", "root_quat", "dof_pos", "contacts", "body_pos"): assert np.abs(getattr(fast, k)*1. - getattr(clip, k)[::factor]).max() < 1e-15, k
    for k in ("dof_vel", "root_lin_vel", "root_ang_vel", "body_lin_vel", "body_ang_vel"): assert np.allclose(getattr(fast, k), factor*getattr(clip, k)[::factor], atol=1e-12), k
    assert fast.torque is None and fast.source["steps"][-1]["dropped"] == ["torque"]


@quick
@given(st.integers(1, 400), st.floats(0, 10), st.floats(4, 500), st.integers(0, 999))
def test_a_warp_stays_within_its_bounds(frames, strength, period, seed):
    s, r = warp_curve(frames, strength, np.random.default_rng(seed), period)
    assert s[0] == 0 and s[-1] == frames - 1 and len(s) == len(r) == frames
    steps = np.diff(s)
    assert r.min() >= 1/(1 + strength) - 1e-12 and r.max() <= 1 + strength + 1e-12
    assert (steps > 0).all() and (steps >= 1/(1 + strength) - 1e-9).all() and (steps <= 1 + strength + 1e-9).all()
    assert np.abs(steps - (r[1:] + r[:-1])/2).max(initial=0) < 1e-8


@quick
@given(st.floats(0.01, 1), st.integers(0, 99))
def test_warped_velocities_follow_the_chain_rule(strength, seed):
    fine = smooth(load_robot("biped"), 481, fps=240, seed=seed)
    warped = warp_time(fine, strength, seed)
    again = warp_time(fine, strength, seed)
    assert all((x == arrays(again)[k]).all() for k, x in arrays(warped).items())
    _, r = warp_curve(481, strength, np.random.default_rng(seed), 240)
    s, _ = warp_curve(481, strength, np.random.default_rng(seed), 240)
    for k, v in zip(("dof_vel", "root_lin_vel", "root_ang_vel"), warped.velocities()):
        true = np.stack([np.interp(s, np.arange(481), x) for x in getattr(fine, k).T], 1)*r[:, None]
        assert np.abs(getattr(warped, k) - true).max() < 1e-9 and np.abs(v - true)[1:-1].max() < 0.015*np.abs(true).max() + 0.03, k


def test_a_warp_warps(biped):
    clip = smooth(biped, 300)
    a, b = (warp_time(clip, 0.5, seed) for seed in (0, 1))
    assert np.abs(a.dof_pos - clip.dof_pos).max() > 0.1 and np.abs(a.dof_pos - b.dof_pos).max() > 0.1 and (a.dof_pos[[0, -1]] == clip.dof_pos[[0, -1]]).all()


@quick
@given(st.lists(st.integers(4, 40), min_size=2, max_size=5), FACTORS, st.floats(0.1, 1), st.integers(0, 99))
def test_clips_do_not_mix(lengths, factor, strength, seed):
    parts = [smooth(load_robot("biped"), n, seed=seed + i) for i, n in enumerate(lengths)]
    parts = [replace(p, root_pos=p.root_pos + [1000.*i, 0, 0]) for i, p in enumerate(parts)]
    both = concatenate(parts, boundaries=True)
    fast, alone = change_speed(both, factor), [change_speed(p, factor) for p in parts]
    assert fast.starts == tuple(np.cumsum([0, *map(len, alone[:-1])])) and len(fast) == sum(map(len, alone))
    for whole, part in zip(fast.split(), alone): assert all(np.abs(x*1. - arrays(whole)[k]).max() < 1e-6 for k, x in arrays(part).items() if k != "contacts")
    warped = warp_time(both, strength, seed)
    assert warped.starts == both.starts
    for i, (m, p) in enumerate(zip(warped.split(), parts)):
        assert np.abs(m.root_pos[:, 0] - 1000*i).max() < 100 and np.allclose(m.dof_pos[[0, -1]], p.dof_pos[[0, -1]])


def test_extra_by_its_name(biped):
    clip = replace(smooth(biped, 61), extra={"hand_vel": np.ones((61, 3)), "hand_pos": np.outer(np.arange(61), [1., 2]), "time": np.arange(61)/60, "grf_force": np.ones(61), "loop_mode": "clamp"})
    fast = change_speed(clip, 2)
    assert (fast.extra["hand_vel"] == 2).all() and (fast.extra["hand_pos"] == clip.extra["hand_pos"][::2]).all() and set(fast.extra) == {"hand_vel", "hand_pos", "loop_mode"}
    assert fast.source["steps"][-1]["dropped"] == ["torque", "extra.time", "extra.grf_force"]


@pytest.mark.parametrize("call, words", [
    (lambda m: change_speed(m, 0), "factor is 0"), (lambda m: change_speed(m, -1), "factor is -1"), (lambda m: change_speed(m, np.nan), "factor is nan"), (lambda m: change_speed(m, "x"), "factor is 'x'"),
    (lambda m: change_speed(m, 100), "largest factor for it is 19"), (lambda m: warp_time(m, -0.1, 0), "strength is -0.1"), (lambda m: warp_time(m, np.nan, 0), "strength is nan"),
    (lambda m: warp_time(m, 0.5, 0, period=0), "four frames"), (lambda m: retime(m, [np.array([0, 20.])], [np.ones(2)]), "frames 0 to 19"), (lambda m: retime(m, [np.array([3, 2.])], [np.ones(2)]), "rise")])
def test_speeds_that_cannot_be(biped, call, words):
    with pytest.raises(InvalidMotion, match=words): call(smooth(biped, 20))


# ---- windows

def brute(lengths, frames, stride):
    "Window after window, clip after clip."
    out, ids, begin = [], [], 0
    for k, n in enumerate(lengths):
        f = 0
        while f + frames <= n: out.append(begin + f); ids.append(k); f += stride
        begin += n
    return out, ids


@settings(max_examples=120, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=12), st.integers(1, 12), st.integers(1, 9))
def test_windows_equal_brute_force(lengths, frames, stride):
    want, ids = brute(lengths, frames, stride)
    short = [k for k, n in enumerate(lengths) if n < frames]
    assert short_clips(lengths, frames).tolist() == short
    if short:
        with pytest.raises(InvalidMotion, match="no clip has" if not want else f"clip {short[0]} has {lengths[short[0]]}"): window_starts(lengths, frames, stride)
    if not want:
        with pytest.raises(InvalidMotion, match=f"longest of {len(lengths)} has {max(lengths)}"): window_starts(lengths, frames, stride, short="skip")
        return
    first = window_starts(lengths, frames, stride, short="skip")
    assert first.dtype == np.int64 and first.tolist() == want and clip_ids(first, lengths).tolist() == ids
    x = np.repeat(np.arange(len(lengths)), lengths)
    assert (gather_windows(x, first, frames) == np.array(ids)[:, None]).all()
    y = np.random.default_rng(0).normal(size=(sum(lengths), 2, 3))
    got, tensor = gather_windows(y, first, frames), gather_windows(torch.as_tensor(y), first, frames)
    assert (got == np.stack([y[f:f + frames] for f in want])).all() and isinstance(tensor, torch.Tensor) and (tensor.numpy() == got).all()
    assert (gather_windows(y, torch.as_tensor(first).numpy().tolist(), frames) == got).all() and torch.equal(gather_windows(torch.as_tensor(y), torch.as_tensor(first), frames), tensor)


def test_windows_stay_where_the_array_is():
    x = torch.zeros(100, 5, device="meta", dtype=torch.float16)
    y = gather_windows(x, [0, 90], 10)
    assert y.device.type == "meta" and y.shape == (2, 10, 5) and y.dtype == torch.float16
    assert gather_windows(np.zeros((10, 3), np.float32), np.array([], int), 4).shape == (0, 4, 3)
    x = torch.arange(10., requires_grad=True)
    gather_windows(x, [0, 1], 3).sum().backward()
    assert x.grad.tolist() == [1, 2, 2, 1] + [0]*6


def test_windows_of_a_motion(biped):
    both = concatenate([smooth(biped, 20), smooth(biped, 31)], boundaries=True)
    lengths = clip_lengths(both.starts, len(both))
    assert lengths.tolist() == [20, 31]
    pairs = gather_windows(both.root_pos, window_starts(lengths, 2), 2)
    assert len(pairs) == 49 and np.abs(np.diff(pairs, axis=1)).max() < 0.06


@pytest.mark.parametrize("call, words", [
    (lambda: window_starts([5], 0), "window of 0 frames"), (lambda: window_starts([5], 2, 0), "stride is 0"), (lambda: window_starts([5], 2, short="pad"), "expected error or skip"),
    (lambda: window_starts([], 2), "whole numbers"), (lambda: window_starts([5.5], 2), "whole numbers"), (lambda: window_starts([-1, 5], 2), "whole numbers"),
    (lambda: clip_lengths([1, 5], 9), "rising"), (lambda: clip_lengths([0, 5, 5], 9), "rising"), (lambda: clip_lengths([0, 9], 9), "rising"),
    (lambda: clip_ids([9], [4, 5]), "frames 0 to 8"), (lambda: clip_ids([-1], [4, 5]), "frames 0 to 8"),
    (lambda: gather_windows(np.zeros(9), [8], 2), "beyond the 9"), (lambda: gather_windows(torch.zeros(9), [-1], 2), "beyond the 9")])
def test_windows_that_cannot_be(call, words):
    with pytest.raises(InvalidMotion, match=words): call()
