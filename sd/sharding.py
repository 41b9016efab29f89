"""--shard: PyTorch's fully_shard. Each process stores a part of every weight, gradient and optimizer moment.

A part, a DTensor, is some rows of a tensor. To compute a block of the denoiser, on its own batch, each
process gathers the whole weights of that block, and then drops them. Gradients are averaged as they are
split. So the numbers are those without --shard. All processes must call what gathers: passes of the
denoiser, whole(), gather() and whole_denoiser().
"""

from collections.abc import Iterator
from contextlib import contextmanager

from accelerate import Accelerator
from diffusers import DiffusionPipeline
from diffusers.models.attention import BasicTransformerBlock, JointTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from sd import models
from sd.families import family


def split(denoiser: nn.Module, accelerator: Accelerator) -> None:
    """Leave each process its part of every weight, on its device."""
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    kinds = BasicTransformerBlock | ResnetBlock2D | JointTransformerBlock
    for module in (*(m for m in denoiser.modules() if isinstance(m, kinds)), denoiser):
        # by default the outermost would keep what it gathered, and miss a change of the parts after a picture
        fully_shard(module, mesh=mesh, reshard_after_forward=True)


def part(tensor: Tensor, like: Tensor) -> Tensor:
    """This process's part of a whole tensor, if `like` is a part of one of this shape."""
    if not isinstance(like, DTensor) or tensor.shape != like.shape:
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def whole(tensor: Tensor) -> Tensor:
    """The whole tensor, if this is a part of one."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gather(tensors: dict[str, Tensor], accelerator: Accelerator) -> dict[str, Tensor]:
    """Copies of the whole tensors on the CPU, in the main process; nothing in others. One at a time is whole
    on the device."""
    result = {}
    for name, tensor in tensors.items():
        tensor = whole(tensor.detach())
        if accelerator.is_main_process:
            result[name] = tensor.to("cpu", copy=True).contiguous()
    return result


@contextmanager
def whole_denoiser(
    pipeline: DiffusionPipeline, frame: nn.Module | None, accelerator: Accelerator
) -> Iterator[None]:
    """A context in which the main process's pipeline has an ordinary denoiser, on the CPU, to be saved.
    `frame` is the denoiser as it was before split(), without data; None if it was not split."""
    if frame is None:
        yield
        return
    sharded, name = models.denoiser(pipeline), family(frame).denoiser_name
    state = gather(sharded.state_dict(), accelerator)
    if accelerator.is_main_process:
        frame.load_state_dict(state, assign=True)
        setattr(pipeline, name, frame)
    yield
    setattr(pipeline, name, sharded)
    frame.to("meta")
