r"""Builds the embedded image set from npm packages; users never need to.

  npm install --prefix=$DIR emoji-datasource emojilib @iconify-json/{noto,...} \
    @lobehub/fluent-emoji-3d
  pip install synthjax[dev]
  python -m tools.embedded_world.build --node_modules=$DIR/node_modules \
    --out=synthjax/embedded

The same packages and the same versions of resvg-py, Pillow and tokenizers give
the same bytes. Files written:

  images.zip      lossless WebP strips of 32x32 drawings, a few for each style
  concepts.json   names, caption phrases, splits, and which drawing shows what
  tokenizer.json  byte-level BPE of the captions (Hugging Face tokenizers)
  licenses/       one notice for each style and word list; ATTRIBUTION.md
"""

import io
import itertools
import json
import pathlib
import zipfile

import numpy as np
from absl import app, flags
from PIL import Image

from synthjax.embedded import world
from tools.embedded_world import concepts as concept_list
from tools.embedded_world import icons, licences

_NODE_MODULES = flags.DEFINE_string(
  "node_modules", None, "Folder into which npm installed the packages."
)
_OUT = flags.DEFINE_string("out", None, "Folder to write; it is created.")

# Drawings of one strip. WebP finds repeats best in a narrow strip, and allows
# at most 16,383 rows of pixels.
STRIP = 500
BLANK_STD = 4.0  # of 255; below it a drawing is nearly blank
ALIKE_MSE = 10.0  # of 255^2; drawings closer than that, mirrored or not

VOCABULARY = 2046  # and two special tokens make CLIP's 2,048

# Sets that give code points, which name the concepts of the others.
NAMING_STYLES = ("noto", "twemoji", "fluent-emoji-flat")


def main(_) -> None:
  node_modules = pathlib.Path(_NODE_MODULES.value)
  out = pathlib.Path(_OUT.value)
  out.mkdir(parents=True, exist_ok=True)

  concepts = concept_list.read(node_modules)
  drawings = draw(node_modules, concepts)
  alike = sorted(
    {
      pair
      for style, rows_and_images in drawings.items()
      if style not in world.LATER_STYLES
      for pair in alike_pairs(*rows_and_images)
    }
  )
  splits = concept_list.splits(concepts, alike)
  phrases = concept_list.caption_phrases(concepts)
  for concept, split, chosen in zip(concepts, splits, phrases, strict=True):
    del concept["aliases"]
    concept.update(split=split, phrases=chosen)

  index = dict(
    concepts=concepts,
    styles={
      style: dict(split=world.STYLES[style], rows=rows)
      for style, (rows, _) in drawings.items()
    },
    sources=licences.write(node_modules, list(drawings), out),
  )
  (out / "concepts.json").write_text(dumps(index))
  pack({s: images for s, (_, images) in drawings.items()}, out / "images.zip")
  train_tokenizer(concepts).save(str(out / "tokenizer.json"), pretty=False)
  for path in sorted(out.glob("*.json")) + [out / "images.zip"]:
    print(f"{path.name}: {path.stat().st_size:,} bytes")


def draw(
  node_modules: pathlib.Path, concepts: list[dict]
) -> dict[str, tuple[list[int], np.ndarray]]:
  """Renders every style: {style: (concept of each row, uint8 [n, h, w, 3])}."""
  sets = {style: icons.read(node_modules, style) for style in world.STYLES}
  for style in NAMING_STYLES:
    names = icons.alias_names(*sets[style])
    for concept in concepts:
      aliases = concept["aliases"]
      aliases += [n for n in names.get(concept["code"], ()) if n not in aliases]

  drawings = {}
  for style, (icon_set, chars) in sets.items():
    renamed = icons.RENAMED.get(style, {})
    icons_of = icons.match(concepts, icon_set, chars, renamed)
    rows = [(i, name) for i in sorted(icons_of) for name in icons_of[i]]
    images = np.stack([icons.render(icon_set, name) for _, name in rows])
    # A white square on white shows nothing to learn from.
    kept = np.flatnonzero(images.std((1, 2, 3)) >= BLANK_STD)
    if style in world.LATER_STYLES:
      # Without colours a red and a green apple are one drawing, which may not
      # be of a training concept and of a held-out one.
      shown = [rows[k][0] for k in kept]
      shared = set(itertools.chain(*alike_pairs(shown, images[kept])))
      kept = [k for k in kept if rows[k][0] not in shared]
    drawings[style] = ([rows[k][0] for k in kept], images[kept])
    print(f"{style}: {len(icons_of)} concepts, {len(kept)} drawings")
  return drawings


def alike_pairs(rows: list[int], images: np.ndarray) -> list[tuple[int, int]]:
  """Finds pairs of concepts drawn the same way, or mirrored, in one style."""
  x = images.reshape(len(images), -1).astype(np.float32)
  mirrored = images[:, :, ::-1].reshape(x.shape).astype(np.float32)
  norm = np.square(x).sum(1)
  pairs = []
  for y in (x, mirrored):
    distance = (norm[:, None] + norm - 2 * x @ y.T) / x.shape[1]
    pairs += np.argwhere(distance < ALIKE_MSE).tolist()
  return [(rows[i], rows[j]) for i, j in pairs if rows[i] < rows[j]]


def pack(images: dict[str, np.ndarray], path: pathlib.Path) -> None:
  """Writes images {style: uint8 [n, h, w, 3]} as a zip of lossless WebP."""
  with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
    for style, rows in images.items():
      for part, start in enumerate(range(0, len(rows), STRIP)):
        strip = rows[start : start + STRIP].reshape(-1, *rows.shape[2:])
        data = io.BytesIO()
        Image.fromarray(strip).save(
          data, "WEBP", lossless=True, quality=75, method=6
        )
        # ZipInfo's own date, so that the bytes do not depend on today.
        info = zipfile.ZipInfo(f"{style}/{part:03d}.webp")
        archive.writestr(info, data.getvalue())


def train_tokenizer(concepts: list[dict]):
  """Trains a byte-level BPE on the phrases of captions and prompts."""
  import tokenizers
  from tokenizers import models, normalizers, pre_tokenizers, trainers

  bpe = tokenizers.Tokenizer(models.BPE())
  bpe.normalizer = normalizers.Sequence(
    [
      normalizers.NFC(),
      normalizers.Lowercase(),
      normalizers.Replace(tokenizers.Regex(r"\s+"), " "),
      normalizers.Strip(),
    ]
  )
  # The leading space lets a word be the same token wherever it stands.
  bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
  bpe.decoder = tokenizers.decoders.ByteLevel()
  phrases = [
    phrase
    for concept in concepts
    if concept["split"] == "train"
    for phrase in (concept["name"], *concept["phrases"])
  ]
  phrases += concept_list.HELD_OUT.values()
  phrases += [
    word
    for style, words in world.STYLE_WORDS.items()
    if style not in world.LATER_STYLES
    for word in words
  ]
  templates = [template.format("", style="") for template in world.TEMPLATES]
  trainer = trainers.BpeTrainer(
    vocab_size=VOCABULARY,
    initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    show_progress=False,
  )
  bpe.train_from_iterator(phrases + 10 * templates, trainer)
  return bpe


def dumps(value: dict) -> str:
  """Writes JSON with one concept a line, so that a diff can be read."""
  concepts = ",\n".join(
    json.dumps(c, separators=(",", ":")) for c in value["concepts"]
  )
  rest = {key: v for key, v in value.items() if key != "concepts"}
  rest = json.dumps(rest, separators=(",", ":"))
  return f'{{"concepts":[\n{concepts}\n],\n{rest[1:]}\n'


if __name__ == "__main__":
  flags.mark_flags_as_required(["node_modules", "out"])
  app.run(main)
