"The token model against torch's own convolutions, and against what the models before it got wrong."
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings, strategies as st
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from motionbench.core.errors import ConfigError, InvalidMotion
from motionbench.core.robot import load_robot
from motionbench.vqvae import model as network
from motionbench.vqvae.config import VqvaeConfig
from motionbench.vqvae.losses import fk_loss, reconstruction_loss, usage, velocity_loss
from motionbench.vqvae.model import MotionVQVAE, TimeConv, UpConv, swap
from motionbench.vqvae.quantizers import make_quantizer

KINDS = ("ema", "ema_reset", "orig", "reset", "fsq", "rvq", "multihead")


def small(kind="ema_reset", **more):
    "A small configuration."
    return VqvaeConfig(**{**dict(quantizer=kind, width=16, code_dim=8, nb_code=16, num_quantizers=3, heads=4, levels=(5, 4, 3), window_size=32, batch_size=8), **more})


def noise(*shape, seed=0): return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def model_of(config, dim=5, seed=0, steps=0, x=None):
    "A model that has learned for some steps."
    torch.manual_seed(seed)
    model = MotionVQVAE(dim, config)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for i in range(steps): learn(model, optimizer, noise(8, config.window_size, dim, seed=i))
    return model


def learn(model, optimizer, x, mask=None):
    out = model(x, mask)
    loss = reconstruction_loss(out.recon, x, mask) + 0.5*velocity_loss(out.recon, x, mask) + 0.02*out.commit
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def same(a, b): return all(torch.equal(v, b[k]) for k, v in a.items()) and a.keys() == b.keys()


# ---- convolutions

def agree(ours, plain, x, prepared=lambda x: x):
    "Outputs and all gradients of the two, for `x` `(B, T, C)`."
    a, b = (x.clone().requires_grad_() for _ in range(2))
    with torch.backends.mkldnn.flags(enabled=False): y, z = swap(ours(swap(a))), plain(prepared(b.transpose(1, 2))).transpose(1, 2)   # oneDNN crashes on some of these shapes
    assert y.shape == z.shape
    weight = noise(*y.shape, seed=1)
    (y*weight).sum().backward(), (z*weight).sum().backward()
    for got, want in ((y, z), (a.grad, b.grad), (ours.weight.grad.permute(2, 1, 0), plain.weight.grad), (ours.bias.grad, plain.bias.grad)): torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:TF32")
@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 3), st.integers(1, 9), st.integers(0, 12), st.integers(1, 20), st.integers(1, 3), st.integers(0, 99))
def test_convolution_is_torchs(kernel, stride, dilation, padding, frames, batch, seed):
    assume(frames + 2*padding - dilation*(kernel - 1) >= 1)
    torch.manual_seed(seed)
    ours, plain = (c(3, 4, kernel, stride=stride, dilation=dilation, padding=padding) for c in (TimeConv, nn.Conv1d))
    assert all(abs(p.std()/q.std() - 1) < 0.6 for p, q in ((ours.weight, plain.weight),) if p.numel() > 20)
    plain.load_state_dict(dict(weight=ours.weight.permute(2, 1, 0), bias=ours.bias))
    agree(ours, plain, noise(batch, frames, 3, seed=seed))


@pytest.mark.filterwarnings("ignore:TF32")
@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 3))
def test_upsampling_is_torchs(factor, frames, batch):
    ours, plain = UpConv(3, factor), nn.Conv1d(3, 3, 3, padding=1)
    plain.load_state_dict(dict(weight=ours.weight.permute(2, 1, 0), bias=ours.bias))
    agree(ours, plain, noise(batch, frames, 3), nn.Upsample(scale_factor=factor))


@pytest.mark.parametrize("norm", [None, "LN", "GN", "BN"])
@pytest.mark.parametrize("stride", [2, 3])
def test_the_order_of_a_gpu_gives_the_same(norm, stride, monkeypatch):
    config, x, states = small("fsq", vq_norm=norm, stride_t=stride, window_size=36, vq_act="silu"), noise(2, 29, 5).double(), []
    for first in (False, True):
        monkeypatch.setattr(network, "channels_first", lambda x: first)
        model = model_of(config).double()
        out = model(x)
        out.recon.square().sum().backward()
        states.append([out.recon, *(p.grad for p in model.parameters())])
    for a, b in zip(*states): torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


# ---- what the training window sees

@pytest.mark.parametrize("window, down, stride", [(32, 2, 2), (64, 2, 2), (8, 2, 2), (5, 2, 2), (16, 3, 2), (7, 1, 3), (36, 2, 3), (2, 0, 2), (9, 2, 1)])
def test_every_tap_learns_from_the_training_window(window, down, stride):
    model = model_of(small("fsq", window_size=window, down_t=down, stride_t=stride))
    model(noise(64, window, 5)).recon.square().sum().backward()
    convs = [m for m in model.modules() if isinstance(m, TimeConv)]
    assert len(convs) == 5 + down*(2 + 2*2*3) and all((m.weight.grad.flatten(1).norm(dim=1) > 0).all() for m in convs)


def test_dilations_are_the_wanted_ones_where_the_window_allows_it():
    dilation = lambda window: [m.dilation for m in MotionVQVAE(5, small(window_size=window)).encoder.modules() if isinstance(m, TimeConv) and len(m.weight) == 3][1:-1]
    assert dilation(64) == [9, 3, 1]*2 and dilation(32) == [9, 3, 1, 5, 3, 1] and dilation(8) == [2, 2, 1, 1, 1, 1]


def test_a_window_of_one_token_is_refused():
    with pytest.raises(ConfigError, match="window_size is 4.*take at least 5"): MotionVQVAE(5, small(window_size=4))


# ---- any length

@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("frames", [1, 3, 31, 32, 1000])
def test_any_length(kind, frames):
    model = model_of(small(kind), steps=1)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    x = noise(2, frames, 5, seed=9)
    codes = model.encode(x)
    assert model.training and same(before, model.state_dict())
    out = model.eval()(x)
    assert codes.shape == (2, -(-frames//4), len(model.quantizer.books)) and torch.equal(codes, out.codes)
    assert out.recon.shape == x.shape
    torch.testing.assert_close(model.decode(codes, frames), out.recon, atol=1e-5, rtol=1e-5)
    assert model.decode(codes).shape == (2, 4*codes.shape[1], 5)


@pytest.mark.parametrize("shape", [(2, 8, 4), (2, 0, 5), (8, 5)])
def test_features_of_another_shape_are_refused(shape):
    with pytest.raises(InvalidMotion, match=r"expected \(batch, frames, 5\)"): model_of(small()).encode(torch.zeros(shape))


def test_codes_that_cannot_be_decoded_are_refused():
    model = model_of(small("rvq"))
    for codes, frames, words in ((torch.full((1, 2, 3), 16), None, "code 16 is in no book"), (torch.full((1, 2, 3), -2), None, "code -2 is in no book"),
                                 (torch.zeros(1, 2, 1, dtype=int), None, "1 codes per token, but there are 3 books"), (torch.zeros(1, 2, 3, dtype=int), 9, "9 frames wanted of 2 tokens")):
        with pytest.raises(InvalidMotion, match=words): model.decode(codes, frames)


@pytest.mark.parametrize("change, words", [(dict(quantizer="vq"), "quantizer is 'vq'"), (dict(vq_act="tanh"), "vq_act is 'tanh'"), (dict(vq_norm="RMS"), "vq_norm is 'RMS'"),
                                           (dict(quantizer="multihead", heads=3), "3 heads")])
def test_settings_that_no_network_has(change, words):
    with pytest.raises(ConfigError, match=words): MotionVQVAE(5, small().model_copy(update=change))


# ---- quantizers

@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("more", [{}, dict(output_emb_width=12), dict(levels=(2, 3), heads=1, num_quantizers=1)])
def test_codes_vectors_and_bits(kind, more):
    config = small(kind, **more)
    torch.manual_seed(0)
    quantizer, z = make_quantizer(config), noise(4, 16, config.output_emb_width or config.code_dim)
    for _ in range(3): quantizer(z)
    zq, codes, loss = quantizer.eval()(z)
    books = dict(fsq=[int(np.prod(config.levels))], rvq=[16]*config.num_quantizers, multihead=[16]*config.heads).get(kind, [16])
    assert quantizer.books == books and abs(quantizer.bits - np.log2(books).sum()) < 1e-9 and loss == 0
    assert codes.dtype == torch.long and codes.shape == (4, 16, len(books)) and all(((c := codes[..., q]) >= 0).all() and (c < n).all() and len(c.unique()) > 1 for q, n in enumerate(books))
    torch.testing.assert_close(quantizer.vectors(codes), zq, atol=1e-6, rtol=1e-5)
    assert (quantizer.vectors(torch.full_like(codes, -1)) == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_safetensors_bring_back_the_same_model(kind, tmp_path):
    model = model_of(small(kind), steps=3).eval()
    save_file(model.state_dict(), tmp_path/"m.safetensors")
    other = model_of(small(kind), seed=1)
    other.load_state_dict(load_file(tmp_path/"m.safetensors"))
    x = noise(2, 31, 5)
    assert same(model.state_dict(), other.state_dict()) and torch.equal(model(x).recon, other.eval()(x).recon)


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_model_keeps_its_codebook(kind, tmp_path):
    model = model_of(small(kind), steps=5)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    save_file(before, tmp_path/"m.safetensors")
    other = model_of(small(kind), seed=1)
    other.load_state_dict(load_file(tmp_path/"m.safetensors"))
    for m in (model, other):
        torch.manual_seed(7)
        m.train()(noise(8, 32, 5, seed=5))
    assert same(model.state_dict(), other.state_dict())
    for name, book in before.items():                           # a book that starts anew has no row in common with the old one
        if name.endswith("embed"): assert (((book - other.state_dict()[name]).norm(dim=-1) < 0.2*book.norm(dim=-1)).float().mean() >= 0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_the_encoder_and_the_book(kind):
    model = model_of(small(kind, quantize_dropout=0), steps=1)
    model.zero_grad()
    model(noise(8, 32, 5)).recon.square().mean().backward()
    assert all(p.grad.norm() > 0 for p in model.encoder.parameters() if p.ndim > 1)
    model.zero_grad()
    model(noise(8, 32, 5)).commit.backward() if kind != "fsq" else None
    learned = [p for n, p in model.named_parameters() if n.endswith("embed")]
    assert len(learned) == (kind in ("orig", "reset")) and all(p.grad.norm() > 0 for p in learned)


def test_straight_through():
    "The gradient of a quantised latent is that of what it stands for, unchanged."
    quantizer, z = make_quantizer(small()), noise(2, 8, 8).requires_grad_()
    weight = noise(2, 8, 8, seed=1)
    (quantizer(z)[0]*weight).sum().backward()
    torch.testing.assert_close(z.grad, weight)


@pytest.mark.parametrize("kind", ["orig", "reset"])
def test_beta_weighs_the_encoders_side(kind):
    z, grads = noise(2, 40, 8), []
    for beta in (1.0, 0.25):
        torch.manual_seed(0)
        quantizer, x = make_quantizer(small(kind, beta=beta)), z.clone().requires_grad_()
        quantizer(x)[2].backward()
        grads.append((x.grad, quantizer.net._codebook.embed.grad))
    torch.testing.assert_close(grads[1][0], grads[0][0]*0.25)
    torch.testing.assert_close(grads[1][1], grads[0][1])


def test_unused_rows_are_replaced_by_latents_from_all_over_the_batch():
    torch.manual_seed(0)
    quantizer, z = make_quantizer(small(nb_code=512, batch_size=256)), noise(20, 100, 8)
    quantizer(z)
    distance, row = torch.cdist(quantizer.net._codebook.embed[0], z.flatten(0, 1), compute_mode="donot_use_mm_for_euclid_dist").min(1)
    replaced = row[distance == 0]
    assert len(replaced) > 100 and len(replaced.unique()) == len(replaced) and (replaced < 512).float().mean() < 0.4 and replaced.max() > 1900


def test_rows_that_are_in_use_stay():
    quantizer, z = make_quantizer(small(nb_code=4)), noise(20, 100, 8)
    for _ in range(300): quantizer(z)
    before = quantizer.net._codebook.embed.clone()
    quantizer(z)
    assert (before - quantizer.net._codebook.embed).abs().max() < 0.02


def test_more_residual_books_come_closer():
    torch.manual_seed(0)
    quantizer, z = make_quantizer(small("rvq", quantize_dropout=0.5)), noise(8, 64, 8)
    for _ in range(60): quantizer(z)
    codes = quantizer.eval()(z)[1]
    errors = [(quantizer.vectors(torch.where(torch.arange(3) < k, codes, -1)) - z).square().mean().item() for k in range(4)]
    assert errors == sorted(errors, reverse=True) and errors[3] < 0.5*errors[1]


@pytest.mark.parametrize("share", [0.0, 0.6])
def test_share_of_batches_with_fewer_books(share):
    torch.manual_seed(0)
    quantizer, z = make_quantizer(small("rvq", quantize_dropout=share)), noise(2, 16, 8)
    dropped = np.mean([(quantizer(z)[1] < 0).any().item() for _ in range(120)])
    assert abs(dropped - share*2/3) < 0.15*(share > 0) + 1e-9 and (quantizer.eval()(z)[1] >= 0).all()


@pytest.mark.parametrize("kind", ["ema", "orig"])
def test_a_book_does_not_start_from_what_is_only_evaluated(kind):
    model = model_of(small(kind))
    with pytest.raises(ConfigError, match="codebook is still empty"): model.encode(noise(1, 8, 5))
    model(noise(8, 32, 5))
    assert model.encode(noise(1, 8, 5)).shape == (1, 2, 1)


# ---- masks

@pytest.mark.parametrize("kind", KINDS)
def test_padded_frames_change_nothing(kind):
    x, mask, results = noise(6, 30, 5), torch.arange(30) < torch.tensor([30, 1, 7, 12, 29, 30])[:, None], []
    for filler in (0.0, 1e4):
        model = model_of(small(kind), steps=1)
        optimizer = torch.optim.SGD(model.parameters(), 1e-2)
        torch.manual_seed(3)
        loss = learn(model, optimizer, x.masked_fill(~mask[..., None], filler), mask)
        torch.manual_seed(3)
        results.append((loss, model(x.masked_fill(~mask[..., None], filler), mask).codes, model.state_dict()))
    (a, b, c), (d, e, f) = results
    assert a == d and torch.equal(b, e) and same(c, f)
    assert torch.equal((b[..., 0] >= 0).sum(1), torch.tensor([8, 1, 2, 3, 8, 8]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_mask_is_no_mask(kind):
    model, x = model_of(small(kind), steps=1).eval(), noise(2, 30, 5)
    a, b = model(x), model(x, torch.ones(2, 30, dtype=bool))
    assert torch.equal(a.recon, b.recon) and torch.equal(a.codes, b.codes)


# ---- losses

@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(1, 7), st.integers(1, 3), st.sampled_from(["l1", "l2", "l1_smooth"]), st.integers(0, 999))
def test_losses_against_a_loop(batch, frames, dim, kind, seed):
    recon, x = 2*noise(batch, frames, dim, seed=seed), noise(batch, frames, dim, seed=seed + 1)
    mask = torch.arange(frames) < torch.randint(1, frames + 1, (batch, 1), generator=torch.Generator().manual_seed(seed))
    penalty = dict(l1=abs, l2=lambda e: e*e, l1_smooth=lambda e: e*e/2 if abs(e) < 1 else abs(e) - 0.5)[kind]
    mean = lambda v: sum(v)/max(len(v), 1)
    entries = [(b, t, d) for b in range(batch) for t in range(frames) for d in range(dim) if mask[b, t]]
    assert abs(reconstruction_loss(recon, x, mask, kind).item() - mean([penalty((recon - x)[i].item()) for i in entries])) < 1e-5
    steps = [penalty((recon[b, t, d] - recon[b, t-1, d] - x[b, t, d] + x[b, t-1, d]).item()) for b, t, d in entries if t and mask[b, t-1]]
    assert abs(velocity_loss(recon, x, mask, kind).item() - mean(steps)) < 1e-5


def test_velocity_is_over_time_and_not_over_features():
    x = noise(2, 9, 4)
    assert velocity_loss(x + noise(1, 1, 4, seed=1)*5, x) < 1e-9
    assert velocity_loss(x + noise(1, 9, 1, seed=1)*5, x) > 1


def test_velocity_of_one_frame_is_zero_and_has_a_gradient():
    x = noise(2, 1, 4).requires_grad_()
    velocity_loss(x, noise(2, 1, 4, seed=1), torch.ones(2, 1, dtype=bool)).backward()
    assert (x.grad == 0).all()


def test_fk_loss():
    biped = load_robot("biped")
    low, high = torch.tensor(biped.joint_range).T
    dof = low + (high - low)*torch.rand(2, 3, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    other = (dof + 0.05*noise(2, 3, 9, seed=1)).requires_grad_()
    assert fk_loss(dof, dof, biped.tree) == 0 and 1e-3 < fk_loss(other, dof, biped.tree) < 0.1
    assert torch.autograd.gradcheck(lambda q: fk_loss(q, dof, biped.tree), other)
    same_pose = dof.clone().requires_grad_()
    fk_loss(same_pose, dof, biped.tree).backward()
    assert (same_pose.grad.abs() < 1e-9).all()
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert torch.isclose(fk_loss(other, dof, biped.tree, mask), torch.stack([fk_loss(other[b:b+1, t:t+1], dof[b:b+1, t:t+1], biped.tree) for b, t in ((0, 0), (0, 1), (1, 0))]).mean())


def test_usage():
    codes = torch.tensor([[0, 3], [0, -1], [1, -1], [1, -1]])
    assert usage(codes, [4, 8]) == dict(use=(0.5 + 0.125)/2, perplexity=1.5, entropy_bits=1.0)
    assert usage(torch.full((3, 1), -1), [4]) == dict(use=0.0, perplexity=1.0, entropy_bits=0.0)


# ---- learning

@pytest.mark.parametrize("kind", ["ema_reset", "reset", "fsq", "rvq"])
def test_the_loss_falls(kind):
    t = torch.arange(32)/32*2*torch.pi
    x = torch.stack([torch.sin(k*t + p) for k in (1, 2) for p in torch.arange(8)/8*2*torch.pi], 0)[..., None]*torch.tensor([1.0, -1, 0.5, 2, 0])
    model = model_of(small(kind, linear_path=False))
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    losses = [learn(model, optimizer, x) for _ in range(50)]
    assert np.mean(losses[-5:]) < 0.7*losses[0]
