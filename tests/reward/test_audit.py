"""The audit finds what it is there to find, and nothing where there is nothing."""

import numpy as np
import pytest

from paljax.data.dataset import assemble, assemble_votes
from paljax.data.encoders.format import FORMAT_FEATURES, format_features
from paljax.data.messages import written
from paljax.data.prepare import Prepared
from paljax.data.splits import Split
from paljax.data.votes_to_pairs import votes_to_pairs
from paljax.reward.audit import audit, failures, overlap
from paljax.reward.predictors import Predictor
from paljax.reward.results import Scored

USERS, PER_USER = 6, 40
SETTINGS = {"resamples": 200, "seed": 0}


def prepared_of(chosen, rejected, *, task_id=None, unseen=2):
    """Texts compared by USERS users; the first `unseen` of them join later."""
    users = np.repeat(np.arange(USERS), PER_USER)
    dataset = assemble([f"u{user}" for user in users], chosen, rejected, task_id=task_id)
    place = np.tile(np.arange(PER_USER), USERS)
    parts = np.select(
        [users < unseen, place < 20, place < 30], ["support", "train", "validation"], "test"
    ).astype(object)
    parts[(users < unseen) & (place >= 25)] = "query"
    arrival = np.where(parts == "support", place, -1).astype(np.int32)
    return Prepared(
        dataset,
        Split(parts, arrival),
        vote_split=None,
        item_encoder=None,
        prompt_encoder=None,
        tables=None,
        remarks={},
    )


def scored_of(prepared):
    rows = prepared.dataset.comparisons
    test, query = (rows.select(prepared.split.rows(part)) for part in ("test", "query"))
    blank = np.full(len(rows.user), "all", object)
    return Scored(test, query, blank[: len(test.user)], blank[: len(query.user)], "group")


def words(rng, count):
    return ["".join(rng.choice(list("abcdefgh"), 6)) for _ in range(count)]


@pytest.fixture
def prepared():
    rng = np.random.default_rng(0)
    texts = words(rng, 2 * USERS * PER_USER)
    return prepared_of(texts[0::2], texts[1::2])


def rewards_predictor(rewards):
    """Everybody has the same reward for an item."""

    def margins(rows):
        return rewards[rows.chosen] - rewards[rows.rejected]

    return Predictor(seen=margins, joining=lambda support, query: margins(query))


def truth(prepared):
    """Rewards under which every choice is right."""
    rows = prepared.dataset.comparisons
    rewards = np.zeros(len(prepared.dataset.items))
    rewards[rows.chosen], rewards[rows.rejected] = 1, -1
    return rewards


def test_a_side_that_has_an_advantage(prepared):
    by_place = Predictor(lambda rows: np.ones(len(rows.user)), lambda s, q: np.ones(len(q.user)))
    found = audit(prepared, scored_of(prepared), by_place, by_place, **SETTINGS)
    assert found["label_swap"]["accuracy"] == 1 != found["label_swap"]["expected"]
    assert any("side has an advantage" in line for line in failures(found))


def test_nothing_is_found_where_nothing_is(prepared):
    shared = rewards_predictor(truth(prepared))
    found = audit(prepared, scored_of(prepared), shared, shared, **SETTINGS)
    assert found["label_swap"]["accuracy"] == found["label_swap"]["expected"] == 0
    assert found["shuffled_users"]["gain"] == {"accuracy": 0, "interval": [0, 0]}
    assert found["overlap"] == {"train_test": 0, "support_query": 0, "joining_chosen": 0}
    assert found["repeated_pairs"] == {"n": 0, "accuracy_on_others": 1}
    assert found["repeated_pairs_of_new"] == {"n": 0, "accuracy_on_others": 1}
    assert found["flip_rate"]["rate"] == 0  # a shared reward does not listen
    assert failures(found) == []


def test_of_one_person_a_gain_tells_nothing(prepared):
    one = Predictor(lambda rows: np.ones(len(rows.user)), lambda s, q: np.ones(len(q.user)))
    other = Predictor(lambda rows: -np.ones(len(rows.user)), lambda s, q: -np.ones(len(q.user)))
    scored = scored_of(prepared)
    found = audit(prepared, scored, one, other, **SETTINGS)
    assert any("not personal" in line for line in failures(found))
    mine = np.flatnonzero(scored.test.user == scored.test.user[0])
    scored = scored._replace(test=scored.test.select(mine), test_groups=scored.test_groups[mine])
    found = audit(prepared, scored, one, other, **SETTINGS)
    assert found["shuffled_users"]["gain"] == {"accuracy": 1, "interval": None}
    assert not any("not personal" in line for line in failures(found))


def test_a_gain_that_is_personal_vanishes_when_users_are_shuffled(prepared):
    """Odd users want the opposite of even ones; the right answer needs to know who asks."""
    rows = prepared.dataset.comparisons
    sign = 1 - 2 * (np.arange(USERS) % 2)
    rewards = truth(prepared)
    swap = (rows.user % 2 == 1)[:, None]
    sides = np.where(swap, np.c_[rows.rejected, rows.chosen], np.c_[rows.chosen, rows.rejected])
    dataset = prepared.dataset._replace(
        comparisons=rows._replace(chosen=sides[:, 0], rejected=sides[:, 1])
    )
    prepared = prepared._replace(dataset=dataset)

    def margins(rows):
        return sign[rows.user] * (rewards[rows.chosen] - rewards[rows.rejected])

    personal = Predictor(margins, lambda support, query: margins(query))
    shared = rewards_predictor(rewards)
    test = scored_of(prepared).test
    assert (margins(test) > 0).all()
    assert np.mean(shared.seen(test) > 0) == 0.5
    found = audit(prepared, scored_of(prepared), personal, shared, **SETTINGS)
    assert found["shuffled_users"]["gain"]["accuracy"] < 0.25
    assert failures(found) == []


def test_a_gain_that_is_not_personal_is_told(prepared):
    better, shared = truth(prepared), np.zeros(len(prepared.dataset.items))
    found = audit(
        prepared,
        scored_of(prepared),
        rewards_predictor(better),
        rewards_predictor(shared),
        **SETTINGS,
    )
    assert found["shuffled_users"]["gain"]["accuracy"] == 0.5
    assert any("not personal" in line for line in failures(found))


def test_labels_that_the_format_tells():
    rng = np.random.default_rng(1)
    count = USERS * PER_USER
    told = prepared_of([f"{word}!" for word in words(rng, count)], words(rng, count))
    shared = rewards_predictor(np.zeros(len(told.dataset.items)))
    found = audit(told, scored_of(told), shared, shared, **SETTINGS)["format_probe"]
    assert found["accuracy"] == 1
    untold = prepared_of(words(rng, count), words(rng, count))
    found = audit(untold, scored_of(untold), shared, shared, **SETTINGS)["format_probe"]
    assert found["interval"][0] <= 0.5 <= found["interval"][1]


@pytest.mark.parametrize("kind", ["texts", "messages"])
def test_labels_that_the_end_of_a_sentence_tells(kind):
    """The two sides have the same characters, in chat messages as in texts."""
    rng = np.random.default_rng(1)
    sides = [
        [pattern.format(*words(rng, 3)) for _ in range(USERS * PER_USER)]
        for pattern in ("{}, {} {}.", "{}. {} {},")
    ]
    if kind == "messages":
        sides = [[written([{"role": "assistant", "content": t}]) for t in side] for side in sides]
    told = prepared_of(*sides)
    shared = rewards_predictor(np.zeros(len(told.dataset.items)))
    found = audit(told, scored_of(told), shared, shared, **SETTINGS)["format_probe"]
    assert found["accuracy"] == 1


def test_numbers_have_no_format(prepared):
    numbers = np.random.default_rng(2).standard_normal((len(prepared.dataset.items), 3))
    dataset = prepared.dataset._replace(items=numbers.astype(np.float32))
    shared = rewards_predictor(truth(prepared))
    found = audit(
        prepared._replace(dataset=dataset), scored_of(prepared), shared, shared, **SETTINGS
    )
    assert found["format_probe"] is None


def test_a_model_that_listens_turns_its_answers(prepared):
    rewards = truth(prepared)

    def joining(support, query):
        agreed = np.mean(rewards[support.chosen] - rewards[support.rejected])
        return agreed * (rewards[query.chosen] - rewards[query.rejected])

    listening = Predictor(rewards_predictor(rewards).seen, joining)
    found = audit(prepared, scored_of(prepared), listening, listening, **SETTINGS)
    assert found["flip_rate"] == {"rate": 1.0, "interval": [1.0, 1.0], "n": 30}


def test_a_choice_task_on_both_sides_is_counted(prepared):
    """The last training row of the third user and its first test row are one task."""
    tasks = np.arange(USERS * PER_USER)
    tasks[2 * PER_USER + 30] = tasks[2 * PER_USER + 19]
    dataset = prepared.dataset._replace(
        comparisons=prepared.dataset.comparisons._replace(task=tasks.astype(np.int32))
    )
    prepared = prepared._replace(dataset=dataset)
    shared = rewards_predictor(truth(prepared))
    found = audit(prepared, scored_of(prepared), shared, shared, **SETTINGS)
    assert found["overlap"] == {"train_test": 1, "support_query": 0, "joining_chosen": 0}
    assert found["overlap_counts"] == "choice tasks"
    assert failures(found) == ["what is tested shares 1 choice task with what is trained on"]


@pytest.mark.parametrize("counts", ["choice tasks", "votes"])
def test_an_overlap_is_told_in_a_sentence(prepared, counts):
    shared = rewards_predictor(truth(prepared))
    found = audit(prepared, scored_of(prepared), shared, shared, **SETTINGS)
    overlaps = {"train_test": 2, "support_query": 1, "joining_chosen": 3}
    some, one = counts, counts[:-1]
    assert failures(found | {"overlap": overlaps, "overlap_counts": counts}) == [
        f"what is tested shares 2 {some} with what is trained on",
        f"what new people are scored on shares 1 {one} with what they join by",
        f"what validation people are scored on shares 3 {some} with what they join by",
    ]


@pytest.mark.parametrize("learn_from", ["pairs", "votes"])
def test_a_vote_on_both_sides_is_counted(learn_from):
    """Pairs are tasks of their own; it is the votes behind them that must not be shared."""
    value = np.tile([1.0, -1.0], 10)
    data = assemble_votes(["ann"] * 20, [f"statement {n}" for n in range(20)], value)
    parts = np.repeat(["train", "validation", "test", "test"], 5).astype(object)
    split = Split(parts, np.full(20, -1, np.int32))
    paired = votes_to_pairs(data, lambda _: split, learn_from=learn_from)
    prepared = Prepared(
        paired.dataset,
        paired.split,
        paired.vote_split,
        item_encoder=None,
        prompt_encoder=None,
        tables=None,
        remarks={},
    )
    assert overlap(prepared) == {"train_test": 0, "support_query": 0, "joining_chosen": 0}
    rows = paired.dataset.comparisons
    # As if a test pair had been made of a training vote.
    learned = rows.chosen[paired.split.rows("train")[0]]
    if paired.dataset.is_level(learned):
        learned = rows.rejected[paired.split.rows("train")[0]]
    rows.chosen[paired.split.rows("test")[0]] = learned
    assert overlap(prepared) == {"train_test": 1, "support_query": 0, "joining_chosen": 0}
    test = paired.dataset.comparisons.select(paired.split.rows("test"))
    blank = np.full(len(test.user), "all", object)
    scored = Scored(test, test.select(np.array([], int)), blank, blank[:0], "group")
    shared = rewards_predictor(np.zeros(len(paired.dataset.items)))
    found = audit(prepared, scored, shared, shared, **SETTINGS)
    assert failures(found) == ["what is tested shares 1 vote with what is trained on"]


def test_another_judgment_of_the_same_pair_is_counted(prepared):
    rows = prepared.dataset.comparisons
    chosen, rejected = rows.chosen.copy(), rows.rejected.copy()
    trained, tested = 3 * PER_USER, 3 * PER_USER + 35
    chosen[tested], rejected[tested] = rejected[trained], chosen[trained]  # the other way round
    dataset = prepared.dataset._replace(comparisons=rows._replace(chosen=chosen, rejected=rejected))
    again = prepared._replace(dataset=dataset)
    shared = rewards_predictor(truth(prepared))
    found = audit(again, scored_of(again), shared, shared, **SETTINGS)
    assert found["repeated_pairs"] == {"n": 1, "accuracy_on_others": 1}
    assert found["repeated_pairs_of_new"]["n"] == 0


def test_what_new_people_are_asked_again_is_counted(prepared):
    """The first of them sees three pairs again, the other one the first one's: that is no twin."""
    rows = prepared.dataset.comparisons
    chosen, rejected = rows.chosen.copy(), rows.rejected.copy()
    chosen[25:28], rejected[25:28] = rejected[:3], chosen[:3]  # the other way round
    other = PER_USER + 25
    chosen[other], rejected[other] = chosen[0], rejected[0]
    dataset = prepared.dataset._replace(comparisons=rows._replace(chosen=chosen, rejected=rejected))
    again = prepared._replace(dataset=dataset)

    def joining(support, query):
        """They know what they were told, and are wrong on all but one of the others."""
        margins = np.where(query.user == 0, -1.0, 1.0)
        margins[:3], margins[3] = 1, 1
        return margins

    model = Predictor(rewards_predictor(truth(prepared)).seen, joining)
    found = audit(again, scored_of(again), model, model, **SETTINGS)
    assert found["repeated_pairs"]["n"] == 0
    assert found["repeated_pairs_of_new"] == {"n": 3, "accuracy_on_others": 16 / 27}


def test_where_nobody_is_new_nobody_is_asked_again():
    rng = np.random.default_rng(0)
    texts = words(rng, 2 * USERS * PER_USER)
    prepared = prepared_of(texts[0::2], texts[1::2], unseen=0)
    shared = rewards_predictor(truth(prepared))
    found = audit(prepared, scored_of(prepared), shared, shared, **SETTINGS)
    assert found["flip_rate"] is found["repeated_pairs_of_new"] is None


def test_format_features_of_one_text():
    (found,) = format_features(["Is it 5?\n- No, é!"])
    told = dict(zip(FORMAT_FEATURES, found, strict=True))
    assert told["characters"] == pytest.approx(np.log(18))
    assert told["words"] == pytest.approx(np.log(7))
    assert told["lines"] == pytest.approx(np.log(2))
    assert told["punctuation"] == pytest.approx(4 / 17)
    assert told["capitals"] == pytest.approx(2 / 17)
    assert told["digits"] == pytest.approx(1 / 17)
    assert told["beyond_ascii"] == pytest.approx(1 / 17)
    assert told["markup"] == pytest.approx(np.log(2))
    assert told["starts_with_capital"] == told["ends_sentence"] == 1
    assert told["asks"] == pytest.approx(np.log(2))


def test_one_user_who_is_scored_is_predicted_as_somebody_else(prepared):
    """Of all people, where nobody else is scored."""
    scored = scored_of(prepared)
    alone = scored.test.select(scored.test.user == scored.test.user[0])
    mine = np.arange(len(prepared.dataset.users)) == alone.user[0]

    def seen(rows):
        return np.where(mine[rows.user], 1.0, -1.0)

    model = Predictor(seen, lambda support, query: np.ones(len(query.user)))
    scored = scored._replace(test=alone)
    found = audit(prepared, scored, model, model, **SETTINGS)
    assert found["shuffled_users"]["accuracy"] == 0


@pytest.mark.parametrize("part", ["validation_support", "validation_query"])
def test_what_validation_users_were_fitted_to_is_learned(prepared, part):
    rows = prepared.dataset.comparisons
    scored = int(prepared.split.rows("test")[0])
    learned = int(np.flatnonzero(
        (rows.user == rows.user[scored]) & (prepared.split.part == "train"))[0])  # fmt: skip
    task, parts = rows.task.copy(), prepared.split.part.copy()
    task[learned], parts[learned] = task[scored], part
    prepared = prepared._replace(
        dataset=prepared.dataset._replace(comparisons=rows._replace(task=task)),
        split=prepared.split._replace(part=parts),
    )
    assert overlap(prepared)["train_test"] == 1
    parts[scored] = "validation_query" if part == "validation_support" else "validation_support"
    assert overlap(prepared)["joining_chosen"] == 1
