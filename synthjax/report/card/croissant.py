"""Croissant metadata of an image set (Croissant 1.1, with its RAI fields).

Search engines for data sets read it, and `mlcroissant` loads what is known of
each image from it. Specifications: docs.mlcommons.org/croissant.
"""

from collections.abc import Mapping
from typing import Any

from synthjax.report.card import readme as dataset_card

VERSION = "http://mlcommons.org/croissant/1.1"
RAI_VERSION = "http://mlcommons.org/croissant/RAI/1.0"
_CONTEXT = {
  "@language": "en",
  "@vocab": "https://schema.org/",
  "sc": "https://schema.org/",
  "cr": "http://mlcommons.org/croissant/",
  "rai": "http://mlcommons.org/croissant/RAI/",
  "dct": "http://purl.org/dc/terms/",
  "conformsTo": "dct:conformsTo",
  "data": {"@id": "cr:data", "@type": "@json"},
  "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
  "examples": {"@id": "cr:examples", "@type": "@json"},
} | {
  name: f"cr:{name}"
  for name in (
    "citeAs column equivalentProperty extract field fileProperty fileObject "
    "fileSet format includes isLiveDataset jsonPath key md5 parentField path "
    "recordSet references regex repeated replace samplingRate separator source "
    "subField transform"
  ).split()
}
# The columns of images.jsonl: name, type, content.
_FIELDS = (
  ("id", "sc:Text", "Strategy, class, prompt, seed and number of the image."),
  ("label", "sc:Integer", "The class, counted from 0."),
  ("class", "sc:Text", "The name of the class."),
  ("prompt", "sc:Text", "What the model was asked to draw."),
  ("seed", "sc:Integer", "Of the image's random numbers."),
  ("p_own", "sc:Float", "The probability of the class, as CLIP sees it."),
  ("kept", "sc:Boolean", "Whether the filter kept it."),
  ("generated", "sc:Boolean", "True: a model drew the image."),
  ("sha256", "sc:Text", "Of the image as it is stored."),
)
_FORMATS = {
  ".json": "application/json",
  ".jsonl": "application/jsonlines",
  ".txt": "text/plain",
  ".png": "image/png",
}


def build(card: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the metadata as JSON-LD.

  Args:
    card: all that `card.json` holds.
  """
  built = {
    "@context": _CONTEXT,
    "@type": "sc:Dataset",
    "conformsTo": [VERSION, RAI_VERSION],
    "name": card["name"],
    "description": dataset_card.description(card),
    "version": "1.0.0",
    "dateCreated": card["date"],
    "datePublished": card["date"],
    "keywords": ["synthetic", "generated images", *card["classes"][:50]],
    # Schema.org's way of saying that a trained model made it.
    "digitalSourceType": (
      "https://schema.org/TrainedAlgorithmicMediaDigitalSource"
    ),
    "isLiveDataset": False,
    **_rai(card),
    "distribution": _distribution(card),
    "recordSet": [_classes(card), _images(card)],
  }
  if card["license"]:
    built["license"] = f"https://spdx.org/licenses/{card['license']}.html"
  if card["url"]:
    built["url"] = card["url"]
  if card["creator"]:
    built["creator"] = {"@type": "sc:Person", "name": card["creator"]}
  return built


def _distribution(card: Mapping[str, Any]) -> list[dict[str, Any]]:
  """Lists every file of the set with its hash."""
  format_of = lambda name: _FORMATS.get(
    "." + name.rsplit(".", 1)[-1], "application/octet-stream"
  )
  return [
    {
      "@type": "cr:FileObject",
      "@id": name,
      "name": name,
      "contentUrl": name,
      "contentSize": f"{about['bytes']} B",
      "encodingFormat": format_of(name),
      "sha256": about["sha256"],
    }
    for name, about in sorted(card["files"].items())
  ]


def _classes(card: Mapping[str, Any]) -> dict[str, Any]:
  types = {"label": "sc:Integer", "name": "sc:Text"}
  return _record_set(
    "classes", [_field("classes", *item) for item in types.items()], key="label"
  ) | {
    "description": "The classes of the labels.",
    "dataType": "sc:Enumeration",
    "data": [
      {"classes/label": label, "classes/name": name}
      for label, name in enumerate(card["classes"])
    ],
  }


def _images(card: Mapping[str, Any]) -> dict[str, Any]:
  fields = []
  for name, kind, what in _FIELDS:
    if name == "kept" and "filter" not in card:
      continue
    source = {
      "fileObject": {"@id": "images.jsonl"},
      "extract": {"column": name},
    }
    field = _field("images", name, kind)
    fields.append(field | {"description": what, "source": source})
    if name == "label":
      fields[-1]["references"] = {"field": {"@id": "classes/label"}}
  return _record_set("images", fields, key="id") | {
    "description": (
      "What is known of each image, in the order of the shards, which hold the "
      "images themselves: ArrayRecord files that tfds.builder_from_directory "
      "opens."
    )
  }


def _record_set(name: str, fields: list[dict], *, key: str) -> dict[str, Any]:
  return {
    "@type": "cr:RecordSet",
    "@id": name,
    "name": name,
    "key": {"@id": f"{name}/{key}"},
    "field": fields,
  }


def _field(record_set: str, name: str, kind: str) -> dict[str, Any]:
  return {
    "@type": "cr:Field",
    "@id": f"{record_set}/{name}",
    "name": name,
    "dataType": kind,
  }


def _rai(card: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the fields about responsible use."""
  tools = [
    f"{model['field']}: {dataset_card.called(model)}"
    for model in card["models"]
  ]
  return {
    "rai:dataCollection": dataset_card.collection(card),
    "rai:dataCollectionType": ["Others"],
    "rai:dataAnnotationProtocol": dataset_card.annotation(card),
    "rai:annotationsPerItem": "1",
    "rai:machineAnnotationTools": tools,
    "rai:dataBiases": dataset_card.BIASES,
    "rai:dataLimitations": dataset_card.LIMITATIONS,
    "rai:dataUseCases": dataset_card.USES,
    "rai:dataSocialImpact": dataset_card.IMPACT,
    "rai:personalSensitiveInformation": dataset_card.PERSONAL,
  }
