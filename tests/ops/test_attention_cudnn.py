"""Tests the cuDNN backend without its device: the kernel's arguments and the lowered program."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo as fused

from bsft_jax.config import MeshConfig
from bsft_jax.errors import UserError
from bsft_jax.ops import attention_cudnn, attention_dispatch
from bsft_jax.ops.attention import AttentionMask, ScoreTransform, TokenLayout
from bsft_jax.parallel import mesh as mesh_lib
from tests.ops.test_attention import MESHES, make_network, packed
from tests.tiny import assert_close

B, T, N, K, H, SEGMENTS = 4, 96, 4, 2, 16, 5


def as_documented(
    q, k, v, *, q_seqlen, kv_seqlen, q_offsets, kv_offsets, scale, mask_type, sliding_window_length
):
    """Computes what the docstring of `dot_product_attention` in jax's cuDNN module describes."""
    assert mask_type is fused.MaskType.PADDING_CAUSAL
    assert q_offsets.shape == kv_offsets.shape == (q.shape[0], q_seqlen.shape[1] + 1)
    # Fewer heads of keys come out wrong, jax-ml/jax#39521.
    assert q.shape[2] == k.shape[2] == v.shape[2]

    def segment_of(starts, lengths):
        """Returns the segment of each index of the row, -1 for none."""
        index = jnp.arange(q.shape[1])
        inside = (index >= starts[:, :-1, None]) & (index < (starts[:, :-1] + lengths)[..., None])
        inside &= (lengths >= 0)[..., None]
        return jnp.where(inside.any(1), inside.argmax(1), -1)

    of_q, of_k = segment_of(q_offsets, q_seqlen), segment_of(kv_offsets, kv_seqlen)
    distance = jnp.arange(q.shape[1])[:, None] - jnp.arange(q.shape[1])
    visible = (of_q[:, :, None] == of_k[:, None]) & (of_q >= 0)[:, :, None] & (distance >= 0)
    if sliding_window_length:
        visible &= distance < sliding_window_length
    scores = jnp.where(visible[:, None], jnp.einsum('btnh,bsnh->bnts', q, k) * scale, -1e30)
    return jnp.einsum('bnts,bsnh->btnh', jax.nn.softmax(scores), v)


def inputs(dtype=jnp.float32):
    layout = dataclasses.replace(packed(B, T), max_segments=SEGMENTS)
    keys = jax.random.split(jax.random.key(0), 3)
    return layout, *(
        jax.random.normal(key, (B, T, n, H), dtype) for key, n in zip(keys, (N, K, K), strict=True)
    )


def attention(backend, window=0):
    def run(layout, q, k, v):
        mask = AttentionMask(layout, layout, window)
        return attention_dispatch.make_attention_fn(mask, ScoreTransform(0.3), backend)(q, k, v)

    return run


@pytest.mark.parametrize('mesh', ['1 device', '2x2x1x2'])
@pytest.mark.parametrize('window', [0, 7])
def test_the_kernel_gets_the_offsets_of_segments(mesh, window, monkeypatch):
    monkeypatch.setattr(fused, 'dot_product_attention', as_documented)
    layout, *qkv = inputs()
    size = int(np.prod(MESHES[mesh]))
    with jax.set_mesh(mesh_lib.make_mesh(MeshConfig(*MESHES[mesh]), jax.devices()[:size])):
        out = jax.jit(attention('cudnn', window))(layout, *qkv)
    is_token = np.asarray(layout.segment_ids_BT) > 0
    expected = attention('dense', window)(layout, *qkv)
    assert_close(np.asarray(out)[is_token], np.asarray(expected)[is_token], 1e-6)
    # Padding too.
    assert np.isfinite(out).all()


def test_a_row_of_too_many_segments_is_nan(monkeypatch):
    monkeypatch.setattr(fused, 'dot_product_attention', as_documented)
    layout, *qkv = inputs()
    out = attention('cudnn')(dataclasses.replace(layout, max_segments=1), *qkv)
    assert np.isnan(out).all()
    ids = layout.segment_ids_BT.at[0].set(1)
    out = attention('cudnn')(TokenLayout(ids, layout.positions_BT, max_segments=1), *qkv)
    assert np.isfinite(out[0]).all()
    assert np.isnan(out[1:]).all()


@pytest.mark.parametrize('mesh', ['1 device', '2x2x1x2'])
def test_both_passes_are_lowered_to_the_kernel(mesh):
    layout, *qkv = inputs(jnp.bfloat16)
    size = int(np.prod(MESHES[mesh]))

    def run(layout, *qkv):
        out, pull = jax.vjp(lambda *qkv: attention('cudnn')(layout, *qkv), *qkv)
        return pull(out)

    with (
        jax.set_mesh(mesh_lib.make_mesh(MeshConfig(*MESHES[mesh]), jax.devices()[:size])),
        attention_cudnn.assume_hopper(),
    ):
        text = jax.jit(run).trace(layout, *qkv).lower(lowering_platforms=('cuda',)).as_text()
    calls = re.findall(r'custom_call @(__cudnn\$\w+)\(.*?\) .*?: \((.*?)\) ->', text)
    rows, heads = (B, N) if mesh == '1 device' else (B // 4, N // 2)
    query = f'tensor<{rows}x{T}x{heads}x{H}xbf16>'
    # Lengths of queries and keys, then their offsets, which are one more.
    bounds = [f'tensor<{rows}x{SEGMENTS + 1 + extra}xi32>' for extra in (0, 0, 1, 1)]
    (forward, forward_args), (backward, backward_args) = calls
    assert forward == '__cudnn$fmhaSoftmax'
    assert forward_args.split(', ') == [query] * 3 + bounds
    assert backward == '__cudnn$fmhaSoftmaxBackward'
    assert backward_args.split(', ')[-4:] == bounds
    assert text.count('PADDING_CAUSAL') == 2
    assert 'fmha_scale' in text


def test_unsupported_models_and_devices_are_errors():
    @dataclasses.dataclass
    class Device:
        platform: str = 'gpu'
        compute_capability: str = '9.0'

    class Mesh:
        def __init__(self, *, context=1, **device):
            self.devices, self.size = np.asarray([Device(**device)]), 1
            self.shape = {'context': context}

    with_softcap = make_network(attention='cudnn', dtype='bfloat16')

    def with_arch(**changes):
        arch = dataclasses.replace(with_softcap.arch, **{'attn_softcap': 0.0, **changes})
        return dataclasses.replace(with_softcap, arch=arch)

    gpu = with_arch()
    assert gpu.for_mesh(Mesh()).compute.attention == 'cudnn'
    for network, mesh, reason in (
        (gpu, Mesh(platform='cpu'), "'cpu'"),
        (gpu, Mesh(compute_capability='8.0'), 'Hopper'),
        (gpu, Mesh(context=2), 'context'),
        (gpu.with_compute(dtype='float32'), Mesh(), 'float32'),
        (with_softcap, Mesh(), 'soft cap'),
        (with_arch(head_dim=12), Mesh(), 'width 12'),
    ):
        with pytest.raises(UserError, match=reason):
            network.for_mesh(mesh)
    layout, *qkv = inputs()
    with pytest.raises(ValueError, match='how many segments'):
        attention('cudnn')(dataclasses.replace(layout, max_segments=0), *qkv)
    suffix = dataclasses.replace(layout, branch_BT=layout.segment_ids_BT)
    with pytest.raises(ValueError, match='branches'):
        attention_cudnn.cudnn(AttentionMask(suffix, suffix), ScoreTransform(1.0))


@pytest.mark.skipif(
    jax.default_backend() != 'gpu'
    or float(getattr(jax.devices()[0], 'compute_capability', 0)) < attention_cudnn.HOPPER,
    reason='needs a GPU from Hopper on',
)
def test_on_its_device_it_equals_dense_attention():
    layout, *qkv = inputs(jnp.bfloat16)
    is_token = (np.asarray(layout.segment_ids_BT) > 0)[..., None, None]

    def run(backend):
        def both(*qkv):
            out, pull = jax.vjp(lambda *qkv: attention(backend)(layout, *qkv), *qkv)
            return out, *pull(jnp.where(is_token, jnp.sin(out), 0))

        return jax.jit(both)(*qkv)

    (out, *gradients), (expected, *expected_gradients) = run('cudnn'), run('dense')
    out, expected = np.asarray(out, np.float32), np.asarray(expected, np.float32)
    assert_close(out * is_token, expected * is_token, 1e-2)
    for gradient, reference in zip(gradients, expected_gradients, strict=True):
        assert_close(np.asarray(gradient, np.float32), np.asarray(reference, np.float32), 2e-2)
