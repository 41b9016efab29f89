"""Stable Diffusion, aligned with the losses of toy/.

config    the settings, with recipes in configs/              models       load, encode, predict, save
machine   processes, devices and folders                      draw         images from prompts
start     what a run starts from, and what it will do         checkpoints  saved and resumed runs
align     policy and reference, their errors, and the loss    sharding     a model in parts, one to a process
trainer   a run, as a generator                               memory       of a step, counted without a GPU
train, plan, bench: the commands of the same names
feedback  your likes, dislikes and pairs: from a CSV to the batches of a step
tiny      a world of drawn shapes, and a Stable Diffusion small enough for a laptop
judging   images, scores, win rates, and a page for a blind vote
"""
