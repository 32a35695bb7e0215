"""Which back end lowers an attention mask: by name and platform, and by the structure of what attends."""

from __future__ import annotations

from jax.sharding import Mesh

from bsft_jax.errors import UserError
from bsft_jax.models.attention import Attend, AttentionMask, Scores, behind_view, dense
from bsft_jax.models.blockwise import blockwise
from bsft_jax.models.cudnn import cudnn
from bsft_jax.models.splash import splash

INTERPRETED = 'splash, interpreted'  # on a CPU: for tests
BACK_ENDS = {
    'dense': dense,
    'blockwise': blockwise,
    'splash': splash,
    'cudnn': cudnn,
    INTERPRETED: lambda mask, scores: splash(mask, scores, interpret=True),
}


def resolve(name: str, mesh: Mesh) -> str:
    """The back end that `model.attention` means on the devices of a mesh, which may be promised ones.

    `auto` is splash on TPUs, blockwise on CPUs and dense elsewhere. Raises UserError for splash on a GPU.
    """
    if name in BACK_ENDS and name != 'splash':
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


def lower(mask: AttentionMask, scores: Scores, back_end: str, of_view: AttentionMask | None = None) -> Attend:
    """Attention under a mask, by a resolved back end: `(q_BTNH, k_BSKH, v_BSKH)` to out_BTNH.

    The back end is for rows that attend to themselves. Suffixes (branches behind a prompt, the tokens of
    decoding) are short against many keys and compare branch and option numbers too: they are dense by design,
    and take the keys and values of the view, whose mask is `of_view`, as two more arguments.
    """
    if back_end not in BACK_ENDS:
        raise ValueError(f'attention {back_end!r} is not resolved: Network.on(mesh)')
    if of_view is not None:
        return behind_view(mask, of_view, scores)
    return (BACK_ENDS[back_end] if mask.in_rows else dense)(mask, scores)
