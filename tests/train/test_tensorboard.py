"""TensorBoard gets every number of a record, and ends no training."""

import sys
import types

import pytest

from elman.errors import MissingExtraError
from elman.train.tensorboard import TensorBoardLog


def test_tensorboard_gets_every_number_at_its_step(tmp_path, monkeypatch):
    seen = []

    class Writer:
        def __init__(self, folder):
            seen.append(folder)

        def add_scalar(self, name, value, step):
            seen.append((name, value, step))

        def close(self):
            seen.append("closed")

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=Writer))
    with TensorBoardLog(tmp_path) as log:
        log.write({"step": 7, "loss": 1.5, "valid": None, "note": "x", "done": True, "tokens": 3})
    assert seen == [str(tmp_path), ("loss", 1.5, 7), ("tokens", 3, 7), "closed"]


def test_tensorboard_on_a_full_disk_warns_once(tmp_path, monkeypatch):
    class Writer:
        def __init__(self, folder):
            pass

        def add_scalar(self, name, value, step):
            raise OSError(28, "No space left on device")

        close = add_scalar

    monkeypatch.setattr(Writer, "close", lambda self: self.add_scalar("", 0, 0))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=Writer))
    told = []
    with TensorBoardLog(tmp_path, warn=told.append) as log:
        log.write({"step": 1, "loss": 1.0})
        log.write({"step": 2, "loss": 1.0})
    assert len(told) == 1
    assert "No space left" in told[0]


def test_tensorboard_missing_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"elman\[track\]"):
        TensorBoardLog(tmp_path)
