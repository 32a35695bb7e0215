"""Measures how soon a model with random weights learns to look up a word in a list of pairs.

    python -m benchmarks.recall

Each row shows `PAIRS` names, each with a word, and asks for some of them again. An answer is right
if the word is the most probable token; chance is one in `PAIRS`. The script compares the scale of
the random output projections (`RESIDUAL_INIT`, a share of `init_std`) at two depths and writes
`benchmarks/results/recall.json`.
"""

from __future__ import annotations

import numpy as np
from absl import flags

from benchmarks import output
from bsft_jax import cli

_STEPS = flags.DEFINE_integer('steps', 300, 'Updates of each model.', lower_bound=100)
_OUTPUT = flags.DEFINE_string('output', 'benchmarks/results/recall.json', 'File to write.')
RESIDUAL_INITS, DEPTHS = (1.0, 0.1, 0.01), (2, 4)
ROWS, PAIRS, NAMES, WORDS, ASKED = 96, 3, 40, 40, 3
SEPARATOR, FIRST_NAME = 3, 10
# Steps over which the accuracy is averaged.
WINDOW = 20


def make_batch(rng: np.random.Generator):
    """Returns a batch of rows `name word …` for every pair, then for the pairs asked again.

    Only the words of the latter have weight.
    """
    from bsft_jax.data.examples import Batch

    names = np.stack([rng.permutation(NAMES)[:PAIRS] for _ in range(ROWS)]) + FIRST_NAME
    words = np.stack([rng.permutation(WORDS)[:PAIRS] for _ in range(ROWS)]) + FIRST_NAME + NAMES
    asked = rng.integers(0, PAIRS, (ROWS, ASKED))
    shown = np.stack([names, words], -1).reshape(ROWS, -1)
    repeated = [np.take_along_axis(x, asked, 1) for x in (names, words)]
    separator = np.full((ROWS, 1), SEPARATOR)
    questions = np.stack(repeated, -1).reshape(ROWS, -1)
    tokens = np.concatenate([shown, separator, questions], 1).astype(np.int32)
    weights = np.zeros(tokens.shape, np.float32)
    weights[:, shown.shape[1] + 1 :: 2] = 1
    positions = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
    return Batch(tokens, np.roll(tokens, -1, 1), weights, np.ones_like(tokens), positions)


def measure_accuracy(residual_init: float, depth: int, steps: int) -> list[float]:
    """Trains a model and returns its accuracy, averaged over every `WINDOW` steps."""
    import jax

    from bsft_jax.config import MeshConfig, OptimizerConfig
    from bsft_jax.models import layers
    from bsft_jax.models.architecture import Architecture, LayerKind
    from bsft_jax.models.network import Network
    from bsft_jax.ops.rope import Rope
    from bsft_jax.parallel import mesh as mesh_lib
    from bsft_jax.training import optimizer as optimizer_lib
    from bsft_jax.training import state as state_lib
    from bsft_jax.training.step import make_train_step

    layers.RESIDUAL_INIT = residual_init
    network = Network(
        Architecture(
            family='qwen2',
            vocab_size=128,
            embed_dim=128,
            num_layers=depth,
            num_heads=4,
            num_kv_heads=2,
            head_dim=32,
            mlp_dim=384,
            max_positions=64,
            kinds=(LayerKind(Rope(10000.0)),),
            norm_eps=1e-6,
            tied=True,
            qkv_bias=True,
            init_std=0.08,
        )
    )
    section = OptimizerConfig(
        learning_rate=1e-3, warmup_steps=50, schedule_steps=2 * steps, weight_decay=0.05
    )
    optimizer, mesh = optimizer_lib.make_optimizer(section), mesh_lib.make_mesh(MeshConfig())
    rng, accuracies = np.random.default_rng(0), []
    with jax.set_mesh(mesh):
        state = state_lib.create(network.init(jax.random.key(0)), ('.*',), optimizer, mesh)
        step = make_train_step(network, optimizer, gradient_accumulation_steps=1)
        for _ in range(steps):
            state, metrics = step(state, make_batch(rng))
            accuracies.append(metrics['response_accuracy'])
    values = np.asarray([float(x) for x in accuracies])[: steps // WINDOW * WINDOW]
    return [round(float(x), 3) for x in values.reshape(-1, WINDOW).mean(-1)]


def main(argv) -> None:
    """Runs all scales and depths, prints the accuracies and writes the result."""
    del argv
    rows = []
    print(f'accuracy after steps (chance {1 / PAIRS:.2f})')
    for depth in DEPTHS:
        for residual_init in RESIDUAL_INITS:
            curve = measure_accuracy(residual_init, depth, _STEPS.value)
            rows.append({'layers': depth, 'residual_init': residual_init, 'accuracy': curve})
            by_step = {WINDOW * (i + 1): curve[i] for i in range(4, len(curve), 5)}
            print(f'{depth} layers, output projections × {residual_init:<5} {by_step}', flush=True)
    command = f'python -m benchmarks.recall --steps={_STEPS.value}'
    output.write(_OUTPUT.value, command, ('jax', 'flax', 'optax'), window=WINDOW, rows=rows)


if __name__ == '__main__':
    cli.run(main)
