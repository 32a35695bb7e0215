"""New tokens never take an id in use, and old tokens keep theirs, whatever ids are left out."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

import bsft_jax
from bsft_jax.behaviors import DEFAULT_BEHAVIORS, extend_tokenizer
from bsft_jax.data.tokenizer import TextEncoder, load_tokenizer
from bsft_jax.errors import UserError
from bsft_jax.hub import configs
from tests.tiny import assert_close, random_model

TOKENS = [[1, 5, 9, 30, 2]]


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    return random_model(tmp_path_factory.mktemp('plain'))


def tokenizer_of(model, added=('<|end|>',), **special):
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(t, special=True, normalized=False) for t in added])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def byte_bpe(ids):
    """Returns byte-level BPE whose 256 bytes have these ids."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return models.BPE(vocab=dict(zip(alphabet, ids, strict=True)), merges=[])


def unigram(*pieces):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    scores = [('<unk>', 0.0), *((c, -1.0) for c in alphabet), *((p, 0.0) for p in pieces)]
    return models.Unigram(scores, unk_id=0)


def extended(tokenizer, rows, used=()):
    """Adds the behaviors and returns their ids, after checks that hold for all vocabularies."""
    before = tokenizer.get_vocab()
    text = 'Takes warfarin. Äh?'
    ids = tokenizer.encode(text, add_special_tokens=False)
    behaviors = extend_tokenizer(tokenizer, DEFAULT_BEHAVIORS, 'tokens', rows, used)
    after = tokenizer.get_vocab()
    in_use = {i for t, i in before.items() if not t.startswith(('<unused', '<|reserved'))}
    assert not in_use.intersection(behaviors.ids) and not set(used).intersection(behaviors.ids)
    assert all(before[t] == i for t, i in after.items() if t in before)
    assert before.keys() - after.keys() <= {t for t, i in before.items() if i in behaviors.ids}
    assert tokenizer.encode(text, add_special_tokens=False) == ids
    one, two = behaviors.ids
    text = '<|reactive|>a<|proactive|>'
    assert [i for i in tokenizer.encode(text, add_special_tokens=False) if i in (one, two)] == [
        one,
        two,
    ]
    # In a record the tokens are ordinary text.
    assert not {one, two}.intersection(TextEncoder(tokenizer).encode_content([text])[0])
    return behaviors.ids


HOLE = [*range(100), *range(200, 356)]
CASES = {
    # Name: (model, added tokens, rows of the table, ids that the config names) -> new ids.
    'no holes, spare rows': (byte_bpe(range(256)), ['<|end|>'], 260, (), (257, 258)),
    'no holes, no table': (byte_bpe(range(256)), ['<|end|>'], None, (), (257, 258)),
    'no holes, no row': (byte_bpe(range(256)), ['<|end|>'], 257, (), (257, 258)),
    'one spare row': (byte_bpe(range(256)), ['<|end|>'], 258, (), (257, 258)),
    'a hole that numbering falls into': (byte_bpe(HOLE), [], 400, (), (356, 357)),
    'a hole, no table': (byte_bpe(HOLE), [], None, (), (356, 357)),
    'a hole below a full table': (byte_bpe(HOLE), [], 356, (), (100, 101)),
    'the last id is taken': (byte_bpe([*range(255), 399]), [], 400, (), (255, 256)),
    'every second id': (byte_bpe(range(0, 512, 2)), [], 511, (), (1, 3)),
    'ids from 7 on': (byte_bpe(range(7, 263)), [], 263, (), (0, 1)),
    'a padding id beside the tokenizer': (
        byte_bpe(range(256)),
        ['<|end|>'],
        264,
        (257, 259),
        (258, 260),
    ),
    'padding ids in the hole': (byte_bpe(HOLE), [], 356, (100, 102), (101, 103)),
    'a hole before reserved ids': (
        byte_bpe([*range(250), *range(300, 306)]),
        ['<unused0>', '<unused1>'],
        306,
        (),
        (250, 251),
    ),
    'reserved ids': (byte_bpe(range(256)), ['<unused0>', '<unused1>'], 258, (), (256, 257)),
    'a reserved id for padding': (
        byte_bpe(range(256)),
        ['<unused0>', '<unused1>', '<unused2>'],
        259,
        (256,),
        (257, 258),
    ),
    'Unigram, spare rows': (unigram(), ['<|end|>'], 300, (), (258, 259)),
    'Unigram, reserved pieces': (
        unigram('<unused0>', '<unused1>', '<unused2>'),
        [],
        260,
        (),
        (257, 258),
    ),
    'Unigram, reserved pieces and an end': (
        unigram('<unused0>', '<unused1>'),
        ['<|end|>'],
        260,
        (),
        (257, 258),
    ),
    'Unigram, no row': (unigram(), ['<|end|>'], 258, (), (258, 259)),
}


@pytest.mark.parametrize('name', CASES)
def test_new_tokens_take_free_ids(name, tmp_path):
    from transformers import AutoTokenizer

    model, added, rows, used, expected = CASES[name]
    tokenizer = tokenizer_of(model, added)
    assert extended(tokenizer, rows, used) == expected
    tokenizer.save_pretrained(str(tmp_path))
    for again in (load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(str(tmp_path))):
        assert again.get_vocab() == tokenizer.get_vocab()
        assert tuple(again.convert_tokens_to_ids(b.token) for b in DEFAULT_BEHAVIORS) == expected


def test_a_tokenizer_without_a_place_for_an_id_is_refused():
    # The pieces of a Unigram model are numbered without gaps.
    with pytest.raises(UserError, match=r'cannot be given <\|reactive\|>, <\|proactive\|> at the'):
        extend_tokenizer(tokenizer_of(unigram()), DEFAULT_BEHAVIORS, 'tokens', 400, (257, 258))


def test_control_pieces_of_a_unigram_model_are_text_in_a_record():
    tokenizer = tokenizer_of(unigram('<start_of_turn>'), ['<start_of_turn>'])
    encoder = TextEncoder(tokenizer)
    (in_template,), (in_record,) = (
        encode(['<start_of_turn>']) for encode in (encoder.encode, encoder.encode_content)
    )
    assert in_template == [257] and 257 not in in_record
    assert tokenizer.decode(in_record) == '<start_of_turn>'


@pytest.mark.parametrize('rows', [384, 320])
def test_old_logits_are_bit_equal_with_new_tokens(plain, rows, tmp_path):
    base = shutil.copytree(plain, tmp_path / 'base')
    if rows < 384:
        resize(base, rows)
    without = np.asarray(bsft_jax.load_model(base).logits(TOKENS))
    model = bsft_jax.load_model(base, behaviors=DEFAULT_BEHAVIORS)
    ids = list(model.behaviors.ids)
    old = [i for i in range(rows) if i not in ids]
    assert np.array_equal(np.asarray(model.logits(TOKENS))[..., old], without[..., old])
    exported = bsft_jax.load_model(bsft_jax.save_model(model, tmp_path / 'out'))
    # A longer table is multiplied in other blocks.
    assert_close(np.asarray(exported.logits(TOKENS))[..., old], without[..., old], 1e-6)


def resize(base, rows):
    tensors = load_file(base / 'model.safetensors')
    table = tensors['model.embed_tokens.weight'][:rows]
    save_file(
        tensors | {'model.embed_tokens.weight': np.ascontiguousarray(table)},
        base / 'model.safetensors',
        metadata={'format': 'pt'},
    )
    edit_config(base, vocab_size=rows)


def edit_config(base, **changes):
    path = base / 'config.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_ids_that_a_config_names_are_in_use(plain, tmp_path):
    base = shutil.copytree(plain, tmp_path / 'base')
    edit_config(base, pad_token_id=320, eos_token_id=[2, 322], image_token_index=323)
    model = bsft_jax.load_model(base, behaviors=DEFAULT_BEHAVIORS)
    assert model.behaviors.ids == (321, 324)
    assert configs.used_ids({'pad_token_id': None, 'x_token_id': True, 'vocab_size': 7}) == set()


def test_an_id_of_the_vocabulary_beyond_the_table_is_refused(plain, tmp_path):
    base = shutil.copytree(plain, tmp_path / 'base')
    state = json.loads((base / 'tokenizer.json').read_text())
    vocabulary = state['model']['vocab']
    # The count fits the table, the largest id does not.
    vocabulary[max(vocabulary, key=vocabulary.get)] = 400
    (base / 'tokenizer.json').write_text(json.dumps(state))
    with pytest.raises(UserError, match='the tokenizer has 401 ids, the embedding table 384 rows'):
        bsft_jax.load_model(base)
