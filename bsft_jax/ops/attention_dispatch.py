"""Choice of the attention backend: by name and platform, and by the structure of the mask."""

from __future__ import annotations

from jax.sharding import Mesh

from bsft_jax.errors import UserError
from bsft_jax.ops.attention import AttentionFn, AttentionMask, ScoreTransform, dense
from bsft_jax.ops.attention_blockwise import blockwise
from bsft_jax.ops.attention_cudnn import cudnn
from bsft_jax.ops.attention_splash import splash
from bsft_jax.ops.kv_cache import attend_prefix

# The splash kernel's program without a TPU, for tests on a CPU.
INTERPRETED = 'splash, interpreted'
BACKENDS = {
    'dense': dense,
    'blockwise': blockwise,
    'splash': splash,
    'cudnn': cudnn,
    INTERPRETED: lambda mask, transform: splash(mask, transform, interpret=True),
}


def resolve_backend(name: str, mesh: Mesh) -> str:
    """Returns the backend that `model.attention` means on the devices of a mesh.

    The devices may be described only. `auto` is splash on TPUs, blockwise on CPUs and dense
    elsewhere.

    Raises:
      UserError: for splash on a GPU.
    """
    if name in BACKENDS and name != 'splash':
        return name
    platform = mesh.devices.flat[0].platform
    if name == 'auto':
        return {'tpu': 'splash', 'cpu': 'blockwise'}.get(platform, 'dense')
    if platform not in ('tpu', 'cpu'):
        raise UserError(
            f'splash is a kernel for TPUs, and the devices are of platform {platform!r}',
            where='--config.model.attention=splash',
            fix='use auto or dense',
        )
    return 'splash' if platform == 'tpu' else INTERPRETED


def make_attention_fn(
    mask: AttentionMask,
    transform: ScoreTransform,
    backend: str,
    prefix_mask: AttentionMask | None = None,
) -> AttentionFn:
    """Builds the attention function for a mask.

    The backend computes rows that attend to themselves. Suffixes (branches after a prompt, tokens
    being decoded) are short against many keys and compare branch and option numbers too: they are
    dense by design.

    Args:
      mask: mask of the tokens over themselves.
      transform: scale and soft cap of the scores.
      backend: a resolved backend, see `resolve_backend`.
      prefix_mask: mask of the tokens over the KV cache of a prefix; None without one.

    Returns:
      A function of (q_BTNH, k_BSKH, v_BSKH) to out_BTNH; with a `prefix_mask` it takes the
      prefix's k_BKSH and v_BKSH as two more arguments.

    Raises:
      ValueError: for a name that is not resolved.
    """
    if backend not in BACKENDS:
        raise ValueError(f'attention {backend!r} is not resolved: call Network.for_mesh(mesh)')
    if prefix_mask is not None:
        return attend_prefix(mask, prefix_mask, transform)
    return (BACKENDS[backend] if mask.is_self_attention else dense)(mask, transform)
