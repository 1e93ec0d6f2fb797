"""Finds each concept in an icon set and renders it.

Most sets are Iconify's, drawn as SVG; one is a folder of rendered images.
"""

import io
import json
import pathlib
import re

import numpy as np
from PIL import Image

SIZE = 32  # pixels of a stored image
OVERSAMPLING = 4  # rendered larger, then reduced by an antialiased filter

# Where icon sets write their alternative drawings: cactus-1, cactus-2.
NUMBERED = re.compile(r"(?!keycap)(.+)-\d$")


# What an icon set calls by a name of its own: {its name: Unicode's name}.
RENAMED = {
  "fxemoji": {
    "2hearts": "two hearts",
    "americasglobe": "globe showing americas",
    "anguish": "anguished face",
    "asiaaustraliaglobe": "globe showing asia australia",
    "banknotedollar": "dollar banknote",
    "banknoteeuro": "euro banknote",
    "banknotepound": "pound banknote",
    "banknoteyen": "yen banknote",
    "beachumbrella": "beach with umbrella",
    "bellcancellation": "bell with slash",
    "blackpushpin": "pushpin",
    "blackskullcrossbones": "skull and crossbones",
    "bookmarktab": "bookmark tabs",
    "bride": "bride with veil",
    "bunny": "rabbit face",
    "bunnyside": "rabbit",
    "catside": "cat",
    "cat": "cat face",
    "cellphone": "mobile phone",
    "chartdownwardstrend": "chart decreasing",
    "chartupwardstrend": "chart increasing",
    "chartupwardstrendyen": "chart increasing with yen",
    "chilipepper": "hot pepper",
    "closedmailboxlowered": "closed mailbox with lowered flag",
    "closedmailboxraised": "closed mailbox with raised flag",
    "confetti": "confetti ball",
    "construct": "construction worker",
    "controlknob": "control knobs",
    "couplekiss": "kiss",
    "crying": "crying face",
    "devilhorns": "smiling face with horns",
    "dissapointedrelief": "sad but relieved face",
    "dogside": "dog",
    "dog": "dog face",
    "dragonhead": "dragon face",
    "dragonside": "dragon",
    "envelopedownarrowabove": "envelope with arrow",
    "europeafricaglobe": "globe showing europe africa",
    "evergreen": "evergreen tree",
    "fallingleaf": "fallen leaf",
    "fishcakeswirl": "fish cake with swirl",
    "fistedhand": "raised fist",
    "flexbicep": "flexed biceps",
    "frontfacingchick": "front facing baby chick",
    "gma": "old woman",
    "gpa": "old man",
    "grinsweat": "grinning face with sweat",
    "grintears": "face with tears of joy",
    "grinsquint": "grinning squinting face",
    "halo": "smiling face with halo",
    "hampster": "hamster",
    "heartarrow": "heart with arrow",
    "heartgreen": "green heart",
    "heartpurple": "purple heart",
    "heartribbon": "heart with ribbon",
    "heartyellow": "yellow heart",
    "heels": "high heeled shoe",
    "highspeedtrainbulletnose": "bullet train",
    "japaneseangrymask": "ogre",
    "kissclosedeyes": "kissing face with closed eyes",
    "kisseyes": "kissing face with smiling eyes",
    "leaffluttering": "leaf fluttering in wind",
    "leopardside": "leopard",
    "leftmagnifyingglass": "magnifying glass tilted left",
    "rightmagnifyingglass": "magnifying glass tilted right",
    "lightningmood": "high voltage",
    "lockandkey": "locked with key",
    "loudlycrying": "loudly crying face",
    "medicalmask": "face with medical mask",
    "mensrunner": "running shoe",
    "mensshoe": "man's shoe",
    "mansshirt": "t shirt",
    "womansshirt": "woman's clothes",
    "makeupbag": "clutch bag",
    "pinkwallet": "purse",
    "monkeyhear": "hear no evil monkey",
    "monkeysee": "see no evil monkey",
    "monkeyspeak": "speak no evil monkey",
    "mouseside": "mouse",
    "mouse": "mouse face",
    "neutral": "neutral face",
    "openmailboxlowered": "open mailbox with lowered flag",
    "openmailboxraised": "open mailbox with raised flag",
    "opticaldiscicon": "optical disk",
    "perservere": "persevering face",
    "pigside": "pig",
    "pig": "pig face",
    "pigsnout": "pig nose",
    "poo": "pile of poo",
    "pouting": "pouting face",
    "present": "wrapped gift",
    "racecar": "racing car",
    "reminder": "reminder ribbon",
    "sandals": "woman's sandal",
    "screamfear": "face screaming in fear",
    "silhouetteohjapan": "map of japan",
    "snowmountains": "snow capped mountain",
    "speakercancellation": "muted speaker",
    "spurtingwhale": "spouting whale",
    "studiomic": "studio microphone",
    "sunraincloud": "sun behind rain cloud",
    "sweatsplash": "sweat droplets",
    "tennisball": "tennis",
    "thoughtbaloon": "thought balloon",
    "tie": "necktie",
    "tigerside": "tiger",
    "tiger": "tiger face",
    "tired": "tired face",
    "tongueout": "face with tongue",
    "tongueoutwink": "winking face with tongue",
    "toykotower": "tokyo tower",
    "videocasette": "videocassette",
    "waningbibbousmoon": "waning gibbous moon",
    "whitesunsmallcloud": "sun behind small cloud",
    "winking": "winking face",
    "outbox": "outbox tray",
    "saggitarius": "sagittarius",
    "potablewatersystem": "potable water",
    "sleuthspy": "detective",
    "twistedrightwardsarrows": "shuffle tracks button",
  },
}


# Packages other than @iconify-json/<style>, which hold images as
# assets/<code points>.webp.
IMAGE_PACKAGES = {"fluent-emoji-3d": "@lobehub/fluent-emoji-3d"}


def package_of(node_modules: pathlib.Path, style: str) -> pathlib.Path:
  """Returns the folder of a style's npm package."""
  return node_modules / IMAGE_PACKAGES.get(style, f"@iconify-json/{style}")


def read(node_modules: pathlib.Path, style: str) -> tuple[dict, dict]:
  """Reads an icon set: (its icons.json, {code points: icon name})."""
  folder = package_of(node_modules, style)
  if style in IMAGE_PACKAGES:
    files = {f.stem: f for f in sorted((folder / "assets").glob("*.webp"))}
    icons = {code: {"file": file} for code, file in files.items()}
    return {"icons": icons}, {c.replace("-fe0f", ""): c for c in files}
  chars = folder / "chars.json"
  chars = json.loads(chars.read_text()) if chars.exists() else {}
  icons = json.loads((folder / "icons.json").read_text())
  return icons, {code.replace("-fe0f", ""): n for code, n in chars.items()}


def alias_names(icons: dict, chars: dict) -> dict[str, list[str]]:
  """Lists, for code points, the names that this icon set uses."""
  others = {}
  for name, alias in icons.get("aliases", {}).items():
    others.setdefault(alias["parent"], []).append(name)
  return {code: [n, *others.get(n, ())] for code, n in chars.items()}


def match(
  concepts: list[dict], icons: dict, chars: dict, renamed: dict
) -> dict[int, list[str]]:
  """Finds the icons of each concept: {index: icon names}.

  Icons match by code points where the set has them, else by name without
  punctuation. No icon serves two concepts. All alternative drawings of an
  object are taken; those of a person are its skin tones: the first is taken.
  """
  concept_names = {_squeeze(concept["name"]) for concept in concepts}
  names = {}
  for name in [*icons["icons"], *icons.get("aliases", {})]:
    # Some sets still call the game of cricket by the name of the insect.
    parent = _parent(icons, name)
    if parent != name and _squeeze(parent) in concept_names:
      continue
    names.setdefault(_squeeze(renamed.get(name, name)), []).append(name)
    if numbered := NUMBERED.fullmatch(name):
      names.setdefault(_squeeze(numbered[1]), []).append(name)
  result, taken = {}, set()
  for i, concept in enumerate(concepts):
    name = chars.get(concept["code"])
    if name and name not in taken:
      taken.add(name)
      result[i] = [name]
  # Column by column: a concept's own name goes before another's alias.
  for column in range(max(len(c["aliases"]) for c in concepts)):
    for i, concept in enumerate(concepts):
      if i in result or column >= len(concept["aliases"]):
        continue
      matching = names.get(_squeeze(concept["aliases"][column]), [])
      matching = [n for n in matching if _parent(icons, n) not in taken]
      if concept["category"] == "People & Body":
        matching = matching[:1]
      if matching:
        taken.update(_parent(icons, n) for n in matching)
        result[i] = matching
  return result


def _squeeze(name: str) -> str:
  return re.sub("[^a-z0-9]", "", name.lower())


def _parent(icons: dict, name: str) -> str:
  alias = icons.get("aliases", {}).get(name, {})
  # A mirrored alias is a drawing of its own.
  return name if alias.get("hFlip") else alias.get("parent", name)


def render(icons: dict, name: str) -> np.ndarray:
  """Draws an icon on white: uint8 [32, 32, 3], centred if not square."""
  if file := icons["icons"].get(name, {}).get("file"):
    image = Image.open(file).convert("RGBA")
    ground = Image.new("RGBA", image.size, "white")
    return _reduce(Image.alpha_composite(ground, image).convert("RGB"))
  import resvg_py  # only building needs it

  alias = icons.get("aliases", {}).get(name)
  icon = icons["icons"][alias["parent"] if alias else name]
  box = [icon.get(key, icons.get(key, 0)) for key in ("left", "top")]
  box += [icon.get(key, icons.get(key, 16)) for key in ("width", "height")]
  large = SIZE * OVERSAMPLING
  svg = (
    '<svg xmlns="http://www.w3.org/2000/svg" '
    'xmlns:xlink="http://www.w3.org/1999/xlink" '
    f'viewBox="{" ".join(map(str, box))}" width="{large}" height="{large}">'
    f"{icon['body']}</svg>"
  )
  png = resvg_py.svg_to_bytes(
    svg_string=svg, background="#ffffff", skip_system_fonts=True
  )
  image = _reduce(Image.open(io.BytesIO(png)).convert("RGB"))
  return image[:, ::-1] if alias and alias.get("hFlip") else image


def _reduce(image: Image.Image) -> np.ndarray:
  return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.LANCZOS))
