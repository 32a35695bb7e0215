"""Tests that every optimizer goes on bit-equal from a checkpoint of its sharded state."""

import jax
import numpy as np
import optax
import pytest

from bsft_jax.config import MODES, OPTIMIZERS, MeshConfig, OptimizerConfig
from bsft_jax.parallel import mesh as mesh_lib
from bsft_jax.parallel import sharding
from bsft_jax.pytrees import flatten, unflatten
from bsft_jax.training import fingerprints, optimizer
from bsft_jax.training import state as state_lib
from bsft_jax.training.checkpoint import Checkpoints

SHAPES = {
    'behavior/input': (2, 128),
    'embed/table': (160, 128),
    'layers/mlp/up/bias': (2, 192),
    'layers/mlp/up/kernel': (2, 128, 192),
    'layers/mlp/up/lora/a': (2, 128, 4),
    'layers/mlp/up/lora/b': (2, 4, 192),
}
# Muon has nothing to do where no kernel trains; Adafactor factors nothing there.
CASES = [
    *((name, 'full', 'float32') for name in OPTIMIZERS),
    ('muon', 'full', 'bfloat16'),
    ('adafactor', 'lora', 'float32'),
    ('adafactor', 'behavior_rows', 'float32'),
]


@pytest.mark.parametrize('name, mode, dtype', CASES)
def test_updates_go_on_bit_equal(name, mode, dtype, tmp_path):
    rng = np.random.default_rng(0)

    def random_tree():
        flat = {p: rng.normal(size=shape).astype(np.float32) for p, shape in SHAPES.items()}
        return jax.device_put(unflatten(flat), sharding.shardings(unflatten(flat), mesh))

    mesh = mesh_lib.make_mesh(MeshConfig(2, 2, 1, 2), jax.devices()[:8])
    made = optimizer.make_optimizer(
        OptimizerConfig(name=name, moment_dtype=dtype, warmup_steps=2, behavior_lr_factor=2.0)
    )
    state = state_lib.create(random_tree(), MODES[mode], made, mesh)
    gradients = [state_lib.partition(random_tree(), MODES[mode])[0] for _ in range(6)]

    @jax.jit
    def update(state, gradient):
        updates, opt_state = made.update(gradient, state.opt_state, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)
        trainable, opt_state = sharding.constrain_by_path((trainable, opt_state))
        return state.replace(step=state.step + 1, trainable=trainable, opt_state=opt_state)

    with jax.set_mesh(mesh):
        for gradient in gradients[:3]:
            state = update(state, gradient)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state, data={'step': 3}, clock={'seconds': 1.0}, config={})
    checkpoints.wait()
    target = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    restored = checkpoints.restore(target.replace(frozen=state.frozen)).state
    checkpoints.close()
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    with jax.set_mesh(mesh):
        for gradient in gradients[3:]:
            state, restored = update(state, gradient), update(restored, gradient)
    assert int(restored.step) == 6
    assert fingerprints.compute(restored) == fingerprints.compute(state)
    for path, leaf in flatten(restored).items():
        np.testing.assert_array_equal(leaf, flatten(state)[path], err_msg=path)
        assert leaf.sharding == flatten(state)[path].sharding, path
