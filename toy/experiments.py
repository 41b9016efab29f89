"""The laboratory's experiments, one function for each command: run a study, draw it, save both."""

from collections import defaultdict
from pathlib import Path

from toy import data, plots
from toy.data import World
from toy.errors import InputError
from toy.files import output_folder, save_json
from toy.metrics import SAMPLES, noise_floor
from toy.objectives import Run
from toy.report import plus_minus, print_table, seeds_text, verdict
from toy.study import Named, copy_balance, mean_of, study, summarise
from toy.utilities import UTILITIES, check_utility, load_utility

BETA = 4.0  # of Figure 6; `sweep` shows the others
BETAS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
GAMMAS = (0.2, 0.5, 0.8, 1.0)
FLIPPED = (0.0, 0.1, 0.2, 0.3, 0.4)
PAPER = ("kahneman_tversky", "loss_averse", "risk_seeking_bounded")


def figure6(out: str, seeds: int, cache: str, world: str = "figure6", beta: float = BETA) -> list[Path]:
    """The paper's Figure 6: every objective at one beta, samples and numbers, drawn and saved."""
    place = _world(world)
    output_folder(out)
    utilities = ("risk_seeking", "risk_seeking_bounded", "loss_averse", "kahneman_tversky")
    runs = [(name, Run(name, beta=beta)) for name in ("sft", "csft", "diffusion_dpo", "smpo")]
    runs += [_kto(name, beta) for name in utilities]
    note = f"beta {beta:g}, gamma 0.8, {seeds_text(seeds)}, dots of seed 0; liked solid, disliked dashed"
    fig, content = _compare(place, runs, seeds, cache, note)
    return _save(out, "figure6", world, fig, content)


def utilities(out: str, extra: list[str]) -> list[Path]:
    """The paper's Figures 3 and 9: each utility, centred, and its slope."""
    named = UTILITIES | {spec.rpartition(":")[2]: load_utility(spec) for spec in extra}
    return [plots.save(plots.utilities(named), output_folder(out) / "utilities.png")]


def try_utility(utility: str, out: str, seeds: int, cache: str, world: str, beta: float) -> list[Path]:
    """Align with the user's utility beside the paper's three, and say how it differs from
    Kahneman-Tversky."""
    mine, place = load_utility(utility), _world(world)
    output_folder(out)
    for warning in check_utility(mine, utility):
        print(f"warning: {warning}")
    runs = [("yours", Run(utility=mine, beta=beta)), *(_kto(name, beta) for name in PAPER)]
    note = f"{utility}, beta {beta:g}, gamma 0.8, {seeds_text(seeds)}"
    fig, content = _compare(place, runs, seeds, cache, note)
    content |= {"utility": utility, "verdict": verdict(content["rows"])}
    print(content["verdict"])
    return _save(out, "try", world, fig, content)


def sweep(out: str, seeds: int, cache: str, world: str = "figure6") -> list[Path]:
    """The paper's Figure 8 in 2-D: balance over gamma, beta and label noise, and for each utility."""
    place = _world(world)
    output_folder(out)
    clean = [
        *(_kto(name, BETA, gamma) for name in PAPER for gamma in GAMMAS),
        *(_kto(name, beta) for name in PAPER for beta in BETAS),
        *(("diffusion_dpo", Run("diffusion_dpo", beta=beta)) for beta in BETAS),
        *(_kto(name, BETA) for name in UTILITIES),
        ("sft", Run("sft")),
    ]
    noisy = [*(_kto(name, BETA) for name in PAPER), ("sft", Run("sft"))]
    rows, before, _ = study(place, list(dict.fromkeys(clean)), seeds, cache)
    for flipped in FLIPPED[1:]:
        rows += study(place, noisy, seeds, cache, flipped)[0]
    summary = summarise(rows)

    def curve(knob: str, **fixed) -> dict[str, list[tuple[float, float, float]]]:
        lines = defaultdict(list)
        for e in summary:
            if all(e[key] == value for key, value in fixed.items()) and e["name"] in (*PAPER, *extra[knob]):
                lines[e["name"]].append((e[knob], e["balance"], e["half_width"]))
        return {name: sorted(points) for name, points in lines.items()}

    extra = {"gamma": (), "beta": ("diffusion_dpo",), "flipped": ("sft",)}
    curves = {
        "gamma": curve("gamma", beta=BETA, flipped=0.0),
        "beta": curve("beta", gamma=0.8, flipped=0.0),
        "flipped": curve("flipped", beta=BETA, gamma=0.8),
    }
    default = [e for e in summary if (e["beta"], e["gamma"], e["flipped"]) == (BETA, 0.8, 0.0)]
    print_table(default)
    note = (
        f"unless varied: beta {BETA:g}, gamma 0.8, no label noise; {seeds_text(seeds)}, bands: 95% intervals"
    )
    fig = plots.sweep(curves, default, note, copy_balance(place, before))
    return _save(out, "sweep", world, fig, {"world": world, "summary": summary, "rows": rows})


def _compare(world: World, runs: Named, seeds: int, cache: str, note: str) -> tuple[plots.plt.Figure, dict]:
    """Run a study, print its table, draw it: (figure, what to save as JSON)."""
    rows, before, samples = study(world, runs, seeds, cache)
    summary, copy = summarise(rows), copy_balance(world, before)
    print_table(summary)
    numbers = {"pretrained": _shares(mean_of(before))}
    numbers |= {e["name"]: f"{_shares(e)}\nbalance {plus_minus(e)}" for e in summary}
    content = {
        "world": world.name,
        "samples": SAMPLES,
        "noise_floor": noise_floor(world),
        "copy_balance": copy,
        "pretrained": before,
        "summary": summary,
        "rows": rows,
    }
    return plots.comparison(samples, numbers, summary, world, note, copy), content


def _save(out: str, name: str, world: str, fig: plots.plt.Figure, content: dict) -> list[Path]:
    """Save picture and numbers under the name, with the world's if it is not the paper's."""
    folder, name = output_folder(out), name if world == "figure6" else f"{name}-{world}"
    return [plots.save(fig, folder / f"{name}.png"), save_json(folder / f"{name}.json", content)]


def _kto(name: str, beta: float, gamma: float = 0.8) -> tuple[str, Run]:
    return name, Run(utility=UTILITIES[name], beta=beta, gamma=gamma)


def _world(name: str) -> World:
    if name not in data.WORLDS:
        raise InputError(f"unknown world '{name}': use one of {', '.join(data.WORLDS)}")
    return data.WORLDS[name]()


def _shares(e: dict) -> str:
    return f"liked {e['desirable_rate']:.0%}, disliked {e['undesirable_rate']:.1%}"
