"""Known functions of texts: they judge a policy beside its learned rewards, or are its rewards.

As in MaxMin-RLHF (arXiv 2402.08925, section 5): positive sentiment against conciseness, and, a
conflict that no policy can please both sides of, positive against negative sentiment. Simulated
users of the experiments vote by them. N texts.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paljax.errors import UserError

Values = NDArray[np.float32]


def positive_sentiment(texts: Sequence[str]) -> Values:
    """VADER's compound score of each text, in [-1, 1]; 0 for a text without words of sentiment.

    Source:
        Hutto and Gilbert (2014), VADER: A Parsimonious Rule-based Model for Sentiment Analysis of
        Social Media Text.
    """
    scores = [_analyzer().polarity_scores(text)["compound"] for text in texts]
    return np.array(scores, np.float32)


def negative_sentiment(texts: Sequence[str]) -> Values:
    """The opposite of `positive_sentiment`."""
    return -positive_sentiment(texts)


def conciseness(texts: Sequence[str]) -> Values:
    """Minus the number of words."""
    return np.array([-len(text.split()) for text in texts], np.float32)


TEXT_FUNCTIONS: dict[str, Callable[[Sequence[str]], Values]] = {
    "positive": positive_sentiment,
    "negative": negative_sentiment,
    "concise": conciseness,
}


def functions_of(names: Sequence[str]) -> list[Callable[[Sequence[str]], Values]]:
    """Functions by their names, each seen to work on this machine.

    Raises:
        UserError: If what one needs is not installed.
    """
    functions = [TEXT_FUNCTIONS[name] for name in names]
    for function in functions:
        function(("a",))
    return functions


@cache
def _analyzer() -> Any:
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError:
        raise UserError(
            "sentiment is judged by VADER: install the extra 'experiments' "
            "(pip install 'paljax[experiments]')"
        ) from None
    return SentimentIntensityAnalyzer()
