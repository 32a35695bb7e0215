"""Tests of Muon: its steps against numpy, its shards, its moments and its checkpoints."""

import jax
import jax.numpy as jnp
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

STEPS = 20
# Path → shape. The kernels are wide, high and square, of two layers and of one.
SHAPES = {
    'behavior/input': (2, 8),
    'embed/table': (24, 8),
    'layers/attention/q/bias': (2, 8),
    'layers/attention/q/kernel': (2, 8, 8),
    'layers/mlp/down/kernel': (2, 16, 8),
    'layers/mlp/up/kernel': (2, 8, 16),
    'lm_head/kernel': (8, 24),
    'norm/scale': (8,),
    'rest/mlp/up/kernel': (1, 8, 16),
}
KERNELS = {path for path, shape in SHAPES.items() if len(shape) == 3}
DECAYED = KERNELS | {'embed/table', 'lm_head/kernel'}
CONFIG = OptimizerConfig(
    name='muon',
    learning_rate=0.02,
    behavior_lr_factor=3.0,
    warmup_steps=4,
    schedule_steps=STEPS,
    weight_decay=0.1,
    clip_norm=10.0,
)


def random_tree(seed: int, scale: float = 1.0, shapes=SHAPES) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        path: (scale * rng.normal(size=shape)).astype(np.float32) for path, shape in shapes.items()
    }


def run_jax(config: OptimizerConfig, params, gradients):
    """Returns parameters by path and the optimizer's state after one update per gradient."""
    muon = optimizer.make_optimizer(config)
    params = unflatten(params)
    state = muon.init(params)

    @jax.jit
    def step(params, state, gradient):
        updates, state = muon.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    for gradient in gradients:
        params, state = step(params, state, unflatten(gradient))
    return flatten(jax.device_get(params)), state


def orthogonalized(matrix: np.ndarray) -> np.ndarray:
    """Returns five steps of X ← aX + b(XXᵀ)X + c(XXᵀ)²X from X / (‖X‖ + 1e-8), in float64.

    The formula and the coefficients are those of Jordan et al., kellerjordan.github.io/posts/muon.
    """
    x = matrix / (np.sqrt(np.sum(matrix**2)) + 1e-8)
    for _ in range(5):
        product = x @ x.T
        x = 3.4445 * x - 4.7750 * product @ x + 2.0315 * product @ product @ x
    return x


def run_numpy(config: OptimizerConfig, params, gradients) -> dict[str, np.ndarray]:
    """Returns the parameters after one update per gradient, in float64."""
    params = {path: x.astype(np.float64) for path, x in params.items()}
    first = {path: np.zeros_like(x) for path, x in params.items()}
    second = {path: np.zeros_like(x) for path, x in params.items()}
    for t, gradient in enumerate(gradients, start=1):
        done, warmup = t - 1, config.warmup_steps
        decay = (done - warmup) / (config.schedule_steps - warmup)
        cosine = (1 + np.cos(np.pi * decay)) / 2
        factor = done / warmup if done < warmup else 0.1 + 0.9 * cosine
        gradient = {path: g.astype(np.float64) for path, g in gradient.items()}
        norm = np.sqrt(sum(np.sum(g**2) for g in gradient.values()))
        for path, g in gradient.items():
            g = g * min(1.0, config.clip_norm / norm)
            if path in KERNELS:
                first[path] = 0.95 * first[path] + 0.05 * g
                momentum = 0.95 * first[path] / (1 - 0.95 ** (t + 1)) + 0.05 * g / (1 - 0.95**t)
                update = np.stack([orthogonalized(matrix) for matrix in momentum])
                update *= 0.2 * np.sqrt(max(g.shape[1:]))
            else:
                first[path] = config.b1 * first[path] + (1 - config.b1) * g
                second[path] = config.b2 * second[path] + (1 - config.b2) * g**2
                mean, square = first[path] / (1 - config.b1**t), second[path] / (1 - config.b2**t)
                update = mean / (np.sqrt(square) + config.eps)
            if path in DECAYED:
                update = update + config.weight_decay * params[path]
            if path.startswith('behavior/'):
                update = config.behavior_lr_factor * update
            params[path] = params[path] - config.learning_rate * factor * update
    return params


def test_twenty_steps_follow_numpy():
    params, gradients = random_tree(0), [random_tree(1 + i) for i in range(STEPS)]
    actual, expected = run_jax(CONFIG, params, gradients)[0], run_numpy(CONFIG, params, gradients)
    for path in SHAPES:
        assert np.abs(actual[path] - params[path]).max() > 0.05, path
        np.testing.assert_allclose(actual[path], expected[path], rtol=0, atol=1e-5, err_msg=path)


def test_an_update_has_the_singular_values_of_the_polynomial_and_the_size_of_adamw():
    config = OptimizerConfig(name='muon', learning_rate=1.0, warmup_steps=0, weight_decay=0.0)
    path, shape = 'layers/mlp/up/kernel', (3, 16, 40)
    gradient = random_tree(0, shapes={path: shape})
    zeros = {path: np.zeros(shape, np.float32)}
    update = -run_jax(config, zeros, [gradient])[0][path]
    values = np.linalg.svd(gradient[path].astype(np.float64), compute_uv=False)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    assert np.abs(values - 1).max() < 0.35
    actual = np.linalg.svd(update, compute_uv=False) / (0.2 * 40**0.5)
    np.testing.assert_allclose(actual, -np.sort(-values), rtol=0, atol=1e-5)
    # The singular vectors stay those of the gradient.
    assert np.all(np.sum(update * gradient[path], axis=(1, 2)) > 0)
    assert 0.15 < np.sqrt(np.mean(update**2)) < 0.25


def test_layers_are_orthogonalized_one_by_one():
    """Checks that a layer moves as it does alone, whatever the scale of its gradient."""
    config = OptimizerConfig(name='muon', learning_rate=0.02, warmup_steps=0, clip_norm=1e9)
    path = 'layers/mlp/up/kernel'
    params = random_tree(0, shapes={path: (3, 8, 16)})
    gradients = [random_tree(i, shapes={path: (3, 8, 16)}) for i in (1, 2)]
    for gradient in gradients:
        gradient[path] *= np.array([1e-3, 1.0, 1e3], np.float32)[:, None, None]
    together, _ = run_jax(config, params, gradients)
    for layer in range(3):
        alone, _ = run_jax(
            config,
            {path: params[path][layer : layer + 1]},
            [{path: gradient[path][layer : layer + 1]} for gradient in gradients],
        )
        np.testing.assert_allclose(together[path][layer], alone[path][0], rtol=0, atol=1e-6)


@pytest.mark.parametrize('sizes', [(1, 8, 1, 1), (1, 1, 1, 8), (2, 2, 1, 2)])
def test_shards_move_as_the_whole(sizes):
    muon = optimizer.make_optimizer(CONFIG)
    params, gradients = random_tree(0), [random_tree(1 + i) for i in range(6)]
    mesh = mesh_lib.make_mesh(MeshConfig(*sizes), jax.devices()[:8])
    whole, _ = run_jax(CONFIG, params, gradients)
    tree = jax.device_put(unflatten(params), sharding.shardings(unflatten(params), mesh))
    state = jax.jit(
        muon.init, out_shardings=sharding.shardings(jax.eval_shape(muon.init, tree), mesh)
    )(tree)

    @jax.jit
    def step(params, state, gradient):
        updates, state = muon.update(gradient, state, params)
        return sharding.constrain_by_path((optax.apply_updates(params, updates), state))

    with jax.set_mesh(mesh):
        for gradient in gradients:
            gradient = unflatten(gradient)
            gradient = jax.device_put(gradient, sharding.shardings(gradient, mesh))
            tree, state = step(tree, state, gradient)
    momentum = flatten(state[1].inner_states['muon'].inner_state[0].mu)
    assert set(momentum) == KERNELS
    for path, leaf in flatten(tree).items():
        np.testing.assert_allclose(leaf, whole[path], rtol=0, atol=1e-5, err_msg=path)
        if path in KERNELS:
            assert momentum[path].sharding == leaf.sharding and not leaf.is_fully_replicated


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_a_kernel_has_one_moment_of_the_dtype_of_the_config(dtype):
    params = random_tree(0)
    config = OptimizerConfig(name='muon', moment_dtype=dtype)
    _, state = run_jax(config, params, [random_tree(1)])
    muon, adamw = (state[1].inner_states[name].inner_state[0] for name in ('muon', 'adamw'))
    moments = jax.tree.leaves((muon.mu, adamw.mu, adamw.nu))
    assert {x.dtype for x in moments} == {jnp.dtype(dtype)}
    kernels = sum(params[path].size for path in KERNELS)
    rest = sum(x.size for x in params.values()) - kernels
    assert sum(x.size for x in moments) == kernels + 2 * rest
    # The iteration's coefficients are no moment and are not rounded.
    assert muon.ns_coeffs.tolist() == np.float32([3.4445, -4.7750, 2.0315]).tolist()


@pytest.mark.slow
def test_runs_resume_bit_equal(base, tmp_path):
    def muon_run(steps=0):
        config = small_run(base)
        config.optimizer.name, config.train.steps = 'muon', steps
        config.optimizer.behavior_lr_factor = 2.0
        config.mesh.fsdp = config.mesh.tensor = 2
        return config

    runs.train(muon_run(), tmp_path / 'straight')
    runs.train(muon_run(steps=5), tmp_path / 'resumed')
    runs.train(muon_run(), tmp_path / 'resumed')
    curve = loss_curve(tmp_path / 'straight')
    assert loss_curve(tmp_path / 'resumed') == curve
    assert curve[-1][1] < curve[0][1]
