"""The train step: gradients of the global batch, accumulated inside one jit, and one update."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec as P

from bsft_jax.config import RunConfig
from bsft_jax.data.examples import Batch
from bsft_jax.models.network import Network, Params
from bsft_jax.parallel import sharding
from bsft_jax.training import loss as loss_lib
from bsft_jax.training import optimizer as optimizer_lib
from bsft_jax.training.state import TrainState, merge

Metrics = dict[str, jax.Array]


def batch_gradients(
    network: Network,
    trainable: Params,
    frozen: Params,
    batch: Batch,
    gradient_accumulation_steps: int,
    dropout_key: jax.Array | None = None,
) -> tuple[Params, Metrics]:
    """Computes the gradients of Σ weight · cross-entropy / Σ weight over the global batch.

    Rows are assigned to micro-batches round-robin, so that each device keeps its own rows. Dividing
    by the weight of the whole batch makes the result independent of the split, except for dropout.

    Args:
      network: the decoder.
      trainable: parameters that get a gradient.
      frozen: the other parameters.
      batch: the global batch.
      gradient_accumulation_steps: number of micro-batches.
      dropout_key: key of the adapters' dropout; None without.

    Returns the gradients and the metrics of `loss.means`.
    """
    total_weight = jnp.maximum(jnp.sum(batch.weights_BT), 1e-9)

    def scaled_loss(trainable: Params, frozen: Params, micro: Batch, key):
        sums = loss_lib.weighted_sums(network, merge(trainable, frozen), micro, key)
        return sums['loss'] / total_weight, sums

    def microbatch_grads(trainable: Params, frozen: Params, micro: Batch, key):
        gradients, sums = jax.grad(scaled_loss, has_aux=True)(trainable, frozen, micro, key)
        return sharding.constrain_by_path(gradients), sums

    def accumulate(trainable: Params, frozen: Params, batch: Batch, key):
        """Returns the gradients and sums over the micro-batches of these rows."""
        microbatches = jax.tree.map(
            lambda x: jnp.moveaxis(x.reshape(-1, gradient_accumulation_steps, *x.shape[1:]), 1, 0),
            batch,
        )
        keys = None if key is None else jax.random.split(key, gradient_accumulation_steps)
        zeros = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype),
            jax.eval_shape(
                microbatch_grads, trainable, frozen, jax.tree.map(lambda x: x[0], microbatches), key
            ),
        )

        def add(total, micro):
            return jax.tree.map(jnp.add, total, microbatch_grads(trainable, frozen, *micro)), None

        return jax.lax.scan(add, zeros, (microbatches, keys))[0]

    if gradient_accumulation_steps == 1:
        gradients, sums = microbatch_grads(trainable, frozen, batch, dropout_key)
    elif dropout_key is None and sharding.num_shards(len(batch.tokens_BT), 'data') > 1:
        # `data` spans the slowest links: its devices sum once a step, not once a micro-batch.
        def local_sum(*args):
            return jax.lax.psum(accumulate(*args, None), 'data')

        specs = P(), P(), P('data')
        gradients, sums = sharding.shard_map_current_mesh(local_sum, specs, P(), ('data',))(
            trainable, frozen, batch
        )
    else:
        gradients, sums = accumulate(trainable, frozen, batch, dropout_key)
    return gradients, loss_lib.means(sums, total_weight)


def make_train_step(
    network: Network,
    optimizer: optax.GradientTransformation,
    gradient_accumulation_steps: int,
    seed: int = 0,
    row_names: Sequence[str] = (),
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Returns the jitted train step, which donates its state; metrics are float32 scalars.

    Dropout of adapters is a function of `seed` and the step.

    Args:
      network: the decoder.
      optimizer: makes the updates.
      gradient_accumulation_steps: number of micro-batches.
      seed: of the dropout.
      row_names: names of the behavior rows, for the metrics of `row_norms`; empty for none.
    """
    has_dropout = network.compute.lora is not None and network.compute.lora.dropout > 0

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step) if has_dropout else None
        gradients, metrics = batch_gradients(
            network, state.trainable, state.frozen, batch, gradient_accumulation_steps, key
        )
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.trainable)
        metrics['gradient_norm'] = optax.tree.norm(gradients)
        # Those that the loss comes from: where it is finite they are.
        metrics |= row_norms(state.trainable, row_names)
        trainable = optax.apply_updates(state.trainable, updates)
        trainable, opt_state = sharding.constrain_by_path((trainable, opt_state))
        return state.replace(step=state.step + 1, trainable=trainable, opt_state=opt_state), metrics

    return jax.jit(train_step, donate_argnums=0)


def step_of_run(
    config: RunConfig, network: Network
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Returns the train step of a run, as `make_train_step` does."""
    return make_train_step(
        network,
        optimizer_lib.make_optimizer(config.optimizer),
        config.train.gradient_accumulation_steps,
        config.seed,
        config.row_names,
    )


def row_norms(trainable: Params, names: Sequence[str]) -> Metrics:
    """Returns the Euclidean norm of each behavior row that trains, a float32 scalar.

    Returns:
      `behavior_input_norm/NAME` by name of `names`, the order of the rows. An untied model has
      `behavior_output_norm/NAME` too: the norms of the columns of its LM head.
    """
    return {
        f'behavior_{part}_norm/{name}': jnp.linalg.norm(rows_nD[i].astype(jnp.float32))
        for part, rows_nD in trainable.get('behavior', {}).items()
        for i, name in enumerate(names)
    }
