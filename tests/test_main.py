def test_the_golden_fixture_reads_arrays_and_meta(golden):
  assert isinstance(golden("soft_cross_entropy")["meta"], dict)
