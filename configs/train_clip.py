r"""CLIP in miniature: trained on the embedded drawings.

  python -m synthjax.main --config=configs/train_clip.py --workdir=$OUT

  --config=...:tower=resnet   the ResNet tower; the ViT otherwise
  --config=...:runlocal       a few steps, a CPU minute

Measured: see docs/embedded_world.md, "Models".
"""

import ml_collections

from synthjax.config import parse_arg, unknown_names

# The ResNet halves the image five times, so the drawings are enlarged.
TOWERS = dict(
  vit=dict(
    image_size=32,
    patch_size=4,
    vision_width=128,
    vision_layers=3,
    vision_heads=4,
  ),
  resnet=dict(
    image_tower="resnet",
    image_size=64,
    patch_size=None,
    vision_width=16,
    vision_layers=(1, 2, 2, 1),
    vision_heads=8,
  ),
)

# Batches of 256. The ResNet tower costs more and gained nothing after these.
STEPS = dict(vit=4_000, resnet=2_400)


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  arg = parse_arg(arg, runlocal=False, tower="vit")
  if arg.tower not in TOWERS:
    raise unknown_names("tower", [arg.tower], TOWERS)
  config = ml_collections.ConfigDict()
  config.tasks = ("train_clip",)
  config.seed = 0

  config.train_clip = dict(
    data=dict(split="train", name_share=0.3),
    model=dict(
      embed_dim=128,
      context_length=24,
      text_width=128,
      text_layers=2,
      text_heads=4,
      **TOWERS[arg.tower],
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
    num_steps=STEPS[arg.tower],
    batch_size=256,
    steps_per_call=10,
    log_every=100,
    checkpoint_every=100,
  )

  if arg.runlocal:  # comes last, so that it can shrink anything above
    block = config.train_clip
    block.num_steps, block.batch_size = 4, 8
    block.log_every, block.checkpoint_every = 1, 2
    block.steps_per_call = 1
    block.model.text_layers = 1
    block.model.vision_layers = 1 if arg.tower == "vit" else (1, 1, 1, 1)
  return config
