"""Read a configuration: YAML, overrides, every key checked, mistakes told in one line."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from paljax.config.mistakes import first_mistake
from paljax.config.policy import PolicyConfig
from paljax.config.reward import Config
from paljax.config.stream import StreamConfig
from paljax.errors import UserError, nearest

RunConfig = Config | PolicyConfig | StreamConfig
STAGES: Mapping[str, type[RunConfig]] = {
    "reward": Config,
    "policy": PolicyConfig,
    "stream": StreamConfig,
}


def load(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a configuration file.

    Args:
        path: A YAML file.
        overrides: `key.path=value`, each replacing or adding one value; the value is YAML.

    Returns:
        The checked configuration.

    Raises:
        UserError: If the file can't be read or a key or value is wrong; the message names the key,
            the value and the nearest valid choice.
    """
    record = read_yaml(path)
    for override in overrides:
        _apply(record, override)
    return parse(record, where=str(path))


def parse(record: Mapping[str, Any], *, where: str) -> RunConfig:
    """Check a configuration that is already a mapping; `where` names it in errors."""
    stage = record.get("stage", "reward")
    if stage not in STAGES:
        raise UserError(f"{where}: stage: {stage!r} is not known; {nearest(stage, STAGES)}")
    try:
        return STAGES[stage].model_validate(record)
    except ValidationError as error:
        raise UserError(f"{where}: {first_mistake(error, record, STAGES[stage])}") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping; a key that is given twice is an error."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder, wanted a YAML file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}") from None
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror})") from None
    try:
        record = yaml.load(text, _StrictLoader)
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {_yaml_problem(error)}") from None
    if record is None:
        raise UserError(f"{path}: is empty, wanted keys and values")
    if not isinstance(record, dict):
        raise UserError(f"{path}: wanted keys and values, found {type(record).__name__}")
    return record


def _yaml_problem(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem and error.problem_mark:
        return f"{error.problem} (line {error.problem_mark.line + 1})"
    return " ".join(str(error).split())


class _StrictLoader(yaml.SafeLoader):
    """YAML without repeated keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for place, key in enumerate(keys):
            if key in keys[:place]:
                line = node.value[place][0].start_mark.line + 1
                raise yaml.YAMLError(f"key {key!r} is given twice (line {line})")
        return super().construct_mapping(node, deep)


def _apply(record: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise UserError(f"override {override!r}: wanted key.path=value")
    try:
        value = yaml.load(text, _StrictLoader)
    except yaml.YAMLError as error:
        raise UserError(f"override {override!r}: not YAML: {_yaml_problem(error)}") from None
    here: Any = record
    for depth, key in enumerate(keys):
        if isinstance(here, list):
            if not key.isdecimal() or int(key) >= len(here):
                raise UserError(
                    f"override {override!r}: {'.'.join(keys[:depth])} is a list of {len(here)}; "
                    f"{key!r} is no place in it"
                )
            key = int(key)  # type: ignore[assignment]
        elif not isinstance(here, dict):
            raise UserError(f"override {override!r}: {'.'.join(keys[:depth])} has no keys")
        if depth == len(keys) - 1:
            here[key] = value
        elif isinstance(here, list):
            here = here[key]  # type: ignore[call-overload]
        else:
            if here.get(key) is None:
                here[key] = {}
            here = here[key]
