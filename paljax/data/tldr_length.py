"""PAL's TL;DR experiment: real pairs of summaries, and people who like them long or short.

It is built as the authors' code does (RamyaLab/pluralistic-alignment, summary_dataset_utils.py):

- Pairs are those of openai/summarize_from_feedback of which both summaries are from supervised
  policies ("sup" in the name, no "ppo").
- Seen users are the ten workers with most such pairs in its training part. Those of ranks 3, 4 and
  5, counted from 0, prefer the shorter summary, the others the longer one; of two that are equally
  long, everybody prefers the second. Nothing is left of what the workers chose.
- Unseen users are the other workers with at least 100 pairs in its validation part, 31 in all;
  22 whom the code lists prefer longer summaries, the others shorter ones.
- Ten percent of the training part are for validation; the validation part is the test.

Where we differ: the validation rows and the support rows are drawn by our own seed; every number of
support comparisons is scored on the same test rows, so that the curve compares like with like (use
`splits: {name: column}` and `evaluation.shots`); and pairs of one text are left out.

The files are on Azure and the hub has a script only, so there is no pinned repository to fetch
from: `path` names a folder that holds batch3.json and the others.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from paljax.data.dataset import Dataset, assemble
from paljax.data.source import About, Columns, Kind, Row, Source, Workplace, require_whole
from paljax.errors import UserError
from paljax.ranges import Count, PositiveInt

NUM_SEEN = 10
SHORTER_RANKS = (3, 4, 5)  # of the seen workers, by number of pairs, from 0
LEAST_PAIRS = 100  # of an unseen worker
VALIDATION = 0.1  # share of a seen worker's training pairs

# Unseen workers who prefer longer summaries, as the authors drew them.
LONGER_UNSEEN = frozenset(
    (
        "RMwrIV50cNusBthNvLs1wSNdqFpQAg",
        "M4bdOszgybjO2qg2Dth5I1GOYAvE7V",
        "gMlGeJl1vsMERrbmC7W717zpVevUh8",
        "OKFDIsAZl6Qa0m9x26f5Ao4S0uc7Ca",
        "uvzut5OK2bvei9zoCDdktcfLENYioY",
        "iL7GfrbN2PeB3KInidqSxUdxYcTZmG",
        "BYcMzzjuFgaA59QDKoAgY07PyyG0qC",
        "p7cM83bE3XsWlS9lTIvYCNfCVgOeTK",
        "rmgbTjW1stlproQnuHE2bUpK78Jxle",
        "FCzllSEpfOHCBBEJqq4VeHRQR5JdoX",
        "P2p07Up4eJyvxrrVYgwtb60krbFbxI",
        "qNGw27c8LHVPn31uJvjg3k0MZQcqQv",
        "thott7XepukYSbOL2QgSlyXd0rgHvr",
        "3AFaFd3w9NjDGnO51kupLyK1N44DQ2",
        "I2enBRrckFHw3KjJRSfKgsBwg4tmZy",
        "D8z53gLFLFqhZowaegbtxmSGa0jqv0",
        "a0nhcJKlk2aO06xuBTMkeHdx8MDY5w",
        "EeOYhWlpz7e45kXvg0RrfkjalZgkiz",
        "a7zXgbkuY6lk3vdt0q2Qf7SrZQgZ86",
        "9UQLCFxeYndGNfHEUP3yRt8XZhrrPr",
        "9YhRKOwkljIQ3NKf5CCV7BGjOcdPHu",
        "mjwVX7RHTcfOfLTYGdBvms3vy8LTtP",
    )
)

_WHERE = (
    "the comparisons of https://openaipublic.blob.core.windows.net/summarize-from-feedback/dataset/"
    "comparisons"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Where the files are, and how much is for support.

    Attributes:
        path: Folder with the upstream files batch3.json, ...
        support_per_worker: Pairs of each unseen worker that may be learned from; all others are
            scored.
        seed: Of the choice of validation and support pairs.
    """

    path: str
    support_per_worker: PositiveInt = 100
    seed: Count = 0

    def __post_init__(self) -> None:
        """Check the values."""
        least = {"support_per_worker": 1, "seed": 0}
        for name, smallest in least.items():
            require_whole("tldr_length", name, getattr(self, name), least=smallest)


class _Pair(NamedTuple):
    """A pair of summaries by supervised policies, as upstream has it."""

    worker: str | None
    post: str | None
    left: str | None
    right: str | None
    training: bool


def _features(options: Options) -> dict[str, Kind]:
    names = ("user_id", "prompt", "chosen", "rejected", "split", "group")
    return dict.fromkeys(names, str)


def _rows(options: Options, place: Workplace) -> Sequence[Row]:
    pairs = [pair for path in _batches(options) for pair in _read(path)]
    counts = Counter(pair.worker for pair in pairs if pair.training and pair.worker)
    seen = [worker for worker, _ in counts.most_common(NUM_SEEN)]
    if len(seen) < NUM_SEEN:
        raise UserError(
            f"tldr_length: {options.path}: {len(seen)} workers have training pairs of supervised "
            f"policies, wanted {NUM_SEEN}; are all batches there?"
        )
    shorter = {seen[rank] for rank in SHORTER_RANKS}
    joining = Counter(
        pair.worker
        for pair in pairs
        if not pair.training and pair.worker and pair.worker not in seen
    )
    unseen = [worker for worker, count in joining.items() if count >= LEAST_PAIRS]
    shorter |= set(unseen) - LONGER_UNSEEN
    rows: list[Row] = []
    for number, worker in enumerate((*seen, *unseen)):
        generator = np.random.default_rng([options.seed, number])
        mine = [pair for pair in pairs if pair.worker == worker]
        held = [pair for pair in mine if not pair.training]
        if worker in seen:
            taught = [pair for pair in mine if pair.training]
            parts = {"validation": VALIDATION * len(taught), "train": len(taught)}
            rows += _labelled(taught, parts, worker in shorter, generator)
            rows += _labelled(held, {"test": len(held)}, worker in shorter, generator)
        else:
            complete = [pair for pair in held if None not in pair]
            if len(complete) <= options.support_per_worker:
                raise UserError(
                    f"tldr_length: support_per_worker {options.support_per_worker} leaves nothing "
                    f"to score of worker {worker!r}, who has {len(complete)} pairs"
                )
            parts = {"support": options.support_per_worker, "test": len(complete)}
            rows += _labelled(complete, parts, worker in shorter, generator)
    return rows


def _labelled(
    pairs: Sequence[_Pair],
    upto: dict[str, float],
    shorter: bool,
    generator: np.random.Generator,
) -> Iterator[Row]:
    """Rows in random order; a part reaches up to its number of pairs, the last to the end."""
    for place, number in enumerate(generator.permutation(len(pairs))):
        worker, post, left, right, _ = pairs[number]
        if worker is None or post is None or left is None or right is None:
            continue
        first = len(left) < len(right) if shorter else len(left) > len(right)
        chosen, rejected = (left, right) if first else (right, left)
        yield {
            "user_id": worker,
            "prompt": f"Human: {post} Assistant:",
            "chosen": f" {chosen}",
            "rejected": f" {rejected}",
            "split": next(part for part, end in upto.items() if place < end),
            "group": "shorter" if shorter else "longer",
        }


def _batches(options: Options) -> list[Path]:
    paths = sorted(
        Path(options.path).glob("batch*.json"),
        key=lambda path: (len(path.name), path.name),  # batch3 before batch10
    )
    if not paths:
        raise UserError(f"tldr_length: {options.path} holds no batch*.json; wanted {_WHERE}")
    return paths


def _read(path: Path) -> Iterator[_Pair]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            left, right = record["summaries"]
            policies = left["policy"], right["policy"]
            if all("sup" in policy and "ppo" not in policy for policy in policies):
                yield _Pair(
                    worker=record["worker"],
                    post=record["info"].get("post"),  # news articles have none
                    left=left["text"],
                    right=right["text"],
                    training=record["split"] == "train",
                )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path}: line {number}: is no comparison of summarize_from_feedback "
                f"({type(error).__name__}: {error})"
            ) from None


def _fingerprint(options: Options) -> str:
    states = [(path.name, path.stat()) for path in _batches(options)]
    return json.dumps([(name, state.st_size, state.st_mtime_ns) for name, state in states])


def _dataset(columns: Columns, options: Options, folder: Path) -> Dataset:
    differ = np.array([a != b for a, b in zip(columns["chosen"], columns["rejected"], strict=True)])
    kept: dict[str, Any] = {
        name: [value for value, keep in zip(values, differ, strict=True) if keep]
        for name, values in columns.items()
    }
    equal = int((~differ).sum())
    return assemble(**kept, dropped={"chosen equals rejected": equal} if equal else {})


SOURCE = Source(
    name="tldr_length",
    version="1.0.0",
    about=About(
        description=(
            "Pairs of summaries of Reddit posts by supervised policies, labelled by length for"
            " workers who prefer longer or shorter ones: the TL;DR experiment of PAL."
        ),
        homepage="https://huggingface.co/datasets/openai/summarize_from_feedback",
        citation="""\
@inproceedings{stiennon2020learning,
  title = {Learning to Summarize from Human Feedback},
  author = {Stiennon, Nisan and Ouyang, Long and Wu, Jeff and Ziegler, Daniel M. and Lowe, Ryan and
            Voss, Chelsea and Radford, Alec and Amodei, Dario and Christiano, Paul},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2020}
}
@inproceedings{chen2025pal,
  title = {{PAL}: Sample-Efficient Personalized Reward Modeling for Pluralistic Alignment},
  author = {Chen, Daiwei and Chen, Yi and Rege, Aniket and Wang, Zhi and
            Vinayak, Ramya Korlakai},
  booktitle = {The Thirteenth International Conference on Learning Representations},
  year = {2025}
}
""",
        license="Modified MIT (comparisons), CC BY 4.0 (posts)",
    ),
    options=Options,
    features=_features,
    rows=_rows,
    dataset=_dataset,
    fingerprint=_fingerprint,
)
