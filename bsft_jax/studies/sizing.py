"""Sizes of the models of configs, exact and by the formulas of plans; nothing is allocated."""

from __future__ import annotations

import dataclasses

from bsft_jax.config import RunConfig
from bsft_jax.planning import compile_plan, flops
from bsft_jax.training import state as state_lib


@dataclasses.dataclass(frozen=True)
class Size:
    """Holds the size of a model.

    Attributes:
      width: width of the residual stream.
      params: number of parameters of the checkpoint, without behavior rows.
      non_embedding: those outside of the embedding table and of an LM head of its own.
      flops_per_token: FLOPs of a training step per token (`flops.model_flops`), for rows that are
        one segment.
    """

    width: int
    params: int
    non_embedding: int
    flops_per_token: float


def model_size(config: RunConfig) -> Size:
    """Returns the size of a config's model from shapes alone.

    Raises:
      UserError: as `compile_plan.planned_network` does.
    """
    network = compile_plan.planned_network(config)
    arch = network.arch
    trainable, frozen = (
        flops.num_matmul_params(arch, part)
        for part in state_lib.partition(network.abstract(), config.trainable)
    )
    per_token = flops.model_flops(
        arch, trainable=trainable, frozen=frozen, tokens=config.data.sequence_length
    )
    outside = arch.parameters - arch.embedding_parameters
    return Size(arch.embed_dim, arch.parameters, outside, per_token)


def step_tokens(config: RunConfig) -> int:
    """Returns the tokens of a step whose rows are full."""
    return config.data.global_batch_rows * config.data.sequence_length


def planned_tokens(config: RunConfig) -> int:
    """Returns the tokens of a run whose rows are full."""
    return config.steps * step_tokens(config)
