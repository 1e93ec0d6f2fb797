"""Many items by threads, at the memory of few."""

from concurrent import futures

from synthjax.runtime.threads import in_threads


def test_a_million_files_take_few_futures(monkeypatch):
  """One for each of ImageNet's images would take gigabytes."""
  submitted, submit = [], futures.ThreadPoolExecutor.submit

  def note(pool, *args):
    submitted.append(args)
    return submit(pool, *args)

  monkeypatch.setattr(futures.ThreadPoolExecutor, "submit", note)
  assert in_threads(abs, {-1: "a"}) == [1]
  for count in (0, 1, 40, 1024, 1_000_003):
    submitted.clear()
    found = in_threads(abs, range(-count, 0))
    assert found == list(range(count, 0, -1))
    assert min(count, 16) <= len(submitted) <= 1024
