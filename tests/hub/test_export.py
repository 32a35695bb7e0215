"""Checkpoints are exported bit-equal and verified; a damaged one gets one clear line."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

import bsft_jax
from bsft_jax.behaviors import DEFAULT_BEHAVIORS, Behavior
from bsft_jax.data.tokenizer import load_tokenizer
from bsft_jax.errors import UserError
from bsft_jax.hub import export, files, pretrained
from bsft_jax.hub.files import TensorFiles
from bsft_jax.parallel import mesh as mesh_lib
from tests.tiny import assert_close, random_model

TOKENS = [[1, 5, 9, 300, 2]]


@pytest.fixture(scope='module')
def directory(tmp_path_factory):
    return random_model(tmp_path_factory.mktemp('base'), tied=False)


def copy(directory, tmp_path):
    return shutil.copytree(directory, tmp_path / 'copy')


def edit_config(directory, **changes):
    path = directory / 'config.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize('spare', [True, False], ids=['spare rows', 'growth'])
@pytest.mark.parametrize('tied', [True, False], ids=['tied', 'untied'])
def test_export_keeps_old_tensors_and_adds_rows_at_their_ids(tied, spare, tmp_path):
    base = random_model(tmp_path, tied=tied, spare=spare)
    model = bsft_jax.load_model(base, behaviors=DEFAULT_BEHAVIORS)
    ids = model.behaviors.ids
    before = model.logits(TOKENS)
    path = bsft_jax.save_model(model, tmp_path / 'out')
    old, new = TensorFiles(base), TensorFiles(path)
    assert old.names == new.names
    rows = old.shape('model.embed_tokens.weight')[0]
    assert new.shape('model.embed_tokens.weight')[0] == (rows if spare else max(ids) + 1)
    for name in old.names:
        old_rows = [i for i in range(old.shape(name)[0]) if i not in ids or 'layers' in name]
        assert np.array_equal(old.read(name)[old_rows], new.read(name)[old_rows]), name
    again = bsft_jax.load_model(path)
    assert again.behaviors == model.behaviors and again.spec.exported_names == {
        'reactive',
        'proactive',
    }
    assert_close(again.logits(TOKENS), before, 1e-6)
    tokenizer, text = load_tokenizer(path), '<|proactive|>ok'
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True) == text


def test_an_export_of_another_version_is_refused(directory):
    config = json.loads((directory / 'config.json').read_text())
    entry = {'name': 'reactive', 'level': 0.0, 'description': 'a dog'}
    config['bsft'] = {'prefix_kind': 'words', 'behaviors': [entry]}
    assert pretrained.exported_behaviors(config).prefix_kind == 'words'
    config['bsft'] = {'form': 'words', 'behaviors': [entry]}
    with pytest.raises(UserError, match='another version of bsft_jax; export the model again'):
        pretrained.exported_behaviors(config)


def test_a_new_behavior_beside_exported_ones_keeps_their_rows(directory, tmp_path):
    model = bsft_jax.load_model(directory, behaviors=DEFAULT_BEHAVIORS)
    model.params['behavior']['input'] += 1.0
    path = bsft_jax.save_model(model, tmp_path / 'out')
    behaviors = (*DEFAULT_BEHAVIORS, Behavior('watchful', 0.5, 'a dog'))
    rows = bsft_jax.load_model(path, behaviors=behaviors).params['behavior']['input']
    assert rows.shape[0] == 3 and np.array_equal(rows[:2], model.params['behavior']['input'])


def test_bfloat16_in_is_bfloat16_out_bit_for_bit(directory, tmp_path):
    from safetensors.numpy import load_file, save_file

    base = copy(directory, tmp_path)
    tensors = {k: v.astype(jax.numpy.bfloat16) for k, v in load_file(base / files.SINGLE).items()}
    save_file(tensors, base / files.SINGLE, metadata={'format': 'pt'})
    path = bsft_jax.save_model(bsft_jax.load_model(base), tmp_path / 'out')
    for name in TensorFiles(base).names:
        assert TensorFiles(path).dtype(name) == 'BF16'
        assert np.array_equal(TensorFiles(base).read(name), TensorFiles(path).read(name))


def test_export_in_shards(directory, tmp_path, monkeypatch):
    monkeypatch.setattr(export, 'SHARD_BYTES', 30_000)
    path = bsft_jax.save_model(bsft_jax.load_model(directory), tmp_path / 'out')
    assert len(list(path.glob('model-*-of-*.safetensors'))) > 2
    assert not (path / files.SINGLE).exists()
    expected = bsft_jax.load_model(directory).logits(TOKENS)
    assert_close(bsft_jax.load_model(path).logits(TOKENS), expected, 0)


def test_a_row_starts_as_the_mean_of_its_description(directory):
    model = bsft_jax.load_model(directory, behaviors=DEFAULT_BEHAVIORS)
    table = np.asarray(model.params['embed']['table'])
    lm_head = np.asarray(model.params['lm_head']['kernel'])
    for i, behavior in enumerate(DEFAULT_BEHAVIORS):
        ids = model.tokenizer.encode(behavior.description)
        assert_close(model.params['behavior']['input'][i], table[ids].mean(0), 1e-6)
        assert_close(model.params['behavior']['output'][i], lm_head.T[ids].mean(0), 1e-6)
    assert 0.1 < pretrained.row_norm_ratio(model.params) < 1.5


@pytest.mark.parametrize('row_init', ['mean', 'normal'])
def test_rows_may_start_with_the_mean_or_the_deviation_of_the_table(directory, row_init):
    def load(seed):
        spec = pretrained.read_pretrained(str(directory), behaviors=DEFAULT_BEHAVIORS)
        spec = dataclasses.replace(spec, row_init=row_init)
        return pretrained.pretrained_params(spec, mesh_lib.single_device_mesh(), seed)

    params = load(0)
    for rows, table in (
        (params['behavior']['input'], params['embed']['table']),
        (params['behavior']['output'], params['lm_head']['kernel'].T),
    ):
        mean, std = np.mean(table, 0), np.std(table, 0)
        if row_init == 'mean':
            assert_close(rows, np.stack([mean, mean]), 1e-6)
        else:
            scaled = (np.asarray(rows) - mean) / std
            assert 0.7 < scaled.std() < 1.3 and np.abs(rows[0] - rows[1]).max() > 0.01
            assert not np.array_equal(rows, load(1)['behavior']['input'])
    model = bsft_jax.load_model(directory, behaviors=DEFAULT_BEHAVIORS)
    assert model.spec.row_init == 'description'


def test_export_refuses_a_folder_in_use_and_leaves_no_partial_one(directory, tmp_path, monkeypatch):
    model = bsft_jax.load_model(directory)
    (tmp_path / 'used').mkdir()
    (tmp_path / 'used' / 'x').touch()
    with pytest.raises(UserError, match='not empty'):
        bsft_jax.save_model(model, tmp_path / 'used')

    def fail(*_):
        raise OSError('disk full')

    monkeypatch.setattr(export, '_verify_weights', fail)
    with pytest.raises(UserError, match=r'cannot be written \(disk full\)'):
        bsft_jax.save_model(model, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_the_current_folder_can_be_exported_to(directory, tmp_path, monkeypatch):
    (tmp_path / 'here').mkdir()
    monkeypatch.chdir(tmp_path / 'here')
    model = bsft_jax.load_model(directory)
    bsft_jax.save_model(model, '.')
    assert_close(bsft_jax.load_model(tmp_path / 'here').logits(TOKENS), model.logits(TOKENS), 0)
    assert [path.name for path in tmp_path.iterdir()] == ['here']


def test_wrong_checkpoints_get_one_line(directory, tmp_path):
    from safetensors.numpy import load_file, save_file

    tensors = load_file(directory / files.SINGLE)
    norm = 'model.norm.weight'

    def expect(message, change):
        base = copy(directory, tmp_path)
        change(base)
        with pytest.raises(UserError, match=message):
            bsft_jax.load_model(base)
        shutil.rmtree(base)

    def save(**changes):
        return lambda base: save_file(
            {k: v for k, v in (tensors | changes).items() if v is not None}, base / files.SINGLE
        )

    def truncate(base):
        content = (base / files.SINGLE).read_bytes()
        (base / files.SINGLE).write_bytes(content[: len(content) // 2])

    def index(text):
        def write(base):
            (base / files.SINGLE).unlink()
            (base / files.INDEX).write_text(text)

        return write

    expect('1 tensors are missing, first model.norm.weight', save(**{norm: None}))
    expect('1 unknown tensors, first extra', save(extra=np.zeros(3, np.float32)))
    expect('model.norm.weight has shape', save(**{norm: np.zeros(3, np.float32)}))
    expect('damaged or truncated', truncate)
    nowhere = {'weight_map': {norm: 'model-00009.safetensors'}}
    expect('missing file model-00009', index(json.dumps(nowhere)))
    expect('index.json: cannot be read', index('{'))
    expect('index.json: cannot be read', index('{}'))
    expect('pickles are not opened', lambda b: (b / files.SINGLE).rename(b / 'pytorch_model.bin'))
    expect("unknown architecture 'bert'", lambda b: edit_config(b, model_type='bert'))
    expect(
        'rope scaling',
        lambda b: edit_config(b, rope_parameters={'rope_type': 'yarn', 'rope_theta': 1.0}),
    )
    expect('hidden_act', lambda b: edit_config(b, hidden_act='gelu'))
    expect("'hidden_size' is missing", lambda b: edit_config(b, hidden_size=None))
    expect('the tokenizer has', lambda b: edit_config(b, vocab_size=100))
    expect('no tokenizer.json', lambda b: (b / 'tokenizer.json').unlink())
    expect('cannot be read', lambda b: (b / 'config.json').write_text('{'))
    with pytest.raises(UserError, match='no model at'):
        bsft_jax.load_model(str(tmp_path / 'absent'))
    with pytest.raises(UserError, match=r'no config\.json'):
        bsft_jax.load_model(str(tmp_path))
