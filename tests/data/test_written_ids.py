"""Tests that what is trained reads as chat templates write it, for many templates and tokenizers.

Ids are compared with those of `apply_chat_template`, without the behavior tokens and up to the end
of the answer's turn.
"""

import dataclasses
import functools
import pathlib
import re

import pytest
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from bsft_jax.behaviors import DEFAULT_BEHAVIORS, extend_tokenizer
from bsft_jax.data.rendering import Renderer
from bsft_jax.data.tokenizer import freeze_dates
from bsft_jax.errors import UserError
from bsft_jax.records.record import Message, Record
from tests.tiny import NO_TORCH

WORDS = ['The potassium was high; stop lisinopril 20 mg? Answer: A. Normal or low, we see.'] * 40
SCHEMES = ('first', 'always', 'never', 'prepend')
TOKENIZERS = ('bytes', 'bytes_prefix', *SCHEMES)
LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r'| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'
)
_LETTERS = [chr(code) for code in range(32, 127)]

TURN = "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] "
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}LEAD"
    "{{ m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\nOPEN' }}{% endif %}"
)
EMPTY_THOUGHTS = "{% if loop.last and m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ '[INST]BEFORE' + m['content'] + '[/INST]' }}"
    "{% else %}{{ 'BEFORE' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
# Name → template, and whether its marks are tokens of their own; the shapes of well-known models.
TEMPLATES = {
    'qwen3': (CHATML.replace('LEAD', EMPTY_THOUGHTS).replace('OPEN', ''), True),
    'nemotron': (
        CHATML.replace('LEAD', EMPTY_THOUGHTS).replace(
            'OPEN',
            "' + ('<think>\n' + ('\n</think>\n\n' if enable_thinking is defined else '')) + '",
        ),
        True,
    ),
    'thoughts_are_text': (
        CHATML.replace('LEAD', EMPTY_THOUGHTS)
        .replace('OPEN', '')
        .replace("'<|im_end|>\n'", "eos_token + '\n'"),
        False,
    ),
    'mistral_v1': (INST.replace('BEFORE', ' '), False),
    'mistral_v3': (
        INST.replace("'BEFORE' + m['content'] + eos", "' ' + m['content'] + eos").replace(
            'BEFORE', ' '
        ),
        True,
    ),
    'mistral_v7': (INST.replace('BEFORE', ''), True),
    'llama2': (
        "{% for m in messages %}{% if m['role'] == 'user' %}"
        "{{ bos_token + '[INST] ' + m['content'].strip() + ' [/INST]' }}"
        "{% else %}{{ ' ' + m['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
        False,
    ),
    'zephyr': (
        TURN + "+ eos_token + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
        False,
    ),
    'tulu': (
        TURN + "+ (eos_token if m['role'] == 'assistant' else '') + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
        False,
    ),
    'phi3': (
        TURN + "+ '<|end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
        True,
    ),
    'gpt_oss': (
        "{% for m in messages %}{{ '<|start|>' + m.role }}{% if m.role == 'assistant' %}"
        "{{ '<|channel|>final' }}{% endif %}{{ '<|message|>' + m.content }}"
        "{{ '<|return|>' if loop.last and m.role == 'assistant' else '<|end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}",
        True,
    ),
    'command_r': (
        "{{ bos_token }}{% for m in messages %}{{ '<|START_OF_TURN_TOKEN|><|' + m.role + '|>' }}"
        "{{ m.content | trim }}{{ '<|END_RESPONSE|>' if m.role == 'assistant' else '' }}"
        "{{ '<|END_OF_TURN_TOKEN|>' }}{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|START_OF_TURN_TOKEN|><|assistant|>' }}{% endif %}",
        True,
    ),
    'glm': (
        "[gMASK]<sop>{% for m in messages %}{{ '<|' + m.role + '|>\n' }}"
        "{{ '<think></think>\n' if m.role == 'assistant' else '' }}{{ m.content | trim }}"
        "{{ '<|user|>' if loop.last and m.role == 'assistant' else '' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}",
        True,
    ),
    'vicuna': (
        "{% for m in messages %}{{ 'USER: ' if m.role == 'user' else 'ASSISTANT:' }}"
        "{{ m.content + ' ' if m.role == 'user' else ' ' + m.content + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}",
        False,
    ),
    'words_behind': (
        "{% for m in messages %}{{ '### ' + m.role + ':\n' + m.content + '\n### End' + eos_token }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '### assistant:\n' }}{% endif %}",
        False,
    ),
}
CONVERSATIONS = {
    'one': ('q?', 'High.'),
    'two': ('q?', 'High.', 'And now?', 'low'),
    'three': ('q?', 'high', 'And now?', '(normal) 5', 'Sure? ', 'Yes.'),
    'spaces': (' q? ', '  High. ', 'And now?\n', ' low '),
    'line breaks': ('q?', '\nHigh.\n', 'And now?', '\n\nlow\n'),
    'lines': ('q?\n\n\nq', 'A.\n\nB.\n', 'x', '1. a\n2. b'),
}


def _control_tokens(template):
    """Returns what looks like a control token in a template."""
    found = re.findall(
        r'<\|[^|>\s]+\|>|<｜[^｜]+｜>|\[/?[A-Z_]+\]|</?[a-z_]+\|?>|<\|[a-z_]+>', template
    )
    return sorted(set(found))


@functools.cache
def byte_tokenizer(pattern=''):
    """Returns a byte-level BPE that splits words as GPT-2 does, or by a pattern."""
    backend = Tokenizer(models.BPE())
    bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=not pattern, use_regex=not pattern)
    backend.pre_tokenizer = (
        pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), 'isolated'), bytes_of])
        if pattern
        else bytes_of
    )
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    # Several line breaks are one token, as in most vocabularies.
    words = [*WORDS, *['a\n\nb', 'a\n\n\nb', 'x\n'] * 40] if pattern else WORDS
    trainer = trainers.BpeTrainer(vocab_size=360, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(words, trainer)
    return backend


@functools.cache
def sentencepiece_tokenizer(scheme):
    """Returns a BPE that writes ▁ for spaces and puts one in front as a scheme says."""
    backend = Tokenizer(models.BPE(unk_token='<unk>', fuse_unk=True))
    # No piece has a space behind its first character.
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=180,
        initial_alphabet=['▁', '\n', *_LETTERS],
        special_tokens=['<unk>'],
        show_progress=False,
    )
    backend.train_from_iterator(WORDS, trainer)
    if scheme == 'prepend':
        steps = [normalizers.Prepend('▁'), normalizers.Replace(' ', '▁')]
        backend.normalizer = normalizers.Sequence(steps)
        # There is no setter for none.
        backend.pre_tokenizer = pre_tokenizers.Sequence([])
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    backend.decoder = decoders.Metaspace()
    return backend


def make_tokenizer(kind, template, are_tokens=True):
    """Returns a tokenizer of a kind with a template, whose marks may be tokens of their own."""
    if kind.startswith('bytes'):
        backend = byte_tokenizer(LLAMA3_WORDS if kind == 'bytes' else '')
    else:
        backend = sentencepiece_tokenizer(kind)
    backend = Tokenizer.from_str(backend.to_str())
    names = ('<unk>', '<s>', '</s>', *(_control_tokens(template) if are_tokens else ()))
    added = [AddedToken(name, special=True, normalized=False) for name in dict.fromkeys(names)]
    backend.add_special_tokens(added)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token='<s>', eos_token='</s>', unk_token='<unk>'
    )
    tokenizer.chat_template = template
    return tokenizer


def compare(renderer, said, *, system='', labelled=True):
    """Returns the ids that are trained and those of the template, cut to the same length.

    Also checks where the behavior tokens stand and that prompts are those that are trained.
    """
    tokenizer, behaviors = renderer.tokenizer, renderer.behaviors
    roles = ['user', 'assistant'] * (len(said) // 2)
    turns = [(role, text) for role, text in zip(roles, said, strict=True)]
    turns = [*([('system', system)] if system else []), *turns]
    messages = [
        Message(role, text, behavior='reactive' if role == 'assistant' and labelled else '')
        for role, text in turns
    ]
    if not labelled:
        messages[-1] = dataclasses.replace(messages[-1], behavior='reactive')
    record = Record(tuple(messages), id='said')
    ids = renderer.example(record).ids.tolist()
    prompt = renderer.prompt_ids(record)
    assert ids[: len(prompt) + 1] == [*prompt, behaviors.ids[0]]
    assert sum(i in behaviors.ids for i in ids) == (roles.count('assistant') if labelled else 1)
    ours = [i for i in ids if i not in behaviors.ids]
    source = freeze_dates(tokenizer.chat_template)
    theirs = tokenizer.apply_chat_template(
        [{'role': role, 'content': text} for role, text in turns], chat_template=source
    )['input_ids']
    assert ours[-1] == renderer.stop_id
    # Behind the end of the turn there is at most white space, or the end of the text (Phi).
    rest = tokenizer.decode(theirs[len(ours) :])
    assert not rest.replace('</s>', '').strip()
    return ours, theirs[: len(ours)]


def count(kinds, templates, *, train_on='answer', **options):
    """Returns how many combinations are equal, and the lines that refuse the others."""
    num_equal, refused = 0, {}
    for name, (template, are_tokens) in templates.items():
        for kind in kinds:
            tokenizer = make_tokenizer(kind, template, are_tokens)
            behaviors = extend_tokenizer(tokenizer, DEFAULT_BEHAVIORS)
            try:
                renderer = Renderer(tokenizer, behaviors, train_on=train_on)
            except UserError as error:
                refused |= {(name, kind, words): str(error) for words in CONVERSATIONS}
                continue
            for words, said in CONVERSATIONS.items():
                try:
                    ours, theirs = compare(renderer, said, **options)
                except UserError as error:
                    refused[name, kind, words] = str(error)
                    continue
                assert ours == theirs, (name, kind, words)
                num_equal += 1
    assert all('; ' in line and '\n' not in line for line in refused.values())
    return num_equal, refused


@pytest.mark.parametrize(
    ('options', 'num_refused'),
    [({}, 7), ({'train_on': 'turns', 'system': 'Sys.'}, 7), ({'labelled': False}, 4)],
)
def test_ids_are_those_of_templates_of_many_shapes(options, num_refused):
    num_equal, refused = count(TOKENIZERS, TEMPLATES, **options)
    # A line break joins the one that ends the prompt.
    assert {(kind, words) for _, kind, words in refused} == {('bytes', 'line breaks')}
    assert all('remove the white space at the beginning' in line for line in refused.values())
    assert (num_equal, len(refused)) == (540 - num_refused, num_refused)


# TRL's templates that are refused, and why. Those of vision models write contents in parts.
REFUSED = {
    'does not write the answer': {'idefics3', 'smolvlm'},
    'the chat template fails': {'llava_next'},
    'does not begin the whole conversation': {'deepseek_r1_distill', 'deepseekv3'},
    'does not end a turn': {'glm4moe'},
    'has a system turn': {'gemma'},
}


@pytest.mark.parametrize('options', [{}, {'train_on': 'turns'}, {'system': 'Be brief.'}])
def test_ids_are_those_of_all_templates_of_trl(options):
    trl = pytest.importorskip('trl', reason=NO_TORCH)
    folder = pathlib.Path(trl.__file__).parent / 'chat_templates'
    templates = {
        path.stem: (path.read_text(encoding='utf-8'), True) for path in folder.glob('*.jinja')
    }
    num_equal, refused = count(TOKENIZERS, templates, **options)
    tried = len(templates) * len(CONVERSATIONS) * len(TOKENIZERS)
    print(f'tried {tried}, equal {num_equal}, refused {len(refused)}')
    names = {
        reason: {
            name.removesuffix('_training') for (name, *_), line in refused.items() if reason in line
        }
        for reason in REFUSED
    }
    joined = {key[1:] for key, line in refused.items() if 'white space' in line}
    assert joined == {('bytes', 'line breaks')}
    system = {'gemma'} if 'system' in options else set()
    assert names == REFUSED | {'has a system turn': system}
    assert num_equal + len(refused) == tried and num_equal >= 0.8 * tried


def test_the_line_counts_the_records_that_are_refused():
    tokenizer = make_tokenizer('bytes', *TEMPLATES['zephyr'])
    renderer = Renderer(tokenizer, extend_tokenizer(tokenizer, DEFAULT_BEHAVIORS))
    records = [
        Record((Message('user', 'q'), Message('assistant', said)), id=f'r{number}')
        for number, said in enumerate(['High.', '\nlow', 'now', '\n\nlow', ' low', '\n'])
    ]
    with pytest.raises(UserError, match=r"^record 'r1' \(and 2 more\): the tokenizer joins"):
        renderer.examples(records)
    assert len(renderer.examples(records[::2])) == 3


# Nothing in the prompt's last line may be joined with the answer.
SPACE_IN_THE_PROMPT = (
    "{% for m in messages %}{{ '<|' + m.role + '|> ' + m.content + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|> ' }}{% endif %}"
)


@pytest.mark.parametrize('kind', TOKENIZERS)
def test_a_prompt_that_ends_in_a_space_is_scored_but_not_trained_with(kind):
    tokenizer = make_tokenizer(kind, SPACE_IN_THE_PROMPT)
    renderer = Renderer(tokenizer, extend_tokenizer(tokenizer, DEFAULT_BEHAVIORS))
    record = Record((Message('user', 'q'),), options=('High', 'Low'), answer=0, id='x')
    assert tokenizer.decode(renderer.stem_ids).strip() == 'Answer:'
    assert len(renderer.option_ids(record)) == 2 and renderer.prompt_ids(record)
    with pytest.raises(UserError, match='whose prompt ends before the white space, with --config'):
        renderer.example(record)


def test_scored_options_are_those_that_every_kind_of_tokenizer_trains():
    for name, (template, are_tokens) in TEMPLATES.items():
        for kind in TOKENIZERS:
            tokenizer = make_tokenizer(kind, template, are_tokens)
            behaviors = extend_tokenizer(tokenizer, DEFAULT_BEHAVIORS)
            for answer_format in ('letter', 'text'):
                renderer = Renderer(tokenizer, behaviors, answer_format=answer_format)
                record = Record(
                    (Message('user', 'q?'),),
                    options=('stop it', 'Normal or low', '5 mg'),
                    answer=1,
                    behavior='proactive',
                    rationale='We see.',
                    id='x',
                )
                ids, prompt = renderer.example(record).ids.tolist(), renderer.prompt_ids(record)
                scored = [behaviors.ids[1], *renderer.stem_ids, *renderer.option_ids(record)[1]]
                assert ids[: len(prompt) + len(scored)] == [*prompt, *scored], (name, kind)
                question = {'role': 'user', 'content': renderer._messages(record)[0].content}
                answer = {'role': 'assistant', 'content': renderer.answer_text(record)}
                theirs = tokenizer.apply_chat_template([question, answer])['input_ids']
                ours = [i for i in ids if i not in behaviors.ids]
                assert ours == theirs[: len(ours)], (name, kind)
