"""Compares the train step with torch `transformers` at the same shapes.

    python -m benchmarks.train_step                 # all sizes: about 12 minutes on 2 cores
    python -m benchmarks.train_step --sizes=small-4k --tuned=full
    python -m benchmarks.train_step --dtype=bfloat16 \\
        --output=benchmarks/results/train_step_cpu_bfloat16.json
    python -m benchmarks.train_step --device=gpu    # Qwen2.5's sizes; one GPU from Hopper on

Both take AdamW steps with clipped gradients on one batch of random tokens, without padding and with
every token a target. Torch is `Qwen2ForCausalLM` with its default SDPA attention, eager and with
`torch.compile`, and for LoRA `peft`.

On a CPU both have the same threads and malloc settings. Everything is in float32, or with
`--dtype=bfloat16` matmuls are in that dtype, torch's by `autocast`. A turn is one or two steps.

On a GPU rows have 4,096 tokens. Ours computes in bfloat16 with cuDNN's attention and trains float32
parameters, with moments in bfloat16 at the sizes that say so. Torch holds everything but adapters
in bfloat16 and uses its flash attention kernel. A turn is ten steps. MFU follows the causal
convention (`planning/flops.py`).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from absl import flags

from benchmarks import peers
from bsft_jax.hub.presets import preset


@dataclasses.dataclass(frozen=True)
class Size:
    """Describes a model and the batch that it is trained on.

    Attributes:
      config: the model as in `config.json`.
      rows: rows of the batch.
      tokens: tokens of a row.
      steps: train steps of a turn.
      remat: rematerialization policy (`train.remat`).
      moments: dtype of the optimizer's moments.
    """

    config: dict[str, Any]
    rows: int
    tokens: int
    steps: int
    remat: str = 'none'
    moments: str = 'float32'


def _cpu_size(layers: int, embed_dim: int, vocab_size: int, rows: int, steps: int) -> Size:
    config = {
        'model_type': 'qwen2',
        'hidden_size': embed_dim,
        'num_hidden_layers': layers,
        'num_attention_heads': embed_dim // 64,
        'num_key_value_heads': embed_dim // 128,
        'head_dim': 64,
        'intermediate_size': 4 * embed_dim,
        'vocab_size': vocab_size,
        'max_position_embeddings': 256,
        'rms_norm_eps': 1e-6,
        'rope_theta': 1e6,
        'tie_word_embeddings': True,
    }
    return Size(config, rows, 256, steps)


def _gpu_size(name: str, rows: int, remat: str, moments: str = 'float32') -> Size:
    return Size(preset(name), rows, 4096, 10, remat, moments)


# On a GPU a layer keeps as much as fits, according to plans for one H200.
SIZES = {
    'cpu': {
        'small-4k': dict.fromkeys(('full', 'lora'), _cpu_size(4, 256, 4096, 16, 2)),
        'small-32k': dict.fromkeys(('full', 'lora'), _cpu_size(4, 256, 32_768, 16, 2)),
        'medium-4k': dict.fromkeys(('full', 'lora'), _cpu_size(12, 512, 4096, 8, 1)),
        'medium-32k': dict.fromkeys(('full', 'lora'), _cpu_size(12, 512, 32_768, 8, 1)),
    },
    'gpu': {
        'qwen2.5-0.5b': {
            'full': _gpu_size('qwen2.5-0.5b', 8, 'dots'),
            'lora': _gpu_size('qwen2.5-0.5b', 8, 'none'),
        },
        'qwen2.5-1.5b': {
            'full': _gpu_size('qwen2.5-1.5b', 4, 'dots'),
            'lora': _gpu_size('qwen2.5-1.5b', 4, 'none'),
        },
        'qwen2.5-7b': {
            'full': _gpu_size('qwen2.5-7b', 4, 'full', 'bfloat16'),
            'lora': _gpu_size('qwen2.5-7b', 2, 'dots'),
        },
    },
}
PEERS = {'cpu': ('torch', 'torch compiled'), 'gpu': ('torch',)}
# FLOP/s of a Hopper GPU in bfloat16 (planning/chips.py).
PEAK_FLOPS = 989.4e12

_SIZES = flags.DEFINE_list('sizes', [], 'Sizes to measure; default: all of the device.')
_TUNED = flags.DEFINE_list('tuned', ['full', 'lora'], 'Parameters to train: full, lora.')
_DTYPE = flags.DEFINE_enum(
    'dtype', 'float32', ['float32', 'bfloat16'], 'Dtype of matmuls on a CPU; bfloat16 on a GPU.'
)
_AGAINST = flags.DEFINE_list(
    'against', [], 'Peers: torch, torch compiled; on a GPU only the first.'
)


def _network(size: Size, tuned: str, device: str, dtype: str):
    """Returns the network of a size."""
    from bsft_jax.config import ComputeConfig, LoraConfig
    from bsft_jax.hub.configs import architecture_of
    from bsft_jax.models.network import Network

    lora = LoraConfig(rank=16, alpha=32.0) if tuned == 'lora' else None
    compute = ComputeConfig(dtype=dtype, lora=lora, remat=size.remat, attention='auto')
    network = Network(architecture_of(size.config), compute=compute, max_segments=1)
    if device == 'cpu':
        return network
    return network.with_compute(
        base_dtype='bfloat16' if tuned == 'lora' else 'float32', attention='cudnn'
    )


def ours(size: str, tuned: str, device: str, dtype: str):
    """Sets up the train step of `bsft_jax` and returns its turn."""
    import jax
    import numpy as np

    from bsft_jax.config import MODES, OptimizerConfig
    from bsft_jax.data.examples import Batch
    from bsft_jax.parallel import mesh as mesh_lib
    from bsft_jax.parallel import sharding
    from bsft_jax.training import optimizer as optimizer_lib
    from bsft_jax.training import state as state_lib
    from bsft_jax.training import step as step_lib

    s, mesh = SIZES[device][size][tuned], mesh_lib.single_device_mesh()
    network = _network(s, tuned, device, dtype).for_mesh(mesh)
    with jax.set_mesh(mesh):
        params = jax.jit(network.init, out_shardings=sharding.replicated(mesh))(jax.random.key(0))
        optimizer = optimizer_lib.make_optimizer(OptimizerConfig(moment_dtype=s.moments))
        state = state_lib.create(params, MODES[tuned], optimizer, mesh)
        step = step_lib.make_train_step(network, optimizer, gradient_accumulation_steps=1)
        tokens = np.random.default_rng(0).integers(0, s.config['vocab_size'], (s.rows, s.tokens))
        tokens = tokens.astype(np.int32)
        weights = np.ones(tokens.shape, np.float32)
        weights[:, -1] = 0
        positions = np.broadcast_to(np.arange(s.tokens, dtype=np.int32), tokens.shape)
        batch = Batch(tokens, np.roll(tokens, -1, 1), weights, np.ones_like(tokens), positions)
        batch = jax.device_put(batch, sharding.batch_sharding(mesh))

        def turn():
            nonlocal state
            with jax.set_mesh(mesh):
                for _ in range(s.steps):
                    state, metrics = step(state, batch)
            float(metrics['loss'])

    return turn


def torch_peer(size: str, tuned: str, device: str, dtype: str, compiled: bool):
    """Sets up torch's train step and returns its turn."""
    import torch
    import transformers

    s, torch_device = SIZES[device][size][tuned], 'cuda' if device == 'gpu' else device
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(**s.config, use_cache=False)
    param_dtype = torch.float32 if device == 'cpu' else torch.bfloat16
    with torch.device(torch_device):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=param_dtype)
    if s.remat == 'full':
        model.gradient_checkpointing_enable()
    if tuned == 'lora':
        import peft

        names = ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj']
        lora = peft.LoraConfig(r=16, lora_alpha=32, target_modules=names)
        model = peft.get_peft_model(model, lora)
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    run = torch.compile(model) if compiled else model
    tokens = torch.randint(s.config['vocab_size'], (s.rows, s.tokens), device=torch_device)
    flash = torch.nn.attention.SDPBackend.FLASH_ATTENTION

    def compute_context():
        if device == 'gpu':
            return torch.nn.attention.sdpa_kernel(flash)
        return torch.autocast('cpu', torch.bfloat16, enabled=dtype == 'bfloat16')

    def turn():
        for _ in range(s.steps):
            with compute_context():
                loss = run(input_ids=tokens, labels=tokens).loss
                loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
        loss.item()

    return turn


def _flops_per_token(size: Size, tuned: str, **setting: str) -> float:
    """Returns the FLOPs of a token by formula, forward and backward."""
    from bsft_jax.config import MODES
    from bsft_jax.planning import flops
    from bsft_jax.training import state as state_lib

    network = _network(size, tuned, **setting)
    trainable, frozen = (
        flops.num_matmul_params(network.arch, part)
        for part in state_lib.partition(network.abstract(), MODES[tuned])
    )
    return flops.model_flops(network.arch, trainable=trainable, frozen=frozen, tokens=size.tokens)


def _table(rows: list[dict], device: str, dtype: str) -> list[tuple[str, str, str, str]]:
    by_contestant = {(row['size'], row['tuned'], row['contestant']): row for row in rows}
    computation = f'{dtype} on a {device.upper()}'
    lines = []
    for (size, tuned, name), row in by_contestant.items():
        if name != 'ours' and (size, tuned, 'ours') in by_contestant:
            mine, config = by_contestant[size, tuned, 'ours'], SIZES[device][size][tuned].config
            rate = mine['tokens_per_second']
            mfu = f', MFU {mine["mfu"]:.0%}' if 'mfu' in mine else ''
            layers = f'{config["num_hidden_layers"]} layers of {config["hidden_size"]}'
            model = f'{layers}, {config["vocab_size"]:,} words'
            lines.append(
                (
                    f'train step, {model}, {tuned}, {computation}',
                    f'{rate:,.0f} tokens/s{mfu}',
                    f'{name}: {row["tokens_per_second"]:,.0f}',
                    f'{rate / row["tokens_per_second"]:.2f} times as fast',
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
    turns=3,
    result='train_step',
    devices=('cpu', 'gpu'),
)


def main() -> None:
    """Runs all sizes, prints a table and writes the result."""
    device = CONTEST.device
    setting = {'device': device, 'dtype': _DTYPE.value if device == 'cpu' else 'bfloat16'}
    sizes, against = _SIZES.value or list(SIZES[device]), _AGAINST.value or PEERS[device]
    rows = []
    print(
        f'{"size":<14}{"tuned":<7}{"contestant":<16}{"tokens/s":>9}{"ours ×":>8}{"MFU":>7}'
        f'{"first s":>9}{"peak MB":>9}'
    )
    for size in sizes:
        for tuned in _TUNED.value:
            s = SIZES[device][size][tuned]
            results = CONTEST({'size': size, 'tuned': tuned, **setting}, ['ours', *against])
            for name, row in results.items():
                row['tokens_per_second'] = s.steps * s.rows * s.tokens / row['seconds']
                if 'ours' in results:
                    row['ours_is_faster_by'] = row['seconds'] / results['ours']['seconds']
                if device == 'gpu':
                    flops = row['tokens_per_second'] * _flops_per_token(s, tuned, **setting)
                    row['mfu'] = flops / PEAK_FLOPS
                rows.append({'size': size, 'tuned': tuned, 'contestant': name, **row})
                mfu = f'{row["mfu"]:.1%}' if 'mfu' in row else ''
                print(
                    f'{size:<14}{tuned:<7}{name:<16}{row["tokens_per_second"]:>9.0f}'
                    f'{row.get("ours_is_faster_by", 0):>8.2f}{mfu:>7}'
                    f'{row["first_seconds"]:>9.1f}{row["peak_bytes"] / 1e6:>9.0f}',
                    flush=True,
                )
    packages = ('jax', 'flax', 'optax', 'torch', 'transformers', 'peft')
    shapes = {
        size: {tuned: dataclasses.asdict(s) for tuned, s in SIZES[device][size].items()}
        for size in sizes
    }
    flag_holders = (_SIZES, _TUNED, _AGAINST, _DTYPE)
    CONTEST.write(packages, flag_holders, shapes=shapes, rows=rows, table=_table(rows, **setting))


if __name__ == '__main__':
    CONTEST.run(main)
