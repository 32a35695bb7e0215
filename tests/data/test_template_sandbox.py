"""Tests that templates end within bounds, and otherwise render as `transformers` renders them."""

import pathlib
import threading
import time

import pytest

from bsft_jax.behaviors import BehaviorSet
from bsft_jax.data import template_sandbox
from bsft_jax.data.rendering import Renderer
from bsft_jax.data.tokenizer import freeze_dates
from bsft_jax.errors import UserError
from tests.tiny import NO_TORCH

TURNS = [{'role': 'user', 'content': 'q' * 300}, {'role': 'assistant', 'content': ' a\n'}]
DOUBLE = "{% set n = namespace(x='a') %}{% for i in range(99) %}{% set n.x = "
NESTED = (
    '{% set n = namespace(x=[1]) %}{% for i in range(99) %}{% set n.x = [n.x, n.x] %}{% endfor %}'
)
ENDLESS = {
    'loops': '{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}',
    'wide range': '{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}',
    'loops over text': "{% for i in 'a' * 9999 %}{% for j in 'a' * 9999 %}{% endfor %}{% endfor %}",
    'power': '{{ 9 ** 9 ** 9 ** 9 ** 9 ** 9 }}',
    'negative power': '{{ (-9) ** 999999999 }}',
    'power of a variable': '{% set x = 10 ** 9 %}{{ 7 ** x }}',
    'product': "{{ 'a' * 10 ** 11 }}",
    'product of a list': '{{ [1] * 10 ** 11 }}',
    'sum': DOUBLE + 'n.x + n.x %}{% endfor %}',
    'concatenation': DOUBLE + 'n.x ~ n.x %}{% endfor %}',
    'output': DOUBLE + "'' %}{% endfor %}{% set n.x = 'a' %}" + '{% for i in range(99) %}'
    '{% set y %}{{ n.x }}{{ n.x }}{% endset %}{% set n.x = y %}{% endfor %}',
    'recursion': '{% macro f(n) %}{{ f(n - 1) }}{{ f(n - 1) }}{% endmacro %}{{ f(9) }}',
    'exponential recursion': '{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}'
    '{% endmacro %}{{ f(60) }}',
    'recursive loop': '{% for i in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}',
    'nested lists': NESTED + '{{ n.x }}',
    'nested lists in JSON': NESTED + '{{ n.x | tojson }}',
    'center': "{{ 'a' | center(99999999999) }}",
    'ljust': "{{ 'a'.ljust(99999999999) }}",
    'indent': "{{ ('a\n' * 60000) | indent(60000) }}",
    'tabs': r"{{ ('\t' * 60000).expandtabs(60000) }}",
    'percent': "{{ '%99999999999d' % 1 }}",
    'format filter': "{{ '%99999999999d' | format(1) }}",
    'format': "{{ '{:>99999999999}'.format(1) }}",
    'replace': "{% set a = 'a' * 1000000 %}{{ a.replace('a', a) }}",
    'replace filter': "{{ ('a' * 1000000) | replace('a', 'b' * 1000000) }}",
    'join': "{{ 'x'.join(['a' * 1000000] * 1000) }}",
    'batch': "{{ ['a'] | batch(10000000000, 'x') | list }}",
    'lorem ipsum': '{{ lipsum(n=9999) }}',
}


@pytest.mark.parametrize('name', ENDLESS)
def test_a_template_that_does_not_end_is_an_error(name):
    begun = time.thread_time()
    with pytest.raises(Exception) as caught:
        template_sandbox.render(ENDLESS[name], TURNS, add_generation_prompt=False)
    assert not isinstance(caught.value, MemoryError)
    assert time.thread_time() - begun < 12


@pytest.mark.parametrize('name', ['wide range', 'loops', 'product'])
@pytest.mark.parametrize('is_main', [True, False])
def test_the_line_names_the_template_and_the_fix_on_every_thread(fresh_tokenizer, name, is_main):
    tokenizer, lines = fresh_tokenizer('trained'), []
    tokenizer.chat_template = ENDLESS[name] + tokenizer.chat_template

    def load():
        with pytest.raises(UserError) as caught:
            Renderer(tokenizer, BehaviorSet())
        lines.append(str(caught.value))

    if is_main:
        load()
    else:
        thread = threading.Thread(target=load)
        thread.start()
        thread.join()
    (line,) = lines
    assert line.startswith('chat template: the chat template fails (')
    assert 'give another template with --config.data.chat_template=FILE' in line


def test_slow_steps_run_out_of_time(monkeypatch):
    monkeypatch.setattr(template_sandbox, '_MAX_SECONDS', 0.2)
    template = (
        "{% set s = 'a' * 900000 %}{% for i in range(9999) %}{% if s.count('b') %}{% endif %}"
    )
    with pytest.raises(template_sandbox.TemplateLimitError, match='runs for too long'):
        template_sandbox.render(template + '{% endfor %}', TURNS)


def test_a_long_conversation_is_no_endless_template():
    turns = [{'role': 'user', 'content': 'a note ' * 300}] * 2000
    source = "{% for m in messages %}{{ m.role + m.content | trim + '<|im_end|>\n' }}{% endfor %}"
    text = template_sandbox.render(source, turns)
    assert text == ('user' + ('a note ' * 300).strip() + '<|im_end|>\n') * 2000
    long = [{'role': 'user', 'content': 'a' * (1 << 24)}]
    assert len(template_sandbox.render(source, long)) > 1 << 24


CONVERSATIONS = (
    [('user', 'q')],
    [('user', ' q '), ('assistant', '\na')],
    [
        ('system', 's'),
        ('user', 'q'),
        ('assistant', 'a</think>b'),
        ('user', 'q'),
        ('assistant', 'c'),
    ],
    [('user', 'q'), ('user', 'q')],
)


def test_trls_templates_are_rendered_as_transformers_renders_them(fresh_tokenizer):
    trl = pytest.importorskip('trl', reason=NO_TORCH)
    tokenizer = fresh_tokenizer('trained')
    variables = {**tokenizer.special_tokens_map}

    def outcome(render, *arguments, **options):
        try:
            return render(*arguments, **options)
        except Exception as error:
            return str(error)

    for path in (pathlib.Path(trl.__file__).parent / 'chat_templates').glob('*.jinja'):
        source = freeze_dates(path.read_text(encoding='utf-8'))
        for said in CONVERSATIONS:
            turns = [{'role': role, 'content': content} for role, content in said]
            for prompt in (True, False):
                for thinking in ({}, {'enable_thinking': False}):
                    options = {'add_generation_prompt': prompt, **thinking}
                    theirs = outcome(
                        tokenizer.apply_chat_template,
                        turns,
                        tokenize=False,
                        chat_template=source,
                        **options,
                    )
                    ours = outcome(template_sandbox.render, source, turns, **variables, **options)
                    assert ours == theirs, (path.name, said)
