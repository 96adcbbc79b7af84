"""Prompts of a policy run in a file, and the part of them that is held out."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from paljax.errors import UserError, nearest

SUFFIXES = (".jsonl", ".txt")
_KEY = "prompt"


class PromptTexts(NamedTuple):
    """Prompts of a run."""

    train: tuple[str, ...]
    evaluation: tuple[str, ...]  # of these none is trained on, unless nothing is held out


def read_prompts(path: Path) -> dict[str, int]:
    """Read prompts: the key `prompt` of JSON lines, or the lines of a text file.

    Returns:
        The distinct prompts, each with the number of the line that it first stands in.

    Raises:
        UserError: If the file can't be read, is empty, or a prompt is; the line is named.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(
            f"{path}: unknown kind of prompts {path.suffix!r}; {nearest(path.suffix, SUFFIXES)}"
        )
    try:
        # Lines are what an editor counts: `splitlines` would part them at other characters, too.
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8") from None
    prompts: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            prompts.setdefault(_prompt(line, f"{path}: line {number}", path.suffix), number)
    if not prompts:
        raise UserError(f"{path}: there are no prompts in it")
    return prompts


def hold_out(prompts: Iterable[str], share: float, *, seed: int) -> PromptTexts:
    """Put a share of the distinct prompts aside, one at least; of a share of 0, evaluate on all.

    Raises:
        UserError: If the share leaves nothing to train on.
    """
    distinct = list(dict.fromkeys(prompts))
    order = np.random.default_rng(seed).permutation(len(distinct))
    count = max(round(share * len(distinct)), share > 0)
    if count == len(distinct):
        raise UserError(
            f"prompts.held_out: {share} leaves none of {len(distinct)} prompts to train on; give "
            "more prompts, or 0, which evaluates on those that are trained on"
        )
    mixed = tuple(distinct[place] for place in order)
    return PromptTexts(mixed[count:], mixed[:count] or mixed)


def _prompt(line: str, where: str, suffix: str) -> str:
    if suffix == ".txt":
        return line
    try:
        record = json.loads(line)
    except ValueError:
        raise UserError(f"{where}: is no JSON") from None
    if not isinstance(record, dict) or _KEY not in record:
        raise UserError(f"{where}: has no key {_KEY!r}")
    prompt = record[_KEY]
    if not isinstance(prompt, str) or not prompt.strip():
        raise UserError(f"{where}: {_KEY} is {prompt!r}; wanted a text")
    return prompt
