"""Tests of the soft-target losses."""

import re

import jax
import numpy as np
import pytest

from synthjax.adapt import soft_targets

LOGITS = np.array([[2, 0, -1], [0.5, 1.5, 0]], np.float32)
TEACHER = np.array([[3, 1, 0], [1, 0, 4]], np.float32)
LABELS = np.array([0, 1])


def test_a_case_computed_by_hand():
  """With q = softmax(t / 2), -sum q log softmax(z), and log p at the label."""
  hard = soft_targets.hard_cross_entropy(LOGITS, LABELS).mean()
  soft = soft_targets.soft_cross_entropy(LOGITS, TEACHER, temperature=2).mean()
  mixed = soft_targets.mixed_cross_entropy(LOGITS, TEACHER, LABELS).mean()
  np.testing.assert_allclose(hard, 0.3171074, atol=1e-6)
  np.testing.assert_allclose(soft, 1.3929174, atol=1e-6)
  np.testing.assert_allclose(mixed, 0.8550124, atol=1e-6)


@pytest.mark.golden
def test_losses_equal_the_reference(golden):
  case = golden("soft_cross_entropy")
  names = [name for name in case if name.startswith("out/loss_")]
  assert names
  for name in names:
    temperature, soft_weight = re.fullmatch(
      r"out/loss_T(.*)_sl(.*)", name
    ).groups()
    loss = soft_targets.mixed_cross_entropy(
      case["in/student_logits"],
      case["in/teacher_logits"],
      case["in/labels"],
      soft_weight=float(soft_weight),
      temperature=float(temperature),
    )
    np.testing.assert_allclose(loss.mean(), case[name], rtol=1e-6)


def test_the_ends_of_the_mixture_ignore_the_other_side():
  other_teacher, other_labels = TEACHER[::-1], LABELS[::-1]
  mixed = soft_targets.mixed_cross_entropy
  np.testing.assert_array_equal(
    mixed(LOGITS, TEACHER, LABELS, soft_weight=0),
    mixed(LOGITS, other_teacher, LABELS, soft_weight=0),
  )
  np.testing.assert_array_equal(
    mixed(LOGITS, TEACHER, LABELS, soft_weight=1),
    mixed(LOGITS, TEACHER, other_labels, soft_weight=1),
  )


def test_a_student_equal_to_the_softened_teacher_has_no_gradient():
  loss = lambda z: soft_targets.soft_cross_entropy(
    z, 3 * z, temperature=3
  ).sum()
  np.testing.assert_allclose(jax.grad(loss)(LOGITS), 0, atol=1e-6)
  # Twice the student is another teacher, so that this is not zero for all.
  loss = lambda z: soft_targets.soft_cross_entropy(
    z, 2 * z, temperature=1
  ).sum()
  assert np.abs(jax.grad(loss)(LOGITS)).max() > 0.01
