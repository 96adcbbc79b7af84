"""Votes of the people in ten conversations on each other's statements, held on Polis.

Everybody could write statements, and agree, disagree or pass on those of others. There are votes,
no comparisons: `paljax.data.votes_to_pairs` forms them inside each part of a split. The groups are
the ones that Polis found, from the same votes; they label people and may not be learned from.
When a vote was given is not published.
"""

import csv
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paljax.data.dataset import Dataset, assemble_votes
from paljax.data.source import (
    About,
    Columns,
    Kind,
    Row,
    Source,
    Workplace,
    require_choice,
    require_whole,
)
from paljax.data.upstream import UpstreamFile
from paljax.errors import UserError
from paljax.ranges import PositiveInt

REPOSITORY = "compdemocracy/openData"
COMMIT = "0bc2ce0f32c673f68da20b57bce15c457aa787b5"
NO_GROUP = "no group"  # of people who voted too seldom for Polis to place

# SHA-256 of comments.csv and of participants-votes.csv.
CONVERSATIONS = {
    "15-per-hour-seattle": (
        "23306ea084fbecf5e924e78da03b13cd3ad289e5f9b533b658b8caa59f5c1981",
        "324e6b36a08dd1020afd9483731a5fa6311cfe8229cc0b434201489d447f720d",
    ),
    "american-assembly.bowling-green": (
        "b5d72fbb1b15d66c624da51849aef3d5691358b6ec646035b9ca41c6b9f936f0",
        "63c6e30c36d9f5338516f3a0c77b08e3518c20b707b321e26c54cd6218a2ab4d",
    ),
    "bg2050-volunteers": (
        "1df85d984c87cd350f76ca62218a389e865eaf90a514687980b3b249aa79a360",
        "6248c42dc31a6579933b459b4347a2f344e3ba8fd8b0046c71d29409796b9762",
    ),
    "brexit-consensus": (
        "f9a341a6acadd8277458ed1ec1280508450dcc53f23cfdad9baf92a538bbd74c",
        "6b0c991962566a450735362208be1e1459485b57f5e13ba36501f3c8eabea349",
    ),
    "canadian-electoral-reform": (
        "f3fca647a6b13e218a454f06a9f8c985a0a7b63d64daf277b6f0916cf6d54a5d",
        "ea5fc95293685f1c28b9f649ca95a24010fc0893f436d8d4885e8f0e11e80bcb",
    ),
    "scoop-hivemind.affordable-housing": (
        "f559586c28eb933d1954df35b7b449af011754393d0d835f82d4c29a40c712eb",
        "6093abe7445a57ee7ada598951c14e922ca8415ca9f5c9b48e4ff68bcdce6870",
    ),
    "scoop-hivemind.biodiversity": (
        "de84b8c9d9b4b70d4929ee0603aa242ba60f53cc456dbf03a62719f1abc16165",
        "58aaff458ef8dc5679e683e990c8aab3c56bcca82a7929b06b1559d4a04f29e0",
    ),
    "scoop-hivemind.freshwater": (
        "508001134c37e424c074a53391ab02f807b0045ae233d63324cba8aa173bc843",
        "00f7a9565ffc21b729495d97bce573a585b05cffb552130ea416f348d9284b00",
    ),
    "scoop-hivemind.taxes": (
        "cf53851ef9475bae8e8f493da7ef167feac69c893e6b730a14c1b8e3465dd4c5",
        "2922308b181957bf63f8bf619973e93709d72c2dd41ac14370cca5632f2d5ea8",
    ),
    "scoop-hivemind.ubi": (
        "f47dcf4fde68bd9da3fdff0981e62b6ec5d2673e8e82144fefd4c82ce8953a8e",
        "040ede14de517774974f37738b7043cb339cab498b8b11a0be6f2e81ff1be51b",
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Which votes.

    Attributes:
        conversation: The upstream folder.
        least_votes: People with fewer votes, passes not counted, are left out.
    """

    conversation: str = "american-assembly.bowling-green"
    least_votes: PositiveInt = 1

    def __post_init__(self) -> None:
        """Check the values."""
        require_choice("polis", "conversation", self.conversation, CONVERSATIONS)
        require_whole("polis", "least_votes", self.least_votes, least=1)


def upstream_files(conversation: str) -> tuple[UpstreamFile, UpstreamFile]:
    """Statements and votes of a conversation."""
    statements, votes = (
        UpstreamFile(REPOSITORY, COMMIT, f"{conversation}/{name}", digest)
        for name, digest in zip(
            ("comments.csv", "participants-votes.csv"), CONVERSATIONS[conversation], strict=True
        )
    )
    return statements, votes


def _features(options: Options) -> dict[str, Kind]:
    return {"user_id": str, "group": str, "statement": [str], "vote": [np.int8]}


def _rows(options: Options, place: Workplace) -> Iterator[Row]:
    statements, votes = map(place.find, upstream_files(options.conversation))
    return _people(_table(statements), _table(votes))


def _people(statements: Sequence[dict[str, str]], votes: Sequence[dict[str, str]]) -> Iterator[Row]:
    """A row a person: the statements that they voted on, and 1 agree, 0 pass, -1 disagree."""
    texts = {row["comment-id"]: row["comment-body"] for row in statements}
    for person in votes:
        given = {number: person[number] for number in texts if person.get(number)}
        yield {
            "user_id": person["participant"],
            "group": f"group {person['group-id']}" if person["group-id"] else NO_GROUP,
            "statement": [texts[number] for number in given],
            "vote": [int(vote) for vote in given.values()],
        }


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _dataset(columns: Columns, options: Options, folder: Path) -> Dataset:
    people = [
        (user, group, statements, _values(votes))
        for user, group, statements, votes in zip(*columns.values(), strict=True)
    ]
    kept = [person for person in people if _opinions(person[3]) >= options.least_votes]
    if not kept:
        most = max(_opinions(person[3]) for person in people)
        raise UserError(
            f"polis: least_votes {options.least_votes} leaves nobody in "
            f"{options.conversation!r}: nobody has more than {most} votes"
        )
    few = sum(len(person[3]) for person in people) - sum(len(person[3]) for person in kept)
    counts = [len(person[3]) for person in kept]
    return assemble_votes(
        np.repeat([person[0] for person in kept], counts).tolist(),
        [statement for person in kept for statement in person[2]],
        np.concatenate([person[3] for person in kept]),
        group=np.repeat([person[1] for person in kept], counts).tolist(),
        dropped={"fewer than least_votes": few} if few else {},
        facts={"conversation": options.conversation},
    )


def _values(votes: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    values = np.array(votes, np.float32)
    return np.where(values == 0, np.float32(np.nan), values)


def _opinions(values: np.ndarray[Any, np.dtype[np.float32]]) -> int:
    return int((~np.isnan(values)).sum())


SOURCE = Source(
    name="polis",
    version="1.0.0",
    about=About(
        description=(
            "Votes of the participants of a Polis conversation on each other's statements; one row"
            " for each participant. Data was gathered using the Polis software"
            " (compdemocracy.org/polis) and is sub-licensed under CC BY 4.0 with Attribution to The"
            " Computational Democracy Project."
        ),
        homepage="https://github.com/compdemocracy/openData",
        citation=(
            "@article{small2021polis,\n"
            "  title = {Polis: Scaling Deliberation by Mapping High Dimensional Opinion Spaces},\n"
            '  author = {Small, Christopher and Bjorkegren, Michael and Erkkil{\\"a}, Timo and\n'
            "            Shaw, Lynette and Megill, Colin},\n"
            "  journal = {RECERCA. Revista de Pensament i An{\\`a}lisi},\n"
            "  volume = {26},\n"
            "  number = {2},\n"
            "  year = {2021}\n"
            "}\n"
        ),
        license="CC BY 4.0",
    ),
    options=Options,
    features=_features,
    rows=_rows,
    dataset=_dataset,
    settings=tuple((name, Options(conversation=name)) for name in CONVERSATIONS),
)
