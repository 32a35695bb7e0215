"""Attention of packed rows, forward and backward: blocks, dense products, and torch's `scaled_dot_product_attention`.

    python -m benchmarks.attention                   # rows of 512 to 4,096 tokens: about 2 minutes on 2 cores
    python -m benchmarks.attention --device=gpu      # cuDNN's kernel instead of blocks: one card from Hopper on

On a CPU one layer of Qwen2.5-0.5B's heads (14 queries, 2 keys, width 64), float32; on a card of the 7B's (28, 4 and
128), bfloat16. Rows hold documents of about so many tokens; torch gets the mask of a packed row as a boolean one, as it
has no other way to take it, and a row that is one document as causal. A turn is one forward and one backward pass, on a
card twenty.
"""

from __future__ import annotations

import functools

from absl import flags

from benchmarks import peers

HEADS = {'cpu': (14, 2, 64), 'gpu': (28, 4, 128)}  # of queries, of keys, their width
TOKENS = {'cpu': 4096, 'gpu': 32_768}  # of all rows together
PASSES = {'cpu': 1, 'gpu': 20}  # of a turn
FLASH = {'cpu': 'blockwise', 'gpu': 'cudnn'}

_LENGTHS = flags.DEFINE_list('lengths', ['512', '1024', '2048', '4096'], 'Tokens of a row.')
_DOCUMENTS = flags.DEFINE_list('documents', ['400', 'row'], 'Tokens of a document, about; or one a row.')


def _inputs(length: int, document: int, device: str):
    """Segment ids and positions, queries, keys, values and a gradient."""
    import numpy as np

    rng, rows = np.random.default_rng(0), TOKENS[device] // length
    heads, kv_heads, width = HEADS[device]
    segments, positions = np.zeros((2, rows, length), np.int32)
    for row in range(rows):
        start, number = 0, 1
        while start < length:
            size = length if document >= length else int(rng.integers(document // 2, 2 * document))
            end = min(length, start + size)
            segments[row, start:end], positions[row, start:end] = number, np.arange(end - start)
            start, number = end, number + 1
    sizes = heads, kv_heads, kv_heads, heads
    return segments, positions, *(rng.normal(size=(rows, length, n, width)).astype(np.float32) for n in sizes)


def ours(back_end: str, length: int, document: int, device: str):
    import jax
    import jax.numpy as jnp

    from bsft_jax.models import backends, blockwise
    from bsft_jax.models.attention import AttentionMask, Layout, Scores

    blockwise.LONGEST_DENSE = 0
    segments, positions, *arrays = _inputs(length, document, device)
    dtype = jnp.float32 if device == 'cpu' else jnp.bfloat16
    layout = Layout(jnp.asarray(segments), jnp.asarray(positions), documents=int(segments.max()))
    arrays = [jnp.asarray(x, dtype) for x in arrays]

    @jax.jit
    def run(q, k, v, gradient):
        attend = backends.lower(AttentionMask(layout, layout), Scores(HEADS[device][2] ** -0.5), back_end)
        return jax.vjp(attend, q, k, v)[1](gradient)

    def turn() -> None:
        for _ in range(PASSES[device]):
            out = run(*arrays)
        jax.block_until_ready(out)

    return turn


def torch_peer(length: int, document: int, device: str):
    import torch

    on, dtype = ('cpu', torch.float32) if device == 'cpu' else ('cuda', torch.bfloat16)
    segments, positions, *arrays = (torch.tensor(x, device=on) for x in _inputs(length, document, device))
    *inputs, gradient = (x.to(dtype).transpose(1, 2).contiguous() for x in arrays)
    mask = segments[:, :, None] == segments[:, None]
    mask &= positions[:, :, None] >= positions[:, None]
    seen = {'is_causal': True} if device == 'gpu' and document >= length else {'attn_mask': mask[:, None]}
    for x in inputs:
        x.requires_grad_()

    def turn() -> None:
        for _ in range(PASSES[device]):
            out = torch.nn.functional.scaled_dot_product_attention(*inputs, **seen, enable_gqa=True)
            torch.autograd.grad(out, inputs, gradient)
        if device == 'gpu':
            torch.cuda.synchronize()

    return turn


def _table(rows: list[dict], device: str) -> list[tuple[str, str, str, str]]:
    """The longest rows, without the scores of all pairs, beside dense products and torch."""
    longest = max((row['length'] for row in rows), default=0)
    of = {(row['document'], row['contestant']): row for row in rows if row['length'] == longest}
    lines = []
    for document in sorted({document for document, name in of if name == FLASH[device]}):
        ours = of[document, FLASH[device]]
        for name in ('dense', 'torch'):
            if (document, name) not in of:
                continue
            peer = of[document, name]
            lines.append(
                (
                    f'attention of rows of {longest:,} tokens, documents of {document:,}, '
                    f'{"float32 on a CPU" if device == "cpu" else "bfloat16 on a card"}',
                    f'{1e3 * ours["pass_seconds"]:.1f} ms, {ours["peak_bytes"] / 1e9:.1f} GB',
                    f'{name}: {1e3 * peer["pass_seconds"]:.1f} ms, {peer["peak_bytes"] / 1e9:.1f} GB',
                    f'{peer["seconds"] / ours["seconds"]:.2f} times as fast',
                )
            )
    return lines


CONTEST = peers.Contest(
    'benchmarks.attention',
    {
        'blockwise': functools.partial(ours, 'blockwise'),
        'cudnn': functools.partial(ours, 'cudnn'),
        'dense': functools.partial(ours, 'dense'),
        'torch': torch_peer,
    },
    turns=5, result='attention', devices=('cpu', 'gpu'),
)  # fmt: skip


def main() -> None:
    rows, device = [], CONTEST.device
    flash = FLASH[device]
    print(f'{"row":>5}{"document":>9}  {"contestant":<10}{"ms":>8}{flash + " ×":>13}{"peak MB":>9}')
    for length in map(int, _LENGTHS.value):
        for document in _DOCUMENTS.value:
            document = length if document == 'row' else int(document)
            question = {'length': length, 'document': document, 'device': device}
            found = CONTEST(question, [flash, 'dense', 'torch'])
            for name, row in found.items():
                ratio = row['seconds'] / found[flash]['seconds'] if flash in found else 0.0
                row['pass_seconds'] = row['seconds'] / PASSES[device]
                rows.append({**question, 'contestant': name, **row, f'{flash}_is_faster_by': ratio})
                print(
                    f'{length:>5}{document:>9}  {name:<10}{1e3 * row["pass_seconds"]:>8.1f}{ratio:>13.2f}'
                    f'{row["peak_bytes"] / 1e6:>9.0f}',
                    flush=True,
                )
    CONTEST.write(
        ('jax', 'torch'), (_LENGTHS, _DOCUMENTS), heads=HEADS[device], tokens=TOKENS[device], rows=rows,
        table=_table(rows, device),
    )  # fmt: skip


if __name__ == '__main__':
    CONTEST.run(main)
