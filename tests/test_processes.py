"""Two processes with two devices each: one run, saved together, ended together, gone on with."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import yaml

from paljax import runs
from paljax.config import parse
from paljax.errors import UserError
from paljax.processes import join
from paljax.reward.trained_model import load_model
from tests.test_resume import comparisons

LOST_AFTER_S = 20
LONGEST_RUN = 300  # seconds


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Compiled programs that all processes of this file share."""
    return tmp_path_factory.mktemp("compiled")


def config(folder, **training):
    comparisons(folder / "comparisons.jsonl")
    record = {
        "stage": "reward",
        "data": {"name": "file", "path": str(folder / "comparisons.jsonl")},
        "encoder": [{"name": "item_id", "width": 3}],
        "model": {"name": "bradley_terry", "hidden_layers": 0},
        "training": {"epochs": 3, "batch_size": 32, "patience": None, "checkpoint_every": 1}
        | training,
        "selection": {"refit": False},
        "evaluation": {"shots": [0], "resamples": 100},
        "parallel": {"lost_after_s": LOST_AFTER_S},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(record), encoding="utf-8")
    return path


def start(config, run_dir, cache, count):
    """Start a run on four devices of one process, or of two."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    settings = {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PLATFORMS": "cpu"}
    settings["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # compiling is most of the time here
    settings["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={4 // count}"
    command = [sys.executable, "-m", "paljax.train", "--config", config, "--run-dir", run_dir]
    started = []
    for index in range(count):
        place = (
            f"{{name: explicit, coordinator: 'localhost:{port}', count: {count}, index: {index}}}"
        )
        places = [f"parallel.processes={place}"] if count > 1 else []
        process = subprocess.Popen(
            [*command, *places],
            env=os.environ | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
    return started


def outputs(processes):
    """What each process said, and its exit status, once all have ended."""
    try:
        said = [process.communicate(timeout=LONGEST_RUN)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return said, [process.returncode for process in processes]


def wait_for_epochs(run_dir, count, processes):
    log, deadline = run_dir / runs.METRICS_LOG, time.monotonic() + LONGEST_RUN
    while not log.exists() or log.read_text(encoding="utf-8").count("\n") < count:
        assert all(process.poll() is None for process in processes), outputs(processes)
        assert time.monotonic() < deadline
        time.sleep(0.01)


def params(run_dir):
    return jax.tree.leaves(load_model(run_dir).trained.params)


def records(run_dir):
    lines = (run_dir / runs.METRICS_LOG).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_two_processes_train_as_one_with_as_many_devices(tmp_path, cache):
    settings = config(tmp_path)
    for count in (1, 2):
        said, status = outputs(start(settings, tmp_path / f"{count}", cache, count))
        assert status == [0] * count, said
    for one, two in zip(params(tmp_path / "1"), params(tmp_path / "2"), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)
    assert [record["epoch"] for record in records(tmp_path / "2")] == [1, 2, 3]
    assert said[1].strip().splitlines()[-1:] != said[0].strip().splitlines()[-1:]


def test_sigterm_to_one_ends_both_and_a_lost_process_is_not_waited_for(tmp_path, cache):
    """Asked to stop, both save one step and exit with 0; killed, the rest ends, and goes on."""
    settings = config(tmp_path, epochs=400, checkpoint_every=400)
    run_dir = tmp_path / "run"
    processes = start(settings, run_dir, cache, 2)
    wait_for_epochs(run_dir, 5, processes)
    processes[1].send_signal(signal.SIGTERM)
    said, status = outputs(processes)
    assert status == [0, 0], said
    stops = [next(line for line in text.splitlines() if "asked to stop" in line) for text in said]
    assert stops[0] == stops[1]
    saved = len(records(run_dir))
    assert f"saved after epoch {saved};" in stops[0]

    processes = start(settings, run_dir, cache, 2)
    wait_for_epochs(run_dir, saved + 5, processes)
    processes[1].kill()
    killed = time.monotonic()
    said, status = outputs(processes)
    assert time.monotonic() - killed < 3 * LOST_AFTER_S + 30
    assert f"continues after epoch {saved}" in said[0]
    assert status[0] not in (0, 2)
    assert_told(said[0])


def assert_told(said):
    """Whatever JAX says of a loss, the last line says what to do."""
    assert "another process was lost" in said.strip().splitlines()[-1]
    assert "goes on from the last checkpoint" in said.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("end", "told"),
    [("os.abort()", True), ("os.kill(os.getpid(), 9)", True), ("pass", False), ("1 / 0", False)],
)
def test_an_end_that_python_can_not_catch_is_told_from_outside(end, told):
    code = f"import os\nfrom paljax import processes\nprocesses._have_the_end_told()\n{end}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ("another process was lost" in done.stderr) == told
    if told:
        assert_told(done.stderr)


@pytest.mark.slow
def test_after_a_loss_both_go_on_bit_for_bit(tmp_path, cache):
    settings = config(tmp_path, epochs=60, checkpoint_every=7)
    said, status = outputs(start(settings, tmp_path / "straight", cache, 2))
    assert status == [0, 0], said
    for victim in (0, 1):
        run_dir = tmp_path / f"killed {victim}"
        processes = start(settings, run_dir, cache, 2)
        wait_for_epochs(run_dir, 20, processes)
        processes[victim].kill()
        said, status = outputs(processes)
        assert status[1 - victim] not in (0, 2)
        assert_told(said[1 - victim])
        said, status = outputs(start(settings, run_dir, cache, 2))
        assert status == [0, 0], said
        assert records(run_dir) == records(tmp_path / "straight")
        for left, right in zip(params(run_dir), params(tmp_path / "straight"), strict=True):
            np.testing.assert_array_equal(left, right)


def test_wrong_processes_are_told_in_one_line():
    base = {"stage": "reward", "data": {"name": "synthetic"}, "model": {"name": "bradley_terry"}}
    explicit = {"name": "explicit", "coordinator": "host:1", "count": 2, "index": 0}
    for processes, line in (
        (explicit | {"coordinator": "host"}, "processes.coordinator: 'host' is wrong"),
        (explicit | {"index": 2}, "parallel.processes.index: 2 is not below count=2"),
        ({"name": "slurm"}, "processes.name: unknown 'slurm'; choose one of .*'environment'"),
    ):
        with pytest.raises(UserError, match=line) as caught:
            parse(base | {"parallel": {"processes": processes}}, where="test")
        assert "\n" not in str(caught.value)


def test_a_run_keeps_its_blocks_and_may_change_its_devices(tmp_path):
    base = {"stage": "reward", "data": {"name": "synthetic"}, "model": {"name": "bradley_terry"}}

    def settings(**parallel):
        return parse(base | {"parallel": parallel}, where="test")

    begun = runs.with_blocks(tmp_path, settings(), 8)
    runs.open_run(tmp_path, begun)
    again = runs.with_blocks(tmp_path, settings(num_devices=2, backend="pmap"), 2)
    assert begun.parallel.blocks == again.parallel.blocks == 8
    runs.require_usable(tmp_path, again, resume=True)
    with pytest.raises(UserError, match=r"holds a run with parallel\.blocks=8, this one has 4"):
        runs.require_usable(tmp_path, settings(blocks=4), resume=True)


def test_no_scheduler_is_told_in_one_line():
    with pytest.raises(UserError, match=r"can't join the others \(environment\)"):
        join(None, lost_after_s=5)
