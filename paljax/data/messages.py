"""Chat messages as items: how they are written down, and what is read of an item.

Items are told apart by what is written down, which keeps every role. What looks at texts looks at
what is read: a message that stands alone is its content, as if it had been given as plain text.
"""

import json
from collections.abc import Sequence
from typing import Any

_JSON = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"))
_START = '[{"content":'


def is_messages(value: Any) -> bool:
    """Whether a value is a list, not empty, of {'role': text, 'content': text}."""
    return type(value) is list and len(value) > 0 and all(map(_is_message, value))


def written(messages: Sequence[dict[str, str]]) -> str:
    """Messages as an item: JSON text with sorted keys and no spaces."""
    return _JSON.encode(messages)


def as_read(item: str) -> str:
    """What is read of an item.

    Args:
        item: A text, or messages as `written` writes them.

    Returns:
        A text as it is; of one message its content, whoever speaks; of several a paragraph each,
        which opens with who speaks.

    Example:
        >>> as_read(written([{"role": "assistant", "content": "Tea."}]))
        'Tea.'
    """
    if not item.startswith(_START):
        return item
    try:
        messages = json.loads(item)
    except (ValueError, RecursionError):
        return item
    if not is_messages(messages) or written(messages) != item:
        return item
    if len(messages) == 1:
        return str(messages[0]["content"])
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)


def _is_message(value: Any) -> bool:
    return (
        type(value) is dict
        and value.keys() == {"role", "content"}
        and all(type(text) is str for text in value.values())
    )
