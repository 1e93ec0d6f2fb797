"""Fixtures of the tests of released weights: a publisher of a tiny release."""

import functools
import hashlib
import http.server
import json
import threading

import pytest
from safetensors.numpy import save_file
from tiny_release import parameters, released_text

from synthjax.tokenizers import bpe
from synthjax.weights.catalogue import RELEASED, File, Made, Released


@pytest.fixture
def publisher(tmp_path):
  """A folder with the files of a tiny release, and their addresses."""
  folder = tmp_path / "published" / "tiny"
  folder.mkdir(parents=True)
  save_file(released_text(), folder / "text.pt")
  letters = bpe._byte_letters()
  ids = {piece: i for i, piece in enumerate([*letters, "ab", "<|endoftext|>"])}
  (folder / "encoder.json").write_text(json.dumps(ids))
  (folder / "vocab.bpe").write_text("#version: 0.2\na b\n")
  return folder


@pytest.fixture
def server(publisher):
  """Serves that folder; `server.asked` lists the paths asked for."""
  asked = []

  class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
      pass

    def do_GET(self):
      asked.append(self.path)
      super().do_GET()

  made = http.server.ThreadingHTTPServer(
    ("127.0.0.1", 0), functools.partial(Handler, directory=publisher.parent)
  )
  made.asked, made.url = asked, f"http://127.0.0.1:{made.server_port}"
  thread = threading.Thread(target=made.serve_forever, args=(0.02,))
  thread.start()
  yield made
  made.shutdown()
  thread.join()
  made.server_close()


@pytest.fixture
def tiny(tmp_path, publisher, server, monkeypatch):
  """Puts "tiny" into the table; returns where it will lie."""
  monkeypatch.setenv("SYNTHJAX_CACHE", str(tmp_path / "cache"))
  monkeypatch.delenv("SYNTHJAX_MIRROR", raising=False)
  digest = hashlib.sha256((publisher / "vocab.bpe").read_bytes()).hexdigest()
  at = f"{server.url}/tiny"
  entry = Released(
    "a tiny text tower",
    (
      File("text.pt", f"{at}/text.pt"),
      File("encoder.json", f"{at}/encoder.json", None, 0.003),
      File("vocab.bpe", f"{at}/vocab.bpe", digest[:8], 0.001, (f"{at}/v",)),
    ),
    {
      "text.safetensors": Made(("text.pt",), "x.weights", parameters()),
      "tokenizer.json": Made(("encoder.json", "vocab.bpe"), "x.tokenizer"),
    },
    "noised_clip",
    "MIT",
    "of this test",
  )
  monkeypatch.setitem(RELEASED, "tiny", entry)
  return tmp_path / "cache" / "weights" / "tiny"
