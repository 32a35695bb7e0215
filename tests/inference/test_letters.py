"""Tests of what an answer in words chooses."""

import math

import pytest

from bsft_jax.inference import letters
from bsft_jax.inference.letters import Choice, Token, read_choice

OPTIONS = ('Start warfarin.', 'Hold warfarin', 'Hold warfarin and call', 'Wait')


@pytest.mark.parametrize(
    ('text', 'option'),
    [
        ('Answer: B. Hold it.', 1),
        ('<|proactive|>Answer: D.', 3),
        ('Behavior: proactive\nAnswer: D. Wait.', 3),
        ('B', 1),
        (' b', None),
        ('**B.** Hold warfarin', 1),
        ('(C)', 2),
        ('C) Hold warfarin and call', 2),
        ('B: because', 1),
        ('B - hold it', 1),
        ('D is correct', 3),
        ('The correct answer is **C**.', 2),
        ('The best option is B\n\nIt holds.', 1),
        ('Option A is risky. Option C is safer. The answer is C.', 2),
        ('Answer: A? No. The final answer: D', 3),
        ('I would choose option B here', 1),
        ('Let us see (D) again', 3),
        ('<think>Answer: A. Or B?</think>\nC.', 2),
        ('option A or option B', None),
        ('A, B and C', None),
        ('A patient on warfarin bleeds.', None),
        ('A-fib was missed.', None),
        ('E.', None),
        ('Answer: E', None),
        ('', None),
        ('I cannot help with that.', None),
        ('I would start warfarin today', 0),
        ('Hold Warfarin', 1),
        ('Please hold warfarin and call.', 2),
        ('Should we hold warfarin or wait?', None),
        ('Hold warfarin, and do not wait', 1),
        ('<|proactive|>Answer: Hold warfarin and call. Do not wait.', 2),
        ('<think>Wait? Start warfarin?</think>I would wait', 3),
        ('Waiting helps', None),
    ],
)
def test_an_answer_in_words_names_an_option_or_none(text, option):
    by = 'unparsed' if option is None else 'text'
    assert read_choice(text, (), OPTIONS) == Choice(option, by)


def tokens(*pairs):
    return tuple(Token(text, dict(listed)) for text, listed in pairs)


def test_log_probabilities_are_those_at_the_letter():
    sure = {'Answer': -0.1, 'A': -2.5}
    letter = {' B': -0.5, ' A': -1.5, 'B': -3.0, '(C': -4.0, ' the': -6.0}
    written = tokens(('Answer', sure), (':', {':': 0.0}), (' B', letter), ('.', {'.': 0.0}))
    choice = read_choice('Answer: B.', written, OPTIONS)
    # What is listed leaves 1 - Σ for D, but no more than the least that is listed.
    left = math.log(1 - math.fsum(map(math.exp, letter.values())))
    assert choice == Choice(1, 'logprobs', [-1.5, -0.5, -4.0, min(left, -6.0)])
    assert left > -6.0
    narrow = {' B': -0.001, ' A': -7.0}
    choice = read_choice('Answer: B.', tokens(('Answer:', sure), (' B', narrow)), OPTIONS)
    rest = math.log(1 - math.exp(-0.001) - math.exp(-7.0))
    assert choice.option_logprobs == pytest.approx([-7.0, -0.001, rest, rest], abs=1e-9)
    assert rest < -9


@pytest.mark.parametrize('space', ['▁', 'Ġ', ' '])
def test_tokens_that_the_text_leaves_out_and_spelled_spaces_are_passed_over(space):
    listed = {f'{space}C': -0.2, f'{space}D': -2.0}
    written = tokens(('<|proactive|>', {}), ('Answer', {}), (':', {}), (f'{space}C', listed))
    choice = read_choice('Answer: C', written, OPTIONS)
    assert (choice.option, choice.by) == (2, 'logprobs')
    assert choice.option_logprobs[2:] == [-0.2, -2.0]


def test_without_alternatives_of_its_own_the_letter_is_text():
    alone = tokens(('B', {'B': -0.4}))
    assert read_choice('B', alone, OPTIONS) == Choice(1, 'text')
    # Another letter is more probable than the one that was written: a server that samples.
    sampled = tokens(('B', {'B': -2.0, 'A': -0.2}))
    assert read_choice('B', sampled, OPTIONS) == Choice(1, 'text')
    other = tokens(('C', {'C': -0.1, 'A': -3.0}))
    assert read_choice('B', other, OPTIONS) == Choice(1, 'text')


def test_the_first_token_answers_where_the_words_do_not():
    listed = {'The': -0.5, 'C': -2.0, 'B': -3.0}
    first = tokens(('<|reactive|>', {'<|reactive|>': 0.0}), ('The', listed), (' man', {}))
    choice = read_choice('The man', first, OPTIONS)
    bound = min(-3.0, math.log(1 - math.fsum(map(math.exp, listed.values()))))
    assert choice == Choice(2, 'first_token', [bound, -3.0, -2.0, bound])
    silent = tokens(('The', {'The': -0.5, 'This': -1.0}))
    assert read_choice('The man', silent, OPTIONS) == Choice(None, 'unparsed')
    # The words of an option count before the alternatives of a token.
    assert read_choice('Wait', tokens(('Wait', {'A': -3.0, 'Wait': -0.1})), OPTIONS).option == 3
    assert letters.UNNAMED < -10


@pytest.mark.parametrize(
    ('text', 'groups', 'found'),
    [
        ('Check the INR-level first.', [['inr level'], ['Check', 'order']], [True, True]),
        ('Check the INRs.', [['inr'], ['the', 'inr']], [False, True]),
        ('', [['inr'], [''], ['.'], []], [False, False, False, False]),
        ('ALLERGIE GEGEN STRASSE', [['gegen straße']], [True]),
        ('anything', [], []),
    ],
)
def test_mentions_are_whole_words_in_their_order(text, groups, found):
    assert letters.mentions(text, groups) == found
