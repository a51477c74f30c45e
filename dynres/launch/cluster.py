"""Runs as jobs of SLURM, through submitit; or, to rehearse, of processes that submitit's local executor starts.

What is finished is found again, what waits or runs is attached to, what was lost goes on from its last checkpoint: the
process that submits may be killed and started again at any time. Needs pip install "dynres[sweep]".
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from omegaconf import DictConfig, OmegaConf

from dynres.errors import UserError
from dynres.files import write_text
from dynres.launch.find import begun, finished, quoted
from dynres.launch.job import Job, submitit_module
from dynres.launch.session import EVERY
from dynres.launch.wanted import Wanted, Wants
from dynres.paths import conf_dir

Kind = Literal["slurm", "local"]
LOOKS = {"slurm": 30.0, "local": 1.0}  # seconds between two looks at the jobs
STOPPED = (130, 143)  # exit codes of a run that was told to stop
# What SLURM calls a job of which nothing more is to come; submitit itself waits for a preempted one.
OVER = (
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "TIMEOUT",
)
GRACE = 60.0  # seconds that a result may take to reach this machine's view of the folder


@dataclass
class _Active:
    wanted: Wanted
    command: list[str]
    cfg: DictConfig
    job: Any  # submitit's
    over: float | None = None  # since when it is over without a result


class Cluster(Wants):
    """Runs what is wanted, each as a job, in an order that needs allow; the counterpart of launch.session.Session.

    OUT/jobs/jobs.json remembers which job runs what, OUT/jobs/NAME/ what it prints.

    Args:
        wanted: names in `needs` are among them.
        out: where runs go and are looked for, a folder that every node sees.
        say: prints a line.
        kind: "slurm", or "local" to rehearse.
        parameters: of submitit's executor; see `parameters`.
        jobs: submitted at a time.
        retries: how often a job that was lost (preempted, out of time, its node failed) is submitted again.
        code: see launch.find.finished.

    Attributes:
        found: name -> folder of a finished run.
        failed: name -> reason.

    Raises:
        UserError: no submitit, no SLURM, or parameters that it does not know.
    """

    def __init__(
        self,
        wanted: Sequence[Wanted],
        out: Path,
        say: Callable[[str], None],
        kind: Kind = "slurm",
        parameters: Mapping[str, Any] | None = None,
        jobs: int = 16,
        retries: int = 3,
        code: str | None = None,
    ) -> None:
        super().__init__(wanted, out, say, code)
        self.kind, self.jobs, self.retries = kind, jobs, retries
        self.parameters = dict(parameters or {}) | {"stderr_to_stdout": True}
        self.folder = out.resolve() / "jobs"
        self._active: list[_Active] = []
        self._executor(self.folder / "none")  # complains before anything is submitted
        file = self.folder / "jobs.json"
        self._known: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        self._told = time.monotonic()

    def run(self) -> None:
        """Until each is found or failed. Where this process ends before, jobs go on: the same call attaches to them."""
        waiting = list(self.wanted)
        while waiting or self._active:
            while len(self._active) < self.jobs and (name := self.ready(waiting)) is not None:
                waiting.remove(name)
                self._take(self.wanted[name])
            for one in list(self._active):
                self._look(one)
            if self._active:
                if time.monotonic() - self._told > EVERY:
                    self._told = time.monotonic()
                    self.say(self.status(len(waiting)))
                time.sleep(LOOKS[self.kind])

    def status(self, waiting: int) -> str:
        """ "3 of 12 runs done, 1 failed; 4 jobs submitted, 4 runs wait"."""
        failed = f", {len(self.failed)} failed" if self.failed else ""
        done = f"{len(self.found)} of {len(self.wanted)} runs done{failed}"
        return f"{done}; {len(self._active)} jobs submitted, {waiting} runs wait"

    def _take(self, wanted: Wanted) -> None:
        """Find a run, or attach to its job, or submit it, or say why it cannot be."""
        if (prepared := self.prepared(wanted, self.out.resolve())) is None:
            return
        command, cfg = prepared
        known = self._known.get(wanted.name, {})
        if known.get("command") == command and known.get("code") == self.code:
            job = self._job_class()(self._folder(wanted), known["job"])
            self.say(f"{wanted.name}: attached to job {job.job_id}")
            self._active.append(_Active(wanted, command, cfg, job))
        else:
            self._submit(_Active(wanted, command, cfg, None), tries=0)

    def _submit(self, one: _Active, tries: int) -> None:
        """Its folder is fixed, so that the run goes on there whoever starts it, in however many processes."""
        name = hashlib.sha256(json.dumps([one.command, self.code]).encode()).hexdigest()[:8]
        folder = begun(self.out, one.cfg, self.code) or self.out.resolve() / f"{_slug(one.wanted.name)}-{name}"
        command = [*one.command, f"hydra.run.dir={quoted(folder.resolve())}", "resume=auto"]
        one.job, one.over = self._executor(self._folder(one.wanted)).submit(Job(command)).task(0), None
        self._known[one.wanted.name] = {
            "job": one.job.job_id,
            "tries": tries,
            "command": one.command,
            "code": self.code,
        }
        write_text(self.folder / "jobs.json", json.dumps(self._known, indent=1) + "\n")
        self.say(f"{one.wanted.name}: submitted as job {one.job.job_id}")
        self._active.append(one)

    def _look(self, one: _Active) -> None:
        """Whether a job is over, and what became of it."""
        if not one.job.paths.result_pickle.is_file():
            state = self._state(one.job)
            if not state.startswith(OVER):
                one.over = None
                return
            one.over = one.over or time.monotonic()
            if time.monotonic() - one.over < (GRACE if self.kind == "slurm" else 0):
                return
            self._active.remove(one)
            if state.startswith(("CANCELLED", "OUT_OF_MEMORY")):
                self.fail(one.wanted, f"job {one.job.job_id}: {state.lower().replace('_', ' ')}")
            else:
                self._lost(one, state)
            return
        self._active.remove(one)
        error = one.job.exception()
        code = None if error is not None else one.job.result()
        if code in STOPPED or (error is not None and "not requeued because" in str(error)):
            self._lost(one, "stopped")
        elif code != 0:
            self.fail(
                one.wanted, f"{self._reason(one.job)} (job {one.job.job_id}; all it printed: {one.job.paths.stdout})"
            )
        elif (folder := finished(self.out, one.cfg, self.code)) is None:
            self.fail(one.wanted, f"job {one.job.job_id} ended without results below {self.out}")
        else:
            self.found[one.wanted.name] = folder

    def _lost(self, one: _Active, state: str) -> None:
        tries = self._known[one.wanted.name]["tries"] + 1
        if tries > self.retries:
            self.fail(one.wanted, f"its job was lost {tries} times ({state.lower()}), last {one.job.job_id}")
            return
        self.say(
            f"{one.wanted.name}: job {one.job.job_id} was lost ({state.lower()}), {tries} of {self.retries} retries"
        )
        if self.kind == "slurm":
            one.job.cancel(check=False)  # a preempted one might come back
        self._submit(one, tries)

    def fail(self, wanted: Wanted, reason: str) -> None:
        """What has failed is tried again when this is called again."""
        if self._known.pop(wanted.name, None) is not None:
            write_text(self.folder / "jobs.json", json.dumps(self._known, indent=1) + "\n")
        super().fail(wanted, reason)

    def _state(self, job: Any) -> str:
        """As SLURM names it."""
        if self.kind == "slurm":
            return str(job.state)
        if job._process is None:  # attached to: another process started it
            return "RUNNING" if _alive(int(job.job_id)) else "FAILED"
        return "RUNNING" if job._process.poll() is None else "FAILED"

    def _reason(self, job: Any) -> str:
        """The last error that a job printed, else its last line."""
        lines = [line.strip() for line in (job.stdout() or "").splitlines()]
        lines = [line for line in lines if line and not line.startswith("submitit ")]
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        return (errors or lines or ["it printed nothing"])[-1]

    def _folder(self, wanted: Wanted) -> Path:
        return self.folder / _slug(wanted.name)

    def _job_class(self) -> Any:
        submitit = submitit_module()
        return submitit.SlurmJob if self.kind == "slurm" else submitit.LocalJob

    def _executor(self, folder: Path) -> Any:
        """Writes into `folder`."""
        submitit = submitit_module()
        told = {"slurm_max_num_timeout": 1000} if self.kind == "slurm" else {}  # each goes on where the last one ended
        try:
            executor = submitit.AutoExecutor(folder, self.kind, **told)
            executor.update_parameters(**self.parameters)
        except (RuntimeError, NameError, ValueError, AssertionError) as error:
            raise UserError(f"submitit refuses this: {' '.join(str(error).split())}") from error
        return executor


def parameters(kind: Kind, given: Sequence[str] = ()) -> dict[str, Any]:
    """Parameters of submitit's executor: those of conf/sweep/submitit_KIND.yaml, changed by KEY=VALUE.

    What submitit does not share between its executors is SLURM's own (partition, qos, account ...).
    """
    preset = OmegaConf.load(conf_dir() / "sweep" / f"submitit_{kind}.yaml")
    launcher: Any = OmegaConf.select(preset, "hydra.launcher")
    found: dict[str, Any] = {str(key): value for key, value in launcher.items() if key != "array_parallelism"}
    for text in given:
        key, _, value = text.partition("=")
        if not value:
            raise UserError(f"parameters of the cluster are KEY=VALUE, such as timeout_min=2880, got {text!r}")
        found[key] = yaml.safe_load(value)
    shared = submitit_module().AutoExecutor._typed_parameters()
    return {key if key in shared or key.startswith("slurm_") else f"slurm_{key}": value for key, value in found.items()}


def _alive(process: int) -> bool:
    """Whether a process of this machine runs (one that has ended may wait in vain to be asked how)."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    about = Path(f"/proc/{process}/stat")
    return not about.is_file() or about.read_text().rpartition(")")[2].split()[0] != "Z"


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)
