"""Gathers the licence notices of the artwork and of the word lists."""

import json
import pathlib

from tools.embedded_world import icons

WORD_LISTS = ("emoji-datasource", "emojilib")

# Iconify's packages name the licence but carry no copyright line.
NOTICES = {
  "noto": "Copyright Google Inc. (Noto Emoji).",
  "noto-v1": "Copyright Google Inc. (Noto Emoji, first design).",
  "fluent-emoji": "Copyright (c) Microsoft Corporation.",
  "fluent-emoji-flat": "Copyright (c) Microsoft Corporation.",
  "streamline-emojis": "Copyright Streamline (Webalys).",
  "emojione": "Copyright Emoji One; version 2, kept up as EmojiTwo.",
  "fxemoji": "Copyright Mozilla Foundation.",
  "twemoji": "Copyright Twitter, Inc. and other contributors.",
  "fluent-emoji-3d": "Copyright (c) Microsoft Corporation.",
  "fluent-emoji-high-contrast": "Copyright (c) Microsoft Corporation.",
}

# What Iconify's info.json says of its own sets, for images of other packages:
# the artwork's title, author and licence, not the package's.
FLUENT = "https://github.com/microsoft/fluentui-emoji"
ABOUT = {
  "fluent-emoji-3d": {
    "name": "Fluent Emoji, rendered in 3D",
    "author": {"name": "Microsoft Corporation", "url": FLUENT},
    "license": {"spdx": "MIT", "url": f"{FLUENT}/blob/main/LICENSE"},
  }
}

CHANGES = (
  "Changed for synthjax: rendered on white at 32x32 pixels, and stored as\n"
  "lossless WebP. Flags and skin tones are left out.\n"
)

TEXTS = {
  "Apache-2.0": """\
Licensed under the Apache License, Version 2.0 (the "License"); you may not use
this file except in compliance with the License. You may obtain a copy of the
License at

    http://www.apache.org/licenses/LICENSE-2.0

Unless required by applicable law or agreed to in writing, software distributed
under the License is distributed on an "AS IS" BASIS, WITHOUT WARRANTIES OR
CONDITIONS OF ANY KIND, either express or implied. See the License for the
specific language governing permissions and limitations under the License.

The full text is also in the file LICENSE of synthjax.
""",
  "MIT": """\
Permission is hereby granted, free of charge, to any person obtaining a copy of
this software and associated documentation files (the "Software"), to deal in
the Software without restriction, including without limitation the rights to
use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of
the Software, and to permit persons to whom the Software is furnished to do so,
subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS
FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER
IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN
CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
""",
  "CC-BY-4.0": """\
Licensed under the Creative Commons Attribution 4.0 International License:
https://creativecommons.org/licenses/by/4.0/ (legal code:
https://creativecommons.org/licenses/by/4.0/legalcode). You may share and adapt
the material for any purpose, even commercially, if you give appropriate credit,
link to the licence and say whether changes were made. The material comes
without warranties of any kind.
""",
}


def write(
  node_modules: pathlib.Path, styles: list[str], out: pathlib.Path
) -> dict[str, dict]:
  """Writes licenses/<name>.txt and ATTRIBUTION.md below `out`.

  Returns:
    {style or word list: its package, version, author, licence and address}.
  """
  folder = out / "licenses"
  folder.mkdir(exist_ok=True)
  sources = {}
  for style in styles:
    folder_of_style = icons.package_of(node_modules, style)
    info = ABOUT.get(style) or _read(folder_of_style / "info.json")
    package = _read(folder_of_style / "package.json")
    source = sources[style] = dict(
      package=package["name"],
      version=package["version"],
      title=info["name"],
      author=info["author"]["name"],
      url=info["author"]["url"],
      license=info["license"]["spdx"],
      license_url=info["license"]["url"],
    )
    (folder / f"{style}.txt").write_text(
      f"{source['title']}, by {source['author']}\n{source['url']}\n"
      f"{NOTICES[style]}\n"
      f"Licence: {source['license']} ({source['license_url']})\n"
      f"Taken from the npm package {source['package']} {source['version']}.\n"
      f"{CHANGES}\n{TEXTS[source['license']]}"
    )
  for name in WORD_LISTS:
    package = _read(node_modules / name / "package.json")
    sources[name] = dict(
      package=name,
      version=package["version"],
      title=package["description"].rstrip("."),
      author=package["author"].split(" <")[0],
      url=package["homepage"],
      license=package["license"],
      license_url=package["homepage"],
    )
    (folder / f"{name}.txt").write_text(
      f"{name} {package['version']}\n\n"
      + (node_modules / name / "LICENSE").read_text()
    )
  (folder / "ATTRIBUTION.md").write_text(_attribution(sources))
  return sources


def _attribution(sources: dict[str, dict]) -> str:
  lines = [
    "# Where the embedded images and words come from",
    "",
    CHANGES,
    "| name | title | author | licence | npm package | source |",
    "| --- | --- | --- | --- | --- | --- |",
  ]
  lines += [
    f"| {name} | {s['title']} | {s['author']} | [{s['license']}]"
    f"({s['license_url']}) | {s['package']} {s['version']} | {s['url']} |"
    for name, s in sources.items()
  ]
  return "\n".join(lines) + "\n"


def _read(path: pathlib.Path) -> dict:
  return json.loads(path.read_text())
