"""How soon a fresh model learns to look a word up: random weights, lists of pairs, one question after another.

    python -m benchmarks.recall

Each row shows `PAIRS` names with a word each and asks for some of them again; the answer is right when the
word is the most probable token. Chance is one in `PAIRS`. Compares sizes of the random output projections
(`models.decoder.RESIDUAL_INIT`, the share of `init_std`) by depth, and writes `benchmarks/results/recall.json`.
"""

from __future__ import annotations

import numpy as np
from absl import flags

from benchmarks import output
from bsft_jax import cli

_STEPS = flags.DEFINE_integer('steps', 300, 'Updates of each model.', lower_bound=100)
_OUTPUT = flags.DEFINE_string('output', 'benchmarks/results/recall.json', 'File to write.')
SHARES, DEPTHS = (1.0, 0.1, 0.01), (2, 4)
ROWS, PAIRS, NAMES, WORDS, ASKED = 96, 3, 40, 40, 3
SEPARATOR, FIRST_NAME = 3, 10
WINDOW = 20  # steps of which the accuracy is averaged


def make_batch(rng: np.random.Generator):
    """`name word …` for every pair, then `name word …` for those asked again; weight on the latter words."""
    from bsft_jax.data.batch import Batch

    names_RP = np.stack([rng.permutation(NAMES)[:PAIRS] for _ in range(ROWS)]) + FIRST_NAME
    words_RP = np.stack([rng.permutation(WORDS)[:PAIRS] for _ in range(ROWS)]) + FIRST_NAME + NAMES
    asked_RA = rng.integers(0, PAIRS, (ROWS, ASKED))
    told = np.stack([names_RP, words_RP], -1).reshape(ROWS, -1)
    again = [np.take_along_axis(x, asked_RA, 1) for x in (names_RP, words_RP)]
    separator = np.full((ROWS, 1), SEPARATOR)
    tokens = np.concatenate([told, separator, np.stack(again, -1).reshape(ROWS, -1)], 1).astype(np.int32)
    weights = np.zeros(tokens.shape, np.float32)
    weights[:, told.shape[1] + 1 :: 2] = 1
    positions = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
    return Batch(tokens, np.roll(tokens, -1, 1), weights, np.ones_like(tokens), positions)


def measure(share: float, depth: int, steps: int) -> list[float]:
    """Accuracy, averaged over every `WINDOW` steps."""
    import jax

    from bsft_jax.config import MeshSection, OptimizerSection
    from bsft_jax.models import decoder
    from bsft_jax.models.architecture import Architecture, LayerKind
    from bsft_jax.models.network import Network
    from bsft_jax.models.rope import Rope
    from bsft_jax.parallel import mesh as mesh_lib
    from bsft_jax.training import optimizer as optimizer_lib
    from bsft_jax.training import state as state_lib
    from bsft_jax.training.step import make_train_step

    decoder.RESIDUAL_INIT = share
    network = Network(
        Architecture(
            family='qwen2', vocab_size=128, width=128, layers=depth, heads=4, kv_heads=2, head_width=32,
            ffn_width=384, max_positions=64, kinds=(LayerKind(Rope(10000.0)),), norm_eps=1e-6, tied=True, qkv_bias=True,
            init_std=0.08,
        )
    )  # fmt: skip
    section = OptimizerSection(
        learning_rate=1e-3, warmup_steps=50, schedule_steps=2 * steps, weight_decay=0.05
    )
    optimizer, mesh = optimizer_lib.make_optimizer(section), mesh_lib.make_mesh(MeshSection())
    rng, seen = np.random.default_rng(0), []
    with jax.set_mesh(mesh):
        state = state_lib.create(network.init(jax.random.key(0)), ('.*',), optimizer, mesh)
        step = make_train_step(network, optimizer, accumulation=1)
        for _ in range(steps):
            state, metrics = step(state, make_batch(rng))
            seen.append(metrics['response_accuracy'])
    right = np.asarray([float(x) for x in seen])
    return [round(float(x), 3) for x in right[: steps // WINDOW * WINDOW].reshape(-1, WINDOW).mean(-1)]


def main(argv) -> None:
    del argv
    rows = []
    print(f'accuracy after steps (chance {1 / PAIRS:.2f})')
    for depth in DEPTHS:
        for share in SHARES:
            curve = measure(share, depth, _STEPS.value)
            rows.append({'layers': depth, 'residual_init': share, 'accuracy': curve})
            shown = {WINDOW * (i + 1): curve[i] for i in range(4, len(curve), 5)}
            print(f'{depth} layers, output projections × {share:<5} {shown}', flush=True)
    command = f'python -m benchmarks.recall --steps={_STEPS.value}'
    output.write(_OUTPUT.value, command, ('jax', 'flax', 'optax'), window=WINDOW, rows=rows)


if __name__ == '__main__':
    cli.run(main)
