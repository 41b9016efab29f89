"""The laboratory's experiments, one function for each command: run a study, draw it, save both."""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from toy import data, page, plots, trial
from toy.data import World
from toy.errors import InputError
from toy.files import output_folder, save_json
from toy.metrics import SAMPLES, noise_floor
from toy.objectives import Run
from toy.pretrained import pretrained
from toy.report import plus_minus, print_table, seeds_text, verdict
from toy.study import PILOT, Named, auto_beta, copy_balance, mean_of, study, summarise
from toy.trial import PAPER
from toy.utilities import UTILITIES, check_utility, load_utility

BETA = {"diffusion": 4.0, "flow": 1.0}  # with equal spread of Kahneman-Tversky's beta * g; see `sweep`
BETAS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # times that
GAMMAS = (0.2, 0.5, 0.8, 1.0)
FLIPPED = (0.0, 0.1, 0.2, 0.3, 0.4)


def figure6(
    out: str,
    seeds: int,
    cache: str,
    world: str = "figure6",
    process: str = "diffusion",
    beta: float | None = None,
) -> list[Path]:
    """The paper's Figure 6: every objective at one beta, samples and numbers, drawn and saved."""
    place, usual = _choose(world, process)
    beta = beta or usual
    output_folder(out)
    utilities = ("risk_seeking", "risk_seeking_bounded", "loss_averse", "kahneman_tversky")
    runs = [(name, Run(name, beta=beta)) for name in ("sft", "csft", "diffusion_dpo", "smpo")]
    runs += [_kto(name, beta) for name in utilities]
    note = f"{process}, beta {beta:g}, gamma 0.8, {seeds_text(seeds)}, dots of seed 0; "
    note += "liked solid, disliked dashed"
    fig, content = _compare(place, runs, seeds, cache, note, process)
    return _save(out, "figure6", world, process, fig, content)


def utilities(out: str, extra: list[str]) -> list[Path]:
    """The paper's Figures 3 and 9: each utility, centred, and its slope."""
    named = UTILITIES | {spec.rpartition(":")[2]: load_utility(spec) for spec in extra}
    return [plots.save(plots.utilities(named), output_folder(out) / "utilities.png")]


def try_utility(
    utility: str,
    out: str,
    seeds: int,
    cache: str,
    world: str,
    process: str,
    beta: float | str | None = None,
    report: bool = False,
) -> list[Path]:
    """Align with the user's utility beside the paper's three, and say how it differs from
    Kahneman-Tversky. With beta "auto" each has its own; a report has more settings on one page."""
    mine, (place, usual) = load_utility(utility), _choose(world, process)
    folder = output_folder(out)
    warnings = check_utility(mine, utility)
    for warning in warnings:
        print(f"warning: {warning}")
    if report:
        if beta not in (None, "auto"):
            raise InputError("--report finds the best beta of each utility itself: leave out --beta")
        result = trial.study(mine, place, process, BETA, output_folder(cache, "--cache"), seeds)
        return page.write(folder, utility, warnings, result, place)
    runs = [("yours", Run(utility=mine, beta=usual)), *(_kto(name, usual) for name in PAPER)]
    if beta == "auto":
        runs = _auto(runs, place, process, cache)
    elif beta:
        runs = [(name, replace(run, beta=beta)) for name, run in runs]
    note = f"{utility}, {process}, beta {runs[0][1].beta:g}, gamma 0.8, {seeds_text(seeds)}"
    fig, content = _compare(place, runs, seeds, cache, note, process)
    content |= {"utility": utility, "verdict": verdict(content["rows"])}
    print(content["verdict"])
    return _save(out, "try", world, process, fig, content)


def _auto(runs: Named, world: World, process: str, cache: str) -> Named:
    """The runs with the betas that their pilots find; prints these, and what they cost."""
    model = pretrained(world, 0, output_folder(cache, "--cache"), process)
    pairs = [auto_beta(run, model, data.feedback(world)) for _, run in runs]
    betas = ", ".join(f"{name} {beta:g}" for (name, _), (beta, _) in zip(runs, pairs, strict=True))
    pilots = sum(count for _, count in pairs)
    print(f"beta: {betas} ({pilots} pilots of {PILOT} steps)")
    return [(name, replace(run, beta=beta)) for (name, run), (beta, _) in zip(runs, pairs, strict=True)]


def sweep(out: str, seeds: int, cache: str, world: str = "figure6", process: str = "diffusion") -> list[Path]:
    """The paper's Figure 8 in 2-D: balance over gamma, beta and label noise, and for each utility."""
    place, usual = _choose(world, process)
    betas = [usual * factor for factor in BETAS]
    output_folder(out)
    clean = [
        *(_kto(name, usual, gamma) for name in PAPER for gamma in GAMMAS),
        *(_kto(name, beta) for name in PAPER for beta in betas),
        *(("diffusion_dpo", Run("diffusion_dpo", beta=beta)) for beta in betas),
        *(_kto(name, usual) for name in UTILITIES),
        ("sft", Run("sft")),
    ]
    noisy = [*(_kto(name, usual) for name in PAPER), ("sft", Run("sft"))]
    rows, before, _ = study(place, list(dict.fromkeys(clean)), seeds, cache, process=process)
    for flipped in FLIPPED[1:]:
        rows += study(place, noisy, seeds, cache, flipped, process)[0]
    summary = summarise(rows)

    def curve(knob: str, **fixed) -> dict[str, list[tuple[float, float, float]]]:
        lines = defaultdict(list)
        for e in summary:
            if all(e[key] == value for key, value in fixed.items()) and e["name"] in (*PAPER, *extra[knob]):
                lines[e["name"]].append((e[knob], e["balance"], e["half_width"]))
        return {name: sorted(points) for name, points in lines.items()}

    extra = {"gamma": (), "beta": ("diffusion_dpo",), "flipped": ("sft",)}
    curves = {
        "gamma": curve("gamma", beta=usual, flipped=0.0),
        "beta": curve("beta", gamma=0.8, flipped=0.0),
        "flipped": curve("flipped", beta=usual, gamma=0.8),
    }
    default = [e for e in summary if (e["beta"], e["gamma"], e["flipped"]) == (usual, 0.8, 0.0)]
    print_table(default)
    note = (
        f"{process}; unless varied: beta {usual:g}, gamma 0.8, no label noise; "
        f"{seeds_text(seeds)}, bands: 95% intervals"
    )
    fig = plots.sweep(curves, default, note, copy_balance(place, before))
    content = {"world": world, "process": process, "summary": summary, "rows": rows}
    return _save(out, "sweep", world, process, fig, content)


def _compare(
    world: World, runs: Named, seeds: int, cache: str, note: str, process: str
) -> tuple[plots.plt.Figure, dict]:
    """Run a study, print its table, draw it: (figure, what to save as JSON)."""
    rows, before, samples = study(world, runs, seeds, cache, process=process)
    summary, copy = summarise(rows), copy_balance(world, before)
    print_table(summary)
    numbers = {"pretrained": _shares(mean_of(before))}
    numbers |= {e["name"]: f"{_shares(e)}\nbalance {plus_minus(e)}" for e in summary}
    content = {
        "world": world.name,
        "process": process,
        "samples": SAMPLES,
        "noise_floor": noise_floor(world),
        "copy_balance": copy,
        "pretrained": before,
        "summary": summary,
        "rows": rows,
    }
    return plots.comparison(samples, numbers, summary, world, note, copy), content


def _save(out: str, name: str, world: str, process: str, fig: plots.plt.Figure, content: dict) -> list[Path]:
    """Save picture and numbers under the name, with world and process if they are not the paper's."""
    unusual = [word for word in (world, process) if word not in ("figure6", "diffusion")]
    folder, name = output_folder(out), "-".join([name, *unusual])
    return [plots.save(fig, folder / f"{name}.png"), save_json(folder / f"{name}.json", content)]


def _kto(name: str, beta: float, gamma: float = 0.8) -> tuple[str, Run]:
    return name, Run(utility=UTILITIES[name], beta=beta, gamma=gamma)


def _choose(world: str, process: str) -> tuple[World, float]:
    """The world of this name, and the process's beta."""
    for kind, name, names in (("world", world, data.WORLDS), ("process", process, BETA)):
        if name not in names:
            raise InputError(f"unknown {kind} '{name}': use one of {', '.join(names)}")
    return data.WORLDS[world](), BETA[process]


def _shares(e: dict) -> str:
    return f"liked {e['desirable_rate']:.0%}, disliked {e['undesirable_rate']:.1%}"
