"""What the simulated groups of `maxmin_stories` truly want of a story: the rewards they vote by.

As in MaxMin-RLHF (arXiv 2402.08925, section 5): positive sentiment against conciseness, and, a
conflict that no policy can please both sides of, positive against negative sentiment. The policy
never sees these; it is trained on what a reward model learned from the groups' comparisons, and
judged by these. N texts.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rewards = NDArray[np.float32]


def positive_sentiment(texts: Sequence[str]) -> Rewards:
    """VADER's compound score of each text, in [-1, 1]; 0 for a text without words of sentiment.

    Source:
        Hutto and Gilbert (2014), VADER: A Parsimonious Rule-based Model for Sentiment Analysis of
        Social Media Text.
    """
    scores = [_analyzer().polarity_scores(text)["compound"] for text in texts]
    return np.array(scores, np.float32)


def negative_sentiment(texts: Sequence[str]) -> Rewards:
    """The opposite of `positive_sentiment`."""
    return -positive_sentiment(texts)


def conciseness(texts: Sequence[str]) -> Rewards:
    """Minus the number of words."""
    return np.array([-len(text.split()) for text in texts], np.float32)


TRUE_REWARDS: dict[str, Callable[[Sequence[str]], Rewards]] = {
    "positive": positive_sentiment,
    "negative": negative_sentiment,
    "concise": conciseness,
}


@cache
def _analyzer() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()
