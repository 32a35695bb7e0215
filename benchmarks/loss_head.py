"""Compares the fused LM head and cross-entropy with all logits at once: time, memory, gradients.

    python -m benchmarks.loss_head                               # 8,192 tokens × 151,936 words
    python -m benchmarks.loss_head --tokens=1024 --words=32768   # a few seconds
    python -m benchmarks.loss_head --device=gpu                  # in bfloat16

Both compute the loss and its gradients with respect to hidden states and kernel, in float32 on a
CPU. Each runs in a process of its own, one after the other. Memory is the peak of the process minus
its memory with the inputs: the gradients and all temporaries. Gradients are compared on an eighth
of the tokens by ‖a − b‖ / ‖b‖. `--weighted=0.2` gives weight to a fifth of the tokens, as with
prompts.
"""

from __future__ import annotations

import functools

from absl import flags

from benchmarks import peers

_TOKENS = flags.DEFINE_integer('tokens', 8192, 'Number of tokens.', lower_bound=1)
_WORDS = flags.DEFINE_integer('words', 151_936, 'Columns of the LM head.', lower_bound=2)
_WIDTH = flags.DEFINE_integer(
    'width', 896, 'Dimension of the hidden states (embed_dim).', lower_bound=1
)
_WEIGHTED = flags.DEFINE_float('weighted', 1.0, 'Share of the tokens with weight.', 0.0, 1.0)
CONTESTANTS = ('fused', 'dense')


def _loss_and_gradients(name: str):
    """Returns the jitted loss with its gradients by hidden states and kernel."""
    import jax
    import jax.numpy as jnp

    from bsft_jax.ops.cross_entropy import VocabSpec, cross_entropy

    def dense(hidden_BTD, kernel_DV, targets_BT, weights_BT):
        logits_BTV = jnp.einsum('BTD,DV->BTV', hidden_BTD, kernel_DV, precision='highest')
        target_BT = jnp.take_along_axis(logits_BTV, targets_BT[..., None], -1)[..., 0]
        return jnp.sum(weights_BT * (jax.nn.logsumexp(logits_BTV, -1) - target_BT))

    def fused(hidden_BTD, kernel_DV, targets_BT, weights_BT):
        return cross_entropy(VocabSpec(), hidden_BTD, kernel_DV, None, targets_BT, weights_BT)[0]

    return jax.jit(jax.value_and_grad({'dense': dense, 'fused': fused}[name], (0, 1)))


def _inputs(tokens: int, words: int, width: int, weighted: float, device: str):
    """Returns (hidden_BTD, kernel_DV, targets_BT, weights_BT) with B = 1."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    # jax.random would hold several copies of the kernel while it draws one.
    rng = np.random.default_rng(0)
    kernel_DV = rng.standard_normal((width, words), np.float32)
    kernel_DV *= np.float32(0.02)
    dtype = np.float32 if device == 'cpu' else jnp.bfloat16
    return jax.device_put(
        (
            rng.standard_normal((1, tokens, width), np.float32).astype(dtype),
            kernel_DV.astype(dtype, copy=False),
            rng.integers(words, size=(1, tokens), dtype=np.int32),
            (rng.random((1, tokens)) < weighted).astype(np.float32),
        )
    )


def _make_turn(name: str, **question):
    """Sets up a contestant and returns its turn."""
    import jax

    inputs, run = jax.block_until_ready(_inputs(**question)), _loss_and_gradients(name)

    def turn():
        jax.block_until_ready(run(*inputs))

    return turn


def _errors(question: dict) -> dict[str, float]:
    """Returns the relative errors of the fused loss and gradients against the dense ones.

    An eighth of the tokens is used, so that both fit into memory.
    """
    import jax.numpy as jnp

    inputs = _inputs(**question | {'tokens': max(1, question['tokens'] // 8), 'device': 'cpu'})
    (loss, mine), (reference_loss, reference) = (
        _loss_and_gradients(name)(*inputs) for name in CONTESTANTS
    )
    norm = jnp.linalg.norm
    return {
        'loss': float(abs(loss - reference_loss) / reference_loss),
        **{
            part: float(norm((a - b).ravel()) / norm(b.ravel()))
            for part, a, b in zip(('hidden', 'kernel'), mine, reference, strict=True)
        },
    }


def _table(results: dict, question: dict) -> list[tuple[str, str, str, str]]:
    ours, peer = results['fused'], results['dense']
    shape = f'{question["tokens"]:,} tokens × {question["words"]:,} words'
    return [
        (
            f'head and loss, {shape}, forward and backward',
            f'{ours["seconds"]:.1f} s, {ours["bytes"] / 1e9:.1f} GB',
            f'all logits at once: {peer["seconds"]:.1f} s, {peer["bytes"] / 1e9:.1f} GB',
            f'{ours["seconds"] / peer["seconds"]:.2f} of the time, '
            f'{ours["bytes"] / peer["bytes"]:.0%} of the memory',
        )
    ]


SIZES = _TOKENS, _WORDS, _WIDTH, _WEIGHTED
CONTEST = peers.Contest(
    'benchmarks.loss_head',
    {name: functools.partial(_make_turn, name) for name in CONTESTANTS},
    turns=3,
    result='loss_head',
    devices=('cpu', 'gpu'),
)


def main() -> None:
    """Runs both contestants, prints a table and writes the result."""
    question = {flag.name: flag.value for flag in SIZES} | {'device': CONTEST.device}
    results = {}
    # One after the other, because the dense one fills the memory.
    for name in CONTESTANTS:
        results |= CONTEST(question, [name])
    for row in results.values():
        row['bytes'] = row['peak_bytes'] - row['held_bytes']
    errors = _errors(question)
    print(f'{"":<8}{"seconds":>9}{"of dense":>10}{"GB":>9}{"of dense":>10}')
    for name, row in results.items():
        print(
            f'{name:<8}{row["seconds"]:>9.2f}{row["seconds"] / results["dense"]["seconds"]:>10.2f}'
            f'{row["bytes"] / 1e9:>9.2f}{row["bytes"] / results["dense"]["bytes"]:>10.2f}'
        )
    print(
        'gradients, ‖a − b‖ / ‖b‖:',
        ', '.join(f'{part} {error:.1e}' for part, error in errors.items()),
    )
    CONTEST.write(
        ('jax',),
        SIZES,
        sizes=question,
        contestants=results,
        errors=errors,
        table=_table(results, question),
    )


if __name__ == '__main__':
    CONTEST.run(main)
