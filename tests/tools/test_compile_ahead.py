"""Tests of what is read from compiled programs."""

from tools import compile_ahead

HLO = """HloModule jit_f

%fused (p: f32[4]) -> f32[4] {
  ROOT %p = f32[4]{0} parameter(0)
}

ENTRY %main (a: f32[2,3], b: bf16[3]) -> (f32[2], pred[]) {
  %a = f32[2,3]{1,0} parameter(0)
  %b = bf16[3]{0} parameter(1)
  %fusion.1 = f32[2]{0} fusion(%a, %b), kind=kLoop, calls=%fused
  %less = pred[] custom-call(%fusion.1), custom_call_target="x"
  ROOT %t = (f32[2]{0}, pred[]) tuple(%fusion.1, %less)
}
"""


def test_kernels_read_their_operands_and_write_their_results():
  # The fusion: 24 + 6 read and 8 written; the call: 8 read and 1 written.
  assert compile_ahead.bytes_moved(HLO) == 24 + 6 + 8 + 8 + 1
