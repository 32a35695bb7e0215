"""Layer by layer and at the end, ours against torch transformers on random tiny models."""

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
def test_logits_and_gradients_equal_torch(shape, tmp_path):
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


def test_packed_documents_equal_separate_documents():
    network = Network(_tiny_arch())
    params = network.init(jax.random.key(1))
    rng = np.random.default_rng(1)
    first, second = rng.integers(0, 96, 7), rng.integers(0, 96, 9)
    packed = np.concatenate([first, second, np.zeros(4, int)])[None]
    segments = np.array([[1] * 7 + [2] * 9 + [0] * 4])
    positions = np.array([[*range(7), *range(9), *range(4)]])

    def hidden(tokens, layout):
        return network.bind(params)(jnp.asarray(tokens), layout)[0]

    together = hidden(packed, Layout(jnp.asarray(segments), jnp.asarray(positions)))
    for tokens, start in ((first, 0), (second, 7)):
        alone = hidden(tokens[None], Layout.single(jnp.asarray(tokens[None])))
        assert_close(together[:, start : start + len(tokens)], alone, 1e-6)

    changed = packed.copy()
    changed[0, 3] = (changed[0, 3] + 1) % 96
    after = hidden(changed, Layout(jnp.asarray(segments), jnp.asarray(positions)))
    assert jnp.array_equal(after[:, 7:], together[:, 7:])
    assert not jnp.array_equal(after[:, 3:7], together[:, 3:7])


def test_cached_prompt_equals_one_pass():
    network = Network(_tiny_arch())
    decoder = network.bind(network.init(jax.random.key(2)))
    tokens_BT = jnp.asarray(np.random.default_rng(2).integers(0, 96, (2, 12)))
    whole = Layout.single(tokens_BT)
    expected, _ = decoder(tokens_BT, whole)
    cut = lambda layout, part: jax.tree.map(lambda x: x[:, part], layout)  # noqa: E731
    _, view = decoder(tokens_BT[:, :8], cut(whole, slice(0, 8)))
    rest, _ = decoder(tokens_BT[:, 8:], cut(whole, slice(8, None)), view)
    assert_close(rest, expected[:, 8:], 1e-6)


def _tiny_arch(**changes):
    sizes = dict(
        family='qwen2', vocab_size=96, width=32, layers=2, heads=4, kv_heads=2, head_width=8, ffn_width=48,
        max_positions=64, rope_theta=10000.0, norm_eps=1e-6, tied=True, qkv_bias=True,
    )  # fmt: skip
    return architecture.Architecture(**sizes | changes)


@pytest.mark.parametrize('ids', [(90, 91), (96, 97)], ids=['spare rows', 'growth'])
@pytest.mark.parametrize('tied', [True, False])
def test_behavior_rows_leave_old_logits_bit_equal(ids, tied):
    plain, extended = Network(_tiny_arch(tied=tied)), Network(_tiny_arch(tied=tied), ids)
    params = plain.init(jax.random.key(3))
    rows = {'input': jnp.full((2, 32), 0.3), **({} if tied else {'output': jnp.full((2, 32), -0.2)})}
    tokens_BT = jnp.asarray(np.random.default_rng(3).integers(0, 90, (2, 12)))

    def logits(network, params):
        decoder = network.bind(params)
        return head.logits(decoder, decoder(tokens_BT, Layout.single(tokens_BT))[0])

    old, new = logits(plain, params), logits(extended, {**params, 'behavior': rows})
    others = [i for i in range(96) if i not in ids]
    assert new.shape[-1] == max(96, max(ids) + 1)
    assert jnp.array_equal(old[..., jnp.asarray(others)], new[..., jnp.asarray(others)])


@pytest.mark.parametrize('ids', [(90, 91), (96, 97)], ids=['spare rows', 'growth'])
@pytest.mark.parametrize('tied', [True, False])
def test_target_logprobs_equal_full_logits(ids, tied):
    network = Network(_tiny_arch(tied=tied), ids)
    params = jax.tree.map(
        lambda x: x + 0.1 * jax.random.normal(jax.random.key(4), x.shape), network.init(jax.random.key(4))
    )
    decoder = network.bind(params)
    rng = np.random.default_rng(4)
    tokens_BT = jnp.asarray(rng.choice([*range(90), *ids], (2, 300)))
    targets_BT = jnp.roll(tokens_BT, -1, 1)
    hidden_BTD, _ = decoder(tokens_BT, Layout.single(tokens_BT))
    reference = jax.nn.log_softmax(head.logits(decoder, hidden_BTD))
    logprob_BT, correct_BT = head.target_logprobs(decoder, hidden_BTD, targets_BT)
    expected = jnp.take_along_axis(reference, targets_BT[..., None], -1)[..., 0]
    assert_close(logprob_BT, expected, 1e-6)
    assert jnp.array_equal(correct_BT, reference.argmax(-1) == targets_BT)
