"""Hard, soft and mixed cross entropy: the paper's CE and SCE (Appendix C.4).

Generated images may not show their class well; a frozen teacher, the zero-shot
classifier, says how much each one does.
"""

import jax
import jax.numpy as jnp


def hard_cross_entropy(
  logits: jax.Array,
  labels: jax.Array,
  *,
  label_smoothing: float | jax.Array | None = None,
) -> jax.Array:
  """Returns -log softmax(logits) at the labels.

  Args:
    logits: [n, k] float32.
    labels: [n] int.
    label_smoothing: share of the target that is spread over all k classes, that
      of the label included (Szegedy et al. 2016).

  Returns:
    [n] float32, in nats.
  """
  log_p = jax.nn.log_softmax(logits)
  loss = -jnp.take_along_axis(log_p, labels[:, None], axis=-1)[:, 0]
  if label_smoothing is None:
    return loss
  return (1 - label_smoothing) * loss - label_smoothing * log_p.mean(-1)


def soft_cross_entropy(
  logits: jax.Array, teacher_logits: jax.Array, *, temperature: float = 2.0
) -> jax.Array:
  """Returns the cross entropy with softmax(teacher_logits / temperature).

  Unlike distillation (Hinton et al. 2015), the student's logits are not
  divided by the temperature and the loss is not multiplied by its square.

  Args:
    logits: [n, k] float32, of the student.
    teacher_logits: [n, k] float32, of which no gradient is taken.
    temperature: above 1 it softens the teacher.

  Returns:
    [n] float32, in nats.
  """
  teacher_logits = jax.lax.stop_gradient(teacher_logits)
  q = jax.nn.softmax(teacher_logits / temperature)
  return -jnp.sum(q * jax.nn.log_softmax(logits), axis=-1)


def mixed_cross_entropy(
  logits: jax.Array,
  teacher_logits: jax.Array,
  labels: jax.Array,
  *,
  soft_weight: float = 0.5,
  temperature: float = 2.0,
  label_smoothing: float | jax.Array | None = None,
) -> jax.Array:
  """Mixes soft_weight of the soft loss with 1 - soft_weight of the hard one.

  Args:
    logits: [n, k] float32, of the student.
    teacher_logits: [n, k] float32, of which no gradient is taken.
    labels: [n] int.
    soft_weight: 0 is plain cross entropy, 1 hears the teacher alone.
    temperature: of the teacher.
    label_smoothing: of the hard loss; None is none.

  Returns:
    [n] float32, in nats.
  """
  soft = soft_cross_entropy(logits, teacher_logits, temperature=temperature)
  hard = hard_cross_entropy(logits, labels, label_smoothing=label_smoothing)
  return soft_weight * soft + (1 - soft_weight) * hard
