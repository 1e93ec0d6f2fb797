"""One file of weights and one of words, of a folder of Stable Diffusion."""

import pathlib

from etils import epath

from synthjax.runtime.atomic import replace

WEIGHTS, TOKENIZER = "stable_diffusion.safetensors", "tokenizer.json"


def pack(folder: epath.PathLike, output: epath.PathLike) -> None:
  """Converts a folder in diffusers' layout, once and for all.

  Args:
    folder: with `unet/`, `vae/`, `text_encoder/`, `tokenizer/`, `scheduler/`.
    output: a folder, made where there is none; WEIGHTS and TOKENIZER are
      written into it. float16 stays float16, all else is float32.

  Raises:
    UserError: about files that are missing, or do not convert.
  """
  from synthjax.models.stable_diffusion import weights as convert
  from synthjax.tokenizers import bpe
  from synthjax.weights import files

  folder, output = epath.Path(folder), epath.Path(output)
  words = bpe.read(folder / convert.VOCABULARY, folder / convert.MERGES)
  variables, about = convert.from_folder(folder)
  about["sources"] = {
    str(pathlib.PurePath(path).relative_to(folder)): files.sha256(path)
    for path in convert.files_of(folder)
  }
  output.mkdir(parents=True, exist_ok=True)
  with replace(output, TOKENIZER) as temporary:
    temporary.write_text(words.bpe.to_str())
  files.save_params(output / WEIGHTS, variables, about, dtype=None)
