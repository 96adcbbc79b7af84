"""Harm ratings of 150 prompts by 100 people, from 0 (not harmful at all) to 100.

A rating is a vote: of two prompts a person finds the one with the higher rating more harmful, so
the reward that is learned is perceived harm. "Unsure" is a pass. `paljax.data.votes_to_pairs` forms
the pairs inside each part of a split.
"""

import csv
import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from paljax.data.dataset import Dataset, assemble_votes
from paljax.data.source import About, Columns, Kind, Row, Source, Workplace, require_choice
from paljax.data.upstream import UpstreamFile

_REPOSITORY = "guldenakkuss/PluriHarms-release"
_COMMIT = "358423c591f4b580442dd8a4b80e6127b3a71a61"
PROMPTS = UpstreamFile(
    _REPOSITORY,
    _COMMIT,
    "data/prompts.csv",
    "6876bfbef5c7951a9e7344b52fef407a2675cf5d3c7566a221b76a1b76aa9a25",
)
ANNOTATIONS = UpstreamFile(
    _REPOSITORY,
    _COMMIT,
    "data/annotations.csv",
    "209229b4f215572f6968ec24d1310d0c2c4055b58246f1c5051bd1804b2171df",
)

# What people said of themselves, as upstream names it.
GROUPS = (
    "Political_Affiliation",
    "Race_Ethnicity",
    "Gender",
    "Sexual_Orientation",
    "Age",
    "Education",
    "Religion_Importance",
    "Social_Media_Frequency",
    "Toxicity_Experience",
    "Income",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """How people are grouped.

    Attributes:
        group: One of GROUPS.
    """

    group: str = GROUPS[0]

    def __post_init__(self) -> None:
        """Check the values."""
        require_choice("pluriharms", "group", self.group, GROUPS)


def _features(options: Options) -> dict[str, Kind]:
    return {"user_id": str, "group": str, "prompt": [str], "rating": [np.float32]}


def _rows(options: Options, place: Workplace) -> Iterator[Row]:
    prompts, annotations = place.find(PROMPTS), place.find(ANNOTATIONS)
    return _people(_table(prompts), _table(annotations), options.group)


def _people(
    prompts: Sequence[dict[str, str]], annotations: Sequence[dict[str, str]], group: str
) -> Iterator[Row]:
    """A row a person; NaN is "unsure"."""
    for person in annotations:
        ratings = [person[f"Rating_{prompt['Question_Index']}"] for prompt in prompts]
        yield {
            "user_id": person["Participant_ID"],
            "group": person[group].strip(),
            "prompt": [prompt["Question_Content"] for prompt in prompts],
            "rating": [float(rating) if rating else math.nan for rating in ratings],
        }


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _dataset(columns: Columns, options: Options, folder: Path) -> Dataset:
    counts = [len(prompts) for prompts in columns["prompt"]]
    return assemble_votes(
        np.repeat(columns["user_id"], counts).tolist(),
        [prompt for prompts in columns["prompt"] for prompt in prompts],
        np.concatenate([np.array(ratings, np.float32) for ratings in columns["rating"]]),
        group=np.repeat(columns["group"], counts).tolist(),
        facts={"group": options.group},
    )


SOURCE = Source(
    name="pluriharms",
    version="1.0.0",
    about=About(
        description=(
            "Harm ratings of 150 prompts to an AI by 100 people, from 0 to 100; one row for each"
            " person."
        ),
        homepage="https://github.com/guldenakkuss/PluriHarms-release",
        citation="""\
@inproceedings{li2026pluriharms,
  title = {PluriHarms: Benchmarking the Full Spectrum of Human Judgments on AI Harm},
  author = {Li, Jing-Jing and Mire, Joel and Fleisig, Eve and Pyatkin, Valentina and
            Collins, Anne and Sap, Maarten and Levine, Sydney},
  booktitle = {International Conference on Learning Representations (ICLR)},
  year = {2026}
}
""",
        license="MIT",
    ),
    options=Options,
    features=_features,
    rows=_rows,
    dataset=_dataset,
)
