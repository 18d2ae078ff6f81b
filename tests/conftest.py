from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
import torch

from tests.processes import ProcessPair

# Tests run in parallel processes already; more threads in each would only fight over the cores.
torch.set_num_threads(1)


# A shell that starts a command in the background has it ignore Ctrl-C, and so would every process started here.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def two_processes() -> Iterator[ProcessPair]:
    """``two_processes(function, *arguments)``: what a module-level function returns in each of two gloo processes."""
    pair = ProcessPair()
    yield pair
    pair.close()
