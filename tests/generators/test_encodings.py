"""Each prompt is encoded once, in batches of one size."""

from synthjax.generators.encodings import cached


def counting(batch_size, capacity=100):
  """Returns a cache of upper-case prompts, and the batches it encoded."""
  batches = []

  def encode(prompts):
    batches.append(list(prompts))
    return [prompt.upper() for prompt in prompts]

  return cached(encode, batch_size=batch_size, capacity=capacity), batches


def test_a_prompt_is_encoded_once_whatever_asks_for_it():
  look_up, batches = counting(3)
  assert look_up(["b", "a", "b", ""]) == ["B", "A", "B", ""]
  assert batches == [["b", "a", ""]]
  assert look_up(["a", "a", "b"]) == ["A", "A", "B"]
  assert len(batches) == 1


def test_batches_are_always_of_one_size():
  look_up, batches = counting(2)
  assert look_up(list("abc")) == list("ABC")
  assert batches == [["a", "b"], ["c", "c"]]


def test_prompts_to_come_fill_a_batch_but_cause_none():
  look_up, batches = counting(3)
  look_up(["a", "a"], coming=["a", "b", "c", "d"])
  assert batches == [["a", "b", "c"]]
  assert look_up(["b"], coming=["e"]) == ["B"]
  assert len(batches) == 1
  assert look_up(["d"], coming=["c", "e"]) == ["D"]
  assert batches[1:] == [["d", "e", "e"]]


def test_the_prompts_that_were_asked_for_longest_ago_are_given_up():
  look_up, batches = counting(1, capacity=2)
  look_up(["a", "b"])
  look_up(["a"])
  look_up(["c"])  # in place of b
  assert look_up(["a", "c"]) == ["A", "C"] and len(batches) == 3
  assert look_up(["b"]) == ["B"] and len(batches) == 4


def test_more_prompts_at_once_than_are_kept_are_all_found():
  look_up, _ = counting(2, capacity=1)
  assert look_up(list("abcde")) == list("ABCDE")
