"""Writes records as the messages of a chat server, which has a template of its own."""

from __future__ import annotations

import dataclasses

from bsft_jax.data.rendering import STEM, answer_text, prompt_messages
from bsft_jax.records.record import Record

REQUEST = f'Begin your answer with "{STEM} X.", where X is the letter of one option.'


@dataclasses.dataclass(frozen=True)
class ChatWriter:
    """Writes prompts as `Renderer` does, up to the chat template.

    Attributes:
      asks_for_letter: whether the last turn of the user ends with REQUEST.
    """

    asks_for_letter: bool = False

    @property
    def writes_system_turns(self) -> bool:
        """Returns True: what a server does with them is not known here."""
        return True

    def answer_text(self, record: Record) -> str:
        """Returns the answer of a solved record, which names its option by the letter."""
        return answer_text(record)

    def messages(self, record: Record) -> list[dict[str, str]]:
        """Returns the messages that ask a record: `{role, content}` each.

        The name of a speaker begins the content, since few servers show a field of its own.

        Raises UserError for a record without anything to answer.
        """
        messages = [
            {
                'role': turn.role,
                'content': f'{turn.name}: {turn.content}' if turn.name else turn.content,
            }
            for turn in prompt_messages(record)
        ]
        if self.asks_for_letter:
            last = max(i for i, turn in enumerate(messages) if turn['role'] == 'user')
            messages[last]['content'] += f'\n\n{REQUEST}'
        return messages
