"""Record: one task, one JSON object a line; what it must look like, and reading and writing files."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from bsft_jax.behaviorbench import conversations, rows, taxonomy
from bsft_jax.errors import UserError

ROLES = ('system', 'user', 'assistant')
SPLITS = ('train', 'validation', 'test')


@dataclasses.dataclass(frozen=True)
class Message:
    """One turn. `name` is the speaker; an assistant's turn may carry its own `behavior`."""

    role: str
    content: str
    name: str = ''
    behavior: str = ''


@dataclasses.dataclass(frozen=True)
class Record:
    """One task. Only `messages` is required; a pretraining record has `text` instead.

    Attributes:
      case_id: records of one case stay in one split.
      pair_id: shared by twins, which differ in one fact.
      behavior: name of the behavior that is right here.
      options, option_behaviors, answer: the choices, the behavior each stands for, the right index.
      must_mention, must_not_mention: groups of phrases, of each of which a good answer in words mentions one, or none.
        They are kept with the record; nothing scores them.
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
    options: tuple[str, ...] = ()
    option_behaviors: tuple[str, ...] = ()
    answer: int | None = None
    rationale: str = ''
    must_mention: tuple[tuple[str, ...], ...] = ()
    must_not_mention: tuple[tuple[str, ...], ...] = ()
    text: str = ''


def behavior_of(record: Record) -> str:
    """The behavior of the answer; '' where the record names none."""
    if record.behavior or record.options or not record.messages:
        return record.behavior
    return record.messages[-1].behavior


def cluster_of(fields: Mapping[str, Any]) -> str:
    """What a record, or a row of `predictions.jsonl`, must stay together with; '' where nothing names it."""
    return fields.get('case_id') or fields.get('pair_id') or fields.get('id') or ''


def option_words(option: str) -> str:
    """An option as an answer in words names it."""
    return option.strip().removesuffix('.')


def earlier_answers(record: Record) -> list[int]:
    """Places in `messages` of the assistant's turns before the answer."""
    turns = record.messages if record.options else record.messages[:-1]
    return [i for i, message in enumerate(turns) if message.role == 'assistant']


def label_of(record: Record) -> str:
    """How an error names a record: by its id, or by its first words."""
    if record.id:
        return f'record {record.id!r}'
    words = record.text or ''.join(message.content for message in record.messages[:1])
    return f'the record that begins {words[:40]!r}'


_STRINGS = ('id', 'case_id', 'pair_id', 'split', 'source', 'license', 'category', 'group', 'behavior')
_FIELDS = {field.name for field in dataclasses.fields(Record)}
_NOT_TEXT = re.compile('[\0\ud800-\udfff]')  # what a UTF-8 file of texts cannot hold, or should not


def _text(value: str, field: str, where: str) -> None:
    if found := _NOT_TEXT.search(value):
        raise UserError(f'field {field!r} holds the character U+{ord(found[0]):04X}', where=where)


def _message(value: Any, where: str) -> Message:
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
        _text(text, key, where)
    if value['role'] not in ROLES:
        raise UserError(f'role {value["role"]!r} is not one of {", ".join(ROLES)}', where=where)
    if value.get('behavior') and value['role'] != 'assistant':
        raise UserError("message field 'behavior' belongs to turns of the assistant", where=where)
    return Message(**value)


def _strings(value: Any, field: str, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(x, str) for x in value):
        raise UserError(f'field {field!r} must be a list of texts', where=where)
    for text in value:
        _text(text, field, where)
    return tuple(value)


def record_from_dict(obj: Any, where: str = 'record') -> Record:
    """Checks one JSON object, of any layout of `conversations`, and makes a Record of it.

    Raises UserError that begins with `where` and names the field.
    """
    if not isinstance(obj, dict):
        raise UserError(f'a record must be an object, got {type(obj).__name__}', where=where)
    obj = conversations.normalize(obj, where)
    if unknown := sorted(obj.keys() - _FIELDS):
        raise UserError(
            f'unknown field {unknown[0]!r}', where=where, fix='prepare --map=FILE chooses among columns'
        )
    values: dict[str, Any] = {}
    for field in (*_STRINGS, 'rationale', 'text'):
        values[field] = obj.get(field, '')
        if not isinstance(values[field], str):
            raise UserError(f'field {field!r} must be text', where=where)
        _text(values[field], field, where)
    messages = obj.get('messages', [])
    if not isinstance(messages, list):
        raise UserError("field 'messages' must be a list", where=where)
    values['messages'] = tuple(
        _message(message, f'{where}: messages[{i}]') for i, message in enumerate(messages)
    )
    last = values['messages'][-1].behavior if values['messages'] and not obj.get('options') else ''
    if last and values['behavior'] and last != values['behavior']:
        raise UserError(
            f"field 'behavior': {values['behavior']!r}, but its answer says {last!r}", where=where
        )
    if obj.get('options') and values['messages'] and values['messages'][-1].role == 'assistant':
        raise UserError(
            "field 'options': the last turn is the assistant's, which would show the answer",
            where=where,
            fix='leave that turn out',
        )
    values['hard'] = obj.get('hard', False)
    if not isinstance(values['hard'], bool):
        raise UserError("field 'hard' must be true or false", where=where)
    for field in ('options', 'option_behaviors'):
        values[field] = _strings(obj.get(field, []), field, where)
    for field in ('must_mention', 'must_not_mention'):
        groups = obj.get(field, [])
        if not isinstance(groups, list):
            raise UserError(f'field {field!r} must be a list of lists of texts', where=where)
        values[field] = tuple(_strings(group, field, where) for group in groups)
    answer = values['answer'] = obj.get('answer')
    options = values['options']
    if answer is not None:
        if isinstance(answer, bool) or not isinstance(answer, int):
            raise UserError(f"field 'answer' must be an index, got {answer!r}", where=where)
        if not 0 <= answer < len(options):
            raise UserError(
                f"field 'answer': {answer} is not an index of {len(options)} options", where=where
            )
    if options and (len(options) < 2 or len(options) > 26):
        raise UserError(f"field 'options': {len(options)} options, 2 to 26 are possible", where=where)
    words = set(map(option_words, options))
    if len(words) != len(options) or '' in words:
        raise UserError("field 'options': options must be distinct and not empty", where=where)
    behaviors = values['option_behaviors']
    if behaviors and len(behaviors) != len(options):
        raise UserError("field 'option_behaviors' must have one entry per option", where=where)
    if behaviors and answer is not None and values['behavior'] not in ('', behaviors[answer]):
        raise UserError(
            f"field 'behavior': {values['behavior']!r}, but the right option is {behaviors[answer]!r}",
            where=where,
        )
    category, group = values['category'], values['group']
    if category and category not in taxonomy.CATEGORIES:
        raise UserError(
            f"field 'category': unknown category {category!r}",
            where=where,
            fix=f'use one of {", ".join(taxonomy.CATEGORIES)}',
        )
    if category and group and taxonomy.group_of(category) != group:
        raise UserError(
            f"field 'group': {category} is {taxonomy.group_of(category)}, not {group}", where=where
        )
    if category and not group:
        values['group'] = taxonomy.group_of(category)
    if values['split'] not in ('', *SPLITS):
        raise UserError(f"field 'split': {values['split']!r} is not one of {', '.join(SPLITS)}", where=where)
    return Record(**values)


def _json(value: Any) -> Any:
    """Messages as objects and tuples as lists."""
    if isinstance(value, Message):
        return {key: text for key, text in vars(value).items() if text or key == 'content'}
    return [_json(item) for item in value] if isinstance(value, tuple) else value


def record_to_dict(record: Record) -> dict[str, Any]:
    """JSON object of a record, without empty fields."""
    return {
        name: _json(value)
        for name, value in vars(record).items()
        if value is not None and value is not False and value not in ('', ())
    }


def records_of_rows(
    found: rows.Rows, name: str, make: Callable[[Any, str], Record] = record_from_dict
) -> list[Record]:
    """Records of rows, `make` applied to each and its place.

    Raises UserError for an id that is there twice, and where there is no row, with `name` as the place.
    """
    records, seen = [], {}
    for where, obj in found:
        record = make(obj, where)
        if record.id:
            if record.id in seen:
                raise UserError(f"field 'id': {record.id!r} is also at {seen[record.id]}", where=where)
            seen[record.id] = where
        records.append(record)
    if not records:
        raise UserError('no records in it', where=name)
    return records


def read_jsonl(path: str | pathlib.Path) -> list[Record]:
    """Records of a file, one JSON object a line; raises UserError naming file, line and field."""
    return records_of_rows(rows.jsonl(path), str(path))


def write_jsonl(path: str | pathlib.Path, records: Iterable[Record]) -> None:
    """Writes records, whole or not at all."""
    path = pathlib.Path(path)
    partial = path.with_name(path.name + '.partial')
    with partial.open('w', encoding='utf-8') as file:
        for record in records:
            file.write(json.dumps(record_to_dict(record), ensure_ascii=False) + '\n')
    os.replace(partial, path)
