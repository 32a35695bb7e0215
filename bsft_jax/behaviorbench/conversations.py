"""Conversations as other projects write them → the `messages` of a record.

Three layouts beside the repository's own: `prompt` and `completion` (texts, or lists of messages), and
ShareGPT's `conversations` with turns `{"from": …, "value": …}` and an optional `system` text.
"""

from __future__ import annotations

from typing import Any

from bsft_jax.errors import UserError

LAYOUTS = ('messages', 'text', 'prompt', 'conversations')
SPEAKERS = {  # of ShareGPT → roles
    'system': 'system',
    'human': 'user',
    'user': 'user',
    'gpt': 'assistant',
    'chatgpt': 'assistant',
    'assistant': 'assistant',
    'model': 'assistant',
}


def normalize(obj: dict[str, Any], where: str) -> dict[str, Any]:
    """A row of any layout as a record's object; fields that are null are left out, everywhere.

    A row with `messages` or `text` stays as it is. The other fields of a row are not looked at.

    Raises UserError that begins with `where` for a row of no layout or of two, and for a turn that
    is not one.
    """
    try:
        obj = _without_nulls(obj)
    except RecursionError as error:
        raise UserError('nested too deep for a record', where=where) from error
    found = [layout for layout in LAYOUTS if obj.get(layout)]
    if 'completion' in obj and 'prompt' not in obj:
        raise UserError("field 'prompt' is missing beside 'completion'", where=where)
    if len(found) != 1:
        raise UserError(
            f"exactly one of 'messages' and 'text' (or 'prompt' or 'conversations') must be given, "
            f'got {" and ".join(found) or "none"}',
            where=where,
        )
    if found == ['prompt']:
        obj['messages'] = _prompt_and_completion(obj.pop('prompt'), obj.pop('completion', []), where)
    elif found == ['conversations']:
        obj['messages'] = _sharegpt(obj.pop('conversations'), obj.pop('system', ''), where)
    return obj


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _prompt_and_completion(prompt: Any, completion: Any, where: str) -> list[Any]:
    parts = {'prompt': ('user', prompt), 'completion': ('assistant', completion)}
    messages: list[Any] = []
    for field, (role, part) in parts.items():
        if isinstance(part, str):
            part = [{'role': role, 'content': part}]
        if not isinstance(part, list):
            raise UserError(f'field {field!r} must be text or a list of messages', where=where)
        if field == 'completion' and any(not isinstance(m, dict) or m.get('role') != role for m in part):
            raise UserError("field 'completion' must hold turns of the assistant alone", where=where)
        messages += part
    return messages


def _sharegpt(turns: Any, system: Any, where: str) -> list[dict[str, Any]]:
    if not isinstance(turns, list):
        raise UserError("field 'conversations' must be a list", where=where)
    messages: list[dict[str, Any]] = [{'role': 'system', 'content': system}] if system else []
    for i, turn in enumerate(turns):
        place = f'{where}: conversations[{i}]'
        if not isinstance(turn, dict):
            raise UserError(f'a turn must be an object, got {type(turn).__name__}', where=place)
        for key in ('from', 'value'):
            if key not in turn:
                raise UserError(f'turn field {key!r} is missing', where=place)
        speaker = turn['from']
        if not isinstance(speaker, str) or speaker not in SPEAKERS:
            raise UserError(
                f'speaker {speaker!r} is not one of {", ".join(SPEAKERS)}',
                where=place,
                fix="the name of a person goes into the turn's field 'name'",
            )
        rest = {key: value for key, value in turn.items() if key not in ('from', 'value')}
        messages.append({'role': SPEAKERS[speaker], 'content': turn['value'], **rest})
    return messages
