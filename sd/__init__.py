"""Stable Diffusion, aligned with the losses of toy/.

a step    align        policy and reference, their errors, and the loss between them
          trainer      a run, as a generator         train        the command
          models       loading, asking, saving       draw         images from prompts
          config       settings; configs/, recipes   checkpoints  complete or absent
          bench        speed
feedback  your likes, dislikes and pairs: from a CSV to the batches of a step
tiny      a world of drawn shapes, and a Stable Diffusion small enough for a laptop
judging   images, scores, win rates, a page with a blind vote
"""
