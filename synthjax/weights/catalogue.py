"""The catalogue of released checkpoints: files, publishers and conversions."""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

from synthjax.config import released_generator
from synthjax.runtime.published import File

OPENAI = "https://openaipublic.blob.core.windows.net"
HUGGING_FACE = "https://huggingface.co"
META = "https://dl.fbaipublicfiles.com"
TORCHVISION = "https://download.pytorch.org/models"


class Made(NamedTuple):
  """One file that is converted from a publisher's."""

  sources: tuple[str, ...]  # names of files
  field: str | None = None  # the field of a config for it
  parameters: int | None = None  # without BatchNorm's averages


class Released(NamedTuple):
  """One checkpoint, possibly of several files."""

  what: str
  files: tuple[File, ...]
  makes: Mapping[str, Made]
  family: str  # of FAMILIES
  licence: str
  note: str = ""
  # A key of MODELS of the family: what it has that weights do not show.
  model: str | None = None


def hub(repository: str, name: str, megabytes: float, *others: str) -> File:
  """Returns a file of a repository of the Hugging Face hub."""
  folder = f"{HUGGING_FACE}/{repository}/resolve/main"
  rest = tuple(f"{folder}/{other}" for other in others)
  return File(name, f"{folder}/{name}", None, megabytes, rest)


def _one_file(
  what: str,
  file: File,
  family: str,
  licence: str,
  parameters: int | None = None,
  note: str = "",
  *,
  name: str,
  field: str,
) -> Released:
  """Returns a checkpoint of one file, which is converted to the file `name`."""
  makes = {name: Made((file.name,), field, parameters)}
  return Released(what, (file,), makes, family, licence, note)


_features = partial(
  _one_file, name="encoder.safetensors", field="card.encoders"
)
_backbone = partial(
  _one_file, name="backbone.safetensors", field="transfer.weights"
)


# --- encoders of images, for the measures of a dataset card ------------------

_INCEPTION = "pt_inception-2015-12-05-6726825d.pth"


def _dinov2(size: str, parameters: int, megabytes: float) -> Released:
  name = f"dinov2_vit{size}14"
  file = f"{name}_pretrain.pth"
  return _features(
    f"DINOv2 ViT-{size.upper()}/14, the authors'",
    File(file, f"{META}/dinov2/{name}/{file}", None, megabytes),
    "dinov2",
    "Apache-2.0",
    parameters,
    "for figures of image quality; no published hash",
  )


def _dinov2_hub(size: str, parameters: int, megabytes: float) -> Released:
  name = {"s": "small", "b": "base", "l": "large"}[size]
  folder = f"facebook/dinov2-{name}"
  return _features(
    f"DINOv2 ViT-{size.upper()}/14, Hugging Face's",
    hub(folder, "model.safetensors", megabytes, "pytorch_model.bin"),
    "dinov2",
    "Apache-2.0",
    parameters,
    "the same weights in another layout",
  )


IMAGE_ENCODERS = {
  "dinov2_vits14": _dinov2("s", 22_056_576, 88.3),
  "dinov2_vitb14": _dinov2("b", 86_580_480, 346.4),
  "dinov2_vitl14": _dinov2("l", 304_368_640, 1217.6),
  "dinov2_vits14_hf": _dinov2_hub("s", 22_056_576, 88.2),
  "dinov2_vitb14_hf": _dinov2_hub("b", 86_580_480, 346.3),
  "dinov2_vitl14_hf": _dinov2_hub("l", 304_368_640, 1217.5),
  "inception_fid": _features(
    "Inception-v3 of FID, pytorch-fid's port",
    File(
      _INCEPTION,
      "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
      f"{_INCEPTION}",
      # The name states the first eight digits; the rest is as several projects
      # that use the file have recorded it.
      "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
      95.6,
      # torch-fidelity's release of the same bytes.
      (
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
        "weights-inception-2015-12-05-6726825d.pth",
      ),
    ),
    "inception",
    "Apache-2.0",
    23_850_960,
    "for figures of image quality, FID among them",
  ),
}


# --- the checkpoints ---------------------------------------------------------

# The modules whose `from_released` converts the weights.
FAMILIES = {
  "clip": "synthjax.models.clip.weights",
  "dinov2": "synthjax.models.dinov2.weights",
  "glide": "synthjax.models.glide.weights",
  "inception": "synthjax.models.inception.weights",
  "noised_clip": "synthjax.models.glide.noised_clip_weights",
  "siglip": "synthjax.models.siglip.weights",
  "resnet": "synthjax.models.resnet.weights",
  "t5": "synthjax.models.t5.weights",
  "vit": "synthjax.models.vit.weights",
}

# Networks that are read from folders of several: what chooses their files.
FOLDERS = {
  "flux2": "synthjax.models.flux2.weights:wanted",
  "qwen3": "synthjax.models.qwen3.weights:wanted",
  "stable_diffusion": "synthjax.models.stable_diffusion.weights:wanted",
  "stable_diffusion_without_unet": (
    "synthjax.models.stable_diffusion.weights:wanted_without_unet"
  ),
}


class HubGenerator(NamedTuple):
  """A generator of several networks, read from its repositories as it is."""

  what: str
  gigabytes: float  # that are fetched
  licence: str
  note: str = "no published hash"


_OPEN_RAIL = "OpenRAIL++"


def _lightning(steps: str) -> HubGenerator:
  return HubGenerator(f"SDXL-Lightning, {steps}, 1024 px", 8.8, _OPEN_RAIL)


# By the names of `config.HUB_GENERATORS`, which says where they are.
HUB_GENERATORS = {
  "flux2_klein": HubGenerator(
    "FLUX.2-klein-4B, 4 steps, 1024 px", 16.0, "Apache-2.0"
  ),
  "flux2_klein_base": HubGenerator(
    "FLUX.2-klein-base-4B, 1024 px", 16.0, "Apache-2.0"
  ),
  "sdxl": HubGenerator("SDXL base 1.0, 1024 px", 13.9, _OPEN_RAIL),
  "sdxl_lightning_1": _lightning("1 step"),
  "sdxl_lightning_2": _lightning("2 steps"),
  "sdxl_lightning_4": _lightning("4 steps"),
  "sdxl_lightning_8": _lightning("8 steps"),
  "sdxl_turbo": HubGenerator(
    "SDXL-Turbo, 512 px",
    13.9,
    "Stability AI Community",
    "commercial use is limited, see the publisher",
  ),
}


def places(name: str) -> list[str]:
  """Returns a hub generator's folder, and its distilled UNet's file."""
  block = released_generator(name)
  return [block[k] for k in ("weights", "distilled") if k in block]


_CLIP_BPE = File(
  "bpe_simple_vocab_16e6.txt.gz",
  "https://raw.githubusercontent.com/openai/CLIP/main/clip/"
  "bpe_simple_vocab_16e6.txt.gz",
  "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a",
  1.4,
)
# GLIDE's vocabulary is that of GPT-2.
_GLIDE_BPE = (
  File(
    "encoder.json",
    f"{OPENAI}/gpt-2/encodings/main/encoder.json",
    "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    1.0,
  ),
  File(
    "vocab.bpe",
    f"{OPENAI}/gpt-2/encodings/main/vocab.bpe",
    "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    0.5,
  ),
)
_GUIDE = "generator.clip_guidance"


def _glide(name: str) -> File:
  return File(name, f"{OPENAI}/diffusion/dec-2021/{name}")


def _clip(model: str, file: File, parameters: int, note: str = "") -> Released:
  return Released(
    f"CLIP {model}{note and ', as float32'}",
    (file, _CLIP_BPE),
    {
      "clip.safetensors": Made((file.name,), "encoder.weights", parameters),
      "tokenizer.json": Made((_CLIP_BPE.name,), "encoder.tokenizer"),
    },
    "clip",
    "MIT",
    note,
    f"clip_{model.lower().translate({ord('-'): '_', ord('/'): None})}",
  )


def _clip_openai(
  model: str, sha256: str, megabytes: int, parameters: int
) -> Released:
  """OpenAI's archive: TorchScript, mostly float16."""
  name = f"{model.replace('/', '-')}.pt"
  url = f"{OPENAI}/clip/models/{sha256}/{name}"
  return _clip(model, File(name, url, sha256, megabytes), parameters)


def _clip_hub(model: str, parameters: int, *of_file) -> Released:
  """The same weights in Hugging Face's layout, or in open_clip's."""
  note = "the same weights in another layout"
  return _clip(model, hub(*of_file), parameters, note)


def _siglip2(
  what: str, repository: str, parameters: int, megabytes: float
) -> Released:
  folder = f"google/{repository}"
  weights, tokenizer = "model.safetensors", "tokenizer.json"
  return Released(
    f"SigLIP 2 {what}",
    (hub(folder, weights, megabytes), hub(folder, tokenizer, 34.4)),
    {
      "siglip.safetensors": Made((weights,), "encoder.weights", parameters),
      tokenizer: Made((tokenizer,), "encoder.tokenizer"),
    },
    "siglip",
    "Apache-2.0",
    "no published hash",
  )


def _moco(epochs: int, md5: str) -> Released:
  name = f"moco_v2_{epochs}ep_pretrain.pth.tar"
  url = f"{META}/moco/moco_checkpoints/moco_v2_{epochs}ep/{name}"
  return _backbone(
    f"MoCo v2 ResNet-50, {epochs} epochs",
    File(name, url),
    "resnet",
    "CC-BY-NC-4.0",
    note=f"licence as of its release, see the publisher; MD5 {md5}...",
  )


RELEASED = {
  "glide": Released(
    "GLIDE (filtered): base 64 px, upsampler 256 px",
    (_glide("base.pt"), _glide("upsample.pt"), *_GLIDE_BPE),
    {
      "base.safetensors": Made(
        ("base.pt",), "generator.base.weights", 385_030_726
      ),
      "upsampler.safetensors": Made(
        ("upsample.pt",), "generator.upsampler.weights", 398_361_286
      ),
      "tokenizer.json": Made(
        tuple(file.name for file in _GLIDE_BPE), "generator.tokenizer"
      ),
    },
    "glide",
    "MIT",
    "it does not draw people; no published hash",
  ),
  "glide_clip": Released(
    "GLIDE's noised CLIP, for CLIP guidance",
    (_glide("clip_image_enc.pt"), _glide("clip_text_enc.pt"), _CLIP_BPE),
    {
      "image.safetensors": Made(
        ("clip_image_enc.pt",), f"{_GUIDE}.image_weights", 86_443_776
      ),
      "text.safetensors": Made(
        ("clip_text_enc.pt",), f"{_GUIDE}.text_weights", 71_679_488
      ),
      "tokenizer.json": Made((_CLIP_BPE.name,), f"{_GUIDE}.tokenizer"),
    },
    "noised_clip",
    "MIT",
    "no published hash",
  ),
  "clip_rn50": _clip_openai(
    "RN50",
    "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762",
    256,
    102_007_137,
  ),
  "clip_vit_b32": _clip_openai(
    "ViT-B/32",
    "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
    354,
    151_277_313,
  ),
  "clip_vit_b16": _clip_openai(
    "ViT-B/16",
    "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",
    351,
    149_620_737,
  ),
  "clip_vit_l14": _clip_openai(
    "ViT-L/14",
    "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
    933,
    427_616_513,
  ),
  "clip_vit_b32_hf": _clip_hub(
    "ViT-B/32",
    151_277_313,
    "openai/clip-vit-base-patch32",
    "pytorch_model.bin",
    605,
    "flax_model.msgpack",
  ),
  "clip_vit_b16_hf": _clip_hub(
    "ViT-B/16",
    149_620_737,
    "openai/clip-vit-base-patch16",
    "pytorch_model.bin",
    599,
    "flax_model.msgpack",
  ),
  "clip_vit_l14_hf": _clip_hub(
    "ViT-L/14",
    427_616_513,
    "openai/clip-vit-large-patch14",
    "model.safetensors",
    1711,
    "pytorch_model.bin",
    "flax_model.msgpack",
  ),
  "clip_rn50_openclip": _clip_hub(
    "RN50",
    102_007_137,
    "timm/resnet50_clip.openai",
    "open_clip_model.safetensors",
    408,
    "open_clip_pytorch_model.bin",
  ),
  "siglip2_vit_b16": _siglip2(
    "ViT-B/16, 224 px", "siglip2-base-patch16-224", 375_187_970, 1500.8
  ),
  "siglip2_vit_l16": _siglip2(
    "ViT-L/16, 256 px", "siglip2-large-patch16-256", 881_526_786, 3526.1
  ),
  "siglip2_so400m_14": _siglip2(
    "So400m/14, 224 px", "siglip2-so400m-patch14-224", 1_135_463_602, 4541.9
  ),
  "t5_common_gen": Released(
    "T5-base tuned on CommonGen: sentences from words",
    (
      hub("mrm8488/t5-base-finetuned-common_gen", "pytorch_model.bin", 892),
      hub("mrm8488/t5-base-finetuned-common_gen", "spiece.model", 0.8),
    ),
    {
      "t5.safetensors": Made(
        ("pytorch_model.bin",), "prompts.writer.weights", 222_903_552
      ),
      "spiece.model": Made(("spiece.model",), "prompts.writer.tokenizer"),
    },
    "t5",
    "Apache-2.0",
    "no published hash",
  ),
  "resnet50_torchvision": _backbone(
    "ResNet-50, ImageNet-1k, torchvision V1",
    File(
      "resnet50-0676ba61.pth",
      f"{TORCHVISION}/resnet50-0676ba61.pth",
      "0676ba61",
      102.5,
    ),
    "resnet",
    "BSD-3-Clause",
    25_557_032,
  ),
  "resnet50_torchvision_v2": _backbone(
    "ResNet-50, ImageNet-1k, torchvision V2",
    File(
      "resnet50-11ad3fa6.pth",
      f"{TORCHVISION}/resnet50-11ad3fa6.pth",
      "11ad3fa6",
      102.5,
    ),
    "resnet",
    "BSD-3-Clause",
    25_557_032,
  ),
  "resnet50_timm": _backbone(
    "ResNet-50, ImageNet-1k, timm a1",
    hub("timm/resnet50.a1_in1k", "model.safetensors", 102, "pytorch_model.bin"),
    "resnet",
    "Apache-2.0",
    25_557_032,
  ),
  "deit_s": _backbone(
    "DeiT-S/16, ImageNet-1k",
    File(
      "deit_small_patch16_224-cd65a155.pth",
      f"{META}/deit/deit_small_patch16_224-cd65a155.pth",
      "cd65a155",
      88,
    ),
    "vit",
    "Apache-2.0",
    22_050_664,
  ),
  **IMAGE_ENCODERS,
  "moco_v2_200": _moco(200, "59fd9945"),
  "moco_v2_800": _moco(800, "a04e12f8"),
}
