"""Find the published weights of scorers in a folder, read them, rename them, and check that all are used."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from toy.errors import InputError

State = dict[str, Tensor]
# a head on an embedding is one linear layer, or these, with dropout but no activation between them
MLP = tuple(f"layers.{i}." for i in (0, 2, 4, 6, 7))
OPEN_CLIP = (  # open_clip's names as those of transformers' CLIPModel; replaced in this order
    ("visual.transformer.resblocks", "vision_model.encoder.layers"),
    ("visual.class_embedding", "vision_model.embeddings.class_embedding"),
    ("visual.conv1", "vision_model.embeddings.patch_embedding"),
    ("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    ("visual.ln_pre", "vision_model.pre_layrnorm"),
    ("visual.ln_post", "vision_model.post_layernorm"),
    ("visual.proj", "visual_projection.weight"),
    ("transformer.resblocks", "text_model.encoder.layers"),
    ("token_embedding", "text_model.embeddings.token_embedding"),
    ("positional_embedding", "text_model.embeddings.position_embedding.weight"),
    ("ln_final", "text_model.final_layer_norm"),
    ("ln_", "layer_norm"),
    ("attn.", "self_attn."),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
)
BLIP = (  # BLIP's names as those of transformers' BlipVisionModel; the text encoder's are the same in both
    ("cls_token", "embeddings.class_embedding"),
    ("pos_embed", "embeddings.position_embedding"),
    ("patch_embed.proj", "embeddings.patch_embedding"),
    ("blocks.", "encoder.layers."),
    ("norm.", "post_layernorm."),
    (".norm", ".layer_norm"),
    ("attn.qkv", "self_attn.qkv"),
    ("attn.proj", "self_attn.projection"),
)


def find(folder: Path, pattern: str, why: str) -> Path:
    """The one file in a folder whose name matches. Raises InputError telling what to download or convert."""
    files = sorted(folder.glob(pattern))
    if len(files) == 1:
        return files[0]
    if files:
        names = " and ".join(path.name for path in files)
        raise InputError(f"{folder} has {names}: keep only the one to use")
    stem = Path(pattern).stem
    for other in (*folder.glob(f"{stem}.*"), *folder.glob(f"pytorch_{stem}.*")):
        if other.suffix in (".pt", ".pth", ".bin"):
            name = other.with_suffix(".safetensors").name.removeprefix("pytorch_")
            raise InputError(
                f"{other} is not opened, because such a file can run code: download {name} if it exists; or "
                "read the file by torch.load with weights_only=True, which runs none, and save its tensors "
                f"(often under 'state_dict') by safetensors.torch.save_file as {name}"
            )
    raise InputError(f"no {pattern} in {folder}: {why}")


def read(path: Path) -> State:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} cannot be read as safetensors: {error}; download it again") from error


def part(state: State, prefix: str) -> State:
    """The weights under a prefix, named without it."""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def rename(state: State, names: tuple[tuple[str, str], ...]) -> State:
    out = {}
    for name, value in state.items():
        for old, new in names:
            name = name.replace(old, new)
        out[name] = value
    return out


def from_open_clip(state: State) -> State:
    """open_clip's weights as CLIPModel's: query, key and value apart, projections transposed."""
    out = {}
    for name, value in rename(state, OPEN_CLIP).items():
        if ".in_proj_" in name:
            for letter, third in zip("qkv", value.chunk(3), strict=True):
                out[name.replace("in_proj_", f"{letter}_proj.")] = third
        elif name == "text_projection":
            out["text_projection.weight"] = value.T
        else:
            out[name] = value.T if name == "visual_projection.weight" else value
    return out


def fit(kind: type, config, state: State, path: Path, **options) -> nn.Module:
    """A module of transformers with these weights in float32, frozen. Raises InputError unless all of them
    fit: from_pretrained alone would put random weights in place of missing ones."""
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True, "dtype": torch.float32}
    module, report = kind.from_pretrained(None, config=config, state_dict=state, **options)
    # before transformers 5 a key is a name; since then it is a tuple that begins with the name
    mismatches = [key if isinstance(key, str) else key[0] for key in report["mismatched_keys"]]
    problems = {"lacks": report["missing_keys"], "should not have": report["unexpected_keys"]}
    for problem, keys in (problems | {"has another shape of": mismatches}).items():
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise InputError(f"{path} {problem} '{min(keys)}'{more}: not the weights of a {kind.__name__}")
    return module.eval().requires_grad_(False)


def head(state: State, width: int, path: Path) -> nn.Sequential:
    """The head (n, width) -> (n, 1): a single linear layer, or an MLP."""
    layers = []
    for name in ("",) if "weight" in state else MLP:
        weight, bias = state.get(f"{name}weight"), state.get(f"{name}bias")
        last = name in ("", MLP[-1])
        if weight is None or bias is None or weight.shape[1:] != (width,) or (last and len(weight) != 1):
            raise InputError(f"{path} is not the expected head: see its '{name}weight' and '{name}bias'")
        layers.append(nn.Linear(width, len(weight)))
        layers[-1].load_state_dict({"weight": weight, "bias": bias})
        width = len(weight)
    return nn.Sequential(*layers).requires_grad_(False)
