"""The body against the `smplx` package and the shared stand-in, and its refusals."""
import os, time
from pathlib import Path

import numpy as np
import pytest

from motionbench.core.body import (ASSETS, body_fk, body_height, load_body, mesh_joints, read_body, rest_joints, standin_arrays, write_standin)
from motionbench.core.errors import MotionbenchError, MotionFormatError
from motionbench.core.motion import SMPLX_JOINTS, SMPLX_PARENTS

DATA = Path(os.environ.get("MOTIONBENCH_TEST_DATA", Path(__file__).resolve().parents[2]/"shared"/"data"))
SHIPPED = ASSETS/"smplx"/"SMPLX_NEUTRAL.npz"


@pytest.fixture(autouse=True)
def no_env(monkeypatch): monkeypatch.delenv("MOTIONBENCH_BODY_MODELS", raising=False)


def poses(T=8, n_betas=16, seed=0):
    rng = np.random.default_rng(seed)
    return 0.5*rng.normal(size=n_betas), rng.normal(size=(T, 3)), 0.4*rng.normal(size=(T, 63)), rng.normal(size=(T, 3))


def test_shipped_standin_is_what_the_recipe_makes(tmp_path):
    made = standin_arrays()
    with np.load(SHIPPED, allow_pickle=False) as z:
        assert set(z.files) == set(made)
        for k in made: assert z[k].dtype == np.asarray(made[k]).dtype and np.array_equal(z[k], made[k]), k
    assert SHIPPED.stat().st_size < 600_000
    assert write_standin(tmp_path/"a"/"SMPLX_NEUTRAL.npz").is_file() and len(list((tmp_path/"a").iterdir())) == 1


def test_agrees_with_the_shared_standin():
    models = DATA/"smplx_standin"/"models"
    if not models.is_dir(): pytest.skip(f"no test data at {models}; set MOTIONBENCH_TEST_DATA")
    theirs, ours = load_body(models), load_body()
    assert np.abs(theirs.joints0 - ours.joints0).max() < 1e-6
    assert np.abs(theirs.joint_dirs - ours.joint_dirs).max() < 1e-6


@pytest.mark.parametrize("n_betas", [0, 3, 10, 16, 300])
def test_agrees_with_smplx(n_betas):
    body, p = load_body(), poses(n_betas=n_betas)
    pos, quat = body_fk(body, *p)
    assert np.abs(pos - mesh_joints(body, *p)).max() < 1e-6
    assert np.abs(np.linalg.norm(quat, axis=-1) - 1).max() < 1e-12


def test_shape_parameters_mean_what_is_said():
    body = load_body()
    assert np.allclose(rest_joints(body, [1.]), 1.05*rest_joints(body), atol=1e-6)      # size
    assert np.allclose(rest_joints(body, [0, 3.]), rest_joints(body), atol=1e-6)        # girth
    assert rest_joints(body, [0, 0, 1.])[1, 1] > rest_joints(body)[1, 1]                # proportions
    assert np.isclose(body_height(body), 1.626, atol=1e-3)
    assert np.array_equal(rest_joints(body, np.zeros(1000)), body.joints0)
    assert body.parents[:22] == SMPLX_PARENTS and body.joint_names[:22] == SMPLX_JOINTS


def test_fast_for_many_frames():
    body, p = load_body(), poses(T=10_000)
    start = time.perf_counter()
    body_fk(body, *p)
    assert (time.perf_counter() - start)/10_000 < 1e-4      # 0.1 ms per frame on a slow machine; typically 0.005


def test_own_body_models(tmp_path, monkeypatch):
    made = standin_arrays()
    del made["standin"]
    (tmp_path/"smplx").mkdir()
    np.savez(tmp_path/"smplx"/"SMPLX_FEMALE.npz", **{k: made[k] for k in ("J_regressor", "v_template", "shapedirs", "kintree_table")})
    monkeypatch.setenv("MOTIONBENCH_BODY_MODELS", str(tmp_path))
    body = load_body(gender="female")
    assert not body.standin and body.joint_dirs.shape == (55, 3, 300)
    with pytest.raises(MotionbenchError, match="SMPLX_MALE.npz"): load_body(gender="male")
    with pytest.raises(MotionbenchError, match="expected one of neutral"): load_body(gender="unknown")


@pytest.mark.parametrize("joints,kind", [(52, "smplh"), (24, "smpl")])
def test_other_families(tmp_path, joints, kind):
    rng = np.random.default_rng(0)
    reg = np.eye(joints, 60)
    np.savez(tmp_path/f"{kind.upper()}_MALE.npz", J_regressor=reg, v_template=rng.normal(size=(60, 3)), shapedirs=rng.normal(size=(60, 3, 16)),
             kintree_table=np.stack([np.maximum(np.arange(joints) - 1, 0) - (np.arange(joints) == 0), np.arange(joints)]))
    body = load_body(tmp_path, "male", kind)
    assert (body.kind, len(body.joint_names), body.joint_dirs.shape[2], body.parents[0]) == (kind, joints, 16, -1)


def test_refusals(tmp_path):
    bad = tmp_path/"bad.npz"
    np.savez(bad, J_regressor=np.array([{"a": 1}], dtype=object), v_template=np.zeros((3, 3)), shapedirs=np.zeros((3, 3, 1)), kintree_table=np.zeros((2, 1)))
    with pytest.raises(MotionFormatError, match="Python objects"): read_body(bad)
    np.savez(bad, v_template=np.zeros(3))
    with pytest.raises(MotionFormatError, match="no array `J_regressor`"): read_body(bad)
    bad.write_bytes(b"not a zip")
    with pytest.raises(MotionFormatError, match="bad.npz"): read_body(bad)
    np.savez(bad, J_regressor=np.zeros((7, 5)), v_template=np.zeros((5, 3)), shapedirs=np.zeros((5, 3, 1)), kintree_table=np.zeros((2, 7)))
    with pytest.raises(MotionFormatError, match="55, 52 or 24"): read_body(bad)
    np.savez(bad, J_regressor=np.zeros((55, 5)), v_template=np.zeros((5, 3)), shapedirs=np.zeros((5, 3)), kintree_table=np.zeros((2, 55)))
    with pytest.raises(MotionFormatError, match="do not fit"): read_body(bad)
    np.savez(bad, J_regressor=np.full((55, 5), np.nan))
    with pytest.raises(MotionFormatError, match="finite numbers"): read_body(bad)
    whole = open(load_body().path, "rb").read()
    bad.write_bytes(whole[:len(whole)//2])
    with pytest.raises(MotionFormatError, match="bad.npz: not a readable npz"): read_body(bad)
    np.save(tmp_path/"one.npy", np.zeros(3))
    with pytest.raises(MotionFormatError, match="a single array"): read_body(tmp_path/"one.npy")
