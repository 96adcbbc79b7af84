"""What is wrong with a configuration, in one line that names the key and the valid choice."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from paljax.errors import nearest


def first_mistake(error: ValidationError, record: Mapping[str, Any], root: type[BaseModel]) -> str:
    """Tell the first mistake: the key, the value, and what was wanted.

    Args:
        error: What pydantic found.
        record: What the user gave.
        root: The section that was wanted.

    Returns:
        One line, without the file's name.
    """
    first = error.errors()[0]
    location = _keys_in(first["loc"], record)
    key = ".".join(str(part) for part in location)
    kind, given, context = first["type"], first["input"], first.get("ctx", {})
    if kind == "extra_forbidden":
        section = _sections_at(location[:-1], record, root)
        valid = sorted({field for kind in section for field in kind.model_fields})
        return f"unknown key {key!r}; {nearest(location[-1], valid)}"
    if kind == "missing":
        return f"key {key!r} is missing"
    if kind == "union_tag_not_found":
        names = [kind.model_fields["name"].default for kind in _sections_at(location, record, root)]
        return f"key '{key}.name' is missing; {nearest('', names)}"
    if kind == "union_tag_invalid":
        names = re.findall(r"'([^']*)'", context["expected_tags"])
        return f"{key}.name: unknown {context['tag']!r}; {nearest(context['tag'], names)}"
    if kind == "literal_error":
        names = re.findall(r"'([^']*)'", context["expected"])
        return f"{key}: {given!r} is not known; {nearest(given, names)}"
    if kind == "value_error":
        return str(context["error"])
    if kind in ("model_type", "model_attributes_type"):
        return f"{key}: {given!r} is wrong: wanted a section with keys of its own"
    return f"{key}: {given!r} is wrong: {first['msg'][0].lower()}{first['msg'][1:]}"


def _keys_in(location: Sequence[int | str], record: Mapping[str, Any]) -> list[int | str]:
    """The user's keys in pydantic's location, which also names the members of unions."""
    keys: list[int | str] = []
    here: Any = record
    for place, part in enumerate(location):
        if isinstance(here, (dict, list)) and (
            part in here if isinstance(here, dict) else isinstance(part, int)
        ):
            here = here[part]  # type: ignore[index]
            keys.append(part)
        elif place == len(location) - 1 and isinstance(here, dict):
            keys.append(part)  # a key that is missing
    return keys


def _sections_at(
    location: Sequence[int | str], record: Mapping[str, Any], root: type[BaseModel]
) -> list[type[BaseModel]]:
    """Sections that the configuration may have at a location, by `name` where the user gave one."""
    sections = [root]
    here: Any = record
    for part in location:
        here = here[part]
        if isinstance(part, str):
            fields = [
                section.model_fields[part] for section in sections if part in section.model_fields
            ]
            sections = [kind for field in fields for kind in _sections_in(field.annotation)]
    name = here.get("name") if isinstance(here, dict) else None
    named = [
        section
        for section in sections
        if name is not None and "name" in section.model_fields
        if section.model_fields["name"].default == name
    ]
    return named or sections


def _sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _sections_in(argument)
