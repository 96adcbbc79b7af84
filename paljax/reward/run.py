"""A whole reward run: prepare, fit, choose, refit, score, write, report."""

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from paljax import locking, processes, runs, stopping, storage
from paljax.commands import on_terminal, say, say_counts
from paljax.config import Config
from paljax.data.dataset import Comparisons
from paljax.data.prepare import Prepared, prepare
from paljax.evaluation import summary
from paljax.models import PreferenceModel, VectorInputs
from paljax.report import write_report
from paljax.reward import baselines, intercepts, published, results
from paljax.reward.audit import audit, failures
from paljax.reward.fits import (
    Candidate,
    Fitting,
    best_of,
    build_model,
    fit_candidates,
    fit_shared,
    is_anchored,
    prefer_shared,
    refit,
)
from paljax.reward.joining import Joining, choose_joining
from paljax.reward.predictors import Predictor, constant, predict_with
from paljax.reward.published import as_published
from paljax.reward.trained_model import save_model, save_parameters
from paljax.stopwatch import timing

BASELINE = "bradley_terry"


class Fits(NamedTuple):
    """What a run fitted and chose."""

    candidates: list[Candidate]  # of the configured model
    shared_candidates: list[Candidate]  # of the baseline
    chosen: Candidate  # fitted on the training part
    final: Candidate  # the one that is reported: refitted where the configuration says so
    shared_chosen: Candidate  # the baseline
    shared_final: Candidate
    published: Candidate | None  # PAL with its authors' settings, where it is asked for
    joining: Joining  # λ of people who join, which the model that is reported has


def run(config: Config, run_dir: Path) -> None:
    """Run the reward stage; the run directory is made when the data are known to be good.

    Args:
        config: The run's configuration.
        run_dir: The run directory, empty or absent; what a killed run left there is continued.

    Raises:
        UserError: If the data or the configuration are wrong.
        RunError: If a loss stops being finite.
        Stopped: If the run was asked to stop.
    """
    started = time.perf_counter()
    first = processes.is_first()
    with contextlib.ExitStack() as until_the_end:
        with processes.first_goes_ahead():
            prepared = prepare(config, uses_prompts=config.model.name == "pal_b")
            if first:
                say_counts(prepared.remarks)
                until_the_end.enter_context(locking.held(run_dir))
                # Another run may have been there while this one prepared its data.
                runs.require_usable(run_dir, config, resume=True)
                runs.open_run(run_dir, config)
                runs.record_splits(run_dir, results.splits_table(prepared))
        asked = until_the_end.enter_context(stopping.noticed())
        fitting = Fitting(
            config=config,
            prepared=prepared,
            run_dir=run_dir,
            say=say if first else lambda line: None,
            progress_bar=first and on_terminal(),
            paces=[],
            log=runs.MetricsLog(run_dir / runs.METRICS_LOG) if first else runs.NoLog(),
            learners={},
            stop=lambda: processes.any_of(asked()),
        )
        fits = _fit(fitting)
        save_parameters(run_dir, fits.final.trained)
        if first:
            _conclude(config, run_dir, fitting, fits, started)


def _conclude(config: Config, run_dir: Path, fitting: Fitting, fits: Fits, started: float) -> None:
    """Score what was fitted and write the results."""
    prepared = fitting.prepared
    fitted = time.perf_counter()
    outcome = _evaluate(config, prepared, fits)
    ended = time.perf_counter()

    outcome.metrics["timing"] = timing(fitting.paces) | {
        "fit_s": fitted - started,
        "evaluate_s": ended - fitted,
    }
    save_model(run_dir, fits.final.trained, prepared, shared=fits.chosen is fits.shared_chosen)
    storage.write_json(run_dir / runs.ANALYSIS, outcome.analysis)
    storage.write_table(run_dir / runs.USERS, outcome.users)
    storage.write_json(run_dir / runs.METRICS, outcome.metrics)
    write_report([run_dir], run_dir / runs.REPORT)
    without_users = _without_users(outcome.analysis["membership"]["users"])
    for line in [*_summary(outcome.metrics), *without_users]:
        say(line)


class Outcome(NamedTuple):
    """What a run found: the content of metrics.json, analysis.json and users.parquet."""

    metrics: dict[str, Any]
    analysis: dict[str, Any]
    users: storage.Table


def _evaluate(config: Config, prepared: Prepared, fits: Fits) -> Outcome:
    """Score the model and the baselines on test data and on new users; nothing is chosen here."""
    name, trained = config.model.name, fits.final.trained
    users = results.all_weights(prepared, fits.final)
    scored = results.scored_parts(prepared, users)
    predictors = _predictors(config, prepared, fits)
    scores = results.score_predictors(config, prepared, scored, predictors)
    before_refit = results.score_predictors(
        config, prepared, scored, _before_refit(config, prepared, fits)
    )
    checked = audit(
        prepared,
        scored,
        predictors[name],
        predictors[BASELINE],
        resamples=config.evaluation.resamples,
        seed=config.seed,
    )
    metrics: dict[str, Any] = {
        "model": name,
        "parameters": results.count_parameters(trained),
        **{key: scores[name][key] for key in ("test", "unseen", "gain") if key in scores[name]},
        "baselines": {
            other: {key: result[key] for key in ("test", "unseen")}
            for other, result in scores.items()
            if other != name or name == BASELINE
        },
        "before_refit": {
            other: {key: result[key] for key in ("test", "unseen")}
            for other, result in before_refit.items()
        },
        "selection": results.selection(fits.candidates, fits.shared_candidates, fits.chosen)
        | {"joining": fits.joining.told()},
        "audit": checked,
        "groups": scored.grouped_by,
        "data": results.data_counts(prepared),
    }
    shared = fits.shared_final.trained
    return Outcome(
        metrics,
        results.analysis(name, trained, shared, prepared, users, scores),
        results.users_table(prepared, users, scores[name]["user_accuracy"]),
    )


def _fit(fitting: Fitting) -> Fits:
    """Fit the baseline and every candidate, choose on validation data, and refit."""
    config = fitting.config
    name = config.model.name
    all_shared = fit_shared(fitting, BASELINE)
    shared = best_of(all_shared)
    candidates = all_shared
    if name != BASELINE:
        wanted = config.model.num_prototypes
        numbers = config.selection.num_prototypes if wanted == "auto" else [wanted]
        if not config.model.personal:
            numbers = [1]
        anchored = _anchored(fitting, shared)
        candidates = [
            candidate
            for number in numbers
            for candidate in fit_candidates(
                anchored,
                f"{name} K={number}",
                _model(fitting, number),
                config.selection.personal_weight_decay,
            )
        ]
    chosen = best_of(candidates)
    if config.selection.personalize == "auto" and prefer_shared(fitting, shared, chosen):
        chosen = shared
    theirs = _fit_published(fitting) if config.evaluation.published_pal else None
    joining = choose_joining(fitting, chosen)
    if not config.selection.refit:
        final = _for_joining(chosen, joining)
        return Fits(candidates, all_shared, chosen, final, shared, shared, theirs, joining)
    shared_final = refit(fitting, f"{BASELINE} refit", shared)
    final = shared_final
    if chosen is not shared:
        final = refit(_anchored(fitting, shared_final), f"{name} refit", chosen)
        final = _for_joining(final, joining)
    return Fits(candidates, all_shared, chosen, final, shared, shared_final, theirs, joining)


def _for_joining(fitted: Candidate, joining: Joining) -> Candidate:
    """The model as people who join meet it; weights of those it has seen are solved already."""
    return fitted._replace(trained=fitted.trained._replace(prior_strength=joining.prior_strength))


def _anchored(fitting: Fitting, shared: Candidate) -> Fitting:
    """For fits of models that deviate from this shared reward, where they are configured so."""
    if not is_anchored(fitting.config.model):
        return fitting
    return fitting._replace(anchor=shared.trained.params)


def _fit_published(fitting: Fitting) -> Candidate:
    """The authors' PAL on the same comparisons, trained until it is done."""
    uses_prompts = fitting.prepared.prompt_encoder is not None
    config = as_published(fitting.config, uses_prompts=uses_prompts)
    theirs = fitting._replace(config=config, learners={})
    model = _model(theirs, theirs.config.model.num_prototypes)
    fitted = best_of(fit_candidates(theirs, published.NAME, model))
    if not theirs.config.selection.refit:
        return fitted
    return refit(theirs, f"{published.NAME} refit", fitted)


def _model(fitting: Fitting, num_prototypes: int | None) -> PreferenceModel:
    prepared = fitting.prepared
    return build_model(
        fitting.config, num_prototypes, prepared.item_encoder, prepared.prompt_encoder
    )


def _predictors(config: Config, prepared: Prepared, fits: Fits) -> dict[str, Predictor]:
    """The model, then the baselines, all fitted to the same comparisons."""
    predictors = {config.model.name: _predict(prepared, fits.final)}
    predictors[BASELINE] = _predict(prepared, fits.shared_final)
    predictors["constant"] = constant()
    rows = prepared.dataset.comparisons.select(prepared.split.learned(refit=config.selection.refit))
    predictors["item_majority"] = baselines.item_majority(rows, len(prepared.dataset.items))
    if prepared.dataset.votes is not None and intercepts.are_yes_no(prepared.dataset.votes):
        assert prepared.vote_split is not None
        voted = prepared.vote_split.learned(refit=config.selection.refit)
        predictors["user_and_item_intercepts"] = intercepts.user_and_item_intercepts(
            prepared.dataset.votes.select(voted),
            num_users=len(prepared.dataset.users),
            num_items=len(prepared.dataset.items),
        )
    if fits.published is not None:
        predictors[published.NAME] = _predict(prepared, fits.published)
    return predictors | _numeric_baselines(prepared, rows)


def _numeric_baselines(prepared: Prepared, rows: Comparisons) -> dict[str, Predictor]:
    """Logistic regressions of each user; of embeddings, on their principal components."""
    features = _numbers(prepared)
    features = features[:, : features.shape[1] - prepared.item_encoder.level_width]
    comparisons, split = prepared.dataset.comparisons, prepared.split
    train = comparisons.select(split.rows("train"))
    are_attributes = features.shape[1] <= baselines.MOST_ATTRIBUTES
    if not are_attributes:
        appearing = np.concatenate([train.chosen, train.rejected])
        appearing = appearing[~prepared.dataset.is_level(appearing)]
        features = baselines.principal_components(features, appearing)
    if not features.shape[1]:
        return {}
    features = baselines.with_levels(features, prepared.dataset.num_levels)
    validation = comparisons.select(split.rows("validation"))
    validation = validation.select(~validation.tie)
    users = baselines.Users(len(prepared.dataset.users), prepared.room)
    spread = baselines.best_spread(features, train, validation, users)
    of_each = baselines.per_user_logistic_regression(features, rows, users, spread=spread)
    predictors = {"per_user_logistic_regression": of_each}
    if are_attributes:
        predictors["mixed_logit"] = baselines.mixed_logit(features, rows, users)
    return predictors


def _before_refit(config: Config, prepared: Prepared, fits: Fits) -> dict[str, Predictor]:
    if not config.selection.refit:
        return {}
    return {
        config.model.name: _predict(prepared, fits.chosen),
        BASELINE: _predict(prepared, fits.shared_chosen),
    }


def _predict(prepared: Prepared, candidate: Candidate) -> Predictor:
    weights = jnp.asarray(candidate.weights)
    return predict_with(candidate.trained, prepared.tables, weights, room=prepared.room)


def _numbers(prepared: Prepared) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Standardised numbers of all items, [N, D]; D = 0 where items have none."""
    items = prepared.tables.items
    return np.asarray(items.features if isinstance(items, VectorInputs) else items)


def _without_users(users: list[int]) -> list[str]:
    """Name the prototypes that are nobody's strongest."""
    empty = [f"prototype {place + 1}" for place, count in enumerate(users) if not count]
    return [f"without users: {', '.join(empty)} of {len(users)}"] if empty else []


def _summary(metrics: Mapping[str, Any]) -> list[str]:
    """The main numbers, a line each."""
    lines = ["test accuracy, 95 % interval over users:"]
    lines.append(summary(metrics["model"], metrics["test"]))
    lines += [
        summary(name, blocks["test"])
        for name, blocks in metrics["baselines"].items()
        if name != metrics["model"]
    ]
    for shots, block in metrics["unseen"].items():
        lines.append(summary(f"unseen users, {shots} comparisons", block))
    return lines + [f"audit: {failure}" for failure in failures(metrics["audit"])]
