def estimate_x0(xt, t, eps, abar):
    a = abar[t][:, None]
    return (xt - (1 - a).sqrt() * eps) / a.sqrt()


def ddim_step(xt, t, t_next, eps, abar):
    x0 = (xt - (1 - abar[t]).sqrt() * eps) / abar[t].sqrt()
    return abar[t_next].sqrt() * x0 + (1 - abar[t_next]).sqrt() * eps
