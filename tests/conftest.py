"""What every test may use."""

from __future__ import annotations

import signal

import pytest
import torch

from recon3d.head import HeadModel, load_head

# In the background of a script Ctrl-C is ignored, by all that the tests start, too; they send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Small tensors: a second thread costs more than it brings, most of all on busy machines."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def head() -> HeadModel:
    """The open head; not to be changed."""
    return load_head()
