"""Puts a pre-trained ResNet below a detector."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from synthjax.errors import UserError
from synthjax.models.classifiers import backbone
from synthjax.models.faster_rcnn import NEW


def from_backbone(
  weights: Mapping[str, Any], variables: Mapping[str, Any]
) -> dict[str, Any]:
  """Returns a detector's variables that start from a ResNet's.

  Every weight of the ResNet but those of its head is used, the statistics of
  BatchNorm with them: ours, or released ones that `convert.resnet` has read
  (torchvision, timm, MoCo).

  Args:
    weights: `params` and `batch_stats` of a ResNet, with any head or none.
    variables: of a new `FasterRCNN`; what a ResNet does not have stays.

  Raises:
    UserError: listing every weight that is missing, unused or misshapen.
  """
  have = traverse_util.flatten_dict(backbone(weights))
  want = traverse_util.flatten_dict(dict(variables))
  is_new = lambda path: path[1] in NEW
  problems = []
  for path in sorted(have.keys() | want.keys()):
    if path not in have and is_new(path):
      continue
    found, needed = (
      np.shape(tree[path]) if path in tree else None for tree in (have, want)
    )
    if found != needed:
      problems.append(
        f"{'/'.join(path)}: the ResNet has {found}, the detector needs {needed}"
      )
  if problems:
    raise UserError(
      f"The ResNet does not fit the detector in {len(problems)} places:\n  "
      + "\n  ".join(problems)
      + "\nBuild the detector on the ResNet that was pre-trained."
    )
  return traverse_util.unflatten_dict(want | have)
