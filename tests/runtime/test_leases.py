"""Leases in a bucket: one holder a part, whatever clocks say, whoever dies."""

import io
import json
import os
import pathlib
import subprocess
import sys
import threading
import time

import emulated_bucket
import fsspec
import pytest
import simulated
from generators import test_filling

from synthjax.data.generated import shards, unfinished
from synthjax.runtime import artifacts, atomic, buckets, engine, leases, locks
from synthjax.runtime.errors import UserError

pytestmark = pytest.mark.faults

FOLDER = "s3://bucket/run/generate"
KILLS = int(os.environ.get("SYNTHJAX_KILLS", 5))


@pytest.fixture
def serve(tmp_path, monkeypatch):
  """Returns a function that serves s3:// from a folder, with some changes."""
  monkeypatch.setattr(locks, "_SETTLE", 0.0)
  yield lambda **changes: emulated_bucket.serve(tmp_path, **changes)
  emulated_bucket.forget()


@pytest.fixture
def clock(monkeypatch):
  """Returns the only clock that may be read; nobody beats by itself."""

  class Clock:
    now = 1000.0

    def monotonic(self):
      return self.now

    def time(self):
      raise AssertionError("the time of day differs between machines")

  made = Clock()
  monkeypatch.setattr(leases, "time", made)
  monkeypatch.setattr(leases, "BEAT", 1e6)
  return made


@pytest.fixture
def bucket(serve, clock):
  return serve()


def keys(home, folder=FOLDER):
  path = folder.partition("://")[2]
  return sorted(emulated_bucket.objects(home, f"{path}/.claims"))


# --- one object a part --------------------------------------------------------


def at_once(count, function):
  """Calls a function by so many threads at the same time."""
  gate, found = threading.Barrier(count), []

  def call(i):
    gate.wait()
    found.append(function(i))

  threads = [threading.Thread(target=call, args=(i,)) for i in range(count)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  return found


def test_of_many_that_create_an_object_one_does(bucket, tmp_path):
  for number in range(20):
    path = f"{FOLDER}/{number}"
    found = at_once(8, lambda i, p=path: buckets.create(p, b"%d" % i) and i)
    (winner,) = (i for i in found if i is not False)
    written = emulated_bucket.objects(tmp_path, "bucket/run/generate")
    assert written[str(number)] == b"%d" % winner


def test_a_request_that_is_sent_again_finds_its_own_object(serve):
  """The answer to the first is lost; the second is refused."""
  serve(lost_answers=1)
  assert buckets.create(f"{FOLDER}/a", b"mine")
  assert not buckets.create(f"{FOLDER}/a", b"another's")


def test_two_that_come_together_may_both_be_asked_to_try_again(serve):
  """S3 answers 409 to a conditional write that meets another one."""
  bucket = serve()

  def refuse(self, path, value, mode="overwrite"):
    raise OSError(5, "a conflicting conditional operation is in progress")

  put, bucket.pipe_file = bucket.pipe_file, refuse
  assert not buckets.create(f"{FOLDER}/a", b"mine")
  bucket.pipe_file = lambda *args, **kwargs: (_ for _ in ()).throw(OSError(28))
  with pytest.raises(OSError, match="28"):
    buckets.create(f"{FOLDER}/a", b"mine")
  bucket.pipe_file = put
  assert buckets.create(f"{FOLDER}/a", b"mine")


def test_an_error_about_an_object_that_was_made_is_none(serve):
  """gcsfs gives up after six tries, by an error that is no OSError."""
  bucket = serve()

  class HttpError(Exception):
    pass

  def lose(self, path, value, mode="overwrite"):
    put(self, path, value, mode)
    raise HttpError("Service Unavailable, 503")

  put, bucket.pipe_file = bucket.pipe_file, lose
  assert buckets.create(f"{FOLDER}/a", b"mine")
  bucket.pipe_file = lambda *args, **kwargs: (_ for _ in ()).throw(HttpError())
  assert not buckets.create(f"{FOLDER}/a", b"another's")
  with pytest.raises(HttpError):
    buckets.create(f"{FOLDER}/b", b"mine")


def test_a_part_has_one_holder_until_it_is_released(bucket, clock, tmp_path):
  with leases.Leases(FOLDER) as one, leases.Leases(FOLDER) as other:
    assert one.claim(7) and one.claim(7) and not other.claim(7)
    assert other.claim(8)
    assert keys(tmp_path) == ["00007-0001", "00008-0001"]
    one.release(7)
    clock.now += leases.LOOK
    assert other.claim(7) and not one.claim(7)
  assert keys(tmp_path) == []


def test_a_holder_that_beats_is_never_lost(bucket, clock):
  """With the longest pauses allowed."""
  with leases.Leases(FOLDER) as holder, leases.Leases(FOLDER) as other:
    assert holder.claim(7)
    for _ in range(250):
      assert not other.claim(7)
      holder.beat()
      clock.now += 0.95 * leases.DEAD_AFTER


def test_a_holder_is_alive_however_seldom_others_look(bucket, clock):
  """They draw for minutes or for hours between two listings."""
  with leases.Leases(FOLDER) as holder, leases.Leases(FOLDER) as other:
    assert holder.claim(7)
    for beats in (*range(50, 300, 50), 1000):
      assert not other.claim(7)
      for _ in range(beats):
        holder.beat()
        clock.now += 20
    assert not other.claim(7)


def test_a_silent_holder_is_lost_after_a_while_and_not_before(bucket, clock):
  """The while begins when a process sees the lease, not when it was made."""
  silent = leases.Leases(FOLDER)
  assert silent.claim(7)
  clock.now += 100 * leases.DEAD_AFTER
  with leases.Leases(FOLDER) as taker, leases.Leases(FOLDER) as late:
    assert not taker.claim(7)
    clock.now += leases.DEAD_AFTER - 1
    assert not taker.claim(7) and not late.claim(7)
    clock.now += leases.LOOK
    assert not late.claim(7) and taker.claim(7)
    clock.now += 0.9 * leases.DEAD_AFTER
    taker.beat()
    clock.now += 0.9 * leases.DEAD_AFTER
    assert not late.claim(7)


def test_the_listing_that_shows_death_is_a_new_one(bucket, clock, tmp_path):
  """The holder beats after the taker's last look, long before it decides."""
  holder = leases.Leases(FOLDER)
  with leases.Leases(FOLDER) as taker:
    assert holder.claim(7) and not taker.claim(7)
    clock.now += leases.DEAD_AFTER - leases.LOOK / 2
    assert not taker.claim(7)
    holder.beat()
    clock.now += leases.LOOK * 0.9
    assert not taker.claim(7) and keys(tmp_path) == ["00007-0001"]


def test_of_many_takers_one_gets_the_part_of_the_dead(bucket, clock, tmp_path):
  assert leases.Leases(FOLDER).claim(7)
  takers = [leases.Leases(FOLDER) for _ in range(8)]
  assert not any(taker.claim(7) for taker in takers)
  clock.now += leases.DEAD_AFTER + leases.LOOK
  found = at_once(8, lambda i: takers[i].claim(7))
  assert sum(found) == 1
  assert keys(tmp_path) == ["00007-0001", "00007-0002"]


def test_a_holder_that_wakes_too_late_disturbs_nobody(bucket, clock, tmp_path):
  asleep, taker = leases.Leases(FOLDER), leases.Leases(FOLDER)
  other = leases.Leases(FOLDER)
  assert asleep.claim(7) and not taker.claim(7) and not other.claim(7)
  clock.now += leases.DEAD_AFTER + leases.LOOK
  assert taker.claim(7) and not other.claim(7)
  for _ in range(3):  # it looks alive, and is not the newest
    asleep.beat()
    taker.beat()
    clock.now += leases.DEAD_AFTER / 2
    assert not other.claim(7)
  asleep.release(7)
  assert keys(tmp_path) == ["00007-0002"]
  clock.now += leases.LOOK
  assert not other.claim(7)


def test_the_clock_of_the_bucket_says_nothing(bucket, clock, tmp_path):
  holder = leases.Leases(FOLDER)
  assert holder.claim(7)
  (path,) = (tmp_path / "objects").rglob("00007-*")
  with leases.Leases(FOLDER) as taker:
    for year in (0, 4e9, 1e9):
      os.utime(path, (year, year))
      assert not taker.claim(7)
      clock.now += leases.DEAD_AFTER / 4
    clock.now += leases.DEAD_AFTER / 2
    assert taker.claim(7)


def test_a_beat_that_fails_is_made_up_for(bucket, clock, tmp_path, monkeypatch):
  holder, taker = leases.Leases(FOLDER), leases.Leases(FOLDER)
  assert holder.claim(7) and not taker.claim(7)

  def fail(path, content):
    raise RuntimeError("no network, by an error of no known kind")

  with monkeypatch.context() as patch:
    patch.setattr(buckets, "write", fail)
    holder.beat()
  clock.now += 0.9 * leases.DEAD_AFTER
  holder.beat()
  clock.now += leases.LOOK
  assert not taker.claim(7)
  clock.now += 0.9 * leases.DEAD_AFTER
  assert not taker.claim(7)


def test_a_thread_beats_as_long_as_parts_are_held(serve, monkeypatch, tmp_path):
  serve()
  monkeypatch.setattr(leases, "BEAT", 0.02)
  with leases.Leases(FOLDER) as held:
    held.claim(7)
    (path,) = (tmp_path / "objects").rglob("00007-*")
    lengths, deadline = set(), time.monotonic() + 20
    while len(lengths) < 4 and time.monotonic() < deadline:
      lengths.add(path.stat().st_size)
    assert len(lengths) == 4
  time.sleep(0.1)
  assert keys(tmp_path) == []  # no beat brings it back


# --- parts, and folders that are completed ------------------------------------


def put(name):
  with atomic.replace(FOLDER, name) as path:
    path.write_text("done")


def test_parts_of_a_lost_process_are_done_by_another(serve, monkeypatch):
  """It has 0 and 2, and finishes 0 before it dies; 3 is there already."""
  bucket = serve()
  for name, seconds in (("BEAT", 1e6), ("DEAD_AFTER", 0.3), ("LOOK", 0.02)):
    monkeypatch.setattr(leases, name, seconds)
  names = [f"part-{i}" for i in range(5)]
  lost = leases.Leases(FOLDER)
  assert lost.claim(0) and lost.claim(2)
  put(names[3])
  done = []
  with locks.claims(FOLDER) as held:
    while locks.missing(FOLDER, names):
      for part in locks.share(FOLDER, names, held, process=(0, 2), wait=0.05):
        done.append(part)
        put(names[part])
        if done == [1, 4]:
          put(names[0])
  assert done == [1, 4, 2]
  assert bucket.requests["delete"] >= 2


def test_files_of_other_processes_are_seen(serve, monkeypatch, tmp_path):
  """As gcsfs and s3fs do, each process answers from listings that it keeps."""
  serve()
  names = ["part-0", "part-1"]
  put(names[0])
  assert locks.missing(FOLDER, names) == [1]
  top = tmp_path / "objects/bucket/run/generate"
  (top / names[1]).write_text("by another process")
  assert locks.missing(FOLDER, names) == []
  with locks.claims(FOLDER) as held:
    assert list(locks.share(FOLDER, [*names, "part-2"], held)) == [2]


def test_pieces_that_vanish_as_they_are_read_are_drawn_again(
  serve, monkeypatch
):
  """Their process was taken for lost, and completes the shard just then."""
  serve()
  found = lambda folder, start: [f"{start}00000000-00000004"]
  monkeypatch.setattr(buckets, "starting", found)
  assert unfinished.read(FOLDER, 0, test_filling.make_rows(6)) == {}


@pytest.mark.parametrize("written", (1e9, 4e9))
def test_a_copy_is_of_the_object_that_is_there(
  serve, tmp_path, monkeypatch, written
):
  """Whichever clock is ahead; and it is made once."""
  bucket, path = serve(), f"{FOLDER}/shard"
  monkeypatch.setenv("SYNTHJAX_CACHE", str(tmp_path / "cache"))
  for seconds, encoded in ((written, b"one"), (written - 60, b"two")):
    row = dict(encoded=encoded, label=0, prompt="", seed=0, id="a")
    shards.write_file(FOLDER, "shard", [row])
    file = tmp_path / "objects/bucket/run/generate/shard"
    os.utime(file, (seconds, seconds))
    read = lambda: shards.read_file(path)[0]["encoded"]
    assert read() == encoded
    before = bucket.requests["get"]
    assert read() == encoded
    assert bucket.requests["get"] - before == 2  # its size and its time


def make_work(num_shards, before=None, log=None):
  """Returns the work that fills FOLDER with shards of six images."""
  spec = {"count": 6 * num_shards}
  assert not artifacts.begin(FOLDER, spec)
  filling = test_filling.filling.prepare(
    FOLDER,
    test_filling.make_rows(6 * num_shards),
    test_filling.make_generator(before=before),
    name=test_filling.NAME,
    shard_size=6,
    encode=test_filling.encode_png,
  )

  def finish():
    artifacts.finish(FOLDER, spec, filling.sizes)

  return engine.Work(
    artifacts.epath.Path(FOLDER), filling.sizes, filling.draw, finish
  )


def test_a_folder_is_filled_by_few_requests(serve, tmp_path):
  """Without those that hash the files at the end, which read each once."""
  bucket, count = serve(), 20
  work = make_work(count)
  before = bucket.requests.copy()
  engine.do_here([work._replace(finish=lambda: put(artifacts.MANIFEST))])
  asked = bucket.requests - before
  print(f"{asked.total() / count:.1f} requests a shard: {dict(asked)}")
  assert asked.total() <= 8 * count + 20
  test_filling.fill_folder(tmp_path / "local", 6 * count)
  found = emulated_bucket.objects(tmp_path, "bucket/run/generate")
  whole = test_filling.contents(tmp_path / "local")
  assert {name: found[name] for name in whole} == whole
  assert found.keys() - whole == {artifacts.SPEC, artifacts.MANIFEST}


def test_one_process_at_a_time_renews_a_folder(serve, monkeypatch, tmp_path):
  serve()
  monkeypatch.setattr(leases, "LOOK", 0.05)
  inside, most = [], []

  def renew(i):
    with locks.one_at_a_time(FOLDER, "renews it"):
      inside.append(i)
      time.sleep(0.1)
      most.append(len(inside))
      inside.remove(i)

  at_once(3, renew)
  assert most == [1, 1, 1]
  assert emulated_bucket.objects(tmp_path, "bucket/run/generate") == {}


def test_one_process_completes_a_folder(serve, monkeypatch):
  """Others, which come later, wait for its manifest and write none."""
  serve()
  monkeypatch.setattr(leases, "LOOK", 0.05)
  work, finished = make_work(2), []

  def finish(i):
    finished.append(i)
    time.sleep(0.5)
    work.finish()

  def command(i):
    engine.do_here([work._replace(finish=lambda: finish(i))])
    return buckets.store(FOLDER).exists(f"{FOLDER}/{artifacts.MANIFEST}")

  work.do([0, 1])
  assert at_once(3, command) == [True] * 3
  assert len(finished) == 1


def test_an_object_is_whole_or_not_there(serve, monkeypatch):
  """Ctrl-C comes while a file of three megabytes is copied."""
  serve()
  written = []

  def write(self, content):
    written.append(content)
    if len(written) > 1:
      raise KeyboardInterrupt
    return io.BytesIO.write(self, content)

  monkeypatch.setattr(emulated_bucket._Writer, "write", write)
  try:
    with atomic.replace(FOLDER, "large") as path:
      path.write_bytes(bytes(3 << 20))
  except KeyboardInterrupt:
    pass
  found = buckets.sizes(FOLDER)
  assert found in ({}, {"large": 3 << 20})


# --- buckets that cannot ------------------------------------------------------


def test_a_bucket_that_overwrites_is_not_shared(serve):
  """One command works there; several are refused before they draw."""
  serve(conditional=False)
  with pytest.raises(UserError, match="it overwrites an object that is there"):
    with locks.workdir("s3://careless/run", shared=True):
      pass
  with locks.workdir("s3://careless/run"), locks.claims(FOLDER) as held:
    assert held.claim(0) and held.claim(0)
  with pytest.raises(UserError, match="Without --shared, one command works"):
    with locks.workdir("s3://careless/run", shared=True):
      pass


def test_looking_before_writing_is_no_conditional_write(serve):
  serve(pipe_file=fsspec.AbstractFileSystem.pipe_file)
  assert "no conditional write" in buckets.why_not_shared("s3://hasty/run")


def test_an_error_of_the_bucket_is_shown(serve):
  def refuse(self, path, value, mode="overwrite"):
    raise NotImplementedError("A header you provided implies functionality")

  serve(pipe_file=refuse)
  why = buckets.why_not_shared("s3://old/run")
  assert why.startswith("NotImplementedError: A header you provided")


def test_a_bucket_that_is_not_reached_is_not_one_that_cannot(serve):
  """Else parts would be drawn without claims, and nobody told."""
  bucket, errors = serve(), [TimeoutError("too slow"), PermissionError("no")]
  put = bucket.pipe_file

  def fail(self, path, value, mode="overwrite"):
    raise errors[-1]

  bucket.pipe_file = fail
  with pytest.raises(UserError, match="cannot be the folder of the .*: no"):
    with locks.workdir("s3://far/run", shared=True):
      pass
  errors.pop()
  with pytest.raises(TimeoutError), locks.claims("s3://far/run"):
    pass
  bucket.pipe_file = put
  with locks.workdir("s3://far/run", shared=True):
    bucket.pipe_file = fail
    with locks.claims("s3://far/run/generate") as held:
      bucket.pipe_file = put
      assert held.claim(0)
      with leases.Leases("s3://far/run/generate") as other:
        assert not other.claim(0)


def test_a_bucket_that_can_is_asked_once_and_left_clean(serve, tmp_path):
  bucket = serve()
  assert buckets.why_not_shared("s3://able/run") is None
  asked = bucket.requests.total()
  assert buckets.why_not_shared("s3://able/run/") is None
  assert bucket.requests.total() == asked
  assert emulated_bucket.objects(tmp_path, "able") == {}


def test_it_says_what_to_install(monkeypatch):
  from etils.epath import backend

  def lacks(self, path):
    raise ImportError("Install s3fs to access S3")

  monkeypatch.setattr(backend._FileSystemSpecBackend, "fs", lacks)
  for path, extra in (("s3://b/run", "s3"), ("gs://b/run", "gcs")):
    with pytest.raises(UserError, match=rf'install "synthjax\[{extra}\]"'):
      with locks.workdir(path):
        pass


def test_commands_that_cannot_write_do_not_wait_for_each_other(
  serve, monkeypatch
):
  """Each has the last shard that the other one needs, and its error."""
  serve()
  monkeypatch.setattr(leases, "LOOK", 0.05)
  both, have_met, errors = threading.Barrier(2), threading.Event(), []

  def meet():
    if not have_met.is_set():
      both.wait(20)
      have_met.set()

  def fail(*args, **kwargs):
    raise OSError("the quota is used up")

  def command():
    try:
      engine.do_here([work])
    except OSError as error:
      errors.append(str(error))

  work = make_work(2, before=meet)
  monkeypatch.setattr(shards, "write_shard", fail)
  threads = [threading.Thread(target=command, daemon=True) for _ in range(2)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join(30)
  assert errors == ["the quota is used up"] * 2


def test_tensorflow_alone_can_fill_a_folder(serve, monkeypatch, tmp_path):
  """Where gcsfs is not installed, epath has what it needs of TensorFlow."""
  serve()
  monkeypatch.setenv("SYNTHJAX_CACHE", str(tmp_path / "cache"))

  def lacks(path):
    raise UserError("gcsfs is not installed")

  with monkeypatch.context() as patch:
    patch.setattr(buckets, "store", lacks)
    engine.do_here([make_work(3)])
    assert buckets.modified(f"{FOLDER}/{artifacts.MANIFEST}") == 0
    assert shards.read_file(
      f"{FOLDER}/{shards.shard_name(0, 3, name=test_filling.NAME)}"
    )
  assert len(artifacts.load(FOLDER)["files"]) == 3


# --- s3fs, and a server that knows S3's conditional writes --------------------


@pytest.fixture
def s3(monkeypatch):
  """Serves an empty bucket by moto; skips without it or s3fs."""
  pytest.importorskip("s3fs")
  moto = pytest.importorskip("moto.server")
  server = moto.ThreadedMotoServer(port=0, verbose=False)
  server.start()
  host, port = server.get_host_and_port()
  monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
  monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
  for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
    monkeypatch.setenv(name, "anything")
  emulated_bucket.forget()
  fsspec.filesystem("s3").mkdir("bucket")
  yield
  server.stop()
  emulated_bucket.forget()


def test_s3fs_has_what_leases_need(s3, tmp_path, monkeypatch):
  monkeypatch.setattr(leases, "LOOK", 0.1)
  assert buckets.why_not_shared(FOLDER) is None
  for number in range(5):
    path = f"{FOLDER}/{number}"
    found = at_once(8, lambda i, p=path: buckets.create(p, b"%d" % i))
    assert sum(found) == 1
    buckets.remove(path)
  with leases.Leases(FOLDER) as one, leases.Leases(FOLDER) as other:
    assert one.claim(7) and not other.claim(7)
    before = buckets.sizes(f"{FOLDER}/.claims")["00007-0001"]
    one.beat()
    assert buckets.sizes(f"{FOLDER}/.claims")["00007-0001"] != before
  engine.do_here([make_work(4)])
  test_filling.fill_folder(tmp_path / "local", 24)
  whole = test_filling.contents(tmp_path / "local")
  files = buckets.store(FOLDER)
  assert {n: files.cat_file(f"{FOLDER}/{n}") for n in whole} == whole
  rest = set(buckets.sizes(FOLDER)) - set(whole)
  assert rest == {artifacts.SPEC, artifacts.MANIFEST}
  assert buckets.sizes(f"{FOLDER}/.claims") == {}


# --- whole processes ----------------------------------------------------------


@pytest.mark.slow
def test_killed_processes_cost_no_image_and_change_no_byte(tmp_path):
  """SYNTHJAX_KILLS=100 is the long one, of three minutes: see docs/tpu.md."""
  shards = 60 * KILLS
  script = pathlib.Path(__file__).parent / "shared_bucket.py"
  process = subprocess.run(
    [
      sys.executable,
      script,
      tmp_path / "run",
      "8",
      f"{KILLS}",
      f"{shards}",
      "0",
    ],
    env=simulated.environment(1),
    capture_output=True,
    text=True,
    timeout=1800,
  )
  log = tmp_path / "run" / "log"
  assert process.returncode == 0, f"{process.stderr}{log.read_text()[-9000:]}"
  report = json.loads(process.stdout)
  print(report)
  assert report["same_files"] and report["same_manifest"]
  assert report["shards"] == shards and report["images"] == 10 * shards
  assert report["kills"] == KILLS and report["finished"] == 1
  # A kill loses one shard at most, which another process begins again.
  assert report["begun_twice"] <= KILLS + shards // 100
  assert report["drawn_twice"] <= shards // 100
