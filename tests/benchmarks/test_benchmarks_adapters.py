"""The benchmark of adapters: what each side draws, and the rows."""

import numpy as np
import pytest
import tiny_glide

from benchmarks import adapters as benchmark
from synthjax.generators import adapters, load_generator


@pytest.mark.slow
def test_all_sides_draw_as_many_images_class_after_class(tmp_path, monkeypatch):
  generator, asked = load_generator(**tiny_glide.write_glide(tmp_path)), []

  def watched(generator):
    def stream(prompts, rngs, **more):
      asked.append((list(prompts), more.get("adapters")))
      yield from generator.stream(prompts, rngs, **more)

    return generator._replace(
      stream=stream,
      adapted=generator.adapted
      and (lambda read: watched(generator.adapted(read))),
    )

  args = benchmark.parser().parse_args(
    ["--rounds=1", "--classes=3", "--images=6", "--batch=4", "--rank=2"]
  )
  rows = benchmark.measure(watched(generator), args, "CPU")
  assert len(asked) == 2 * 3  # compiling, and a round
  many, one, none = asked[3:]
  assert many[1] == [(0,), (0,), (1,), (1,), (2,), (2,)]
  assert one[1] == [(0,)] * 6 and none[1] is None
  counts = [len(set(prompts)) for prompts, _ in asked[3:]]
  assert counts == [3, 1, 1]
  assert not set(many[0]) & set(asked[0][0])  # other prompts in each round
  against_one, against_none, cost = rows
  for row in (against_one, against_none):
    assert row["unit"] == "images/s"
    assert row["ratio"] == pytest.approx(row["ours"] / row["reference"])
  assert cost["ours"] == pytest.approx(1 / against_one["ratio"])


def test_the_adapters_change_images_and_differ(tmp_path):
  folder = tmp_path / "adapters"
  folder.mkdir()
  adaptable = load_generator(**tiny_glide.write_glide(tmp_path)).adaptable
  paths = benchmark.write_adapters(adaptable, 2, 3, folder)
  read = adapters.reader(paths, adaptable)
  one, other = read(0), read(1)  # which refuses those that change nothing
  for path, each in one.items():
    assert each["a"].shape[-1] == 3
    assert np.abs(each["b"] - other[path]["b"]).max() > 0.01
