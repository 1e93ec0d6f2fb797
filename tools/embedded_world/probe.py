r"""Measures the embedded CLIP by a linear probe on real drawings.

  python -m tools.embedded_world.probe
  python -m tools.embedded_world.probe --weights=OTHER/clip.safetensors

A linear classifier learns the classes of `emoji16` from the features of all
training drawings. Its accuracy is that on the validation style, which has
chosen the penalty too.
"""

import argparse

import numpy as np

from synthjax.adapt import linear_probe
from synthjax.config import embedded_world
from synthjax.embedded import world
from synthjax.encoders import load_encoder
from synthjax.labels import spaces


def features(encoder, split: str) -> tuple[np.ndarray, np.ndarray]:
  """Returns features float32 [n, d] and labels int32 [n] of a split."""
  source = world.open_split(split, space=spaces.load_space("emoji16"))
  rows = [source[i] for i in range(len(source))]
  images = np.stack([row["image"] for row in rows])
  return encoder.encode_images(images), np.array([r["label"] for r in rows])


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument("--weights", help="of a ViT tower; the shipped ones")
  args = parser.parse_args()
  block = embedded_world()["encoder"]
  if args.weights:
    block["weights"] = args.weights
  encoder = load_encoder(**block)
  best = linear_probe.search(
    features(encoder, "train"),
    features(encoder, "validation"),
    num_classes=len(spaces.load_space("emoji16").class_names),
  )
  print(f"{100 * best.accuracy:.2f} %, with a penalty of {best.strength:g}")


if __name__ == "__main__":
  main()
