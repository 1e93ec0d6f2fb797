"""The blocks of pre-training and finetuning that several configs share."""

from typing import Any

from ml_collections.config_dict import placeholder

from synthjax.config.models import embedded_world


def finetuning_on_cifar100() -> dict[str, Any]:
  """Returns what `transfer` needs besides the images (Appendix C.5.3).

  It gives neither the resolution nor the stem: pre-trained weights have the
  stem of ImageNet, so the images are enlarged.
  """
  return dict(
    inits=dict(random=dict(), pretrained=dict()),
    shots=(None,),  # all 50,000
    seeds=(0,),
    image_size=224,
    augment="shift",  # crop of a padded image, flip
    epochs=200,
    batch_size=128,
    optimizer=dict(
      name="sgd",
      lr=0.003,
      drops=(60, 120, 160),
      drop_factor=0.2,
      weight_decay=5e-4,
    ),
    num_workers=16,
    log_every=50,
    checkpoint_every=2_500,
  )


_DEIT = dict(
  augment="none",  # the device crops, too
  source_size=256,
  mix=dict(mixup_alpha=0.8, cutmix_alpha=1.0, switch_prob=0.5, prob=1.0),
)


def use_deit_recipe(config: Any) -> None:
  """Puts DeiT's recipes into the blocks `pretrain` and `transfer`."""
  config.pretrain.update(
    recipe="deit",
    ema_decay=placeholder(float),  # they report the model that is not averaged
    repeats=3,
    device_augment="deit",
    **_DEIT,
  )
  config.pretrain.model.drop_path = 0.1
  use_deit_finetuning(config)


def use_deit_finetuning(config: Any) -> None:
  """Puts DeiT's finetuning into `transfer`; the paper does not tell its own."""
  for name in ("epochs", "batch_size", "optimizer"):  # the recipe has its own
    del config.transfer[name]
  config.transfer.update(
    recipe="deit_finetune",
    model=dict(name="deit_s", dtype="bfloat16"),  # no drop path
    device_augment="deit_finetune",
    **_DEIT,
  )


def embedded_pretraining(
  *, vit: bool = False, preset: str = "paper"
) -> dict[str, Any]:
  """Returns all blocks of a pre-training in the embedded world.

  Args:
    vit: trains a small ViT in place of a small ResNet.
    preset: of the generator, a key of EMBEDDED_PRESETS.
  """
  model = dict(name="resnet_tiny", stem="imagenet", width=32)
  # Of 0.01, 0.03, 0.1 and 0.3, one of the two best on the validation style for
  # either start; sanity_pretrain.py searches.
  optimizer = dict(name="sgd", lr=0.1, weight_decay=5e-4)
  if vit:
    model = dict(name="vit_tiny")
    optimizer = dict(name="adamw", lr=1e-3, weight_decay=0.05, warmup=30)
  common = dict(
    image_size=32,
    augment="drawing",
    optimizer=optimizer,
    validation=dict(split="validation"),
    log_every=20,
  )
  return dict(
    space="emoji16",
    prompts=dict(strategies=("enhanced",), per_class=24, grammar="drawing"),
    generator=embedded_world(preset=preset)["generator"],
    generate=dict(images_per_class=24, seeds=(0,), shard_size=128),
    pretrain=dict(
      model=model,
      filter=False,
      seeds=(0,),
      epochs=40,
      batch_size=64,
      checkpoint_every=100,
      **common,
    ),
    transfer=dict(
      train=dict(split="real_pool"),
      test=dict(split="test"),
      inits=dict(random=dict(), pretrained=dict()),
      shots=(16,),
      seeds=(0, 1, 2),
      epochs=30,
      batch_size=32,
      checkpoint_every=1_000,  # a run takes seconds: its end alone
      **common,
    ),
  )
