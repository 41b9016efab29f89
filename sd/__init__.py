"""Stable Diffusion, aligned with the losses of toy/.

align     policy and reference, their errors, and the loss    checkpoints  saved and resumed runs
trainer   a run, as a generator                               models       load, encode, predict, save
train     the command of the same name                        draw         images from prompts
config    the settings, with recipes in configs/              bench        speed of a training step
sharding  a model in parts, one in each process
feedback  your likes, dislikes and pairs: from a CSV to the batches of a step
tiny      a world of drawn shapes, and a Stable Diffusion small enough for a laptop
judging   images, scores, win rates, and a page for a blind vote
"""
