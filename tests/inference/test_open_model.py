"""Tests of opening a model: the devices it is spread over and the dtype it computes in."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

import bsft_jax
from bsft_jax.data import sources
from bsft_jax.hub import files, pretrained
from bsft_jax.inference import decoding, open_model
from bsft_jax.parallel import mesh as mesh_lib
from bsft_jax.pytrees import flatten
from bsft_jax.records.record import write_jsonl
from tests import run as runs


@pytest.mark.parametrize(
    'temperature, memory, sizes',
    [
        (0.0, 0.0, (1, 4, 1, 2)),
        (1.0, 0.0, (1, 4, 1, 2)),
        (1.0, 0.8, (2, 2, 1, 2)),
        (0.0, 3.1, (8, 1, 1, 1)),
    ],
)
def test_a_model_on_all_devices_answers_as_on_one(
    temperature, memory, sizes, base, tmp_path, monkeypatch
):
    """Tests meshes by the `memory` of a device, a multiple of the weights' bytes.

    Weights may take a third of it.
    """
    meshes, decode = [], decoding.generate

    def record_mesh(model, *args, **options):
        meshes.append(tuple(model.mesh.shape.values()))
        return decode(model, *args, **options)

    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(bsft_jax.load_model(base).params))
    monkeypatch.setattr(mesh_lib.processes, 'all_min', lambda _: weights * memory)
    monkeypatch.setattr(decoding, 'generate', record_mesh)
    records = sources.load_records('synthetic:10', 'test')[:5]
    write_jsonl(tmp_path / 'asked.jsonl', records)
    sampling = decoding.Sampling(max_new_tokens=6, temperature=temperature)
    on_all = runs.generate(
        model=str(base), input_file=str(tmp_path / 'asked.jsonl'), sampling=sampling
    )
    on_one = bsft_jax.generate_answers(
        bsft_jax.load_model(base), records, max_new_tokens=6, temperature=temperature
    )
    assert meshes == [sizes, (1, 1, 1, 1)]
    assert on_all == on_one


@pytest.mark.parametrize(
    'stored, platform, dtype',
    [
        (jnp.bfloat16, 'gpu', 'bfloat16'),
        (jnp.bfloat16, 'tpu', 'bfloat16'),
        (jnp.bfloat16, 'cpu', 'float32'),
        (jnp.float16, 'gpu', 'float32'),
        (jnp.float32, 'gpu', 'float32'),
    ],
)
def test_accelerators_compute_in_the_stored_dtype(stored, platform, dtype, base, tmp_path):
    from safetensors.numpy import load_file, save_file

    for file in base.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = {
        name: tensor.astype(stored) for name, tensor in load_file(base / files.SINGLE).items()
    }
    save_file(tensors, tmp_path / files.SINGLE, metadata={'format': 'pt'})
    spec = pretrained.read_pretrained(str(tmp_path))
    network = open_model._in_stored_dtype(spec, platform)
    assert (network.compute.dtype, network.compute.base_dtype) == (dtype, dtype)
    loaded = pretrained.load_pretrained(dataclasses.replace(spec, network=network))
    # Norms and biases are float32 always.
    matrices = [
        x for path, x in flatten(loaded.params).items() if path.endswith(('kernel', 'table'))
    ]
    assert {matrix.dtype for matrix in matrices} == {jnp.dtype(dtype)}
    assert loaded.logits([[1, 5, 9]]).dtype == jnp.float32
