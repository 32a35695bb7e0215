"""Compares random tiny models with torch transformers: layers, logits, loss and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bsft_jax.hub import configs, files, loading, tables
from bsft_jax.models import lm_head
from bsft_jax.models.network import Network
from bsft_jax.ops import cross_entropy
from bsft_jax.ops.attention import TokenLayout
from bsft_jax.parallel import mesh as mesh_lib
from bsft_jax.pytrees import flatten
from tests.tiny import NO_TORCH, SHAPES, assert_close, save_torch

torch = pytest.importorskip('torch', reason=NO_TORCH)
# Lengths of two segments; every window of SHAPES is shorter than the first.
LENGTHS = 90, 60
PADDING = 10


def load(directory):
    arch = configs.architecture_of(files.read_config(directory))
    network = Network(arch)
    return network, loading.load_params(directory, network, mesh_lib.single_device_mesh())


def run_torch(model, tokens_BT):
    """Returns logits, final hidden states and the keys and values of every layer."""
    from transformers import DynamicCache

    tokens_BT = torch.tensor(np.asarray(tokens_BT)).long()
    out = model(
        tokens_BT, output_hidden_states=True, past_key_values=DynamicCache(), use_cache=True
    )
    kv = [
        (layer.keys.transpose(1, 2), layer.values.transpose(1, 2))
        for layer in out.past_key_values.layers
    ]
    k_LBTKH, v_LBTKH = (np.stack([pair[i].detach().numpy() for pair in kv]) for i in (0, 1))
    return out.logits.detach().numpy(), out.hidden_states[-1].detach().numpy(), k_LBTKH, v_LBTKH


def packed_row(segments):
    """Returns the segments in one row with padding behind them: tokens_BT and their layout."""
    lengths = [len(segment) for segment in segments]
    segment_ids = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    positions = np.concatenate([np.arange(n) for n in lengths])

    def pad(x):
        return jnp.asarray(np.pad(x, (0, PADDING))[None], jnp.int32)

    return pad(np.concatenate(segments)), TokenLayout(pad(segment_ids), pad(positions))


@pytest.mark.parametrize('shape', SHAPES)
def test_layers_logits_and_gradients_equal_torch(shape, tmp_path, monkeypatch):
    # Several tiles.
    monkeypatch.setattr(cross_entropy, 'MIN_TILE_TOKENS', 16)
    theirs = save_torch(tmp_path, **SHAPES[shape])
    network, params = load(tmp_path)
    assert network.arch.parameters == sum(p.numel() for p in theirs.parameters())
    rng = np.random.default_rng(0)
    segments = [rng.integers(0, network.arch.vocab_size, n).astype(np.int32) for n in LENGTHS]
    tokens_BT, layout = packed_row(segments)
    targets_BT = jnp.roll(tokens_BT, -1, 1)
    # The token behind the end of a segment belongs to another one.
    ends = np.cumsum(LENGTHS) - 1
    counted_BT = (layout.segment_ids_BT > 0).at[0, ends].set(False)

    @jax.jit
    def run(params):
        decoder = network.bind(params)
        hidden_BTD, kv = decoder(tokens_BT, layout)
        k_LBTKH, v_LBTKH = (jnp.swapaxes(x, 2, 3) for x in (kv.k_LBKSH, kv.v_LBKSH))
        return lm_head.logits(decoder, hidden_BTD), hidden_BTD, k_LBTKH, v_LBTKH

    def loss(params):
        decoder = network.bind(params)
        weights_BT = counted_BT.astype(jnp.float32)
        return (
            lm_head.weighted_loss(decoder, decoder(tokens_BT, layout)[0], targets_BT, weights_BT)[0]
            / counted_BT.sum()
        )

    start = 0
    ours = run(params)
    for segment in segments:
        columns = slice(start, start + len(segment))
        for got, reference in zip(ours, run_torch(theirs, segment[None]), strict=True):
            assert_close(got[:, columns] if got.ndim == 3 else got[:, :, columns], reference, 1e-4)
        start += len(segment)

    total = 0.0
    for segment in segments:
        tokens = torch.tensor(segment).long()[None]
        logits = theirs(tokens).logits[0, :-1]
        total = total + torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction='sum')
    total = total / int(counted_BT.sum())
    total.backward()
    value, gradients = jax.jit(jax.value_and_grad(loss))(params)
    assert abs(float(value) - total.item()) < 1e-5
    gradients, by_name = flatten(gradients), dict(theirs.named_parameters())
    for path, entry in tables.entries(network.arch, gradients).items():
        for i, name in enumerate(entry.tensors):
            got = np.asarray(gradients[path][i] if entry.stacked else gradients[path])
            reference = by_name[name].grad.numpy()
            reference = reference.T if entry.transpose else reference
            # The bias of keys shifts all scores of a query alike: its gradient is rounding error.
            assert np.linalg.norm(got - reference) <= 1e-4 * max(np.linalg.norm(reference), 1e-3), (
                name
            )


def test_period_and_remainder_of_the_layers(tmp_path):
    save_torch(tmp_path, **SHAPES['gemma3 remainder'])
    network, params = load(tmp_path)
    assert [bool(kind.window) for kind in network.arch.kinds] == [True] * 5 + [False]
    assert params['layers']['mlp']['up']['kernel'].shape[0] == 6
    assert params['rest']['mlp']['up']['kernel'].shape[0] == 2
