"""Compares attention of packed rows, forward and backward: blocks, dense matmuls and torch's SDPA.

    python -m benchmarks.attention                # rows of 512 to 4,096 tokens; 2 minutes, 2 cores
    python -m benchmarks.attention --device=gpu   # cuDNN's kernel; one GPU from Hopper on

On a CPU the shapes are those of one layer of Qwen2.5-0.5B (14 query heads, 2 key/value heads,
head_dim 64) in float32; on a GPU those of the 7B (28, 4 and 128) in bfloat16. Rows hold segments of
roughly the given number of tokens. Torch gets the mask of a packed row as a boolean array, which is
its only way to take it, and a row with a single segment as causal. A turn is one forward and one
backward pass, on a GPU twenty.
"""

from __future__ import annotations

import functools

from absl import flags

from benchmarks import peers

# (query heads, key/value heads, head_dim)
HEADS = {'cpu': (14, 2, 64), 'gpu': (28, 4, 128)}
# Tokens of all rows together.
TOKENS = {'cpu': 4096, 'gpu': 32_768}
# Forward and backward passes of a turn.
PASSES = {'cpu': 1, 'gpu': 20}
FLASH = {'cpu': 'blockwise', 'gpu': 'cudnn'}

_LENGTHS = flags.DEFINE_list('lengths', ['512', '1024', '2048', '4096'], 'Tokens of a row.')
_SEGMENTS = flags.DEFINE_list(
    'segments', ['400', 'row'], 'Tokens of a segment, roughly; `row`: a segment is a row.'
)


def _inputs(length: int, segment: int, device: str):
    """Returns segment ids, positions, queries, keys, values and an output gradient."""
    import numpy as np

    rng, rows = np.random.default_rng(0), TOKENS[device] // length
    heads, kv_heads, head_dim = HEADS[device]
    segment_ids, positions = np.zeros((2, rows, length), np.int32)
    for row in range(rows):
        start, number = 0, 1
        while start < length:
            size = length if segment >= length else int(rng.integers(segment // 2, 2 * segment))
            end = min(length, start + size)
            segment_ids[row, start:end], positions[row, start:end] = number, np.arange(end - start)
            start, number = end, number + 1
    head_counts = heads, kv_heads, kv_heads, heads
    return (
        segment_ids,
        positions,
        *(rng.normal(size=(rows, length, n, head_dim)).astype(np.float32) for n in head_counts),
    )


def ours(backend: str, length: int, segment: int, device: str):
    """Sets up a backend of `bsft_jax` and returns its turn."""
    import jax
    import jax.numpy as jnp

    from bsft_jax.ops import attention_blockwise, attention_dispatch
    from bsft_jax.ops.attention import AttentionMask, ScoreTransform, TokenLayout

    # Blocks are measured at every length, also where the library would choose dense matmuls.
    attention_blockwise.MAX_DENSE_TOKENS = 0
    segment_ids, positions, *arrays = _inputs(length, segment, device)
    dtype = jnp.float32 if device == 'cpu' else jnp.bfloat16
    layout = TokenLayout(
        jnp.asarray(segment_ids), jnp.asarray(positions), max_segments=int(segment_ids.max())
    )
    arrays = [jnp.asarray(x, dtype) for x in arrays]

    @jax.jit
    def run(q, k, v, gradient):
        attend = attention_dispatch.make_attention_fn(
            AttentionMask(layout, layout), ScoreTransform(HEADS[device][2] ** -0.5), backend
        )
        return jax.vjp(attend, q, k, v)[1](gradient)

    def turn() -> None:
        for _ in range(PASSES[device]):
            out = run(*arrays)
        jax.block_until_ready(out)

    return turn


def torch_peer(length: int, segment: int, device: str):
    """Sets up torch's `scaled_dot_product_attention` and returns its turn."""
    import torch

    torch_device, dtype = ('cpu', torch.float32) if device == 'cpu' else ('cuda', torch.bfloat16)
    segment_ids, positions, *arrays = (
        torch.tensor(x, device=torch_device) for x in _inputs(length, segment, device)
    )
    *inputs, gradient = (x.to(dtype).transpose(1, 2).contiguous() for x in arrays)
    mask = segment_ids[:, :, None] == segment_ids[:, None]
    mask &= positions[:, :, None] >= positions[:, None]
    masking = (
        {'is_causal': True}
        if device == 'gpu' and segment >= length
        else {'attn_mask': mask[:, None]}
    )
    for x in inputs:
        x.requires_grad_()

    def turn() -> None:
        for _ in range(PASSES[device]):
            out = torch.nn.functional.scaled_dot_product_attention(
                *inputs, **masking, enable_gqa=True
            )
            torch.autograd.grad(out, inputs, gradient)
        if device == 'gpu':
            torch.cuda.synchronize()

    return turn


def _table(rows: list[dict], device: str) -> list[tuple[str, str, str, str]]:
    """Returns the table's rows: our flash attention of the longest rows beside dense and torch."""
    longest = max((row['length'] for row in rows), default=0)
    by_contestant = {
        (row['document'], row['contestant']): row for row in rows if row['length'] == longest
    }
    dtype = 'float32 on a CPU' if device == 'cpu' else 'bfloat16 on a GPU'
    lines = []
    for segment in sorted({segment for segment, name in by_contestant if name == FLASH[device]}):
        ours = by_contestant[segment, FLASH[device]]
        for name in ('dense', 'torch'):
            if (segment, name) not in by_contestant:
                continue
            peer = by_contestant[segment, name]
            peer_ms, peer_gb = 1e3 * peer['pass_seconds'], peer['peak_bytes'] / 1e9
            lines.append(
                (
                    f'attention of rows of {longest:,} tokens, segments of {segment:,}, {dtype}',
                    f'{1e3 * ours["pass_seconds"]:.1f} ms, {ours["peak_bytes"] / 1e9:.1f} GB',
                    f'{name}: {peer_ms:.1f} ms, {peer_gb:.1f} GB',
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
    turns=5,
    result='attention',
    devices=('cpu', 'gpu'),
)


def main() -> None:
    """Runs all lengths and segments, prints a table and writes the result."""
    rows, device = [], CONTEST.device
    flash = FLASH[device]
    print(f'{"row":>5}{"segment":>9}  {"contestant":<10}{"ms":>8}{flash + " ×":>13}{"peak MB":>9}')
    for length in map(int, _LENGTHS.value):
        for segment in _SEGMENTS.value:
            segment = length if segment == 'row' else int(segment)
            question = {'length': length, 'segment': segment, 'device': device}
            results = CONTEST(question, [flash, 'dense', 'torch'])
            for name, row in results.items():
                ratio = row['seconds'] / results[flash]['seconds'] if flash in results else 0.0
                row['pass_seconds'] = row['seconds'] / PASSES[device]
                # Result files have `document` for the length of a segment.
                shape = {'length': length, 'document': segment, 'device': device}
                rows.append({**shape, 'contestant': name, **row, f'{flash}_is_faster_by': ratio})
                print(
                    f'{length:>5}{segment:>9}  {name:<10}{1e3 * row["pass_seconds"]:>8.1f}'
                    f'{ratio:>13.2f}{row["peak_bytes"] / 1e6:>9.0f}',
                    flush=True,
                )
    CONTEST.write(
        ('jax', 'torch'),
        (_LENGTHS, _SEGMENTS),
        heads=HEADS[device],
        tokens=TOKENS[device],
        rows=rows,
        table=_table(rows, device),
    )


if __name__ == '__main__':
    CONTEST.run(main)
