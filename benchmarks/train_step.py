"""The train step beside torch `transformers`: the same shapes, float32, the same threads and malloc settings.

    python -m benchmarks.train_step                 # all sizes: about 12 minutes on 2 cores
    python -m benchmarks.train_step --sizes=small-4k --tuned=full

Both take AdamW steps on one batch of random tokens without padding, every token a target. Torch is
`Qwen2ForCausalLM` as it comes (SDPA attention), eager and with `torch.compile`, and for LoRA `peft`.
A turn is a step or two, seconds.
"""

from __future__ import annotations

import functools

from absl import flags

from benchmarks import peers

# layers, width, vocabulary, rows, tokens of a row
SIZES = {
    'small-4k': (4, 256, 4096, 16, 256),
    'small-32k': (4, 256, 32_768, 16, 256),
    'medium-4k': (12, 512, 4096, 8, 256),
    'medium-32k': (12, 512, 32_768, 8, 256),
}
TUNED = ('full', 'lora')
PEERS = ('torch', 'torch compiled')

_SIZES = flags.DEFINE_list('sizes', list(SIZES), 'Which of the sizes.')
_TUNED = flags.DEFINE_list('tuned', list(TUNED), 'What is trained: full, lora.')
_AGAINST = flags.DEFINE_list('against', list(PEERS), 'Which peers.')


def _shape(size: str) -> dict:
    layers, width, vocabulary, rows, tokens = SIZES[size]
    return {
        'layers': layers, 'width': width, 'heads': width // 64, 'kv_heads': width // 128, 'head_width': 64,
        'ffn_width': 4 * width, 'vocabulary': vocabulary, 'rows': rows, 'tokens': tokens,
    }  # fmt: skip


def ours(size: str, tuned: str, steps: int):
    import jax
    import numpy as np
    import optax

    from bsft_jax.data.batch import Batch
    from bsft_jax.models.architecture import Architecture, LayerKind
    from bsft_jax.models.lora import LoraSpec
    from bsft_jax.models.network import Network
    from bsft_jax.models.rope import Rope
    from bsft_jax.parallel import mesh as mesh_lib
    from bsft_jax.parallel import sharding
    from bsft_jax.training import state as state_lib
    from bsft_jax.training import step as step_lib

    s = _shape(size)
    arch = Architecture(
        family='qwen2', vocab_size=s['vocabulary'], width=s['width'], layers=s['layers'], heads=s['heads'],
        kv_heads=s['kv_heads'], head_width=s['head_width'], ffn_width=s['ffn_width'], max_positions=s['tokens'],
        kinds=(LayerKind(Rope(1e6)),), norm_eps=1e-6, tied=True, qkv_bias=True,
    )  # fmt: skip
    lora = LoraSpec(rank=16, alpha=32.0) if tuned == 'lora' else None
    network, mesh = Network(arch, lora=lora), mesh_lib.single_device_mesh()
    with jax.set_mesh(mesh):
        params = jax.device_put(network.init(jax.random.key(0)), sharding.replicated(mesh))
        regexes = ('.*/lora/.*',) if lora else ('.*',)
        optimizer = optax.adamw(1e-4)
        state = state_lib.create(params, regexes, optimizer, mesh)
        step = step_lib.make_train_step(network.on(mesh), optimizer, accumulation=1)
        tokens = (
            np.random.default_rng(0).integers(0, s['vocabulary'], (s['rows'], s['tokens'])).astype(np.int32)
        )
        weights = np.ones(tokens.shape, np.float32)
        weights[:, -1] = 0
        positions = np.broadcast_to(np.arange(s['tokens'], dtype=np.int32), tokens.shape)
        batch = Batch(tokens, np.roll(tokens, -1, 1), weights, np.ones_like(tokens), positions)
        batch = jax.device_put(batch, sharding.batch_sharding(mesh))

        def turn():
            nonlocal state
            with jax.set_mesh(mesh):
                for _ in range(steps):
                    state, metrics = step(state, batch)
            float(metrics['loss'])

    return turn


def torch_peer(size: str, tuned: str, steps: int, compiled: bool):
    import torch
    import transformers

    s = _shape(size)
    torch.manual_seed(0)
    config = transformers.Qwen2Config(
        vocab_size=s['vocabulary'], hidden_size=s['width'], num_hidden_layers=s['layers'],
        num_attention_heads=s['heads'], num_key_value_heads=s['kv_heads'], intermediate_size=s['ffn_width'],
        max_position_embeddings=s['tokens'], rope_theta=1e6, rms_norm_eps=1e-6, tie_word_embeddings=True,
        use_cache=False,
    )  # fmt: skip
    model = transformers.Qwen2ForCausalLM(config)
    if tuned == 'lora':
        import peft

        maps = ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj']
        model = peft.get_peft_model(model, peft.LoraConfig(r=16, lora_alpha=32, target_modules=maps))
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)
    run = torch.compile(model) if compiled else model
    tokens = torch.randint(s['vocabulary'], (s['rows'], s['tokens']))

    def turn():
        for _ in range(steps):
            loss = run(input_ids=tokens, labels=tokens).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        loss.item()

    return turn


def _table(rows: list[dict]) -> list[tuple[str, str, str, str]]:
    of = {(row['size'], row['tuned'], row['contestant']): row for row in rows}
    lines = []
    for (size, tuned, name), row in of.items():
        if name != 'ours':
            ours, shape = of[size, tuned, 'ours']['tokens_per_second'], _shape(size)
            lines.append(
                (
                    f'train step, {shape["layers"]} layers of {shape["width"]}, {shape["vocabulary"]:,} words, {tuned}, '
                    'float32 on a CPU',
                    f'{ours:,.0f} tokens/s',
                    f'{name}: {row["tokens_per_second"]:,.0f}',
                    f'{ours / row["tokens_per_second"]:.2f} times as fast',
                )
            )
    return lines


CONTEST = peers.Contest(
    'benchmarks.train_step',
    {
        'ours': ours,
        'torch': functools.partial(torch_peer, compiled=False),
        'torch compiled': functools.partial(torch_peer, compiled=True),
    },
    turns=3, result='train_step_cpu',
)  # fmt: skip


def main() -> None:
    rows = []
    print(
        f'{"size":<11}{"tuned":<7}{"contestant":<16}{"tokens/s":>9}{"ours ×":>8}{"first s":>9}{"peak MB":>9}'
    )
    for size in _SIZES.value:
        for tuned in _TUNED.value:
            steps = 2 if size.startswith('small') else 1
            found = CONTEST(dict(size=size, tuned=tuned, steps=steps), ['ours', *_AGAINST.value])
            tokens = steps * SIZES[size][3] * SIZES[size][4]
            for name, row in found.items():
                ratio = row['seconds'] / found['ours']['seconds']
                row |= {'tokens_per_second': tokens / row['seconds'], 'ours_is_faster_by': ratio}
                rows.append({'size': size, 'tuned': tuned, 'contestant': name, **row})
                print(
                    f'{size:<11}{tuned:<7}{name:<16}{row["tokens_per_second"]:>9.0f}{ratio:>8.2f}'
                    f'{row["first_seconds"]:>9.1f}{row["peak_bytes"] / 1e6:>9.0f}',
                    flush=True,
                )
    packages = ('jax', 'flax', 'optax', 'torch', 'transformers', 'peft')
    shapes = {size: _shape(size) for size in _SIZES.value}
    CONTEST.write(packages, (_SIZES, _TUNED, _AGAINST), shapes=shapes, rows=rows, table=_table(rows))


if __name__ == '__main__':
    CONTEST.run(main)
