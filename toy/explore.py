"""The explorable Figure 6: one page, without a network, in which every frame is a run of the laboratory.

The page looks frames up and moves the dots from one to the next; it computes nothing else.
"""

import base64
import json
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from toy import data, plots
from toy.data import World
from toy.experiments import BETA, BETAS, GAMMAS
from toy.files import output_folder, save_atomically
from toy.metrics import compare, judge
from toy.objectives import Run
from toy.seeds import generator
from toy.study import ENSEMBLE, prepared
from toy.train import ALIGN_STEPS, align, draw
from toy.utilities import UTILITIES, Utility, check_utility, load_utility, slope

TEMPLATE = Path(__file__).with_name("explore.html")
GRID = {  # what the sliders move; the paper's Figure 6 is at beta 4, gamma 0.8 and no wrong labels
    "flipped": (0.0, 0.2, 0.4),
    "beta": tuple(BETA["diffusion"] * factor for factor in BETAS),
    "gamma": GAMMAS,
    "step": (0, 5, 10, 20, 40, 100, ALIGN_STEPS),  # closer together where samples travel fast
}
SAMPLES, POINTS = 1000, 200  # judged and, of these, drawn in each frame
MARGIN = 0.05  # of the window, on each side: a point that leaves the picture is kept there, out of sight


def explore(out: str, cache: str, utility: str | None = None) -> list[Path]:
    """Write out/explore.html: a page that shows samples for every utility and all settings of GRID."""
    named, chosen = dict(UTILITIES), ["kahneman_tversky", "loss_averse"]
    if utility:
        name = utility if utility in UTILITIES else "yours"
        named[name], chosen = load_utility(utility), [name, "kahneman_tversky"]
        for warning in check_utility(named[name], utility):
            print(f"warning: {warning}")
    folder, world = output_folder(out), data.figure6()
    points, metrics = frames(world, named, GRID, output_folder(cache, "--cache"))
    window = plots.extent(world)
    content = {
        "grid": GRID,
        "utilities": {name: describe(name, function) for name, function in named.items()},
        "chosen": chosen,
        "usual": {"flipped": 0.0, "beta": BETA["diffusion"], "gamma": 0.8},
        "samples": SAMPLES,
        "window": window,
        "margin": MARGIN,
        "areas": areas(world),
        "metrics": metrics,
        "points": base64.b64encode(quantise(points, window).numpy().tobytes()).decode(),
    }
    text = json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    page = TEMPLATE.read_text("utf-8").replace("{DATA}", text)
    return [save_atomically(folder / "explore.html", lambda path: path.write_text(page, "utf-8"))]


def frames(
    world: World, named: dict[str, Utility], grid: dict, cache: Path
) -> tuple[Tensor, list[list[float]]]:
    """Points (frames, POINTS, 2) and [liked, disliked, balance, outside] of each frame, all of seed 0.

    The first frame is the pretrained model, step 0 of every run. The others follow in the order of
    grid["flipped"], utilities, grid["beta"], grid["gamma"], grid["step"][1:], the last one fastest.
    """
    (left, right, bottom, top), steps = plots.extent(world), grid["step"][1:]
    low, high = torch.tensor([left, bottom]), torch.tensor([right, top])
    runs = [
        Run(utility=utility, beta=beta, gamma=gamma)
        for utility in named.values()
        for beta in grid["beta"]
        for gamma in grid["gamma"]
    ]
    parts = [
        (share, runs[i : i + ENSEMBLE]) for share in grid["flipped"] for i in range(0, len(runs), ENSEMBLE)
    ]

    def numbers(samples: Tensor, before: dict | None = None) -> list[float]:
        judged = judge(samples, world)
        judged = compare(judged, before or judged)
        outside = 1 - ((samples > low) & (samples < high)).all(-1).float().mean().item()  # nan is outside
        keys = ("desirable_rate", "undesirable_rate", "balance")
        return [round(value, 3) for value in (*(judged[key] for key in keys), outside)]

    points, metrics = [], []
    with tqdm(
        total=len(parts) * max(steps), desc=f"{len(runs) * len(grid['flipped'])} runs", unit="step"
    ) as bar:
        for flipped, part in parts:
            models, feedback = prepared(world, [("", run) for run in part], cache, flipped, "diffusion")
            if not points:
                start = draw(models[0], SAMPLES)[0]
                before = judge(start, world)
                points.append(start[None, :POINTS])
                metrics.append(numbers(start))
            samples = []
            for state in align(models, feedback, part, steps=max(steps)):
                bar.update()
                if state.step in steps:
                    samples.append(draw(state.policy, SAMPLES))
            by_run = torch.stack(samples, 1).flatten(0, 1)  # run by run, each in the order of its steps
            points.append(by_run[:, :POINTS])
            metrics += [numbers(one, before) for one in by_run]
    return torch.cat(points), metrics


def quantise(points: Tensor, window: tuple[float, float, float, float]) -> Tensor:
    """Points (..., 2) as uint8: 0 to 255 across the window and its margin. What is farther out is moved to
    the edge of the margin, and what is no number to its corner."""
    left, right, bottom, top = window
    low, size = torch.tensor([left, bottom]), torch.tensor([right - left, top - bottom])
    share = ((points - low) / size + MARGIN) / (1 + 2 * MARGIN)
    return (255 * share.nan_to_num(0).clamp(0, 1)).round().byte()


def describe(name: str, utility: Utility) -> dict:
    """What the page shows of a utility: label, colour, and the weight of liked and of disliked examples at x
    from -6 to 6."""
    label, colour, *_ = plots.style(name)
    x = torch.linspace(-6, 6, 121)
    signs = (1, -1) if getattr(utility, "sign_outside", False) else (1,)
    weights = [[round(w, 4) for w in slope(utility, sign * x).tolist()] for sign in signs]
    # black is the colour of the page's text, which is white in the dark
    return {"label": label, "colour": colour.replace("#000000", "CanvasText"), "weights": weights}


def areas(world: World) -> list[dict]:
    """Centre of the liked and of the disliked points, and the radii of circles that hold half of them and
    95%: both are round Gaussians. Disliked points are the denser ones below the line halfway between."""
    circles = []
    for name, some, (colour, line) in (
        ("liked", world.desirable, plots.LIKED),
        ("disliked", world.undesirable, plots.DISLIKED),
    ):
        x = some(40_000, generator("shade", 0))
        radii = (x - x.mean(0)).norm(dim=1).quantile(torch.tensor([0.95, 0.5]))
        numbers = [round(v, 3) for v in (*x.mean(0).tolist(), *radii.tolist())]
        circles.append(
            {
                "centre": numbers[:2],
                "radii": numbers[2:],
                "name": name,
                "colour": colour,
                "dashed": line == "dashed",
            }
        )
    return circles
