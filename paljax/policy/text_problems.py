"""The problem of a language model: prompts of a file, rewards of texts, calibrated once."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from paljax import digests, pretrained
from paljax.config.policy import (
    CausalLMPolicy,
    FunctionRewards,
    GroupsSection,
    PolicyConfig,
    RunRewards,
)
from paljax.data.encoders.causal_lm import open_language_model
from paljax.errors import UserError, about
from paljax.learners.fit_policy import Rewards
from paljax.networks.causal_lm import Compute, Places
from paljax.networks.decoder_config import DecoderConfig
from paljax.networks.loading import LanguageModel
from paljax.networks.sampling import POLICY as ITSELF
from paljax.networks.sampling import Prompts, Sampling
from paljax.policies import Policy
from paljax.policy import group_rewards as grouping
from paljax.policy.decoding import Decoder
from paljax.policy.grid import (
    grid_of,
    placed,
    places_on,
    repeated,
    require_divisible,
    start_on_grid,
)
from paljax.policy.known_rewards import of_functions
from paljax.policy.language_model import Lora, language_model_policy, left_padded
from paljax.policy.normalize_rewards import (
    Calibration,
    apply,
    calibrate,
    of_groups,
    require_finite,
    require_varied,
)
from paljax.policy.problems import Problem, Texts, build_groups
from paljax.policy.prompt_files import hold_out, read_prompts
from paljax.policy.responses import Responses, TextRewards, draw_responses
from paljax.policy.text_policy import TextPrompts, take, text_policy
from paljax.policy.text_rewards import of_texts, open_readers, prompt_inputs, require_same_model
from paljax.reward.trained_model import digest_of, load_model
from paljax.text_functions import functions_of

_NOTHING = Calibration(None, cast(Any, np.ones(1, np.float32)), None, None)  # until it is made


class _Wanted(NamedTuple):
    """What is wanted of responses, before groups weigh it and it is normalised."""

    groups: dict[str, Any]  # keys of the configuration's `groups`, which go before these
    columns: tuple[str, ...]  # names of the K rewards
    left_out: str  # what to say of rewards that too few want; empty: there are none
    rewards: TextRewards
    prompt_inputs: Callable[[tuple[str, ...]], Any]  # what rewards read of prompts
    readers: dict[str, Any]  # parameters of models that read responses, beside the policy's
    inputs: dict[str, str]  # digests of the files that they are from, by key


def text_problem(config: PolicyConfig) -> Problem:
    """The problem of a configuration whose policy is a language model.

    The reference policy answers every prompt `rewards.calibration` times; what rewards are measured
    by is frozen then.

    Raises:
        UserError: If the model, the prompts, the reward run or the groups are wrong.
    """
    section, source = config.policy, config.rewards
    assert isinstance(section, CausalLMPolicy)
    assert isinstance(source, RunRewards | FunctionRewards)
    assert config.prompts is not None
    path = Path(config.prompts.path)
    lines = read_prompts(path)
    texts = hold_out(lines, config.prompts.held_out, seed=config.seed)
    grid = grid_of(config.parallel.data, config.parallel.fsdp)
    places = None if grid is None else places_on(grid)
    model = starting_model(section)
    require_divisible(
        grid,
        width=model.config.width,
        batch=config.training.prompts_per_batch or len(texts.train),
    )
    policy, itself = _policies(section, model, grid, places)
    ends = end_tokens_of(section, model.config)
    decoder = Decoder(model.tokenizer.decode, ends)
    functions_of(config.evaluation.functions)  # what is not installed is told before a fit
    wanted = _wanted(source, model, decoder, places)
    groups, matrix = build_groups(
        _filled(config.groups, wanted.groups),
        len(wanted.columns),
        objective=config.objective.name,
    )
    with about(path):
        frozen, readers = placed(model.params, grid), repeated(wanted.readers, grid)
        tables = [
            _table(model, wanted, part, lines, section.max_new_tokens)._replace(
                language_model=frozen, readers=readers
            )
            for part in texts
        ]
    prompts, held_out = tables
    reference = _answers(itself, wanted.rewards, prompts, config, source.calibration, grid)
    by_groups = jnp.asarray(matrix, jnp.float32)
    calibration = _calibrated(config, wanted.columns, groups.names, by_groups, reference)
    in_nats = partial(weighed_by_groups, wanted.rewards, by_groups)
    return Problem(
        policy=policy,
        rewards=Rewards(partial(normalised, in_nats)),
        groups=groups,
        num_rewards=len(wanted.columns),
        prompts=prompts._replace(calibration=calibration),
        take=take,
        prompt_weights=np.full(len(texts.train), 1 / len(texts.train)),
        inputs=_inputs(lines, model) | wanted.inputs,
        tables=None,
        texts=Texts(
            policy=itself,
            decoder=decoder,
            held_out=texts.evaluation,
            prompts=held_out,
            rewards=in_nats,
            scale=calibration.scale if config.normalize == "reference" else None,
            remarks=tuple(_remarks(wanted.left_out, reference, ends)),
            grid=grid,
        ),
    )


def configured_policy(
    section: CausalLMPolicy,
    sizes: DecoderConfig,
    params: Any | None,
    *,
    places: Places | None = None,
    draw_from: Sampling | None = None,
) -> Policy:
    """The policy of a section, on `TextPrompts`.

    Args:
        section: The configuration's.
        sizes: Of the network.
        params: What training starts from, or their shapes; None: random ones.
        places: How the stream lies on several devices.
        draw_from: What responses are drawn from; None: what the section says.

    Raises:
        UserError: If LoRA or an end token does not fit the network.
    """
    lora_options = None
    if section.lora is not None:
        lora_options = Lora(section.lora.rank, section.lora.alpha, tuple(section.lora.targets))
    made = language_model_policy(
        sizes,
        # With LoRA the base comes with the prompts, and an initial state without it.
        params if lora_options is None else None,
        max_tokens=section.max_new_tokens,
        end_tokens=end_tokens_of(section, sizes),
        lora_options=lora_options,
        draw_from=draw_from or Sampling(section.temperature, section.top_k, section.top_p),
        compute=Compute(
            jnp.dtype(section.dtype).type, section.checkpointing, section.unroll, places
        ),
    )
    policy = text_policy(made, low_rank=lora_options is not None)
    jax.eval_shape(policy.init, jax.random.key(0))  # LoRA that does not fit is told here
    return policy


def end_tokens_of(section: CausalLMPolicy, sizes: DecoderConfig) -> tuple[int, ...]:
    """Tokens that end a response."""
    return sizes.end_tokens if section.end_tokens is None else tuple(section.end_tokens)


def weighed_by_groups(
    in_nats: TextRewards,
    matrix: Float[Array, "G K"],
    prompts: TextPrompts,
    tokens: Int[Array, "B n T"],
    mask: Array,
) -> Float[Array, "B n G"]:
    """What each group makes of the rewards, in nats."""
    return of_groups(in_nats(prompts, tokens, mask), matrix)


def normalised(
    in_nats: TextRewards, prompts: TextPrompts, tokens: Int[Array, "B n T"], mask: Array
) -> Float[Array, "B n G"]:
    """Rewards measured by the prompts' calibration."""
    return apply(prompts.calibration, in_nats(prompts, tokens, mask))


def starting_model(section: CausalLMPolicy) -> LanguageModel:
    """The language model that a policy starts from; read once a process."""
    with about("policy.model"):
        return open_language_model(
            section.model, tokenizer=section.tokenizer, revision=section.revision
        )


def _inputs(lines: Mapping[str, int], model: LanguageModel) -> dict[str, str]:
    return {
        "prompts.path": digests.of_record(list(lines)),
        "policy.model": pretrained.digest(model.files, settings={}),
    }


def _policies(
    section: CausalLMPolicy, model: LanguageModel, grid: Mesh | None, places: Places | None
) -> tuple[Policy, Policy]:
    """The policy as it draws while it learns, and the same as it draws from itself.

    Utilities and KL are the policy's: it is measured on what it says itself, without the
    temperature and the cuts that it may explore with.
    """
    configured = partial(configured_policy, section, model.config, model.params, places=places)
    with about(f"policy: {section.model}"):
        policy, itself = configured(), configured(draw_from=ITSELF)
    if grid is None:
        return policy, itself
    return start_on_grid(policy, grid), start_on_grid(itself, grid)


def _wanted(
    source: RunRewards | FunctionRewards,
    model: LanguageModel,
    decoder: Decoder,
    places: Places | None,
) -> _Wanted:
    if isinstance(source, FunctionRewards):
        return _of_functions(source, decoder)
    return _of_run(source, model, decoder, places)


def _of_run(
    source: RunRewards, model: LanguageModel, decoder: Decoder, places: Places | None
) -> _Wanted:
    """What the groups of a reward run want."""
    trained = load_model(Path(source.run))
    with about("rewards"):
        found = grouping.group_rewards(
            trained,
            source.by,
            num_clusters=source.num_clusters,
            least_people=source.least_people,
        )
    require_same_model(found, model, run=source.run)
    readers = open_readers(found, run=source.run)
    groups = found.groups
    return _Wanted(
        groups={
            "names": list(groups.names),
            "matrix": groups.matrix.tolist(),
            "shares": groups.people.tolist(),
        },
        columns=groups.columns,
        left_out=_left_out(groups.dropped, source.least_people),
        rewards=of_texts(
            found,
            model.config,
            opening=model.tokenizer.opening,
            decoder=decoder,
            readers=readers,
            places=places,
        ),
        prompt_inputs=partial(prompt_inputs, found),
        readers={name: reader.params for name, reader in readers.items()},
        inputs={"rewards.run": digest_of(trained)},
    )


def _of_functions(source: FunctionRewards, decoder: Decoder) -> _Wanted:
    """Each function as a group of its name, all of one size."""
    return _Wanted(
        groups={"names": source.functions},
        columns=tuple(source.functions),
        left_out="",
        rewards=of_functions(source.functions, decoder),
        prompt_inputs=lambda prompts: None,
        readers={},
        inputs={},
    )


def _filled(section: GroupsSection, found: dict[str, Any]) -> GroupsSection:
    """What the configuration leaves open about groups is as the rewards have it."""
    if section.matrix is not None:  # other groups than the rewards'
        found = {}
    given = {key: value for key, value in section.model_dump().items() if value is not None}
    return GroupsSection(**(found | given))


def _table(
    model: LanguageModel,
    wanted: _Wanted,
    texts: tuple[str, ...],
    lines: Mapping[str, int],
    max_tokens: int,
) -> TextPrompts:
    """Prompts of some texts, without what is frozen; `lines` is where each text stands."""
    ids = [[*model.tokenizer.opening, *model.tokenizer.encode(text)] for text in texts]
    names = [f"line {lines[text]}" for text in texts]
    for name, row in zip(names, ids, strict=True):
        if max(row, default=0) >= model.config.vocabulary:
            raise UserError(
                f"{name} has token {max(row)}; the model's vocabulary has {model.config.vocabulary}"
            )
    prompts: Prompts = left_padded(
        ids, context=model.config.context, max_tokens=max_tokens, names=names
    )
    return TextPrompts(
        prompts=prompts,
        reward_inputs=wanted.prompt_inputs(texts),
        calibration=_NOTHING,
        language_model=None,
    )


def _answers(
    policy: Policy,
    in_nats: TextRewards,
    prompts: TextPrompts,
    config: PolicyConfig,
    samples: int,
    grid: Mesh | None,
) -> Responses:
    key = jax.random.fold_in(jax.random.key(config.seed), 2)
    params = jax.jit(policy.init)(key)
    return draw_responses(policy, in_nats, params, params, prompts, key, samples=samples, grid=grid)


def _calibrated(
    config: PolicyConfig,
    columns: tuple[str, ...],
    groups: tuple[str, ...],
    matrix: Float[Array, "G K"],
    reference: Responses,
) -> Calibration:
    """What groups' rewards are measured by, from the reference's answers."""
    rewards = jnp.asarray(reference.rewards)
    require_finite(rewards, columns)
    answers = of_groups(rewards, matrix)
    require_varied(answers, groups, kind=config.normalize)
    return calibrate(answers, kind=config.normalize, beta=config.beta)


def _left_out(prototypes: tuple[str, ...], least_people: int) -> str:
    few = "nobody has" if least_people == 1 else f"fewer than {least_people} people have"
    return f"left out, since {few} them: {', '.join(prototypes)}" if prototypes else ""


def _remarks(left_out: str, reference: Responses, ends: tuple[int, ...]) -> list[str]:
    remarks = [left_out] if left_out else []
    last = np.take_along_axis(
        reference.tokens, reference.mask.sum(axis=2, keepdims=True) - 1, axis=2
    )
    if not np.isin(last, ends).any():
        count, length = last.size, reference.tokens.shape[2]
        remarks.append(
            f"policy.end_tokens: none of {count:,} responses of the reference ends with one of "
            f"{list(ends)} within {length} tokens; all are cut there"
        )
    return remarks
