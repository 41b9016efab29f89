import torch
import torch.nn.functional as F

from toy.diffusion import move


def dpo_loss(winner, loser, winner_reference, loser_reference, beta):
    g_w, g_l = winner_reference - winner, loser_reference - loser
    return -F.logsigmoid(0.5 * beta * (g_w - g_l)).mean()


def pair_weight(winner_score, loser_score, gamma):
    p = torch.stack([winner_score, loser_score]).softmax(0)[0]
    return 2 * gamma * p - gamma


def renoise_step(predict_eps, x, t, t_next, process):
    eps = predict_eps(x, t)
    guess = move(x, t, t_next, eps, process)
    return move(x, t, t_next, (eps + predict_eps(guess, t_next)) / 2, process)
