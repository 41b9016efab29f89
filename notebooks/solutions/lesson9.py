def velocity_to_eps(xt, velocity, sigma):
    return xt + (1 - sigma) * velocity


def euler_step(xt, velocity, sigma, sigma_next):
    return xt + (sigma_next - sigma) * velocity
