"""Provides three tokenizers: a real one, one without a chat template, and one trained here."""

import pytest

from bsft_jax.behaviors import DEFAULT_BEHAVIORS, extend_tokenizer
from bsft_jax.data.rendering import Renderer
from bsft_jax.data.tokenizer import load_tokenizer
from bsft_jax.data.tokenizer_training import train_tokenizer

SENTENCES = [
    f'Ms. Okafor, {age} years, takes {drug} {dose} mg; potassium was {age / 10} mmol/L. Answer: A.'
    for age in range(30, 80)
    for drug, dose in (('lisinopril', 20), ('apixaban', 5))
]
STORIES_TEMPLATE = (
    '{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token }}'
    '{% endfor %}'
    '{% if add_generation_prompt %}[assistant]{% endif %}'
)
NAMES = ('qwen2.5', 'stories260k', 'trained')


@pytest.fixture(scope='session')
def trained():
    return train_tokenizer(SENTENCES, 310)


@pytest.fixture(scope='session')
def fresh_tokenizer(shared, trained, tmp_path_factory):
    """Returns a function that loads a new tokenizer by name."""
    folder = tmp_path_factory.mktemp('tokenizers')
    trained.save_pretrained(str(folder / 'trained'))
    (folder / 'stories.jinja').write_text(STORIES_TEMPLATE)

    def load(name):
        if name == 'stories260k':
            return load_tokenizer(shared / 'models/stories260k/hf', str(folder / 'stories.jinja'))
        return load_tokenizer(shared / 'tokenizers/qwen2.5' if name == 'qwen2.5' else folder / name)

    return load


@pytest.fixture(scope='session')
def make_renderer(fresh_tokenizer):
    """Returns a function that makes a renderer; tokenizers are reused."""
    tokenizers = {}

    def make(name='qwen2.5', tokens=True, prefix_kind='', **options):
        prefix_kind = prefix_kind or ('tokens' if tokens else 'none')
        if (name, prefix_kind) not in tokenizers:
            tokenizer = fresh_tokenizer(name)
            behaviors = extend_tokenizer(tokenizer, DEFAULT_BEHAVIORS, prefix_kind)
            tokenizers[name, prefix_kind] = tokenizer, behaviors
        tokenizer, behaviors = tokenizers[name, prefix_kind]
        return Renderer(tokenizer, behaviors, **options)

    return make
