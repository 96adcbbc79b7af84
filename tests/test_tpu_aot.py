"""The step that TPU pods would run, compiled here: it fits, and no row of a user travels."""

import importlib.util

import pytest

from benchmarks.tpu_aot import (
    BATCH_PER_CHIP,
    CHIPS,
    USERS_PER_CHIP,
    Collective,
    collectives_in,
    compile_reward_step,
)

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu compiles for TPUs: paljax[tpu]"
)


def test_collectives_are_read_with_kind_and_size():
    text = """
      %a = (f32[3,4]{1,0}, s32[]) all-reduce(f32[3,4] %x, s32[] %y), channel_id=1
      %b = bf16[7]{0} all-gather-start(bf16[2] %z)
      %c = f32[9] add(f32[9] %all-reduce, f32[9] %w)
    """
    assert collectives_in(text) == [
        Collective("all-reduce", 52, 4),
        Collective("all-gather", 14, 7),
    ]


@needs_libtpu
def test_what_chips_send_does_not_depend_on_the_number_of_users():
    few, many = (
        compile_reward_step("v5e:2x2", 4, users_per_chip=users, batch_per_chip=64)
        for users in (3_000, 30_000)
    )
    assert few.collectives == many.collectives
    assert {collective.kind for collective in few.collectives} == {"all-reduce"}
    assert many.memory > few.memory


@needs_libtpu
@pytest.mark.slow
def test_a_hundred_million_users_fit_a_pod():
    pod = compile_reward_step(
        "v5e:16x16", 256, users_per_chip=USERS_PER_CHIP, batch_per_chip=BATCH_PER_CHIP
    )
    assert pod.users == 100_000_000
    assert pod.memory < 0.9 * CHIPS["v5e"].memory
    assert {collective.kind for collective in pod.collectives} == {"all-reduce"}
    assert max(collective.largest for collective in pod.collectives) < USERS_PER_CHIP
