"""`transformers` pools what Hugging Face's library computes, encoders and decoders alike."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra `embed` (torch) is not installed")
transformers = pytest.importorskip("transformers", reason="the extra `embed` is not installed")

from paljax.data.encoders import MiniLM, Transformers, encoder_from_json, fit_encoder  # noqa: E402
from paljax.data.encoders.minilm import open_model as open_minilm  # noqa: E402
from paljax.data.encoders.transformers import open_model  # noqa: E402
from paljax.errors import UserError  # noqa: E402
from tests import tiny_bert  # noqa: E402

TEXTS = ("the weather is lovely today", "he drove", "taxes", "weather " * 50)
TOKENIZER = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "unk_token": "[UNK]",
    "pad_token": "[PAD]",
    "model_max_length": 20,
}


def embedded(opened, texts):
    vectors, cut = np.zeros((len(texts), opened.width), np.float32), np.zeros(len(texts), bool)
    for block in opened.embed(texts):
        vectors[block.places], cut[block.places] = block.vectors, block.cut
    return vectors, cut


@pytest.fixture
def encoder(tmp_path):
    folder = tiny_bert.write(tmp_path / "encoder")
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZER))
    return folder


@pytest.fixture
def decoder(tmp_path):
    torch.manual_seed(0)
    sizes = transformers.GPT2Config(
        vocab_size=15, n_positions=16, n_embd=8, n_layer=2, n_head=2, initializer_range=0.5
    )
    folder = tmp_path / "decoder"
    transformers.GPT2LMHeadModel(sizes).save_pretrained(folder)
    tiny_bert.write_tokenizer(folder / "tokenizer.json")
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZER))
    return folder


@pytest.mark.parametrize("pooling", ["mean", "cls", "last_token"])
@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_each_text_alone_gives_the_same(kind, pooling, request):
    folder = request.getfixturevalue(kind)
    opened = open_model(Transformers(model=str(folder), pooling=pooling, normalise=False))
    vectors, cut = embedded(opened, TEXTS)
    np.testing.assert_array_equal(cut, [False, False, False, True])
    network = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for text, vector in zip(TEXTS, vectors, strict=True):
        inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=opened.limit)
        inputs = {"input_ids": inputs["input_ids"]}
        with torch.inference_mode():
            hidden = network(**inputs).last_hidden_state[0].numpy()
        expected = {"mean": hidden.mean(0), "cls": hidden[0], "last_token": hidden[-1]}[pooling]
        np.testing.assert_allclose(vector, expected, atol=1e-5)


def test_our_bert_and_theirs_agree(encoder):
    (encoder / "sentence_bert_config.json").unlink()
    theirs, _ = embedded(open_model(Transformers(model=str(encoder))), TEXTS[:3])
    ours, _ = embedded(open_minilm(MiniLM(model=str(encoder))), TEXTS[:3])
    np.testing.assert_allclose(theirs, ours, atol=1e-5)


def test_it_is_a_part_of_an_encoder(decoder, tmp_path, monkeypatch):
    monkeypatch.setenv("PALJAX_DATA_DIR", str(tmp_path / "data"))
    config = Transformers(model=str(decoder), pooling="last_token", max_length=12)
    encoder = fit_encoder([config], TEXTS, np.array([0, 1, 2], np.int32))
    again = encoder_from_json(json.loads(json.dumps(encoder.to_json())))
    np.testing.assert_array_equal(again.encode(TEXTS), encoder.encode(TEXTS))
    assert encoder.remarks(TEXTS) == {"transformers: texts cut at 12 tokens": 1}


@pytest.mark.parametrize(
    ("file", "content"),
    [("config.json", b"{}"), ("model.safetensors", b"\xff" * 9), ("tokenizer.json", b"{")],
)
def test_a_damaged_model_is_told_in_one_line(file, content, encoder):
    (encoder / file).write_bytes(content)
    with pytest.raises(UserError, match="can't read this model: ") as caught:
        embedded(open_model(Transformers(model=str(encoder))), TEXTS)
    assert "\n" not in str(caught.value)
