"""The experiment on Polis: no held-out vote is learned from, rules are equally concentrated."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from experiments.polis_consensus import held_out, rules, votes

PEOPLE, STATEMENTS, GROUPS, FOLDS = 40, 7, 2, 3


@pytest.fixture(scope="module")
def talk():
    generator = np.random.default_rng(0)
    voted = generator.random((PEOPLE, STATEMENTS)) < 0.7
    voted[:, 0] = True
    group = (np.arange(PEOPLE) % 5 > 2).astype(np.int64)
    return votes.Conversation(
        name="tiny",
        people=tuple(f"person {u}" for u in range(PEOPLE)),
        statements=tuple(f"statement {i}" for i in range(STATEMENTS)),
        groups=("large", "small"),
        group=group,
        fold=generator.permutation(np.arange(PEOPLE) % FOLDS),
        voted=voted,
        agreed=voted & (generator.random((PEOPLE, STATEMENTS)) < 0.5),
        candidates=np.array([0, 2, 3, 6]),
    )


def test_no_vote_of_a_held_out_person_is_learned_from(talk, tmp_path):
    for fold in range(FOLDS):
        part = votes.learned_from(talk, fold, seed=0)
        votes.write_comparisons(talk, part, tmp_path / "votes.parquet")
        rows = pq.read_table(tmp_path / "votes.parquet").to_pylist()
        held = {talk.people[u] for u in np.flatnonzero(talk.fold == fold)}
        assert not held & {row["user_id"] for row in rows}
        assert len(rows) == talk.voted[talk.fold != fold].sum()
        assert {row["split"] for row in rows} == {"train", "validation", "test"}


def test_agreeing_prefers_the_statement_to_silence(talk, tmp_path):
    votes.write_comparisons(talk, votes.learned_from(talk, 0, seed=0), tmp_path / "v.parquet")
    for row in pq.read_table(tmp_path / "v.parquet").to_pylist():
        statement = ({row["chosen"], row["rejected"]} - {votes.SILENCE}).pop()
        user, item = talk.people.index(row["user_id"]), talk.statements.index(statement)
        assert (row["chosen"] == statement) == talk.agreed[user, item]
        assert row["group"] == talk.groups[talk.group[user]]


def test_counts_are_by_group_and_of_candidates(talk):
    used = np.zeros_like(talk.voted)
    used[3:] = True
    counts = votes.count(talk, used)
    for g in range(GROUPS):
        for place, item in enumerate(talk.candidates):
            those = [u for u in range(3, PEOPLE) if talk.group[u] == g and talk.voted[u, item]]
            assert counts.voted[g, place] == len(those)
            assert counts.agreed[g, place] == sum(talk.agreed[u, item] for u in those)


def test_every_rule_is_as_concentrated_and_maxmin_serves_the_worst_group_best():
    generator = np.random.default_rng(1)
    agreement = generator.random((GROUPS, 30))
    voted = generator.integers(5, 60, (GROUPS, 30)).astype(float)
    counted = votes.Counts(voted, np.floor(voted * agreement))
    shares = np.array([0.3, 0.7])
    chosen = rules.choose(agreement, shares, counted, 5.0)
    assert tuple(chosen) == rules.NAMES
    for found in chosen.values():
        assert found.policy.sum() == pytest.approx(1)
        assert rules.effective_number(found.policy) == pytest.approx(5, abs=1e-3)
    worst = {name: (agreement @ found.policy).min() for name, found in chosen.items()}
    assert max(worst, key=lambda name: worst[name]) == rules.MAXMIN
    # The largest group is the second; utilitarian weighs groups by their people.
    largest = chosen["Largest group's reward"].policy
    assert largest.argmax() == agreement[1].argmax()
    assert chosen["Utilitarian, learned rewards"].policy.argmax() == (shares @ agreement).argmax()
    product = ((counted.agreed + 1) / (voted + 2)).prod(axis=0)
    assert chosen["Group-informed consensus"].policy.argmax() == product.argmax()


def test_agreement_is_a_mean_over_folds_of_held_out_rates(talk):
    generator = np.random.default_rng(2)
    policies = [
        {rule: generator.dirichlet(np.ones(4)) for rule in rules.NAMES} for _ in range(FOLDS)
    ]
    found = held_out.agreements(talk, policies, resamples=200, seed=0)
    for rule in rules.NAMES:
        for g in range(GROUPS):
            total = 0.0
            for fold, policy in enumerate(policies):
                weight = rate = 0.0
                for probability, item in zip(policy[rule], talk.candidates, strict=True):
                    those = [
                        u
                        for u in range(PEOPLE)
                        if talk.fold[u] == fold and talk.group[u] == g and talk.voted[u, item]
                    ]
                    if those:
                        weight += probability
                        agreed = sum(talk.agreed[u, item] for u in those)
                        rate += probability * agreed / len(those)
                total += rate / weight / FOLDS
            assert found.by_rule[rule][0, g] == pytest.approx(total)


def test_a_rule_is_compared_with_maxmin_on_the_same_people(talk):
    policy = np.array([0.4, 0.3, 0.2, 0.1])
    same = [dict.fromkeys(rules.NAMES, policy) for _ in range(FOLDS)]
    found = held_out.agreements(talk, same, resamples=100, seed=0)
    rows = held_out.compare(talk, found, np.array([0.6, 0.4]))
    for row in rows.values():
        assert row["maxmin_ahead"] == 0
        assert row["maxmin_ahead_interval"] == [0, 0]
        assert row["worst"] == min(row["groups"].values())
        low, high = row["worst_interval"]
        assert low < row["worst"] < high
        assert row["mean"] == pytest.approx(
            0.6 * row["groups"]["large"] + 0.4 * row["groups"]["small"]
        )
    assert held_out.over_conversations([found, found])[rules.MAXMIN]["worst"] == pytest.approx(
        rows[rules.MAXMIN]["worst"]
    )
