"""Exercises that check themselves, one file for each lesson: give a check your function, it says in words
what is wrong. Value and gradient are compared with the library's on small inputs. A wrong answer is looked
up among the usual mistakes, which are written as functions, each with the sentence that helps."""

from notebooks.answers import EXERCISES
from notebooks.checks.lesson1 import ddim_step, estimate_x0
from notebooks.checks.lesson2 import loss_aversion, slope
from notebooks.checks.lesson3 import denoising_error, kto_loss, reference_point
from notebooks.checks.lesson4 import balance, half_width, undesirable_rate
from notebooks.checks.lesson5 import draw_batch, flip_labels
from notebooks.checks.lesson6 import dpo_loss, pair_weight, renoise_step
from notebooks.checks.lesson7 import cautious
from notebooks.checks.lesson8 import feedback_csv, redness
from notebooks.checks.lesson9 import euler_step, velocity_to_eps
