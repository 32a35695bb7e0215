"""The cuDNN back end without its device: what the kernel is given, and what it is lowered to."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo as fused

from bsft_jax.config import MeshSection
from bsft_jax.errors import UserError
from bsft_jax.models import backends, cudnn
from bsft_jax.models.attention import AttentionMask, Layout, Scores
from bsft_jax.parallel import mesh as mesh_lib
from tests.models.test_backends import MESHES, network, packed
from tests.tiny import assert_close

B, T, N, K, H, DOCUMENTS = 4, 96, 4, 2, 16, 5


def as_documented(
    q, k, v, *, q_seqlen, kv_seqlen, q_offsets, kv_offsets, scale, mask_type, sliding_window_length
):
    """What `dot_product_attention` of jax's cuDNN module is said to do, written from its docstring."""
    assert mask_type is fused.MaskType.PADDING_CAUSAL
    assert q_offsets.shape == kv_offsets.shape == (q.shape[0], q_seqlen.shape[1] + 1)
    assert q.shape[2] == k.shape[2] == v.shape[2]  # fewer heads of keys come out wrong, jax-ml/jax#39521

    def member(starts, lengths):  # document of a place, -1 for none
        place = jnp.arange(q.shape[1])
        inside = (place >= starts[:, :-1, None]) & (place < (starts[:, :-1] + lengths)[..., None])
        inside &= (lengths >= 0)[..., None]
        return jnp.where(inside.any(1), inside.argmax(1), -1)

    of_q, of_k = member(q_offsets, q_seqlen), member(kv_offsets, kv_seqlen)
    behind = jnp.arange(q.shape[1])[:, None] - jnp.arange(q.shape[1])
    seen = (of_q[:, :, None] == of_k[:, None]) & (of_q >= 0)[:, :, None] & (behind >= 0)
    if sliding_window_length:
        seen &= behind < sliding_window_length
    scores = jnp.where(seen[:, None], jnp.einsum('btnh,bsnh->bnts', q, k) * scale, -1e30)
    return jnp.einsum('bnts,bsnh->btnh', jax.nn.softmax(scores), v)


def inputs(dtype=jnp.float32):
    layout = dataclasses.replace(packed(B, T), documents=DOCUMENTS)
    keys = jax.random.split(jax.random.key(0), 3)
    return layout, *(
        jax.random.normal(key, (B, T, n, H), dtype) for key, n in zip(keys, (N, K, K), strict=True)
    )


def attention(back_end, window=0):
    def run(layout, q, k, v):
        return backends.lower(AttentionMask(layout, layout, window), Scores(0.3), back_end)(q, k, v)

    return run


@pytest.mark.parametrize('mesh', ['1 device', '2x2x1x2'])
@pytest.mark.parametrize('window', [0, 7])
def test_the_kernel_is_told_where_documents_lie(mesh, window, monkeypatch):
    monkeypatch.setattr(fused, 'dot_product_attention', as_documented)
    layout, *qkv = inputs()
    size = int(np.prod(MESHES[mesh]))
    with jax.set_mesh(mesh_lib.make_mesh(MeshSection(*MESHES[mesh]), jax.devices()[:size])):
        found = jax.jit(attention('cudnn', window))(layout, *qkv)
    real = np.asarray(layout.segment_ids_BT) > 0
    assert_close(np.asarray(found)[real], np.asarray(attention('dense', window)(layout, *qkv))[real], 1e-6)
    assert np.isfinite(found).all()  # padding too


def test_a_row_of_too_many_documents_is_not_a_number(monkeypatch):
    monkeypatch.setattr(fused, 'dot_product_attention', as_documented)
    layout, *qkv = inputs()
    found = attention('cudnn')(dataclasses.replace(layout, documents=1), *qkv)
    assert np.isnan(found).all()
    ids = layout.segment_ids_BT.at[0].set(1)
    found = attention('cudnn')(Layout(ids, layout.positions_BT, documents=1), *qkv)
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1:]).all()


@pytest.mark.parametrize('mesh', ['1 device', '2x2x1x2'])
def test_both_passes_are_lowered_to_the_kernel(mesh):
    layout, *qkv = inputs(jnp.bfloat16)
    size = int(np.prod(MESHES[mesh]))

    def run(layout, *qkv):
        out, pull = jax.vjp(lambda *qkv: attention('cudnn')(layout, *qkv), *qkv)
        return pull(out)

    with jax.set_mesh(mesh_lib.make_mesh(MeshSection(*MESHES[mesh]), jax.devices()[:size])), cudnn.promised():
        text = jax.jit(run).trace(layout, *qkv).lower(lowering_platforms=('cuda',)).as_text()
    calls = re.findall(r'custom_call @(__cudnn\$\w+)\(.*?\) .*?: \((.*?)\) ->', text)
    rows, heads = (B, N) if mesh == '1 device' else (B // 4, N // 2)
    query = f'tensor<{rows}x{T}x{heads}x{H}xbf16>'
    places = [f'tensor<{rows}x{DOCUMENTS + 1 + more}xi32>' for more in (0, 0, 1, 1)]
    (forward, given), (backward, back) = calls
    assert forward == '__cudnn$fmhaSoftmax'
    assert given.split(', ') == [query] * 3 + places
    assert backward == '__cudnn$fmhaSoftmaxBackward'
    assert back.split(', ')[-4:] == places
    assert text.count('PADDING_CAUSAL') == 2
    assert 'fmha_scale' in text


def test_what_it_is_not_for_is_an_error():
    @dataclasses.dataclass
    class Device:
        platform: str = 'gpu'
        compute_capability: str = '9.0'

    class Mesh:
        def __init__(self, *, context=1, **device):
            self.devices, self.size = np.asarray([Device(**device)]), 1
            self.shape = {'context': context}

    gpu = network(
        attention='cudnn', dtype='bfloat16', arch=dataclasses.replace(network().arch, attention_cap=0.0)
    )
    assert gpu.on(Mesh()).attention == 'cudnn'
    for net, mesh, why in (
        (gpu, Mesh(platform='cpu'), "'cpu'"),
        (gpu, Mesh(compute_capability='8.0'), 'Hopper'),
        (gpu, Mesh(context=2), 'context'),
        (dataclasses.replace(gpu, dtype='float32'), Mesh(), 'float32'),
        (dataclasses.replace(gpu, arch=network().arch), Mesh(), 'soft cap'),
        (dataclasses.replace(gpu, arch=dataclasses.replace(gpu.arch, head_width=12)), Mesh(), 'width 12'),
    ):
        with pytest.raises(UserError, match=why):
            net.on(mesh)
    layout, *qkv = inputs()
    with pytest.raises(ValueError, match='how many documents'):
        attention('cudnn')(dataclasses.replace(layout, documents=0), *qkv)
    suffix = dataclasses.replace(layout, branch_BT=layout.segment_ids_BT)
    with pytest.raises(ValueError, match='branches'):
        cudnn.cudnn(AttentionMask(suffix, suffix), Scores(1.0))


@pytest.mark.skipif(
    jax.default_backend() != 'gpu'
    or float(getattr(jax.devices()[0], 'compute_capability', 0)) < cudnn.HOPPER,
    reason='needs a GPU from Hopper on',
)
def test_on_its_device_it_is_dense_attention():
    layout, *qkv = inputs(jnp.bfloat16)
    real = (np.asarray(layout.segment_ids_BT) > 0)[..., None, None]

    def run(back_end):
        def both(*qkv):
            out, pull = jax.vjp(lambda *qkv: attention(back_end)(layout, *qkv), *qkv)
            return out, *pull(jnp.where(real, jnp.sin(out), 0))

        return jax.jit(both)(*qkv)

    (found, *gradients), (expected, *theirs) = run('cudnn'), run('dense')
    assert_close(np.asarray(found, np.float32) * real, np.asarray(expected, np.float32) * real, 1e-2)
    for gradient, their in zip(gradients, theirs, strict=True):
        assert_close(np.asarray(gradient, np.float32), np.asarray(their, np.float32), 2e-2)
