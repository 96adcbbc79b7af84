"""Programs read as text: loops count by their rounds, and what devices send by its kind."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks.compiled import Collective, work_of

# A loop of 6 rounds around one of 7, as TPUs write it: a condition that compares with a constant.
NESTED = """
HloModule nested

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%until.7 (at: (s32[], f32[8,4])) -> pred[] {
  %limit.7 = s32[]{:T(128)} constant(7)
  %at = (s32[], f32[8,4]{1,0:T(8,128)}) parameter(0)
  %count = s32[]{:T(128)} get-tuple-element(%at), index=0
  ROOT %less = pred[]{:T(512)} compare(%count, %limit.7), direction=LT
}

%inner (in: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %in = (s32[], f32[8,4]{1,0:T(8,128)}) parameter(0)
  %number = s32[] get-tuple-element(%in), index=0
  %rows = f32[8,4]{1,0:T(8,128)} get-tuple-element(%in), index=1
  %all = f32[8,4]{1,0} all-reduce(%rows), channel_id=3, replica_groups=[4,16]<=[64], to_apply=%add
  ROOT %next = (s32[], f32[8,4]{1,0:T(8,128)}) tuple(%number, %all)
}

%until.6 (at.6: (s32[], f32[8,4])) -> pred[] {
  %limit.6 = s32[] constant(6)
  %at.6 = (s32[], f32[8,4]) parameter(0)
  %count.6 = s32[] get-tuple-element(%at.6), index=0
  ROOT %less.6 = pred[] compare(%count.6, %limit.6), direction=LT
}

%outer (in.6: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %in.6 = (s32[], f32[8,4]) parameter(0)
  %cut = bf16[2,4]{1,0} constant({...})
  %whole = bf16[8,4]{1,0} all-gather(%cut), channel_id=5, replica_groups={{0,1,2,3},{4,5,6,7}}
  ROOT %loop = (s32[], f32[8,4]) while(%in.6), condition=%until.7, body=%inner
}

ENTRY %main (given: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %given = (s32[], f32[8,4]) parameter(0)
  %first = f32[3,5]{1,0} constant({...})
  %start = (f32[3,5], f32[3,5], u32[], u32[]) collective-permute-start(%first), channel_id=9
  %done = f32[3,5] collective-permute-done(%start)
  ROOT %loop.6 = (s32[], f32[8,4]) while(%given), condition=%until.6, body=%outer
}
"""


def test_a_collective_counts_as_often_as_its_loops_go_round():
    work = work_of(NESTED, devices=64)
    assert sorted(work.collectives) == [
        Collective("all-gather", 64, 8, 4, 6),
        Collective("all-reduce", 128, 8, 16, 42),
        Collective("collective-permute", 60, 5, 64, 1),
    ]
    assert work.sent_by_kind() == {
        "all-reduce": 42 * 128 * 2 * 15 / 16,
        "all-gather": 6 * 64 * 3 / 4,
        "collective-permute": 60,
    }


def test_channels_do_not_tell_collectives_apart():
    text = NESTED.replace(
        "%next = (s32[], f32[8,4]{1,0:T(8,128)}) tuple(%number, %all)",
        "%next = (s32[], f32[8,4]) tuple(%number, %more)",
    ).replace(
        "  ROOT %next",
        "  %more = f32[8,4] all-reduce(%all), channel_id=3, to_apply=%add\n  ROOT %next",
    )
    assert len(work_of(text, devices=64).collectives) == 4


def test_the_parts_of_one_hidden_collective_are_one():
    """Start, step and end of a gather that hides behind products are clones."""
    gather = "bf16[8,4]{1,0} all-gather(%p), channel_id=7, replica_groups={{0,1}}, dimensions={0}"
    mesh = gather.replace("{{0,1}}", "mesh['axis_0'=4,'axis_1'=16] {'axis_1'}")
    parts = "\n".join(
        f"%part.{name} (p: bf16[4,4]) -> bf16[8,4] {{\n  %p = bf16[4,4] parameter(0)\n"
        f"  ROOT %whole = {mesh}\n}}\n"
        for name in ("start", "step")
    )
    text = (
        f"{parts}\nENTRY %main (q: bf16[4,4]) -> bf16[8,4] {{\n  %q = bf16[4,4] parameter(0)\n"
        "  %one = bf16[8,4] fusion(%q), kind=kLoop, calls=%part.start\n"
        "  ROOT %two = bf16[8,4] fusion(%q), kind=kLoop, calls=%part.step\n}\n"
    )
    assert work_of(text, devices=64).collectives == [Collective("all-gather", 64, 8, 16, 1)]


def test_batched_products_that_are_written_as_convolutions():
    """Padding and a reversed kernel make one of 4 places of every head meet: 4 products, not 16."""
    text = """
ENTRY %main (a: f32[9,5,4], b: f32[4,5,7]) -> f32[9,4,7] {
  %a = f32[9,5,4] parameter(0)
  %b = f32[4,5,7] parameter(1)
  ROOT %c = f32[9,4,7] convolution(%a, %b), window={size=4 pad=3_3 rhs_reversal=1}, LABELS
}
""".replace("LABELS", "dim_labels=bf0_0io->b0f")
    # Along the axis, 4 outputs and 4 places of the kernel: with pad 3, output o meets o - 3 + k.
    meetings = sum(0 <= out - 3 + place < 4 for out in range(4) for place in range(4))
    assert work_of(text, devices=1).product_flops == 2 * 9 * 7 * 5 * meetings
    dilated = text.replace("size=4 pad=3_3 rhs_reversal=1", "size=4 stride=3 lhs_dilate=4")
    assert work_of(dilated, devices=1).product_flops == 2 * 9 * 7 * 5 * 4


@pytest.mark.parametrize("length", [1, 9])
def test_what_jax_compiles_counts_as_by_hand(length):
    def run(matrix, rows):
        return jax.lax.scan(lambda rows, _: (jnp.tanh(rows @ matrix), None), rows, length=length)[0]

    compiled = jax.jit(run).lower(jnp.ones((300, 300)), jnp.ones((40, 300))).compile()
    work = work_of(compiled.as_text(), devices=1)
    assert work.product_flops == length * 2 * 40 * 300 * 300
    assert work.collectives == []
    # Each round reads the matrix and reads and writes rows, once by the product and once by tanh.
    least = length * 4 * (300 * 300 + 4 * 40 * 300)
    assert least <= work.moved_bytes <= 1.5 * least


def test_what_a_program_without_loops_moves_is_what_xla_says():
    def run(matrix, rows):
        return jnp.tanh(rows @ matrix).sum(axis=1) + rows[:, 0]

    compiled = jax.jit(run).lower(jnp.ones((300, 300)), jnp.ones((40, 300))).compile()
    cost = compiled.cost_analysis()
    work = work_of(compiled.as_text(), devices=1)
    assert work.moved_bytes == pytest.approx(cost["bytes accessed"], rel=0.05)


def test_slices_of_a_stack_count_as_slices():
    """A scan over 50 layers reads each of them once, and not the stack 50 times."""
    stack = jnp.ones((50, 30, 200))

    def run(stack, rows):
        return jax.lax.scan(lambda rows, layer: (rows + layer, None), rows, stack)[0]

    compiled = jax.jit(run).lower(stack, stack[0]).compile()
    moved = work_of(compiled.as_text(), devices=1).moved_bytes
    assert 3 * stack.nbytes <= moved <= 6 * stack.nbytes


def test_slices_inside_of_a_fusion_inside_of_a_fusion_count_as_slices():
    text = """
%inner (p: f32[50,6]) -> f32[1,6] {
  %p = f32[50,6] parameter(0)
  %at = s32[] constant(3)
  ROOT %cut = f32[1,6] dynamic-slice(%p, %at, %at), dynamic_slice_sizes={1,6}
}

%outer (q: f32[50,6]) -> f32[6] {
  %q = f32[50,6] parameter(0)
  %same = f32[50,6] bitcast(%q)
  %row = f32[1,6] fusion(%same), kind=kLoop, calls=%inner
  ROOT %flat = f32[6] bitcast(%row)
}

ENTRY %main (stack: f32[50,6]) -> f32[6] {
  %stack = f32[50,6] parameter(0)
  ROOT %layer = f32[6] fusion(%stack), kind=kLoop, calls=%outer
}
"""
    assert work_of(text, devices=1).moved_bytes == 4 * 6 + 4 * 6
