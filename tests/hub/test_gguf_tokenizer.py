"""The tokenizer of a GGUF file gives the ids of the tokenizer that the file was made from."""

import json

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GemmaTokenizer, PreTrainedTokenizerFast

from bsft_jax.data import sources
from bsft_jax.data.tokenizer import load_tokenizer
from bsft_jax.hub import ends, files, pretrained
from tests.gguf_writer import tokenizer_metadata, write_gguf

HARD = [
    '',
    ' ',
    '  leading and trailing  ',
    'two  before 12  345 6789 and 1,234.5 mg',
    "don't DON'T we'll I'd",
    'line\n\n\nbreaks\r\n \t\ttabs',
    'Ünïcode café cafe\u0301 漢字 かな 한국어 🙂👩‍⚕️ العربية ไทย',
    'x=1;y=[2]{3}</html>//**~~__',
    'a\u00a0b\u2009c\ufeffd\x00e\x7f',
    '<|im_start|>user\nHi<|im_end|>\n<|endoftext|>',
    'half <|im_start and [INST] <s> </s> <unk> <0x0A> ▁ ▁▁ x',
    'CamelCaseWordsAndUPPER lower ÀÉÎ ǅ',
]
# As in the tokenizer.json of Llama 3 and of Mistral NeMo.
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r'|\s*[\r\n]+|\s+(?!\S)|\s+'
)
TEKKEN = (
    r'[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+'
    r'|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*'
    r'|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+'
)
CONFIG = {
    'model_type': 'llama',
    'num_hidden_layers': 1,
    'max_position_embeddings': 64,
    'hidden_size': 8,
    'intermediate_size': 8,
    'num_attention_heads': 1,
    'rms_norm_eps': 1e-5,
}


@pytest.fixture(scope='module')
def texts():
    records = sources.load_records('synthetic:100', 'train')
    return HARD + [message.content for record in records for message in record.messages][:1000]


def from_gguf(folder, tokenizer, model_type='llama', num_rows=None, changes=None, **named):
    """Returns a tokenizer as a GGUF file gives it, and the folder that it was read from."""
    num_rows = num_rows or max(tokenizer.get_vocab().values()) + 1
    keys = tokenizer_metadata(tokenizer, num_rows, **named) | (changes or {})
    config = CONFIG | {'model_type': model_type, 'vocab_size': num_rows}
    if model_type == 'gemma2':
        config |= {
            'sliding_window': 8,
            'attn_logit_softcapping': 1.0,
            'final_logit_softcapping': 1.0,
        }
    tensors = {'model.embed_tokens.weight': np.zeros((num_rows, 8), np.float32)}
    path = write_gguf(
        folder / f'{named.get("pre", model_type)}.gguf', config, tensors, tokenizer=keys
    )
    directory = files.resolve_directory(str(path))
    return pretrained.read_tokenizer(directory), directory


def assert_same_ids(ours, theirs, texts):
    for text in texts:
        for special in (True, False):
            ids = theirs.encode(text, add_special_tokens=special)
            assert ours.encode(text, add_special_tokens=special) == ids, text
        assert ours.decode(ids) == theirs.decode(ids)


def trained(pre_tokenizer, texts, whole_words=False):
    """Trains a byte-level BPE with the control tokens of ChatML."""
    backend = Tokenizer(models.BPE(ignore_merges=whole_words))
    backend.pre_tokenizer, backend.decoder = pre_tokenizer, decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=['<|endoftext|>', '<|im_start|>', '<|im_end|>'],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token='<|im_end|>', clean_up_tokenization_spaces=False
    )


def split(pattern):
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), 'isolated'), level])


def pieces(tokenizer):
    return [tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text) for text in HARD]


RULES = {
    'gpt-2': (pre_tokenizers.ByteLevel(add_prefix_space=False), False),
    'smollm': (
        pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        ),
        False,
    ),
    'llama-bpe': (split(LLAMA3), True),
    'tekken': (split(TEKKEN), True),
}


@pytest.mark.parametrize('pre', RULES)
def test_byte_level_tokenizers_split_by_their_rule(pre, texts, tmp_path):
    pre_tokenizer, whole_words = RULES[pre]
    theirs = trained(pre_tokenizer, texts, whole_words=whole_words)
    ours, _ = from_gguf(tmp_path, theirs, pre=pre, eos=2)
    assert_same_ids(ours, theirs, texts)
    assert pieces(ours) == pieces(theirs)
    for other in RULES.keys() - {pre}:
        wrong, _ = from_gguf(tmp_path, theirs, pre=other, eos=2)
        assert pieces(wrong) != pieces(theirs), other


def test_a_word_that_is_a_token_is_not_merged_from_parts(texts, tmp_path):
    theirs = trained(split(LLAMA3), texts, whole_words=True)
    state = json.loads(theirs.backend_tokenizer.to_str())
    # No merge leads to this token.
    state['model']['vocab']['zebra'] = len(theirs)
    theirs = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(state)))
    for pre, is_whole in (('llama-bpe', True), ('tekken', True), ('qwen2', False)):
        ours, _ = from_gguf(tmp_path, theirs, pre=pre)
        assert (ours.encode('zebra') == [len(theirs) - 1]) == is_whole


def test_qwen_normalizes_unicode_and_its_spare_rows_are_free(shared, texts, tmp_path):
    theirs = load_tokenizer(shared / 'tokenizers' / 'qwen2.5')
    rows = 151_936
    end = theirs.convert_tokens_to_ids('<|im_end|>')
    ours, _ = from_gguf(
        tmp_path, theirs, 'qwen2', rows, pre='qwen2', eos=end, eot=end, padding=151_643
    )
    assert_same_ids(ours, theirs, texts)
    assert ours.get_vocab() == theirs.get_vocab()
    added = {i: str(token) for i, token in theirs.added_tokens_decoder.items()}
    assert {i: str(token) for i, token in ours.added_tokens_decoder.items()} == added
    assert {i for i, t in ours.added_tokens_decoder.items() if t.special} == {
        i for i, t in theirs.added_tokens_decoder.items() if t.special
    }
    assert ours.chat_template == theirs.chat_template
    assert ours.eos_token == '<|im_end|>' and ours.pad_token == '<|endoftext|>'


def test_sentencepiece_of_llama(shared, texts, tmp_path):
    theirs = load_tokenizer(shared / 'models' / 'stories260k' / 'hf')
    ours, _ = from_gguf(tmp_path, theirs, model='llama', unknown=0, bos=1, eos=2)
    assert_same_ids(ours, theirs, texts)
    assert (ours.unk_token, ours.bos_token, ours.eos_token) == ('<unk>', '<s>', '</s>')
    assert ours.encode('x')[0] == 1
    changes = {'tokenizer.ggml.add_bos_token': False, 'tokenizer.ggml.add_eos_token': True}
    ours, _ = from_gguf(tmp_path, theirs, model='llama', changes=changes, bos=1, eos=2)
    assert ours.encode('x')[0] != 1 and ours.encode('x')[-1] == 2
    changes = {'tokenizer.ggml.add_space_prefix': False}
    ours, _ = from_gguf(tmp_path, theirs, model='llama', changes=changes, bos=1)
    assert ours.decode(ours.encode(' x', add_special_tokens=False)) == ' x'
    assert ours.tokenize('he') == ['he'] and theirs.tokenize('he') != ['he']


def test_sentencepiece_of_gemma(shared, texts, tmp_path):
    stories = load_tokenizer(shared / 'models' / 'stories260k' / 'hf')
    vocab = dict(stories.backend_tokenizer.get_vocab(with_added_tokens=False))
    spaces = ['▁▁', '▁▁▁', '▁▁▁▁']
    vocab |= {token: len(vocab) + i for i, token in enumerate(spaces)}
    vocab = {'<bos>' if t == '<s>' else '<eos>' if t == '</s>' else t: i for t, i in vocab.items()}
    # A merge has the rank of its result's id; of two for one token the longer first part counts.
    merges = [
        (token[:cut], token[cut:])
        for token in sorted(vocab, key=vocab.get)
        for cut in range(len(token) - 1, 0, -1)
        if token[:cut] in vocab and token[cut:] in vocab
    ]
    theirs = GemmaTokenizer(vocab=vocab, merges=merges)
    theirs = PreTrainedTokenizerFast(
        tokenizer_object=theirs.backend_tokenizer, clean_up_tokenization_spaces=False
    )
    keys = tokenizer_metadata(theirs, len(theirs), model='llama', unknown=0, bos=1, eos=2)
    # The file spells these tokens as the text that they stand for.
    stored = [' ' * len(t) if t in spaces else t for t in keys['tokenizer.ggml.tokens']]
    kinds = [
        4 if t in spaces else k
        for t, k in zip(
            keys['tokenizer.ggml.tokens'], keys['tokenizer.ggml.token_type'], strict=True
        )
    ]
    # Its scores are not in the order of the merges.
    scores = [0.0] * len(theirs)
    changes = {
        f'tokenizer.ggml.{key}': value
        for key, value in (('tokens', stored), ('token_type', kinds), ('scores', scores))
    }
    ours, _ = from_gguf(
        tmp_path, theirs, 'gemma2', model='llama', changes=changes, unknown=0, bos=1, eos=2
    )
    for text in texts:
        ids = theirs.encode(text, add_special_tokens=False)
        assert ours.encode(text, add_special_tokens=False) == ids, text
        assert ours.decode(ids) == theirs.decode(ids)
    assert ours.encode('a    ').count(vocab['▁▁▁▁']) == 1 and ours.encode('a')[0] == 1


def test_all_ends_are_kept_and_a_template_may_be_absent(texts, tmp_path):
    theirs = trained(RULES['smollm'][0], texts)
    ours, directory = from_gguf(tmp_path, theirs, pre='smollm', eos=0, eot=2, eom=0, bos=1)
    config = json.loads((directory / 'config.json').read_text())
    assert (config['eos_token_id'], config['bos_token_id']) == (0, 1)
    assert ends.end_ids(directory, config) == (0, 2)
    assert ours.chat_template is None
