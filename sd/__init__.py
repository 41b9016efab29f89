"""Stable Diffusion, aligned with the losses of toy/."""

from toy.__main__ import suit_machine

suit_machine()  # here, because the threads' library reads it once, when torch is imported
