"""The encoder `format`: standardised by training texts, written and read back, beside others."""

import json

import numpy as np
import pytest

from paljax.data.encoders import encoder_from_json, fit_encoder
from paljax.data.encoders.format import FORMAT_FEATURES, Format, format_features
from paljax.data.encoders.item_id import ItemId
from paljax.data.messages import written
from paljax.errors import UserError

TEXTS = ("Short.", "A text that is LONGER, by far!", "no end\n**bold**", "never seen in training?")
TRAINING = np.array([0, 1, 2, 1], np.int32)


def test_training_texts_have_mean_zero_and_the_given_spread():
    found = fit_encoder([Format(scale=3.0)], TEXTS, TRAINING).encode(TEXTS)
    assert found.shape == (4, len(FORMAT_FEATURES))
    seen, raw = found[TRAINING], format_features(TEXTS)[TRAINING]
    varies = raw.std(axis=0) > 0
    assert 5 < varies.sum() < len(varies)
    np.testing.assert_allclose(seen.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(seen.std(axis=0)[varies], 3.0, rtol=1e-4)
    assert np.array_equal(np.argsort(found[:, 0]), np.argsort([len(text) for text in TEXTS]))


def test_it_is_written_and_read_back_beside_learned_vectors():
    encoder = fit_encoder([Format(), ItemId(width=2)], TEXTS, TRAINING)
    again = encoder_from_json(json.loads(json.dumps(encoder.to_json())))
    np.testing.assert_array_equal(again.encode(TEXTS).features, encoder.encode(TEXTS).features)
    assert encoder.blank().features.shape == (1, len(FORMAT_FEATURES))
    assert encoder.encode(TEXTS).ids.tolist() == [0, 1, 2, -1]
    assert encoder.remarks(TEXTS) == {}


def test_a_message_has_the_format_of_its_text():
    messages = tuple(written([{"role": "assistant", "content": text}]) for text in TEXTS)
    np.testing.assert_array_equal(format_features(messages), format_features(TEXTS))
    part = fit_encoder([Format()], messages, TRAINING)
    np.testing.assert_array_equal(part.encode(TEXTS), part.encode(messages))


def test_numbers_have_no_format():
    with pytest.raises(UserError, match=r"encoder: 'format' needs items that are text.*'numbers'"):
        fit_encoder([Format()], np.zeros((3, 2), np.float32), np.array([0, 1]))
