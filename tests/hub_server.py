"""A stand-in for the Hugging Face hub: what snapshots and uploads ask of it."""

import base64
import hashlib
import http.server
import json
import pathlib
import re
import threading
import urllib.parse

import pytest
from huggingface_hub import constants


class Hub:
  """Repositories in a folder: KIND/ORG/NAME/REVISION/FILE."""

  def __init__(self, root: pathlib.Path):
    self.root, self.asked, self.tokens = root, [], set()
    self.private: set[str] = set()  # "ORG/NAME" that need a token
    self.url = ""

  def folder(self, repository, kind="models", revision="main"):
    return self.root / kind / repository / revision


def commit(folder: pathlib.Path) -> str:
  """Returns the commit of a folder, which changes with its files."""
  digest = hashlib.sha1()
  for path in files(folder):
    digest.update(str(path.relative_to(folder)).encode())
    digest.update(path.read_bytes())
  return digest.hexdigest()


def files(folder):
  return sorted(path for path in folder.rglob("*") if path.is_file())


class Handler(http.server.BaseHTTPRequestHandler):
  hub: Hub
  protocol_version = "HTTP/1.1"

  def log_message(self, *args):
    pass

  def answer(self, status, content=b"", **headers):
    if not isinstance(content, bytes):
      content = json.dumps(content).encode()
      headers["Content-Type"] = "application/json"
    self.send_response(status)
    for name, value in headers.items():
      self.send_header(name.replace("_", "-"), value)
    self.send_header("Content-Length", str(len(content)))
    self.end_headers()
    if self.command != "HEAD":
      self.wfile.write(content)

  def find(self, kind, repository, revision):
    """Returns a folder by its branch or commit, or answers that it is not."""
    repository_folder = self.hub.root / kind / repository
    authorised = self.headers.get("Authorization")
    hidden = repository in self.hub.private and not authorised
    if hidden or not repository_folder.is_dir():
      self.answer(401 if hidden else 404, {}, X_Error_Code="RepoNotFound")
      return None
    for folder in repository_folder.iterdir():
      if revision in (folder.name, commit(folder)):
        return folder
    self.answer(404, {}, X_Error_Code="RevisionNotFound")
    return None

  def do_GET(self):
    path = urllib.parse.unquote(self.path.partition("?")[0])
    self.hub.asked.append(f"{self.command} {path}")
    api = re.fullmatch(
      r"/api/(\w+)/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path
    )
    resolve = re.fullmatch(
      r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path
    )
    if api:
      kind, repository, what, revision = api.groups()
      if not (folder := self.find(kind, repository, revision or "main")):
        return
      names = [p.relative_to(folder).as_posix() for p in files(folder)]
      if what == "tree":
        rows = [
          {
            "type": "file",
            "path": name,
            "size": (folder / name).stat().st_size,
            "oid": hashlib.sha1((folder / name).read_bytes()).hexdigest(),
          }
          for name in names
        ]
        return self.answer(200, rows)
      siblings = [{"rfilename": name} for name in names]
      about = {"id": repository, "sha": commit(folder), "siblings": siblings}
      return self.answer(200, about)
    if resolve:
      dataset, repository, revision, name = resolve.groups()
      kind = "datasets" if dataset else "models"
      if not (folder := self.find(kind, repository, revision)):
        return
      if not (folder / name).is_file():
        return self.answer(404, {}, X_Error_Code="EntryNotFound")
      content = (folder / name).read_bytes()
      tag = hashlib.sha1(content).hexdigest()
      about = {"ETag": f'"{tag}"', "X_Repo_Commit": commit(folder)}
      return self.answer(200, content, **about)
    return self.answer(404, {})

  do_HEAD = do_GET

  def do_POST(self):
    path = urllib.parse.unquote(self.path.partition("?")[0])
    self.hub.asked.append(f"POST {path}")
    body = self.rfile.read(int(self.headers["Content-Length"]))
    self.hub.tokens.add(self.headers.get("Authorization"))
    if not self.headers.get("Authorization"):
      return self.answer(401, {"error": "Invalid username or password."})
    if path == "/api/repos/create":
      asked = json.loads(body)
      kind = f"{asked.get('type') or 'model'}s"
      repository = f"{asked['organization']}/{asked['name']}"
      self.hub.folder(repository, kind).mkdir(parents=True, exist_ok=True)
      if asked.get("visibility") == "private":
        self.hub.private.add(repository)
      prefix = "datasets/" * (kind == "datasets")
      return self.answer(200, {"url": f"{self.hub.url}/{prefix}{repository}"})
    if "/preupload/" in path:
      return self.answer(
        200,
        {
          "files": [
            {
              "path": f["path"],
              "uploadMode": "regular" if f["path"].endswith(".md") else "lfs",
              "shouldIgnore": False,
            }
            for f in json.loads(body)["files"]
          ]
        },
      )
    if path.endswith("/objects/batch"):
      objects = [
        o | {"actions": {"upload": {"href": f"{self.hub.url}/lfs/{o['oid']}"}}}
        for o in json.loads(body)["objects"]
      ]
      return self.answer(200, {"objects": objects, "transfer": "basic"})
    if path == "/api/validate-yaml":
      return self.answer(200, {"errors": [], "warnings": []})
    match = re.fullmatch(r"/api/(\w+)/([^/]+/[^/]+)/commit/(.+)", path)
    kind, repository, revision = match.groups()
    folder = self.hub.folder(repository, kind, revision)
    for line in map(json.loads, body.splitlines()):
      value = line["value"]
      if line["key"] == "header":
        continue
      target = folder / value["path"]
      target.parent.mkdir(parents=True, exist_ok=True)
      if line["key"] == "lfsFile":
        target.write_bytes((self.hub.root / "lfs" / value["oid"]).read_bytes())
      else:
        target.write_bytes(base64.b64decode(value["content"]))
    oid = commit(folder)
    url = f"{self.hub.url}/{repository}/commit/{oid}"
    return self.answer(200, {"commitUrl": url, "commitOid": oid})

  def do_PUT(self):
    content = self.rfile.read(int(self.headers["Content-Length"]))
    path = self.hub.root / "lfs" / self.path.rpartition("/")[2]
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    self.answer(200)


@pytest.fixture
def hub(tmp_path, monkeypatch):
  """A hub in a folder, which huggingface_hub and the cache are pointed to."""
  made = Hub(tmp_path / "hub")
  handler = type("Handler", (Handler,), {"hub": made})
  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
  made.url = f"http://127.0.0.1:{server.server_port}"
  thread = threading.Thread(target=server.serve_forever, args=(0.02,))
  thread.start()
  monkeypatch.setenv("SYNTHJAX_CACHE", str(tmp_path / "cache"))
  monkeypatch.delenv("HF_TOKEN", raising=False)
  # As huggingface_hub reads its variables once, when it is imported.
  for name, value in {
    "ENDPOINT": made.url,
    "HUGGINGFACE_CO_URL_TEMPLATE": (
      made.url + "/{repo_id}/resolve/{revision}/{filename}"
    ),
    "HF_HUB_CACHE": str(tmp_path / "hf"),
    "HF_TOKEN_PATH": str(tmp_path / "token"),
    "HF_HUB_DISABLE_XET": True,
    "HF_HUB_OFFLINE": False,
  }.items():
    monkeypatch.setattr(constants, name, value)
  yield made
  server.shutdown()
  thread.join()
  server.server_close()
