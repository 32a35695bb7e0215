"""Compares loading a checkpoint with torch: peak host memory and time.

    python -m benchmarks.load
    python -m benchmarks.load --layers=4    # a small checkpoint, in seconds

The checkpoint is a random Llama in bfloat16, in files of 2 GB as on the hub. It is read four times:
by `bsft_jax`, sharded over 8 simulated devices, and by `AutoModelForCausalLM.from_pretrained`, each
in float32 and in bfloat16, in a process of its own, with the files in the page cache. The memory of
a simulated device is host memory, so the peak of `bsft_jax` includes its 8 shards.
"""

from __future__ import annotations

import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
from absl import flags

from benchmarks import output
from bsft_jax import cli

_LAYERS = flags.DEFINE_integer(
    'layers', 28, 'Layers of the model; 28 make 2.0 billion parameters.', lower_bound=1
)
_FOLDER = flags.DEFINE_string('folder', '', 'Folder for the checkpoint; default a temporary one.')
_READER = flags.DEFINE_string(
    'reader', '', 'Reader to measure in this process; set by the benchmark itself.'
)

DEVICES = 8
SHARD_BYTES = 2 * 10**9
# As in `config.json`, without the number of layers.
CONFIG = {
    'model_type': 'llama',
    'architectures': ['LlamaForCausalLM'],
    'vocab_size': 128_256,
    'hidden_size': 2048,
    'intermediate_size': 8192,
    'num_attention_heads': 32,
    'num_key_value_heads': 8,
    'max_position_embeddings': 8192,
    'tie_word_embeddings': True,
    'rms_norm_eps': 1e-5,
    'rope_theta': 500_000.0,
    'hidden_act': 'silu',
    'dtype': 'bfloat16',
}
READERS = ('ours float32', 'torch float32', 'ours bfloat16', 'torch bfloat16')


def write_checkpoint(folder: pathlib.Path, layers: int) -> int:
    """Writes the random checkpoint and returns its number of parameters."""
    import ml_dtypes
    from safetensors.numpy import save_file

    from bsft_jax.hub import configs, tables
    from bsft_jax.hub.files import INDEX
    from bsft_jax.models.network import Network
    from bsft_jax.pytrees import flatten

    config = CONFIG | {'num_hidden_layers': layers}
    (folder / 'config.json').write_text(json.dumps(config))
    arch = configs.architecture_of(config)
    abstract, rng = flatten(Network(arch).abstract()), np.random.default_rng(0)
    shard, size, weight_map, number = {}, 0, {}, 0

    def flush():
        nonlocal shard, size, number
        name = f'model-{number:05d}.safetensors'
        save_file(shard, folder / name, metadata={'format': 'pt'})
        weight_map.update(dict.fromkeys(shard, name))
        shard, size, number = {}, 0, number + 1

    for path, entry in tables.entries(arch, abstract).items():
        shape = abstract[path].shape[1:] if entry.stacked else abstract[path].shape
        for name in entry.tensors:
            values = rng.standard_normal(
                shape[::-1] if entry.transpose else shape, np.float32
            ) * np.float32(0.02)
            shard[name] = values.astype(ml_dtypes.bfloat16)
            size += shard[name].nbytes
            if size > SHARD_BYTES:
                flush()
    flush()
    (folder / INDEX).write_text(json.dumps({'metadata': {}, 'weight_map': weight_map}))
    return arch.parameters


def read_ours(folder: pathlib.Path, dtype: str) -> None:
    """Loads the checkpoint with `bsft_jax`, sharded over all devices."""
    import jax

    from bsft_jax.config import ComputeConfig, MeshConfig
    from bsft_jax.hub import configs, files, loading
    from bsft_jax.models.network import Network
    from bsft_jax.parallel import mesh as mesh_lib

    mesh = mesh_lib.make_mesh(MeshConfig(data=1, fsdp=DEVICES))
    arch = configs.architecture_of(files.read_config(folder))
    network = Network(arch, compute=ComputeConfig(base_dtype=dtype))
    jax.block_until_ready(loading.load_params(folder, network, mesh))


def read_torch(folder: pathlib.Path, dtype: str) -> None:
    """Loads the checkpoint with `transformers`."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    # A mapped file is read only when its values are used.
    sum(float(p.sum()) for p in model.parameters())


def measure_reader(reader: str, folder: pathlib.Path) -> None:
    """Loads the checkpoint once and prints the seconds and the peak memory as JSON."""
    name, dtype = reader.split()
    # Starting the libraries does not count.
    if name == 'ours':
        import jax

        jax.devices()
    else:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    start = time.perf_counter()
    (read_ours if name == 'ours' else read_torch)(folder, dtype)
    seconds = time.perf_counter() - start
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({'seconds': seconds, 'peak_bytes': peak_bytes}))


def main(argv) -> None:
    """Writes the checkpoint, measures all readers, prints a table and writes the result."""
    del argv
    if _READER.value:
        measure_reader(_READER.value, pathlib.Path(_FOLDER.value))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(_FOLDER.value or temporary)
        parameters = write_checkpoint(folder, _LAYERS.value)
        environment = os.environ | {
            'XLA_FLAGS': f'--xla_force_host_platform_device_count={DEVICES}',
            'JAX_PLATFORMS': 'cpu',
        }
        rows = {}
        # The first reader is measured twice: the first time it fills the page cache.
        for reader in ('ours float32', *READERS):
            command = [
                sys.executable,
                '-m',
                'benchmarks.load',
                f'--reader={reader}',
                f'--folder={folder}',
            ]
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=True
            )
            rows[reader] = json.loads(done.stdout.splitlines()[-1])
    print(f'{parameters:,} parameters')
    print(f'{"reader":<16}{"seconds":>9}{"peak GiB":>10}{"over the parameters":>21}')
    for reader in READERS:
        row = rows[reader]
        row['parameter_bytes'] = parameters * (4 if 'float32' in reader else 2)
        over = row['peak_bytes'] / row['parameter_bytes']
        print(f'{reader:<16}{row["seconds"]:>9.1f}{row["peak_bytes"] / 2**30:>10.2f}{over:>20.2f}x')
    if _LAYERS.value == _LAYERS.default:
        packages = ('jax', 'flax', 'safetensors', 'torch', 'transformers')
        output.write(
            'benchmarks/results/load.json',
            'python -m benchmarks.load',
            packages,
            parameters=parameters,
            readers=rows,
        )


if __name__ == '__main__':
    cli.run(main)
