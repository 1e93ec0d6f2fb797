"""Event files, read by the format that TensorBoard documents."""

import struct

import pytest
from etils import epath
from tensorboardX.proto import event_pb2

from synthjax.training import loggers, metrics


def crc32c(data: bytes) -> int:
  """Castagnoli's checksum, bit by bit (RFC 3720, appendix B.4)."""
  crc = 0xFFFFFFFF
  for byte in data:
    crc ^= byte
    for _ in range(8):
      crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
  return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> int:
  crc = crc32c(data)
  return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def events_of(folder):
  """Reads all records of a folder: a length, its checksum, data, its own."""
  found = []
  for file in sorted(folder.glob("events.out.tfevents.*")):
    data, place = file.read_bytes(), 0
    while place < len(data):
      (length,) = struct.unpack_from("<Q", data, place)
      record = data[place + 12 : place + 12 + length]
      checks = struct.unpack_from("<I", data, place + 8)
      checks += struct.unpack_from("<I", data, place + 12 + length)
      assert checks == (masked(data[place : place + 8]), masked(record))
      found.append(event_pb2.Event.FromString(record))
      place += length + 16
  return found


def scalars(events):
  return [
    (event.step, value.tag, pytest.approx(value.simple_value))
    for event in events
    for value in event.summary.value
    if value.HasField("simple_value")
  ]


def test_checksums_are_castagnolis():
  assert crc32c(b"123456789") == 0xE3069283  # the check value of CRC-32C


def run_of(workdir, first_step=0):
  return loggers.Run(epath.Path(workdir), "task/x", first_step, {"lr": 0.1})


def test_metrics_of_a_run_are_events(tmp_path):
  with loggers.opened(("tensorboard",), run_of(tmp_path)) as logger:
    logger.text("parameters", "| w | 12 |")
    hook = metrics.progress_hook(
      tmp_path / "m.jsonl",
      label="x",
      every=2,
      num_steps=4,
      monitor=lambda state: {"top1": 0.5},
      logger=logger,
    )
    for step in range(1, 5):
      hook(step, 0.0, {"loss": 1 / step})
  events = events_of(tmp_path / "tensorboard" / "task" / "x")
  assert events[0].file_version == "brain.Event:2"
  assert scalars(events) == [
    (2, "loss", 0.5),
    (4, "top1", 0.5),
    (4, "loss", 0.25),
  ]
  (text,) = [
    value.tensor.string_val[0].decode()
    for event in events
    for value in event.summary.value
    if not value.HasField("simple_value")
  ]
  assert "| w | 12 |" in text


def test_a_resumed_run_takes_back_what_was_not_saved(tmp_path):
  """TensorBoard drops all from the step of a START on."""
  for first in (0, 3):
    with loggers.opened("tensorboard", run_of(tmp_path, first)) as logger:
      logger.write(first + 1, {"loss": 1.0})
  folder = tmp_path / "tensorboard" / "task" / "x"
  found = events_of(folder)
  assert len(list(folder.iterdir())) == 2
  starts = [e.step for e in found if e.HasField("session_log")]
  assert starts == [4]
  assert [step for step, *_ in scalars(found)] == [1, 4]


def test_on_a_bucket_the_file_is_written_whole(tmp_path):
  """Where nothing can be appended; a folder stands for the bucket."""
  file = loggers._RemoteFiles.open(tmp_path / "events")
  for part in (b"ab", b"cd"):
    file.write(part)
    file.flush()
  file.close()
  assert (tmp_path / "events").read_bytes() == b"abcd"


@pytest.mark.faults
def test_events_that_cannot_be_written_do_not_stop_the_run(tmp_path, capsys):
  (tmp_path / "tensorboard").write_text("")
  with loggers.opened("tensorboard", run_of(tmp_path)) as logger:
    logger.write(1, {"loss": 1.0})
  (line,) = capsys.readouterr().err.splitlines()
  assert "Cannot log task/x to tensorboard: " in line


@pytest.mark.faults
def test_a_disk_that_fills_up_is_told_of_once(tmp_path, capsys, monkeypatch):
  from tensorboardX import record_writer

  class Full:
    def write(self, data):
      raise OSError(28, "No space left on device")

    flush = close = lambda self: None

  with loggers.opened("tensorboard", run_of(tmp_path)) as logger:
    monkeypatch.setattr(record_writer.RecordWriter, "write", Full.write)
    for step in range(1, 100):
      logger.write(step, {"loss": 1.0})
  (line,) = capsys.readouterr().err.splitlines()
  assert "No space left on device" in line
