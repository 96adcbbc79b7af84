"""One look at all rows before training: who compared how often, and are all numbers in range."""

import zlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from paljax.data.streaming.order import HeldOut, without
from paljax.data.streaming.shards import Shards
from paljax.errors import UserError


class Survey(NamedTuple):
    """What training must know of all rows."""

    comparisons: NDArray[np.int32]  # [U] training comparisons of every user
    mean_weight: float  # of the training rows
    digest: int  # changes with any row


def survey(
    shards: Shards,
    held_out: HeldOut,
    *,
    num_users: int,
    num_items: int,
    num_prompts: int | None,
) -> Survey:
    """Read every row once.

    Args:
        shards: All rows.
        held_out: Rows that are not trained on.
        num_users: U.
        num_items: N.
        num_prompts: M; None where the model does not look at prompts.

    Returns:
        The survey.

    Raises:
        UserError: If a row number is too large, an item is compared with itself, or a weight is
            negative or not finite.
    """
    counts = np.zeros(num_users, np.int32)
    total, digest, num_rows = 0.0, 0, 0
    for group, name in enumerate(shards.names):
        rows = shards.read(group)
        limits = {"user": num_users, "chosen": num_items, "rejected": num_items}
        if num_prompts is not None:
            limits["prompt"] = num_prompts
        for column, limit in limits.items():
            values = getattr(rows, column)
            wrong = (values < 0) | (values >= limit)
            if wrong.any():
                place = int(np.argmax(wrong))
                raise UserError(
                    f"{name}, row {place}: {column} is {values[place]}, wanted a row number from 0 "
                    f"to {limit - 1}"
                )
        bad = ~np.isfinite(rows.weight) | (rows.weight < 0)
        if bad.any():
            place = int(np.argmax(bad))
            raise UserError(f"{name}, row {place}: weight is {rows.weight[place]}, wanted >= 0")
        same = rows.chosen == rows.rejected
        if same.any():
            raise UserError(f"{name}, row {int(np.argmax(same))}: chosen and rejected are one item")
        for field in rows[:-1]:
            digest = zlib.crc32(np.ascontiguousarray(field).data.cast("B"), digest)
        trained = without(rows, held_out.of(group))
        np.add.at(counts, trained.user, np.int32(1))  # of one dtype: twenty times faster
        total += float(trained.weight.sum(dtype=np.float64))
        num_rows += len(trained.user)
    if not total:
        raise UserError("data.comparisons: all weights are zero")
    return Survey(counts, total / num_rows, digest)
