"""The flags `--prompt` and `--examples`, which `evaluate` and `generate` share."""

from __future__ import annotations

from collections.abc import Sequence

from bsft_jax.behaviors import BehaviorSet
from bsft_jax.data import prompts, sources
from bsft_jax.errors import UserError
from bsft_jax.records.record import Record


def parse_prompt_flags(prompt: str, examples: str) -> prompts.PromptStyle:
    """Returns the prompt style; raises UserError for examples that it would not show."""
    style = prompts.parse_prompt_style(prompt)
    if examples and not style.shots:
        raise UserError('belongs to --prompt=few_shot:K', where=f'--examples={examples}')
    return style


def show_in_style(
    style: prompts.PromptStyle,
    records: Sequence[Record],
    writer: prompts.Writer,
    behaviors: BehaviorSet,
    examples: str,
) -> list[Record]:
    """Returns the records in a prompt style; exemplars are from the train split of a source.

    Raises UserError where there is no such source or split.
    """
    where, pool = f'--prompt={style.name}', []
    if style.shots:
        if not examples:
            raise UserError(
                'no records to show', where=where, fix='name a data source with --examples'
            )
        try:
            pool = sources.load_records(examples, 'train')
        except UserError as error:
            fix = 'name a data source with a train split by --examples'
            raise UserError(f'no records to show ({error})', where=where, fix=fix) from error
    return prompts.apply_prompt_style(
        style, records, writer, behaviors=behaviors.behaviors_or_default, pool=pool
    )
