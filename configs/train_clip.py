r"""CLIP in miniature: how the shipped encoder was trained.

  python -m synthjax.main --config=configs/train_clip.py --workdir=$OUT

  --config=...:runlocal   a few steps, a CPU minute

Measured: see README.md, "The embedded world".
"""

import ml_collections

from synthjax.config import parse_arg


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  arg = parse_arg(arg, runlocal=False)
  config = ml_collections.ConfigDict()
  config.tasks = ("train_clip",)
  config.seed = 0

  config.train_clip = dict(
    data=dict(split="train", name_share=0.3),
    model=dict(
      embed_dim=128,
      image_size=32,
      patch_size=4,
      vision_width=128,
      vision_layers=3,
      vision_heads=4,
      context_length=24,
      text_width=128,
      text_layers=2,
      text_heads=4,
    ),
    positives="same_text",
    ema_decay=0.999,
    optimizer=dict(
      name="adamw",
      lr=1e-3,
      rate="trapezoid",
      warmup=100,
      weight_decay=0.1,
      clip_norm=1.0,
    ),
    num_steps=1_600,
    batch_size=128,
    num_workers=0,
    log_every=25,
    checkpoint_every=100,
  )

  if arg.runlocal:  # comes last, so that it can shrink anything above
    block = config.train_clip
    block.num_steps, block.batch_size = 4, 8
    block.log_every, block.checkpoint_every = 1, 2
    block.model.vision_layers = block.model.text_layers = 1
  return config
