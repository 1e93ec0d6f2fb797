"""Downloads from a server that misbehaves in every way we have met."""

import hashlib
import http.server
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import types

import numpy as np
import pytest

from synthjax.runtime import download
from synthjax.runtime.errors import UserError

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
ETAG = '"first"'


class _Handler(http.server.BaseHTTPRequestHandler):
  """Answers as `server.plan` says, one entry a request; then as it should."""

  protocol_version = "HTTP/1.1"

  def log_message(self, *args):
    pass

  def do_GET(self):
    server = self.server
    how = server.plan.pop(0) if server.plan else {}
    if "content" in how:  # published anew: from this request on
      server.content, server.etag = how["content"], how["etag"]
    begins = self.headers.get("Range", "")
    server.log.append(entry := {"range": begins, "sent": 0, "path": self.path})
    if "location" in how:
      return self._empty(302, Location=how["location"])
    if "status" in how:
      return self._empty(how["status"])
    content, start = server.content, 0
    fresh = self.headers.get("If-Range") in (None, server.etag)
    if begins and fresh and not how.get("ignore_range"):
      start = int(begins.removeprefix("bytes=").removesuffix("-"))
      if start >= len(content):
        return self._empty(416)
    body = content[start:]
    self.send_response(206 if start or how.get("unasked") else 200)
    self.send_header(
      "Content-Type", how.get("type", "application/octet-stream")
    )
    if server.etag and not how.get("no_etag"):
      self.send_header("ETag", server.etag)
    if not how.get("no_length"):
      length = len(body) + how.get("announce_more", 0)
      self.send_header("Content-Length", str(length))
    if start:
      end = how.get("lie_by", 0) + start
      size = len(content)
      self.send_header("Content-Range", f"bytes {end}-{size - 1}/{size}")
    self.close_connection = True
    self.end_headers()
    step = how.get("step", 20_000)
    for first in range(0, min(len(body), how.get("drop_after", 1e9)), step):
      piece = body[first : min(first + step, int(how.get("drop_after", 1e9)))]
      try:
        self.wfile.write(piece)
      except OSError:  # the client has gone
        return None
      entry["sent"] += len(piece)
      if how.get("pause"):
        time.sleep(how["pause"])
    if how.get("stall"):
      time.sleep(how["stall"])
    return None

  def _empty(self, status, **headers):
    self.send_response(status)
    for name, value in headers.items():
      self.send_header(name, value)
    self.send_header("Content-Length", "0")
    self.end_headers()


@pytest.fixture
def server():
  """A server of one file: its `plan`, its `log` and its `url`."""
  made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
  made.daemon_threads, made.content, made.etag = True, CONTENT, ETAG
  made.plan, made.log = [], []
  made.url = f"http://127.0.0.1:{made.server_port}/base.pt"
  thread = threading.Thread(target=made.serve_forever, args=(0.02,))
  thread.start()
  yield made
  made.shutdown()
  thread.join()
  made.server_close()


@pytest.fixture
def fetch(server, tmp_path):
  """Fetches from the server into a fresh folder, impatiently."""
  path = tmp_path / "weights" / "base.pt"

  def run(**changes):
    arguments = {"timeout": 5, "retries": 2, "pause": 0.01} | changes
    return download.fetch(server.url, path, **arguments)

  run.path, run.part = path, path.with_name("base.pt.part")
  return run


def left(fetch):
  return sorted(entry.name for entry in fetch.path.parent.iterdir())


def ranges(server):
  return [entry["range"] for entry in server.log]


def test_a_file_arrives_whole_and_alone(server, fetch, capsys):
  assert fetch(sha256=SHA256) == SHA256
  assert fetch.path.read_bytes() == CONTENT
  assert left(fetch) == ["base.pt"]
  assert "base.pt: 0.3 of 0.3 MB" in capsys.readouterr().err


def test_an_existing_file_is_not_fetched(server, fetch):
  fetch()
  assert fetch(sha256=SHA256[:8]) == SHA256
  assert len(server.log) == 1


def test_a_name_s_first_digits_of_the_hash_are_checked(server, fetch):
  with pytest.raises(UserError, match="expected SHA-256 0676ba61"):
    fetch(sha256="0676ba61")
  assert fetch(sha256=SHA256[:8]) == SHA256


@pytest.mark.faults
def test_dropped_connections_are_gone_on_from(server, fetch):
  """More of them than retries, as each has brought the file forward."""
  server.plan = [{"drop_after": 50_000}] * 5
  assert fetch(sha256=SHA256) == SHA256
  starts = [50_000 * i for i in range(1, 6)]
  assert ranges(server) == ["", *(f"bytes={start}-" for start in starts)]
  assert sum(entry["sent"] for entry in server.log) == len(CONTENT)


@pytest.mark.faults
def test_a_server_that_brings_nothing_new_is_given_up(server, fetch):
  server.plan = [{"drop_after": 50_000}] + [{"drop_after": 0}] * 9
  with pytest.raises(UserError, match="goes on from the 50,000 bytes"):
    fetch(sha256=SHA256)
  assert len(server.log) == 4  # the first, and three that brought nothing
  server.plan = []
  assert fetch(sha256=SHA256) == SHA256
  assert ranges(server)[-1] == "bytes=50000-"
  assert left(fetch) == ["base.pt"]


@pytest.mark.faults
def test_less_than_announced_is_not_taken_for_the_whole(server, fetch):
  server.plan = [{"announce_more": 10}] * 9
  with pytest.raises(UserError, match="sends too little"):
    fetch()
  assert not fetch.path.exists()


@pytest.mark.faults
def test_a_stalled_connection_is_left_and_gone_on_from(server, fetch):
  server.plan = [{"drop_after": 100_000, "stall": 3}]
  began = time.monotonic()
  assert fetch(sha256=SHA256, timeout=0.3) == SHA256
  assert time.monotonic() - began < 3
  assert ranges(server) == ["", "bytes=100000-"]


@pytest.mark.faults
def test_a_slow_server_is_waited_for(server, fetch):
  """The limit is on silence, not on the whole."""
  server.plan = [{"pause": 0.1, "step": 30_000}]
  assert fetch(sha256=SHA256, timeout=0.5) == SHA256
  assert len(server.log) == 1


@pytest.mark.faults
@pytest.mark.parametrize("etag", [ETAG, None])
def test_a_server_without_ranges_sends_all_again(server, fetch, etag):
  server.etag = etag
  server.plan = [{"drop_after": 50_000}, {"ignore_range": True}]
  assert fetch(sha256=SHA256) == SHA256
  assert server.log[1]["sent"] == len(CONTENT)


@pytest.mark.faults
def test_without_a_name_of_the_version_only_a_hash_lets_it_go_on(server, fetch):
  server.etag = None
  server.plan = [{"drop_after": 50_000}]
  assert fetch(sha256=SHA256) == SHA256
  assert ranges(server) == ["", "bytes=50000-"]
  fetch.path.unlink()
  server.plan = [{"drop_after": 50_000}]
  assert fetch() == SHA256
  assert ranges(server)[2:] == ["", ""]


@pytest.mark.faults
@pytest.mark.parametrize("size", [1000, 290_000, 400_000])
def test_a_file_that_changes_meanwhile_is_fetched_anew(server, fetch, size):
  new = np.random.default_rng(1).bytes(size)
  server.plan = [
    {"drop_after": 50_000},
    {"content": new, "etag": '"second"', "drop_after": 500},
  ]
  assert fetch() == hashlib.sha256(new).hexdigest()
  assert fetch.path.read_bytes() == new


@pytest.mark.faults
def test_a_change_that_the_server_hides_shows_in_its_bytes(server, fetch):
  """Its answer to If-Range is another version's rest, or another place's."""
  server.plan = [{"drop_after": 50_000}, {"lie_by": 7}]
  assert fetch(sha256=SHA256) == SHA256
  assert ranges(server) == ["", "bytes=50000-", ""]


@pytest.mark.faults
def test_more_than_the_server_has_is_thrown_away(server, fetch):
  """416: what is here is longer than the file."""
  server.plan = [{"drop_after": 250_000, "no_length": True}] + [
    {"status": 503}
  ] * 3
  fetch(retries=0)  # without a length, its end is the end
  assert fetch.path.stat().st_size == 250_000
  shutil.move(fetch.path, fetch.part)
  download._memory(fetch.part).write_text(
    f'{{"url": "{server.url}", "validator": null, "total": null}}'
  )
  server.content, server.plan = CONTENT[:1000], []
  assert fetch(sha256=hashlib.sha256(CONTENT[:1000]).hexdigest())
  assert fetch.path.read_bytes() == CONTENT[:1000]


@pytest.mark.faults
def test_another_file_is_put_aside_and_both_hashes_are_reported(server, fetch):
  server.content = CONTENT[::-1]
  got = hashlib.sha256(server.content).hexdigest()
  with pytest.raises(UserError, match=f"(?s)expected.*{SHA256}.*got.*{got}"):
    fetch(sha256=SHA256)
  assert not fetch.path.exists() and not fetch.part.exists()
  assert fetch.path.with_name("base.pt.wrong").exists()
  server.content = CONTENT
  assert fetch(sha256=SHA256) == SHA256


@pytest.mark.faults
def test_a_web_page_is_not_taken_for_a_file(server, fetch):
  server.plan = [{"type": "text/html; charset=utf-8"}]
  with pytest.raises(UserError, match="web page"):
    fetch()
  assert left(fetch) == ["base.pt.lock"]


@pytest.mark.faults
@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_refusal_is_reported_at_once(server, fetch, status):
  server.plan = [{"status": status}]
  with pytest.raises(UserError) as error:
    fetch()
  for words in (server.url, str(status), "may have moved the file"):
    assert words in str(error.value)
  assert len(server.log) == 1


@pytest.mark.faults
def test_passing_errors_are_waited_out(server, fetch):
  server.plan = [{"status": 500}, {"status": 503}]
  assert fetch(sha256=SHA256) == SHA256
  assert len(server.log) == 3


@pytest.mark.faults
def test_lasting_errors_are_not(server, fetch):
  server.plan = [{"status": 503}] * 9
  with pytest.raises(UserError, match="503"):
    fetch()
  assert len(server.log) == 3


def test_redirects_keep_the_range(server, fetch):
  moved = [{"location": "/elsewhere"}]
  server.plan = [*moved, {"drop_after": 50_000}, *moved]
  assert fetch(sha256=SHA256) == SHA256
  assert [entry["path"] for entry in server.log][1::2] == ["/elsewhere"] * 2
  assert ranges(server)[-1] == "bytes=50000-"


@pytest.mark.faults
def test_a_host_without_a_name_fails_at_once(fetch, monkeypatch, tmp_path):
  def unknown(*args, **kwargs):
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

  monkeypatch.setattr(socket, "getaddrinfo", unknown)
  began = time.monotonic()
  with pytest.raises(UserError, match="(?s)not known.*SYNTHJAX_MIRROR"):
    download.fetch("http://no.such.host/x", tmp_path / "x", pause=60)
  assert time.monotonic() - began < 5


@pytest.mark.faults
def test_a_closed_port_fails_after_some_tries(tmp_path):
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{free.getsockname()[1]}/x"
  with pytest.raises(UserError, match="refused"):
    download.fetch(url, tmp_path / "x", retries=2, pause=0.01)


@pytest.mark.faults
def test_a_lack_of_space_is_reported_before_the_disk_is_full(
  server, fetch, monkeypatch
):
  usage = types.SimpleNamespace(free=1000)
  monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
  with pytest.raises(UserError, match="needs 300,000 more bytes, but 1,000"):
    fetch()


@pytest.mark.faults
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_disk_that_fills_up_meanwhile_is_reported(server, fetch):
  fetch.part.parent.mkdir(parents=True)
  fetch.part.symlink_to("/dev/full")
  with pytest.raises(UserError, match="Cannot write.*No space left"):
    fetch()


@pytest.mark.faults
def test_a_damaged_memory_of_the_begun_file_starts_anew(server, fetch):
  server.plan = [{"drop_after": 50_000}] + [{"status": 404}]
  with pytest.raises(UserError):
    fetch()
  download._memory(fetch.part).write_text('{"url": "ht')
  assert fetch() == SHA256
  assert ranges(server)[-1] == ""


FETCH = """
import sys
from synthjax.runtime import download
download.fetch(sys.argv[1], sys.argv[2], timeout=30)
"""


def start(server, fetch):
  fetch.path.parent.mkdir(parents=True, exist_ok=True)
  return subprocess.Popen(
    [sys.executable, "-c", FETCH, server.url, str(fetch.path)],
    cwd=pathlib.Path(__file__).parents[2],
    stderr=subprocess.PIPE,
    text=True,
  )


def wait_until(done, seconds=30):
  end = time.monotonic() + seconds
  while not done():
    assert time.monotonic() < end, "waited in vain"
    time.sleep(0.01)


def size(path):
  return path.stat().st_size if path.exists() else 0


@pytest.mark.faults
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_fetch_is_gone_on_from(server, fetch, sent):
  server.plan = [{"pause": 0.2, "step": 10_000}]
  process = start(server, fetch)
  wait_until(lambda: size(fetch.part) >= 50_000)
  process.send_signal(sent)
  process.wait(30)
  process.stderr.close()
  kept = size(fetch.part)
  assert not fetch.path.exists() and 50_000 <= kept < len(CONTENT)
  assert download.partial(fetch.path) == (kept, len(CONTENT))

  assert fetch(sha256=SHA256) == SHA256
  assert ranges(server) == ["", f"bytes={kept}-"]
  assert server.log[1]["sent"] == len(CONTENT) - kept
  assert left(fetch) == ["base.pt"]


@pytest.mark.faults
def test_two_processes_fetch_a_file_once(server, fetch):
  server.plan = [{"pause": 0.05, "step": 20_000}]
  first = start(server, fetch)
  wait_until(lambda: size(fetch.part) > 0)
  second = start(server, fetch)
  output = second.communicate(timeout=30)[1]
  assert first.wait(30) == second.returncode == 0
  first.stderr.close()
  assert "Another process is fetching" in output
  assert len(server.log) == 1
  assert fetch.path.read_bytes() == CONTENT
  assert left(fetch) == ["base.pt"]


# --- answers that ask for much, or bring nothing -----------------------------


@pytest.mark.parametrize("status", [204, 202])
def test_an_answer_without_a_file_is_none(fetch, server, status):
  server.plan[:] = [{"status": status}] * 9
  with pytest.raises(UserError, match=f"answers {status}"):
    fetch(sha256=None)
  assert not fetch.path.exists()


def test_an_empty_file_is_none(fetch, server):
  server.plan[:] = [{"content": b"", "etag": '"x"'}] * 9
  with pytest.raises(UserError, match="sends too little"):
    fetch(sha256=None)


def test_a_part_that_nobody_asked_for_is_not_taken_for_the_whole(fetch, server):
  server.plan[:] = [{"unasked": True, "no_etag": True}]
  assert fetch() == SHA256


def test_a_body_without_an_end_is_cut_off(fetch, server, monkeypatch):
  monkeypatch.setattr(download, "MAX_UNANNOUNCED", 100_000)
  server.plan[:] = [{"no_length": True}] * 9
  with pytest.raises(UserError, match="more than the 100,000 bytes that a"):
    fetch(sha256=None)
  assert not fetch.part.exists()


def test_an_address_of_another_kind_is_refused(tmp_path):
  with pytest.raises(UserError, match="must begin with https://"):
    download.fetch("file:///etc/hostname", tmp_path / "x")
  assert not [*tmp_path.iterdir()]
