"""Converts the chat layouts of other projects to the `messages` of a record.

Accepted beside the repository's own are `prompt` and `completion` (texts, or lists of messages),
and ShareGPT's `conversations` with turns `{"from": ..., "value": ...}`, both with an optional
`system` text.
"""

from __future__ import annotations

from typing import Any

from bsft_jax.errors import UserError

# Each layout is recognized by this field.
LAYOUTS = ('messages', 'text', 'prompt', 'conversations')

# ShareGPT's speakers → roles.
SHAREGPT_ROLES = {
    'system': 'system',
    'human': 'user',
    'user': 'user',
    'gpt': 'assistant',
    'chatgpt': 'assistant',
    'assistant': 'assistant',
    'model': 'assistant',
}


def normalize_layout(obj: dict[str, Any], where: str) -> dict[str, Any]:
    """Converts an object of any layout to one with `messages` or `text`.

    Fields that are null are left out, at every depth. An object with `messages` or `text` is
    otherwise unchanged, and fields that belong to no layout are not looked at.

    Raises:
      UserError: for an object of no layout or of two, and for a malformed turn. Its message begins
        with `where`.
    """
    try:
        obj = _without_nulls(obj)
    except RecursionError as error:
        raise UserError('nested too deep for a record', where=where) from error
    layouts = [layout for layout in LAYOUTS if obj.get(layout)]
    if 'completion' in obj and 'prompt' not in obj:
        raise UserError("field 'prompt' is missing beside 'completion'", where=where)
    if len(layouts) != 1:
        raise UserError(
            f"exactly one of 'messages' and 'text' (or 'prompt' or 'conversations') must be given, "
            f'got {" and ".join(layouts) or "none"}',
            where=where,
            fix='' if layouts else 'prepare --map=FILE says which columns are which',
        )
    if layouts == ['prompt']:
        messages = _messages_of_prompt(obj.pop('prompt'), obj.pop('completion', []), where)
    elif layouts == ['conversations']:
        messages = _messages_of_sharegpt(obj.pop('conversations'), where)
    else:
        return obj
    if system := obj.pop('system', ''):
        if any(isinstance(turn, dict) and turn.get('role') == 'system' for turn in messages):
            raise UserError("field 'system': the messages have a system turn", where=where)
        messages = [{'role': 'system', 'content': system}, *messages]
    return obj | {'messages': messages}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _messages_of_prompt(prompt: Any, completion: Any, where: str) -> list[Any]:
    messages: list[Any] = []
    for field, role, turns in (
        ('prompt', 'user', prompt),
        ('completion', 'assistant', completion),
    ):
        if isinstance(turns, str):
            turns = [{'role': role, 'content': turns}]
        if not isinstance(turns, list):
            raise UserError(f'field {field!r} must be text or a list of messages', where=where)
        # A prompt may hold earlier answers; a completion holds nothing but the answer.
        if field == 'completion' and any(
            not isinstance(turn, dict) or turn.get('role') != role for turn in turns
        ):
            raise UserError(
                "field 'completion' must hold turns of the assistant alone", where=where
            )
        messages += turns
    return messages


def _messages_of_sharegpt(turns: Any, where: str) -> list[dict[str, Any]]:
    if not isinstance(turns, list):
        raise UserError("field 'conversations' must be a list", where=where)
    messages: list[dict[str, Any]] = []
    for i, turn in enumerate(turns):
        turn_where = f'{where}: conversations[{i}]'
        if not isinstance(turn, dict):
            raise UserError(
                f'a turn must be an object, got {type(turn).__name__}', where=turn_where
            )
        for key in ('from', 'value'):
            if key not in turn:
                raise UserError(f'turn field {key!r} is missing', where=turn_where)
        speaker = turn['from']
        if not isinstance(speaker, str) or speaker not in SHAREGPT_ROLES:
            raise UserError(
                f'speaker {speaker!r} is not one of {", ".join(SHAREGPT_ROLES)}',
                where=turn_where,
                fix="the name of a person goes into the turn's field 'name'",
            )
        rest = {key: value for key, value in turn.items() if key not in ('from', 'value')}
        messages.append({'role': SHAREGPT_ROLES[speaker], 'content': turn['value'], **rest})
    return messages
