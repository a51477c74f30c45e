"""Runs as jobs: by submitit's local executor, and by SLURM as far as three small programs can stand for it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from dynres.errors import UserError
from dynres.launch.cluster import Cluster, parameters
from dynres.launch.wanted import Wanted
from tests.cli.conftest import UNDRAWN, write_scenes

pytest.importorskip("submitit", reason='jobs need pip install "dynres[sweep]"')

ROOT = Path(__file__).parents[2]
BICUBIC = ("+experiment=bicubic", "mode=test", "profile=smoke", "logger=csv", "data.test_scales=[2]", *UNDRAWN)
TRAINED = (
    "+experiment=baseline_liif", "profile=smoke", "logger=csv", "data=folder", "data.lr_size=16", "data.val_crop=48",
    "data.test_scales=[2]", "trainer.max_steps=3", "trainer.val_check_interval=3", "callbacks.checkpoints.every=1",
    *UNDRAWN,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs are processes of their own: they find this checkout."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_scenes(tmp_path / "photos")


def ran(wanted: list[Wanted], out: Path, said: list[str], **options: object) -> Cluster:
    cluster = Cluster(wanted, out, said.append, "local", {"timeout_min": 10}, **options)  # type: ignore[arg-type]
    cluster.run()
    return cluster


def submissions(out: Path, name: str) -> int:
    return len(list((out / "jobs" / name).glob("*_submitted.pkl")))


def test_runs_become_jobs_in_the_order_that_needs_allow_and_are_found_again(tmp_path: Path, photos: Path) -> None:
    data = (f"data.root={photos}", "data.test=[held-out]")
    test = [one for one in TRAINED if not one.startswith("trainer.")]
    wanted = [
        Wanted("test", (*test, *data, "mode=test"), {"ckpt": ("network", "checkpoints/last.ckpt")}),
        Wanted("network", (*TRAINED, *data)),
        Wanted("lost", (*test, *data, "mode=test"), {"ckpt": ("wrong", "checkpoints/last.ckpt")}),
        Wanted("wrong", (*TRAINED, f"data.root={tmp_path / 'nowhere'}")),
    ]
    said: list[str] = []
    one = ran(wanted, tmp_path / "runs", said)
    assert one.found.keys() == {"network", "test"}, said
    assert "nowhere" in one.failed["wrong"] and one.failed["lost"] == "it needs wrong, which failed"
    assert all((folder / "summary.json").is_file() for folder in one.found.values())

    again = ran(wanted[:2], tmp_path / "runs", said)
    assert again.found == one.found
    assert submissions(tmp_path / "runs", "network") == 1, "nothing is submitted again"


SUBMIT = """
    import sys
    from pathlib import Path
    from dynres.launch.cluster import Cluster
    from dynres.launch.wanted import Wanted
    out, *command = sys.argv[1:]
    Cluster([Wanted("network", tuple(command))], Path(out), print, "local", {"timeout_min": 10}).run()
"""


def submitted(command: list[str], out: Path) -> tuple[subprocess.Popen[bytes], str]:
    """A process that submits, as soon as it has, with the job's number."""
    script = [sys.executable, "-c", textwrap.dedent(SUBMIT), str(out), *command]
    process = subprocess.Popen(script, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL)
    file, end = out / "jobs" / "jobs.json", time.monotonic() + 120
    while not file.is_file():
        assert time.monotonic() < end and process.poll() is None, "nothing was submitted"
        time.sleep(0.1)
    return process, json.loads(file.read_text())["network"]["job"]


def test_a_killed_submitter_is_started_again_and_attaches_to_its_jobs(tmp_path: Path, photos: Path) -> None:
    command, out = [*BICUBIC, f"data.test=[{photos}]"], tmp_path / "runs"
    process, job = submitted(command, out)
    process.kill()
    process.wait()
    said: list[str] = []
    cluster = ran([Wanted("network", tuple(command))], out, said)
    assert cluster.found.keys() == {"network"}, (said, cluster.failed)
    assert said[0] == f"network: attached to job {job}" and not any("submitted as" in line for line in said)
    assert submissions(out, "network") == 1


def test_a_lost_job_is_submitted_again_and_goes_on(tmp_path: Path, photos: Path) -> None:
    command, out = (
        [*TRAINED, f"data.root={photos}", "trainer.max_steps=40", "trainer.val_check_interval=40"],
        tmp_path / "runs",
    )
    process, job = submitted(command, out)
    end = time.monotonic() + 120
    while not list(out.glob("network-*/checkpoints/last.ckpt")):
        assert time.monotonic() < end, "no checkpoint"
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)  # the submitter, submitit's processes and the run
    process.wait()
    said: list[str] = []
    lost = ran([Wanted("network", tuple(command))], out, said, retries=0)
    assert lost.failed["network"].startswith("its job was lost 1 times") and job in lost.failed["network"]

    again = ran([Wanted("network", tuple(command))], out, said)
    assert again.found.keys() == {"network"}, again.failed
    assert len(list(out.glob("network-*"))) == 1
    (last,) = (line.rpartition(" ")[2] for line in said if "submitted as job" in line)
    log = out / "jobs" / "network" / f"{last}_0_log.out"
    assert "continuing from last.ckpt" in log.read_text()


# --------------------------------------------------------------------------------------------------- SLURM, played

SBATCH = """#!/bin/sh
# the job's id is the number of this process; it runs on its own
for file; do :; done
SLURM_JOB_ID=$$ SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0 \\
  setsid sh "$file" >/dev/null 2>&1 </dev/null &
echo "Submitted batch job $$"
"""
SRUN = """#!/bin/sh
while [ "${1#--}" != "$1" ] || [ "$1" = "-" ]; do
  case "$1" in --output) out=$2; shift ;; --output=*) out=${1#--output=} ;; --error) shift ;; esac
  shift
done
out=$(echo "$out" | sed "s/%j/$SLURM_JOB_ID/; s/%A/$SLURM_JOB_ID/; s/%t/0/")
exec "$@" >>"$out" 2>&1
"""
SACCT = """#!/bin/sh
echo "JobID|State|NodeList"
while [ $# -gt 0 ]; do [ "$1" = "-j" ] && echo "$2|{state}|here"; shift; done
"""


def played(folder: Path, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """sbatch, srun, scancel and sacct, which says of every job that it is in this state."""
    folder.mkdir(exist_ok=True)
    programs = {"sbatch": SBATCH, "srun": SRUN, "scancel": "#!/bin/sh\n", "sacct": SACCT.replace("{state}", state)}
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setattr("dynres.launch.cluster.LOOKS", {"slurm": 0.2})
    monkeypatch.setattr("dynres.launch.cluster.GRACE", 0.0)


def test_a_run_is_a_job_of_slurm(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played(tmp_path / "bin", "RUNNING", monkeypatch)
    said: list[str] = []
    wanted = [Wanted("bicubic", (*BICUBIC, f"data.test=[{photos}]"))]
    cluster = Cluster(wanted, tmp_path / "runs", said.append, "slurm", parameters("slurm", ["partition=gpu"]))
    cluster.run()
    assert cluster.found.keys() == {"bicubic"}, (said, cluster.failed)
    (script,) = (tmp_path / "runs" / "jobs" / "bicubic").glob("*submission.sh")
    assert "--partition=gpu" in script.read_text() and "--gpus-per-node=1" in script.read_text()


@pytest.mark.parametrize(
    ("state", "reason"), [("PREEMPTED", "its job was lost 3 times"), ("CANCELLED by 7", "cancelled")]
)
def test_what_slurm_ends_is_submitted_again_unless_somebody_cancelled_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, reason: str
) -> None:
    played(tmp_path / "bin", state, monkeypatch)
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/sh\necho Submitted batch job $$\n")
    said: list[str] = []
    wanted = [Wanted("bicubic", (*BICUBIC, "data.test=[demo]"))]
    cluster = Cluster(wanted, tmp_path / "runs", said.append, "slurm", {"timeout_min": 5}, retries=2)
    cluster.run()
    assert reason in cluster.failed["bicubic"]
    assert sum("submitted as job" in line for line in said) == (3 if state == "PREEMPTED" else 1)


# --------------------------------------------------------------------------------------------------- refused at once


def test_without_slurm_or_submitit_nothing_is_submitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"submitit refuses this: .*srun"):
        Cluster([], tmp_path, print, "slurm")
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r'pip install "dynres\[sweep\]"'):
        Cluster([], tmp_path, print, "local")


def test_parameters_are_the_preset_of_sweeps_and_what_is_given(tmp_path: Path) -> None:
    found = parameters("slurm", ["timeout_min=2880", "account=me", "slurm_qos=low"])
    assert found["timeout_min"] == 2880 and found["gpus_per_node"] == 1
    assert found["slurm_account"] == "me" and found["slurm_qos"] == "low" and "slurm_array_parallelism" not in found
    with pytest.raises(UserError, match="KEY=VALUE"):
        parameters("local", ["timeout_min"])
    with pytest.raises(UserError, match=r"submitit refuses this: .*nonsense"):
        Cluster([], tmp_path, print, "local", {"slurm_nonsense": 1})
