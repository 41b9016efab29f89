"""The checks of lesson 9, from diffusion to flow."""

import torch

from notebooks.answers import compare, exercise, points


@exercise
def velocity_to_eps(student):
    """With x0 = xt - sigma * velocity, all that a sampler needs can be read from a velocity."""
    mistakes = [
        (lambda xt, v, s: xt - (1 - s) * v, "the sign is turned: from xt the velocity leads on to eps"),
        (lambda xt, v, s: xt - s * v, "that is x0: back by sigma. The way on to eps is the rest of the line"),
        (lambda xt, v, s: xt + s * v, "xt has gone sigma of the way to eps: what is left is 1 - sigma"),
        (lambda xt, v, s: xt + v, "that goes the whole way from x0 to eps, but starts at xt"),
        (lambda xt, v, s: v, "that is eps - x0: x0 is still to be added"),
        (
            lambda xt, v, s: (1 - s) * v + s * xt,
            "that is the row of diffusion's v; a flow's velocity is eps - x0",
        ),
        (lambda xt, v, s: (xt - (1 - s) * v) / s, "the velocity stands where x0 should: it is eps - x0"),
        (
            lambda xt, v, s: (xt + (1 - s) * v) / s,
            "no division: eps = x0 + velocity, x0 = xt - sigma * velocity",
        ),
    ]
    inputs = points(0), points(1), torch.tensor([[0.1], [0.3], [0.6], [0.9]])
    return compare(student, lambda xt, v, s: xt + (1 - s) * v, inputs, mistakes)


@exercise
def euler_step(student):
    """This is a DDIM step in other units, as the lesson goes on to show."""
    mistakes = [
        (
            lambda xt, v, s, n: xt + (s - n) * v,
            "the sign is turned: the velocity points to noise, so sigma_next - sigma",
        ),
        (lambda xt, v, s, n: xt - s * v, "that is x0, the end of the way: stop at sigma_next"),
        (lambda xt, v, s, n: xt + n * v, "that goes by sigma_next, not by sigma_next - sigma"),
        (lambda xt, v, s, n: xt - n * v, "that goes by sigma_next, not by sigma_next - sigma"),
        (lambda xt, v, s, n: xt + v, "the length of the stride is missing: sigma_next - sigma"),
        (lambda xt, v, s, n: xt - v, "the length of the stride is missing: sigma_next - sigma"),
        (lambda xt, v, s, n: (n - s) * v, "that is the stride alone: start at xt"),
        (
            lambda xt, v, s, n: (1 - n) * xt + n * v,
            "mix x0 and eps, not xt and the velocity; or take a stride",
        ),
        (
            lambda xt, v, s, n: (1 - n) * (xt - s * v) + n * v,
            "the velocity stands where eps should: it is eps - x0",
        ),
    ]
    inputs = points(2), points(3), 0.6, 0.4
    return compare(student, lambda xt, v, s, n: xt + (n - s) * v, inputs, mistakes)
