"""The launch scripts: what they print, what they start, how they pass on failures and signals, and the manifest."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
import yaml

from tests.helpers import command_lines, pages

ROOT = Path(__file__).parent.parent.parent
LAUNCH = ROOT / "launch"
SCRIPTS = [*sorted(LAUNCH.glob("*.sh")), LAUNCH / "gke/submit.sh", LAUNCH / "slurm.sbatch"]
COMMANDS = [script for script in SCRIPTS if script.name != "common.sh"]

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="the scripts are bash")


def run(*command: object, env: dict[str, str] | None = None, **options) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    variables = {"RDM": "rdm", **(env or {})}
    return subprocess.run(words, capture_output=True, text=True, env=environment(variables), timeout=60, **options)


def environment(variables: dict[str, str]) -> dict[str, str]:
    """This one's without what the scripts read, so that a test on a cluster or with GPUs is the same."""
    strange = re.compile("SLURM_|CUDA_VISIBLE|JAX_|XLA_|RDM")
    kept = {name: value for name, value in os.environ.items() if not strange.match(name)}
    return {**kept, **variables}


def program(folder: Path, name: str, text: str) -> str:
    """Writes a stand-in for a program into a folder for PATH, and returns its path."""
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_text(f"#!/usr/bin/env bash\n{text}")
    file.chmod(0o755)
    return str(file)


def path_with(folder: Path) -> dict[str, str]:
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def wait_for(happened, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


@pytest.mark.parametrize("script", COMMANDS, ids=lambda script: script.name)
def test_help_says_how_it_is_used(script: Path) -> None:
    done = run(script, "--help")
    assert done.returncode == 0 and "usage:" in done.stdout and f"launch/{script.relative_to(LAUNCH)}" in done.stdout
    refused = run(script, "--no-such-option")
    assert refused.returncode == 2 and "--help" in refused.stderr


@pytest.mark.parametrize("script", [*SCRIPTS, ROOT / "benchmarks/gpu.sh"], ids=lambda script: script.name)
def test_shellcheck_finds_nothing(script: Path) -> None:
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    done = run(shellcheck, "--external-sources", "--source-path=SCRIPTDIR", script)
    assert done.returncode == 0, done.stdout


def documented() -> list[list[str]]:
    """The document's commands that start a script of launch/."""
    commands = [words for block in pages.blocks(ROOT / "docs/launch.md", "bash") for words in block.commands]
    return [words for words in commands if words[0].startswith(("launch/", "sbatch"))]


@pytest.mark.parametrize("words", documented(), ids=" ".join)
def test_the_documents_commands_are_understood(words: list[str]) -> None:
    if words[0] == "sbatch":
        words = words[words.index("launch/slurm.sbatch") :]
        words = [words[0], "--dry-run", *words[1:]]
    else:
        place = words.index("--") if "--" in words else len(words)
        words = [*words[:place], "--dry-run", *words[place:]]
    done = run(*words, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


# The embedded models


# Writes its arguments to a file, a line for each, and an empty line.
RECORDING = 'printf "%s\\n" "$@" >> "$RECORD"; echo >> "$RECORD"\n'


@pytest.mark.parametrize(
    ("script", "options"),
    [
        ("icons.sh", ["--archives", "archives"]),
        ("icons.sh", ["--archives", "archives", "--from", "model"]),
        ("style_scenes.sh", []),
    ],
    ids=str,
)
def test_the_commands_of_a_model_are_understood(tmp_path: Path, script: str, options: list[str]) -> None:
    """Every command that makes an embedded model is one of today's, with settings that its config has."""
    (tmp_path / "archives").mkdir()
    (tmp_path / "archives/iconify-json-0.tgz").touch()
    stand_in = program(tmp_path / "bin", "rdm", RECORDING)
    variables = {
        "RDM": stand_in,
        "PYTHON": program(tmp_path / "bin", "python", "echo woodblock\n"),
        "RECORD": str(tmp_path / "record"),
    }
    done = run(LAUNCH / script, *options, "--out", tmp_path / "out", env=variables, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    commands = [block.split("\n") for block in (tmp_path / "record").read_text().split("\n\n") if block.strip()]
    verbs = {command[0] for command in commands}
    assert {"train", "export", "database"} <= verbs
    for command in commands:
        command_lines.rdm(command)


# One machine


# rdm: says how it was called, and does what STUB says once it has left a file that says that it is up.
STUB = """
me=${@: -1}
trap 'echo "process $me saved"; exit 0' TERM
echo "rdm $*"
if [ "${STUB_FAILS:-}" = "$me" ]; then
  for other in $STUB_AFTER; do while [ ! -e "$STUB_FOLDER/$other" ]; do sleep 0.05; done; done
  exit 7
fi
[ "${STUB:-}" != stubborn ] || trap '' TERM
[ -z "${STUB:-}" ] || { touch "$STUB_FOLDER/$me"; while :; do sleep 0.05; done; }
"""


def test_local_prints_a_command_a_process() -> None:
    done = run(LAUNCH / "local.sh", "--processes", 2, "--port", 4321, "--dry-run", "--", "train", "--config.k=[1, 2]")
    lines = [re.sub(r"^taskset -c [\d,]+ ", "", line) for line in done.stdout.splitlines()]
    start = "rdm train '--config.k=[1, 2]' --coordinator 127.0.0.1:4321 --processes 2 --process"
    assert lines == [f"{start} 0", f"{start} 1"]


def test_local_shares_out_cores_and_gpus(tmp_path: Path) -> None:
    program(tmp_path / "bin", "taskset", 'echo "pid $2\'s current affinity list: 0,2-4,9"')
    env = {**path_with(tmp_path / "bin"), "CUDA_VISIBLE_DEVICES": "4,5,6,7"}
    lines = run(LAUNCH / "local.sh", "--dry-run", "--", "train", env=env).stdout.splitlines()
    assert [line.split(" rdm ")[0] for line in lines] == [
        "env CUDA_VISIBLE_DEVICES=4,5 taskset -c 0,2",
        "env CUDA_VISIBLE_DEVICES=6,7 taskset -c 3,4,9",
    ]
    many = run(LAUNCH / "local.sh", "--processes", 6, "--dry-run", "--", "train", env=env)
    assert len(many.stdout.splitlines()) == 6 and all(line.startswith("rdm ") for line in many.stdout.splitlines())
    assert "fewer GPUs (4) than processes (6)" in many.stderr


@pytest.mark.parametrize("words", [["--processes", "0", "--", "train"], ["--processes", "x", "--", "train"], ["--"]])
def test_local_refuses(words: list[str]) -> None:
    assert run(LAUNCH / "local.sh", *words).returncode == 2


def test_local_starts_the_processes_and_labels_their_lines(tmp_path: Path) -> None:
    stub = program(tmp_path, "stub", STUB)
    done = run(LAUNCH / "local.sh", "--processes", 3, "--", "train", "--config", "a b", env={"RDM": stub})
    assert done.returncode == 0, done.stderr
    lines = sorted(done.stdout.splitlines())
    ports = {re.sub(r".*127\.0\.0\.1:(\d+).*", r"\1", line) for line in lines}
    assert len(ports) == 1
    start = f"rdm train --config a b --coordinator 127.0.0.1:{ports.pop()} --processes 3 --process"
    assert lines == [f"[{i}] {start} {i}" for i in range(3)]


def test_local_stops_the_others_when_one_fails(tmp_path: Path) -> None:
    env = {"RDM": program(tmp_path, "stub", STUB), "STUB": "wait", "STUB_FOLDER": str(tmp_path)}
    env |= {"STUB_FAILS": "1", "STUB_AFTER": "0 2"}
    done = run(LAUNCH / "local.sh", "--processes", 3, "--", "train", env=env)
    assert done.returncode == 7
    assert "process 1 exited with 7" in done.stderr
    assert "[0] process 0 saved" in done.stdout and "[2] process 2 saved" in done.stdout


def test_local_kills_what_does_not_stop(tmp_path: Path) -> None:
    env = {"RDM": program(tmp_path, "stub", STUB), "STUB": "stubborn", "STUB_FOLDER": str(tmp_path)}
    env |= {"STUB_FAILS": "1", "STUB_AFTER": "0"}
    assert run(LAUNCH / "local.sh", "--grace", 1, "--", "train", env=env).returncode == 7


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_local_passes_a_signal_on_and_waits(tmp_path: Path, sent: signal.Signals) -> None:
    env = {"RDM": program(tmp_path, "stub", STUB), "STUB": "wait", "STUB_FOLDER": str(tmp_path)}
    # A shell cannot trap what was ignored when it started, as SIGINT is in what runs in the background.
    heard = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    with subprocess.Popen(
        [sys.executable, "-c", heard, LAUNCH / "local.sh", "--", "train"],
        env=environment(env),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as local:
        try:
            wait_for(lambda: (tmp_path / "0").exists() and (tmp_path / "1").exists())
            local.send_signal(sent)
            output, _ = local.communicate(timeout=20)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(local.pid, signal.SIGKILL)
    assert local.returncode == 0
    assert "[0] process 0 saved" in output and "[1] process 1 saved" in output


# Slurm


def test_slurm_prints_the_jobs_command() -> None:
    done = run(LAUNCH / "slurm.sbatch", "--dry-run", "train", "--config", "c.py", env={"SLURM_CPUS_PER_TASK": "6"})
    expected = "srun --label --kill-on-bad-exit=1 --cpus-per-task=6 rdm train --config c.py --distributed\n"
    assert done.stdout == expected
    outside = run(LAUNCH / "slurm.sbatch", "train", "--config", "c.py")
    assert outside.returncode == 2 and "sbatch launch/slurm.sbatch train --config c.py" in outside.stderr


def test_slurm_reads_its_directives() -> None:
    """Slurm takes #SBATCH lines only before the first command."""
    head = (LAUNCH / "slurm.sbatch").read_text().split("set -euo")[0]
    assert "#SBATCH --requeue\n" in head and "#SBATCH --signal=B:USR1@120\n" in head


@pytest.mark.parametrize(("stopped", "status"), [(True, 0), (False, 0), (False, 3)])
def test_slurm_queues_again_when_the_time_is_up_alone(tmp_path: Path, stopped: bool, status: int) -> None:
    calls = tmp_path / "calls"
    folder = tmp_path / "bin"
    program(
        folder,
        "srun",
        f"trap 'exit 0' TERM; echo $$ >{tmp_path}/srun.tmp; mv {tmp_path}/srun.tmp {tmp_path}/srun\n"
        + ("while :; do sleep 0.05; done" if stopped else f"exit {status}"),
    )
    program(folder, "scancel", f'echo "scancel $*" >>{calls}; kill -TERM "$(cat {tmp_path}/srun)"')
    program(folder, "scontrol", f'echo "scontrol $*" >>{calls}')
    env = environment({**path_with(folder), "SLURM_JOB_ID": "42", "RDM": "rdm"})
    with subprocess.Popen([LAUNCH / "slurm.sbatch", "train"], env=env, stderr=subprocess.DEVNULL) as job:
        if stopped:
            wait_for((tmp_path / "srun").exists)
            job.send_signal(signal.SIGUSR1)
        assert job.wait(timeout=20) == status
    assert (calls.read_text() if calls.exists() else "") == (
        "scancel --signal=TERM 42\nscontrol requeue 42\n" if stopped else ""
    )


def test_slurm_local_prints_what_it_starts(tmp_path: Path) -> None:
    folder = tmp_path / "cluster"
    words = ["run", "--tasks", 3, "--dir", folder, "--dry-run", "--", "train", "--config", "c"]
    done = run(LAUNCH / "slurm_local.sh", *words)
    lines = done.stdout.splitlines()
    assert f"AuthInfo=socket={folder}/munge.socket" in lines
    cpus = re.search(r"NodeName=localhost .* CPUs=(\d+)", done.stdout)
    assert cpus and int(cpus[1]) >= 3
    assert [line.split()[0] for line in lines[-4:]] == ["munged", "slurmctld", "slurmd", "sbatch"]
    assert lines[-1] == (
        f"sbatch --parsable --ntasks=3 --output={folder}/%x-%j.log {LAUNCH}/slurm.sbatch -- train --config c"
    )
    assert not folder.exists()


# TPU pods


GCLOUD = """
printf '%s\\0' "$@" >>"$FAKE/calls"; printf '\\n' >>"$FAKE/calls"
case "$*" in
  *" describe "*) [ -n "${FAKE_STATE:-}" ] && echo "$FAKE_STATE" || { echo "ERROR: NOT_FOUND" >&2; exit 1; } ;;
  *" scp "*) cp "$5" "$HOME/rdm_jax.tar.gz" ;;
  *" ssh "*) cd "$HOME"; for word in "$@"; do case "$word" in --command=*) bash -c "${word#*=}" ;; esac; done ;;
esac
"""


class Pod:
    """launch/tpu_pod.sh with a stand-in for gcloud whose worker is a folder here."""

    def __init__(self, folder: Path) -> None:
        self.calls = folder / "calls"
        self.home = folder / "home"
        self.home.mkdir()
        self.script = LAUNCH / "tpu_pod.sh"
        program(folder / "bin", "gcloud", GCLOUD)
        self.env = {
            **path_with(folder / "bin"),
            "FAKE": str(folder),
            "HOME": str(self.home),
            "TMPDIR": str(folder),
            "STUB": "wait",
            "STUB_FOLDER": str(folder),
            "RDM": program(folder, "stub", STUB),
        }

    def __call__(self, *words: str, state: str = "") -> subprocess.CompletedProcess[str]:
        self.calls.unlink(missing_ok=True)
        return run(self.script, *words, env={**self.env, "FAKE_STATE": state})

    def called(self) -> list[list[str]]:
        """The arguments of each call of gcloud that changes something, after `compute tpus`."""
        calls = [line.rstrip("\0").split("\0") for line in self.calls.read_text().split("\0\n")[:-1]]
        assert all(call[:2] == ["compute", "tpus"] for call in calls)
        return [call[2:] for call in calls if "describe" not in call]


@pytest.fixture
def pod(tmp_path: Path) -> Pod:
    return Pod(tmp_path)


CREATE = ["create", "my-pod", "--accelerator", "v5litepod-256", "--zone", "z", "--project", "p", "--spot"]
QUEUED = ["queued-resources", "create", "my-pod", "--node-id=my-pod", "--zone=z", "--project=p"]
QUEUED += ["--accelerator-type=v5litepod-256", "--runtime-version=v2-alpha-tpuv5-lite", "--spot"]
PLAIN = ["tpu-vm", "create", "my-pod", "--zone=z", "--project=p"]
PLAIN += ["--accelerator-type=v5litepod-256", "--version=v2-alpha-tpuv5-lite", "--spot"]
DELETE_QUEUED = ["queued-resources", "delete", "my-pod", "--zone=z", "--project=p", "--force", "--quiet"]
DELETE_PLAIN = ["tpu-vm", "delete", "my-pod", "--zone=z", "--project=p", "--quiet"]


@pytest.mark.parametrize(
    ("words", "state", "calls"),
    [
        (CREATE, "", [PLAIN]),
        ([*CREATE, "--queued"], "", [QUEUED]),
        (CREATE, "PREEMPTED", [DELETE_PLAIN, PLAIN]),
        ([*CREATE, "--queued"], "SUSPENDED", [DELETE_QUEUED, QUEUED]),
        (CREATE, "READY", []),
        ([*CREATE, "--queued"], "WAITING_FOR_RESOURCES", []),
    ],
)
def test_a_pod_is_made_unless_it_is_there(pod: Pod, words: list[str], state: str, calls: list[list[str]]) -> None:
    done = pod(*words, state=state)
    assert done.returncode == 0, done.stderr
    assert pod.called() == calls


def test_a_dry_run_prints_the_commands_and_calls_nothing(pod: Pod) -> None:
    done = pod(*CREATE, "--queued", "--dry-run")
    printed = [shlex.split(line) for line in done.stdout.splitlines()]
    assert printed[0][:5] == ["gcloud", "compute", "tpus", "queued-resources", "describe"]
    assert printed[1:] == [["gcloud", "compute", "tpus", *QUEUED]]
    assert not pod.calls.exists()


def test_a_failure_to_ask_is_not_an_absent_pod(pod: Pod, tmp_path: Path) -> None:
    program(tmp_path / "bin", "gcloud", 'echo "ERROR: no network" >&2; exit 1')
    done = pod(*CREATE)
    assert done.returncode == 1 and "no network" in done.stderr


@pytest.mark.parametrize("workdir", [["--workdir", "runs/a"], ["--workdir=runs/a"], []])
def test_a_workdir_of_one_worker_is_refused(pod: Pod, workdir: list[str]) -> None:
    done = pod("run", "my-pod", "--", "train", "--config", "c.py", *workdir)
    assert done.returncode == 2 and "gs://BUCKET/RUN" in done.stderr


@pytest.mark.skipif(shutil.which("git") is None, reason="the checkout is sent by git")
@pytest.mark.skipif(shutil.which("setsid") is None or shutil.which("pgrep") is None, reason="the worker is Linux")
def test_a_worker_is_sent_the_commit_trains_and_stops(pod: Pod, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    shutil.copytree(LAUNCH, checkout / "launch")
    pod.script = checkout / "launch/tpu_pod.sh"
    git = ["git", "-C", checkout, "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        assert run(*git, *words).returncode == 0
    command = ["run", "my-pod", "--zone", "z", "--", "train", "--config", "a b.py", "--workdir", "gs://b/r"]
    done = pod(*command)
    assert done.returncode == 0, done.stderr
    (scp, ssh) = pod.called()
    assert scp == [
        "tpu-vm",
        "scp",
        f"{tmp_path}/rdm_jax-my-pod.tar.gz",
        "my-pod:rdm_jax.tar.gz",
        "--zone=z",
        "--worker=all",
    ]
    assert ssh[:5] == ["tpu-vm", "ssh", "my-pod", "--zone=z", "--worker=all"]
    with tarfile.open(scp[2]) as archive:
        assert "launch/tpu_worker.sh" in archive.getnames()

    wait_for((tmp_path / "--distributed").exists)  # the stub names itself by its last argument
    log = pod.home / "rdm.log"
    assert log.read_text() == "rdm train --config a b.py --workdir gs://b/r --distributed\n"
    assert pod(*command).returncode == 1, "a second one is refused while the first runs"
    assert "runs; rdm train" in pod("status", "my-pod", state="READY").stdout
    stopped = pod("stop", "my-pod")
    assert stopped.returncode == 0 and "stopped; tpu_worker: rdm exited with 0" in stopped.stdout
    assert "process --distributed saved" in log.read_text()


def test_a_worker_installs_with_a_python_of_its_own() -> None:
    done = run(LAUNCH / "tpu_worker.sh", "--dry-run", "start", "train", "--config", "c.py", env={"RDM": ""})
    lines = done.stdout.splitlines()
    assert any("--python 3.11" in line for line in lines) and any("[tpu,gcs]" in line for line in lines)
    assert lines[-1].endswith("tpu_worker .venv/bin/rdm train --config c.py --distributed")


# GKE


def rendered(*options: str, words: tuple[str, ...] = ("train", "--config", "c.py")) -> dict:
    done = run(LAUNCH / "gke/submit.sh", "--name", "r", "--image", "i/x:1", *options, "--dry-run", "--", *words)
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)


def pod_of(jobset: dict) -> dict:
    (job,) = jobset["spec"]["replicatedJobs"]
    return job["template"]["spec"]["template"]["spec"]


def container_of(jobset: dict) -> dict:
    (container,) = pod_of(jobset)["containers"]
    return container


# What a JobSet (v1alpha2) and the Jobs and pods in it may have, as far as the manifest could want it.
FIELDS = {
    "": {"apiVersion", "kind", "metadata", "spec"},
    "metadata": {"name", "namespace", "annotations", "labels"},
    "spec": {"failurePolicy", "replicatedJobs", "successPolicy", "network", "suspend", "ttlSecondsAfterFinished"},
    "spec.failurePolicy": {"maxRestarts", "rules", "restartStrategy"},
    "spec.failurePolicy.rules": {"name", "action", "onJobFailureReasons", "targetReplicatedJobs"},
    "spec.replicatedJobs": {"name", "replicas", "template", "groupName", "dependsOn"},
}
JOB = "spec.replicatedJobs.template"
POD = f"{JOB}.spec.template.spec"
FIELDS |= {
    JOB: {"metadata", "spec"},
    f"{JOB}.spec": {"parallelism", "completions", "completionMode", "backoffLimit", "podFailurePolicy", "template"},
    f"{JOB}.spec.podFailurePolicy": {"rules"},
    f"{JOB}.spec.podFailurePolicy.rules": {"action", "onPodConditions", "onExitCodes"},
    f"{JOB}.spec.podFailurePolicy.rules.onPodConditions": {"type", "status"},
    f"{JOB}.spec.template": {"metadata", "spec"},
    POD: {"restartPolicy", "terminationGracePeriodSeconds", "serviceAccountName", "nodeSelector", "containers"}
    | {"volumes", "tolerations", "hostNetwork", "dnsPolicy"},
    f"{POD}.containers": {"name", "image", "command", "args", "env", "ports", "resources", "volumeMounts"},
    f"{POD}.containers.env": {"name", "value", "valueFrom"},
    f"{POD}.containers.ports": {"containerPort", "name"},
    f"{POD}.containers.resources": {"limits", "requests"},
    f"{POD}.containers.volumeMounts": {"name", "mountPath", "readOnly"},
    f"{POD}.volumes": {"name", "emptyDir"},
}


def check_fields(node: object, place: str = "") -> None:
    """Kubernetes drops or refuses a field that it does not know, as one that is misspelt or stands one level off."""
    if isinstance(node, list):
        for item in node:
            check_fields(item, place)
    if isinstance(node, dict):
        assert place not in FIELDS or set(node) <= FIELDS[place], f"{place}: {set(node) - FIELDS[place]}"
        for name, value in node.items():
            check_fields(value, f"{place}.{name}".lstrip("."))


@pytest.mark.parametrize(
    ("options", "hosts", "slices"),
    [([], 4, 1), (["--topology", "16x16", "--slices", "2"], 64, 2), (["--topology", "2x2x4"], 4, 1)],
)
def test_the_manifest_is_a_jobset_with_a_pod_for_each_host(options: list[str], hosts: int, slices: int) -> None:
    jobset = rendered(*options)
    check_fields(jobset)
    assert "${" not in json.dumps(jobset).replace("${stopped:-}", ""), "a name was not filled in"
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    assert replicated["replicas"] == slices
    assert (job["parallelism"], job["completions"], job["completionMode"]) == (hosts, hosts, "Indexed")
    # One lost process ends the Job; a disruption differs from a failure only where pods do not restart in place.
    assert job["backoffLimit"] == 0 and job["template"]["spec"]["restartPolicy"] == "Never"
    (rule,) = jobset["spec"]["failurePolicy"]["rules"]
    assert rule == {"action": "RestartJobSetAndIgnoreMaxRestarts", "onJobFailureReasons": ["PodFailurePolicy"]}


def test_the_pods_ask_for_the_tpus_and_the_time_to_save() -> None:
    pod = pod_of(rendered("--spot", "--grace", "90"))
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x4",
        "cloud.google.com/gke-spot": "true",
    }
    assert pod["terminationGracePeriodSeconds"] == 90
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert all(isinstance(variable["value"], str) for variable in container["env"])
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def test_arguments_come_through_yaml_as_they_were() -> None:
    words = ("train", "--config", 'a "b" \\ & $(c) ${NAME}.py', "--config.k=[1, 2]", "é: #")
    container = container_of(rendered(words=words))
    expected = ["rdm", *words, "--distributed"]
    assert [word.replace("$$(", "$(") for word in container["args"]] == expected


@pytest.mark.parametrize(
    "options", [["--topology", "4by4"], ["--topology", "3x3"], ["--chips", "0"], ["--name", ""], ["--image"]]
)
def test_a_manifest_that_cannot_be_is_refused(options: list[str]) -> None:
    done = run(LAUNCH / "gke/submit.sh", "--name", "r", "--image", "i", *options, "--dry-run", "--", "train")
    assert done.returncode != 0 and done.stderr and not done.stdout


def test_the_manifest_is_created_by_kubectl(tmp_path: Path) -> None:
    program(tmp_path / "bin", "kubectl", f'printf "%s " "$@" >{tmp_path}/words; cat >{tmp_path}/manifest')
    submit = [LAUNCH / "gke/submit.sh", "--name", "r", "--image", "i/x:1", "--", "train", "--config", "c.py"]
    assert run(*submit, env=path_with(tmp_path / "bin")).returncode == 0
    assert (tmp_path / "words").read_text() == "create -f - "
    assert yaml.safe_load((tmp_path / "manifest").read_text()) == rendered()


@pytest.mark.parametrize(
    ("script", "stopped", "status"),
    [("exit 0", False, 0), ("exit 5", False, 5), ("trap 'exit 0' TERM", True, 143), ("trap 'exit 5' TERM", True, 5)],
)
def test_a_stopped_pod_is_not_done(tmp_path: Path, script: str, stopped: bool, status: int) -> None:
    container = container_of(rendered())
    stub = program(tmp_path, "stub", f"{script}\ntouch {tmp_path}/up\nwhile :; do sleep 0.05; done")
    with subprocess.Popen([*container["command"], stub]) as shell:
        if stopped:
            wait_for((tmp_path / "up").exists)
            shell.send_signal(signal.SIGTERM)
        assert shell.wait(timeout=20) == status


def test_the_arguments_are_also_json() -> None:
    text = run(LAUNCH / "gke/submit.sh", "--name", "r", "--image", "i", "--dry-run", "--", "train", 'a"b').stdout
    found = re.search(r"args: (.*)", text)
    assert found and json.loads(found[1]) == ["rdm", "train", 'a"b', "--distributed"]
