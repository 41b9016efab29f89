"""The 2-D laboratory, and the losses that Stable Diffusion training shares with it."""
