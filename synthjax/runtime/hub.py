"""Repositories of the Hugging Face hub: references, snapshots and uploads.

huggingface_hub does the work and heeds its own variables: HF_HOME (its cache),
HF_TOKEN, HF_ENDPOINT (a mirror) and HF_HUB_OFFLINE. Nothing that a repository
holds is run.
"""

import contextlib
import glob
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from synthjax.runtime.errors import UserError

SCHEME = "hf://"  # begins a reference
_REFERENCE = re.compile(
  r"hf://(?P<kind>datasets/)?(?P<repository>[\w.-]+/[\w.-]+)"
  r"(@(?P<revision>refs/[^/@]+/[^/@]+|[^/@]+))?(/(?P<inner>[^@/][^@]*?))?/?"
)
_NETWORK = (
  "Where only a mirror can be reached, name it in HF_ENDPOINT. What was "
  "fetched before is found without a network; HF_HOME moves it."
)


class Reference(NamedTuple):
  """A place of the hub."""

  repository: str  # "org/name"
  revision: str | None  # a branch, a tag or a commit; None is "main"
  inner: str  # a file or a folder of the repository; "" is all of it
  is_data: bool = False  # a data set, not a model


def parse(reference: str) -> Reference:
  """Reads "hf://org/name", "hf://org/name@revision" or ".../FILE".

  Those of data sets begin with "hf://datasets/".

  Raises:
    UserError: about any other text.
  """
  match = _REFERENCE.fullmatch(reference)
  if not match or ".." in (match["inner"] or "").split("/"):
    raise UserError(
      f"{reference!r} is no place of the hub: give hf://ORG/NAME, "
      "hf://ORG/NAME@REVISION or hf://ORG/NAME@REVISION/FILE."
    )
  return Reference(
    match["repository"],
    match["revision"],
    match["inner"] or "",
    bool(match["kind"]),
  )


def snapshot(
  reference: str, choose: Callable[[Sequence[str]], Iterable[str]]
) -> pathlib.Path:
  """Fetches files of a repository, unless they are here, into the hub's cache.

  Without a network, and in the hub's offline mode, it finds what was fetched
  before.

  Args:
    reference: see `parse`.
    choose: the repository's files -> those that are wanted. It may raise.

  Returns:
    The folder of the repository's commit.

  Raises:
    UserError: about a repository, revision or file that is not there, that
      needs another token, or that cannot be reached.
  """
  import huggingface_hub

  place = parse(reference)
  of_place = {"repo_id": place.repository, "revision": place.revision}
  if place.is_data:
    of_place["repo_type"] = "dataset"
  with _answering(reference):
    names, is_whole = _names(of_place)
    try:
      wanted = choose(names)
    except UserError as error:
      if is_whole:
        raise
      raise UserError(
        f"{error} That is all that was fetched before, and the hub cannot be "
        f"reached, or HF_HUB_OFFLINE is set. {_NETWORK}"
      ) from None
    # Patterns, in which a bracket of a name would have a meaning.
    patterns = [glob.escape(name) for name in wanted]
    folder = huggingface_hub.snapshot_download(
      **of_place, allow_patterns=patterns
    )
  return pathlib.Path(folder)


def _names(of_place: dict[str, str | None]) -> tuple[list[str], bool]:
  """Returns the files of a repository and True, or those that are here."""
  import huggingface_hub
  from huggingface_hub import errors

  try:
    about = huggingface_hub.HfApi().repo_info(**of_place)
    return sorted(file.rfilename for file in about.siblings), True
  except (
    errors.HFValidationError,
    errors.RepositoryNotFoundError,
    errors.RevisionNotFoundError,
  ):
    raise
  except Exception:  # of the network, whose library differs by versions
    folder = huggingface_hub.snapshot_download(
      **of_place, local_files_only=True, allow_patterns=[]
    )
    return names_below(pathlib.Path(folder)), False


def names_below(folder: pathlib.Path) -> list[str]:
  """Returns the files below a folder, as a repository lists them."""
  paths = (path for path in folder.rglob("*") if path.is_file())
  return sorted(path.relative_to(folder).as_posix() for path in paths)


def upload(
  repository: str,
  folder: pathlib.Path,
  *,
  kind: str,
  private: bool | None,
  message: str,
) -> str:
  """Makes a repository unless it is there, and uploads a folder in one commit.

  Args:
    repository: "org/name".
    folder: all whose files are uploaded; others of the repository stay.
    kind: "dataset" or "model".
    private: of a new repository; None is what the organisation has chosen.
    message: of the commit.

  Returns:
    The address of the repository.

  Raises:
    UserError: about a token that is missing or may not write there, or a hub
      that cannot be reached.
  """
  import huggingface_hub

  api = huggingface_hub.HfApi()
  with _answering(f"{SCHEME}{repository}"):
    made = api.create_repo(
      repository, repo_type=kind, private=private, exist_ok=True
    )
    api.upload_folder(
      repo_id=repository,
      repo_type=kind,
      folder_path=folder,
      commit_message=message,
    )
  return str(made)


@contextlib.contextmanager
def _answering(reference: str) -> Iterator[None]:
  """Says in a UserError what the hub has refused, and what to do."""
  from huggingface_hub import errors

  try:
    yield
  except UserError:
    raise
  except errors.GatedRepoError as error:
    raise UserError(
      f"{reference} asks its users to accept its terms: do so on its page, "
      "with the account of your token (`hf auth login`, or HF_TOKEN)."
    ) from error
  except errors.RevisionNotFoundError as error:
    raise UserError(
      f"{reference} has no such revision: give a branch, a tag or a commit "
      "behind the @, or none for the newest."
    ) from error
  except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
    raise UserError(
      f"{reference} is not there, or is private. Check the name; a private one "
      "needs a token that may read it (`hf auth login`, or HF_TOKEN)."
    ) from error
  except errors.LocalEntryNotFoundError as error:
    raise UserError(
      f"{reference} cannot be fetched, as the hub cannot be reached or "
      f"HF_HUB_OFFLINE is set, and not all of it was fetched before. {_NETWORK}"
    ) from error
  except errors.HfHubHTTPError as error:
    status = error.response.status_code
    advice = _NETWORK
    if status in (401, 403):
      advice = (
        "It needs a token that may do this: `hf auth login`, or HF_TOKEN."
      )
    raise UserError(
      f"{reference}: the hub answers {status} ({_first_line(error)}). {advice}"
    ) from error
  except Exception as error:  # of the network, as in `_names`
    raise UserError(
      f"{reference}: the hub cannot be reached ({type(error).__name__}: "
      f"{_first_line(error)}). {_NETWORK}"
    ) from error


def _first_line(error: Exception) -> str:
  return next(iter(str(error).splitlines()), "").rstrip(". ")
