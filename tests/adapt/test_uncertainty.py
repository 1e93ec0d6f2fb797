"""How unsure a head is, of probabilities that are made by hand."""

import numpy as np

from synthjax.adapt import uncertainty

# Their softmax is these probabilities.
PROBS = np.array(
  [[0.25] * 4, [0.5, 0.5, 0, 0], [1, 0, 0, 0], [0.6, 0, 0.3, 0.1]]
)
LOGITS = np.log(np.maximum(PROBS, 1e-300)) + np.arange(4)[:, None]


def test_entropy_is_that_of_the_probabilities():
  last = -(0.6 * np.log(0.6) + 0.3 * np.log(0.3) + 0.1 * np.log(0.1))
  want = [np.log(4), np.log(2), 0, last]
  np.testing.assert_allclose(uncertainty.entropy(LOGITS), want, atol=1e-9)


def test_margin_is_the_lead_of_the_first():
  want = [0, 0, -1, -0.3]
  np.testing.assert_allclose(uncertainty.margin(LOGITS), want, atol=1e-9)


def test_the_two_order_images_differently():
  """Of two classes at even odds, and four: one is a tie by the margin alone."""
  assert np.ptp(uncertainty.margin(LOGITS[:2])) == 0
  assert uncertainty.entropy(LOGITS[0]) > uncertainty.entropy(LOGITS[1])
