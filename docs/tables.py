"""Write the tables of README.md and docs/results.md anew from figures/*.json: python docs/tables.py

A table stands between <!-- table: name --> and <!-- end -->, where name is a function of this file.
A test holds the committed pages to what this prints, so that no number can drift.
"""

import json
import re
from pathlib import Path

from toy.plots import style
from toy.statistics import interval

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", ROOT / "docs" / "results.md")
PAIRS = (("best", "best"), ("best", "last"), ("last", "last"), ("breaks_at", "breaks_at"))  # plane, images
MAIN = ("kahneman_tversky", "loss_averse", "risk_seeking_bounded")


def summary(figure: str) -> list[dict]:
    return json.loads((ROOT / "figures" / f"{figure}.json").read_text())["summary"]


def pick(entries: list[dict], **settings) -> dict:
    """The one entry with these settings."""
    [entry] = [e for e in entries if all(e[k] == v for k, v in settings.items())]
    return entry


def label(name: str) -> str:
    return style(name)[0]


def number(entry: dict, key: str = "balance", half_width: str = "half_width") -> str:
    return f"{entry[key]:.3f} ± {entry[half_width]:.3f}"


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def figure6_short() -> str:
    """Balance and disliked share of every objective that stays on the data."""
    entries = sorted(summary("figure6"), key=lambda e: -e["balance"])
    rows = [
        [label(e["name"]), number(e), f"{e['desirable_rate']:.1%}", f"{e['undesirable_rate']:.1%}"]
        for e in entries
    ]
    return table(["objective", "balance", "liked", "disliked"], rows)


def figure6() -> str:
    rows = []
    for e in sorted(summary("figure6"), key=lambda e: -e["balance"]):
        far = e["distance"] is None or e["distance"] > 100
        distance = ["far away", "far away"] if far else [f"{e['distance']:.3f}", f"{e['alignment']:.2f}"]
        shares = [f"{e['desirable_rate']:.1%}", f"{e['undesirable_rate']:.1%}"]
        rows.append([label(e["name"]), *shares, *distance, f"{e['avoidance']:.2f}", number(e)])
    header = ["objective", "liked", "disliked", "distance", "alignment", "avoidance", "balance"]
    return table(header, rows)


def flow() -> str:
    """Balance of every objective under diffusion and under flow matching, in two worlds."""
    names = ("figure6", "figure6-flow", "figure6-moons", "figure6-moons-flow")
    columns = [summary(name) for name in names]
    order = sorted(columns[1], key=lambda e: -e["balance"])
    rows = [[label(e["name"]), *(number(pick(c, name=e["name"])) for c in columns)] for e in order]
    header = ["objective", "Figure 6, diffusion", "Figure 6, flow", "moons, diffusion", "moons, flow"]
    return table(header, rows)


def worlds() -> str:
    names = {
        "figure6": "Figure 6",
        "figure6-moons": "moons",
        "figure6-rings": "rings",
        "figure6-grid": "grid",
    }
    entries = {world: summary(world) for world in names}
    rows = [
        [label(name), *(number(pick(entries[world], name=name)) for world in names)]
        for name in (*MAIN, "sft", "csft")
    ]
    return table(["objective", *names.values()], rows)


def beta() -> str:
    return _over("beta", (1.0, 2.0, 4.0, 8.0, 16.0, 32.0), (*MAIN, "diffusion_dpo"))


def gamma() -> str:
    return _over("gamma", (0.2, 0.5, 0.8, 1.0), MAIN)


def noise() -> str:
    return _over("flipped", (0.0, 0.1, 0.2, 0.3, 0.4), (*MAIN, "sft"))


def _over(knob: str, values: tuple, names: tuple) -> str:
    entries, usual = summary("sweep"), {"beta": 4.0, "gamma": 0.8, "flipped": 0.0}
    rows = [
        [f"{v:g}", *(number(pick(entries, name=name, **usual | {knob: v})) for name in names)] for v in values
    ]
    return table([knob if knob != "flipped" else "wrong labels", *map(label, names)], rows)


def graded() -> str:
    """What graded likes gain over thumbs, with 200 labels."""
    worlds = {"figure6": "Figure 6", "moons": "moons", "rings": "rings"}
    rows = []
    for noisy, world in ((noisy, world) for noisy in (False, True) for world in worlds):
        cells = [f"{worlds[world]}, {'noisy' if noisy else 'exact'} judge"]
        for name, means in (("kahneman_tversky", (1, 4)), ("loss_averse", (4,))):
            this = {"world": world, "noisy": noisy, "labels": 200, "name": name}
            cells.append(number(pick(summary("graded"), **this, mean=0)))
            for mean in means:
                e = pick(summary("graded"), **this, mean=mean)
                cells.append(f"{e['gain']:+.3f} ± {e['gain_half_width']:.3f}")
        rows.append(cells)
    gains = [f"gain, mean weight {weight}" for weight in (2, 5)]
    return table(["", "Kahneman-Tversky, thumbs", *gains, "TGO's loss, thumbs", gains[1]], rows)


def utilities() -> str:
    usual = {"beta": 4.0, "gamma": 0.8, "flipped": 0.0}
    names = (*MAIN, "prospect_theory", "linear", "risk_seeking")
    entries = sorted((pick(summary("sweep"), name=n, **usual) for n in names), key=lambda e: -e["balance"])
    return table(["utility", "balance"], [[label(e["name"]), number(e)] for e in entries])


def spread() -> str:
    """Of each utility, the beta with the best balance, and beta * std(g) there."""
    rows = []
    for figure, world in (("sweep", "Figure 6"), ("sweep-moons", "moons")):
        entries = [e for e in summary(figure) if e["gamma"] == 0.8 and e["flipped"] == 0.0]
        for name in MAIN:
            mine = [e for e in entries if e["name"] == name]
            best = max(mine, key=lambda e: e["balance"])
            good = [e for e in mine if e["balance"] + e["half_width"] >= best["balance"]]
            betas, spreads = ([e[k] for e in good] for k in ("beta", "spread"))
            cells = [f"{best['beta']:g}", number(best), f"{best['spread']:.1f}"]
            cells += [f"{min(betas):g} to {max(betas):g}", f"{min(spreads):.1f} to {max(spreads):.1f}"]
            rows.append([f"{label(name)}, {world}", *cells])
    header = ["", "best beta", "balance", "spread", "betas as good", "their spread"]
    return table(header, rows)


def pilots() -> str:
    """The balance at the beta found, divided by that at the best of ten, by utility, world and process."""
    entries = summary("beta")
    places = list(dict.fromkeys((e["world"], e["process"]) for e in entries))
    rows = [
        [_named(name), *(f"{pick(entries, name=name, world=w, process=p)['ratio']:.2f}" for w, p in places)]
        for name in dict.fromkeys(e["name"] for e in entries)
    ]
    titles = [f"{'Figure 6' if world == 'figure6' else world}, {process}" for world, process in places]
    return table(["utility", *titles], rows)


def paths() -> str:
    """For each world, the best balance on the way, and on how many seeds the path breaks."""
    worlds = {"figure6": "Figure 6", "moons": "moons", "grid": "grid"}
    entries = summary("paths")
    broke = {
        e["name"]: sum(pick(entries[w], name=e["name"])["broke"] for w in worlds) for e in entries["grid"]
    }
    order = sorted(entries["moons"], key=lambda e: (broke[e["name"]], -e["best"]))
    rows = []
    for e in order:
        mine = [pick(entries[world], name=e["name"]) for world in worlds]
        cells = [number(w, "best") + (f", breaks on {w['broke']}" if w["broke"] else "") for w in mine]
        rows.append([_named(e["name"]), *cells])
    return table(["", *worlds.values()], rows)


def _named(name: str) -> str:
    return label(name).replace("_", " ")


def red() -> str:
    return _figure7("figure7", "unet", (18, 36, 90), "redness")


def red_v3() -> str:
    return _figure7("figure7", "sd3", (18, 36, 90), "redness")


def large() -> str:
    return _figure7("figure7-large", "unet", (16, 40), "share of large shapes")


def large_v3() -> str:
    return _figure7("figure7-large", "sd3", (16, 40), "share of large shapes")


def _figure7(figure: str, family: str, steps: tuple, met: str) -> str:
    entries = [entry for entry in summary(figure) if entry["family"] == family]
    rows = []
    for name in (*MAIN, "sft", "diffusion_dpo"):
        at = [pick(entries, name=name, step=step) for step in steps]
        cells = [number(e, "met", "met_half_width") for e in at]
        cells += [number(e, "following", "following_half_width") for e in at[-2:]]
        rows.append([label(name), *cells])
    start = pick(entries, name="sft", step=0)
    cells = [number(start, "met", "met_half_width"), *[""] * (len(steps) - 1)]
    rows.append(["before", *cells, number(start, "following", "following_half_width"), ""])
    followed = [f"prompts followed, step {step}" for step in steps[-2:]]
    return table(["objective", *(f"{met}, step {step}" for step in steps), *followed], rows)


def votes() -> str:
    rows = []
    for e in summary("study"):
        chosen = ", ".join(f"{key} {e[key]:g}" for key in ("beta", "gamma", "step") if key in e)
        cells = [number(e, key, f"{key}_half_width") for key in ("wins", "following", "left", "flaw")]
        rows.append([label(e["name"]), chosen, *cells, f"{e['last']:.3f}"])
    columns = ["wins", "prompts followed", "left, in pixels", "flaw", "wins after 120 steps"]
    return table(["objective", "chosen", *columns], rows)


def health() -> str:
    """Along training on votes: wins, and the liked examples' reward as a share of the reference's error."""
    rows = json.loads((ROOT / "figures" / "study.json").read_text())["rows"]
    rows = [row for row in rows if "reward_desirable" in row]
    steps, lines = sorted({row["step"] for row in rows}), []
    for name in (e["name"] for e in summary("study")):
        cells = []
        for step in steps:
            group = [row for row in rows if (row["name"], row["step"]) == (name, step)]
            means = [
                interval([row[key] for row in group])[0] for key in ("wins", "reward_desirable") if group
            ]
            cells.append("{:.2f} at {:+.2f}".format(*means) if group else "")
        if any(cells):
            lines.append([label(name), *cells])
    return table(["objective", *(f"step {step}" for step in steps)], lines)


def transfer() -> str:
    """Rank correlations of the plane with images, of the utilities, and how many pairs of names agree."""
    content = json.loads((ROOT / "figures" / "transfer.json").read_text())
    worlds, rows = {"figure6": "Figure 6", "moons": "moons", "grid": "grid"}, []
    for pair in content["pairs"]:
        here = {"world": pair["world"], "setting": pair["setting"]}
        cells = [f"{worlds[pair['world']]}, {pair['setting']}"]
        for of, on in PAIRS:
            entry = pick(content["correlations"], **here, plane=of, images=on)["utilities"]
            cells.append("{rho:.2f} ({low:.2f} to {high:.2f})".format(**entry))
        rows.append([*cells, f"{pair['same']} of {pair['both']}"])
    columns = ["best, of best", "best, of end", "end, of end", "distance", "pairs that agree"]
    return table(["", *columns], rows)


def on_images() -> str:
    """Each name on votes: its best wins, those at the end, and where it breaks."""
    content = json.loads((ROOT / "figures" / "transfer.json").read_text())
    rows = []
    for e in sorted(content["images"], key=lambda e: -e["last"]):
        where = f"{e['breaks_at']:.2f} ({e['low']:.2f} to {e['high']:.2f})"
        rows.append([_named(e["name"]), number(e, "best"), f"{e['last']:.2f}", where, f"{e['broke']}"])
    return table(["", "best wins", "wins at the end", "distance it goes", "seeds on which it breaks"], rows)


def beta_images() -> str:
    """The beta found on images beside the best of three."""
    rows = []
    for e in summary("beta-images"):
        others = [f"{float(score):.3f}" for score in e["scores"].values()]
        rows.append([_named(e["name"]), f"{e['found']:g}", *others, f"{e['ratio']:.2f}"])
    return table(["utility", "beta found", "wins there", "at a quarter", "at 4 times", "of the best"], rows)


def fill(text: str) -> str:
    """A page with its tables written anew."""

    def write(match: re.Match) -> str:
        return f"{match[1]}\n{globals()[match[2]]()}\n{match[3]}"

    return re.sub(r"(<!-- table: (\w+) -->)\n.*?\n?(<!-- end -->)", write, text, flags=re.S)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(fill(page.read_text()))
        print(f"wrote {page.relative_to(ROOT)}")
