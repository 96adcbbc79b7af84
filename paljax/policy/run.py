"""A whole policy run: the problem, the fit, the scores, the report."""

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from paljax import locking, runs, stopping, storage
from paljax.checkpoints import Checkpoints
from paljax.commands import on_terminal, say
from paljax.config.policy import CausalLMPolicy, PolicyConfig
from paljax.loop import Progress, fit
from paljax.policy import results
from paljax.policy.problems import Problem, build_problem
from paljax.policy.tasks import policy_task
from paljax.report import write_report
from paljax.stopwatch import Stopwatch, timing

DEFAULT_ALPHA = 0.5  # of the CVaR that runs with another objective are compared with


def run(config: PolicyConfig, run_dir: Path) -> None:
    """Run the policy stage; the run directory is made when the problem is known to be good.

    Args:
        config: The run's configuration.
        run_dir: The run directory, empty or absent; what a killed run left there is continued.

    Raises:
        UserError: If the rewards, the groups or the configuration are wrong.
        RunError: If a loss stops being finite.
        Stopped: If the run was asked to stop.
    """
    started = time.perf_counter()
    problem = _problem(config)
    task = policy_task(config, problem)
    with contextlib.ExitStack() as until_the_end:
        until_the_end.enter_context(locking.held(run_dir))
        # Another run may have been there while this one prepared its problem.
        runs.require_usable(run_dir, config, resume=True)
        runs.require_same_inputs(run_dir, problem.inputs)
        runs.open_run(run_dir, config, problem.inputs)
        for remark in problem.texts.remarks if problem.texts else ():
            say(remark)
        watch = Stopwatch(runs.MetricsLog(run_dir / runs.METRICS_LOG))
        asked = until_the_end.enter_context(stopping.noticed())
        folder = run_dir / runs.CHECKPOINTS / task.name
        checkpoints = until_the_end.enter_context(Checkpoints(folder))
        progress = fit(
            task,
            jax.random.key(config.seed),
            checkpoints=checkpoints,
            log=watch,
            say=say,
            progress_bar=on_terminal(),
            stop=asked,
        )
        _conclude(config, problem, progress, run_dir, watch, started)


def _problem(config: PolicyConfig) -> Problem:
    if config.policy.name == "causal_lm":
        from paljax.policy.text_problems import text_problem  # reads language models

        return text_problem(config)
    return build_problem(config)


def _conclude(
    config: PolicyConfig,
    problem: Problem,
    progress: Progress,
    run_dir: Path,
    watch: Stopwatch,
    started: float,
) -> None:
    """Score what was fitted and write the results."""
    pace = watch.pace(_responses_per_epoch(config, problem))
    fitted = time.perf_counter()
    metrics = _score(config, problem, progress, run_dir)
    times = timing([pace])
    times["responses_per_s"] = times.pop("comparisons_per_s")
    metrics["timing"] = times | {
        "fit_s": fitted - started,
        "evaluate_s": time.perf_counter() - fitted,
    }
    storage.write_json(run_dir / runs.METRICS, metrics)
    write_report([run_dir], run_dir / runs.REPORT)
    for line in _summary(metrics):
        say(line)


def _score(
    config: PolicyConfig, problem: Problem, progress: Progress, run_dir: Path
) -> dict[str, Any]:
    """The content of metrics.json, and the table of what the policy says."""
    iterate = config.evaluation.iterate
    # The average policy has no parameters; fresh responses then are those of averaged weights.
    params = progress.best["last" if iterate == "last" else "average_weights"]
    metrics: dict[str, Any] = {
        "stage": "policy",
        "objective": config.objective.name,
        "iterate": iterate,
        "beta": config.beta,
        "groups": {
            "names": list(problem.groups.names),
            "shares": np.asarray(problem.groups.shares, float).tolist(),
            "weights": np.exp(np.asarray(progress.state.log_q, float)).mean(axis=0).tolist(),
        },
        "problem": {"prompts": problem.num_prompts, "rewards": problem.num_rewards},
        "parameters": int(sum(leaf.size for leaf in jax.tree.leaves(params))),
    }
    key = jax.random.fold_in(jax.random.key(config.seed), 1)
    if problem.texts is not None:
        return metrics | _score_texts(config, problem, params, key, run_dir)
    metrics["sampled"] = results.sampled_scores(
        problem, params, key, config.evaluation.samples, config.beta
    )
    policy = _policy(problem, progress, params, iterate)
    alpha = getattr(config.objective, "alpha", DEFAULT_ALPHA)
    exact = results.optima(problem, config.beta, alpha)
    against = {name: exact[name].policy for name in (results.REFERENCE, results.SINGLE_REWARD)}
    metrics["problem"]["actions"] = policy.shape[1]
    metrics["scores"] = results.exact_scores(problem, policy, against, config.beta)
    metrics["comparisons"] = {
        name: results.exact_scores(problem, found.policy, against, config.beta)
        | {
            "gap": found.gap,
            "group_weights": found.weights,
            "total_variation": results.total_variation(
                policy, found.policy, problem.prompt_weights
            ),
        }
        for name, found in exact.items()
    }
    table = results.policy_table(problem, policy, exact["maxmin"].policy)
    storage.write_table(run_dir / runs.POLICY, table)
    return metrics


def _score_texts(
    config: PolicyConfig, problem: Problem, params: Any, key: Any, run_dir: Path
) -> dict[str, Any]:
    from paljax.policy.text_results import text_scores
    from paljax.policy.trained_language_model import write_trained

    assert problem.texts is not None
    assert isinstance(config.policy, CausalLMPolicy)
    assert config.prompts is not None
    judged_on = "held-out prompts" if config.prompts.held_out else "prompts, all trained on"
    found = text_scores(config, problem, params, key)
    say(write_trained(config.policy, params, run_dir / runs.LANGUAGE_MODEL))
    storage.write_table(run_dir / runs.SAMPLES, found.table)
    return {
        "problem": {
            "prompts": problem.num_prompts,
            judged_on: len(problem.texts.held_out),
            "rewards": problem.num_rewards,
        },
        "remarks": list(problem.texts.remarks),
        "sampled": found.scores,
        "scores": found.scores,
        "comparisons": {results.REFERENCE: found.reference},
        "texts": found.texts,
    }


def _policy(problem: Problem, progress: Progress, params: Any, iterate: str) -> Any:
    """Probabilities of all actions, [X, Y] in float64, under the iterate that is evaluated."""
    if iterate == "average_policy":
        probabilities = np.asarray(progress.best["mixture"], float)
    else:
        assert problem.policy.actions is not None
        log_policy = jax.jit(problem.policy.actions.log_policy)(
            params, jnp.arange(problem.num_prompts)
        )
        probabilities = np.exp(np.asarray(log_policy, float))
    return probabilities / probabilities.sum(axis=1, keepdims=True)


def _responses_per_epoch(config: PolicyConfig, problem: Problem) -> int:
    prompts = config.training.prompts_per_batch or problem.num_prompts
    if config.rollouts is not None:
        samples = config.rollouts.samples
    else:
        assert problem.policy.actions is not None
        samples = problem.policy.actions.num_actions
    return config.training.steps_per_epoch * prompts * samples


def _summary(metrics: Mapping[str, Any]) -> list[str]:
    """The main numbers, a line each."""

    def line(name: str, block: Mapping[str, Any]) -> str:
        utilities = " ".join(f"{value:8.4f}" for value in block["utilities"].values())
        return f"  {name:<34} {utilities}  KL {block['kl']:.4f}  value {block['value']:.4f}"

    lines = [f"utilities of {', '.join(metrics['groups']['names'])}:"]
    lines.append(line(f"{metrics['objective']}, {metrics['iterate']}", metrics["scores"]))
    exact = "" if "texts" in metrics else "exact "
    lines += [line(f"{exact}{name}", block) for name, block in metrics["comparisons"].items()]
    for name, found in metrics.get("texts", {}).get("functions", {}).items():
        error = found["win_rate_standard_error"]
        lines.append(
            f"  {name}: {found['mean']:.3f}, reference {found['reference']:.3f}; "
            f"wins {100 * found['win_rate']:.1f} %"
            + ("" if error is None else f" ± {100 * error:.1f}")
        )
    return lines
