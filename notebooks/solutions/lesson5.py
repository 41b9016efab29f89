import torch


def draw_batch(desirable, gamma, size, generator):
    liked, disliked = desirable.nonzero()[:, 0], (~desirable).nonzero()[:, 0]
    from_liked = liked[torch.randint(len(liked), (size,), generator=generator)]
    from_disliked = disliked[torch.randint(len(disliked), (size,), generator=generator)]
    return torch.where(torch.rand(size, generator=generator) < gamma, from_liked, from_disliked)


def flip_labels(desirable, share, generator):
    return desirable ^ (torch.rand(len(desirable), generator=generator) < share)
