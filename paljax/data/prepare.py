"""From the configuration's data sections to what training and evaluation read."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from paljax.config import Config, FileData, PairsSection
from paljax.data import builders, files
from paljax.data.batches import Tables, place_tables
from paljax.data.by_user import power_of_two
from paljax.data.dataset import Dataset, level_names
from paljax.data.encoders import Encoder, fit_encoder
from paljax.data.held_out import hold_out_items, hold_out_pairs, hold_out_topics, split_by_time
from paljax.data.splits import (
    Split,
    require_choices,
    require_training_data,
    split_at_random,
    split_by_column,
)
from paljax.data.votes_to_pairs import votes_to_pairs
from paljax.errors import UserError

SPLITS: dict[str, Callable[..., Split]] = {
    "random": split_at_random,
    "column": split_by_column,
    "items": hold_out_items,
    "pairs": hold_out_pairs,
    "topic": hold_out_topics,
    "time": split_by_time,
}


class Prepared(NamedTuple):
    """Data of a run, split and encoded."""

    dataset: Dataset
    split: Split
    vote_split: Split | None  # of the votes that the comparisons are made of
    item_encoder: Encoder
    prompt_encoder: Encoder | None
    tables: Tables
    remarks: dict[str, int]  # items and prompts that could not be read as they are, by reason

    @property
    def room(self) -> int:
        """Most comparisons that a user is fitted to in this run, rounded up to a power of two."""
        rows = np.union1d(self.split.learned(refit=True), self.split.rows("support"))
        fitted_to = self.dataset.comparisons.select(rows)
        return power_of_two(int(np.bincount(fitted_to.user, 1 + fitted_to.tie).max()))


def prepare(config: Config, *, uses_prompts: bool) -> Prepared:
    """Load, split and encode the comparisons of a configuration.

    Args:
        config: The run's configuration.
        uses_prompts: Whether the model looks at prompts.

    Returns:
        The data; encoders have seen training rows only.

    Raises:
        UserError: If the data can't be read or don't fit the configuration.
    """
    dataset, split, vote_split = split_dataset(config, load_dataset(config))
    require_training_data(split)
    require_choices(split, dataset.comparisons)
    train = dataset.comparisons.select(split.rows("train"))
    appearing = np.concatenate([train.chosen, train.rejected])
    appearing = appearing[~dataset.is_level(appearing)]
    item_encoder = fit_encoder(
        config.encoder, dataset.items, appearing, levels=level_names(dataset)
    )
    prompt_encoder = None
    if uses_prompts:
        if dataset.prompts is None:
            raise UserError(
                f"model.name: {config.model.name!r} needs prompts, the comparisons have none; "
                "'pal_a' does without"
            )
        prompt_encoder = fit_encoder(
            config.prompt_encoder, dataset.prompts, train.prompt, key="prompt_encoder"
        )
    return Prepared(
        dataset,
        split,
        vote_split,
        item_encoder,
        prompt_encoder,
        encode_tables(dataset, item_encoder, prompt_encoder),
        encoding_remarks(dataset, item_encoder, prompt_encoder),
    )


def load_dataset(config: Config) -> Dataset:
    """The comparisons that a configuration names."""
    data = config.data
    if isinstance(data, FileData):
        return files.read_comparisons(data.path, columns=data.columns, on_bad_row=data.on_bad_row)
    return builders.load(data.name, **data.model_dump(exclude={"name"}))


def split_dataset(config: Config, dataset: Dataset) -> tuple[Dataset, Split, Split | None]:
    """Split as configured; where the data are votes, split these and then form comparisons.

    Args:
        config: The run's configuration.
        dataset: All data.

    Returns:
        The dataset with its comparisons, their split, and the split of the votes if there are any.
    """
    options = config.splits.model_dump(exclude={"name"})
    split = partial(SPLITS[config.splits.name], **options)
    if dataset.votes is not None:
        pairs = config.pairs or PairsSection()
        return votes_to_pairs(dataset, split, **pairs.model_dump())
    if config.pairs is not None:
        raise UserError(
            f"pairs: are formed of votes, and {config.data.name!r} holds comparisons; leave it out"
        )
    return dataset, split(dataset), None


def encode_tables(
    dataset: Dataset, item_encoder: Encoder, prompt_encoder: Encoder | None
) -> Tables:
    """Encode all distinct items and prompts and put them on the device."""
    prompts = None
    if prompt_encoder is not None:
        if dataset.prompts is None:
            raise UserError("the model needs prompts, the comparisons have no 'prompt' column")
        prompts = prompt_encoder.encode(dataset.prompts)
    return place_tables(item_encoder.encode(dataset.items), prompts)


def encoding_remarks(
    dataset: Dataset, item_encoder: Encoder, prompt_encoder: Encoder | None
) -> dict[str, int]:
    """How many items and prompts the encoders could not read as they are, by reason."""
    remarks = {f"items, {why}": count for why, count in item_encoder.remarks(dataset.items).items()}
    if prompt_encoder is not None and dataset.prompts is not None:
        of_prompts = prompt_encoder.remarks(dataset.prompts)
        remarks |= {f"prompts, {why}": count for why, count in of_prompts.items()}
    return remarks
