"""Ours against torch transformers on random tiny models: hidden states, logits, loss, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bsft_jax.hub import files, loading
from bsft_jax.models import architecture, head
from bsft_jax.models.attention import Layout
from bsft_jax.models.network import Network
from bsft_jax.parallel import mesh as mesh_lib
from bsft_jax.trees import flatten
from tests.tiny import SHAPES, assert_close, save_torch

torch = pytest.importorskip('torch')


@pytest.mark.parametrize('shape', SHAPES)
def test_logits_and_gradients_equal_torch(shape, tmp_path, monkeypatch):
    monkeypatch.setattr(head, 'TILE_ELEMENTS', 100 * 100)  # several tiles a row
    theirs = save_torch(tmp_path, **SHAPES[shape])
    arch = architecture.from_hf_config(files.read_config(tmp_path))
    network = Network(arch)
    params = loading.load_params(tmp_path, network, mesh_lib.single_device_mesh())
    assert arch.parameters == sum(p.numel() for p in theirs.parameters())
    tokens_BT = np.random.default_rng(0).integers(0, arch.vocab_size, (2, 150)).astype(np.int32)
    targets_BT = np.roll(tokens_BT, -1, 1)

    @jax.jit
    def run(params):
        decoder = network.bind(params)
        hidden_BTD, _ = decoder(tokens_BT, Layout.single(jnp.asarray(tokens_BT)))
        return hidden_BTD, head.logits(decoder, hidden_BTD)

    def loss(params):
        decoder = network.bind(params)
        hidden_BTD, _ = decoder(tokens_BT, Layout.single(jnp.asarray(tokens_BT)))
        return -head.target_logprobs(decoder, hidden_BTD, targets_BT)[0].mean()

    out = theirs(torch.tensor(tokens_BT).long(), output_hidden_states=True)
    hidden_BTD, logits_BTV = run(params)
    assert_close(hidden_BTD, out.hidden_states[-1].detach().numpy(), 1e-4)
    assert_close(logits_BTV, out.logits.detach().numpy(), 1e-4)

    torch_loss = torch.nn.functional.cross_entropy(
        out.logits.flatten(0, 1), torch.tensor(targets_BT).long().flatten()
    )
    torch_loss.backward()
    value, gradients = jax.jit(jax.value_and_grad(loss))(params)
    assert abs(float(value) - torch_loss.item()) < 1e-5
    ours = flatten(gradients)
    by_name = dict(theirs.named_parameters())
    for name, path, transpose in (
        ('model.embed_tokens.weight', 'embed/table', False),
        ('model.layers.1.self_attn.q_proj.weight', 'layers/attention/q/kernel', True),
        ('model.layers.0.mlp.down_proj.weight', 'layers/mlp/down/kernel', True),
        ('model.layers.1.input_layernorm.weight', 'layers/attention_norm/scale', False),
    ):
        reference = by_name[name].grad.numpy()
        got = np.asarray(ours[path])
        got = got[int(name.split('.')[2])] if 'layers' in name else got
        got = got.T if transpose else got
        assert np.linalg.norm(got - reference) / np.linalg.norm(reference) < 1e-4, name
