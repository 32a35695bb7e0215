"""The train step: gradients of the global batch, accumulated inside one jit, and one update."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec as P

from bsft_jax.data.batch import Batch
from bsft_jax.models.network import Network, Params
from bsft_jax.parallel import sharding
from bsft_jax.training import loss as loss_lib
from bsft_jax.training.state import TrainState, merge

Metrics = dict[str, jax.Array]


def batch_gradients(
    network: Network,
    trainable: Params,
    frozen: Params,
    batch: Batch,
    accumulation: int,
    dropout_key: jax.Array | None = None,
) -> tuple[Params, Metrics]:
    """Gradients of Σ weight · cross-entropy / Σ weight over the global batch.

    Rows are dealt to `accumulation` micro-batches in turn, so that each device keeps its own rows;
    the division by the weight of the whole batch makes the result independent of the split, but for
    dropout, which `dropout_key` starts.
    """
    total_weight = jnp.maximum(jnp.sum(batch.weights_BT), 1e-9)

    def sums_of(trainable: Params, frozen: Params, micro: Batch, key):
        sums = loss_lib.weighted_sums(network, merge(trainable, frozen), micro, key)
        return sums['loss'] / total_weight, sums

    def gradient_of(trainable: Params, frozen: Params, micro: Batch, key):
        gradients, sums = jax.grad(sums_of, has_aux=True)(trainable, frozen, micro, key)
        return sharding.constrain_by_path(gradients), sums

    def sum_of(trainable: Params, frozen: Params, batch: Batch, key):
        """Over the micro-batches of the rows given."""
        micros = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, accumulation, *x.shape[1:]), 1, 0), batch)
        keys = None if key is None else jax.random.split(key, accumulation)
        zeros = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype),
            jax.eval_shape(gradient_of, trainable, frozen, jax.tree.map(lambda x: x[0], micros), key),
        )

        def add(total, micro):
            return jax.tree.map(jnp.add, total, gradient_of(trainable, frozen, *micro)), None

        return jax.lax.scan(add, zeros, (micros, keys))[0]

    if accumulation == 1:
        gradients, sums = gradient_of(trainable, frozen, batch, dropout_key)
    elif dropout_key is None and sharding.parts(len(batch.tokens_BT), 'data') > 1:
        # Over `data`, across which networks are slowest, devices add up once a step, not once a micro-batch.
        def own(*args):
            return jax.lax.psum(sum_of(*args, None), 'data')

        specs = P(), P(), P('data')
        gradients, sums = sharding.on_each_device(own, specs, P(), ('data',))(trainable, frozen, batch)
    else:
        gradients, sums = sum_of(trainable, frozen, batch, dropout_key)
    return gradients, loss_lib.means(sums, total_weight)


def make_train_step(
    network: Network, optimizer: optax.GradientTransformation, accumulation: int, seed: int = 0
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The jitted step; the state it is given is donated. Metrics are float32 scalars of this step.

    Dropout, where adapters have it, is a function of `seed` and the step.
    """
    drops = network.lora is not None and network.lora.dropout > 0

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step) if drops else None
        gradients, metrics = batch_gradients(network, state.trainable, state.frozen, batch, accumulation, key)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.trainable)
        metrics['gradient_norm'] = optax.tree.norm(gradients)
        trainable = optax.apply_updates(state.trainable, updates)
        trainable, opt_state = sharding.constrain_by_path((trainable, opt_state))
        return state.replace(step=state.step + 1, trainable=trainable, opt_state=opt_state), metrics

    return jax.jit(train_step, donate_argnums=0)
