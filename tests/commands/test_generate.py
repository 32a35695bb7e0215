"""Tests of `generate`: the options that it refuses, and a text that nothing ends."""

import pytest

from bsft_jax.commands import generate
from bsft_jax.errors import UserError
from bsft_jax.inference import decoding, open_model
from bsft_jax.models.network import Network
from bsft_jax.records.record import Message, Record, write_jsonl
from tests import run as runs


def test_options_that_would_be_ignored_are_refused(base, monkeypatch):
    def fail(*_):
        pytest.fail('a device was touched')

    monkeypatch.setattr(Network, 'for_mesh', fail)
    ask = dict(sampling=decoding.Sampling(max_new_tokens=2), text='Hi')
    with pytest.raises(UserError, match=r'--chat_template=a\.jinja: belongs to --model'):
        runs.generate(**ask, workdir='run', chat_template='a.jinja')
    with pytest.raises(UserError, match='--step=3: belongs to --workdir'):
        runs.generate(**ask, model=str(base), step=3)
    for policy in ('forced:nonsense', 'oracle', 'best'):
        with pytest.raises(UserError, match=f'--policy={policy}: .* --raw has none'):
            runs.generate(**ask, model=str(base), raw=True, policy=policy)


def test_a_tokenizer_without_an_end_continues_a_text_to_its_length(base, monkeypatch):
    original = open_model.open_model

    def open_without_end(source):
        model = original(source)
        model.tokenizer.eos_token = None
        return model

    monkeypatch.setattr(generate, 'open_model', open_without_end)
    sampling = decoding.Sampling(max_new_tokens=3)
    [answer] = runs.generate(sampling=sampling, model=str(base), text='Hi', raw=True)
    assert len(answer['ids']) == 3


@pytest.mark.parametrize('text', ['', '   ', '\n\t'])
def test_an_empty_text_is_refused_before_the_model_is_read(text):
    with pytest.raises(UserError, match='--text: is empty'):
        runs.generate(model='absent', text=text)


def write_questions(path, **texts):
    write_jsonl(path, [Record((Message('user', text),), id=id) for id, text in texts.items()])
    return str(path)


@pytest.mark.parametrize('order', [('short', 'long', 'last'), ('long', 'short', 'last')])
def test_a_record_that_is_too_long_is_named_and_the_others_are_answered(base, tmp_path, order):
    texts = {id: 'dose ' * 2000 if id == 'long' else f'Is {id} fine?' for id in order}
    file = write_questions(tmp_path / 'questions.jsonl', **texts)
    ask = dict(sampling=decoding.Sampling(max_new_tokens=2), model=str(base))
    answers = runs.generate(**ask, input_file=file)
    assert [answer['id'] for answer in answers] == list(order)
    assert [answer['id'] for answer in answers if 'text' in answer] == [
        id for id in order if id != 'long'
    ]
    options = generate.GenerateOptions(open_model.ModelSource(), input_file=file)
    with pytest.raises(UserError) as error:
        generate.check_answers(answers, options)
    message = f"--input={file}: no answer to 1 of 3 records: 'long': a prompt of "
    assert str(error.value).startswith(message) and '512 positions of the model' in str(error.value)
    assert 'shorten them, leave them out, or lower --max_new_tokens' in str(error.value)
    alone = write_questions(tmp_path / 'alone.jsonl', short=texts['short'], last=texts['last'])
    assert runs.generate(**ask, input_file=alone) == [a for a in answers if 'text' in a]


def test_records_that_are_all_too_long_are_refused_before_anything_is_computed(
    base, tmp_path, monkeypatch
):
    monkeypatch.setattr(generate.api, 'generate_answers', lambda *_, **__: pytest.fail('computed'))
    texts = {f'q{i}': 'dose ' * 2000 for i in range(12)}
    file = write_questions(tmp_path / 'questions.jsonl', **texts)
    with pytest.raises(
        UserError, match="no answer to 12 of 12 records: 'q0', .* and 2 more: a pro"
    ):
        runs.generate(model=str(base), input_file=file)
    with pytest.raises(UserError, match="--text: no answer to 1 of 1 records: 'text': a prompt of"):
        runs.generate(model=str(base), text='dose ' * 2000)
