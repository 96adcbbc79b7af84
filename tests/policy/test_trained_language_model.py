"""The language model that a run of texts ends with, taken out of its run."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest

from paljax import runs, storage
from paljax.checkpoints import Checkpoints
from paljax.loop import fit
from paljax.networks import lora
from paljax.networks.causal_lm import forward
from paljax.networks.loading import LanguageModel, load_language_model
from paljax.networks.sampling import Sampling, sample
from paljax.networks.tokenizers import SETTINGS, TOKENIZER
from paljax.policy.responses import draw_responses
from paljax.policy.tasks import policy_task
from paljax.policy.text_problems import text_problem
from tests.policy.test_text_run import (  # noqa: F401  (a fixture)
    LORA,
    POLICY,
    begun,
    configured,
    policy,
    run,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")
MODEL = runs.LANGUAGE_MODEL
FUNCTIONS = {"rewards": {"name": "functions", "functions": ["concise", "negative"]}}


LORA_ENDS = {"policy": LORA["policy"] | {"end_tokens": [2, 5]}}
SHORT = {"training": POLICY["training"] | {"epochs": 1, "steps_per_epoch": 1}}  # type: ignore[operator]


def opened(folder: Path) -> LanguageModel:
    return load_language_model(str(folder), downloads=folder)


def trained_params(folder: Path, name: str, **changes: Any) -> tuple[Any, Any]:
    """The iterate that a finished run evaluated, as its last checkpoint has it; and the problem."""
    config = configured(folder, **changes)
    problem = text_problem(config)
    task = policy_task(config, problem)
    with Checkpoints(folder / name / runs.CHECKPOINTS / task.name) as checkpoints:
        progress = fit(task, jax.random.key(config.seed), checkpoints=checkpoints,
                       log=runs.NoLog(), say=lambda line: None, progress_bar=False)  # fmt: skip
    return progress.best[config.evaluation.iterate], problem


@pytest.mark.parametrize(("parts", "iterate"), [({}, "average_weights"), (LORA, "last")])
def test_it_computes_what_the_run_evaluated(folder: Path, parts: Any, iterate: str) -> None:
    changes = parts | {"evaluation": POLICY["evaluation"] | {"iterate": iterate}}  # type: ignore[operator]
    assert run(POLICY | changes, "run", folder) == 0
    model, start = opened(folder / "run" / MODEL), opened(folder / "tiny")
    assert model.config == start.config
    params, problem = trained_params(folder, "run", **changes)
    if parts:
        params = lora.with_parts(problem.prompts.language_model, params)
    tokens, mask = problem.prompts.prompts
    logits = jax.jit(lambda params: forward(params, tokens, mask, start.config)[0])
    np.testing.assert_allclose(logits(model.params), logits(params), atol=1e-5)
    if not parts:
        jax.tree.map(np.testing.assert_array_equal, model.params, params)
    assert np.abs(logits(model.params) - logits(start.params)).max() > 1e-3  # it was trained
    greedy = jax.jit(partial(
        sample, config=start.config, num_samples=1, max_tokens=16,
        end_tokens=start.config.end_tokens, sampling=Sampling(temperature=0.0),
    ))  # fmt: skip
    drawn = [greedy(each, jax.random.key(0), problem.prompts.prompts) for each in
             (model.params, params)]  # fmt: skip
    np.testing.assert_array_equal(drawn[0].tokens, drawn[1].tokens)


def test_another_run_starts_from_it_and_says_what_the_run_said(folder: Path) -> None:
    table = pq.read_table(folder / "straight" / runs.SAMPLES).to_pydict()
    said = [text for name, text in zip(table["policy"], table["response"], strict=True)
            if name == "policy"]  # fmt: skip
    changes = policy(model=str(folder / "straight" / MODEL)) | FUNCTIONS | SHORT
    texts = text_problem(configured(folder, **changes)).texts
    key = jax.random.fold_in(jax.random.key(POLICY["seed"]), 1)
    params = jax.jit(texts.policy.init)(key)  # what it starts from
    again = draw_responses(texts.policy, texts.rewards, params, params, texts.prompts,
                           jax.random.split(key)[0], samples=4)  # fmt: skip
    assert texts.decoder.texts(again.tokens, again.mask) == said
    assert run(POLICY | changes, "further", folder) == 0
    assert (folder / "further" / MODEL / "config.json").is_file()


def test_hugging_face_reads_it(folder: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"}
    (folder / "tiny" / SETTINGS).write_text(json.dumps(settings))
    (folder / "tiny" / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert run(POLICY | LORA_ENDS | FUNCTIONS | SHORT, "run", folder) == 0
    made = folder / "run" / MODEL
    assert (made / TOKENIZER).read_bytes() == (folder / "tiny" / TOKENIZER).read_bytes()
    assert (made / "chat_template.jinja").is_file()
    model = opened(made)
    network = transformers.AutoModelForCausalLM.from_pretrained(made)
    assert network.generation_config.eos_token_id == [2, 5]  # what ended the run's responses
    assert model.config.end_tokens == (2, 5)
    ids = transformers.AutoTokenizer.from_pretrained(made)("the cat saw")["input_ids"]
    assert ids == [*model.tokenizer.opening, *model.tokenizer.encode("the cat saw")]
    with torch.no_grad():
        wanted = network(torch.tensor([ids])).logits.numpy()
    tokens = jnp.array([ids])
    logits, _ = forward(model.params, tokens, tokens >= 0, model.config)
    np.testing.assert_allclose(logits, wanted, atol=1e-5)


class Killed(BaseException):
    """What nothing catches."""


@pytest.mark.parametrize("at", ["config", "place"])
def test_a_run_that_was_killed_while_writing_it_ends_as_the_straight_run(
    folder: Path, monkeypatch: Any, at: str
) -> None:
    def kill(*_: Any) -> None:
        raise Killed

    assert not list((folder / "straight").glob(".*.[0-9]*"))
    with monkeypatch.context() as patch:
        # As a kill leaves it: nothing is cleared away.
        patch.setattr(storage.shutil, "rmtree", lambda *_, **__: None)
        if at == "config":
            patch.setattr("paljax.networks.huggingface.write_json", kill)
        else:
            replace = Path.replace
            patch.setattr(Path, "replace", lambda path, to: (
                kill() if to.name == MODEL else replace(path, to)))  # fmt: skip
        with pytest.raises(Killed):
            run(POLICY, "killed", folder)
    assert not (folder / "killed" / MODEL).exists()
    assert not (folder / "killed" / runs.METRICS).exists()
    assert [path.is_dir() for path in (folder / "killed").glob(f".{MODEL}.*")] == [True]
    assert run(POLICY, "killed", folder) == 0
    assert not list((folder / "killed").glob(f".{MODEL}.*"))
    for path in (folder / "straight" / MODEL).iterdir():
        assert (folder / "killed" / MODEL / path.name).read_bytes() == path.read_bytes(), path.name
    # Once more: what is there gives way to what is the same.
    assert run(POLICY, "killed", folder) == 0
    assert len(list((folder / "killed" / MODEL).iterdir())) == 3


def test_a_disk_that_is_full_leaves_none(folder: Path, monkeypatch: Any, capsys: Any) -> None:
    def full(draft: Path, tensors: Any) -> None:
        draft.write_bytes(b"the beginning")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("paljax.networks.huggingface._write_safetensors", full)
    capsys.readouterr()
    assert run(POLICY, "full", folder) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "model.safetensors: can't be written (No space left on device)" in line
    assert not list((folder / "full").glob(f"*{MODEL}*"))


def test_a_tokenizer_that_hugging_face_does_not_know_is_told(
    folder: Path, capsys: Any, monkeypatch: Any
) -> None:
    changes = policy(model="stories260k") | FUNCTIONS | SHORT
    capsys.readouterr()
    assert run(POLICY | changes, "stories", folder) == 0
    assert (
        "stories/model: the trained language model; Hugging Face reads it without its tokenizer "
        "(tokenizer.bin of llama2.c), paljax with it"
    ) in capsys.readouterr().out.splitlines()
    again = policy(model="stories/model") | FUNCTIONS
    config = configured(folder, **again)
    assert text_problem(config).texts.decoder.end_tokens == (1,)
