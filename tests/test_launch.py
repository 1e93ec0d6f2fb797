"""The scripts of launch/, with stand-ins for gcloud, srun and Python.

What they would do on a TPU VM or on a node of a cluster is done in a folder, by
the same shell commands.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parent.parent

# A queued resource is asked for, waits, and becomes a VM.
GCLOUD = r"""
echo "$4 ${*:5}" | head -1 >>"$FAKE/gcloud.log"
state=$(cat "$FAKE/state" 2>/dev/null || true)
if [ "$3" = queued-resources ]; then
  place=$(cat "$FAKE/queue" 2>/dev/null || true)
  case $4 in
    create) [ -z "$place" ] && cp "$FAKE/places" "$FAKE/queue" ;;
    describe)
      head -1 "$FAKE/queue" 2>/dev/null || exit 1
      if [ "$(head -1 "$FAKE/queue")" = ACTIVE ]; then
        mkdir -p "$FAKE/vm"
        echo READY >"$FAKE/state"
      else
        sed -i 1d "$FAKE/queue"
      fi
      ;;
    delete) rm -rf "$FAKE/vm" "$FAKE/state" "$FAKE/queue" ;;
  esac
  exit
fi
for argument; do
  [[ $argument != --command=* ]] || command=${argument#--command=}
done
case $4 in
  describe) [ -n "$state" ] && echo "$state" ;;
  create)
    mkdir -p "$FAKE/vm"
    echo READY >"$FAKE/state"
    ;;
  delete) rm -r "$FAKE/vm" "$FAKE/state" ;;
  scp)
    [ "$state" = READY ] && cp "$5" "$FAKE/vm/synthjax.tar.gz" || exit 1
    mkdir -p "$FAKE/vm/synthjax/.venv/bin"
    touch "$FAKE/vm/synthjax/.venv/bin/activate"
    ;;
  ssh) [ "$state" = READY ] && cd "$FAKE/vm" && bash -c "$command" ;;
esac
"""
# Ends as the next line of $FAKE/codes says.
PYTHON = r"""
[ "$1" = -m ] || exit 0
echo "$* ids=${JAX_LOCAL_DEVICE_IDS:-}" >>"$FAKE/python.log"
code=$(head -1 "$FAKE/codes")
sed -i 1d "$FAKE/codes"
case $code in
  preempted) echo PREEMPTED >"$FAKE/state" ;;
  endless)
    trap 'exit 143' TERM
    while true; do sleep 0.05; done
    ;;
  *) exit "$code" ;;
esac
"""
# Entry point of the images; `run` is synthjax.main.
SYNTHJAX = 'of() { python -m "synthjax.${1/run/main}" "${@:2}"; }; of'
GIT = r"""
[ "$1" != describe ] || echo v0.2.0-3-gabc1234
for argument; do
  [[ $argument != --output=* ]] || tar czf "${argument#--output=}" launch
done
"""
SRUN = r"""
echo "$*" >>"$FAKE/srun.log"
exit "$(cat "$FAKE/codes")"
"""
SCONTROL = r"""
echo "$*" >>"$FAKE/scontrol.log"
"""
# Starts what the container would, which is Python.
DOCKER = r"""
echo "$*" >>"$FAKE/docker.log"
[ "$1" = run ] || exit 0
while [[ $1 != synthjax:* ]]; do shift; done
SYNTHJAX "${@:2}"
""".replace("SYNTHJAX", SYNTHJAX)
# Starts what the container of the manifest would, once.
KUBECTL = r"""
echo "$*" >>"$FAKE/kubectl.log"
[ "$1" = apply ] || exit 0
cat >"$FAKE/manifest.yaml"
"$REAL_PYTHON" - >"$FAKE/args" <<END
import yaml
jobset = yaml.safe_load(open("$FAKE/manifest.yaml"))
template = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
print(*template["spec"]["containers"][0]["args"], sep="\n")
END
mapfile -t args <"$FAKE/args"
SYNTHJAX "${args[@]}"
""".replace("SYNTHJAX", SYNTHJAX)
SCRIPTS = {
  "docker": DOCKER,
  "kubectl": KUBECTL,
  "gcloud": GCLOUD,
  "python": PYTHON,
  "python3": PYTHON,
  "git": GIT,
  "srun": SRUN,
  "scontrol": SCONTROL,
}


@pytest.fixture
def launch(tmp_path):
  """Returns a function that starts a script of a copy of launch/."""
  shutil.copytree(ROOT / "launch", tmp_path / "repo/launch")
  (tmp_path / "bin").mkdir()
  for name, text in SCRIPTS.items():
    file = tmp_path / "bin" / name
    file.write_text(f"#!/usr/bin/env bash\n{text}")
    file.chmod(0o755)
  clean = {
    k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "JAX_"))
  }

  def start(script, *arguments, codes=(), **more):
    if codes:  # which another script may still be reading
      (tmp_path / "codes").write_text("".join(f"{c}\n" for c in codes))
    environment = clean | {
      "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
      "FAKE": str(tmp_path),
      "REAL_PYTHON": sys.executable,
      "SYNTHJAX_INSTALL": "0",
      "PAUSE": "0",
      "ZONE": "z",
    }
    return subprocess.Popen(
      ["bash", tmp_path / "repo/launch" / script, *arguments],
      env=environment | more,
      cwd=tmp_path / "repo",
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )

  return start


def end(process, code=0):
  out, _ = process.communicate(timeout=120)
  assert process.returncode == code, out
  return out


def lines(file):
  return file.read_text().splitlines() if file.exists() else []


@pytest.mark.parametrize("place", ["only", "last"])
def test_help_is_shown_and_changes_nothing(launch, tmp_path, place):
  """Not one script installs, starts or asks for anything before."""
  scripts = sorted(path.name for path in (ROOT / "launch").glob("*.sh"))
  scripts.remove("environment.sh")
  arguments = ["--help"] if place == "only" else ["run", "it", "x", "-h"]
  files = lambda: sorted((tmp_path / "repo").rglob("*"))
  before = files()
  for script in scripts:
    out = end(launch(script, *arguments, SYNTHJAX_INSTALL="1", ZONE=""))
    assert f"launch/{script} " in out and "set -euo" not in out
  assert files() == before and not (tmp_path / "python.log").exists()


@pytest.mark.parametrize(
  ("module", "name"),
  [("main", "-m synthjax.main"), ("weights", "synthjax weights")],
)
def test_help_of_a_command_ends_well_and_without_jax(module, name):
  command = [sys.executable, "-X", "importtime", "-m", f"synthjax.{module}"]
  flags = ["--config=gone.py"] if module == "main" else []
  found = subprocess.run(
    [*command, *flags, "--help"], capture_output=True, text=True, cwd=ROOT
  )
  assert found.returncode == 0 and name in found.stdout
  assert not re.search(r"\| +jax$", found.stderr, re.MULTILINE)


CONFIG = ("--config=configs/a.py:b", "--workdir=gs://b/it's")


@pytest.mark.parametrize(
  ("arguments", "passed"),
  [
    ((), ["-m not slow -n 2 --dist loadfile"]),
    (("--durations=5",), ["-m not slow -n 2 --dist loadfile --durations=5"]),
    (
      ("--all", "-x"),
      [
        "-m not slow -n 2 --dist loadfile -x",
        "-m slow or golden -n 2 --dist loadfile -x",
      ],
    ),
    (("--all", "--pdb"), ["-m not slow --pdb", "-m slow or golden --pdb"]),
    (("--all", "-k", "nms"), ["-k nms"]),
    (("-m", "gpu"), ["-m gpu"]),
    (("-k", "nms"), ["-k nms"]),
    (("tests/test_launch.py",), ["tests/test_launch.py"]),
  ],
)
def test_slow_tests_run_when_they_are_asked_for(
  launch, tmp_path, arguments, passed
):
  codes = ["0"] * len(passed)
  end(launch("test.sh", *arguments, codes=codes, SYNTHJAX_WORKERS="2"))
  ran = [f"-m pytest {one} ids=" for one in passed]
  assert lines(tmp_path / "python.log") == ran


@pytest.mark.parametrize("codes", [("1", "0"), ("0", "1"), ("0", "5")])
def test_both_runs_of_all_tests_must_pass(launch, tmp_path, codes):
  process = launch("test.sh", "--all", codes=codes, SYNTHJAX_WORKERS="2")
  end(process, max(map(int, codes)))
  assert len(lines(tmp_path / "python.log")) == 2


def test_keep_makes_the_vm_again_until_the_run_is_done(launch, tmp_path):
  codes = ("preempted", "1", "0")
  end(launch("tpu.sh", "keep", "it", "v4-8", *CONFIG, codes=codes, SPOT="1"))
  told = lines(tmp_path / "gcloud.log")
  did = [line.split()[0] for line in told]
  assert did.count("create") == 2 and did.count("delete") == 1
  assert did.count("scp") == 2  # the new VM is installed as well
  creation = next(line for line in told if line.startswith("create"))
  assert "--accelerator-type=v4-8" in creation and "--spot" in creation
  ran = lines(tmp_path / "python.log")
  want = "-m synthjax.main --distributed --config=configs/a.py:b"
  assert ran == [f"{want} --workdir=gs://b/it's ids="] * 3


def test_a_new_vm_gets_the_weights_again(launch, tmp_path):
  """Also after a download that failed, which is no reason to start the run."""
  codes = ("1", "0", "preempted", "0", "0")
  args = ("keep", "it", "v4-8", *CONFIG)
  end(launch("tpu.sh", *args, codes=codes, WEIGHTS="glide clip_rn50"))
  did = [line.split()[1] for line in lines(tmp_path / "python.log")]
  weights, main = "synthjax.weights", "synthjax.main"
  assert did == [weights, weights, main, weights, main]
  fetched = "-m synthjax.weights fetch glide clip_rn50 ids="
  assert lines(tmp_path / "python.log")[0] == fetched


def test_weights_are_installed_and_a_download_that_fails_is_told(
  launch, tmp_path
):
  end(launch("tpu.sh", "create", "it", "v4-8"))
  end(launch("tpu.sh", "install", "it", codes=["1"], WEIGHTS="glide"), 1)
  assert lines(tmp_path / "codes") == []


@pytest.mark.parametrize(
  ("codes", "code", "runs"), [(["2"], 2, 1), (["1", "1", "7", "0"], 7, 3)]
)
def test_keep_gives_up_on_what_cannot_be_run(
  launch, tmp_path, codes, code, runs
):
  args = ("keep", "it", "v4-8", *CONFIG)
  end(launch("tpu.sh", *args, codes=codes, FAILURES="3"), code)
  assert len(lines(tmp_path / "python.log")) == runs
  assert not any(
    line.startswith("delete") for line in lines(tmp_path / "gcloud.log")
  )


def test_a_run_that_is_stopped_is_not_kept(launch, tmp_path):
  args = ("keep", "it", "v4-8", *CONFIG)
  kept = launch("tpu.sh", *args, codes=["endless"])
  until = time.monotonic() + 60
  while not lines(tmp_path / "vm/synthjax/run.pid"):
    assert time.monotonic() < until and kept.poll() is None
    time.sleep(0.05)
  end(launch("tpu.sh", "stop", "it"))
  end(kept, 130)


@pytest.mark.parametrize(
  ("kind", "runtime"),
  [
    ("v4-8", "tpu-ubuntu2204-base"),
    ("v5litepod-16", "v2-alpha-tpuv5-lite"),
    ("v5p-8", "v2-alpha-tpuv5"),
    ("v6e-8", "v2-alpha-tpuv6e"),
  ],
)
def test_each_tpu_has_its_image(launch, tmp_path, kind, runtime):
  end(launch("tpu.sh", "create", "it", kind))
  end(launch("tpu.sh", "create", "it", kind, RUNTIME="other"))
  want = f"create it --accelerator-type={kind} --version="
  assert [line.split(" --zone")[0] for line in gcloud(tmp_path)] == [
    want + runtime,
    want + "other",
  ]


def gcloud(folder):
  return lines(folder / "gcloud.log")


def test_a_queued_vm_is_waited_for(launch, tmp_path):
  waits = ("WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")
  (tmp_path / "places").write_text("\n".join(waits))
  out = end(launch("tpu.sh", "create", "it", "v6e-8", QUEUED="1", SPOT="1"))
  assert [line.split()[-1] for line in out.splitlines()] == [
    "WAITING_FOR_RESOURCES.",
    "PROVISIONING.",
    "ACTIVE.",
  ]
  (asked,) = [line for line in gcloud(tmp_path) if line.startswith("create")]
  assert asked.startswith(
    "create it --node-id=it --accelerator-type=v6e-8 --spot"
    " --runtime-version=v2-alpha-tpuv6e"
  )
  # Another one with the same name only waits on.
  end(launch("tpu.sh", "create", "it", "v6e-8", QUEUED="1"))
  assert sum(line.startswith("create") for line in gcloud(tmp_path)) == 1
  end(launch("tpu.sh", "delete", "it", QUEUED="1"))
  assert "delete it --force" in gcloud(tmp_path)[-1]
  assert not (tmp_path / "vm").exists()


def test_keep_asks_again_for_what_came_to_nothing(launch, tmp_path):
  """First the request fails; then the VM of the next one is preempted."""
  (tmp_path / "places").write_text("ACTIVE\n")
  (tmp_path / "queue").write_text("SUSPENDED\nSUSPENDED\n")
  args = ("keep", "it", "v6e-8", *CONFIG)
  end(launch("tpu.sh", *args, codes=("preempted", "0"), QUEUED="1"))
  did = [line.split()[0] for line in gcloud(tmp_path)]
  assert did.count("create") == 2 and did.count("delete") == 2
  assert len(lines(tmp_path / "python.log")) == 2


@pytest.mark.parametrize(("code", "requeued"), [(0, []), (143, ["requeue 7"])])
def test_a_slurm_job_goes_back_into_the_queue(launch, tmp_path, code, requeued):
  job = dict(SLURM_SUBMIT_DIR=str(tmp_path / "repo"), SLURM_JOB_ID="7")
  end(launch("slurm.sh", *CONFIG, codes=[code], **job), code)
  want = f"--kill-on-bad-exit=1 bash launch/gpu.sh {' '.join(CONFIG)}"
  assert lines(tmp_path / "srun.log") == [want]
  assert lines(tmp_path / "scontrol.log") == requeued


@pytest.mark.parametrize(
  ("found", "distributed", "ids"),
  [
    ({}, "", ""),
    (
      {"SLURM_NTASKS": "2", "SLURM_GPUS_ON_NODE": "4"},
      "--distributed ",
      "0,1,2,3",
    ),
    (
      {
        "SLURM_NTASKS": "8",
        "SLURM_GPUS_ON_NODE": "4",
        "SLURM_NTASKS_PER_NODE": "4",
      },
      "--distributed ",
      "",
    ),
    (
      {
        "JAX_COORDINATOR_ADDRESS": "a:1",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": "1",
      },
      "--distributed ",
      "",
    ),
  ],
)
def test_gpus_of_several_machines_are_joined(
  launch, tmp_path, found, distributed, ids
):
  end(launch("gpu.sh", *CONFIG, codes=[0], **found))
  want = f"-m synthjax.main {distributed}{' '.join(CONFIG)} ids={ids}"
  assert lines(tmp_path / "python.log") == [want]


def test_a_machine_without_a_number_is_told_what_lacks(launch):
  process = launch("gpu.sh", *CONFIG, JAX_COORDINATOR_ADDRESS="a:1")
  out, _ = process.communicate(timeout=60)
  assert process.returncode and "Set JAX_NUM_PROCESSES" in out


@pytest.mark.parametrize("script", sorted((ROOT / "launch").glob("*.sh")))
def test_the_scripts_are_clean(script):
  subprocess.run(["bash", "-n", script], check=True)
  if not (shellcheck := shutil.which("shellcheck")):
    pytest.skip("shellcheck is not installed")
  subprocess.run([shellcheck, "-x", script], check=True, cwd=ROOT)
