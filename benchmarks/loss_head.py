"""Head and cross-entropy in one operation, beside all logits at once: time, peak memory, gradients.

    python -m benchmarks.loss_head                                  # 8,192 tokens × 151,936 words
    python -m benchmarks.loss_head --tokens=1024 --words=32768      # in seconds
    python -m benchmarks.loss_head --device=gpu                     # in bfloat16

Both make the loss and its gradients by hidden states and kernel, float32 on a CPU. Each runs in a process of its own,
one after the other. Memory is the most that the process held over what it held with its inputs: the gradients, and
what making them takes. Gradients are compared on an eighth of the tokens by ‖a − b‖ / ‖b‖. `--weighted=0.2` gives
weight to a fifth of the tokens, as prompts leave it.
"""

from __future__ import annotations

import functools

from absl import flags

from benchmarks import peers

_TOKENS = flags.DEFINE_integer('tokens', 8192, 'Tokens.', lower_bound=1)
_WORDS = flags.DEFINE_integer('words', 151_936, 'Columns of the head.', lower_bound=2)
_WIDTH = flags.DEFINE_integer('width', 896, 'Width of the hidden states.', lower_bound=1)
_WEIGHTED = flags.DEFINE_float('weighted', 1.0, 'Share of the tokens with weight.', 0.0, 1.0)
CONTESTANTS = ('fused', 'dense')


def _gradient(name: str):
    import jax
    import jax.numpy as jnp

    from bsft_jax.models.cross_entropy import Columns, cross_entropy

    def dense(hidden_BTD, kernel_DV, targets_BT, weights_BT):
        logits_BTV = jnp.einsum('BTD,DV->BTV', hidden_BTD, kernel_DV, precision='highest')
        target_BT = jnp.take_along_axis(logits_BTV, targets_BT[..., None], -1)[..., 0]
        return jnp.sum(weights_BT * (jax.nn.logsumexp(logits_BTV, -1) - target_BT))

    def fused(hidden_BTD, kernel_DV, targets_BT, weights_BT):
        return cross_entropy(Columns(), hidden_BTD, kernel_DV, None, targets_BT, weights_BT)[0]

    return jax.jit(jax.value_and_grad({'dense': dense, 'fused': fused}[name], (0, 1)))


def _inputs(tokens: int, words: int, width: int, weighted: float, device: str):
    import jax
    import jax.numpy as jnp
    import numpy as np

    draw = np.random.default_rng(0)  # jax.random holds several copies of the kernel while it draws one
    kernel_DV = draw.standard_normal((width, words), np.float32)
    kernel_DV *= np.float32(0.02)
    dtype = np.float32 if device == 'cpu' else jnp.bfloat16
    return jax.device_put(
        (
            draw.standard_normal((1, tokens, width), np.float32).astype(dtype),
            kernel_DV.astype(dtype, copy=False),
            draw.integers(words, size=(1, tokens), dtype=np.int32),
            (draw.random((1, tokens)) < weighted).astype(np.float32),
        )
    )


def _turn(name: str, **question):
    import jax

    inputs, gradient = jax.block_until_ready(_inputs(**question)), _gradient(name)

    def turn():
        jax.block_until_ready(gradient(*inputs))

    return turn


def _errors(question: dict) -> dict[str, float]:
    """Of the fused gradients against the dense ones, on an eighth of the tokens so that both fit."""
    import jax.numpy as jnp

    inputs = _inputs(**question | {'tokens': max(1, question['tokens'] // 8), 'device': 'cpu'})
    (loss, mine), (reference_loss, reference) = (_gradient(name)(*inputs) for name in CONTESTANTS)
    norm = jnp.linalg.norm
    return {
        'loss': float(abs(loss - reference_loss) / reference_loss),
        **{
            part: float(norm((a - b).ravel()) / norm(b.ravel()))
            for part, a, b in zip(('hidden', 'kernel'), mine, reference, strict=True)
        },
    }


def _table(found: dict, question: dict) -> list[tuple[str, str, str, str]]:
    ours, peer = found['fused'], found['dense']
    return [
        (
            f'head and loss, {question["tokens"]:,} tokens × {question["words"]:,} words, forward and backward',
            f'{ours["seconds"]:.1f} s, {ours["bytes"] / 1e9:.1f} GB',
            f'all logits at once: {peer["seconds"]:.1f} s, {peer["bytes"] / 1e9:.1f} GB',
            f'{ours["seconds"] / peer["seconds"]:.2f} of the time, '
            f'{ours["bytes"] / peer["bytes"]:.0%} of the memory',
        )
    ]


SIZES = _TOKENS, _WORDS, _WIDTH, _WEIGHTED
CONTEST = peers.Contest(
    'benchmarks.loss_head', {name: functools.partial(_turn, name) for name in CONTESTANTS},
    turns=3, result='loss_head', devices=('cpu', 'gpu'),
)  # fmt: skip


def main() -> None:
    question = {flag.name: flag.value for flag in SIZES} | {'device': CONTEST.device}
    found = {}
    for name in CONTESTANTS:  # one after the other: the dense one fills the memory
        found |= CONTEST(question, [name])
    for row in found.values():
        row['bytes'] = row['peak_bytes'] - row['held_bytes']
    errors = _errors(question)
    print(f'{"":<8}{"seconds":>9}{"of dense":>10}{"GB":>9}{"of dense":>10}')
    for name, row in found.items():
        print(
            f'{name:<8}{row["seconds"]:>9.2f}{row["seconds"] / found["dense"]["seconds"]:>10.2f}'
            f'{row["bytes"] / 1e9:>9.2f}{row["bytes"] / found["dense"]["bytes"]:>10.2f}'
        )
    print('gradients, ‖a − b‖ / ‖b‖:', ', '.join(f'{part} {error:.1e}' for part, error in errors.items()))
    CONTEST.write(
        ('jax',), SIZES, sizes=question, contestants=found, errors=errors, table=_table(found, question)
    )


if __name__ == '__main__':
    CONTEST.run(main)
