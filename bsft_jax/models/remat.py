"""What a layer keeps for its backward pass, by the names of `config.REMAT`; the rest is computed again."""

from __future__ import annotations

from collections.abc import Callable

import jax

from bsft_jax.config import REMAT

ATTENTION = 'attention'  # name of attention's output (and, of a flash kernel, its log-sum-exp)
LAYER = 'layer'  # name of what goes into a layer, or into a period of layers

_keep = jax.checkpoint_policies
_POLICIES = {
    'dots': _keep.save_from_both_policies(
        _keep.dots_with_no_batch_dims_saveable, _keep.save_only_these_names(ATTENTION)
    ),
    'minimal': _keep.save_only_these_names(ATTENTION),
    'full': _keep.nothing_saveable,
    'offload': _keep.save_and_offload_only_these_names(
        names_which_can_be_saved=(),
        names_which_can_be_offloaded=(LAYER, ATTENTION),
        offload_src='device',
        offload_dst='pinned_host',
    ),
}
assert set(REMAT) == {'none', *_POLICIES}


def computed_again(run: Callable, remat: str, *, scanned: bool) -> Callable:
    """`run` with what the policy does not keep computed again in its backward pass; `none` keeps all.

    `scanned` says that `run` is the body of a scan, which needs no guard against merging both computations.
    """
    if remat == 'none':
        return run
    return jax.checkpoint(run, prevent_cse=not scanned, policy=_POLICIES[remat])
