"""A text is embedded once, whatever happens; embeddings are centred and scaled by training rows."""

from typing import Literal

import numpy as np
import pytest

from paljax.data.encoders.part import PartConfig
from paljax.data.encoders.text_embeddings import Block, TextModel, text_kind
from paljax.data.messages import written
from paljax.errors import UserError

TEXTS = tuple(f"text {number}" for number in range(7))
ROWS = np.array([0, 1, 1, 4], np.int32)


class Config(PartConfig):
    name: Literal["lengths"] = "lengths"
    model: str = "somewhere"


class Model:
    """Embeds a text as the codes of its first and last letter; counts what it is asked for."""

    def __init__(self, revision="first", fails_after=None):
        self.revision, self.fails_after, self.embedded, self.opened = revision, fails_after, [], 0

    def open(self, config):
        self.opened += 1
        return TextModel(2, 6, self.revision, self._embed)

    def _embed(self, texts):
        for place in reversed(range(len(texts))):
            if self.fails_after is not None and len(self.embedded) >= self.fails_after:
                raise KeyboardInterrupt
            self.embedded.append(texts[place])
            yield Block(
                np.array([place]), vectors([texts[place]]), np.array([len(texts[place]) > 6])
            )


def vectors(texts):
    return np.array([[ord(text[0]), ord(text[-1])] for text in texts], np.float32)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PALJAX_DATA_DIR", str(tmp_path))


def fitted(model, texts=TEXTS):
    return text_kind(Config, model.open).fit(Config(), texts, ROWS, "encoder")


def test_embeddings_are_centred_and_scaled_by_what_appears_in_training():
    part = fitted(Model())
    encoded = part.encode(TEXTS)
    np.testing.assert_allclose(encoded[ROWS].mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(np.square(encoded[ROWS]).mean(), 1, rtol=1e-6)
    # One factor for all numbers: differences keep their directions.
    raw = vectors(TEXTS)
    np.testing.assert_allclose((encoded[5] - encoded[2]) * part.scale, raw[5] - raw[2], rtol=1e-5)
    np.testing.assert_array_equal(part.blank(), np.zeros((1, 2)))


def test_a_message_is_embedded_as_its_text_and_once():
    messages = tuple(written([{"role": "assistant", "content": text}]) for text in TEXTS)
    model = Model()
    part = fitted(model, messages)
    assert sorted(model.embedded) == sorted(TEXTS)
    assert part.remarks(messages) == part.remarks(TEXTS) == {}
    np.testing.assert_array_equal(part.encode(TEXTS), part.encode(messages))
    np.testing.assert_array_equal(part.mean, fitted(model).mean)
    assert len(model.embedded) == len(TEXTS)
    # Of several turns it is read who speaks.
    part.encode((written([{"role": r, "content": r} for r in ("user", "assistant")]),))
    assert model.embedded[-1] == "user: user\n\nassistant: assistant"


def test_one_text_alone_stays_finite():
    assert np.isfinite(fitted(Model(), ("same",) * 5).encode(("same", "other"))).all()


def test_a_second_run_embeds_nothing_and_opens_no_weights():
    first, second = Model(), Model()
    part = fitted(first)
    assert sorted(first.embedded) == sorted(TEXTS)
    np.testing.assert_array_equal(fitted(second).encode(TEXTS), part.encode(TEXTS))
    assert second.embedded == []
    read = text_kind(Config, second.open).from_json(part.to_json())
    opened = second.opened
    np.testing.assert_array_equal(read.encode(TEXTS[::-1]), part.encode(TEXTS)[::-1])
    assert second.opened == opened


def test_an_interrupted_run_goes_on_where_it_was():
    first, second = Model(fails_after=3), Model()
    with pytest.raises(KeyboardInterrupt):
        fitted(first)
    fitted(second)
    assert sorted(first.embedded + second.embedded) == sorted(TEXTS)
    assert len(first.embedded) == 3


def test_repeated_texts_are_embedded_once():
    model = Model()
    part = fitted(model)
    encoded = part.encode(("new", "new", "text 0"))
    assert model.embedded.count("new") == 1
    np.testing.assert_array_equal(encoded[0], encoded[1])


def test_another_revision_has_embeddings_of_its_own_and_a_run_refuses_it():
    part = fitted(Model())
    other = Model(revision="second")
    fitted(other)
    assert len(other.embedded) == len(TEXTS)
    read = text_kind(Config, other.open).from_json(part.to_json())
    read.encode(TEXTS)  # known texts need no model
    with pytest.raises(
        UserError, match=r"files of somewhere are not .*revision second.*with first"
    ):
        read.encode(("new",))


def test_texts_that_were_cut_are_counted_also_when_they_come_from_the_cache():
    long = ("a text", "a longer text", "a longer text yet")
    fitted(Model(), (*long, "d", "e"))
    part = fitted(Model(), (*long, "d", "e"))
    assert part.remarks((*long, "d")) == {"texts cut at 6 tokens": 2}
    assert part.remarks(("d",)) == {}


def test_numbers_are_refused():
    with pytest.raises(UserError, match=r"encoder: 'lengths' needs items that are text.*3 numbers"):
        fitted(Model(), np.zeros((5, 3), np.float32))
