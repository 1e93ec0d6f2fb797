"""The classifier of a run, for any images."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from synthjax.adapt import heads, linear_head
from synthjax.adapt.encoder_tuning import Tower
from synthjax.adapt.heads import Learned
from synthjax.adapt.prolip import ProjectedHead
from synthjax.data.pipeline import host_augment
from synthjax.encoders import Encoder, Network, load_encoder
from synthjax.encoders.image_encoders import make_encoder
from synthjax.encoders.two_towers import family_of
from synthjax.labels import class_names
from synthjax.models.classifiers import make_classifier
from synthjax.models.clip import projection
from synthjax.models.pixels import MEAN, STD, normalize
from synthjax.runtime import hub
from synthjax.runtime.errors import UserError
from synthjax.weights import files, learned


class Classifier(NamedTuple):
  """A classifier of a run.

  `classify` maps uint8 images, an array [n, h, w, 3] or a list of [h, w, 3] of
  any sizes, to probabilities float32 [n, k]. `fit` reduces an image to what
  `classify` needs of it, so that many photographs need little memory.
  """

  classes: tuple[str, ...]
  classify: Callable[[Sequence[Any]], np.ndarray]
  fit: Callable[[np.ndarray], Any] = np.asarray
  # From pixels to logits; None of an encoder that cannot be had apart.
  network: Network | None = None
  arm: learned.Arm | None = None  # that it is of


def load(
  workdir: epath.PathLike, *, arm: str | None = None, task: str | None = None
) -> Classifier:
  """Loads a classifier that a run has learned.

  Args:
    workdir: of a run with one of the tasks of `learned.CLASSIFYING`; or a
      folder of `synthjax export --format=safetensors`; or "hf://org/name" of a
      run that `synthjax push` has uploaded.
    arm: of the task, such as those of config.tune.arms or "zero_shot"; the
      first by default. Where heads on features were learned, it is the mean of
      its heads, one for each seed; a network is an arm for each seed.
    task: that has learned it; the first of `learned.CLASSIFYING` by default.

  Raises:
    UserError: if the run has no classifier or no such arm, or the encoder's
      weights are no longer there or no longer the same.
  """
  if os.fspath(workdir).startswith(hub.SCHEME):
    workdir = hub.snapshot(os.fspath(workdir), _weights)
  chosen = learned.choose(workdir, _LOADED, task=task, arm=arm)
  return _LOADED[chosen.kind](chosen)._replace(arm=chosen)


def _weights(names: Sequence[str]) -> list[str]:
  """Returns the files of a repository that hold what a run has learned."""
  of_task = lambda name: name.split("/")[0] in learned.CLASSIFYING
  return [n for n in names if n.endswith(".safetensors") and of_task(n)]


def of_head(
  encoder: Encoder, classes: Sequence[str], head: Learned
) -> Classifier:
  """Returns the classifier of a head on an encoder.

  Args:
    encoder: that the head was tuned with.
    classes: their k names, by label.
    head: of k classes.

  Raises:
    UserError: if these are not k names.
  """
  if isinstance(classes, str) or len(classes) != len(head.weight):
    raise UserError(
      f"classes={classes!r:.80}: needed the names of the {len(head.weight)} "
      "classes of the head, by label."
    )

  if isinstance(head, ProjectedHead):
    return _of_network(_with_projection(encoder.network, head, classes))

  def classify(images: Sequence[np.ndarray]) -> np.ndarray:
    return np.asarray(jax.nn.softmax(head(encoder.encode_images(images))))

  network = encoder.network and _with_head(encoder.network, head, classes)
  return Classifier(tuple(classes), classify, encoder.fit, network)


def _of_network(network: Network) -> Classifier:
  """Returns the classifier of a network, whose `about` names the classes."""
  classes = network.about["classes"]
  encoder = make_encoder(
    network.function,
    network.variables,
    fit=network.fit,
    on_device=False,
    batch_size=64,
    width=len(classes),
    identity={},
  )

  def classify(images: Sequence[np.ndarray]) -> np.ndarray:
    return np.asarray(jax.nn.softmax(encoder.encode_images(images)))

  return Classifier(tuple(classes), classify, encoder.fit, network)


# --- what files hold ----------------------------------------------------------

TUNED = "clip_classifier"  # an image tower of CLIP, and a head on it
NETWORK = "classifier"  # a network of `models.classifiers` with its head


def save_tuned(
  path: epath.PathLike,
  tower: Tower,
  variables: Mapping[str, Any],
  head: linear_head.Head,
  classes: Sequence[str],
) -> None:
  """Writes an image tower of a CLIP, or of another family, and its head.

  Args:
    path: of the new file.
    tower: that was tuned.
    variables: of it, tuned.
    head: on its features.
    classes: their names, by label.
  """
  encoder = tower.family.image_network(tower.fields, variables)
  network = _with_head(encoder, head, classes)
  files.save_params(path, network.variables, network.about)


def _with_head(
  encoder: Network, head: Learned, classes: Sequence[str]
) -> Network:
  """Adds a head to a network, as a file of the kind TUNED holds both."""
  form = heads.form_of(head)

  def logits(variables, images):
    features = encoder.function(variables["encoder"], images)
    with jax.default_matmul_precision("highest"):
      return heads.LEARNED[form](**variables["head"])(features)

  return encoder._replace(
    function=logits,
    variables={"encoder": encoder.variables, "head": heads.arrays(head)},
    about=encoder.about
    | {"kind": TUNED, "encoder": encoder.about["kind"], "form": form}
    | {"classes": list(classes)},
  )


def _with_projection(
  encoder: Network, head: ProjectedHead, classes: Sequence[str]
) -> Network:
  """Puts a tuned projection into its encoder, and a plain head on it."""
  params = projection.replace(encoder.variables["params"], head.projection)
  variables = {**encoder.variables, "params": params}
  tuned = encoder._replace(variables=variables)
  return _with_head(tuned, head.head, classes)


def _load_heads(chosen: learned.Arm) -> Classifier:
  saved = heads.load(chosen.path, arm=chosen.name)
  encoder = load_encoder(**saved.encoder["config"])
  if encoder.identity != saved.encoder["identity"]:
    raise UserError(
      f"{chosen.path} was learned from features of "
      f"{saved.encoder['identity']}, but its encoder is now "
      f"{encoder.identity}: put the old weights back."
    )
  return of_head(encoder, saved.classes, saved.head)


def _load_tuned(chosen: learned.Arm) -> Classifier:
  params, about = files.load_params(chosen.path)
  family = family_of(about.get("encoder", "clip"))
  tower = family.image_network(about["model"], params["encoder"])
  head = heads.LEARNED[about["form"]](**params["head"])
  return _of_network(_with_head(tower, head, about["classes"]))


def _load_network(chosen: learned.Arm) -> Classifier:
  variables, about = files.load_params(chosen.path)
  # Older versions wrote one name for two classes.
  names = class_names.unique(about["classes"], range(len(about["classes"])))
  size, crop = about["image_size"], about.get("crop", 1.0)
  fields = dict(about["model"]) | {"dtype": "float32"}
  model = make_classifier(num_classes=len(names), **fields)

  def logits(variables, images):
    with jax.default_matmul_precision("highest"):
      return model.apply(variables, normalize(images), train=False)

  def fit(image):
    return host_augment.middle(image, size, crop)

  whole = round(size / crop)
  pixels = f"bicubic, middle square of {whole}, and of that {size}"
  about = about | {"classes": list(names), "model": fields, "pixels": pixels}
  about |= {"mean": MEAN, "std": STD}
  return _of_network(Network(logits, variables, size, fit, about))


# The kind of a file -> (arm) -> Classifier.
_LOADED = {
  heads.KIND: _load_heads,
  TUNED: _load_tuned,
  NETWORK: _load_network,
}
