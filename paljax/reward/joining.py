"""λ of people who join later, chosen by validation users.

Networks and prototypes have learned nothing from validation users, as from nobody who joins; λ of
the fit served people whose comparisons they did learn from.
"""

from typing import Any, NamedTuple

import numpy as np

from paljax.data.splits import VALIDATION_QUERY, VALIDATION_SUPPORT
from paljax.evaluation import correctness
from paljax.predictions import encode
from paljax.processes import of_first
from paljax.reward.fits import Candidate, Fitting
from paljax.reward.predictors import join


class Tried(NamedTuple):
    """What a prior strength is to validation users, as means over the numbers of shots."""

    prior_strength: float
    validation_nll: float
    validation_accuracy: float


class Joining(NamedTuple):
    """The prior strength for people who join."""

    prior_strength: float | None  # λ; the fit's own where nothing chose it
    candidates: tuple[Tried, ...]  # none where nothing chose it
    num_users: int  # validation users who are scored
    num_comparisons: int  # of theirs that are scored

    def told(self) -> dict[str, Any]:
        """For metrics.json."""
        return self._asdict() | {"candidates": [tried._asdict() for tried in self.candidates]}


def choose_joining(fitting: Fitting, chosen: Candidate) -> Joining:
    """Fit validation users as people who join are fitted, and take the λ of the least loss.

    Each is fitted to the first comparisons (votes) of their support, for each of
    `evaluation.shots` above 0, and scored on their query part; the loss is the mean over all of it.

    Args:
        fitting: Of the run.
        chosen: The model, fitted without validation users.

    Returns:
        λ; that of the model where there are no validation users, or one reward for all.
    """
    prepared, trained = fitting.prepared, chosen.trained
    comparisons, split = prepared.dataset.comparisons, prepared.split
    query = comparisons.select(split.rows(VALIDATION_QUERY))
    query = query.select(~query.tie)
    shots = [count for count in fitting.config.evaluation.shots if count]
    is_personal = trained.prior_strength is not None and trained.model.num_prototypes > 1
    if not (is_personal and shots and len(query.user)):
        return Joining(trained.prior_strength, (), 0, 0)
    assert trained.prior_strength is not None
    encoded = encode(trained.model, trained.params, prepared.tables)
    supports = [split.support(comparisons, count, VALIDATION_SUPPORT) for count in shots]

    def tried(strength: float) -> Tried:
        model = trained._replace(prior_strength=strength)
        margins, num_users = [], len(prepared.dataset.users)
        for support in supports:
            joined = join(model, prepared.tables, support, num_users, room=prepared.room)
            margins.append(model.margins(encoded, query, joined.weights))
        found = np.concatenate(margins).astype(np.float64)
        losses = of_first(np.logaddexp(0, -found))
        return Tried(strength, float(losses.mean()), float(of_first(correctness(found).mean())))

    strengths = sorted({*fitting.config.selection.prior_strength, trained.prior_strength})
    candidates = tuple(map(tried, strengths))
    best = min(candidates, key=lambda candidate: candidate.validation_nll)
    return Joining(best.prior_strength, candidates, len(np.unique(query.user)), len(query.user))
