"""ProLIP (Fahes et al. 2024, arXiv 2410.05270): CLIP's last projection, tuned.

Images are stored as what the image tower's last layer reads. That layer alone
is trained, against the frozen texts of the classes, with its squared distance
to the released one as a penalty, which needs no validation images. The authors
train on the shots; generated images are added here as in classifier tuning.
"""

from collections.abc import Sequence
from typing import NamedTuple

import flax
import jax
import jax.numpy as jnp
import optax

from synthjax.adapt import linear_head
from synthjax.adapt.linear_head import Head, Rows
from synthjax.adapt.soft_targets import mixed_cross_entropy
from synthjax.models.clip.projection import Projection


@flax.struct.dataclass
class ProjectedHead:
  """A tuned projection, and the zero-shot head on its features."""

  kernel: jax.Array  # [w, d], see `Projection`
  offset: jax.Array  # [d], its bias
  weight: jax.Array  # [k, d], see `Head`
  bias: jax.Array  # [k]

  def __call__(self, z: jax.Array) -> jax.Array:
    """Maps features before the projection [n, w] to logits [n, k]."""
    return logits_fn(self.projection, self.head, z)

  @property
  def projection(self) -> Projection:
    return Projection(self.kernel, self.offset)

  @property
  def head(self) -> Head:
    return Head(self.weight, self.bias)


def make_head(projection: Projection, head: Head) -> ProjectedHead:
  """Returns what maps features before the projection to `logits_fn`."""
  return ProjectedHead(
    projection.kernel, projection.bias, head.weight, head.bias
  )


def logits_fn(projection: Projection, head: Head, z: jax.Array) -> jax.Array:
  """Maps features before the projection [n, w] to logits [n, k]."""
  return linear_head.logits_fn(head, projection(z))


class Tuned(NamedTuple):
  """The result of a training."""

  projection: Projection  # after the last step
  losses: jax.Array  # [steps], penalty included


@jax.jit
def tune(
  sets: Sequence[Rows],
  projection: Projection,
  head: Head,
  *,
  penalty: float,
  lr: float = 1e-5,
  temperature: float = 2.0,
) -> Tuned:
  """Trains the kernel of a projection, in one `lax.scan`.

  Adam (eps 1e-4) and a cosine schedule, stepped in each iteration; the bias
  and the head stay as they are, as in the authors' code.

  Args:
    sets: of features before the projection, whose losses are added; each index
      has as many steps.
    projection: to start from, and the teacher of generated images.
    head: zero-shot.
    penalty: on the squared distance of the kernel to where it starts.
    lr: of the first step; it falls to nearly 0 along half a cosine.
    temperature: of the teacher.
  """
  start, num_steps = projection.kernel, len(sets[0].index)
  z = [jnp.asarray(rows.features, jnp.float32) for rows in sets]
  teacher = [logits_fn(projection, head, x) for x in z]
  schedule = lambda i: lr * (1 + jnp.cos(jnp.pi * i / num_steps)) / 2
  tx = optax.adam(schedule, eps=1e-4)

  def loss_fn(kernel, indices):
    total = penalty * jnp.sum((kernel - start) ** 2)
    for rows, x, t, index in zip(sets, z, teacher, indices, strict=True):
      loss = mixed_cross_entropy(
        logits_fn(projection.replace(kernel=kernel), head, x[index]),
        t[index],
        jnp.asarray(rows.labels)[index],
        soft_weight=rows.soft_weight,
        temperature=temperature,
      )
      total += jnp.mean(loss, where=index >= 0)
    return total

  def step(carry, indices):
    kernel, opt_state = carry
    loss, grads = jax.value_and_grad(loss_fn)(kernel, indices)
    updates, opt_state = tx.update(grads, opt_state)
    return (optax.apply_updates(kernel, updates), opt_state), loss

  indices = [jnp.asarray(rows.index) for rows in sets]
  (kernel, _), losses = jax.lax.scan(step, (start, tx.init(start)), indices)
  return Tuned(projection.replace(kernel=kernel), losses)
