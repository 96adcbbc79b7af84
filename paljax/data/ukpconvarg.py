"""Which of two arguments convinces you more: crowd workers on 24 sides of 12 online debates.

Both arguments of a pair take the same side. A worker found one of them more convincing, or both
equally so, which is a tie. Some workers were asked for their own stance in the debate; it is their
group. A debate is a topic, so that both of its sides are held out together.

The corpus has 32 sides; the files that are pinned here are 24 of them.
"""

import dataclasses
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from paljax.data.dataset import Dataset, assemble
from paljax.data.source import (
    About,
    Columns,
    Kind,
    Row,
    Source,
    Workplace,
    require_whole,
)
from paljax.data.upstream import UpstreamFile
from paljax.errors import UserError
from paljax.ranges import PositiveInt

REPOSITORY = "UKPLab/acl2016-convincing-arguments"
COMMIT = "ca9d24e41b8805ff2e1d3585d552b49bb64a65f7"
FOLDER = "data/UKPConvArg1-full-XML"
NOT_ASKED = "unknown"  # the stance of a worker who was not asked

# SHA-256 of every side's file, by its name without .xml.
SIDES = {
    "ban-plastic-water-bottles_no-bad-for-the-economy": (
        "27a58eed6877749b6cb7337691438a11b0b02aca21c3d2313a751fcc684bc9a2"
    ),
    "ban-plastic-water-bottles_yes-emergencies-only": (
        "2e0a9e3400484f06f23a1ec45af1c1b0fa5c1621ea787d5db337a6c4e8e4d182"
    ),
    "christianity-or-atheism-_atheism": (
        "030d9c1966555c8e9f5a182bec8a7beb74fe5c20820e1d264944000c93e9b439"
    ),
    "christianity-or-atheism-_christianity": (
        "0562624bf8e079c4132730bd5c0d57202662157ab10370164b31bb52acacbdff"
    ),
    "evolution-vs-creation_creation": (
        "61a0fdde8d1bab2cf2b674526f20cbf7a4564861062225cdf4540f5cf8d4102f"
    ),
    "evolution-vs-creation_evolution": (
        "eb783caaa65bc4660bda8ee8e303d64d895e8dd6bfdcda71a6b1c9c21e188504"
    ),
    "firefox-vs-internet-explorer_it-has-a-cute-logo-oh-and-extensions-err-add-ons": (
        "7d8e9241900c120970f11aad23daa23fa8b2baf937d3f48f4f0568f8a93ea14a"
    ),
    "firefox-vs-internet-explorer_there-s-more-browsers-than-the-ie-firefox-is-an-animal": (
        "3b712e9bf9bec5454f3039d9dae38999dca25f5b27230e992d9b6dc5a88b0f8a"
    ),
    "gay-marriage-right-or-wrong_allowing-gay-marriage-is-right": (
        "b9cf264e41eab6ea07af741199a0b3861c5e95c75d947264748fadb0164cf24d"
    ),
    "gay-marriage-right-or-wrong_allowing-gay-marriage-is-wrong": (
        "177f52333cb8df1a854c3b2095cabe6dedc172b51d5e48cbf42270f0b4d5a4fc"
    ),
    "human-growth-and-development-should-parents-use-spanking-as-an-option-to-discipline-_no": (
        "20e3033858d60f9247ea01e6d4c84f38ad6720d3256316445c7643d7ff8f5846"
    ),
    "human-growth-and-development-should-parents-use-spanking-as-an-option-to-discipline-_yes": (
        "480139e39272fb2f66f7f3894559e1970cddc14e4b502bbfd9648efae8d22160"
    ),
    "if-your-spouse-committed-murder-and-he-or-she-confided-in-you-would-you-turn-them-in-_no": (
        "10e290e275d38aaf1e8281af6fbf10d71ed7bfe73ceb72a2e25b880c5f850fb1"
    ),
    "if-your-spouse-committed-murder-and-he-or-she-confided-in-you-would-you-turn-them-in-_yes": (
        "43d7ab10c927d84eb34f374b97e5f2e65fc0cc868084637cf03ab747227ce9d1"
    ),
    "is-it-better-to-have-a-lousy-father-or-to-be-fatherless-_fatherless": (
        "ef6826183e785d103f4cad043d84187a0db901a2b5ac7f3fc36cb0ad11eddf39"
    ),
    "is-it-better-to-have-a-lousy-father-or-to-be-fatherless-_lousy-father": (
        "869e56198773bcf9f936df1c292b8c68c8f71005457639f20bcc0e2cd4c24b36"
    ),
    "is-porn-wrong-_no-is-is-not": (
        "a9dad3a0fb4fc5b2c8ac86b889f9822ca0eb74b325327e26a52e4fb3e8199072"
    ),
    "is-porn-wrong-_yes-porn-is-wrong": (
        "454c18c589cdc726239e670887e5eca73fbe04d31506cb48b516b086f16b03e6"
    ),
    "personal-pursuit-or-advancing-the-common-good-_advancing-the-comnong-good": (
        "cebbdddb277b941a5d26577b21b5fd2898b3b1c17079d2d05000ca1f1f96a5f1"
    ),
    "personal-pursuit-or-advancing-the-common-good-_personal-pursuit": (
        "a974bef3814eb1a83c1376bec689f6146ad3f4fc0a036da6885938d997c9c08f"
    ),
    "pro-choice-vs-pro-life_pro-choice": (
        "4a09892fa7e8ea55321f0cf09c3e898ce32ed0078e1bb6f0991c90d06bbcc7e8"
    ),
    "pro-choice-vs-pro-life_pro-life": (
        "c2c72cb3b32073d84b68ea9226d5fc208ec34af72169554d55299d31a319b7a3"
    ),
    "william-farquhar-ought-to-be-honoured-as-the-rightful-founder-of-singapore_no-it-is-raffles-": (  # noqa: E501
        "d306d44dec62268401cca39ba39bf0c22789b223726b8ec2e5954eea988c18a8"
    ),
    "william-farquhar-ought-to-be-honoured-as-the-rightful-founder-of-singapore_yes-of-course-": (
        "a57e14dd4b83525534d102e718058a369c56f3067ad2525edb3b44612471129d"
    ),
}

UPSTREAM = tuple(
    UpstreamFile(REPOSITORY, COMMIT, f"{FOLDER}/{side}.xml", digest)
    for side, digest in SIDES.items()
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Which answers.

    Attributes:
        least_per_worker: Workers with fewer answers, ties counted, are left out.
    """

    least_per_worker: PositiveInt = 1

    def __post_init__(self) -> None:
        """Check the values."""
        require_whole("ukpconvarg", "least_per_worker", self.least_per_worker, least=1)


def _features(options: Options) -> dict[str, Kind]:
    return {
        "debate": str,
        "side": str,
        "argument1": str,
        "argument2": str,
        "worker": [str],
        "answer": [str],
        "worker_stance": [str],
        "time": [np.int64],  # a float would be stored in single precision
    }


def _rows(options: Options, place: Workplace) -> Iterator[Row]:
    return _argument_pairs([place.find(file) for file in UPSTREAM])


def _argument_pairs(paths: Sequence[Path]) -> Iterator[Row]:
    for path in paths:
        for pair in ET.parse(path).getroot():
            answers = pair.findall("mTurkAssignments/mTurkAssignment")
            yield {
                "debate": _text(pair, "debateMetaData/title"),
                "side": _text(pair, "arg1/stance"),
                "argument1": _text(pair, "arg1/text"),
                "argument2": _text(pair, "arg2/text"),
                "worker": [_text(answer, "turkID") for answer in answers],
                "answer": [_text(answer, "value") for answer in answers],
                "worker_stance": [
                    answer.findtext("workerStance") or NOT_ASKED for answer in answers
                ],
                "time": [_seconds(_text(answer, "assignmentSubmitTime")) for answer in answers],
            }


def _text(element: ET.Element, path: str) -> str:
    text = element.findtext(path)
    assert text, f"{path} is missing in a file whose SHA-256 is right"
    return text


def _seconds(time: str) -> int:
    """Seconds since 1970 of a time as 2016-01-31 16:53:19.0 UTC."""
    moment = datetime.fromisoformat(time.removesuffix(" UTC")).replace(tzinfo=UTC)
    return int(moment.timestamp())


def _dataset(columns: Columns, options: Options, folder: Path) -> Dataset:
    counts = Counter(worker for workers in columns["worker"] for worker in workers)
    if max(counts.values()) < options.least_per_worker:
        raise UserError(
            f"ukpconvarg: least_per_worker {options.least_per_worker} leaves nobody; no worker has "
            f"more than {max(counts.values())} answers"
        )
    rows: dict[str, Any] = {
        name: [] for name in ("user_id", "chosen", "rejected", "prompt", "group", "topic")
    }
    ties: list[bool] = []
    times: list[float] = []
    dropped: Counter[str] = Counter()
    for debate, side, one, other, *answers in zip(*columns.values(), strict=True):
        for worker, answer, stance, time in zip(*answers, strict=True):
            if counts[worker] < options.least_per_worker:
                dropped["fewer than least_per_worker"] += 1
            elif one == other:
                dropped["chosen equals rejected"] += 1
            else:
                chosen, rejected = (other, one) if answer == "a2" else (one, other)
                values = (worker, chosen, rejected, f"{debate} ({side})", stance, debate)
                for column, value in zip(rows.values(), values, strict=True):
                    column.append(value)
                ties.append(answer == "equal")
                times.append(float(time))
    return assemble(**rows, tie=ties, timestamp=times, dropped=dropped)


SOURCE = Source(
    name="ukpconvarg",
    version="1.0.0",
    about=About(
        description=(
            "Crowd workers' answers to which of two arguments of one side of a debate is more"
            " convincing; one row for each pair of arguments."
        ),
        homepage="https://github.com/UKPLab/acl2016-convincing-arguments",
        citation="""\
@inproceedings{habernal2016argument,
  title = {Which argument is more convincing? Analyzing and predicting convincingness of Web
           arguments using bidirectional LSTM},
  author = {Habernal, Ivan and Gurevych, Iryna},
  booktitle = {Proceedings of the 54th Annual Meeting of the Association for Computational
               Linguistics (Volume 1: Long Papers)},
  pages = {1589--1599},
  year = {2016}
}
""",
        license="CC BY 4.0",
    ),
    options=Options,
    features=_features,
    rows=_rows,
    dataset=_dataset,
)
