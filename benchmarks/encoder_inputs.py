"""The networks, images and config of the benchmark of encoding."""

import json
import pathlib
from typing import Any

import numpy as np

from benchmarks.made_up import fill, picture

# Fields of models.clip.CLIP. The text tower is small, as images alone count.
_TEXT = dict(context_length=77, text_width=64, text_layers=1, text_heads=1)
MODELS = {
  "rn50": dict(
    embed_dim=1024,
    image_size=224,
    patch_size=None,
    vision_width=64,
    vision_layers=(3, 4, 6, 3),
    vision_heads=32,
    image_tower="resnet",
  ),
  "vit_b16": dict(
    embed_dim=512,
    image_size=224,
    patch_size=16,
    vision_width=768,
    vision_layers=12,
    vision_heads=12,
    image_tower="vit",
  ),
}
# Fields to replace, for tests.
TINY = {
  "rn50": dict(vision_width=4, vision_layers=(1, 1, 1, 1), vision_heads=2),
  "vit_b16": dict(vision_width=16, vision_layers=1, vision_heads=2),
}
TINY_SIDE = 32  # px
PICTURES = 64  # that differ


def fields_of(name: str, tiny: bool) -> dict[str, Any]:
  """Returns the fields of a model of MODELS, or of a small one of its kind."""
  from synthjax.tokenizers import bpe

  fields = MODELS[name] | _TEXT
  fields["vocab_size"] = bpe.load().clip_vocab_size
  if tiny:
    fields |= TINY[name] | dict(image_size=TINY_SIDE, embed_dim=16)
  return fields


def write_images(folder: pathlib.Path, args) -> None:
  """Completes the task `generate` in a folder; the same PNGs lie in `files`."""
  from synthjax.data.generated import shards
  from synthjax.data.pipeline import codecs
  from synthjax.runtime import artifacts

  rng = np.random.default_rng(0)
  count = args.shards * args.images
  pictures = [
    codecs.encode_png(picture(rng, args.side))
    for _ in range(min(count, PICTURES))
  ]
  (folder / "files").mkdir()
  for i in range(count):
    path = folder / "files" / f"{i:06d}.png"
    path.write_bytes(pictures[i % len(pictures)])
  spec, written = {"made": "up"}, {}
  artifacts.begin(folder / "generate", spec)
  for shard in range(args.shards):
    first = shard * args.images
    written[shards.shard_name(shard, args.shards, name="synthjax_images")] = (
      shards.write_shard(
        folder / "generate",
        shard,
        args.shards,
        (
          dict(
            image=[i], label=i % 2, prompt="", seed=0, id=f"basic-0-0-s0-{i}"
          )
          for i in range(first, first + args.images)
        ),
        name="synthjax_images",
        encode=lambda image: pictures[image[0] % len(pictures)],
      )
    )
  artifacts.finish(folder / "generate", spec, written)


def write_encoder(folder: pathlib.Path, fields: dict, args) -> Any:
  """Writes a CLIP and a label space; returns the config of the task `score`."""
  import jax
  import ml_collections

  from synthjax.models.clip import model as clip
  from synthjax.weights import files

  size = fields["image_size"]
  variables = fill(
    jax.eval_shape(
      clip.CLIP(**fields).init,
      jax.random.key(0),
      jax.ShapeDtypeStruct((1, size, size, 3), np.float32),
      jax.ShapeDtypeStruct((1, fields["context_length"]), np.int32),
    )
  )
  weights, space = folder / "clip.safetensors", folder / "space.json"
  files.save_params(
    weights, variables, {"kind": "clip", "model": fields, "image_size": size}
  )
  classes = [dict(id=i, name=name) for i, name in enumerate(("cat", "dog"))]
  about = dict(name="pets", classes=classes, templates=["a photo of a {}."])
  space.write_text(json.dumps(about | dict(prompts=["a photo of a {}"])))
  config = ml_collections.ConfigDict(dict(tasks=("score",), score={}))
  config.space = str(space)
  config.encoder = dict(
    name="clip",
    weights=str(weights),
    tokenizer="embedded:tokenizer.json",
    batch_size=args.batch,
    dtype=args.dtype,
  )
  return config
