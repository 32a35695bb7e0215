"""Attention of packed rows, forward and backward: blocks, dense products, and torch's `scaled_dot_product_attention`.

    python -m benchmarks.attention                   # rows of 1,024 to 4,096 tokens: about 2 minutes on 2 cores

One layer of Qwen2.5-0.5B's heads (14 queries, 2 keys, width 64), float32. Rows hold documents of about so many tokens;
torch gets the mask of a packed row as a boolean one, as it has no other way to take it. A turn is one forward and one
backward pass.
"""

from __future__ import annotations

import functools

from absl import flags

from benchmarks import peers

HEADS, KV_HEADS, WIDTH = 14, 2, 64
TOKENS = 4096  # of all rows together

_LENGTHS = flags.DEFINE_list('lengths', ['512', '1024', '2048', '4096'], 'Tokens of a row.')
_DOCUMENTS = flags.DEFINE_list('documents', ['400', 'row'], 'Tokens of a document, about; or one a row.')


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

    def turn() -> None:
        jax.block_until_ready(run(*arrays))

    return turn


def torch_peer(length: int, document: int):
    import torch

    segments, positions, *arrays = map(torch.tensor, _inputs(length, document))
    *inputs, gradient = (x.transpose(1, 2).contiguous() for x in arrays)
    mask = segments[:, :, None] == segments[:, None]
    mask &= positions[:, :, None] >= positions[:, None]
    for x in inputs:
        x.requires_grad_()

    def turn() -> None:
        out = torch.nn.functional.scaled_dot_product_attention(
            *inputs, attn_mask=mask[:, None], enable_gqa=True
        )
        torch.autograd.grad(out, inputs, gradient)

    return turn


def _table(rows: list[dict]) -> list[tuple[str, str, str, str]]:
    """The longest rows, by blocks, beside dense products and torch."""
    longest = max(row['length'] for row in rows)
    of = {(row['document'], row['contestant']): row for row in rows if row['length'] == longest}
    lines = []
    for document in sorted({document for document, _ in of}):
        ours = of[document, 'blockwise']
        for name in ('dense', 'torch'):
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


CONTEST = peers.Contest(
    'benchmarks.attention',
    {
        'blockwise': functools.partial(ours, 'blockwise'),
        'dense': functools.partial(ours, 'dense'),
        'torch': torch_peer,
    },
    turns=5, result='attention_cpu',
)  # fmt: skip


def main() -> None:
    rows = []
    print(f'{"row":>5}{"document":>9}  {"contestant":<10}{"ms":>8}{"blockwise ×":>13}{"peak MB":>9}')
    for length in map(int, _LENGTHS.value):
        for document in _DOCUMENTS.value:
            question = {'length': length, 'document': length if document == 'row' else int(document)}
            found = CONTEST(question)
            for name, row in found.items():
                ratio = row['seconds'] / found['blockwise']['seconds']
                rows.append({**question, 'contestant': name, **row, 'blockwise_is_faster_by': ratio})
                print(
                    f'{length:>5}{question["document"]:>9}  {name:<10}{1e3 * row["seconds"]:>8.0f}{ratio:>13.2f}'
                    f'{row["peak_bytes"] / 1e6:>9.0f}',
                    flush=True,
                )
    CONTEST.write(
        ('jax', 'torch'), (_LENGTHS, _DOCUMENTS), heads=HEADS, kv_heads=KV_HEADS, width=WIDTH, tokens=TOKENS, rows=rows,
        table=_table(rows),
    )  # fmt: skip


if __name__ == '__main__':
    CONTEST.run(main)
