"""Two processes of four devices each load their own shards and export once, as one process does."""

import socket
import subprocess
import sys

import pytest

import bsft_jax
from bsft_jax.behaviors import DEFAULT_BEHAVIORS
from bsft_jax.hub.files import TensorFiles
from tests.conftest import ROOT
from tests.tiny import random_model

PROGRAM = """
import os, sys
# Four devices, with the optimized machine code that users get.
os.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=4'
import jax
address, process, processes, directory, out, format = sys.argv[1:]
if processes == '2':
    jax.config.update('jax_cpu_collectives_implementation', 'gloo')
    jax.distributed.initialize(address, 2, int(process))
from bsft_jax.behaviors import DEFAULT_BEHAVIORS
from bsft_jax.config import ComputeConfig, LoraConfig, MeshConfig
from bsft_jax.hub import export, pretrained
from bsft_jax.parallel import mesh
compute = ComputeConfig(lora=LoraConfig(4) if format == 'peft' else None, attention='auto')
spec = pretrained.read_pretrained(directory, compute, behaviors=DEFAULT_BEHAVIORS)
split = mesh.make_mesh(MeshConfig(data=1, fsdp=4, tensor=2)) if processes == '2' else None
model = pretrained.load_pretrained(spec, split)
assert model.params['embed']['table'].is_fully_addressable == (processes == '1')
export.write_export(model, out, stop_id=2, format=format)
"""


@pytest.mark.parametrize('format', ['merged', 'peft'])
def test_one_of_two_processes_writes(format, tmp_path):
    directory = random_model(tmp_path / 'base', tied=False)
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        address = f'127.0.0.1:{free.getsockname()[1]}'
    running = []
    for process, processes in (('0', '2'), ('1', '2'), ('0', '1')):
        arguments = [address, process, processes, directory, tmp_path / processes, format]
        running.append(
            subprocess.Popen(
                [sys.executable, '-c', PROGRAM, *arguments],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    outputs = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], outputs
    one, two = tmp_path / '1', tmp_path / '2'
    assert {p.name for p in one.iterdir()} == {p.name for p in two.iterdir()}
    for path in one.glob('*.safetensors'):
        assert path.read_bytes() == (two / path.name).read_bytes()
    if format == 'merged':
        assert TensorFiles(two).names == TensorFiles(directory).names
        assert bsft_jax.load_model(two).behaviors.behaviors == DEFAULT_BEHAVIORS
