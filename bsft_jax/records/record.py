"""Record: one task or pretraining text, its validation, and its JSONL files (one object a line)."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import string
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from bsft_jax import files
from bsft_jax.errors import UserError, misspelt
from bsft_jax.records import chat_formats, field_parsers, readers, taxonomy

ROLES = ('system', 'user', 'assistant')
SPLITS = ('train', 'validation', 'test')

# Options are lettered A to Z in the prompt.
MIN_OPTIONS, MAX_OPTIONS = 2, 26


@dataclasses.dataclass(frozen=True)
class Message:
    """Holds one turn of a conversation.

    Attributes:
      role: one of ROLES.
      content: the text of the turn.
      name: the speaker, whom the model sees; '' for none.
      behavior: name of the behavior of an assistant's turn; '' for none, and on other turns.
    """

    role: str
    content: str
    name: str = ''
    behavior: str = ''


@dataclasses.dataclass(frozen=True)
class Record:
    """Holds one task, conversation or pretraining text. `docs/formats.md` describes all fields.

    A task or conversation needs `messages` alone; a pretraining record has `text` instead. Empty
    fields are those that the file leaves out.

    Attributes:
      messages: the conversation.
      id: names the record in errors and predictions; unique within a source.
      case_id: records of one case stay in one split.
      pair_id: shared by twins, two records that differ in one fact.
      split: one of SPLITS.
      source: name of the data set that the record comes from.
      license: license of that data set.
      category: one of `taxonomy.CATEGORIES`.
      group: group of the category.
      behavior: name of the behavior that is right for this record.
      hard: whether the record belongs to the subset `hard` of an evaluation.
      difficulty: difficulty level, 1 (easiest) to 9; None where there are no levels.
      options: the choices.
      option_behaviors: name of the behavior that each option stands for.
      answer: index of the right option.
      rationale: the explanation that follows the answer in training.
      must_mention: groups of phrases; a good free-text answer mentions one phrase of each group.
      must_not_mention: groups of phrases; a good free-text answer mentions none of them.
      text: pretraining text.
      origin: where the record was read, `FILE:LINE` or the row of a data set; '' for one that was
        made. It is in no file and does not make records differ.
    """

    messages: tuple[Message, ...] = ()
    id: str = ''
    case_id: str = ''
    pair_id: str = ''
    split: str = ''
    source: str = ''
    license: str = ''
    category: str = ''
    group: str = ''
    behavior: str = ''
    hard: bool = False
    difficulty: int | None = None
    options: tuple[str, ...] = ()
    option_behaviors: tuple[str, ...] = ()
    answer: int | None = None
    rationale: str = ''
    # These two are read from and written to files; nothing scores answers by them yet.
    must_mention: tuple[tuple[str, ...], ...] = ()
    must_not_mention: tuple[tuple[str, ...], ...] = ()
    text: str = ''
    origin: str = dataclasses.field(default='', compare=False, repr=False)


# The fields that files have.
FIELD_NAMES = tuple(field.name for field in dataclasses.fields(Record) if field.compare)


def behavior_of(record: Record) -> str:
    """Returns the name of the answer's behavior; '' where the record names none.

    It is the record's own, or that of its last turn where the record has no options.
    """
    if record.behavior or record.options or not record.messages:
        return record.behavior
    return record.messages[-1].behavior


def cluster_of(fields: Mapping[str, Any]) -> str:
    """Returns the name of the cluster that a record, or a row of `predictions.jsonl`, belongs to.

    Members of a cluster stay in one split and are resampled together. The name is the `case_id`,
    else the `pair_id`, else the `id`; '' where all are empty.
    """
    return fields.get('case_id') or fields.get('pair_id') or fields.get('id') or ''


def option_words(option: str) -> str:
    """Returns an option as an answer in words names it: stripped, without a final period."""
    return option.strip().removesuffix('.')


def earlier_answers(record: Record) -> list[int]:
    """Returns the indices in `messages` of the assistant's turns before the answer."""
    turns = record.messages if record.options else record.messages[:-1]
    return [i for i, message in enumerate(turns) if message.role == 'assistant']


def describe_record(record: Record) -> str:
    """Returns how errors name a record: by its id, or its first 40 characters, and its origin."""
    origin = f' ({record.origin})' if record.origin else ''
    if record.id:
        return f'record {record.id!r}{origin}'
    opening = record.text or ''.join(message.content for message in record.messages[:1])
    return f'the record that begins {opening[:40]!r}{origin}'


def with_ids(records: Iterable[Record]) -> list[Record]:
    """Returns the records, of which those without an id have their index as one, such as `#3`."""
    return [
        record if record.id else dataclasses.replace(record, id=f'#{i}')
        for i, record in enumerate(records)
    ]


def evenly_spaced_subset(records: Sequence[Record], limit: int) -> list[Record]:
    """Returns at most `limit` records, as whole cases spaced evenly over all of them.

    A file sorted by kind yields records of every kind, and twins stay together. Only the last case
    may be cut. Returns all records where `limit` is 0.
    """
    if not limit or len(records) <= limit:
        return list(records)
    case_per_record = [cluster_of(vars(record)) or i for i, record in enumerate(records)]
    cases = list(dict.fromkeys(case_per_record))
    num_cases = -(-limit * len(cases) // len(records))
    chosen = {cases[k * len(cases) // num_cases] for k in range(num_cases)}
    subset = [r for r, case in zip(records, case_per_record, strict=True) if case in chosen]
    return subset[:limit]


def _parse_message(value: Any, where: str) -> Message:
    if not isinstance(value, dict):
        raise UserError(f'a message must be an object, got {type(value).__name__}', where=where)
    for key in ('role', 'content'):
        if key not in value:
            raise UserError(f'message field {key!r} is missing', where=where)
    for key, text in value.items():
        if key not in ('role', 'content', 'name', 'behavior'):
            raise UserError(f'unknown message field {key!r}', where=where)
        if not isinstance(text, str):
            raise UserError(f'message field {key!r} must be text', where=where)
        field_parsers.parse_text(text, key, where)
    if value['role'] not in ROLES:
        raise UserError(f'role {value["role"]!r} is not one of {", ".join(ROLES)}', where=where)
    if value.get('behavior') and value['role'] != 'assistant':
        raise UserError("message field 'behavior' belongs to turns of the assistant", where=where)
    return Message(**value)


def _parse_messages(value: Any, field: str, where: str) -> tuple[Message, ...]:
    if not isinstance(value, list):
        raise UserError(f'field {field!r} must be a list', where=where)
    return tuple(
        _parse_message(message, f'{where}: {field}[{i}]') for i, message in enumerate(value)
    )


# Fields without an entry of their own are plain text.
_PARSERS: dict[str, Callable[[Any, str, str], Any]] = {
    **dict.fromkeys(FIELD_NAMES, field_parsers.parse_text),
    'messages': _parse_messages,
    'hard': field_parsers.parse_flag,
    'difficulty': field_parsers.parse_difficulty,
    'options': field_parsers.parse_options,
    'option_behaviors': field_parsers.parse_texts,
    'answer': field_parsers.parse_index,
    'must_mention': field_parsers.parse_text_groups,
    'must_not_mention': field_parsers.parse_text_groups,
}


# Checks across fields: (record, where) → UserError for values that contradict one another.


def _check_text(record: Record, where: str) -> None:
    for field in field_parsers.CONVERSATION_FIELDS if record.text else ():
        if getattr(record, field) not in ('', (), None):
            raise UserError(
                f"field {field!r} belongs to a conversation, not to 'text'",
                where=where,
                fix='drop it, or give messages instead of the text',
            )


def _check_last_turn(record: Record, where: str) -> None:
    if not record.messages:
        return
    last = record.messages[-1]
    if record.options and last.role == 'assistant':
        raise UserError(
            "field 'options': the last turn is the assistant's, which would show the answer",
            where=where,
            fix='leave that turn out',
        )
    if not record.options and record.behavior and last.behavior not in ('', record.behavior):
        raise UserError(
            f"field 'behavior': {record.behavior!r}, but its answer says {last.behavior!r}",
            where=where,
        )


def _check_options(record: Record, where: str) -> None:
    num_options = len(record.options)
    if record.answer is not None and not 0 <= record.answer < num_options:
        raise UserError(
            f"field 'answer': {record.answer} is not an index of {num_options} options",
            where=where,
        )
    if record.options and not MIN_OPTIONS <= num_options <= MAX_OPTIONS:
        raise UserError(
            f"field 'options': {num_options} options, {MIN_OPTIONS} to {MAX_OPTIONS} are possible",
            where=where,
        )
    letters_by_words: dict[str, str] = {}
    for letter, option in zip(string.ascii_uppercase, record.options, strict=False):
        # Composed and decomposed accents look alike and have the same ids.
        words = unicodedata.normalize('NFC', option_words(option))
        same = letters_by_words.setdefault(words, letter)
        if not words or same != letter:
            what = f'{same} and {letter} are both {words[:80]!r}' if words else f'{letter} is empty'
            raise UserError(
                f"field 'options': options must be distinct and not empty, {what}", where=where
            )


def _check_option_behaviors(record: Record, where: str) -> None:
    behaviors = record.option_behaviors
    if behaviors and len(behaviors) != len(record.options):
        raise UserError("field 'option_behaviors' must have one entry per option", where=where)
    if not behaviors or record.answer is None:
        return
    right = behaviors[record.answer]
    if record.behavior not in ('', right):
        raise UserError(
            f"field 'behavior': {record.behavior!r}, but the right option is {right!r}",
            where=where,
        )


def _check_category(record: Record, where: str) -> None:
    category, group = record.category, record.group
    # Other names are groups of one's own; `prepare` lists them.
    if meant := misspelt(group, taxonomy.GROUPS):
        raise UserError(
            f"field 'group': {group!r}",
            where=where,
            fix=f'did you mean {meant!r}? A group of your own needs a name less like it',
        )
    if not category:
        return
    if category not in taxonomy.CATEGORIES:
        raise UserError(
            f"field 'category': unknown category {category!r}",
            where=where,
            fix=f'use one of {", ".join(taxonomy.CATEGORIES)}; a category of your own is a '
            "'group' without 'category'",
        )
    expected = taxonomy.group_of(category)
    if group not in ('', expected):
        raise UserError(f"field 'group': {category} is {expected}, not {group}", where=where)


def _check_split(record: Record, where: str) -> None:
    if record.split not in ('', *SPLITS):
        raise UserError(
            f"field 'split': {record.split!r} is not one of {', '.join(SPLITS)}", where=where
        )


_CHECKS = (
    _check_text,
    _check_last_turn,
    _check_options,
    _check_option_behaviors,
    _check_category,
    _check_split,
)


def record_from_dict(obj: Any, where: str = 'record') -> Record:
    """Builds a Record from one JSON object in any layout of `chat_formats`, and validates it.

    The group follows from the category where the object names none.

    Raises:
      UserError: for the first fault. Its message begins with `where` and names the field.
    """
    if not isinstance(obj, dict):
        raise UserError(f'a record must be an object, got {type(obj).__name__}', where=where)
    obj = chat_formats.normalize_layout(obj, where)
    if unknown := sorted(obj.keys() - _PARSERS.keys()):
        raise UserError(
            f'unknown field {unknown[0]!r}',
            where=where,
            fix='prepare --map=FILE chooses among columns',
        )
    record = Record(
        **{
            field: parse(obj[field], field, where)
            for field, parse in _PARSERS.items()
            if field in obj
        }
    )
    for check in _CHECKS:
        check(record, where)
    if record.category and not record.group:
        return dataclasses.replace(record, group=taxonomy.group_of(record.category))
    return record


def _to_json(value: Any) -> Any:
    """Returns a field's value with messages as objects and tuples as lists."""
    if isinstance(value, Message):
        return {key: text for key, text in vars(value).items() if text or key == 'content'}
    return [_to_json(item) for item in value] if isinstance(value, tuple) else value


def record_to_dict(record: Record) -> dict[str, Any]:
    """Returns the JSON object of a record, without empty fields."""
    return {
        name: _to_json(value)
        for name, value in ((name, getattr(record, name)) for name in FIELD_NAMES)
        if value is not None and value is not False and value not in ('', ())
    }


def records_from_rows(
    rows: readers.Rows, name: str, parse: Callable[[Any, str], Record] = record_from_dict
) -> list[Record]:
    """Returns the records of a source's rows.

    Args:
      rows: pairs of where a row stands and its value.
      name: what errors about the whole source begin with.
      parse: makes a record of a value and where it stands.

    Raises:
      UserError: for an id that occurs twice, and where there are no rows.
    """
    records, where_by_id = [], {}
    for where, value in rows:
        record = parse(value, where)
        if record.id:
            if record.id in where_by_id:
                raise UserError(
                    f"field 'id': {record.id!r} is also at {where_by_id[record.id]}", where=where
                )
            where_by_id[record.id] = where
        records.append(dataclasses.replace(record, origin=where))
    if not records:
        raise UserError('no records in it', where=name)
    return records


def read_jsonl(path: str | pathlib.Path) -> list[Record]:
    """Reads the records of a file, one JSON object a line.

    Raises:
      UserError: that names the file, the line and the field.
    """
    return records_from_rows(readers.read_jsonl_rows(path), str(path))


def write_jsonl(path: str | pathlib.Path, records: Iterable[Record]) -> None:
    """Writes records, one JSON object a line; the file appears complete or not at all."""
    path = pathlib.Path(path)
    with files.whole_file(path) as partial, partial.open('w', encoding='utf-8') as file:
        for record in records:
            file.write(json.dumps(record_to_dict(record), ensure_ascii=False) + '\n')
