"""The steps that TPU pods would run, compiled here: they fit, and no row of a user travels."""

import importlib.util

import pytest

from benchmarks.compiled import Collective, Work
from benchmarks.tpu_aot import CHIPS, MARGIN, fits, record, row, seconds
from benchmarks.tpu_steps import (
    BATCH_PER_CHIP,
    LLAMA_7B,
    USERS_PER_CHIP,
    Compiled,
    compile_policy_step,
    compile_reward_step,
)

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu compiles for TPUs: paljax[tpu]"
)
GATHERS = {"all-gather", "all-to-all", "collective-permute"}


def test_rooflines_are_of_the_chip():
    collective = Collective("all-reduce", 100_000_000, 5, devices=4, times=3)
    work = Work(197e11, 819e8, [collective])
    compiled = Compiled("reward", "v5e:2x2", 4, "8 users", int(15e9), work)
    times = seconds(compiled)
    assert times["compute_s"] == pytest.approx(0.1)
    assert times["memory_s"] == pytest.approx(0.1)
    assert times["links_s"] == pytest.approx(3 * 2 * 3 / 4 * 1e8 / 200e9)
    assert not fits(compiled)
    assert fits(compiled._replace(memory=int((1 - MARGIN) * 16e9)))
    assert record(compiled)["sent_bytes_by_kind"] == {"all-reduce": 450_000_000}
    assert row(compiled)["MB sent"] == "all-reduce 450.0"
    assert all(chip.source.startswith("https://") for chip in CHIPS.values())


@needs_libtpu
def test_what_chips_send_does_not_depend_on_the_number_of_users():
    few, many = (
        compile_reward_step("v5e:2x2", 4, users_per_chip=users, batch_per_chip=64)
        for users in (30_000, 3_000_000)
    )
    assert few.work.collectives == many.work.collectives
    assert {collective.kind for collective in few.work.collectives} == {"all-reduce"}
    assert many.memory > few.memory


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize(
    ("topology", "chips", "times"),
    [("v5e:16x16", 256, 1), ("v6e:16x16", 256, 1), ("v5p:4x4x4", 64, 4)],
)
def test_a_hundred_million_users_fit_a_pod(topology, chips, times):
    pod = compile_reward_step(
        topology, chips, users_per_chip=times * USERS_PER_CHIP, batch_per_chip=BATCH_PER_CHIP
    )
    assert pod.size == "100,000,000 users"
    assert fits(pod)
    assert {collective.kind for collective in pod.work.collectives} == {"all-reduce"}
    assert max(collective.longest for collective in pod.work.collectives) < USERS_PER_CHIP


@needs_libtpu
@pytest.mark.slow
def test_llama_7b_in_training_fits_v5e():
    pod = compile_policy_step("v5e:16x16", data=8, fsdp=32)
    assert fits(pod)
    # 2 FLOP a parameter and token: drawn, scored by the reference, read by the rewards, and the
    # gradient with its layers run again. Attention comes on top; the last product of a layer that
    # is run again and the head over prompts are not needed.
    tokens, read = 127 + 4 * 128, 4 * 129
    assert pod.work.product_flops == pytest.approx(2 * 6.6e9 * (6 * tokens + read), rel=0.1)
    # The largest matrix is gathered, in float32 and with a small one beside it at most; never the
    # stack of all layers.
    largest = 4 * LLAMA_7B.width * LLAMA_7B.vocabulary
    stacked = 2 * LLAMA_7B.layers * LLAMA_7B.width * LLAMA_7B.mlp_width
    gathered = [each for each in pod.work.collectives if each.kind in GATHERS]
    assert max(each.bytes for each in gathered) <= 1.05 * largest < stacked / 2
