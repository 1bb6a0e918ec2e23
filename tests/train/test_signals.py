"""A signal is told once, also where it comes amid a write to the same stream."""

import os
import signal

import pytest

from elman.train.signals import Signals


def test_a_stream_that_is_busy_is_told_later():
    said: list[str] = []

    def say(line: str) -> None:
        if not busy:
            said.append(line)
        else:
            raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stderr>'>")

    busy = True
    with Signals(say) as signals:
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.asked is signal.SIGINT
        assert not said
        busy = False
    assert len(said) == 1


def test_a_free_stream_is_told_at_once_and_once():
    said: list[str] = []
    with Signals(said.append):
        os.kill(os.getpid(), signal.SIGINT)
        assert len(said) == 1
    assert len(said) == 1


def test_nothing_is_said_of_nothing():
    said: list[str] = []
    with Signals(said.append) as signals:
        assert not signals.asked
    assert not said


def test_one_ctrl_c_after_another_signal_does_not_stop_at_once():
    with Signals(lambda line: None) as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.asked is signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
