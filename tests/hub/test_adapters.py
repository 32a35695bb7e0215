"""PEFT adapters are opened as models, ours and those of `peft`; damaged ones get one line."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

import bsft_jax
from bsft_jax.behaviors import DEFAULT_BEHAVIORS, Behavior
from bsft_jax.config import ComputeConfig, LoraConfig
from bsft_jax.errors import UserError
from bsft_jax.hub import adapters, files, peft, pretrained
from bsft_jax.hub.export import write_export
from bsft_jax.inference import open_model
from bsft_jax.parallel import mesh as mesh_lib
from bsft_jax.pytrees import flatten
from tests.hub.test_peft import TOKENS, adapted_model, torch_logits, with_behavior_tokens
from tests.tiny import (
    NO_TORCH,
    SHAPES,
    assert_close,
    random_model,
    save_torch,
    save_with_vision_tower,
)

torch = pytest.importorskip('torch', reason=NO_TORCH)

SOME = LoraConfig(3, 6.0, rank_stabilized=True, targets='attention/[qo]|mlp/down')
# As `peft` takes them.
TARGETS = {
    'names': ['q_proj', 'mlp.down_proj'],
    'regex': r'model\.layers\.\d+\.(self_attn\.[kv]|mlp\.up)_proj',
    'all': 'all-linear',
}


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
    """Returns a folder with a tokenizer of 320 ids."""
    return random_model(tmp_path_factory.mktemp('tokenizer'))


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    """Returns a model with adapters, and the folder of its adapter."""
    folder = tmp_path_factory.mktemp('exported')
    (folder / 'base').mkdir()
    model = adapted_model(random_model(folder / 'base', tied=False), SOME)
    return model, write_export(model, folder / 'adapter', stop_id=2, format='peft')


def add_tokenizer(source, directory):
    for file in (*source.glob('tokenizer*'), *source.glob('*.jinja')):
        shutil.copy(file, directory)


def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / 'copy')


def edit(folder, file=adapters.CONFIG, **changes):
    content = json.loads((folder / file).read_text()) | changes
    (folder / file).write_text(json.dumps(content))


def logits_of(folder, tokens):
    return np.asarray(bsft_jax.load_model(folder).logits(tokens))


def torch_model(directory, folder):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(directory, dtype='float32')
    return PeftModel.from_pretrained(base, folder)


@pytest.mark.parametrize(
    'name, lora',
    [
        ('llama bias', LoraConfig(4, 8.0)),
        ('llama grouped tied', SOME),
        ('mistral window', SOME),
        ('qwen2 untied sharded bf16', LoraConfig(2, 8.0)),
        ('qwen3 tied sharded', LoraConfig(4, 8.0, targets='mlp/.*')),
        ('gemma', SOME),
        ('gemma2 remainder', LoraConfig(4, 8.0)),
        ('gemma3 remainder', SOME),
        ('vision tower', LoraConfig(4, 8.0)),
    ],
)
def test_an_adapter_computes_what_its_run_did(name, lora, tokenizer, tmp_path):
    directory = tmp_path / 'base'
    if name == 'vision tower':
        save_with_vision_tower(directory, 384)
    else:
        save_torch(directory, **SHAPES[name], vocab_size=384)
    add_tokenizer(tokenizer, directory)
    model = adapted_model(directory, lora)
    tokens = with_behavior_tokens(TOKENS)
    ours = np.asarray(model.logits(tokens))
    assert np.abs(ours - logits_of(directory, tokens)).max() > 0.1
    folder = write_export(model, tmp_path / 'adapter', stop_id=2, format='peft')
    again = bsft_jax.load_model(folder)
    assert_close(again.logits(tokens), ours, 0)
    assert again.behaviors == model.behaviors
    theirs = torch_model(directory, folder)
    assert_close(again.logits(tokens), torch_logits(theirs), 1e-4)

    # What `peft` writes is read, too; it leaves out what it does not know.
    theirs.save_pretrained(tmp_path / 'theirs')
    shutil.copy(folder / adapters.BEHAVIORS, tmp_path / 'theirs')
    assert_close(logits_of(tmp_path / 'theirs', tokens), ours, 0)


@pytest.mark.parametrize('targets', TARGETS)
def test_an_adapter_that_peft_made_is_read(targets, tokenizer, tmp_path):
    import peft as peft_lib
    from transformers import AutoModelForCausalLM

    directory = tmp_path / 'base'
    save_torch(directory, **SHAPES['llama grouped tied'], vocab_size=384)
    add_tokenizer(tokenizer, directory)
    base = AutoModelForCausalLM.from_pretrained(directory, dtype='float32')
    config = peft_lib.LoraConfig(
        r=3,
        lora_alpha=5,
        use_rslora=targets == 'names',
        target_modules=TARGETS[targets],
        init_lora_weights=False,
    )
    torch.manual_seed(0)
    theirs = peft_lib.get_peft_model(base, config)
    theirs.save_pretrained(tmp_path / 'theirs')
    model = bsft_jax.load_model(tmp_path / 'theirs')
    assert model.behaviors.ids == () and model.trained_on is None
    with torch.no_grad():
        expected = theirs.eval()(torch.tensor(TOKENS)).logits.numpy()
    assert_close(model.logits(TOKENS), expected, 1e-4)
    assert np.abs(expected - logits_of(directory, TOKENS)).max() > 0.01

    # Merged, it is an ordinary model.
    merged = bsft_jax.save_model(model, tmp_path / 'merged')
    assert_close(logits_of(merged, TOKENS), expected, 1e-4)


def test_an_adapter_says_what_a_merged_export_does(exported, tmp_path):
    model, _ = exported
    model = dataclasses.replace(model, answer_format='text', step=7)
    merged = write_export(model, tmp_path / 'merged', stop_id=2)
    folder = write_export(model, tmp_path / 'adapter', stop_id=2, format='peft')
    said = json.loads((folder / adapters.BEHAVIORS).read_text())
    assert said == json.loads((merged / 'config.json').read_text())['bsft']
    assert (said['step'], said['behaviors'][1]['id']) == (7, 321)
    again = bsft_jax.load_model(folder)
    assert again.answer_format == 'text'
    assert again.spec.exported_names == {'reactive', 'proactive'}


def test_an_adapter_in_bfloat16_is_widened_exactly(exported, tmp_path):
    model, _ = exported
    folder = write_export(model, tmp_path / 'adapter', stop_id=2, format='peft', dtype='bfloat16')
    tensors = adapters.open_weights(folder)
    assert {tensors.dtype(name) for name in tensors.names} == {'BF16'}
    ours, stored = flatten(model.params), flatten(bsft_jax.load_model(folder).params)
    for path, value in ours.items():
        if '/lora/' in path or path.startswith('behavior/'):
            value = value.astype('bfloat16').astype('float32')
        assert stored[path].dtype == 'float32' and np.array_equal(stored[path], value), path


def test_an_adapter_stays_in_float32_beside_a_bfloat16_base(tokenizer, tmp_path):
    save_torch(tmp_path / 'base', **SHAPES['mistral full bf16'], vocab_size=384)
    add_tokenizer(tokenizer, tmp_path / 'base')
    folder = write_export(
        adapted_model(tmp_path / 'base', SOME), tmp_path / 'adapter', stop_id=2, format='peft'
    )
    spec = pretrained.read_pretrained(str(folder))
    network = open_model._in_stored_dtype(spec, 'gpu')
    loaded = pretrained.load_pretrained(dataclasses.replace(spec, network=network))
    layers = flatten(loaded.params)
    assert layers['layers/attention/q/kernel'].dtype == 'bfloat16'
    assert layers['layers/attention/q/lora/b'].dtype == 'float32'
    of_run = pretrained.read_pretrained(
        str(tmp_path / 'base'), network.compute, behaviors=DEFAULT_BEHAVIORS
    )
    assert of_run.network == network


def test_an_adapter_is_read_onto_a_mesh(exported):
    model, folder = exported
    mesh = mesh_lib.inference_mesh(10**15, 2)
    assert mesh.size == 8
    spread = bsft_jax.load_model(folder, mesh=mesh)
    assert len(spread.params['layers']['mlp']['down']['lora']['a'].sharding.device_set) == 8
    tokens = with_behavior_tokens(TOKENS)
    assert_close(spread.logits(tokens), model.logits(tokens), 1e-5)


def test_a_tokenizer_may_be_the_base_s(exported, tmp_path):
    model, folder = exported
    copy = copied(folder, tmp_path)
    for file in (*copy.glob('tokenizer*'), *copy.glob('*.jinja')):
        file.unlink()
    again = bsft_jax.load_model(copy)
    assert again.behaviors == model.behaviors
    assert again.spec.tokenizer_directory is None
    assert bsft_jax.load_model(folder).spec.tokenizer_directory == folder
    (copy / 'chat_template.jinja').write_text("{{ 'A' }}")
    assert bsft_jax.load_model(copy).tokenizer.chat_template == "{{ 'A' }}"
    assert bsft_jax.load_model(folder).tokenizer.chat_template != "{{ 'A' }}"


def test_a_bundled_adapter_is_opened_by_its_name(exported, tmp_path, monkeypatch):
    model, _ = exported
    assets = tmp_path / 'assets'
    shutil.copytree(model.spec.directory, assets / 'a-base')
    monkeypatch.setattr(files, 'ASSETS', assets)
    named = dataclasses.replace(model, spec=dataclasses.replace(model.spec, name='a-base'))
    write_export(named, assets / 'a-base-behavior', stop_id=2, format='peft')
    (assets / 'a-base-behavior' / 'README.md').write_text('# A card\n')
    assert pretrained.read_pretrained('a-base-behavior').adapter.base == 'a-base'
    tokens = with_behavior_tokens(TOKENS)
    assert_close(logits_of('a-base-behavior', tokens), model.logits(tokens), 0)
    with pytest.raises(UserError, match='a-base, a-base-behavior'):
        bsft_jax.load_model('a-base-behaviour')


def test_hub_ids_of_adapters_and_bases_are_asked_with_their_revisions(
    exported, tmp_path, monkeypatch
):
    import huggingface_hub

    model, folder = exported
    copy, asked = copied(folder, tmp_path), []
    edit(copy, base_model_name_or_path='some-lab/Base', revision='v2')

    def download(repository, *, revision, **_):
        asked.append((repository, revision))
        return str(copy if repository == 'some-lab/Adapter' else model.spec.directory)

    monkeypatch.setattr(huggingface_hub, 'snapshot_download', download)
    again = bsft_jax.load_model('some-lab/Adapter')
    assert asked == [('some-lab/Adapter', None), ('some-lab/Base', 'v2')]
    assert_close(again.logits(TOKENS), model.logits(TOKENS), 0)
    config = peft.adapter_config(again)
    assert (config['base_model_name_or_path'], config['revision']) == ('some-lab/Base', 'v2')


@pytest.mark.parametrize(
    'changes, message',
    [
        ({'peft_type': 'IA3'}, "peft_type='IA3' is not supported"),
        ({'task_type': 'SEQ_CLS'}, "task_type='SEQ_CLS'"),
        ({'use_dora': True}, 'use_dora=True is not supported'),
        ({'bias': 'lora_only'}, "bias='lora_only'"),
        ({'lora_bias': True}, 'lora_bias=True'),
        ({'fan_in_fan_out': True}, 'fan_in_fan_out=True'),
        ({'modules_to_save': ['lm_head']}, r"modules_to_save=\['lm_head'\]"),
        ({'rank_pattern': {'q_proj': 2}}, r"rank_pattern=\{'q_proj': 2\}"),
        ({'alpha_pattern': {'q_proj': 2}}, r"alpha_pattern=\{'q_proj': 2\}"),
        ({'layers_to_transform': [0]}, r'layers_to_transform=\[0\]'),
        ({'exclude_modules': ['v_proj']}, r"exclude_modules=\['v_proj'\]"),
        ({'init_lora_weights': 'pissa'}, "init_lora_weights='pissa'"),
        ({'a_field_of_next_year': 3}, 'a_field_of_next_year=3 is not supported'),
        ({'base_model_name_or_path': None}, 'base_model_name_or_path=None names no base'),
        ({'base_model_name_or_path': '/nowhere'}, "or_path: no model at '/nowhere'"),
        ({'r': 2.5}, 'r=2.5 is no rank'),
        ({'r': 5}, r'lora_A.weight has shape \(3, 32\), adapter_config.* say \(5, 32\)'),
        ({'lora_alpha': 'a lot'}, "lora_alpha='a lot' is no number"),
        ({'use_rslora': 'yes'}, "use_rslora='yes' is neither"),
        ({'target_modules': None}, 'target_modules=None are neither'),
        ({'target_modules': '('}, r"target_modules='\(' are neither names nor a regex"),
        ({'target_modules': ['c_attn']}, 'name no linear map of a layer'),
        ({'target_modules': ['0.self_attn.q_proj']}, 'self_attn.q_proj in some layers only'),
        ({'target_modules': ['q_proj', 'o_proj']}, 'unknown tensors, first .*down_proj.lora_A'),
        ({'target_modules': 'all-linear'}, '16 tensors are missing, first .*gate_proj.lora_A'),
        ({'trainable_token_indices': None}, 'no rows of the behavior tokens that bsft.json'),
        ({'trainable_token_indices': [320, 321]}, 'in embed_tokens and lm_head'),
        ({'trainable_token_indices': {'embed_tokens': [0, 1], 'lm_head': [0, 1]}}, r'rows of \{'),
        ({'trainable_token_indices': ['a']}, r"trainable_token_indices=\['a'\] are no ids"),
    ],
    ids=lambda value: '-'.join(value) if isinstance(value, dict) else '',
)
def test_what_an_adapter_cannot_have_is_one_line(changes, message, exported, tmp_path):
    copy = copied(exported[1], tmp_path)
    edit(copy, **changes)
    with pytest.raises(UserError, match=message) as raised:
        bsft_jax.load_model(copy)
    assert str(copy) in str(raised.value) and '\n' not in str(raised.value)


def test_damaged_adapters_get_one_line(exported, tmp_path):
    from safetensors.numpy import load_file, save_file

    tensors = load_file(exported[1] / adapters.WEIGHTS)
    first = sorted(tensors)[-1]

    def expect(message, change):
        copy = copied(exported[1], tmp_path)
        change(copy)
        with pytest.raises(UserError, match=message):
            bsft_jax.load_model(copy)
        shutil.rmtree(copy)

    def save(**changes):
        kept = {k: v for k, v in (tensors | changes).items() if v is not None}
        return lambda copy: save_file(kept, copy / adapters.WEIGHTS)

    def write(file, text):
        return lambda copy: (copy / file).write_text(text)

    expect('no adapter_model.safetensors in this', lambda c: (c / adapters.WEIGHTS).unlink())
    pickle = 'adapter_model.bin'
    expect(f'convert {pickle}', lambda c: (c / adapters.WEIGHTS).rename(c / pickle))
    expect('damaged or truncated', write(adapters.WEIGHTS, 'x' * 100))
    expect('1 tensors are missing, first model.layers.1', save(**{first: None}))
    expect('1 unknown tensors, first extra', save(extra=np.zeros(3, np.float32)))
    expect('has shape', save(**{first: tensors[first][:, :-1].copy()}))
    expect('are not finite', save(**{first: tensors[first] * np.float32('nan')}))
    expect(r'is I32\), which is not supported', save(**{first: tensors[first].astype(np.int32)}))
    for file in (adapters.CONFIG, adapters.BEHAVIORS):
        expect(f'{file}: cannot be read', write(file, '{'))
        expect(f'{file}: is not a JSON object', write(file, '[]'))
    expect("'peft_type' is missing", write(adapters.CONFIG, '{}'))
    expect('bsft.json: its `bsft` entry is from another version', write(adapters.BEHAVIORS, '{}'))
    expect('no bsft.json that says of which', lambda c: (c / adapters.BEHAVIORS).unlink())
    itself = {'base_model_name_or_path': str(tmp_path / 'copy')}
    expect('copy is an adapter itself', lambda copy: edit(copy, **itself))


def test_an_adapter_on_a_base_of_another_size_is_refused(exported, tmp_path):
    save_torch(
        tmp_path / 'base',
        family='qwen2',
        tie_word_embeddings=False,
        num_key_value_heads=2,
        intermediate_size=64,
        vocab_size=384,
    )
    add_tokenizer(exported[1], tmp_path / 'base')
    copy = copied(exported[1], tmp_path)
    edit(copy, base_model_name_or_path=str(tmp_path / 'base'))
    message = r'down_proj.lora_A.weight has shape \(3, 48\), .* its base say \(3, 64\)'
    with pytest.raises(UserError, match=message):
        bsft_jax.load_model(copy)


def test_an_adapter_keeps_its_behaviors_and_its_shape(exported):
    _, folder = exported

    def read(lora=None, **options):
        compute = ComputeConfig(lora=lora, attention='auto')
        return pretrained.read_pretrained(str(folder), compute, **options)

    assert read(SOME, behaviors=DEFAULT_BEHAVIORS).behaviors.ids == (320, 321)
    with pytest.raises(UserError, match='has the rows of reactive, proactive, and keeps'):
        read(behaviors=(*DEFAULT_BEHAVIORS, Behavior('watchful', 0.5, 'a dog')))
    with pytest.raises(UserError, match='has the rows of reactive, proactive, and keeps'):
        read(behaviors=DEFAULT_BEHAVIORS, prefix_kind='words')
    # The same scale in other words.
    other = dataclasses.replace(SOME, alpha=SOME.scale * 3, rank_stabilized=False)
    assert read(other).network.compute.lora == other
    with pytest.raises(UserError) as raised:
        read(LoraConfig(16, 6.0))
    assert str(raised.value).endswith(
        "set '--config.lora.rank=3' '--config.lora.rank_stabilized=True' "
        "'--config.lora.targets=attention/q|attention/o|mlp/down'"
    )
