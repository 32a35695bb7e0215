"""What `generate` runs on and computes in, and the options that it refuses."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

import bsft_jax
from bsft_jax import runs
from bsft_jax.behaviorbench import sources
from bsft_jax.behaviorbench.records import write_jsonl
from bsft_jax.errors import UserError
from bsft_jax.hub import files
from bsft_jax.hub import model as model_lib
from bsft_jax.inference import decoding
from bsft_jax.models import network as network_lib
from bsft_jax.parallel import mesh as mesh_lib
from tests.tiny import random_model


@pytest.fixture(scope='module')
def base(tmp_path_factory):
    return random_model(tmp_path_factory.mktemp('base'))


@pytest.mark.parametrize(
    'temperature, memory, sizes',
    [
        (0.0, 0.0, (1, 4, 1, 2)),
        (1.0, 0.0, (1, 4, 1, 2)),
        (1.0, 0.8, (2, 2, 1, 2)),
        (0.0, 3.1, (8, 1, 1, 1)),
    ],
)
def test_a_model_on_all_devices_answers_as_on_one(temperature, memory, sizes, base, tmp_path, monkeypatch):
    """`memory` of a device is given as a multiple of the weights; a third of it may be theirs."""
    meshes, decode = [], decoding.generate

    def spy(model, *args, **how):
        meshes.append(tuple(model.mesh.shape.values()))
        return decode(model, *args, **how)

    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(bsft_jax.load_model(base).params))
    monkeypatch.setattr(mesh_lib.processes, 'least', lambda _: weights * memory)
    monkeypatch.setattr(decoding, 'generate', spy)
    records = sources.load_records('synthetic:10', 'test')[:5]
    write_jsonl(tmp_path / 'asked.jsonl', records)
    sampling = decoding.Sampling(max_new_tokens=6, temperature=temperature)
    split = runs.generate(model=str(base), input_file=str(tmp_path / 'asked.jsonl'), sampling=sampling)
    one = bsft_jax.generate_answers(
        bsft_jax.load_model(base), records, max_new_tokens=6, temperature=temperature
    )
    assert meshes == [sizes, (1, 1, 1, 1)]
    assert split == one


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
def test_a_model_is_held_as_it_is_stored_on_accelerators(stored, platform, dtype, base, tmp_path):
    from safetensors.numpy import load_file, save_file

    for file in base.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = {name: tensor.astype(stored) for name, tensor in load_file(base / files.SINGLE).items()}
    save_file(tensors, tmp_path / files.SINGLE, metadata={'format': 'pt'})
    opened = model_lib.open_base(str(tmp_path))
    network = runs._in_stored_dtype(opened, platform)
    assert (network.dtype, network.base_dtype) == (dtype, dtype)
    loaded = model_lib.load(dataclasses.replace(opened, network=network))
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded.params)} == {jnp.dtype(dtype)}
    assert loaded.logits([[1, 5, 9]]).dtype == jnp.float32


def test_what_would_be_ignored_is_refused(base, monkeypatch):
    monkeypatch.setattr(network_lib.Network, 'on', lambda *_: pytest.fail('a device was touched'))
    ask = dict(sampling=decoding.Sampling(max_new_tokens=2), text='Hi')
    with pytest.raises(UserError, match=r'--chat_template=a\.jinja: belongs to --model'):
        runs.generate(**ask, workdir='run', chat_template='a.jinja')
    with pytest.raises(UserError, match='--step=3: belongs to --workdir'):
        runs.generate(**ask, model=str(base), step=3)
    for policy in ('forced:nonsense', 'oracle', 'best'):
        with pytest.raises(UserError, match=f'--policy={policy}: .* --raw has none'):
            runs.generate(**ask, model=str(base), raw=True, policy=policy)


def test_a_tokenizer_without_an_end_continues_a_text_to_its_length(base, monkeypatch):
    opened = runs.open_model

    def endless(**of):
        model = opened(**of)
        model.tokenizer.eos_token = None
        return model

    monkeypatch.setattr(runs, 'open_model', endless)
    sampling = decoding.Sampling(max_new_tokens=3)
    [answer] = runs.generate(sampling=sampling, model=str(base), text='Hi', raw=True)
    assert len(answer['ids']) == 3


def test_no_records_are_one_line(base):
    model = bsft_jax.load_model(base)
    for call in (bsft_jax.generate_answers, bsft_jax.score_records):
        with pytest.raises(UserError, match='no records to'):
            call(model, [])
