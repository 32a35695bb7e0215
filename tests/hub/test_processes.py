"""Two processes of four devices each load their own shards and export once, as one process does."""

import socket
import subprocess
import sys

import pytest

import bsft_jax
from bsft_jax.behaviors import DEFAULT_BEHAVIORS
from bsft_jax.hub import export
from bsft_jax.hub import model as model_lib
from bsft_jax.hub.files import TensorFiles
from bsft_jax.models.lora import LoraSpec
from tests.conftest import ROOT
from tests.tiny import random_model

PROGRAM = """
import os, sys
os.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=4'
import jax
jax.config.update('jax_cpu_collectives_implementation', 'gloo')
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from bsft_jax.behaviors import DEFAULT_BEHAVIORS
from bsft_jax.config import MeshSection
from bsft_jax.hub import export, model
from bsft_jax.models.lora import LoraSpec
from bsft_jax.parallel import mesh
lora = LoraSpec(4) if sys.argv[5] == 'peft' else None
base = model.open_base(sys.argv[3], behaviors=DEFAULT_BEHAVIORS, lora=lora)
loaded = model.load(base, mesh.make_mesh(MeshSection(data=1, fsdp=4, tensor=2)))
assert not loaded.params['embed']['table'].is_fully_addressable
export.write(loaded, sys.argv[4], stop_id=2, form=sys.argv[5])
"""


@pytest.mark.parametrize('form', ['merged', 'peft'])
def test_one_of_two_processes_writes(form, tmp_path):
    directory = random_model(tmp_path / 'base', tied=False)
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        address = f'127.0.0.1:{free.getsockname()[1]}'
    arguments = [address, directory, tmp_path / 'two', form]
    running = [
        subprocess.Popen(
            [sys.executable, '-c', PROGRAM, address, str(process), *map(str, arguments[1:])],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for process in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    lora = LoraSpec(4) if form == 'peft' else None
    alone = model_lib.load(model_lib.open_base(str(directory), behaviors=DEFAULT_BEHAVIORS, lora=lora))
    export.write(alone, tmp_path / 'one', stop_id=2, form=form)
    assert {p.name for p in (tmp_path / 'one').iterdir()} == {p.name for p in (tmp_path / 'two').iterdir()}
    for path in (tmp_path / 'one').glob('*.safetensors'):
        assert path.read_bytes() == (tmp_path / 'two' / path.name).read_bytes()
    if form == 'merged':
        assert TensorFiles(tmp_path / 'two').names == TensorFiles(directory).names
        assert bsft_jax.load_model(tmp_path / 'two').behaviors == alone.behaviors
