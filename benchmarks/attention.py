"""Attention of packed rows, forward and backward: blocks, dense products, and torch's `scaled_dot_product_attention`.

    python -m benchmarks.attention                   # rows of 1,024 to 4,096 tokens: about 2 minutes on 2 cores

One layer of Qwen2.5-0.5B's heads (14 queries, 2 keys, width 64), float32. Rows hold documents of about so many tokens;
torch gets the mask of a packed row as a boolean one, as it has no other way to take it. A turn is one forward and one
backward pass.
"""

from __future__ import annotations

import json

from absl import flags

from benchmarks import output, peers
from bsft_jax import cli

HEADS, KV_HEADS, WIDTH = 14, 2, 64
TOKENS = 4096  # of all rows together
CONTESTANTS = ('blockwise', 'dense', 'torch')

_LENGTHS = flags.DEFINE_list('lengths', ['512', '1024', '2048', '4096'], 'Tokens of a row.')
_DOCUMENTS = flags.DEFINE_list('documents', ['400', 'row'], 'Tokens of a document, about; or one a row.')
_TURNS = flags.DEFINE_integer('turns', 5, 'Turns of each.', lower_bound=1)
_THREADS = flags.DEFINE_integer('threads', 2, 'Threads of each.', lower_bound=1)
_OUTPUT = flags.DEFINE_string('output', 'benchmarks/results/attention_cpu.json', 'File to write.')
_CONTESTANT = flags.DEFINE_string('contestant', '', 'Set by the benchmark itself.')
_QUESTION = flags.DEFINE_string('question', '', 'Set by the benchmark itself.')


def _inputs(length: int, document: int):
    """Segment ids and positions, queries, keys, values and a gradient."""
    import numpy as np

    rng, rows = np.random.default_rng(0), TOKENS // length
    segments, positions = np.zeros((2, rows, length), np.int32)
    for row in range(rows):
        start, number = 0, 1
        while start < length:
            size = length if document >= length else int(rng.integers(document // 2, 2 * document))
            end = min(length, start + size)
            segments[row, start:end], positions[row, start:end] = number, np.arange(end - start)
            start, number = end, number + 1
    sizes = HEADS, KV_HEADS, KV_HEADS, HEADS
    return segments, positions, *(rng.normal(size=(rows, length, n, WIDTH)).astype(np.float32) for n in sizes)


def ours(back_end: str, length: int, document: int):
    import jax
    import jax.numpy as jnp

    from bsft_jax.models import backends, blockwise
    from bsft_jax.models.attention import AttentionMask, Layout, Scores

    blockwise.LONGEST_DENSE = 0
    segments, positions, *arrays = map(jnp.asarray, _inputs(length, document))
    layout = Layout(segments, positions)

    @jax.jit
    def run(q, k, v, gradient):
        attend = backends.lower(AttentionMask(layout, layout), Scores(WIDTH**-0.5), back_end)
        return jax.vjp(attend, q, k, v)[1](gradient)

    return lambda: jax.block_until_ready(run(*arrays))


def torch_peer(length: int, document: int):
    import torch

    segments, positions, *arrays = map(torch.tensor, _inputs(length, document))
    *inputs, gradient = (x.transpose(1, 2).contiguous() for x in arrays)
    mask = segments[:, :, None] == segments[:, None]
    mask &= positions[:, :, None] >= positions[:, None]
    for x in inputs:
        x.requires_grad_()

    def turn():
        out = torch.nn.functional.scaled_dot_product_attention(
            *inputs, attn_mask=mask[:, None], enable_gqa=True
        )
        return torch.autograd.grad(out, inputs, gradient)

    return turn


def _table(rows: list[dict]) -> list[tuple[str, str, str, str]]:
    """The longest rows, by blocks, beside dense products and torch."""
    longest = max(row['length'] for row in rows)
    of = {(row['document'], row['contestant']): row for row in rows if row['length'] == longest}
    lines = []
    for document in sorted({document for document, _ in of}):
        ours = of[document, 'blockwise']
        for name in CONTESTANTS[1:]:
            peer = of[document, name]
            lines.append(
                (
                    f'attention of rows of {longest:,} tokens, documents of {document:,}, float32 on a CPU',
                    f'{1e3 * ours["seconds"]:.0f} ms, {ours["peak_bytes"] / 1e9:.1f} GB',
                    f'{name}: {1e3 * peer["seconds"]:.0f} ms, {peer["peak_bytes"] / 1e9:.1f} GB',
                    f'{peer["seconds"] / ours["seconds"]:.2f} times as fast',
                )
            )
    return lines


def main(argv) -> None:
    del argv
    if _CONTESTANT.value:
        question = json.loads(_QUESTION.value)
        if _CONTESTANT.value == 'torch':
            peers.answer(lambda: torch_peer(**question))
        else:
            peers.answer(lambda: ours(_CONTESTANT.value, **question))
        return
    rows = []
    print(f'{"row":>5}{"document":>9}  {"contestant":<10}{"ms":>8}{"blockwise ×":>13}{"peak MB":>9}')
    for length in map(int, _LENGTHS.value):
        for document in _DOCUMENTS.value:
            question = {'length': length, 'document': length if document == 'row' else int(document)}
            found = peers.contest(
                'benchmarks.attention', list(CONTESTANTS), question, _TURNS.value, _THREADS.value
            )
            for name, row in found.items():
                ratio = row['seconds'] / found['blockwise']['seconds']
                rows.append({**question, 'contestant': name, **row, 'blockwise_is_faster_by': ratio})
                print(
                    f'{length:>5}{question["document"]:>9}  {name:<10}{1e3 * row["seconds"]:>8.0f}{ratio:>13.2f}'
                    f'{row["peak_bytes"] / 1e6:>9.0f}',
                    flush=True,
                )
    output.write(
        _OUTPUT.value, 'python -m benchmarks.attention', ('jax', 'torch'), device=f'cpu, {_THREADS.value} threads',
        turns=_TURNS.value, heads=HEADS, kv_heads=KV_HEADS, width=WIDTH, tokens=TOKENS, rows=rows,
        table=_table(rows),
    )  # fmt: skip


if __name__ == '__main__':
    cli.run(main)
