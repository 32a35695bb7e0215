"""Tests of Adafactor: its steps against optax, its shards, its memory and its checkpoints."""

import jax
import numpy as np
import optax
import pytest

from bsft_jax.config import MeshConfig, OptimizerConfig
from bsft_jax.parallel import mesh as mesh_lib
from bsft_jax.parallel import sharding
from bsft_jax.pytrees import flatten, unflatten
from bsft_jax.training import optimizer
from tests import run as runs
from tests.training.small_run import loss_curve, small_run

STEPS = 8
# Path → shape: wide and high kernels, one that is too small to be factored, and vectors.
SHAPES = {
    'behavior/input': (2, 128),
    'embed/table': (160, 128),
    'layers/attention/k/kernel': (2, 128, 64),
    'layers/attention/q/bias': (2, 128),
    'layers/mlp/down/kernel': (2, 192, 128),
    'layers/mlp/up/kernel': (2, 128, 192),
    'norm/scale': (128,),
}
FACTORED = {'embed/table', 'layers/mlp/down/kernel', 'layers/mlp/up/kernel'}
CONFIG = OptimizerConfig(
    name='adafactor',
    learning_rate=0.02,
    behavior_lr_factor=3.0,
    warmup_steps=2,
    schedule_steps=20,
    weight_decay=0.1,
    clip_norm=10.0,
)


def random_tree(seed: int, shapes=SHAPES) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {path: rng.normal(size=shape).astype(np.float32) for path, shape in shapes.items()}


def run_transformation(transformation, params, gradients):
    """Returns the parameters after one update per gradient, and the state."""
    state = transformation.init(params)

    @jax.jit
    def step(params, state, gradient):
        updates, state = transformation.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    for gradient in gradients:
        params, state = step(params, state, gradient)
    return params, state


def by_layer(tree: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns parameters by path, those of each layer under a path of their own."""
    split = {}
    for path, x in tree.items():
        if path.startswith('layers/'):
            split |= {f'{path}/{i}': layer for i, layer in enumerate(x)}
        else:
            split[path] = x
    return split


def test_steps_follow_optax_layer_by_layer():
    params = random_tree(0)
    gradients = [random_tree(1 + i) for i in range(STEPS)]
    for i, gradient in enumerate(gradients):
        # Clipping by the root mean square has to be each layer's own.
        gradient['layers/mlp/up/kernel'] *= np.float32([[[1 + i]], [[5 - i]]])
        gradient['norm/scale'] *= np.float32(10**i)
    actual, _ = run_transformation(
        optimizer.make_optimizer(CONFIG), unflatten(params), map(unflatten, gradients)
    )

    def decayed(tree):
        return {path: 'kernel' in path or path == 'embed/table' for path in tree}

    reference = optax.chain(
        optax.clip_by_global_norm(CONFIG.clip_norm),
        optax.adafactor(
            learning_rate=None, multiply_by_parameter_scale=False, clipping_threshold=1.0
        ),
        optax.scale(-1),
        optax.add_decayed_weights(CONFIG.weight_decay, mask=decayed),
        optax.scale_by_learning_rate(optimizer.schedule(CONFIG)),
        optax.stateless(
            lambda updates, _: {
                path: update * (3.0 if path.startswith('behavior/') else 1.0)
                for path, update in updates.items()
            }
        ),
    )
    expected, _ = run_transformation(reference, by_layer(params), map(by_layer, gradients))
    actual = by_layer(flatten(actual))
    assert set(actual) == set(expected)
    for path, leaf in expected.items():
        assert np.abs(leaf - by_layer(params)[path]).max() > 0.03, path
        np.testing.assert_allclose(actual[path], leaf, rtol=0, atol=2e-6, err_msg=path)


def test_second_moments_of_large_matrices_are_rows_and_columns():
    params = random_tree(0)
    state = optimizer.make_optimizer(CONFIG).init(unflatten(params))[1][0]
    v_row, v_col, v = map(flatten, (state.v_row, state.v_col, state.v))
    assert set(v_row) == set(v_col) == FACTORED and set(v) == set(SHAPES) - FACTORED
    for path in FACTORED:
        *layers, rows, columns = SHAPES[path]
        assert v_row[path].shape == (*layers, rows) and v_col[path].shape == (*layers, columns)
    assert {path: x.shape for path, x in v.items()} == {path: SHAPES[path] for path in v}


@pytest.mark.parametrize('sizes', [(1, 8, 1, 1), (1, 1, 1, 8), (2, 2, 1, 2)])
def test_shards_move_as_the_whole(sizes):
    adafactor = optimizer.make_optimizer(CONFIG)
    params, gradients = random_tree(0), [random_tree(1 + i) for i in range(STEPS)]
    mesh = mesh_lib.make_mesh(MeshConfig(*sizes), jax.devices()[:8])
    whole, _ = run_transformation(adafactor, unflatten(params), map(unflatten, gradients))
    tree = jax.device_put(unflatten(params), sharding.shardings(unflatten(params), mesh))
    state = adafactor.init(tree)
    state = jax.device_put(state, sharding.shardings(state, mesh))

    @jax.jit
    def step(params, state, gradient):
        updates, state = adafactor.update(gradient, state, params)
        return sharding.constrain_by_path((optax.apply_updates(params, updates), state))

    with jax.set_mesh(mesh):
        for gradient in gradients:
            gradient = unflatten(gradient)
            gradient = jax.device_put(gradient, sharding.shardings(gradient, mesh))
            tree, state = step(tree, state, gradient)
    for path, leaf in flatten(tree).items():
        np.testing.assert_allclose(leaf, flatten(whole)[path], rtol=0, atol=1e-5, err_msg=path)
    _, fsdp, _, tensor = sizes
    v_row, v_col = flatten(state[1][0].v_row), flatten(state[1][0].v_col)
    # Rows of a kernel that `tensor` splits by its columns are split by fsdp, and vice versa.
    assert v_row['layers/mlp/up/kernel'].sharding.shard_shape((2, 128)) == (2, 128 // fsdp)
    assert v_col['layers/mlp/up/kernel'].sharding.shard_shape((2, 192)) == (2, 192 // tensor)
    assert v_row['layers/mlp/down/kernel'].sharding.shard_shape((2, 192)) == (2, 192 // tensor)
    assert v_col['layers/mlp/down/kernel'].sharding.shard_shape((2, 128)) == (2, 128 // fsdp)


@pytest.mark.slow
def test_runs_resume_bit_equal(base, tmp_path):
    def adafactor_run(steps=0):
        config = small_run(base)
        config.optimizer.name, config.train.steps = 'adafactor', steps
        return config

    runs.train(adafactor_run(), tmp_path / 'straight')
    runs.train(adafactor_run(steps=5), tmp_path / 'resumed')
    runs.train(adafactor_run(), tmp_path / 'resumed')
    curve = loss_curve(tmp_path / 'straight')
    assert loss_curve(tmp_path / 'resumed') == curve
    assert curve[-1][1] < curve[0][1]
