"""Moments in bfloat16: half of the bytes, the same first step, nearly the same run."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bsft_jax.config import OptimizerSection
from bsft_jax.config_checks import MOST_B2
from bsft_jax.parallel import mesh as mesh_lib
from bsft_jax.training import fingerprints, optimizer, state
from bsft_jax.training.checkpoint import Checkpoints

DTYPES = ('float32', 'bfloat16')


def section(**changes) -> OptimizerSection:
    return OptimizerSection(learning_rate=0.05, warmup_steps=0, schedule_steps=100, clip_norm=10.0, **changes)


def run(moments: str, steps: int):
    """Steps toward a target whose gradients are noisy: parameters, and the state of the optimizer."""
    made, rng = optimizer.make_optimizer(section(moments=moments)), np.random.default_rng(0)
    params = {'kernel': jnp.asarray(rng.normal(size=(16, 8)), jnp.float32)}
    target, opt_state = jnp.ones((16, 8)), made.init(params)

    @jax.jit
    def step(params, opt_state, noise):
        gradients = {'kernel': params['kernel'] - target + noise}
        updates, opt_state = made.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    for _ in range(steps):
        params, opt_state = step(params, opt_state, jnp.asarray(rng.normal(size=(16, 8)), jnp.float32))
    return np.asarray(params['kernel']), opt_state


def floats(tree) -> list:
    return [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]


def test_both_moments_are_held_as_asked():
    sizes = {}
    for moments in DTYPES:
        held = floats(run(moments, 1)[1])
        assert [x.dtype for x in held] == [jnp.dtype(moments)] * 2
        sizes[moments] = sum(x.nbytes for x in held)
    assert sizes['bfloat16'] == sizes['float32'] / 2


def test_the_first_step_is_the_same_and_a_run_nearly():
    start = run('float32', 0)[0]
    for steps, tolerance in ((1, 0.0), (60, 0.02)):
        (wide, _), (narrow, _) = (run(moments, steps) for moments in DTYPES)
        assert np.linalg.norm(wide - narrow) <= tolerance * np.linalg.norm(wide - start)


def test_the_largest_b2_still_lets_a_second_moment_fall():
    def after(b2: float) -> float:
        made, params = optimizer.make_optimizer(section(moments='bfloat16', b2=b2)), {'bias': jnp.ones(4)}
        opt_state = made.init(params)
        for gradient in (100.0, *[0.0] * 100):
            _, opt_state = made.update({'bias': jnp.full(4, gradient)}, opt_state, params)
        return float(floats(opt_state)[1][0]) / ((1 - b2) * 25.0)  # clipped to a norm of 10, 5 an element

    assert after(MOST_B2) < 0.6  # 0.37 by arithmetic
    assert after(0.999) > 0.99  # 0.90


def test_a_checkpoint_keeps_them(tmp_path):
    made = optimizer.make_optimizer(section(moments='bfloat16'))
    params = {'kernel': jnp.ones((16, 8))}
    saved = state.create(params, ('.*',), made, mesh_lib.single_device_mesh())
    _, opt_state = made.update({'kernel': jnp.full((16, 8), 0.3)}, saved.opt_state, params)
    saved = saved.replace(opt_state=opt_state)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(saved, data={'step': 0}, clock={'seconds': 1.0}, config={})
    checkpoints.wait()
    restored = checkpoints.restore(saved.replace(opt_state=made.init(params)))
    checkpoints.close()
    assert fingerprints.compute(restored.state.opt_state) == fingerprints.compute(opt_state)
    assert {x.dtype for x in floats(restored.state.opt_state)} == {jnp.dtype('bfloat16')}
