"""Makes a blind review: a page for each rater, and the key that stays with the study."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import Any

from bsft_jax import files, places
from bsft_jax.errors import UserError
from bsft_jax.review_kit import page
from bsft_jax.review_kit.pool import Pool, read_pool
from bsft_jax.review_kit.sampling import Item, Plan, Screen, draw_items, draw_screens

KEY = 'KEY.json'
KEY_KIND = 'key of a blind review'
# Words by which an answer may say what wrote it.
_MAKERS = re.compile(
    r'\b(llama|mistral|qwen|gemma|smollm|gpt|claude|gemini|openai|anthropic|alibaba|meta ai)',
    re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True)
class MakeOptions:
    """Describes a review to be made.

    Attributes:
      evals: folders of evaluations, `WORKDIR/eval/NAME`.
      output: page to write; that of rater N gets `-N` before its suffix.
      plan: sizes and seed.
      data: data source of the records; empty for that of the first evaluation.
    """

    evals: tuple[str, ...]
    output: str
    plan: Plan
    data: str = ''


def make(options: MakeOptions) -> dict[str, Any]:
    """Writes `NAME-1.html`, `NAME-2.html` … and `KEY.json` beside them, and returns the key.

    Raises UserError for sizes that do not go together, evaluations that do not, too few records
    that are answered differently, and for a place with a key or pages already.
    """
    options.plan.check()
    output = pathlib.Path(options.output)
    if output.suffix != '.html':
        raise UserError('does not end in .html', where=f'--output={output}')
    names = [f'{output.stem}-{rater + 1}.html' for rater in range(options.plan.raters)]
    places.check_output(output, 'output', file=True)
    for name in (KEY, *names):
        if (output.parent / name).exists():
            raise UserError(
                'exists, and whoever has its pages needs it',
                where=str(output.parent / name),
                fix='name a page in another folder by --output',
            )
    pool = read_pool(options.evals, options.data)
    items = draw_items(pool.candidates, len(pool.systems), options.plan)
    lenders = _lenders(pool, items)
    by_rater = draw_screens(items, len(lenders), options.plan)
    contents = [
        page.page_content(rater, screens, items, lenders)
        for rater, screens in enumerate(by_rater, start=1)
    ]
    _warn_of_names(items)
    key = _key(options.plan, pool, items, lenders, by_rater)
    for entry, name, content in zip(key['pages'], names, contents, strict=True):
        entry |= {'file': name, 'page': page.digest_of(content)}
    key['study'] = page.digest_of(key)
    with files.writing(output.parent):
        output.parent.mkdir(parents=True, exist_ok=True)
    # The key first: pages without one are lost work.
    files.write_json(output.parent / KEY, key)
    for name, content in zip(names, contents, strict=True):
        files.write_text(output.parent / name, page.render_page(content, key['study']))
    return key


def _lenders(pool: Pool, items: Sequence[Item]) -> list[Item]:
    """Returns what lends checks a case: records of cases that are not reviewed, else all items."""
    used = {item.candidate.case for item in items}
    free = [Item(c, (0, 1)) for c in pool.candidates if c.case not in used]
    return free or list(items)


def _key(
    plan: Plan,
    pool: Pool,
    items: Sequence[Item],
    lenders: Sequence[Item],
    by_rater: Sequence[Sequence[Screen]],
) -> dict[str, Any]:
    names = [system.name for system in pool.systems]
    return {
        'kind': KEY_KIND,
        'format': page.FORMAT,
        **dataclasses.asdict(plan),
        'source': pool.source,
        'split': pool.split,
        'left_out': pool.left_out,
        'systems': {
            system.name: {
                'folder': system.folder,
                'policy': system.policy,
                'prompt': system.prompt,
                'answers': system.answers,
                'sha256': system.digest,
            }
            for system in pool.systems
        },
        'pairs': _pairs(pool),
        'comparisons': [
            {
                'record': item.candidate.record.id,
                'case': item.candidate.case,
                'category': item.candidate.category,
                'group': item.candidate.group,
                'systems': [names[system] for system in item.pair],
                'words': [len(item.candidate.answers[system].split()) for system in item.pair],
            }
            for item in items
        ],
        'pages': [
            {
                'rater': rater,
                'screens': [
                    _screen(number, screen, items, lenders, names)
                    for number, screen in enumerate(screens)
                ],
            }
            for rater, screens in enumerate(by_rater, start=1)
        ],
    }


def _pairs(pool: Pool) -> list[dict[str, Any]]:
    """Counts by pair of systems the records, and those that both answer in the same words."""
    return [
        {
            'systems': [pool.systems[system].name for system in pair],
            'records': len(pool.candidates),
            'same_answer': sum(not candidate.differs(pair) for candidate in pool.candidates),
        }
        for pair in itertools.combinations(range(len(pool.systems)), 2)
    ]


def _screen(
    number: int,
    screen: Screen,
    items: Sequence[Item],
    lenders: Sequence[Item],
    names: Sequence[str],
) -> dict[str, Any]:
    found: dict[str, Any] = {'screen': page.screen_id(number), 'kind': screen.kind}
    if screen.kind == 'check':
        record = lenders[screen.item].candidate.record.id
        return found | {'record': record, 'expected': screen.expected}
    shown = [names[system] for system in items[screen.item].pair]
    return found | {
        'comparison': screen.item,
        'shown': shown[::-1] if screen.swapped else shown,
    }


def _warn_of_names(items: Sequence[Item]) -> None:
    """Prints a warning where an answer seems to say which model wrote it."""
    found = collections.Counter(
        match[1].lower()
        for item in items
        for system in item.pair
        for match in _MAKERS.finditer(item.candidate.answers[system])
    )
    if found:
        print(
            f'warning: answers contain {", ".join(sorted(found))}: read the pages before you send '
            'them, for such an answer is not blind',
            file=sys.stderr,
        )


def describe_key(key: dict[str, Any]) -> str:
    """Returns what was made, as plain text."""
    categories = collections.Counter(entry['category'] for entry in key['comparisons'])
    cases = len({entry['case'] for entry in key['comparisons']})
    screens = ', '.join(
        f'{entry["file"]} ({len(entry["screens"])} pages)' for entry in key['pages']
    )
    return '\n'.join(
        [
            f'study {key["study"]}: {key["items"]} comparisons of {cases} cases, '
            f'{key["overlap"]} of them seen by every rater',
            *(f'  {name or "without a category"}: {n}' for name, n in sorted(categories.items())),
            *(
                f'{" and ".join(pair["systems"])}: the same words in {pair["same_answer"]} of '
                f'{pair["records"]} records; those are not reviewed'
                for pair in key['pairs']
            ),
            f'for the raters: {screens}',
            f'{KEY} stays with the study: whoever sees it is no longer blind',
        ]
    )
