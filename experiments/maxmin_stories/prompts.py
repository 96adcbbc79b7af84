"""Openings of stories for `maxmin_stories`: many, distinct, in the words that stories260K knows.

Each opens the story of one child or animal in one situation, some pleasant and some not, so that
neither sentiment is settled by the prompt.
"""

import itertools

import numpy as np

_HEROES = (
    "a little girl named Lily",
    "a little boy named Tim",
    "a small dog named Max",
    "a big bear named Ben",
    "a girl named Sue",
    "a boy named Tom",
    "a cat named Kitty",
    "a bird named Bob",
    "a little girl named Amy",
    "a boy named Jack",
    "a bunny named Spot",
    "a little fish named Sam",
)
_BEGINNINGS = (
    "Once upon a time, there was {hero}.",
    "One day, {hero}",
    "There was {hero} who",
    "One morning, {hero}",
)
_SITUATIONS = (
    " was playing in the park when",
    " saw a big red ball and",
    " lost a toy and",
    " wanted to help a friend but",
    " heard a loud noise and",
    " found a box in the garden and",
    " went to the store with mom and",
    " was very tired and",
    " saw a dark cloud in the sky and",
    " wanted to eat a big cake but",
    " fell down and",
    " made a new friend and",
)


def story_openings(count: int, *, seed: int = 0) -> list[str]:
    """Openings in random order, no two alike.

    Args:
        count: How many, at most `MOST_OPENINGS`.
        seed: Of the order; a smaller count gives the first of a larger one.

    Raises:
        ValueError: If there are not so many.
    """
    if not 1 <= count <= MOST_OPENINGS:
        raise ValueError(f"count: {count} openings; there are 1 to {MOST_OPENINGS}")
    order = np.random.default_rng(seed).permutation(MOST_OPENINGS)
    return [_ALL[place] for place in order[:count]]


def _opening(beginning: str, hero: str, situation: str) -> str:
    begun = beginning.format(hero=hero)
    subject = hero.split()[-1]  # a finished sentence needs a subject for the next
    return f"{begun} {subject}{situation}" if begun.endswith(".") else begun + situation


_ALL = [_opening(*parts) for parts in itertools.product(_BEGINNINGS, _HEROES, _SITUATIONS)]
MOST_OPENINGS = len(_ALL)
