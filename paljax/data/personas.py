"""Heterogeneous users built from model-written statements by persona: semi-synthetic.

Every user has one of K* personas, which is the user's group, and there are two builds.

- `statement_pair`: of a statement that somebody with the user's persona would say and one that
  somebody with another of the personas would say, the user prefers the first. What one group
  prefers another rejects, so a shared reward does no better than a coin.
- `yes_no`: users vote on statements of all personas. On those of the own persona a user answers as
  somebody who has it, on those of the others as somebody who has not. There are votes, no
  comparisons; `paljax.data.votes_to_pairs` forms them inside each part of a split.

Users who answer about their own persona alone are refused: the statements then tell the personas
apart, and a shared reward is right 98 to 99.7 % of the time without knowing anybody.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from paljax.data.dataset import Dataset, assemble, assemble_votes
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
from paljax.errors import UserError, nearest
from paljax.ranges import Count, PositiveInt

REPOSITORY = "anthropics/evals"
COMMIT = "84fcc677e52e1902d696c32cd1a6b663e70d3993"
BUILDS = ("statement_pair", "yes_no")
REFUSED = "own_persona"

# SHA-256 of every persona's file, by its name without .jsonl.
PERSONAS = {
    "acts-like-it-wants-to-help-humans-but-does-not-care-about-that": (
        "a1e1bb0f505d8f3d822ce36a6252f5bb149f525694ef92c35502f06d7b25c6dc"
    ),
    "agreeableness": "8caa0fa07946370fb4ec38dd82eda7d3a86591c1dc701d2e645ae33c3239f5ce",
    "anti-LGBTQ-rights": "a43a4eb414a9a0f49f8582d70b62b21ddba9b27da7a68562ba5b3c90f412203c",
    "anti-immigration": "7adad6733280e1d052ddb175a1bab8c2bf1b702b878760705a1ff1e3ef702b78",
    "believes-abortion-should-be-illegal": (
        "dd8a00650604e2ea8619bccf1f9d7d66cb3a84aa45047e4a2e9ab5feb7bd77a3"
    ),
    "believes-in-gun-rights": "e0402d210233a4f1573c0b8fe38fdfecd215e2dcae7162bcca5787572f6ad025",
    "conscientiousness": "fd05517c0a453a7b47d19964ac6528db394c8cd00a5f74cc11d91479a20b90a6",
    "desire-to-be-more-creative": (
        "9328c9e9c9d201d2f1e7cf9a6ff5a3019fd2e779a2129263c14b915873f7ac0d"
    ),
    "ends-justify-means": "30e2f6cc53395203e296d08549b86ed441e0c3194cbf4ba3b7a61dda521358f4",
    "extraversion": "6734dc0bc84bc5929017eef6209cb9152c4e5fe4b744c7d11af8cb9749687576",
    "interest-in-art": "e1dff1d0c0a10b29f525ced37b76c1bcb4974dfab36f6e64abcbfcaeeb021e07",
    "interest-in-literature": "8b551e8279535e0505a599fe19504590acf529218b33a29e4da3d73f1fcc10a9",
    "interest-in-math": "f835b449fb0cb1ba7642778899273be1f634ad93f661af5dbde5629432e1f254",
    "interest-in-music": "0decabf189570e74301793c10ce4f745a130e7426c8252c46d18e4875d9a8468",
    "interest-in-science": "c26039164631a3554db75a11904057af26c1b173228947c077f0a05c9dafa0ed",
    "interest-in-sports": "891f2e676ed4de885e7973cfc4bcfebe7a1c3e6f2c30daa6496005b0fdebdeac",
    "machiavellianism": "1803c65d56d8ab0185c8aba8c08a8348ed79cb398f055a5088c07a4cea732ff4",
    "narcissism": "32d93f6b2eddd5c155cf9d6d825a03e1c03cc3c0ac2e6c9382e3f981d9fc4120",
    "neuroticism": "b2b0f426449517ed9a2d1d2b635bbc13efc0815ff2cfa361b7fbc1044d284d6a",
    "openness": "07e3a5d29e62a27806f75bc7b015d8d9c4120edbda7e593884e036a2d32ffa7b",
    "politically-conservative": "f1735811392691164c685da2ca693e3edebbde76198d53e65fe854cd0cf52b6f",
    "politically-liberal": "35a9ca50da81659a7fd988a2cadbc6225086931dc02f50f5376690493037fee3",
    "psychopathy": "299a6307e2d40a82f2667e2db3dc118fbe588e4cf80194be1e09748709bf1fce",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Which users to build.

    Attributes:
        build: statement_pair or yes_no.
        personas: The K* personas, at least two.
        users_per_persona: Users of each.
        judgements_per_user: Comparisons, or votes, of each user; no statement comes twice.
        seed: Of the choice of statements.
    """

    build: str = "statement_pair"
    personas: tuple[str, ...] = (
        "interest-in-art",
        "interest-in-math",
        "interest-in-sports",
        "politically-conservative",
    )
    users_per_persona: PositiveInt = 25
    judgements_per_user: PositiveInt = 100
    seed: Count = 0

    def __post_init__(self) -> None:
        """Check the values."""
        if self.build == REFUSED:
            raise UserError(
                f"personas: build {REFUSED!r} is refused: who answers about the own persona alone "
                "is predicted by the statements, and a shared reward scores 98 to 99.7 %; "
                f"{nearest('', BUILDS)}"
            )
        require_choice("personas", "build", self.build, BUILDS)
        object.__setattr__(self, "personas", tuple(self.personas))
        for persona in self.personas:
            require_choice("personas", "persona", persona, PERSONAS)
        if len(set(self.personas)) < max(len(self.personas), 2):
            raise UserError(
                f"personas: personas {list(self.personas)} are not two or more that differ"
            )
        for name in ("users_per_persona", "judgements_per_user"):
            require_whole("personas", name, getattr(self, name), least=1)
        require_whole("personas", "seed", self.seed, least=0)


class Statements(NamedTuple):
    """Statements of one persona that no other persona of the data has."""

    agreed: tuple[str, ...]  # who has the persona would say them
    denied: tuple[str, ...]  # who has the persona would not


def upstream_file(persona: str) -> UpstreamFile:
    """The statements of a persona."""
    return UpstreamFile(REPOSITORY, COMMIT, f"persona/{persona}.jsonl", PERSONAS[persona])


def _features(options: Options) -> dict[str, Kind]:
    judged: dict[str, Kind] = {"chosen": [str], "rejected": [str]}
    if options.build == "yes_no":
        judged = {"statement": [str], "vote": [np.int8]}
    return {"user_id": str, "group": str} | judged


def _rows(options: Options, place: Workplace) -> Iterator[Row]:
    files = {persona: place.find(upstream_file(persona)) for persona in options.personas}
    statements = _read(files)
    most = _most_judgements(options, statements)
    if options.judgements_per_user > most:
        raise UserError(
            f"personas: judgements_per_user {options.judgements_per_user} would show a user some "
            f"statement twice; wanted at most {most}"
        )
    return _users(options, statements)


def _read(files: Mapping[str, Path]) -> dict[str, Statements]:
    """Statements by persona; one that two personas share says nothing of either and is left out."""
    answers: dict[str, dict[str, str]] = {}
    for persona, path in files.items():
        lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        answers[persona] = {
            line["statement"]: line["answer_matching_behavior"].strip() for line in lines
        }
    uses = Counter(statement for answer in answers.values() for statement in answer)

    def with_answer(persona: str, wanted: str) -> tuple[str, ...]:
        return tuple(
            statement
            for statement, answer in answers[persona].items()
            if answer == wanted and uses[statement] == 1
        )

    return {
        persona: Statements(with_answer(persona, "Yes"), with_answer(persona, "No"))
        for persona in files
    }


def _most_judgements(options: Options, statements: Mapping[str, Statements]) -> int:
    if options.build == "yes_no":
        return sum(len(held.agreed) + len(held.denied) for held in statements.values())
    agreed = [len(held.agreed) for held in statements.values()]
    return min(*agreed, sum(agreed) - max(agreed))


def _users(options: Options, statements: Mapping[str, Statements]) -> Iterator[Row]:
    """A row a user; users of the personas take turns."""
    judge = _votes if options.build == "yes_no" else _comparisons
    for number in range(options.users_per_persona * len(options.personas)):
        persona = options.personas[number % len(options.personas)]
        generator = np.random.default_rng([options.seed, number])
        judged = judge(persona, statements, options.judgements_per_user, generator)
        yield {"user_id": f"user{number:04d}", "group": persona} | judged


def _comparisons(
    persona: str, statements: Mapping[str, Statements], count: int, generator: np.random.Generator
) -> dict[str, list[Any]]:
    others = [
        statement
        for name, held in statements.items()
        if name != persona
        for statement in held.agreed
    ]
    return {
        "chosen": _drawn(statements[persona].agreed, count, generator),
        "rejected": _drawn(others, count, generator),
    }


def _votes(
    persona: str, statements: Mapping[str, Statements], count: int, generator: np.random.Generator
) -> dict[str, list[Any]]:
    votes = {
        statement: 1 if (name == persona) == agreed else -1
        for name, held in statements.items()
        for agreed, texts in ((True, held.agreed), (False, held.denied))
        for statement in texts
    }
    shown = _drawn(list(votes), count, generator)
    return {"statement": shown, "vote": [votes[statement] for statement in shown]}


def _drawn(texts: Sequence[str], count: int, generator: np.random.Generator) -> list[str]:
    return [texts[place] for place in generator.permutation(len(texts))[:count]]


def _dataset(columns: Columns, options: Options, folder: Path) -> Dataset:
    facts: dict[str, float | str] = {"build": options.build, "personas": len(options.personas)}
    count = options.judgements_per_user
    users = [user for user in columns["user_id"] for _ in range(count)]
    groups = [group for group in columns["group"] for _ in range(count)]

    def flat(name: str) -> list[str]:
        return [value for values in columns[name] for value in values]

    if options.build == "yes_no":
        votes = np.array(flat("vote"), np.float32)
        return assemble_votes(users, flat("statement"), votes, group=groups, facts=facts)
    return assemble(users, flat("chosen"), flat("rejected"), group=groups, facts=facts)


SOURCE = Source(
    name="personas",
    version="1.0.0",
    about=About(
        description=(
            "Users with different personas who judge model-written statements; one row for each"
            " user, built from the persona evaluations."
        ),
        homepage="https://github.com/anthropics/evals",
        citation="""\
@misc{perez2022discovering,
  title = {Discovering Language Model Behaviors with Model-Written Evaluations},
  author = {Perez, Ethan and Ringer, Sam and Luko{\\v{s}}i{\\=u}t{\\.e}, Kamil{\\.e} and others},
  year = {2022},
  eprint = {2212.09251},
  archivePrefix = {arXiv}
}
""",
        license="CC BY 4.0",
    ),
    options=Options,
    features=_features,
    rows=_rows,
    dataset=_dataset,
    settings=tuple((build, Options(build=build)) for build in BUILDS),
)
