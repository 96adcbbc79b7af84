"""Language models that several files of tests read."""

import json

import pytest

from paljax.networks.llama2c import load_llama2c
from paljax.networks.loading import STORIES_260K, STORIES_TOKENIZER, LanguageModel
from paljax.networks.tokenizers import load_llama2c_tokenizer
from tests.data.conftest import local_copy
from tests.networks import golden


@pytest.fixture(scope="session")
def golden_answers():
    return json.loads(golden.GOLDEN.read_text())


@pytest.fixture(scope="session")
def stories(tmp_path_factory) -> LanguageModel:
    nowhere = tmp_path_factory.mktemp("nowhere")
    weights, tokens = (local_copy(file, nowhere) for file in (STORIES_260K, STORIES_TOKENIZER))
    config, params = load_llama2c(weights)
    return LanguageModel(config, params, load_llama2c_tokenizer(tokens, config.vocabulary))
