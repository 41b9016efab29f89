"""What bf16 and fp16 do to the reward g, measured on the tiny pipeline: python docs/precision.py

It aligns for 20 steps in fp32, then computes g of the same 512 noisy images in each precision. The further
the policy has moved, the larger is g; its rounding stays the same. Weights that were published in fp16 are a
case of their own: an eighth of them lies in the middle between two bf16 numbers, where any step decides.
"""

import tempfile
from dataclasses import replace
from unittest import mock

import torch

from sd import models, trainer
from sd.config import configure
from sd.feedback.batches import Batches
from sd.tiny import shapes
from toy.files import output_folder
from toy.train import last

BETA, STEPS, BATCHES = 30, 20, 8  # beta is the tiny recipe's


def load_in_fp32(folder):
    """The pipeline with weights as if published in fp32. Its own are fp16, so their last digits are drawn."""
    pipeline, generator = LOAD(folder), torch.Generator().manual_seed(0)
    for weight in pipeline.unet.parameters():
        weight.data *= 1 + 5e-4 * torch.randn(weight.shape, generator=generator)
    return pipeline


def rewards(config, load) -> dict[str, torch.Tensor]:
    """g (n,) after a run, in each precision."""
    with mock.patch.object(models, "load", load):
        run = last(trainer.train(config)).trainer
    batches = Batches(run.cache, run.config, len(run.aligner.process))
    result = {}
    for precision in ("fp32", "bf16", "fp16"):
        autocast = torch.autocast("cpu", models.DTYPES[precision], enabled=precision != "fp32")
        parts = []
        for k in range(BATCHES):
            with torch.no_grad(), mock.patch.object(run.accelerator, "autocast", lambda a=autocast: a):
                policy_error, reference_error = run.aligner.errors(run.aligner.receive(batches[k]))
            parts.append(reference_error - policy_error)
        result[precision] = torch.cat(parts)
    return result


LOAD = models.load
if __name__ == "__main__":
    print("| weights | tune | learning rate | beta * std(g) | rounding, bf16 | fp16 | slope, bf16 | fp16 |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        shapes.write_feedback(output_folder(f"{folder}/red"), "red")
        base = configure("tiny", data=f"{folder}/red", out="-", steps=STEPS)
        for name, load in (("fp32", load_in_fp32), ("fp16", LOAD)):
            for tune, lr in (("full", 1e-7), ("full", 1e-6), ("full", 5e-6), ("full", 5e-5), ("lora", 1e-4)):
                out = f"{folder}/{name}-{tune}-{lr}"
                g = rewards(replace(base, tune=tune, lr=lr, out=out), load)
                exact = g.pop("fp32")
                noise = [f"{BETA * (value - exact).std():.4f}" for value in g.values()]
                slope = [f"{(value * exact).sum() / exact.square().sum():.2f}" for value in g.values()]
                row = (name, tune, f"{lr:g}", f"{BETA * exact.std():.3f}", *noise, *slope)
                print("| " + " | ".join(row) + " |", flush=True)
