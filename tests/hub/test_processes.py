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
os.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=4'  # and machine code as users have it
import jax
address, process, processes, directory, out, form = sys.argv[1:]
if processes == '2':
    jax.config.update('jax_cpu_collectives_implementation', 'gloo')
    jax.distributed.initialize(address, 2, int(process))
from bsft_jax.behaviors import DEFAULT_BEHAVIORS
from bsft_jax.config import MeshSection
from bsft_jax.hub import export, model
from bsft_jax.models.lora import LoraSpec
from bsft_jax.parallel import mesh
base = model.open_base(
    directory, behaviors=DEFAULT_BEHAVIORS, lora=LoraSpec(4) if form == 'peft' else None
)
split = mesh.make_mesh(MeshSection(data=1, fsdp=4, tensor=2)) if processes == '2' else None
loaded = model.load(base, split)
assert loaded.params['embed']['table'].is_fully_addressable == (processes == '1')
export.write(loaded, out, stop_id=2, form=form)
"""


@pytest.mark.parametrize('form', ['merged', 'peft'])
def test_one_of_two_processes_writes(form, tmp_path):
    directory = random_model(tmp_path / 'base', tied=False)
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        address = f'127.0.0.1:{free.getsockname()[1]}'
    running = [
        subprocess.Popen(
            [sys.executable, '-c', PROGRAM, address, process, processes, directory, tmp_path / processes, form],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for process, processes in (('0', '2'), ('1', '2'), ('0', '1'))
    ]  # fmt: skip
    said = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], said
    one, two = tmp_path / '1', tmp_path / '2'
    assert {p.name for p in one.iterdir()} == {p.name for p in two.iterdir()}
    for path in one.glob('*.safetensors'):
        assert path.read_bytes() == (two / path.name).read_bytes()
    if form == 'merged':
        assert TensorFiles(two).names == TensorFiles(directory).names
        assert bsft_jax.load_model(two).behaviors.behaviors == DEFAULT_BEHAVIORS
