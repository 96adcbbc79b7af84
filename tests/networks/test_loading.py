"""Models in files: stories260K against its documented text, GGUF, tokenizers, damaged files."""

import dataclasses
import json
import struct
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paljax.errors import UserError
from paljax.networks import huggingface
from paljax.networks.causal_lm import init
from paljax.networks.decoder_config import DecoderConfig, Rotary
from paljax.networks.gguf_files import load_gguf
from paljax.networks.llama2c import load_llama2c
from paljax.networks.loading import STORIES_260K, load_language_model, save_language_model
from paljax.networks.sampling import Prompts, Sampling, sample
from paljax.networks.tokenizers import load_llama2c_tokenizer
from tests.networks import tiny_checkpoints

pytestmark = pytest.mark.usefixtures("quick_compilation")

# llama2.c, doc/stories260K.md: what `./run stories260K.bin -z tok512.bin -t 0.0` prints.
DOCUMENTED = """\
Once upon a time, there was a little girl named Lily. She loved to play outside in the park. \
One day, she saw a big, red ball. She wanted to play with it, but it was too high.
Lily's mom said, "Lily, let's go to the park." Lily was sad and didn't know what to do. She said, \
"I want to play with your ball, but I can't find it."
Lily was sad and didn't know what to do. She said, "I'm sorry, Lily. I didn't know what to do."
Lily didn't want to help her mom, so she said, "I'm sorry, mom. I didn't know what to do." \
Her mom said, "Don't worry, Lily. We can help you."""


def greedily(model, prompts, tokens):
    run = partial(
        sample,
        config=model.config,
        num_samples=1,
        max_tokens=tokens,
        end_tokens=model.config.end_tokens,
        sampling=Sampling(temperature=0.0),
    )
    return jax.jit(run)(model.params, jax.random.key(0), prompts)


def test_stories260k_tells_its_documented_story(stories):
    bos = Prompts(jnp.array([[1]]), jnp.ones((1, 1), bool))
    drawn = greedily(stories, bos, 256)
    assert drawn.mask.sum() == 256
    assert stories.tokenizer.decode(drawn.tokens[0, 0].tolist()) == DOCUMENTED


@pytest.mark.parametrize("text", [DOCUMENTED, "a", "", "Grüße, 猫!\n", "  two  spaces", "xqzj"])
def test_text_survives_the_tokenizer(stories, text):
    tokens = stories.tokenizer.encode(text)
    assert all(0 <= token < 512 for token in tokens)
    assert stories.tokenizer.decode(tokens) == text


def test_tokens_are_those_that_the_model_writes(stories):
    drawn = greedily(stories, Prompts(jnp.array([[1]]), jnp.ones((1, 1), bool)), 200)
    tokens = drawn.tokens[0, 0].tolist()
    assert stories.tokenizer.encode(stories.tokenizer.decode(tokens)) == tokens


def merged_one_by_one(text, pieces, scores):
    """run.c's loop: search all pairs for the best after every merge."""
    tokens = [pieces.index(letter.encode()) for letter in " " + text]
    while True:
        best = (-1e10, None, None)
        for place in range(len(tokens) - 1):
            union = pieces[tokens[place]] + pieces[tokens[place + 1]]
            if union in pieces and scores[pieces.index(union)] > best[0]:
                best = (scores[pieces.index(union)], place, pieces.index(union))
        if best[1] is None:
            return tokens
        tokens[best[1] : best[1] + 2] = [best[2]]


def write_tokenizer(path: Path, pieces, scores):
    body = b"".join(
        struct.pack("<fi", score, len(piece)) + piece
        for piece, score in zip(pieces, scores, strict=True)
    )
    path.write_bytes(struct.pack("<i", max(map(len, pieces))) + body)
    return path


def test_merges_are_run_cs(tmp_path):
    generator = np.random.default_rng(0)
    letters = [b" ", b"a", b"b", b"c"]
    longer = {bytes(generator.choice(list(b"abc "), size=2 + n % 3).tolist()) for n in range(40)}
    pieces = [*letters, *sorted(longer)]
    scores = [float(score) for score in generator.integers(-9, 0, len(pieces))]  # with ties
    path = write_tokenizer(tmp_path / "t.bin", pieces, scores)
    tokenizer = load_llama2c_tokenizer(path, len(pieces))
    for _ in range(50):
        text = bytes(generator.choice(list(b"abc "), size=30).tolist()).decode()
        assert tokenizer.encode(text) == merged_one_by_one(text, pieces, scores)


TINY = DecoderConfig(
    architecture="llama",
    vocabulary=40,
    context=64,
    width=32,
    layers=2,
    heads=4,
    kv_heads=2,
    head_width=8,
    mlp_width=64,
    norm_epsilon=1e-5,
    rotary=Rotary(5000.0),
    bos_token=1,
    end_tokens=(2,),
)


def write_llama2c(path: Path, params, config: DecoderConfig):
    """The file that llama2.c would write, from the format's description."""

    def beside(rows, heads):  # pairs half a head apart -> beside each other
        shape = rows.shape
        halves = rows.reshape(shape[0], heads, 2, shape[1] // heads // 2, shape[2])
        return np.swapaxes(halves, 2, 3).reshape(shape)

    layers = params["layers"]
    rows = {
        name: np.swapaxes(np.asarray(layers[name]["kernel"]), 1, 2)
        for name in ("query", "key", "value", "output", "gate", "up", "down")
    }
    angles = np.zeros(config.context * config.head_width // 2)
    arrays = [
        params["embedding"],
        layers["attention_norm"]["scale"],
        beside(rows["query"], config.heads),
        beside(rows["key"], config.kv_heads),
        rows["value"],
        rows["output"],
        layers["mlp_norm"]["scale"],
        rows["gate"],
        rows["down"],
        rows["up"],
        params["final_norm"]["scale"],
        angles,
        angles,
        *([] if config.tied else [np.asarray(params["head"]).T]),
    ]
    header = struct.pack(
        "<7i",
        config.width,
        config.mlp_width,
        config.layers,
        config.heads,
        config.kv_heads,
        config.vocabulary if config.tied else -config.vocabulary,
        config.context,
    )
    path.write_bytes(
        header + b"".join(np.ascontiguousarray(array, "<f4").tobytes() for array in arrays)
    )
    return path


@pytest.mark.parametrize("tied", [True, False])
def test_llama2c_file_is_read_back(tmp_path, tied):
    config = dataclasses.replace(TINY, tied=tied, rotary=Rotary(10_000.0), end_tokens=(1,))
    params = init(jax.random.key(0), config)
    read_config, read = load_llama2c(write_llama2c(tmp_path / "m.bin", params, config))
    assert read_config == config
    jax.tree.map(np.testing.assert_array_equal, read, params)


def write_gguf(path: Path, params, config: DecoderConfig, *, quantised=False, add=None, **more):
    """A GGUF file as llama.cpp's converter writes it: Llama's queries and keys reordered."""
    import gguf

    from paljax.networks import gguf_files
    from paljax.networks.tensor_names import to_tensors

    kind = config.architecture
    writer = gguf.GGUFWriter(path, kind)
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.width)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.mlp_width)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_width)
    writer.add_rope_freq_base(config.rotary.theta)
    writer.add_layer_norm_rms_eps(config.norm_epsilon)
    writer.add_bos_token_id(config.bos_token)
    writer.add_eos_token_id(config.end_tokens[0])
    for name, text in more.items():
        writer.add_string(name.replace("__", "."), text)
    if add is not None:
        add(writer)
    top = {name: original for original, name in gguf_files._TOP.items()}
    layer = {name: original for original, name in gguf_files._LAYER.items()}
    tensors = to_tensors(params, config)
    for full in tensors.shapes:
        tensor, name = tensors.read(full), full.removeprefix("model.")
        if kind == "llama" and ("q_proj" in name or "k_proj" in name):
            heads = config.heads if "q_proj" in name else config.kv_heads
            halves = tensor.reshape(heads, 2, -1, tensor.shape[-1])
            tensor = np.swapaxes(halves, 1, 2).reshape(tensor.shape)
        if name in top:
            name = top[name]
        else:
            _, place, *middle, suffix = name.split(".")
            name = f"blk.{place}.{layer['.'.join(middle)]}.{suffix}"
        if quantised and tensor.ndim == 2:
            packed = gguf.quants.quantize(tensor, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(name, np.ascontiguousarray(tensor))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("quantised", [False, True])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_gguf_file_is_read_back(tmp_path, kind, quantised):
    config = dataclasses.replace(
        TINY,
        architecture=kind,
        qkv_bias=kind == "qwen2",
        qk_norm=kind == "qwen3",
        tied=kind == "qwen2",
    )
    params = init(jax.random.key(0), config)
    path = write_gguf(tmp_path / "m.gguf", params, config, quantised=quantised)
    read_config, read, _ = load_gguf(path)
    assert read_config == config
    # Q8_0 holds a weight to 1/254 of the largest of its block of 32.
    tolerance = 0.09 / 254 if quantised else 0
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=tolerance), read, params)


@pytest.mark.slow
def test_smollm2_writes_a_sensible_sentence(tmp_path):
    try:
        model = load_language_model("smollm2_135m_instruct", downloads=tmp_path)
    except UserError as error:
        pytest.skip(str(error))
    question = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    tokens = model.tokenizer.encode(question)
    assert tokens[0] == 1
    drawn = greedily(model, Prompts(jnp.array([tokens]), jnp.ones((1, len(tokens)), bool)), 24)
    text = model.tokenizer.decode(drawn.tokens[0, 0].tolist())
    assert "Paris" in text
    assert not drawn.mask.all()  # it came to an end


def truncated(path: Path, name: str, keep: float = 0.5) -> Path:
    content = path.read_bytes()
    (path.parent / name).write_bytes(content[: int(len(content) * keep)])
    return path.parent / name


def changed(folder: Path, drop=(), **values) -> Path:
    """A checkpoint with another `config.json`."""
    record = json.loads((folder / "config.json").read_text()) | values
    (folder / "config.json").write_text(
        json.dumps({key: value for key, value in record.items() if key not in drop})
    )
    return folder


def with_tensors(folder: Path, drop=(), **tensors) -> Path:
    from safetensors.numpy import load_file, save_file

    held = load_file(folder / "model.safetensors") | tensors
    save_file({n: t for n, t in held.items() if n not in drop}, folder / "model.safetensors")
    return folder


def broken_index(folder: Path) -> Path:
    (folder / huggingface.INDEX).write_text("{}")
    return folder


def cut_weights(folder: Path) -> Path:
    truncated(folder / "model.safetensors", "model.safetensors")
    return folder


def without_weights(folder: Path) -> Path:
    (folder / "model.safetensors").unlink()
    return folder


NORM = "model.layers.1.input_layernorm.weight"
SCALING = {"rope_type": "yarn", "factor": 2.0}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}

# A change to a folder with a tiny Qwen3, and the line that answers it.
BAD_FOLDERS = {
    "unknown architecture": (
        partial(changed, model_type="qwen4"),
        r"config.json: model_type: unknown architecture 'qwen4'; did you mean 'qwen3'\?",
    ),
    "no architecture": (
        partial(changed, drop=["model_type"]),
        r"unknown architecture None; choose one of 'gpt2', 'llama', 'qwen2', 'qwen3'",
    ),
    "unknown scaling": (
        partial(changed, rope_scaling=SCALING),
        r"rope_scaling: 'yarn' is not supported; choose one of 'default', 'linear', 'llama3'",
    ),
    "half a scaling": (
        partial(changed, rope_scaling={"rope_type": "llama3", "factor": 8.0}),
        r"rope_scaling: llama3 needs low_freq_factor, high_freq_factor, original_max_",
    ),
    **{
        f"{key}={value!r}": (partial(changed, **{key: value}), line)
        for key, value, line in [
            ("rope_scaling", {"rope_type": "linear"}, r"rope_scaling\.factor is missing"),
            (
                "rope_scaling",
                "linear",
                r"rope_scaling: 'linear' is wrong; wanted its keys",
            ),
            ("rope_scaling", LLAMA3 | {"factor": None}, r"rope_scaling: llama3 needs factor$"),
            ("rope_scaling", LLAMA3 | {"factor": 0}, r"rope_scaling\.factor: 0 .*a number above 0"),
            (
                "rope_scaling",
                LLAMA3 | {"original_max_position_embeddings": 2.5},
                r"original_max_position_embeddings: 2\.5 is not a size",
            ),
            (
                "rope_scaling",
                {"type": "linear", "factor": "2"},
                r"rope_scaling\.factor: '2' is wrong; wanted a number above 0",
            ),
            (
                "rope_parameters",
                {"rope_theta": -1.0},
                r"rope_parameters\.rope_theta: -1\.0 ",
            ),
            ("rope_theta", None, r"rope_theta: None is wrong; wanted a number above 0"),
            ("rms_norm_eps", None, r"rms_norm_eps: None is wrong; wanted a number above 0"),
            ("rope_theta", float("inf"), r"rope_theta: inf is wrong; wanted a number above 0"),
            ("rms_norm_eps", True, r"rms_norm_eps: True is wrong; wanted a number above 0"),
            (
                "eos_token_id",
                2.5,
                r"eos_token_id: 2\.5 is wrong; wanted a token's number or sev",
            ),
            ("eos_token_id", "</s>", r"eos_token_id: '</s>' is wrong; wanted a token's number or"),
            (
                "eos_token_id",
                [2, None],
                r"eos_token_id: \[2, None\] is wrong; wanted a token's",
            ),
            ("bos_token_id", "<s>", r"bos_token_id: '<s>' is wrong; wanted a token's number"),
        ]
    },
    "other activation": (
        partial(changed, hidden_act="relu"),
        r"hidden_act: 'relu' is not supported for qwen3; choose one of 'silu'",
    ),
    "no size": (partial(changed, drop=["hidden_size"]), r"hidden_size is missing"),
    "size of nothing": (
        partial(changed, num_hidden_layers=0),
        r"num_hidden_layers: 0 is not a size; wanted a whole number of at least 1",
    ),
    "uneven heads": (
        partial(changed, num_key_value_heads=3),
        r"4 attention heads can't share 3 heads of keys and values evenly",
    ),
    "missing tensors": (
        partial(with_tensors, drop=[NORM, "lm_head.weight"]),
        r"missing 2 tensors \(layers.1.input_layernorm.weight, lm_head.weight\) of a qwen3 model",
    ),
    "more layers than tensors": (
        partial(changed, num_hidden_layers=5),
        r"missing 22 tensors \(.*, .*, .*, .* and 18 more\)",
    ),
    "extra tensor": (
        partial(with_tensors, classifier=np.zeros(3, np.float32)),
        r"1 tensor \(classifier\) too many for a qwen3 model as configured",
    ),
    "other vocabulary": (
        partial(changed, vocab_size=36),
        r"tensor model.embed_tokens.weight: shape \(37, 24\), wanted \(36, 24\)",
    ),
    "cut weights": (cut_weights, r"model.safetensors: damaged: "),
    "no weights": (without_weights, r"has neither model.safetensors nor model.safetensors.index"),
    "broken index": (broken_index, r"index.json: damaged: wanted a weight_map"),
}


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_bad_folder_is_refused_in_one_line(tmp_path, case):
    change, line = BAD_FOLDERS[case]
    folder = change(tiny_checkpoints.write("qwen3", tmp_path / "model"))
    refused(lambda: huggingface.load(folder), line)


def refused(load, line):
    with pytest.raises(UserError, match=line) as caught:
        load()
    assert "\n" not in str(caught.value)


def test_bad_files_are_refused_in_one_line(tmp_path):
    params = init(jax.random.key(0), TINY)
    model = write_llama2c(tmp_path / "m.bin", params, TINY)
    tokens = write_tokenizer(tmp_path / "t.bin", [b"a", b"b", b"ab"], [0.0, 0.0, 1.0])
    gguf = write_gguf(tmp_path / "m.gguf", params, TINY)
    other = write_gguf(
        tmp_path / "o.gguf", params, TINY, tokenizer__ggml__model="llama", tokenizer__ggml__pre="x"
    )
    scaled = write_gguf(tmp_path / "s.gguf", params, TINY, llama__rope__scaling__type="yarn")
    (tmp_path / "text.bin").write_text("no model of any kind, but long enough for a header")
    cases = [
        (partial(load_llama2c, tmp_path / "no.bin"), r"no.bin: can't be read \(No such file"),
        (
            partial(load_llama2c, truncated(model, "half.bin")),
            r"half.bin: damaged: \d+ bytes, its header announces a model of \d+",
        ),
        (
            partial(load_llama2c, truncated(model, "head.bin", 1e-4)),
            r"head.bin: damaged: \d bytes are too few for a header",
        ),
        (partial(load_llama2c, tmp_path / "text.bin"), r"damaged, or no model of llama2.c"),
        (
            partial(load_llama2c_tokenizer, tokens, 40),
            r"t.bin: has 3 tokens, the model's vocabulary has 40",
        ),
        (
            partial(load_llama2c_tokenizer, truncated(tokens, "cut.bin", 0.9), 3),
            r"cut.bin: damaged, or no tokenizer of llama2.c",
        ),
        (partial(load_gguf, tmp_path / "no.gguf"), r"no.gguf: can't be read"),
        (partial(load_gguf, truncated(gguf, "half.gguf")), r"half.gguf: damaged, or no GGUF file"),
        (partial(load_gguf, model), r"m.bin: damaged, or no GGUF file"),
        (partial(load_gguf, scaled), r"s.gguf: scaled rotary positions are not read from GGUF"),
        (
            partial(load_language_model, str(other), downloads=tmp_path),
            r"tokenizer.ggml: 'llama' split by 'x' is not supported; wanted 'gpt2' split by",
        ),
        (
            partial(load_language_model, "storys260k", downloads=tmp_path),
            r"storys260k: no such folder, .*; among the models by name, did you mean 'stories260k'",
        ),
    ]
    for load, line in cases:
        refused(load, line)


def test_tokenizer_with_more_tokens_than_the_model_is_refused(tmp_path):
    import tokenizers

    folder = tiny_checkpoints.write("qwen3", tmp_path / "model")
    words = {f"w{number}": number for number in range(50)}
    model = tokenizers.models.WordLevel(words, unk_token="w0")
    tokenizers.Tokenizer(model).save(str(folder / "tokenizer.json"))
    line = r"its tokenizer has 50 tokens, the model's vocabulary has 37"
    refused(lambda: load_language_model(str(folder), downloads=tmp_path), line)
    (folder / "tokenizer.json").write_text("{")
    refused(lambda: load_language_model(str(folder), downloads=tmp_path), r"tokenizer.json: damag")


def test_model_by_name_comes_from_the_mirror(stories, tmp_path, monkeypatch):
    model = load_language_model("stories260k", downloads=tmp_path)
    jax.tree.map(np.testing.assert_array_equal, model.params, stories.params)
    assert not list(tmp_path.iterdir())
    assert STORIES_260K.path.endswith("stories260K.bin")


def gguf_with_tokenizer(path: Path, params, *, opens: bool) -> Path:
    """The same with a byte-level tokenizer of 40 tokens, and a template for chats."""
    import gguf

    tokens = ["<pad>", "<|start|>", "<|end|>", "a", "b", "Ġ", "ab", "Ġab", *map(str, range(10))]
    tokens += [chr(65 + number) for number in range(TINY.vocabulary - len(tokens))]

    def add(writer):
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("smollm")
        writer.add_token_list(tokens)
        writer.add_token_merges(["a b", "Ġ ab"])
        writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * 37)
        writer.add_add_bos_token(opens)
        writer.add_chat_template("{{ messages[0].content }}")

    return write_gguf(path, params, TINY, add=add)


@pytest.mark.parametrize("opens", [False, True])
def test_gguf_model_is_saved_as_hugging_face_reads_it(tmp_path, opens):
    params = init(jax.random.key(0), TINY)
    path = gguf_with_tokenizer(tmp_path / "m.gguf", params, opens=opens)
    model = load_language_model(str(path), downloads=tmp_path)
    (tmp_path / "saved").mkdir()
    save_language_model(model, tmp_path / "saved")
    again = load_language_model(str(tmp_path / "saved"), downloads=tmp_path)
    assert again.config == model.config
    jax.tree.map(np.testing.assert_array_equal, again.params, model.params)
    text = "ab ab 12aB<|end|>"
    ids = [6, 7, 5, 9, 10, 3, 19, 2]
    assert model.tokenizer.encode(text) == again.tokenizer.encode(text) == ids
    assert model.tokenizer.decode(ids) == again.tokenizer.decode(ids) == "ab ab 12aB"
    assert model.tokenizer.opening == again.tokenizer.opening == (1,) * opens
    transformers = pytest.importorskip("transformers")
    read = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert read(text)["input_ids"] == [*again.tokenizer.opening, *ids]
    assert (read.bos_token_id, read.eos_token_id) == (1, 2)
    chat = [{"role": "user", "content": "ab"}]
    assert read.apply_chat_template(chat, tokenize=False) == "ab"


def test_llama2c_model_is_saved_with_its_own_tokenizer(stories, tmp_path):
    save_language_model(stories, tmp_path)
    again = load_language_model(str(tmp_path), downloads=tmp_path)
    assert again.config == stories.config
    jax.tree.map(np.testing.assert_array_equal, again.params, stories.params)
    assert again.tokenizer.encode(DOCUMENTED) == stories.tokenizer.encode(DOCUMENTED)
    assert again.tokenizer.opening == stories.tokenizer.opening
    assert {path.name for path in again.files} == {
        "config.json", "model.safetensors", "tokenizer.bin",
    }  # fmt: skip


def test_failed_save_leaves_no_config(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    params = init(jax.random.key(0), TINY)
    refused(lambda: huggingface.save(tmp_path / "file" / "x", params, TINY), r"can't be written")

    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(huggingface.os, "fsync", full)
    refused(lambda: huggingface.save(tmp_path / "m", params, TINY), r"No space left on device")
    assert not list((tmp_path / "m").iterdir())
