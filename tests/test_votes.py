"""A whole run on votes: what it records, that no vote is in two parts, what it refuses to score."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from paljax import evaluate, runs, train
from paljax.data.builders import load
from paljax.data.polis import upstream_files
from paljax.data.votes_to_pairs import NEUTRAL
from paljax.runs import read_config
from tests.data.conftest import local_copy

CONVERSATION = "scoop-hivemind.ubi"
CONFIG = f"""\
data: {{name: polis, conversation: {CONVERSATION}, least_votes: 5}}
splits: {{name: random, unseen_users: 0.3, support: 10, validation_users: 0.3}}
pairs: {{learn_from: {{learn_from}}}}
encoder: [{{name: item_id, width: 4}}]
model: {{name: pal_a, num_prototypes: 2, latent_width: 4, shared: {{hidden_layers: 0}}}}
training: {{epochs: 2, batch_size: 512}}
selection: {{prior_strength: [4.0], personalize: always}}
evaluation: {{shots: [0, 5, 10], resamples: 100}}
"""


@pytest.fixture(scope="module", params=["pairs", "votes"])
def run(
    request: pytest.FixtureRequest,
    quick_compilation: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Path]:
    """A finished run that learned from pairs, or from votes."""
    folder = tmp_path_factory.mktemp("votes")
    for file in upstream_files(CONVERSATION):
        local_copy(file, folder / "nowhere")
    (folder / "config.yaml").write_text(CONFIG.replace("{learn_from}", request.param))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PALJAX_DATA_DIR", str(folder / "data"))
        arguments = ["--config", str(folder / "config.yaml"), "--run-dir", str(folder / "run")]
        assert train.main(arguments) == 0
        yield folder / "run"


def pairs_of(run: Path) -> list[dict]:
    """Every pair as a row of a comparison file, with its part and its votes."""
    items = (*load("polis", conversation=CONVERSATION, least_votes=5).items, NEUTRAL)
    return [
        row | {"chosen": items[row["chosen"]], "rejected": items[row["rejected"]]}
        for row in pq.read_table(run / runs.SPLITS).to_pylist()
    ]


def evaluated(run: Path, folder: Path, rows: list[dict], adapt: list[dict] | None = None) -> int:
    asked = {"asked": rows, "adapt": adapt or []}
    for name, records in asked.items():
        (folder / f"{name}.jsonl").write_text(
            "".join(
                json.dumps({key: row[key] for key in ("user_id", "chosen", "rejected")}) + "\n"
                for row in records
            )
        )
    arguments = ["--run", str(run), "--comparisons", str(folder / "asked.jsonl")]
    if adapt:
        arguments += ["--adapt", str(folder / "adapt.jsonl")]
    return evaluate.main(arguments)


def learned_votes(run: Path) -> bool:
    return read_config(run).pairs.learn_from == "votes"


def test_the_recorded_split_shares_no_vote(run: Path):
    votes: dict[str, set[str]] = {}
    for row in pairs_of(run):
        votes.setdefault(row["split"], set()).update((row["chosen_vote"], row["rejected_vote"]))
    votes = {part: found - {None} for part, found in votes.items()}
    # What chooses is learned from once that is done.
    refit = votes.pop("refit")
    chose = ("validation", "validation_support", "validation_query")
    assert refit >= set().union(*(votes[part] for part in chose))
    assert refit.isdisjoint(set().union(*(votes[part] for part in set(votes) - set(chose))))
    assert set(votes) == {"train", "test", "support", "query", *chose}
    assert sum(map(len, votes.values())) == len(set().union(*votes.values()))


def test_unseen_users_are_scored_after_their_first_votes(run: Path):
    metrics = json.loads((run / runs.METRICS).read_text())
    value = load("polis", conversation=CONVERSATION, least_votes=5).votes.value
    assert metrics["data"]["votes"] == (~np.isnan(value)).sum()
    unseen = metrics["unseen"]
    assert unseen["0"]["support_per_user"] == 0
    if learned_votes(run):
        assert [unseen[shots]["support_per_user"] for shots in ("5", "10")] == [5, 10]
    else:
        # Ten votes are at most twenty-five pairs, five at most six.
        assert 0 < unseen["5"]["support_per_user"] <= 6
        assert unseen["5"]["support_per_user"] < unseen["10"]["support_per_user"] <= 25
    assert metrics["groups"] == "group"


def test_users_are_listed_with_how_often_they_voted(run: Path):
    """Whatever comparisons were made of the votes; passes, which were dropped, are none."""
    dataset = load("polis", conversation=CONVERSATION, least_votes=5)
    cast = dataset.votes.user[~np.isnan(dataset.votes.value)]
    users = pq.read_table(run / runs.USERS).to_pydict()
    found = dict(zip(users["user_id"], users["n_comparisons"], strict=True))
    assert found == {name: int((cast == number).sum()) for number, name in enumerate(dataset.users)}


def test_nobody_is_said_to_want_the_neutral_item(run: Path):
    assert NEUTRAL not in (run / runs.ANALYSIS).read_text()


def test_evaluate_refuses_pairs_of_votes_that_were_trained_on(run: Path, tmp_path: Path, capsys):
    pairs = pairs_of(run)
    test = [row for row in pairs if row["split"] == "test"]
    assert evaluated(run, tmp_path, test) == 0
    # A pair that was never formed, of one vote from training and one from test.
    one = test[0]
    train_rows = [
        row for row in pairs if row["split"] == "train" and row["user_id"] == one["user_id"]
    ]
    sides = {train_rows[0]["chosen"], train_rows[0]["rejected"]} - {NEUTRAL}
    mixed = one | {"rejected": max(sides)}
    capsys.readouterr()
    assert evaluated(run, tmp_path, [*test, mixed]) == 2
    line = f"1 of its {len(test) + 1} comparisons are made of votes that were trained on"
    assert line in capsys.readouterr().err


PARTS_LEARNED = ("train", "validation", "support", "validation_support", "validation_query")


@pytest.mark.parametrize("part", PARTS_LEARNED)
def test_evaluate_refuses_what_a_part_of_the_run_has_learned(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], part: str
):
    rows = [row for row in pairs_of(run) if row["split"] == part]
    assert evaluated(run, tmp_path, rows[:3]) == 2
    assert "3 of its 3 comparisons" in capsys.readouterr().err


def test_evaluate_refuses_pairs_of_votes_that_a_user_was_fitted_to(
    run: Path, tmp_path: Path, capsys
):
    """Somebody whom the run does not know; what stands for a level is no vote of theirs."""
    texts = sorted({row["chosen"] for row in pairs_of(run)} - {NEUTRAL})[:4]
    other = NEUTRAL if learned_votes(run) else texts[3]

    def rows(*pairs: tuple[str, str]) -> list[dict]:
        return [{"user_id": "new", "chosen": one, "rejected": two} for one, two in pairs]

    support = rows((texts[0], other))
    fresh = rows((texts[1], texts[2]), *[(texts[1], NEUTRAL)] * learned_votes(run))
    assert evaluated(run, tmp_path, fresh, adapt=support) == 0
    capsys.readouterr()
    # Another pair than any that they were fitted to, of a vote that they were.
    known = rows((texts[1], texts[0]))
    assert evaluated(run, tmp_path, [*fresh, *known], adapt=support) == 2
    line = "adapt.jsonl: 1 of its comparisons are made of votes that are also in"
    assert line in capsys.readouterr().err
