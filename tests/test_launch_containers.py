"""Images, the JobSet of GKE and SkyPilot's YAML, with stand-ins.

Neither Docker nor a cluster is here: the manifests are checked by what their
schemas allow, as far as they use them, and their commands are run.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib

import pytest
import yaml
from doc_commands import check_main, check_weights
from test_launch import CONFIG, ROOT, end, lines

pytest_plugins = ("doc_workspace",)  # the fixture `launch`

DOCKERFILE = (ROOT / "launch/Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


# --- images -------------------------------------------------------------------


def stages():
  """Returns name -> (what it starts from, its text) of the Dockerfile."""
  plain = re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE)
  parts = re.split(r"^FROM (\S+) AS (\S+)\n", plain, flags=re.MULTILINE)
  starts, names, texts = parts[1::3], parts[2::3], parts[3::3]
  return dict(zip(names, zip(starts, texts, strict=True), strict=True))


def test_images_end_without_root_and_share_the_layers_of_libraries():
  found = stages()
  assert [*found] == ["base", "wheel", "libraries", "cpu", "cuda", "tpu"]
  for target in ("cpu", "cuda", "tpu"):
    start, text = found[target]
    assert start == "libraries" and text.rstrip().endswith("USER 1000")
    assert (f"/tmp/{target}.txt" in text) == (target != "cpu")
  # Code comes after the libraries, which a change of it leaves cached.
  assert "COPY pyproject.toml" in found["libraries"][1]
  assert "COPY . " not in found["libraries"][1] + found["base"][1]
  assert 'ENTRYPOINT ["synthjax"]' in found["base"][1]


def test_images_hold_the_libraries_of_the_project(tmp_path):
  """By the very command of the Dockerfile."""
  code = re.search(r'^RUN (python -c ".*?")\n', DOCKERFILE, re.M | re.S)[1]
  (tmp_path / "pyproject.toml").write_bytes(
    (ROOT / "pyproject.toml").read_bytes()
  )
  code = code.replace("python", sys.executable, 1)
  subprocess.run(["bash", "-c", code], cwd=tmp_path, check=True)
  extras = PROJECT["project"]["optional-dependencies"]
  wanted = {"all": PROJECT["project"]["dependencies"]} | {
    name: extras[name] for name in ("gcs", "jpeg", "ray", "cuda", "tpu")
  }
  assert wanted == {f.stem: lines(f) for f in tmp_path.glob("*.txt")}
  for name in re.findall(r"--requirement (?:/tmp/)?(\w+)\.txt", DOCKERFILE):
    assert name in wanted


def test_the_build_sees_what_the_wheel_is_made_of():
  ignore = lines(ROOT / "launch/Dockerfile.dockerignore")
  seen = {line[1:] for line in ignore if line.startswith("!")}
  wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
  project = PROJECT["project"]
  assert ignore[1] == "*" and seen == {
    "pyproject.toml",
    project["readme"],
    *project["license-files"],
    *wheel["packages"],
    *wheel["force-include"],
  }


def test_the_dockerfile_is_clean():
  if not (hadolint := shutil.which("hadolint")):
    pytest.skip("hadolint is not installed")
  subprocess.run([hadolint, ROOT / "launch/Dockerfile"], check=True)


@pytest.mark.parametrize("target", ["cpu", "cuda", "tpu"])
def test_a_config_runs_in_a_container_as_its_caller(launch, tmp_path, target):
  home = {"HOME": str(tmp_path / "home"), "SYNTHJAX_CACHE": ""}
  process = launch(
    "docker.sh", "run", target, *CONFIG, codes=["7"], DATA="/data", **home
  )
  end(process, 7)
  (run,) = lines(tmp_path / "docker.log")
  assert f"--user={os.getuid()}:{os.getgid()}" in run
  assert f"--volume={tmp_path}/repo:/repository" in run
  assert f"--volume={tmp_path}/home/.cache/synthjax:/cache" in run
  assert "--volume=/data:/data:ro" in run
  assert ("--gpus=all" in run) == (target == "cuda")
  assert f" synthjax:{target} run " in run
  want = f"-m synthjax.main {' '.join(CONFIG)} ids="
  assert lines(tmp_path / "python.log") == [want]


def test_an_image_is_built_of_this_commit_and_pushed(launch, tmp_path):
  end(launch("docker.sh", "build", "tpu", IMAGE="a.io/b:c", PUSH="1"))
  build, push = lines(tmp_path / "docker.log")
  assert "--file=launch/Dockerfile --target=tpu --tag=a.io/b:c" in build
  assert "--build-arg=VERSION=0.2.0.post3+gabc1234 ." in build
  assert push == "push a.io/b:c"
  out = end(launch("docker.sh", "build", "gpu"), 2)
  assert "the targets of launch/Dockerfile" in out


# --- GKE ----------------------------------------------------------------------

# The fields that the manifest may use: those of JobSet v1alpha2 and of Job and
# Pod in Kubernetes 1.31. `str` is any text; a list, each of its items.
CONTAINER = {
  "name": str,
  "image": str,
  "args": [str],
  "env": [{"name": str, "value": str, "valueFrom": dict}],
  "resources": {"limits": dict},
  "volumeMounts": [{"name": str, "mountPath": str}],
  "securityContext": {"privileged": bool, "runAsUser": int},
}
POD = {
  "restartPolicy": str,
  "terminationGracePeriodSeconds": int,
  "serviceAccountName": str,
  "nodeSelector": dict,
  "volumes": [{"name": str, "emptyDir": dict}],
  "initContainers": [CONTAINER],
  "containers": [CONTAINER],
}
JOB = {
  "completionMode": str,
  "completions": int,
  "parallelism": int,
  "backoffLimit": int,
  "podFailurePolicy": {"rules": [{"action": str, "onExitCodes": dict}]},
  "template": {"spec": POD},
}
JOBSET = {
  "apiVersion": str,
  "kind": str,
  "metadata": {"name": str, "annotations": dict},
  "spec": {
    "failurePolicy": {
      "maxRestarts": int,
      "rules": [{"action": str, "onJobFailureReasons": [str]}],
    },
    "replicatedJobs": [
      {"name": str, "replicas": int, "template": {"spec": JOB}}
    ],
  },
}


def check(value, schema, place="manifest"):
  """Raises unless a value has the types, and no other fields, of a schema."""
  if isinstance(schema, type):
    assert type(value) is schema, f"{place}: {value!r} is no {schema.__name__}"
  elif isinstance(schema, list):
    assert isinstance(value, list), place
    for i, each in enumerate(value):
      check(each, schema[0], f"{place}[{i}]")
  else:
    assert isinstance(value, dict), place
    assert value.keys() <= schema.keys(), f"{place}: {value.keys()}"
    for key, each in value.items():
      check(each, schema[key], f"{place}.{key}")


def jobset(launch, tmp_path, device, **environment):
  """Returns Job and Pod of what `gke.sh run` gives to kubectl."""
  environment = {"IMAGE": "a.io/b:c"} | environment
  end(launch("gke.sh", "run", "it", device, *CONFIG, codes=[0], **environment))
  (applied,) = lines(tmp_path / "kubectl.log")
  assert applied == "apply --filename=-"
  found = yaml.safe_load((tmp_path / "manifest.yaml").read_text())
  check(found, JOBSET)
  assert found["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
  assert found["metadata"]["name"] == "it"
  (rule,) = found["spec"]["failurePolicy"]["rules"]
  assert rule == {
    "action": "FailJobSet",
    "onJobFailureReasons": ["PodFailurePolicy"],
  }
  job = found["spec"]["replicatedJobs"][0]["template"]["spec"]
  assert job["completions"] == job["parallelism"]
  (fails,) = job["podFailurePolicy"]["rules"]
  assert fails["onExitCodes"]["values"] == [2] and job["backoffLimit"] == 0
  pod = job["template"]["spec"]
  mounts = {m["name"] for m in pod["containers"][0]["volumeMounts"]}
  assert mounts == {volume["name"] for volume in pod["volumes"]}
  return found, job, pod


@pytest.mark.parametrize(
  ("device", "slice", "hosts", "chips"),
  [
    ("v6e:4x4", "tpu-v6e-slice", 4, 4),
    ("v5e:1x1", "tpu-v5-lite-podslice", 1, 1),
    ("v5p:2x2x4", "tpu-v5p-slice", 4, 4),
    ("v4:2x2x1", "tpu-v4-podslice", 1, 4),
  ],
)
def test_a_slice_of_tpus_is_taken_whole(
  launch, tmp_path, device, slice, hosts, chips
):
  found, job, pod = jobset(launch, tmp_path, device, SPOT="1")
  assert job["completions"] == hosts
  assert pod["nodeSelector"] == {
    "cloud.google.com/gke-tpu-accelerator": slice,
    "cloud.google.com/gke-tpu-topology": device.partition(":")[2],
    "cloud.google.com/gke-spot": "true",
  }
  (container,) = pod["containers"]
  assert container["resources"]["limits"] == {"google.com/tpu": chips}
  assert "env" not in container  # by which JAX would not look for the slice
  assert "gke-nodepool" in json.dumps(found["metadata"]["annotations"])
  distributed = "--distributed " if hosts > 1 else ""
  want = f"-m synthjax.main {distributed}{' '.join(CONFIG)} ids="
  assert lines(tmp_path / "python.log") == [want]


def test_hosts_with_gpus_find_the_first(launch, tmp_path):
  _, job, pod = jobset(
    launch,
    tmp_path,
    "nvidia-h100-80gb:8",
    HOSTS="2",
    WEIGHTS="glide clip_rn50",
    SERVICE_ACCOUNT="writer",
  )
  (container,), (weights,) = pod["containers"], pod["initContainers"]
  env = {each["name"]: each for each in container["env"]}
  assert env["JAX_COORDINATOR_ADDRESS"]["value"] == "it-hosts-0-0.it:1234"
  assert env["JAX_NUM_PROCESSES"]["value"] == "2" == str(job["completions"])
  path = env["JAX_PROCESS_ID"]["valueFrom"]["fieldRef"]["fieldPath"]
  assert "batch.kubernetes.io/job-completion-index" in path
  assert container["resources"]["limits"] == {"nvidia.com/gpu": 8}
  assert weights["args"] == ["weights", "fetch", "glide", "clip_rn50"]
  assert pod["serviceAccountName"] == "writer"
  assert "securityContext" not in container


def test_one_gpu_host_needs_no_other(launch, tmp_path):
  _, job, pod = jobset(launch, tmp_path, "nvidia-l4:1")
  assert job["completions"] == 1 and not pod["containers"][0]["env"]
  assert "--distributed" not in lines(tmp_path / "python.log")[0]


def test_gke_says_what_lacks(launch, tmp_path):
  out = end(launch("gke.sh", "run", "it", "v6e:4x4", *CONFIG, IMAGE=""), 1)
  assert "Set IMAGE" in out
  out = end(launch("gke.sh", "run", "it", "v6e", *CONFIG, IMAGE="a"), 2)
  assert "its topology" in out
  end(launch("gke.sh", "stop", "it"))
  end(launch("gke.sh", "follow", "it"))
  stop, follow = lines(tmp_path / "kubectl.log")
  assert stop == "delete jobset it" and "jobset-name=it," in follow


# --- KubeRay ------------------------------------------------------------------

# Of KubeRay's ray.io/v1, as far as the manifest uses it.
GROUP = {"rayStartParams": dict, "template": {"spec": POD}}
RAY_JOB = {
  "apiVersion": str,
  "kind": str,
  "metadata": {"name": str},
  "spec": {
    "entrypoint": str,
    "backoffLimit": int,
    "shutdownAfterJobFinishes": bool,
    "rayClusterSpec": {
      "rayVersion": str,
      "enableInTreeAutoscaling": bool,
      "headGroupSpec": GROUP,
      "workerGroupSpecs": [
        GROUP
        | dict(groupName=str, replicas=int, minReplicas=int, maxReplicas=int)
      ],
    },
  },
}


def test_kuberays_job_gives_the_work_to_machines_with_a_gpu():
  found = yaml.safe_load((ROOT / "launch/rayjob.yaml").read_text())
  check(found, RAY_JOB)
  cluster = found["spec"]["rayClusterSpec"]
  head, (group,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
  assert head["rayStartParams"] == {"num-cpus": "0"}
  assert 1 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
  for pod in (head["template"]["spec"], group["template"]["spec"]):
    (fetching,) = pod["initContainers"]
    assert fetching["args"][:2] == ["weights", "fetch"]
    check_weights(fetching["args"][1:])
    assert pod["containers"][0]["volumeMounts"] == fetching["volumeMounts"]
  (container,) = group["template"]["spec"]["containers"]
  assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
  program, command, config, *words = shlex.split(found["spec"]["entrypoint"])
  assert (program, command) == ("synthjax", "run") and "--engine=ray" in words
  check_main([f"--config={config}", *words], tasks=True)


# --- SkyPilot -----------------------------------------------------------------

SKY = yaml.safe_load((ROOT / "launch/sky.yaml").read_text())
# Of SkyPilot 0.14.
TASK = {
  "name": str,
  "workdir": str,
  "resources": {
    "accelerators": str,
    "use_spot": bool,
    "disk_size": int,
    "job_recovery": {
      "max_restarts_on_errors": int,
      "recover_on_exit_codes": [int],
    },
  },
  "num_nodes": int,
  "envs": dict,
  "setup": str,
  "run": str,
}


def sky(launch, script, **environment):
  """Runs a script of sky.yaml as a machine would."""
  process = launch("gpu.sh", "--help")  # which copies launch/
  folder = process.args[1].parent
  end(process)
  (folder / "sky_step.sh").write_text('cd "$(dirname "$0")/.."\n' + script)
  return launch("sky_step.sh", codes=[0, 0], **SKY["envs"] | environment)


def test_skypilots_task_has_the_fields_of_its_schema():
  check(SKY, TASK, "sky.yaml")
  assert all(isinstance(value, str) for value in SKY["envs"].values())
  for name in re.findall(r"\$(?:\{)?([A-Z_]+)", SKY["setup"] + SKY["run"]):
    assert name in SKY["envs"] or name.startswith(("SKYPILOT_", "JAX_"))


@pytest.mark.parametrize("nodes", [1, 2])
def test_skypilots_machines_are_joined(launch, tmp_path, nodes):
  step = sky(
    launch,
    SKY["run"] + "echo at $JAX_COORDINATOR_ADDRESS $JAX_PROCESS_ID\n",
    SKYPILOT_NUM_NODES=str(nodes),
    SKYPILOT_NODE_RANK="1",
    SKYPILOT_NODE_IPS="10.0.0.1\n10.0.0.2",
    WORKDIR="gs://b/it",
    FIELDS="--config.seed=1 --config.tune.lr=2",
  )
  out = end(step)
  distributed = "--distributed " if nodes > 1 else ""
  assert lines(tmp_path / "python.log") == [
    f"-m synthjax.main {distributed}--config=configs/quickstart.py"
    " --workdir=gs://b/it --config.seed=1 --config.tune.lr=2 ids="
  ]
  assert ("at 10.0.0.1:1234 1" in out) == (nodes == 2)


def test_skypilots_setup_fetches_weights(launch, tmp_path):
  end(sky(launch, SKY["setup"], WEIGHTS="glide clip_rn50"))
  want = "-m synthjax.weights fetch glide clip_rn50 ids="
  assert lines(tmp_path / "python.log") == [want]
  end(sky(launch, SKY["setup"]))
  assert lines(tmp_path / "python.log") == [want]
