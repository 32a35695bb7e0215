"""Weights are read from the file that transformers reads, as they are stored, or refused."""

import json
import os
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import bsft_jax
from bsft_jax.behaviors import DEFAULT_BEHAVIORS
from bsft_jax.config import ComputeConfig
from bsft_jax.errors import UserError
from bsft_jax.hub import export, files, pretrained
from bsft_jax.hub.files import HEAD, INDEX, SINGLE, TABLE, TensorFiles
from bsft_jax.inference import open_model
from bsft_jax.parallel import mesh as mesh_lib
from tests.tiny import (
    NO_TORCH,
    SHAPES,
    assert_close,
    random_model,
    save_torch,
    save_with_vision_tower,
)

TOKENS = [[1, 5, 9, 30, 2]]
NORM, KERNEL = 'model.norm.weight', 'model.layers.0.mlp.up_proj.weight'


@pytest.fixture(scope='module')
def tied(tmp_path_factory):
    return random_model(tmp_path_factory.mktemp('tied'))


@pytest.fixture
def base(tied, tmp_path):
    return shutil.copytree(tied, tmp_path / 'base')


def tensors_of(folder):
    return load_file(folder / SINGLE)


def save(folder, tensors, file=SINGLE):
    save_file(tensors, folder / file, metadata={'format': 'pt'})


def save_sharded(folder, tensors):
    """Writes two shards and their index, and returns the shards."""
    names = sorted(tensors)
    parts = {'model-1.safetensors': names[::2], 'model-2.safetensors': names[1::2]}
    for file, part in parts.items():
        save(folder, {name: tensors[name] for name in part}, file)
    weight_map = {name: file for file, part in parts.items() for name in part}
    (folder / INDEX).write_text(json.dumps({'weight_map': weight_map}))
    return [folder / file for file in parts]


def params_of(folder):
    spec = pretrained.read_pretrained(str(folder))
    return pretrained.pretrained_params(spec, mesh_lib.single_device_mesh())


def equal(one, other):
    leaves = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(x, y) for x, y in leaves)


def test_an_index_alone_is_no_weights(base):
    """A plan downloads the small files of a hub id, and with them the index."""
    (base / SINGLE).unlink()
    (base / INDEX).write_text(json.dumps({'weight_map': {NORM: 'model-1.safetensors'}}))
    assert pretrained.read_pretrained(str(base)).network.arch.num_layers == 2
    with pytest.raises(UserError, match=r'names a missing file model-1\.safetensors'):
        params_of(base)


@pytest.mark.parametrize('layers', [1, 3, 1000])
def test_another_number_of_layers_is_told_before_a_network_is_made(base, layers, monkeypatch):
    config = json.loads((base / 'config.json').read_text()) | {'num_hidden_layers': layers}
    (base / 'config.json').write_text(json.dumps(config))
    monkeypatch.setattr(pretrained, 'Network', lambda *_: pytest.fail('a network was made'))
    with pytest.raises(UserError, match=f'says {layers} layers, the files have 2'):
        pretrained.read_pretrained(str(base))


def halved(tensors):
    return {name: tensor * 0.5 for name, tensor in tensors.items()}


def test_a_single_file_counts_before_an_index(base):
    expected = params_of(base)
    shards = save_sharded(base, halved(tensors_of(base)))
    assert equal(params_of(base), expected)
    for shard in shards:
        shard.unlink()
    assert equal(params_of(base), expected)


def test_shards_count_where_no_single_file_is(base):
    expected, tensors = params_of(base), tensors_of(base)
    (base / SINGLE).unlink()
    save_sharded(base, tensors)
    assert equal(params_of(base), expected)


def test_files_of_a_cache_are_links_to_elsewhere(base, tmp_path):
    expected = params_of(base)
    shards = save_sharded(base, tensors_of(base))
    (base / SINGLE).unlink()
    (tmp_path / 'blobs').mkdir()
    for i, shard in enumerate(shards):
        os.replace(shard, tmp_path / 'blobs' / str(i))
        shard.symlink_to(f'../blobs/{i}')
    assert equal(params_of(base), expected)


@pytest.mark.parametrize(
    'name',
    ['../ok/model.safetensors', '/etc/passwd', '..', '', 'sub/model.safetensors', 7, None, ['x']],
    ids=str,
)
def test_an_index_names_files_of_its_folder_alone(base, name):
    shutil.copytree(base, base.parent / 'ok')
    shutil.copytree(base.parent / 'ok', base / 'sub')
    (base / SINGLE).unlink()
    (base / INDEX).write_text(json.dumps({'weight_map': {NORM: name}}))
    with pytest.raises(UserError, match=r'index\.json: (names .* not a file of|cannot be read)'):
        pretrained.read_pretrained(str(base))


@pytest.mark.parametrize('content', ['[]', '{"weight_map": 3}', '[' * 100_000, '\ufeff'])
def test_an_index_of_another_form_is_one_line(base, content):
    (base / SINGLE).unlink()
    (base / INDEX).write_text(content)
    with pytest.raises(UserError, match=r'index\.json: cannot be read') as raised:
        pretrained.read_pretrained(str(base))
    assert '\n' not in str(raised.value)


@pytest.mark.parametrize('prefix', ['', '_orig_mod.', '_orig_mod.model.', 'model._orig_mod.'])
def test_names_without_the_usual_prefix_are_understood(base, prefix):
    expected = params_of(base)
    tensors = {n.replace('model.', prefix, 1): t for n, t in tensors_of(base).items()}
    save(base, tensors)
    assert equal(params_of(base), expected)


def test_an_encoder_without_its_head_is_refused(tmp_path):
    folder = random_model(tmp_path, tied=False)
    tensors = tensors_of(folder)
    del tensors[HEAD]
    save(folder, {name.removeprefix('model.'): tensor for name, tensor in tensors.items()})
    with pytest.raises(UserError, match=r'1 tensors are missing, first lm_head\.weight'):
        params_of(folder)


def test_a_head_beside_a_tied_flag_is_kept_where_it_differs(base, tmp_path):
    tensors = tensors_of(base)
    table = tensors[TABLE]
    expected = bsft_jax.load_model(base).logits(TOKENS)
    save(base, tensors | {HEAD: table})
    model = bsft_jax.load_model(base)
    assert model.network.arch.tied and np.array_equal(model.logits(TOKENS), expected)

    # One value of the last row differs.
    head = table.copy()
    head[-1, -1] += 1.0
    save(base, tensors | {HEAD: head})
    model = bsft_jax.load_model(base, behaviors=DEFAULT_BEHAVIORS)
    assert not model.network.arch.tied
    out = bsft_jax.save_model(model, tmp_path / 'out')
    assert json.loads((out / 'config.json').read_text())['tie_word_embeddings'] is False
    assert np.array_equal(tensors_of(out)[HEAD][-1], head[-1])
    assert np.array_equal(bsft_jax.load_model(out).logits(TOKENS), model.logits(TOKENS))


def test_random_weights_are_tied_as_the_flag_says(base):
    tensors = tensors_of(base)
    save(base, tensors | {HEAD: tensors[TABLE] + 1})
    assert pretrained.read_pretrained(str(base), weights=False).network.arch.tied


@pytest.mark.parametrize(
    'shape', ['llama grouped tied', 'qwen2 tied', 'gemma2 remainder', 'gemma3 remainder', 'gemma']
)
def test_a_head_of_its_own_gives_the_logits_of_transformers(shape, tied, tmp_path):
    torch = pytest.importorskip('torch', reason=NO_TORCH)
    from transformers import AutoModelForCausalLM

    save_torch(tmp_path, **SHAPES[shape] | dict(vocab_size=384))
    for file in (*tied.glob('tokenizer*'), tied / 'chat_template.jinja'):
        shutil.copy(file, tmp_path)
    tensors = tensors_of(tmp_path)
    head = np.random.default_rng(0).normal(size=tensors[TABLE].shape).astype(np.float32)
    save(tmp_path, tensors | {HEAD: head * 0.3})
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype='float32', attn_implementation='eager'
    ).eval()
    tokens = np.arange(1, 61)[None]
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens)).logits.numpy()
    assert_close(bsft_jax.load_model(tmp_path).logits(tokens), expected, 1e-4)


@pytest.mark.parametrize('flag', [True, False, None], ids=['tied', 'untied', 'inner flag'])
@pytest.mark.parametrize('own_head', [True, False], ids=['own head', 'no head'])
def test_the_head_beside_a_vision_tower_is_that_of_transformers(flag, own_head, tied, tmp_path):
    torch = pytest.importorskip('torch', reason=NO_TORCH)
    from transformers import AutoModelForCausalLM

    save_with_vision_tower(tmp_path, 384)
    for file in (*tied.glob('tokenizer*'), tied / 'chat_template.jinja'):
        shutil.copy(file, tmp_path)
    config = json.loads((tmp_path / 'config.json').read_text())
    config.pop('tie_word_embeddings', None)
    if flag is None:
        # The outer flag alone counts, and its default is true.
        config['text_config']['tie_word_embeddings'] = False
    else:
        config['tie_word_embeddings'] = flag
    (tmp_path / 'config.json').write_text(json.dumps(config))
    tensors = load_file(tmp_path / SINGLE)
    if own_head:
        rng = np.random.default_rng(0)
        save(tmp_path, tensors | {HEAD: rng.normal(size=(384, 32)).astype(np.float32) * 0.3})
    if flag is False and not own_head:
        with pytest.raises(UserError, match=r'first lm_head\.weight'):
            params_of(tmp_path)
        return
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype='float32', attn_implementation='eager'
    ).eval()
    tokens = np.arange(1, 61)[None]
    with torch.no_grad():
        expected = theirs(input_ids=torch.tensor(tokens)).logits.numpy()
    assert_close(bsft_jax.load_model(tmp_path).logits(tokens), expected, 1e-4)


def with_dtypes(tensors):
    """Returns the tensors as a checkpoint of several dtypes holds them."""
    bfloat16 = jax.numpy.bfloat16

    def convert(name, tensor):
        if 'norm' in name or name == KERNEL:
            return tensor
        if 'bias' in name:
            return tensor.astype(np.float16)
        return tensor.astype(np.float64) if 'down_proj' in name else tensor.astype(bfloat16)

    return {name: convert(name, tensor) for name, tensor in tensors.items()}


def test_every_tensor_is_exported_in_its_own_dtype_and_value(base, tmp_path):
    tensors = with_dtypes(tensors_of(base))
    save(base, tensors)
    assert len({tensor.dtype for tensor in tensors.values()}) == 4
    out = bsft_jax.save_model(bsft_jax.load_model(base), tmp_path / 'out')
    exported = tensors_of(out)
    assert exported.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert exported[name].dtype == tensor.dtype, name
        assert np.array_equal(exported[name], tensor), name
    config = json.loads((out / 'config.json').read_text())
    assert config['dtype'] == config['torch_dtype'] == 'bfloat16'


def test_an_export_claims_no_quantization_and_no_code(base, tmp_path):
    config = json.loads((base / 'config.json').read_text())
    config |= {'quantization_config': {'quant_method': 'fp8'}, 'auto_map': {'AutoConfig': 'x.Y'}}
    (base / 'config.json').write_text(json.dumps(config | {'note': 'kept'}))
    out = bsft_jax.save_model(bsft_jax.load_model(base), tmp_path / 'out')
    exported = json.loads((out / 'config.json').read_text())
    assert not {'quantization_config', 'auto_map'} & exported.keys() and exported['note'] == 'kept'


def test_norms_and_biases_stay_float32_in_a_bfloat16_base(base):
    tensors = tensors_of(base)
    save(
        base, tensors | {n: t.astype(jax.numpy.bfloat16) for n, t in tensors.items() if t.ndim > 1}
    )
    spec = pretrained.read_pretrained(str(base), ComputeConfig(base_dtype='bfloat16'))
    params = pretrained.pretrained_params(spec, mesh_lib.single_device_mesh())
    assert np.array_equal(params['norm']['scale'], tensors[NORM])
    biases = params['layers']['attention']['q']['bias']
    assert np.array_equal(biases[0], tensors['model.layers.0.self_attn.q_proj.bias'])
    assert params['embed']['table'].dtype == jax.numpy.bfloat16


def test_a_base_is_held_in_bfloat16_only_where_that_rounds_nothing(base):
    def dtype_of_model():
        spec = pretrained.read_pretrained(str(base))
        return open_model._in_stored_dtype(spec, 'gpu').compute.base_dtype

    tensors = tensors_of(base)
    assert dtype_of_model() == 'float32'
    in_bfloat16 = {name: tensor.astype(jax.numpy.bfloat16) for name, tensor in tensors.items()}
    save(base, in_bfloat16)
    assert dtype_of_model() == 'bfloat16'
    save(base, in_bfloat16 | {NORM: tensors[NORM]})
    assert dtype_of_model() == 'bfloat16'
    save(base, in_bfloat16 | {KERNEL: tensors[KERNEL]})
    assert dtype_of_model() == 'float32'


@pytest.mark.parametrize('name', [NORM, KERNEL, TABLE])
def test_float64_that_float32_would_round_is_refused(base, name):
    tensors = tensors_of(base)
    changed = tensors[name].astype(np.float64)
    changed.flat[-1] = 0.1
    save(base, tensors | {name: changed})
    with pytest.raises(UserError, match=f'{name} is float64, and its values do not fit float32'):
        params_of(base)


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16', 'float64'])
def test_weights_that_are_not_finite_are_refused_by_name(base, dtype, value):
    tensors = tensors_of(base)
    tensors = {name: tensor.astype(jax.numpy.dtype(dtype)) for name, tensor in tensors.items()}
    params_of(base)
    tensors[KERNEL][3, 5] = value
    save(base, tensors)
    with pytest.raises(UserError, match=f'the weights are not finite: {KERNEL}'):
        params_of(base)


QUANTIZED = {
    'fp8': ('float8_e4m3fn', {}),
    'fp8 of the other kind': ('float8_e5m2', {}),
    'fp8 with scales': ('float8_e4m3fn', {'weight_scale_inv': 'float32'}),
    'scales in bfloat16': ('bfloat16', {'weight_scale': 'bfloat16'}),
    'int8': ('int8', {}),
    'bitsandbytes, 8 bits': ('int8', {'SCB': 'float32'}),
    'bitsandbytes, 4 bits': ('uint8', {'weight.absmax': 'uint8', 'weight.quant_map': 'float32'}),
    'GPTQ': (None, {'qweight': 'int32', 'qzeros': 'int32', 'scales': 'float16', 'g_idx': 'int32'}),
    'AWQ in float': (None, {'qweight': 'float16'}),
    'compressed-tensors': (None, {'weight_packed': 'int32', 'weight_scale': 'float16'}),
}


@pytest.mark.parametrize('kind', QUANTIZED)
def test_quantized_checkpoints_are_named_before_anything_is_read(base, kind, monkeypatch):
    torch = pytest.importorskip('torch', reason=NO_TORCH)
    from safetensors.torch import load_file, save_file

    dtype, beside = QUANTIZED[kind]
    tensors = load_file(base / SINGLE)
    module, kernel = KERNEL.removesuffix('weight'), tensors.pop(KERNEL)
    if dtype:
        tensors[KERNEL] = kernel.to(getattr(torch, dtype))
    tensors |= {
        module + name: torch.ones(4, dtype=getattr(torch, dtype)) for name, dtype in beside.items()
    }
    save_file(tensors, base / SINGLE, metadata={'format': 'pt'})
    monkeypatch.setattr(TensorFiles, 'read', lambda *_: pytest.fail('a tensor was read'))
    with pytest.raises(UserError, match=r'base: the checkpoint is quantized \(model\.layers\.0'):
        pretrained.read_pretrained(str(base))


def test_scales_of_a_cache_are_no_quantized_weights(base):
    tensors = tensors_of(base)
    save(base, tensors | {'model.layers.0.self_attn.k_scale': np.ones(1, np.float32)})
    with pytest.raises(
        UserError, match='1 unknown tensors, first model.layers.0.self_attn.k_scale'
    ):
        params_of(base)


def test_models_adapters_and_workdirs_are_told_apart(base, tmp_path):
    adapter, run = tmp_path / 'adapter', tmp_path / 'run'
    adapter.mkdir()
    (adapter / 'adapter_config.json').write_text('{}')
    run.mkdir()
    (run / 'config.json').write_text(json.dumps({'arm': 'behavior_sft', 'model': {}}))
    assert files.resolve_directory(str(adapter)) == adapter and files.is_adapter(adapter)
    shutil.copy(base / 'config.json', adapter)
    assert files.is_adapter(adapter)
    with pytest.raises(UserError, match=r'run: this is a workdir.*--workdir, or export it first'):
        files.resolve_directory(str(run))
    # A model that brings an adapter along is a model.
    (base / 'adapter_config.json').write_text('{}')
    assert files.resolve_directory(str(base)) == base and not files.is_adapter(base)


@pytest.mark.parametrize('layout', ['list', 'folder'])
def test_named_chat_templates_are_exported(base, layout, tmp_path):
    from bsft_jax.data.tokenizer import load_tokenizer

    path = base / 'chat_template.jinja'
    default, tools = path.read_text(), '{# <unused9> #}' + path.read_text()
    if layout == 'folder':
        (base / 'additional_chat_templates').mkdir()
        (base / 'additional_chat_templates' / 'tool_use.jinja').write_text(tools)
    else:
        path.unlink()
        config = json.loads((base / 'tokenizer_config.json').read_text())
        templates = {'tool_use': tools, 'default': default}
        config['chat_template'] = [{'name': n, 'template': t} for n, t in templates.items()]
        (base / 'tokenizer_config.json').write_text(json.dumps(config))
    model = bsft_jax.load_model(base, behaviors=DEFAULT_BEHAVIORS)
    out = bsft_jax.save_model(model, tmp_path / 'out')
    assert load_tokenizer(out).chat_template == {'default': default, 'tool_use': tools}
    digest = export.hashlib.sha256(default.encode()).hexdigest()
    assert json.loads((out / 'config.json').read_text())['bsft']['template_sha256'] == digest
    assert bsft_jax.load_model(out).behaviors == model.behaviors


def test_several_chat_templates_need_a_default(base, tmp_path):
    text = (base / 'chat_template.jinja').read_text()
    (base / 'chat_template.jinja').unlink()
    config = json.loads((base / 'tokenizer_config.json').read_text())
    config['chat_template'] = [{'name': name, 'template': text} for name in ('rag', 'tool_use')]
    (base / 'tokenizer_config.json').write_text(json.dumps(config))
    with pytest.raises(UserError, match='chat templates rag, tool_use, and no default'):
        pretrained.read_pretrained(str(base))
    (tmp_path / 'own.jinja').write_text(text)
    spec = pretrained.read_pretrained(str(base), chat_template=str(tmp_path / 'own.jinja'))
    assert spec.tokenizer.chat_template == text
