"""A SLURM cluster of a few nodes on this machine: real daemons on loopback, thrown away afterwards.

    python -m tests.slurm_lab up --nodes 2 --cpus 2 [--gpus 2] [--state FOLDER]
    python -m tests.slurm_lab down [--state FOLDER]

Needs root, slurm-wlm and munge (`apt-get install --no-install-recommends slurm-wlm munge`). Ports are free ones, chosen
at the start, so that several labs can run; everything is in the state folder and is stopped by its process id.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType

import psutil

DAEMONS = ("munged", "slurmctld", "slurmd")
COMMANDS = ("sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
PATIENCE = 30.0  # seconds that a daemon has to start or to end
CREDENTIAL = 5  # seconds after which a requeued job may start again; SLURM's default is 120
KILL_WAIT = 5  # seconds between a job's SIGTERM and its SIGKILL


def why_not() -> str | None:
    """Say why no cluster can be started on this machine; null where one can."""
    if os.geteuid():
        return "SLURM's daemons need root"
    missing = [name for name in (*DAEMONS, *COMMANDS) if _find(name) is None]
    return f"not installed: {', '.join(missing)}" if missing else None


class Lab:
    """A running cluster. Within `with`, SLURM's commands of this process and its children speak to it."""

    def __init__(self, nodes: int = 2, cpus: int = 2, gpus: int = 0, state: Path | None = None) -> None:
        self.nodes = [f"n{number + 1}" for number in range(nodes)]
        self.cpus, self.gpus = cpus, gpus
        self.state = state or Path(tempfile.mkdtemp(prefix="slurm-lab-"))
        self._before: str | None = None

    def __enter__(self) -> Lab:
        self._before = os.environ.get("SLURM_CONF")
        os.environ["SLURM_CONF"] = str(self.state / "slurm.conf")
        try:
            self.up()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        down(self.state)
        if self._before is None:
            os.environ.pop("SLURM_CONF", None)
        else:
            os.environ["SLURM_CONF"] = self._before

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which SLURM's commands speak to this cluster."""
        return {**os.environ, "SLURM_CONF": str(self.state / "slurm.conf")}

    def up(self) -> None:
        """Start the daemons; returns when every node is idle. Raises RuntimeError with the daemons' last words."""
        self._write()
        munge = self.state / "munge"
        files = {"key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        options = [f"--{option}={munge / name}" for option, name in files.items()]
        self._start("munged", *options, f"--socket={self.state / 'run' / 'munge.sock'}", "--num-threads=2")
        self._start("slurmctld", "-c")
        for node in self.nodes:
            self._start("slurmd", "-N", node)
        wait_for(lambda: all(self.node_state(node) == "idle" for node in self.nodes), self._last_words)

    def ask(self, *command: str) -> str:
        """Run one of SLURM's commands; returns what it prints."""
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE, check=True, env=self.environment
        )
        return done.stdout.strip()

    def node_state(self, node: str) -> str:
        """The state of a node as sinfo writes it; empty while the controller does not answer."""
        with suppress(subprocess.SubprocessError):
            return self.ask("sinfo", "--noheader", f"--nodes={node}", "--format=%T")
        return ""

    def lose(self, node: str) -> None:
        """Kill a node with everything that runs on it, and tell the controller that it is down."""
        victims = [*_processes(self.state, node), *_pids([self.state / f"slurmd-{node}.pid"])]
        for process in victims:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.ask("scontrol", "update", f"nodename={node}", "state=down", "reason=lost")

    def restore(self, node: str) -> None:
        """Start a lost node again."""
        self._start("slurmd", "-N", node)
        wait_for(lambda: self.node_state(node) in ("idle", "mixed", "allocated"), self._last_words)

    def _start(self, daemon: str, *options: str) -> None:
        command = [_find(daemon) or daemon, *options]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}\n{self._last_words()}")

    def _write(self) -> None:
        self.state.mkdir(parents=True, exist_ok=True)
        self.state.chmod(0o755)
        for name in ("munge", "run", "state", "log", *(f"spool-{node}" for node in self.nodes)):
            (self.state / name).mkdir(mode=0o755)
        (self.state / "munge").chmod(0o700)
        key = self.state / "munge" / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        prolog = self.state / "task_prolog.sh"  # the nodes' names do not resolve
        prolog.write_text("#!/bin/sh\necho export MASTER_ADDR=127.0.0.1\n", encoding="utf-8")
        prolog.chmod(0o755)
        (self.state / "gres.conf").write_text(self._gpus(), encoding="utf-8")
        (self.state / "slurm.conf").write_text(self._settings(), encoding="utf-8")

    def _gpus(self) -> str:
        """Devices that are more names of /dev/null: enough for SLURM to count them and set CUDA_VISIBLE_DEVICES."""
        for number in range(self.gpus):
            os.mknod(self.state / f"gpu{number}", stat.S_IFCHR | 0o666, os.stat(os.devnull).st_rdev)
        files = f"File={self.state}/gpu[0-{self.gpus - 1}]"
        return f"NodeName={self.nodes[0][0]}[1-{len(self.nodes)}] Name=gpu {files}\n" if self.gpus else ""

    def _settings(self) -> str:
        host, state = socket.gethostname().split(".")[0], self.state
        control, *ports = _free_ports(1 + len(self.nodes))
        gpus = f"Gres=gpu:{self.gpus}" if self.gpus else ""
        nodes = [
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={self.cpus} Sockets=1 "
            f"CoresPerSocket={self.cpus} ThreadsPerCore=1 RealMemory=8000 {gpus} State=UNKNOWN"
            for node, port in zip(self.nodes, ports, strict=True)
        ]
        partition = f"PartitionName=main Nodes={','.join(self.nodes)} Default=YES MaxTime=INFINITE DefaultTime=10"
        return SETTINGS.format(host=host, state=state, port=control) + "\n".join([*nodes, partition, ""])

    def _last_words(self) -> str:
        logs = [*sorted((self.state / "log").glob("*")), self.state / "munge" / "log"]
        lines = [path.read_text(encoding="utf-8", errors="replace").splitlines()[-5:] for path in logs if path.exists()]
        return "\n".join(line for part in lines for line in part)


SETTINGS = f"""\
ClusterName=lab
SlurmctldHost={{host}}(127.0.0.1)
SlurmctldPort={{port}}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={{state}}/run/munge.sock,cred_expire={CREDENTIAL}
CredType=cred/munge
SlurmctldPidFile={{state}}/slurmctld.pid
SlurmdPidFile={{state}}/slurmd-%n.pid
SlurmdSpoolDir={{state}}/spool-%n
StateSaveLocation={{state}}/state
SlurmctldLogFile={{state}}/log/slurmctld.log
SlurmdLogFile={{state}}/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
PropagateResourceLimits=NONE
InactiveLimit=0
KillWait={KILL_WAIT}
MinJobAge=300
SlurmctldTimeout=30
SlurmdTimeout=60
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
JobRequeue=1
GresTypes=gpu
TaskProlog={{state}}/task_prolog.sh
"""


def down(state: Path) -> None:
    """Stop what a lab started, jobs first and by process id, and delete its folder."""
    _end(_processes(state))
    for names in (["slurmd-*.pid"], ["slurmctld.pid"], ["munge/pid"]):
        _end(_pids(path for name in names for path in state.glob(name)))
    shutil.rmtree(state, ignore_errors=True)


def wait_for(condition: Callable[[], object], explain: Callable[[], str] = str, seconds: float = PATIENCE) -> None:
    """Wait until the condition holds. Raises RuntimeError, with an explanation, when it does not."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited for {seconds:g} s in vain\n{explain()}")
        time.sleep(0.1)


def _find(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, each another one."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _processes(state: Path, node: str | None = None) -> list[psutil.Process]:
    """Tasks of this lab's jobs, of one node or of all, and the step daemons above them."""
    tasks = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            variables = process.environ()
            ours = variables.get("SLURM_CONF") == str(state / "slurm.conf") and "SLURMD_NODENAME" in variables
            if ours and node in (None, variables["SLURMD_NODENAME"]):
                tasks.append(process)
    parents = {task.ppid(): task for task in tasks if task.is_running()}
    daemons = [psutil.Process(pid) for pid in parents if psutil.pid_exists(pid)]
    return [*(daemon for daemon in daemons if daemon.name().startswith("slurmstepd")), *tasks]


def _pids(files: Iterable[Path]) -> Iterator[psutil.Process]:
    for path in files:
        with suppress(OSError, ValueError, psutil.NoSuchProcess):
            yield psutil.Process(int(path.read_text(encoding="utf-8")))


def _end(processes: Iterable[psutil.Process]) -> None:
    """Ask the processes to end, and kill those that do not soon: nothing of theirs is kept."""
    waiting = list(processes)
    for ask in (psutil.Process.terminate, psutil.Process.kill):
        for process in waiting:
            with suppress(psutil.NoSuchProcess):
                ask(process)
        deadline = time.monotonic() + 1
        while (waiting := [process for process in waiting if _lives(process)]) and time.monotonic() < deadline:
            time.sleep(0.02)


def _lives(process: psutil.Process) -> bool:
    """Whether it does anything still; one that nobody has waited for does not."""
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def main() -> int:
    """Start or stop a lab from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("up", "down"))
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--cpus", type=int, default=2, help="of each node")
    parser.add_argument("--gpus", type=int, default=0, help="of each node; they are not real")
    parser.add_argument("--state", type=Path, default=Path(tempfile.gettempdir()) / "slurm-lab")
    options = parser.parse_args()
    if options.what == "down":
        down(options.state)
        return 0
    if reason := why_not():
        print(f"no SLURM here: {reason}", file=sys.stderr)
        return 2
    if options.state.exists():
        print(f"{options.state} exists: a lab runs there, or use --state", file=sys.stderr)
        return 2
    running = Lab(options.nodes, options.cpus, options.gpus, options.state)
    os.environ["SLURM_CONF"] = str(options.state / "slurm.conf")
    running.up()
    print(f"export SLURM_CONF={options.state / 'slurm.conf'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
