"""Rematerialization policies (`jax.checkpoint`) by config name."""

from __future__ import annotations

from collections.abc import Callable

import jax

from bsft_jax.config import REMAT

# Name of attention's output; a flash kernel's log-sum-exp has the same name.
ATTENTION_OUTPUT = 'attention'
# Name of the input of a layer, or of a period of layers.
LAYER_INPUT = 'layer'

_policies = jax.checkpoint_policies
_POLICIES = {
    # Outputs of linear maps and of attention; recomputing the rest is cheap.
    'dots': _policies.save_from_both_policies(
        _policies.dots_with_no_batch_dims_saveable,
        _policies.save_only_these_names(ATTENTION_OUTPUT),
    ),
    # Attention's output alone, so that its forward pass does not run twice.
    'minimal': _policies.save_only_these_names(ATTENTION_OUTPUT),
    'full': _policies.nothing_saveable,
    # Nothing stays on the device; the host holds the layer's input and attention's output.
    'offload': _policies.save_and_offload_only_these_names(
        names_which_can_be_saved=(),
        names_which_can_be_offloaded=(LAYER_INPUT, ATTENTION_OUTPUT),
        offload_src='device',
        offload_dst='pinned_host',
    ),
}
assert set(REMAT) == {'none', *_POLICIES}


def apply_remat(run: Callable, remat: str, *, scanned: bool) -> Callable:
    """Returns `run` with its backward pass recomputing what the policy does not save.

    Args:
      run: the function of one layer or of a group of layers.
      remat: a policy of `config.REMAT`; `none` saves everything.
      scanned: whether `run` is the body of a scan, where XLA cannot merge the two computations and
        needs no guard against it.
    """
    if remat == 'none':
        return run
    return jax.checkpoint(run, prevent_cse=not scanned, policy=_POLICIES[remat])
