"""The processes and the GPU of a command that judges."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env

from toy.errors import InputError


def start() -> tuple[PartialState, str]:
    """This process among those of `accelerate launch`, and its device. A single process forms no group."""
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.cuda.is_available()
    state = PartialState(cpu, timeout=timedelta(hours=12))  # so long may one process wait for another
    if state.device.type != "cuda":
        return state, "cpu"
    torch.set_float32_matmul_precision("high")  # TF32 in matrix products, as in convolutions: much faster
    return state, "cuda"


@contextmanager
def gpu_memory(way_out: str) -> Iterator[None]:
    """As a context or a decorator, makes running out of the GPU's memory an InputError."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise InputError(f"the GPU's memory does not hold a batch; {way_out}") from error
