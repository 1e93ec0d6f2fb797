"""The released encoders of images that a dataset card measures by."""

from synthjax.convert.publishers import META, File, Made, Released, hub

_FID = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights"


def _dinov2(size: str, parameters: int, megabytes: float) -> Released:
  name = f"dinov2_vit{size}14"
  file = f"{name}_pretrain.pth"
  return _features(
    f"DINOv2 ViT-{size.upper()}/14, the authors'",
    File(file, f"{META}/dinov2/{name}/{file}", None, megabytes),
    "dinov2",
    parameters,
    note="for figures of image quality; no published hash",
  )


def _dinov2_hub(size: str, parameters: int, megabytes: float) -> Released:
  name = {"s": "small", "b": "base", "l": "large"}[size]
  folder = f"facebook/dinov2-{name}"
  return _features(
    f"DINOv2 ViT-{size.upper()}/14, Hugging Face's",
    hub(folder, "model.safetensors", megabytes, "pytorch_model.bin"),
    "dinov2",
    parameters,
    note="the same weights in another layout",
  )


def _inception(name: str, sha256: str) -> Released:
  other = f"weights-inception-2015-12-05-{sha256[:8]}.pth"
  return _features(
    "Inception-v3 of FID, pytorch-fid's port",
    File(
      name,
      f"{_FID}/{name}",
      sha256,
      95.6,
      # torch-fidelity's release of the same bytes.
      (
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
        f"{other}",
      ),
    ),
    "inception",
    23_850_960,
    note="for figures of image quality, FID among them",
  )


def _features(what, file, family, parameters, note) -> Released:
  made = Made((file.name,), "card.encoders", parameters)
  makes = {"encoder.safetensors": made}
  return Released(what, (file,), makes, family, "Apache-2.0", note)


IMAGE_ENCODERS = {
  "dinov2_vits14": _dinov2("s", 22_056_576, 88.3),
  "dinov2_vitb14": _dinov2("b", 86_580_480, 346.4),
  "dinov2_vitl14": _dinov2("l", 304_368_640, 1217.6),
  "dinov2_vits14_hf": _dinov2_hub("s", 22_056_576, 88.2),
  "dinov2_vitb14_hf": _dinov2_hub("b", 86_580_480, 346.3),
  "dinov2_vitl14_hf": _dinov2_hub("l", 304_368_640, 1217.5),
  "inception_fid": _inception(
    "pt_inception-2015-12-05-6726825d.pth",
    # The name states the first eight digits; the rest is as several projects
    # that use the file have recorded it.
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
  ),
}
