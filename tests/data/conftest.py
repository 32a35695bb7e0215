"""Three tokenizers: a real one, one without a chat template of its own, and one trained here."""

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
    '{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token }}{% endfor %}'
    '{% if add_generation_prompt %}[assistant] {% endif %}'
)
NAMES = ('qwen2.5', 'stories260k', 'trained')


@pytest.fixture(scope='session')
def trained():
    return train_tokenizer(SENTENCES, 310)


@pytest.fixture(scope='session')
def fresh_tokenizer(shared, trained, tmp_path_factory):
    """name → a new tokenizer."""
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
    """(name, with behavior tokens, **options) → a renderer; tokenizers are reused."""
    made = {}

    def make(name='qwen2.5', tokens=True, form='', **options):
        form = form or ('tokens' if tokens else 'none')
        if (name, form) not in made:
            tokenizer = fresh_tokenizer(name)
            behaviors = extend_tokenizer(tokenizer, DEFAULT_BEHAVIORS, form)
            made[name, form] = tokenizer, behaviors
        tokenizer, behaviors = made[name, form]
        return Renderer(tokenizer, behaviors, **options)

    return make
