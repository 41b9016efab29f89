"""The processes, the devices and the folder of a command."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, parse_flag_from_env
from filelock import FileLock, Timeout
from torch import nn

from sd.config import Config
from toy.cli import is_main_process
from toy.errors import InputError
from toy.files import output_folder

LARGE = 100_000_000  # weights of a model that one does not train on a CPU by accident
TRAINING = "use a smaller --batch, --gradient-checkpointing, --optimizer adafactor or --tune lora"
WAIT = timedelta(hours=12)  # how long one process may wait for another: encoding takes hours


def start_judging() -> tuple[PartialState, str]:
    """This process among those of `accelerate launch`, and its device. A single process forms no group."""
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.cuda.is_available()
    state = PartialState(cpu, timeout=WAIT)
    if state.device.type != "cuda":
        return state, "cpu"
    torch.set_float32_matmul_precision("high")  # TF32 in matrix products, as in convolutions: much faster
    return state, "cuda"


def make_accelerator(config: Config) -> Accelerator:
    """The accelerator of a run. Raises InputError for a precision or a tracker that is not available."""
    gpu = torch.cuda.is_available() and config.device != "cpu"
    if config.precision == "fp16" and not gpu:
        raise InputError("--precision fp16 needs a GPU; on a CPU use bf16 or fp32")
    trackers = [str(tracker) for tracker in get_available_trackers()]
    if config.tracker and config.tracker not in trackers:
        names = ", ".join(trackers) or "none"
        raise InputError(f"--tracker {config.tracker} is unknown or not installed; available: {names}")
    AcceleratorState._reset_state()  # an earlier run in this process may have had another precision
    precision = "no" if config.precision == "fp32" else config.precision
    options = {"log_with": config.tracker or None, "project_dir": config.out, "cpu": not gpu}
    options["kwargs_handlers"] = [
        InitProcessGroupKwargs(timeout=WAIT),
        DistributedDataParallelKwargs(gradient_as_bucket_view=True),  # no second copy of the gradients
    ]
    try:
        accelerator = Accelerator(mixed_precision=precision, **options)
    except ValueError as error:
        raise InputError(str(error).splitlines()[0]) from error
    if config.shard and accelerator.num_processes == 1:
        raise InputError("--shard splits a model over several processes; accelerate launch starts them")
    return accelerator


def refuse_slow(config: Config, accelerator: Accelerator, denoiser: nn.Module) -> None:
    """Raises InputError if a large model would be trained on a CPU, unless that was asked for."""
    weights = sum(weight.numel() for weight in denoiser.parameters())
    if weights > LARGE and accelerator.device.type == "cpu" and config.device != "cpu":
        text = f"this model has {weights / 1e6:.0f} million weights, and PyTorch sees no GPU"
        if torch.version.cuda:
            text += f" (it is built for CUDA {torch.version.cuda}; the driver may be too old)"
        raise InputError(f"{text}; add --device cpu to train it on the CPU, slowly")


@contextmanager
def gpu_memory(way_out: str) -> Iterator[None]:
    """As a context or a decorator, makes running out of the GPU's memory an InputError."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise InputError(f"the GPU's memory does not hold a batch; {way_out}") from error


@contextmanager
def only_run(out: str) -> Iterator[None]:
    """A context in which no other run may use the folder. Raises InputError if one does."""
    try:
        with FileLock(output_folder(out) / ".lock", timeout=0) if is_main_process() else nullcontext():
            for leftover in (Path(out) / "checkpoints").glob(".*step-*") if is_main_process() else ():
                shutil.rmtree(leftover, ignore_errors=True)  # of a killed run, perhaps on another machine
            yield
    except Timeout as error:
        text = f"another run is writing into {out}: wait until it ends, or choose another --out"
        raise InputError(text) from error
