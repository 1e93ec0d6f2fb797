r"""GLIDE in miniature: trained on the embedded drawings.

  python -m synthjax.main --config=configs/train_generator.py --workdir=$OUT

  --config=...:stage=base   the 16 px base alone; stage=upsampler the other
  --config=...:runlocal     a few steps, a CPU minute

Measured: see docs/embedded_world.md, "Models".
"""

import ml_collections

from synthjax.config import parse_arg


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  arg = parse_arg(arg, runlocal=False, stage="both")
  config = ml_collections.ConfigDict()
  config.tasks = ("train_generator",)
  config.seed = 0

  stages = ("base", "upsampler")
  config.train_generator = dict(
    stages=stages if arg.stage == "both" else (arg.stage,),
    base=dict(
      data=dict(
        split="train",
        # What the label spaces emoji10 and emoji16 hold, and a little more.
        subcategories=(
          "animal-mammal",
          "animal-bird",
          "animal-marine",
          "animal-reptile",
          "animal-bug",
          "plant-flower",
          "plant-other",
          "food-fruit",
          "food-vegetable",
          "food-prepared",
          "food-sweet",
          "drink",
          "place-building",
          "transport-ground",
          "transport-water",
          "transport-air",
          "sport",
          "clothing",
          "musical-instrument",
          "face-smiling",
        ),
        # Lines alone would leave the colour of a thing to chance.
        leave_out_styles=("fluent-emoji-high-contrast",),
        name_share=0.6,  # of the captions that are the name, with no keywords
      ),
      image_size=16,
      betas="squared_cosine",
      model=dict(
        text_context=16,
        text_width=128,
        text_layers=2,
        text_heads=4,
        model_channels=32,
        channel_mult=(1, 2, 4),
        num_res_blocks=1,
        attention_downsamples=(2, 4),
        head_channels=32,
        dropout=0.0,
      ),
      drop_prompt=0.2,
      max_weight=64.0,
      ema_decay=0.9995,
      optimizer=dict(
        name="adamw",
        lr=1e-3,
        rate="long_fall",
        warmup=100,
        weight_decay=0.01,
        clip_norm=1.0,
      ),
      num_steps=5_000,
      batch_size=128,
      steps_per_call=10,
      log_every=100,
      checkpoint_every=200,
    ),
    upsampler=dict(
      data=dict(
        split="train",
        leave_out=("People & Body", "Symbols"),
        leave_out_styles=("fluent-emoji-high-contrast",),
        name_share=0.6,
      ),
      image_size=32,
      low_res=16,
      betas="linear",
      low_res_noise=0.08,
      model=dict(
        text_context=16,
        text_width=64,
        text_layers=1,
        text_heads=4,
        model_channels=32,
        channel_mult=(1, 1, 2),
        num_res_blocks=1,
        attention_downsamples=(4,),
        head_channels=32,
        dropout=0.0,
      ),
      drop_prompt=0.2,
      ema_decay=0.999,
      optimizer=dict(
        name="adamw",
        lr=1.5e-3,
        rate="trapezoid",
        warmup=100,
        weight_decay=0.01,
        clip_norm=1.0,
      ),
      num_steps=2_000,
      batch_size=64,
      steps_per_call=10,
      log_every=100,
      checkpoint_every=200,
    ),
  )

  if arg.runlocal:  # comes last, so that it can shrink anything above
    for stage in stages:
      block = config.train_generator[stage]
      block.num_steps, block.batch_size = 4, 4
      block.log_every, block.checkpoint_every = 1, 2
      block.steps_per_call = 1
      block.model.text_layers = 1
      block.model.channel_mult = (1, 1)
      block.model.attention_downsamples = (2,)
  return config
