"""Training on eight devices is training on one."""

import json

import numpy as np
import pytest
import simulated

SCRIPT = """
import json
import jax, numpy as np, optax
from synthjax.models.classifiers import make_classifier
from synthjax.training import device_augment
from synthjax.training import loop
from synthjax.training.moco import moco
from synthjax.training.multi_positive import multi_positive
from synthjax.training.supervised import supervised

# Most of the time goes to compiling, and little of that to what is compared.
jax.config.update("jax_disable_most_optimizations", True)
small = dict(name="resnet_tiny", stage_sizes=(1,), width=8)
objectives = {
  "ResNet": supervised(
    make_classifier(num_classes=4, **small), optax.sgd(0.1, momentum=0.9),
    label_smoothing=0.1, ema_decay=0.9,
    augment=device_augment.make_augment("crop_flip")),
  "ViT": supervised(
    make_classifier("vit_tiny", num_classes=4, width=16, depth=2, drop_path=0.5,
                    dropout=0.1),
    optax.adamw(1e-3)),
  "MoCo": moco(
    make_classifier(num_classes=8, head="mlp", **small),
    optax.sgd(0.05, momentum=0.9), dim=8, queue_size=48, num_groups=4,
    momentum=0.9, augment=device_augment.make_augment("crop_flip", crop=True)),
  "StableRep": multi_positive(
    make_classifier(num_classes=None, **small), optax.sgd(0.05, momentum=0.9),
    per_prompt=4, hidden=16, dim=8,
    augment=device_augment.make_augment("crop_flip", crop=True)),
  "StableRep of a ViT": multi_positive(
    make_classifier("vit_tiny", num_classes=None, width=16, depth=2,
                    drop_path=0.5),
    optax.adamw(1e-3), per_prompt=2, hidden=16, dim=8),
}
draws = np.random.default_rng(0)
batches = [{"image": draws.integers(0, 256, (16, 16, 16, 3), np.uint8),
            "label": draws.integers(0, 4, 16)} for _ in range(4)]
found = {"devices": jax.device_count()}
for name, objective in objectives.items():
  state = loop.start(objective, batches[0], jax.random.key(0))
  losses = found.setdefault(name, [])
  state = loop.fit(
    objective, state, iter(batches), num_steps=4, rng=jax.random.key(1),
    hooks=[lambda step, state, metrics: losses.append(float(metrics["loss"]))])
  # So that what the last step did counts too.
  leaves = jax.tree.leaves(jax.device_get(state))
  losses.append(float(sum(np.abs(x).sum() for x in leaves)))
print(json.dumps(found))
"""


BATCHES = """
import json
from synthjax.config import embedded_world
from synthjax.encoders import load_encoder
from synthjax.generators import load_generator

blocks = embedded_world()
generator = load_generator(**blocks["generator"] | {"batch_size": 3})
encoder = load_encoder(**blocks["encoder"] | {"batch_size": 3})
texts = encoder.encode_texts(["a cat"] * 7)
print(json.dumps([generator.batch_size, len(texts)]))
"""


@pytest.mark.slow
def test_a_batch_of_a_generator_or_an_encoder_is_that_of_one_device():
  """Three, which would not split over two devices."""
  process = simulated.start(BATCHES, devices=2)
  assert json.loads(simulated.finish(process)) == [6, 7]


@pytest.mark.slow
def test_eight_devices_have_the_losses_of_one(capsys):
  """To 1e-4 of each number, in float32: sums round in another order.

  Statistics of BatchNorm are those of the global batch (of MoCo's groups, which
  lie across devices), and random draws are those of an image, wherever it is.
  """

  counts, runs = (1, 8), []
  started = [simulated.start(SCRIPT, devices=count) for count in counts]
  for count, process in zip(counts, started, strict=True):
    runs.append(json.loads(simulated.finish(process)))
    assert runs[-1].pop("devices") == count
  one, eight = runs
  for name, want in one.items():
    off = np.max(np.abs(np.divide(eight[name], want) - 1))
    with capsys.disabled():
      print(f" {name} {off:.1e}", end="")
    assert len(set(want)) == 5 and np.isfinite(want).all()
    np.testing.assert_allclose(eight[name], want, rtol=1e-4, err_msg=name)
