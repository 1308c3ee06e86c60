"Tokens on disk and in numbers, the coder without a network, and the errors of a reconstruction against a plain loop."
import json
import os
from dataclasses import replace

import mujoco
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy.spatial.transform import Rotation

from motionbench.audit.audit import measure
from motionbench.core.errors import ConfigError, InvalidMotion, MotionFormatError
from motionbench.core.gait import bundled_clips
from motionbench.core.motion import Motion, concatenate
from motionbench.core.robot import load_robot
from motionbench.retarget.clip import retarget_many
from motionbench.vqvae.baselines import DEGREES, MOST_BITS, SPACINGS, PcaKeyframes, allot_bits, fit_keyframes, interpolated, quantiser_tables
from motionbench.vqvae.checkpoint import Tokenizer, load_tokenizer, save_tokenizer
from motionbench.vqvae.config import load_config
from motionbench.vqvae.features import layout_of
from motionbench.vqvae.follow import follow_path, path_of
from motionbench.vqvae.geometry import joint_reach
from motionbench.vqvae.metrics import mean_errors, motion_errors
from motionbench.vqvae.model import MotionVQVAE
from motionbench.vqvae.tokens import Tokens, bigram_model, held_out_bits, nearest_sequences, read_tokens, sample_tokens, token_statistics, write_tokens


@pytest.fixture(scope="module")
def biped(): return load_robot("biped")


@pytest.fixture(scope="module")
def motions(biped): return retarget_many(list(bundled_clips().values()), biped, fps=30)


@pytest.fixture(scope="module")
def coders(motions): return PcaKeyframes.fit([m.dof_pos for m in motions], 30)


def sequence(codes, books, **more): return Tokens(codes, books, **{**dict(frames=4*len(codes), fps=30, ratio=4), **more})
def rmse(a, b): return np.sqrt(np.mean((np.concatenate(a) - np.concatenate(b))**2))


@st.composite
def any_tokens(draw):
    books = draw(st.lists(st.integers(1, 2**24), min_size=1, max_size=4))
    ratio, frames, seed = draw(st.integers(1, 9)), draw(st.integers(1, 60)), draw(st.integers(0, 999))
    codes = np.random.default_rng(seed).integers(0, books, (-(-frames//ratio), len(books)))
    number = st.floats(-1e6, 1e6)
    return Tokens(codes, tuple(books), frames, draw(st.floats(0.1, 1000)), ratio, draw(st.text(max_size=8)), draw(st.tuples(number, number, number)), draw(st.dictionaries(st.text(), st.integers())))


@st.composite
def some_clips(draw):
    books = draw(st.lists(st.integers(1, 40), min_size=1, max_size=3))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    return [sequence(rng.integers(0, books, (n, len(books))), books) for n in draw(st.lists(st.integers(1, 30), min_size=1, max_size=7))]


# ---- codes that follow the path

class Rounding:
    "A coder that rounds the mean of every four frames to steps."
    def __init__(self, step): self.step = step

    def encode(self, x): return np.round(np.stack([x[i:i + 4].mean(0) for i in range(0, len(x), 4)])/self.step).astype(int)

    def decode(self, codes, frames): return np.repeat(codes*self.step, 4, axis=0)[:frames]


def farthest(a, b, layout): return np.linalg.norm(path_of(a, layout) - path_of(b, layout), axis=1).max()


def swaying(speed, rate, frames):
    "Features of a root that goes its way and sways."
    layout = layout_of("motion", ("hip", "knee"), "leg", 30)
    x, sway = np.zeros((frames, layout.dim), np.float32), np.sin(np.arange(frames)/3)
    x[:, layout.slices["root_velocity"]], x[:, layout.slices["yaw_rate"]] = np.stack([speed + 0.2*sway, 0.2*sway], 1), rate + 0.2*sway[:, None]
    return x, layout


def away(x, layout, coder): return (farthest(x, coder.decode(c, len(x)), layout) for c in (coder.encode(x), follow_path(x, layout, coder.encode, coder.decode)))


@settings(max_examples=30, deadline=None)
@given(st.floats(0.3, 1.2), st.floats(-0.8, 0.8), st.floats(0.1, 0.5), st.integers(5, 200))
def test_followed_codes_are_never_farther_from_the_path(speed, rate, step, frames):
    x, layout = swaying(speed, rate, frames)
    before = x.copy()
    plain, followed = away(x, layout, Rounding(step))
    assert followed <= plain and np.array_equal(x, before)


def test_followed_codes_are_far_nearer_to_the_path():
    "Rounded speeds that are wrong by a tenth lead astray; followed ones do not."
    found = np.array([list(away(*swaying(speed, rate, 240), Rounding(0.25))) for speed in (0.6, 0.9, 1.1) for rate in (-0.4, 0.1, 0.3)])
    assert np.median(found[:, 1]/found[:, 0]) < 0.5 and (found[:, 1] < 0.6*found[:, 0]).all()


def test_codes_that_are_near_enough_stay():
    layout = layout_of("motion", ("hip", "knee"), "leg", 30)
    x = np.random.default_rng(0).normal(size=(90, layout.dim)).astype(np.float32)
    coder, asked = Rounding(1e-4), []
    decode = lambda codes, n: (asked.append(n), x)[1]
    assert np.array_equal(follow_path(x, layout, coder.encode, decode), coder.encode(x)) and asked == [90]


# ---- tokens

@settings(max_examples=40, deadline=None)
@given(any_tokens())
def test_round_trip(tmp_path_factory, tokens):
    path = tmp_path_factory.mktemp("tokens")/"clip.npz"
    write_tokens(tokens, path)
    again = read_tokens(path)
    assert (again.codes == tokens.codes).all() and again.codes.dtype == np.int64
    assert all(getattr(again, k) == getattr(tokens, k) for k in ("books", "frames", "fps", "ratio", "checkpoint", "start", "source"))
    assert again.bits_per_second == pytest.approx(sum(np.log2(b) for b in tokens.books)*tokens.fps/tokens.ratio)
    assert [p.name for p in path.parent.iterdir()] == ["clip.npz"]


GOOD = dict(schema="motionbench-tokens", version=1, books=[8], frames=8, fps=30.0, ratio=4, checkpoint="", start=[0, 0, 0], source={})


@pytest.mark.parametrize("change, says", [
    (dict(schema="motionbench-clip"), "schema"), (dict(version=2), "Update"), (dict(version=None), "version"), (dict(books=[]), "books"), (dict(books=[2**40]), "books"),
    (dict(books=[8.0]), "whole"), (dict(books="88"), "whole"), (dict(frames=9), "per token"), (dict(frames=10**30), "per token"), (dict(ratio=0), "at least 1"), (dict(fps=float("nan")), "fps"),
    (dict(fps="fast"), "numbers"), (dict(start=[0, 0]), "start"), (dict(start=[0, 0, float("inf")]), "start"), (dict(books=[4]), "codes 0 to 3"), (dict(source=[]), "source"), (dict(checkpoint=7), "checkpoint")])
def test_a_hostile_meta_is_refused(tmp_path, change, says):
    np.savez(tmp_path/"x.npz", meta=np.array(json.dumps(GOOD)), codes=np.array([[3], [7]], np.uint8))
    assert read_tokens(tmp_path/"x.npz").codes.tolist() == [[3], [7]]
    np.savez(tmp_path/"x.npz", meta=np.array(json.dumps(GOOD | change)), codes=np.array([[3], [7]], np.uint8))
    with pytest.raises(MotionFormatError, match=says): read_tokens(tmp_path/"x.npz")


@pytest.mark.parametrize("codes, says", [(np.array([[0.], [1.]]), "whole"), (np.array([0, 1]), "shape"), (np.array([[-1], [0]]), "code -1"), (np.array([[0], [1]], object), "objects"), (np.array([["a"], ["b"]]), "whole")])
def test_hostile_codes_are_refused(tmp_path, codes, says):
    np.savez(tmp_path/"x.npz", meta=np.array(json.dumps(GOOD)), codes=codes)
    with pytest.raises(MotionFormatError, match=says): read_tokens(tmp_path/"x.npz")


@pytest.mark.parametrize("meta", ["[", "[" * 100_000, "7", "null"])
def test_a_meta_that_is_no_table(tmp_path, meta):
    np.savez(tmp_path/"x.npz", meta=np.array(meta), codes=np.array([[3], [7]]))
    with pytest.raises(MotionFormatError): read_tokens(tmp_path/"x.npz")


def test_a_truncated_file_and_a_source_that_is_no_json(tmp_path):
    write_tokens(sequence([[1], [2]], (8,)), tmp_path/"x.npz")
    data = (tmp_path/"x.npz").read_bytes()
    for n in (0, 10, len(data)//2, len(data) - 10):
        (tmp_path/"x.npz").write_bytes(data[:n])
        with pytest.raises(MotionFormatError): read_tokens(tmp_path/"x.npz")
    with pytest.raises(MotionFormatError, match="JSON"): write_tokens(sequence([[1]], (8,), source={"x": object()}), tmp_path/"y.npz")
    assert not (tmp_path/"y.npz").exists()


def test_ragged_codes_are_refused():
    with pytest.raises(InvalidMotion, match="whole"): sequence([[1], [2, 3]], (8,))


@settings(max_examples=40, deadline=None)
@given(some_clips(), st.integers(0, 999))
def test_statistics_do_not_depend_on_the_names_of_codes(clips, seed):
    rng = np.random.default_rng(seed)
    renamed = [rng.permutation(k) for k in clips[0].books]
    other = [replace(t, codes=np.stack([new[t.codes[:, q]] for q, new in enumerate(renamed)], 1)) for t in clips]
    flat = lambda s: [v if v is None else pytest.approx(v) for x in (s, *s["books"]) for k, v in x.items() if k != "books"]
    assert flat(token_statistics(other)) == flat(token_statistics(clips))


@settings(max_examples=40, deadline=None)
@given(some_clips())
def test_statistics_keep_their_bounds(clips):
    s = token_statistics(clips)
    assert s["tokens"] == sum(map(len, clips)) and 1 <= s["distinct"] <= s["tokens"]
    assert max(b["entropy_bits"] for b in s["books"]) - 1e-9 <= s["entropy_bits"] <= sum(b["entropy_bits"] for b in s["books"]) + 1e-9
    for b in s["books"]: assert 1 - 1e-9 <= b["perplexity"] <= b["used"] + 1e-9 <= b["size"] + 2e-9 and b["used_share"] == b["used"]/b["size"]


@settings(max_examples=20, deadline=None)
@given(some_clips())
def test_chances_of_the_bigram_model_sum_to_one(clips):
    for q, book in enumerate(bigram_model(clips).books):
        every = np.arange(clips[0].books[q])
        for a in every: assert np.exp2(book.log2_chance(np.full(len(every), a), every)).sum() == pytest.approx(1)


@pytest.mark.parametrize("size", [2, 16, 128])
def test_dice_have_the_perplexity_of_their_sides(size):
    rng = np.random.default_rng(0)
    s = token_statistics([sequence(rng.integers(0, size, (4000, 2)), (size, size)) for _ in range(5)])
    for b in s["books"]: assert b["bigram_perplexity"] == pytest.approx(size, rel=0.02) and b["perplexity"] == pytest.approx(size, rel=0.02)
    assert s["bigram_perplexity"] == pytest.approx(size**2, rel=0.04) and s["bigram_bits_per_second"] == pytest.approx(2*np.log2(size)*7.5, rel=0.01)


def test_a_cycle_is_foretold_and_a_known_chain_costs_its_entropy():
    cycle = [sequence(np.arange(i, i + 300)[:, None] % 50, (512,)) for i in range(5)]
    assert token_statistics(cycle)["bigram_perplexity"] == pytest.approx(1, abs=0.02) and token_statistics(cycle)["perplexity"] == pytest.approx(50, rel=0.01)
    rng = np.random.default_rng(1)
    steps = lambda: sequence(np.cumsum(rng.choice([1, 2], p=[.75, .25], size=5000))[:, None] % 30, (30,))
    assert held_out_bits([steps() for _ in range(5)])[0] == pytest.approx(-.75*np.log2(.75) - .25*np.log2(.25), abs=0.02)


def test_transitions_stay_within_a_clip():
    clips = [sequence([[0], [1]], (4,)), sequence([[2], [3]], (4,))]
    book = bigram_model(clips).books[0]
    assert book.pairs.tolist() == [0*4 + 1, 2*4 + 3] and book.counts.tolist() == [1, 1] and book.rows.tolist() == [1, 0, 1, 0]


def test_single_clips_and_single_tokens_have_no_bigrams():
    for clips in ([sequence([[1], [2], [1]], (4,))], [sequence([[1]], (4,)), sequence([[2]], (4,))]):
        s = token_statistics(clips)
        assert s["bigram_bits"] is None and s["books"][0]["bigram_perplexity"] is None and s["perplexity"] > 1
    assert token_statistics(clips, held_out=[sequence([[1], [2]], (4,))])["bigram_bits"] == pytest.approx(np.log2(4/1.5))     # (1 + 1/2)/(2 + 4/2)


def test_sequences_of_two_tokenizers_are_not_mixed():
    with pytest.raises(InvalidMotion, match="books"): token_statistics([sequence([[1]], (4,)), sequence([[1]], (8,))])
    with pytest.raises(InvalidMotion, match="checkpoint"): token_statistics([sequence([[1]], (4,)), sequence([[1]], (4,), checkpoint="a")])
    with pytest.raises(InvalidMotion, match="no token"): token_statistics([])


@settings(max_examples=20, deadline=None)
@given(some_clips(), st.integers(0, 99), st.integers(1, 30))
def test_sampled_tokens_were_seen(clips, seed, n):
    model = bigram_model(clips)
    new, seen = sample_tokens(model, n, seed), {tuple(c) for t in clips for c in t.codes}
    assert len(new) == n and {tuple(c) for c in new.codes} <= seen and tuple(new.codes[0]) in {tuple(t.codes[0]) for t in clips}
    assert (sample_tokens(model, n, seed).codes == new.codes).all() and (new.frames, new.fps, new.books) == (4*n, 30, clips[0].books)


@settings(max_examples=20, deadline=None)
@given(some_clips(), st.data())
def test_nearest_sequence_of_a_part_is_its_clip(clips, data):
    i = data.draw(st.integers(0, len(clips) - 1))
    a = data.draw(st.integers(0, len(clips[i]) - 1))
    query = sequence(clips[i].codes[a:a + 5], clips[i].books)
    found = nearest_sequences(query, clips, n=99)
    assert found[0]["distance"] == 0 and len(found) == sum(len(t) >= len(query) for t in clips)
    for r in found: assert r["distance"] == pytest.approx(min((t.codes[j:j + len(query)] != query.codes).mean() for t in [clips[r["clip"]]] for j in range(len(t) - len(query) + 1)))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 500), st.floats(1, 240))
def test_tokens_last_as_long_as_the_motion_they_are_of(frames, fps):
    tokens = Tokens(np.zeros((-(-frames//4), 1), int), (8,), frames, fps, 4)
    motion = Motion(fps, np.zeros((frames, 3)), np.tile([1., 0, 0, 0], (frames, 1)), np.zeros((frames, 1)), ("a",), "x")
    assert tokens.duration == motion.duration and f"{motion.duration:.2f} s" in repr(tokens)
    assert token_statistics([tokens, tokens])["seconds"] == pytest.approx(2*motion.duration)


# ---- the file of a tokenizer

@pytest.fixture(scope="module")
def tokenizer_file(biped, tmp_path_factory):
    "A small untrained tokenizer."
    layout, config = layout_of("motion", biped.joint_names, "biped", 30), load_config(width=8, code_dim=8, nb_code=16, depth=1)
    return save_tokenizer(tmp_path_factory.mktemp("file")/"t.safetensors", Tokenizer(MotionVQVAE(layout.dim, config).eval(), torch.zeros(layout.dim), torch.ones(layout.dim), layout, config))


def tampered(file, path, change):
    "A copy whose metadata went through `change`; the tensors are as they were."
    data = file.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + size])
    about = json.loads(header["__metadata__"]["motionbench-vqvae"])
    change(about)
    header["__metadata__"]["motionbench-vqvae"] = json.dumps(about)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size:])
    return path


def swapped(names, i, j):
    names[i], names[j] = names[j], names[i]


TAMPERED = {
    "the layout motion of 8 joints has 23 columns, the file 25": lambda a: a["layout"]["joint_names"].pop(),
    "the layout robot50 of 9 joints has 22 columns, the file 25": lambda a: a["layout"].update(name="robot50"),
    "layout is 'nonsense', expected motion, robot50, smpl364": lambda a: a["layout"].update(name="nonsense"),
    "column 8 is dof_pos:left_hip_pitch, where the layout motion of these joints has dof_pos:left_hip_roll": lambda a: swapped(a["layout"]["joint_names"], 1, 2),
    "column 0 is root_velocity:left, where the layout motion of these joints has root_velocity:forward": lambda a: swapped(a["layout"]["columns"], 0, 1),
    "the layout motion of 9 joints has 25 columns, the file 24": lambda a: a["layout"]["columns"].pop(),
    "the layout names the joint left_hip_pitch more than once": lambda a: a["layout"]["joint_names"].__setitem__(0, "left_hip_pitch"),
    "the layout's robot is '', expected a name": lambda a: a["layout"].update(robot=""),
    "the layout's robot is 7, expected a name": lambda a: a["layout"].update(robot=7),
    "the layout's fps is 0.0, expected a positive number": lambda a: a["layout"].update(fps=0),
    "the layout's fps is nan, expected a positive number": lambda a: a["layout"].update(fps=float("nan")),
    "is no tokenizer of motionbench (TypeError": lambda a: a["layout"].update(columns=7),
    "is no tokenizer of motionbench (ValueError: could not convert string to float": lambda a: a["layout"].update(fps="fast"),
    "is no tokenizer of motionbench (KeyError: 'layout')": lambda a: a.pop("layout"),
    "is no tokenizer of motionbench (ValidationError": lambda a: a["config"].update(nb_code=0),
    "is no tokenizer of motionbench (RuntimeError: Error(s) in loading state_dict": lambda a: a["config"].update(width=16),
    "is no tokenizer of motionbench (TypeError: 'int' object": lambda a: a.update(metrics=3),
}


@pytest.mark.parametrize("says", TAMPERED)
def test_a_tampered_tokenizer_is_one_clear_error(tokenizer_file, tmp_path, says):
    path = tampered(tokenizer_file, tmp_path/"t.safetensors", TAMPERED[says])
    with pytest.raises(MotionFormatError) as e: load_tokenizer(path)
    assert str(e.value).startswith(f"{path}: {says}") and "motionbench vqvae train" in e.value.remedy and "\n" not in str(e.value)


def test_a_tokenizer_that_was_only_copied_is_the_same(tokenizer_file, tmp_path):
    again = load_tokenizer(tampered(tokenizer_file, tmp_path/"t.safetensors", lambda a: None))
    assert again.digest == load_tokenizer(tokenizer_file).digest and tokenizer_file.stat().st_mode & 0o777 == 0o666 & ~current_umask()


def current_umask():
    "The permissions that new files do not get."
    os.umask(mask := os.umask(0))
    return mask


def test_no_changed_byte_of_the_metadata_is_more_than_an_error(tokenizer_file, tmp_path):
    data, rng, refused = bytearray(tokenizer_file.read_bytes()), np.random.default_rng(0), 0
    first, last = data.index(b"layout"), data.index(b"config")
    for at in rng.integers(first, last, 60):
        changed = data.copy()
        changed[at] = rng.integers(256)
        (tmp_path/"t.safetensors").write_bytes(changed)
        try: load_tokenizer(tmp_path/"t.safetensors")
        except MotionFormatError: refused += 1
    assert refused > 50


# ---- baselines

def test_more_bits_never_hurt_on_the_training_clips(coders, motions):
    x = [m.dof_pos for m in motions]
    errors = [rmse([c.decode(c.encode(y), len(y)) for y in x], x) for c in map(coders.at, (15, 30, 60, 100, 150, 250, 500, 1000, 1800))]
    assert (np.diff(errors) < 0).all() and errors[0] < rmse([np.tile(np.concatenate(x).mean(0), (len(y), 1)) for y in x], x) and errors[-1] < 0.007


@pytest.mark.parametrize("rate", [20, 130, 700, 1500])
def test_counted_bits_are_those_of_the_packed_file_and_within_the_rate(coders, motions, rate):
    c, count = coders.at(rate), 0
    for m in motions:
        bits = c.encode(m.dof_pos)
        assert set(bits.tolist()) <= {0, 1} and len(bits) == c.count(len(m)) and len(np.packbits(bits)) == -(-c.count(len(m))//8)
        assert (c.decode(np.unpackbits(np.packbits(bits))[:len(bits)], len(m)) == c.decode(bits, len(m))).all()
        count += len(bits)
    assert 0.9*rate < count*30/sum(map(len, motions)) <= rate


def test_with_all_bits_the_keyframes_remain(coders, motions):
    for coder, low, step, error in coders.candidates:
        bits = np.full(len(error), MOST_BITS)
        full = replace(coder, bits=bits, low=low[:, -1], step=step[:, -1])
        for m in motions[::3]: assert np.abs(full.decode(full.encode(m.dof_pos), len(m)) - interpolated(m.dof_pos, coder.spacing, coder.degree)).max() < 2e-3
    assert len(coders.candidates) == 42


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 50), st.sampled_from(SPACINGS), st.sampled_from(DEGREES), st.integers(0, 99))
def test_keyframes_are_the_best_there_are(frames, spacing, degree, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(frames, 3))
    y = interpolated(x, spacing, degree)
    assert y.shape == x.shape and np.allclose(interpolated(x + [1, 2, 3], spacing, degree), y + [1, 2, 3])
    assert np.allclose(interpolated(y, spacing, degree), y, atol=1e-8)              # a projection
    n = -(-frames//spacing)
    if degree == 1 and n > 1:
        t, at = np.arange(frames), np.linspace(0, frames - 1, n)
        keys = fit_keyframes(x, n) + 0.01*rng.normal(size=(n, 3))
        assert ((np.stack([np.interp(t, at, k) for k in keys.T], 1) - x)**2).sum() >= ((y - x)**2).sum()


def test_bits_lie_where_they_help_most():
    z = np.random.default_rng(0).normal(size=(4000, 5))*[10, 5, 1, 0.3, 0]
    low, step, error = quantiser_tables(z - z.mean(0))
    best, at = None, np.arange(5)
    for total in (1, 4, 7):
        bits = allot_bits(error, total)
        every = np.array([b for b in np.ndindex(*[total + 1]*4) if sum(b) == total])
        best = error[at[:4], every].sum(1).min()
        assert bits.sum() == total and bits[4] == 0 and error[at, bits].sum() <= best + error[4, 0] + 1e-9
    assert allot_bits(error, 10**6).max() <= MOST_BITS and allot_bits(error, 10**6)[4] == 0


def test_a_level_stands_for_the_middle_of_its_cell():
    low, step, error = quantiser_tables(np.linspace(-1, 1, 20001)[:, None])
    assert (low[0, 4:8] + 2.0**np.arange(4, 8)*step[0, 4:8]/2 == pytest.approx(0, abs=1e-9)) and error[0, 4:8] == pytest.approx(step[0, 4:8]**2/12, rel=0.1)


def test_coder_of_clips_it_never_saw(coders, motions):
    c = coders.at(500)
    for n in (1, 2, 5, 31): assert c.decode(c.encode(motions[0].dof_pos[:n]), n).shape == (n, 9)
    with pytest.raises(InvalidMotion, match="expected"): c.decode(np.zeros(3), 31)
    with pytest.raises(InvalidMotion, match="fitted to"): c.encode(np.zeros((4, 8)))
    with pytest.raises(InvalidMotion, match="shapes"): PcaKeyframes.fit([np.zeros((4, 8)), np.zeros((4, 9))], 30)
    with pytest.raises(ConfigError, match="weights"): PcaKeyframes.fit([np.zeros((4, 2))], 30, [1, 0])
    with pytest.raises(ConfigError, match="higher rate"): coders.at(0.01)


def test_weights_of_joints_are_what_the_bodies_move(biped, motions):
    x = motions[0].dof_pos[:20]
    data, reach = mujoco.MjData(biped.model), []
    for j, name in enumerate(biped.joint_names):
        moved = []
        for sign in (1, -1):
            for q in x:
                data.qpos[:7] = 0, 0, 0, 1, 0, 0, 0
                for k, n in enumerate(biped.joint_names): data.joint(n).qpos[0] = q[k] + sign*1e-5*(k == j)
                mujoco.mj_kinematics(biped.model, data)
                moved.append(data.xpos[1:].copy())
        reach.append(np.sqrt(((np.array(moved[:20]) - moved[20:])**2).sum(-1).mean())/2e-5)
    np.testing.assert_allclose(joint_reach(biped, x, least=0), reach, rtol=1e-3, atol=1e-6)
    assert joint_reach(biped, x).min() >= 0.1*max(reach)*0.999


# ---- metrics

def shaken(motion, seed=0):
    rng = np.random.default_rng(seed)
    turn = Rotation.from_rotvec(0.05*rng.normal(size=(len(motion), 3)))*Rotation.from_quat(motion.root_quat, scalar_first=True)
    return replace(motion, dof_pos=motion.dof_pos + 0.1*rng.normal(size=motion.dof_pos.shape), root_pos=motion.root_pos + 0.02*rng.normal(size=(len(motion), 3)), root_quat=turn.as_quat(scalar_first=True))


def test_errors_against_a_plain_loop(biped, motions):
    a, b = motions[0], shaken(motions[0])
    e, data, rows = motion_errors(a, b, biped), mujoco.MjData(biped.model), {True: [], False: []}
    for t in range(len(a)):
        for fixed in rows:
            place = []
            for m in (a, b):
                data.qpos[:7] = (0, 0, 0, 1, 0, 0, 0) if fixed else (*m.root_pos[t], *m.root_quat[t])
                for name, q in zip(m.joint_names, m.dof_pos[t]): data.joint(name).qpos[0] = q
                mujoco.mj_kinematics(biped.model, data)
                place.append({n: data.body(n).xpos.copy() for n in biped.body_names})
            rows[fixed] += [np.linalg.norm(place[0][n] - place[1][n]) for n in biped.body_names if n != biped.root_body]
    assert e["mpjpe_mm"] == pytest.approx(1000*np.mean(rows[True])) and e["mpjpe_world_mm"] == pytest.approx(1000*np.mean(rows[False]))
    assert e["mpjpe_p95_mm"] == pytest.approx(1000*np.percentile(rows[True], 95))
    d = b.dof_pos - a.dof_pos
    speed = [(d[t+1, j] - d[t, j])*30 for t in range(len(a) - 1) for j in range(9)]
    jerk = lambda x: [(x[t+3, j] - 3*x[t+2, j] + 3*x[t+1, j] - x[t, j])*30**3 for t in range(len(x) - 3) for j in range(9)]
    size = lambda x: np.sqrt(np.mean(np.square(x)))
    assert e["dof_vel_rmse_rad_s"] == pytest.approx(size(speed)) and e["dof_jerk_rmse_rad_s3"] == pytest.approx(size(jerk(d))) and e["dof_jerk_ratio"] == pytest.approx(size(jerk(b.dof_pos))/size(jerk(a.dof_pos)))
    assert e["dof_rmse_rad"] == pytest.approx(size(d)) and e["dof_mean_rad"] == pytest.approx(np.abs(d).mean()) and e["dof_max_rad"] == np.abs(d).max()
    assert e["dof_by_joint_rad"] == {n: pytest.approx(np.abs(d[:, a.joint_names.index(n)]).mean()) for n in biped.joint_names} and e["dof_by_joint_rad"][e["dof_max_joint"]] > 0
    heading = [Rotation.from_quat(m.root_quat[-1], scalar_first=True).as_matrix()[:, 0] for m in (a, b)]
    assert e["root_heading_drift_deg"] == pytest.approx(np.degrees(abs(np.arctan2(heading[1][1], heading[1][0]) - np.arctan2(heading[0][1], heading[0][0]))))
    assert e["root_drift_pct"] == pytest.approx(0.1*e["root_drift_mm"]/sum(np.hypot(*(a.root_pos[t+1] - a.root_pos[t])[:2]) for t in range(len(a) - 1)))


def test_skate_is_that_of_the_audit(biped, motions):
    e = motion_errors(motions[0], motions[0], biped)
    assert e["skate_mean_m_s"] == e["skate_reference_mean_m_s"] == pytest.approx(measure(motions[0], biped)[0]["skate_mean_m_s"])
    slid = replace(motions[6], contacts=None, contact_names=None, root_pos=motions[6].root_pos + np.outer(np.arange(len(motions[6]))/30, [1.5, 0, 0]))
    assert motion_errors(motions[6], slid, biped)["skate_mean_m_s"] == pytest.approx(1.5, rel=0.02)          # too fast to be a contact by itself


def test_a_motion_and_itself(biped, motions):
    e = motion_errors(motions[3], motions[3], biped)
    zero = [k for k in e if any(w in k for w in ("dof_m", "dof_rmse", "mpjpe", "vel_rmse", "jerk_rmse", "drift_mm", "height"))]
    assert len(zero) >= 8 and all(not e[k] for k in zero) and e["dof_jerk_ratio"] == 1
    assert motion_errors(motions[6], motions[6], biped)["root_drift_pct"] is None                            # standing


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(9)), st.permutations(range(9)))
def test_joints_are_matched_by_name(biped, motions, p, q):
    a, b = motions[0].cut(0, 20), shaken(motions[0]).cut(0, 20)
    other = [replace(m, dof_pos=m.dof_pos[:, list(o)], joint_names=tuple(m.joint_names[i] for i in o)) for m, o in ((a, p), (b, q))]
    assert motion_errors(*other, biped) == motion_errors(a, b, biped)


def test_what_cannot_be_compared(biped, motions):
    a = motions[0]
    for b, says in ((a.cut(1), "frames at"), (replace(a, fps=25), "25 fps")):
        with pytest.raises(InvalidMotion, match=says): motion_errors(a, b, biped)
    with pytest.raises(InvalidMotion, match="split"): motion_errors(*[concatenate([replace(m, extra={}) for m in motions[:2]], boundaries=True)]*2, biped)
    with pytest.raises(InvalidMotion, match="two frames"): motion_errors(a.cut(0, 1), a.cut(0, 1), biped)
    short = motion_errors(a.cut(0, 3), shaken(a).cut(0, 3), biped)
    assert short["dof_jerk_ratio"] is None and short["dof_vel_rmse_rad_s"] > 0


def test_means_over_clips_are_those_of_all_frames(biped, motions):
    rows = [motion_errors(m, shaken(m, i), biped) for i, m in enumerate(motions)]
    mean, frames = mean_errors(rows, [len(m) for m in motions]), sum(map(len, motions))
    d = np.concatenate([shaken(m, i).dof_pos - m.dof_pos for i, m in enumerate(motions)])
    assert mean["dof_rmse_rad"] == pytest.approx(np.sqrt((d**2).mean())) and mean["dof_max_rad"] == np.abs(d).max() and mean["dof_mean_rad"] == pytest.approx(np.abs(d).mean())
    assert mean["dof_max_joint"] == motions[0].joint_names[np.abs(d).max(0).argmax()] and mean.keys() == rows[0].keys()
    assert mean["mpjpe_mm"] == pytest.approx(sum(r["mpjpe_mm"]*len(m) for r, m in zip(rows, motions))/frames) and mean["root_drift_pct"] is not None
