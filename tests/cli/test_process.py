"""What only a process of its own can show: signals, pipes that close, streams that are missing, encodings."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import elman
from elman.text_model import load

SOURCE = str(Path(elman.__file__).parents[1])
COMMAND = [sys.executable, "-m", "elman"]
BARE = {"PATH": os.environ["PATH"], "PYTHONPATH": SOURCE, "OMP_NUM_THREADS": "1"}
"""No HOME, no locale, no settings."""


def elman_process(*arguments: object, **options) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*COMMAND, *map(str, arguments)], **{"timeout": 60, "env": BARE} | options)


def test_ctrl_c_ends_a_training_well(texts, own_cache):
    options = ["--hidden-size", "16", "--embedding-dim", "8", "--tokenizer", "byte", "--max-time", "60"]
    process = subprocess.Popen(
        [*COMMAND, "train", "good.txt", *options, "--out", "out"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=BARE | {"ELMAN_CACHE": str(own_cache)},
    )
    try:
        for line in process.stderr:
            if b"step " in line:
                break
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert time.monotonic() - started < 20
    assert b"SIGINT: finishing the step and saving (Ctrl-C again stops at once)" in err
    assert b"go on with: elman train --resume out" in err
    assert b"Traceback" not in err
    assert out == b""
    assert load("out").generate(max_tokens=3)


@pytest.mark.parametrize("arguments", [["settings"], ["--help"], ["settings", "--json"]], ids=" ".join)
def test_a_reader_that_has_gone_is_no_error(arguments):
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = elman_process(*arguments, stdout=writing, stderr=subprocess.PIPE)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_full_disk_is_said():
    with open("/dev/full", "wb") as full:
        done = elman_process("settings", stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (6, b"elman: output: No space left on device\n")


PREPARE = ["data", "prepare", "good.txt", "--tokenizer", "byte", "--json"]


def test_without_stdout_the_work_is_done(texts, own_cache):
    environment = BARE | {"ELMAN_CACHE": str(own_cache)}
    done = elman_process(*PREPARE, env=environment, stderr=subprocess.PIPE, preexec_fn=lambda: os.close(1))
    assert done.returncode == 0, done.stderr
    assert list(own_cache.rglob("manifest.json"))


def test_without_stderr_progress_stays_out_of_the_result(texts, own_cache):
    environment = BARE | {"ELMAN_CACHE": str(own_cache)}
    done = elman_process(*PREPARE, env=environment, stdout=subprocess.PIPE, preexec_fn=lambda: os.close(2))
    assert done.returncode == 0
    assert json.loads(done.stdout)["schema"] == "elman.data/1"


def test_a_poor_environment_gets_what_it_can_show(desk, own_cache):
    """One process for all of it, as each takes seconds to begin."""
    poor = {"TERM": "dumb", "COLUMNS": "20", "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    done = elman_process(
        *("generate", desk / "run", "née", "--max-tokens", 0), env=BARE | poor, capture_output=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"n\\xe9e\n", b"")
