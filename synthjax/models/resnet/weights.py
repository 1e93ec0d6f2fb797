"""Converts ResNets, by the names of torchvision, timm and MoCo.

timm calls the weights of its plain ResNets as torchvision does. MoCo's
checkpoints hold the trained encoder below `module.encoder_q`, by torchvision's
names; the momentum encoder and the queue are dropped. So is
`num_batches_tracked`, which PyTorch's BatchNorm counts and does not use; it is
not written back, and `load_state_dict` fills it with zero.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from synthjax.models.classifiers import describe, make_classifier
from synthjax.models.resnet import model as resnet
from synthjax.runtime.errors import UserError
from synthjax.weights import rules
from synthjax.weights.rules import Rule, conv

# Layouts, and their prefixes of torchvision's names.
LAYOUTS = {"torchvision": "", "timm": "", "moco": "module.encoder_q."}

# Prefixes that are removed: those of MoCo and of plain classifiers, trained on
# several devices or on one. The first that fits counts.
_PREFIXES = ("module.encoder_q.", "encoder_q.", "module.", "")
_DROPPED = re.compile(
  r"(module\.)?(encoder_k\..*|queue|queue_ptr)|.*\.num_batches_tracked"
)

_BLOCK = "layer{i}.{j}", "layer{i}_{j}"

RULES = [
  Rule("conv1.weight", "params/conv1/kernel", conv),
  *rules.batch_norm("bn1", "bn1"),
  Rule(
    f"{_BLOCK[0]}.conv{{k}}.weight",
    f"params/{_BLOCK[1]}/conv{{k}}/kernel",
    conv,
  ),
  *rules.batch_norm(f"{_BLOCK[0]}.bn{{k}}", f"{_BLOCK[1]}/bn{{k}}"),
  Rule(
    f"{_BLOCK[0]}.downsample.0.weight",
    f"params/{_BLOCK[1]}/downsample_conv/kernel",
    conv,
  ),
  *rules.batch_norm(f"{_BLOCK[0]}.downsample.1", f"{_BLOCK[1]}/downsample_bn"),
  *rules.dense("fc", "params/fc"),
  *rules.dense("fc.{i}", "params/fc_{i}"),
]


def from_released(
  weights: Mapping[str, np.ndarray],
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns the variables of a ResNet, and their description.

  `models.classifiers.backbone` drops the head. The description's `model` and
  `num_classes` (None without a head; the dimensions of MoCo's projection) are
  arguments of `make_classifier`. Weights do not show the size of the images:
  `image_size` is 224, or 32 where the first convolution is 3x3.

  Args:
    weights: by the names of torchvision, timm or MoCo, with or without a head.

  Raises:
    UserError: listing what is missing, unused or misshapen.
  """
  prefix = next(
    (p for p in _PREFIXES if f"{p}conv1.weight" in weights), _PREFIXES[-1]
  )
  weights = {
    # Names without the prefix stay, so that the rules report them.
    name.removeprefix(prefix): weight
    for name, weight in weights.items()
    if not _DROPPED.fullmatch(name)
  }
  sizes, num_classes = _sizes(weights)
  description = {
    "kind": "classifier",
    "model": describe(resnet.MODELS, sizes),
    "image_size": 224 if sizes["stem"] == "imagenet" else 32,
    "num_classes": num_classes,
  }
  model = make_classifier(num_classes=num_classes, **description["model"])
  images = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
  like = jax.eval_shape(model.init, jax.random.key(0), images)
  return rules.convert(weights, RULES, like), description


def to_released(
  variables: Mapping[str, Any],
  description: Mapping[str, Any],
  layout: str = "torchvision",
) -> dict[str, np.ndarray]:
  """Returns variables under the released names of one of LAYOUTS.

  "moco" has the trained encoder alone, which is all that transfer reads.
  """
  del description  # the names follow from the variables
  rules.check_layout("ResNet", layout, LAYOUTS)
  prefix = LAYOUTS[layout]
  released = rules.restore(variables, RULES)
  return {f"{prefix}{name}": weight for name, weight in released.items()}


def _sizes(weights: Mapping[str, np.ndarray]) -> tuple[dict, int | None]:
  """Returns the fields of the module and the number of classes."""
  stem = np.shape(weights["conv1.weight"]) if "conv1.weight" in weights else ()
  blocks = rules.numbers_in(weights, r"layer(\d+)\.(\d+)\.")
  stems = {(7, 7): "imagenet", (3, 3): "cifar"}
  if stem[2:] not in stems or not blocks:
    raise UserError(
      "These are not the weights of a ResNet as torchvision, timm and MoCo "
      "call them. Looked for conv1.weight, of a 7x7 or 3x3 convolution (found "
      f"{stem or 'none'}), and for layer1.0.conv1.weight and the like (found "
      f"{len(blocks)}), as they are or after one of "
      f"{', '.join(_PREFIXES[:-1])}. Names found: {rules.some_names(weights)}."
    )
  stages = range(1, 1 + max(stage for stage, _ in blocks))
  stage_sizes = [
    max((1 + j for i, j in blocks if i == stage), default=0) for stage in stages
  ]
  if 0 in stage_sizes:
    raise UserError(
      "These weights of a ResNet do not fit: there are blocks of "
      f"layer{stages[-1]}, and none of layer{1 + stage_sizes.index(0)}. The "
      "file is another network's, or a part of it is missing."
    )
  bottleneck = "layer1.0.conv3.weight" in weights
  sizes = {
    "stage_sizes": stage_sizes,
    "block": "bottleneck" if bottleneck else "basic",
    "width": int(stem[0]),
    "stem": stems[stem[2:]],
    "head": "mlp" if "fc.2.weight" in weights else "linear",
  }
  head = weights.get("fc.2.weight", weights.get("fc.weight"))
  return sizes, None if head is None else len(head)
