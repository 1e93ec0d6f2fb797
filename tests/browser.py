"""A headless Chromium that a test steers, by the DevTools protocol.

Messages are JSON that ends with a zero byte, over two pipes that Chromium finds
as its files 3 and 4: no port is opened, and no package needed. The protocol is
described at https://chromedevtools.github.io/devtools-protocol.
"""

import base64
import collections
import contextlib
import fcntl
import json
import os
import pathlib
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_WAIT = 60  # seconds for an answer; the machine may be busy
# Chromium looks for the pipes at 3 and 4, which may be in use here.
_START = (
  "import os, sys; read, write, *command = sys.argv[1:]; "
  "os.dup2(int(read), 3); os.dup2(int(write), 4); "
  "os.execv(command[0], command)"
)
_FLAGS = (
  "--headless",
  "--remote-debugging-pipe",
  "--disable-gpu",
  "--disable-dev-shm-usage",
  "--disable-quic",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-extensions",
  "--disable-sync",
  "--hide-scrollbars",
  "--no-first-run",
)
# name -> key, code, virtual code and text of a key that is not a letter.
_KEYS = {
  "Tab": ("Tab", "Tab", 9, ""),
  "Enter": ("Enter", "Enter", 13, "\r"),
  "Escape": ("Escape", "Escape", 27, ""),
  "Space": (" ", "Space", 32, " "),
  "ArrowLeft": ("ArrowLeft", "ArrowLeft", 37, ""),
  "ArrowRight": ("ArrowRight", "ArrowRight", 39, ""),
}
_SHIFT = 8  # of the protocol's `modifiers`


class BrowserError(AssertionError):
  """Chromium has gone, does not answer, or a script in a page has failed."""


class Tab:
  """A tab, and what its page has said, asked for and done wrong.

  Attributes:
    problems: errors and warnings of the console, exceptions, and what the
      page's policy has refused, since it was opened.
    requests: the addresses that it has asked for.
  """

  def __init__(self, send, receive):
    self._send, self._receive = send, receive
    self._id, self._answers = 0, {}
    self._events = collections.Counter()
    self.problems: list[str] = []
    self.requests: list[str] = []
    self._session = None
    target = self.call("Target.createTarget", url="about:blank")["targetId"]
    self._session = self.call(
      "Target.attachToTarget", targetId=target, flatten=True
    )["sessionId"]
    for domain in ("Page", "Runtime", "Log", "Network"):
      self.call(f"{domain}.enable")

  def open(self, path: pathlib.Path) -> None:
    """Opens a file as it is, and waits until it is loaded."""
    self.problems.clear()
    self.requests.clear()
    loaded = self._events["Page.loadEventFired"]
    found = self.call("Page.navigate", url=pathlib.Path(path).as_uri())
    if problem := found.get("errorText"):
      raise BrowserError(f"{path} cannot be opened: {problem}")
    self._until(lambda: self._events["Page.loadEventFired"] > loaded)
    self.run("document.fonts.ready.then(() => null)")

  def run(self, script: str) -> Any:
    """Returns the value of an expression, awaited if it is a promise."""
    found = self.call(
      "Runtime.evaluate",
      expression=script,
      returnByValue=True,
      awaitPromise=True,
    )
    if problem := found.get("exceptionDetails"):
      raise BrowserError(f"{_told(problem)} in:\n{script}")
    return found["result"].get("value")

  def press(self, name: str, times: int = 1, *, shift: bool = False) -> None:
    """Presses a key and lets it go, as a person does."""
    key, code, number, text = _KEYS[name]
    about = dict(key=key, code=code, windowsVirtualKeyCode=number)
    about["modifiers"] = _SHIFT * shift
    down = "keyDown" if text else "rawKeyDown"
    for _ in range(times):
      self.call("Input.dispatchKeyEvent", type=down, text=text, **about)
      self.call("Input.dispatchKeyEvent", type="keyUp", **about)

  def click(self, selector: str, index: int = 0) -> None:
    """Brings an element into view, and presses the mouse in its middle."""
    x, y = self.run(f"""(() => {{
      const all = document.querySelectorAll({json.dumps(selector)});
      const element = all[{index}];
      if (!element) throw new Error("there are " + all.length);
      element.scrollIntoView({{block: "center", behavior: "instant"}});
      const box = element.getBoundingClientRect();
      const at = [box.x + box.width / 2, box.y + box.height / 2];
      const hit = document.elementFromPoint(...at);
      if (!element.contains(hit))
        throw new Error("covered by " + (hit && hit.outerHTML.slice(0, 80)));
      return at;
    }})()""")
    self.click_at(x, y)

  def click_at(self, x: float, y: float) -> None:
    """Presses the mouse at a point of the window, in CSS pixels."""
    at = dict(x=x, y=y, button="left", clickCount=1)
    for kind in ("mousePressed", "mouseReleased"):
      self.call("Input.dispatchMouseEvent", type=kind, **at)

  def resize(
    self, width: int, height: int, *, scale: float = 1, mobile: bool = False
  ) -> None:
    """Gives the window a size, in CSS pixels."""
    self.call(
      "Emulation.setDeviceMetricsOverride",
      width=width,
      height=height,
      deviceScaleFactor=scale,
      mobile=mobile,
    )

  def prefer(
    self, scheme: str = "light", *, motion: str = "", media: str = ""
  ) -> None:
    """Sets prefers-color-scheme, prefers-reduced-motion, and "print"."""
    self.call(
      "Emulation.setEmulatedMedia",
      media=media,
      features=[
        {"name": "prefers-color-scheme", "value": scheme},
        {"name": "prefers-reduced-motion", "value": motion},
      ],
    )

  def screenshot(
    self, path: pathlib.Path, *, top: float = 0, height: float | None = None
  ) -> None:
    """Writes a PNG of the whole width, from `top` on, in CSS pixels."""
    size = self.call("Page.getLayoutMetrics")["cssContentSize"]
    height = min(height or size["height"], size["height"] - top)
    clip = dict(x=0, y=top, width=size["width"], height=height, scale=1)
    found = self.call(
      "Page.captureScreenshot", clip=clip, captureBeyondViewport=True
    )
    pathlib.Path(path).write_bytes(base64.b64decode(found["data"]))

  def pdf(self) -> bytes:
    """Prints the page."""
    return base64.b64decode(self.call("Page.printToPDF")["data"])

  def call(self, method: str, **params: Any) -> dict[str, Any]:
    """Calls a method of the protocol and returns its result."""
    self._id += 1
    number = self._id
    message = {"id": number, "method": method, "params": params}
    if self._session:
      message["sessionId"] = self._session
    self._send(message)
    self._until(lambda: number in self._answers)
    answer = self._answers.pop(number)
    if "error" in answer:
      raise BrowserError(f"{method}: {answer['error']['message']}")
    return answer["result"]

  def _until(self, is_done) -> None:
    deadline = time.monotonic() + _WAIT
    while not is_done():
      for message in self._receive(deadline):
        if "id" in message:
          self._answers[message["id"]] = message
        else:
          self._notice(message["method"], message["params"])

  def _notice(self, event: str, params: dict[str, Any]) -> None:
    self._events[event] += 1
    if event == "Network.requestWillBeSent":
      self.requests.append(params["request"]["url"])
    elif event == "Runtime.exceptionThrown":
      self.problems.append(_told(params["exceptionDetails"]))
    elif event == "Log.entryAdded":  # what the policy refuses is among these
      entry = params["entry"]
      self.problems.append(f"{entry['level']}: {entry['text']}")
    elif event == "Runtime.consoleAPICalled":
      said = [a.get("value", a.get("description")) for a in params["args"]]
      self.problems.append(
        f"console.{params['type']}: {' '.join(map(str, said))}"
      )


def _told(details: dict[str, Any]) -> str:
  thrown = details.get("exception", {}).get("description")
  return thrown or details.get("text", "an exception")


@contextlib.contextmanager
def open_browser() -> Iterator[Tab]:
  """Starts Chromium and yields a tab of it, which ends with the context.

  Raises:
    BrowserError: if Chromium does not start; it says what Chromium has said.
  """
  with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
    # Numbers that neither 3 nor 4 takes the place of.
    theirs, ours = os.pipe(), os.pipe()
    read, write = (
      fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (theirs[0], ours[1])
    )
    os.close(theirs[0])
    os.close(ours[1])
    said = pathlib.Path(folder) / "said.txt"
    flags = [*_FLAGS, f"--user-data-dir={folder}/profile"]
    if os.geteuid() == 0:  # Chromium's sandbox refuses to run as root
      flags.append("--no-sandbox")
    with said.open("wb") as log:
      process = subprocess.Popen(
        [sys.executable, "-c", _START, str(read), str(write), CHROMIUM, *flags],
        pass_fds=(read, write),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
      )
    os.close(read)
    os.close(write)
    try:
      yield Tab(*_pipes(process, theirs[1], ours[0], said))
    finally:
      process.terminate()
      try:
        process.wait(10)
      except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
      os.close(theirs[1])
      os.close(ours[0])


def _pipes(process: subprocess.Popen, write: int, read: int, said):
  """Returns the functions that send a message, and receive some or fail."""
  waiting = b""

  def fail(what: str) -> BrowserError:
    with contextlib.suppress(subprocess.TimeoutExpired):
      process.wait(1)
    code = process.poll()
    state = "" if code is None else f", exit code {code}"
    words = said.read_text(errors="replace")[-2000:]
    return BrowserError(f"Chromium {what}{state}. It said:\n{words}")

  def send(message: dict[str, Any]) -> None:
    data = json.dumps(message).encode() + b"\0"
    try:
      while data:
        data = data[os.write(write, data) :]
    except BrokenPipeError:
      raise fail("has ended") from None

  def receive(deadline: float) -> list[dict[str, Any]]:
    nonlocal waiting
    left = max(0, deadline - time.monotonic())
    if not select.select([read], [], [], left)[0]:
      raise fail(f"has not answered for {_WAIT} s")
    data = os.read(read, 1 << 20)
    if not data:
      raise fail("has ended")
    *whole, waiting = (waiting + data).split(b"\0")
    return [json.loads(message) for message in whole]

  return send, receive
