"""Jobs of several processes, as torchrun starts them, but without the two seconds that it takes itself.

for rank in run_ranks(["-m", "elman", "eval", model, text], 2):
    assert rank.returncode == 0, rank.stderr

with started(["-m", "elman", "train", text], 2) as job:
    job.processes[1].kill()
    first, second = job.finish()
"""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

LIMIT = 120.0
"""Seconds after which a job that has not ended is killed, and the test fails."""

Done = subprocess.CompletedProcess[str]


@dataclass(frozen=True)
class Job:
    """Processes that run, in the order of their ranks."""

    processes: Sequence[subprocess.Popen[str]]

    def finish(self, limit: float = LIMIT) -> list[Done]:
        """Wait until all have ended; what each of them wrote."""
        done = []
        for process in self.processes:
            out, err = process.communicate(timeout=limit)
            done.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
        return done


@contextlib.contextmanager
def started(
    arguments: Sequence[object],
    ranks: int = 2,
    env: Mapping[str, str] | Sequence[Mapping[str, str]] = {},
    *,
    cwd: Path | None = None,
) -> Iterator[Job]:
    """Python with `arguments`, once for each of `ranks`; what still runs at the end of the block is killed.

    Args:
        arguments: Of the interpreter, such as `-m elman eval ...`.
        ranks: How many processes.
        env: Variables beside those of this process; one mapping for all ranks, or one for each.
        cwd: Where they run.
    """
    each = [env] * ranks if isinstance(env, Mapping) else env
    port = str(free_port())
    with contextlib.ExitStack() as stack:
        processes = []
        for rank, own in enumerate(each):
            place = {
                "RANK": str(rank),
                "WORLD_SIZE": str(ranks),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            }
            process = subprocess.Popen(
                [sys.executable, *map(str, arguments)],
                env=os.environ | {"OMP_NUM_THREADS": "1"} | place | own,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            processes.append(process)
        yield Job(processes)


def run_ranks(
    arguments: Sequence[object],
    ranks: int = 2,
    env: Mapping[str, str] | Sequence[Mapping[str, str]] = {},
    *,
    cwd: Path | None = None,
) -> list[Done]:
    """What each rank wrote, and how it ended. Arguments as for `started`."""
    with started(arguments, ranks, env, cwd=cwd) as job:
        return job.finish()


def torchrun(arguments: Sequence[object], ranks: int = 2, *, cwd: Path | None = None) -> Done:
    """The same under torchrun itself, which mixes the output of all ranks."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    return subprocess.run(
        [*launcher, *map(str, arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
