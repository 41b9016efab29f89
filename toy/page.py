"""The page of python -m toy try --report: what toy/trial.py measured, in one file and without a network."""

import base64
import html
from pathlib import Path

import torch
from torch import Tensor

from toy import plots, trial
from toy.breaks import farther
from toy.data import World
from toy.files import save_atomically, save_json
from toy.paths import STEPS
from toy.statistics import interval
from toy.utilities import Utility, slope


def differences(rows: list[dict]) -> plots.plt.Figure:
    """Yours minus Kahneman-Tversky in every setting, with 95% intervals."""
    titles = trial.titles(rows)
    fig, (ax,) = plots.figure(1, 1, 7.5, 0.5 + 0.4 * len(titles))
    for place, title in enumerate(reversed(titles)):
        gap, half_width = trial.difference(rows, title, trial.OTHER)
        _, colour, marker, _ = plots.style("yours")
        ax.errorbar(gap, place, xerr=half_width, color=colour, marker=marker, capsize=3)
    ax.set_yticks(range(len(titles)), reversed(titles))
    ax.axvline(0, color="black", linewidth=0.6)
    ax.set_xlabel("balance: yours minus Kahneman-Tversky")
    return fig


def weights(utilities: dict[str, Utility], xs: dict[str, Tensor]) -> plots.plt.Figure:
    """The weight of the examples that the end of training meets, in ten groups of equal size by their x."""
    fig, (ax,) = plots.figure(1, 1, 7.5, 3.6)
    for name, utility in utilities.items():
        label, colour, marker, line = plots.style(name)
        x = torch.stack([part.mean() for part in xs[name].sort().values.chunk(10)])
        weight = slope(utility, xs[name].sort().values) / slope(utility, torch.zeros(1))
        y = torch.stack([part.mean() for part in weight.chunk(10)])
        ax.plot(x, y, color=colour, linestyle=line, marker=marker, label=label)
    ax.set_xscale("symlog", linthresh=1)
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set(xlabel="x: mean of each tenth of the examples", ylabel="weight, 1 at the start")
    ax.legend(fontsize=8)
    return fig


NOTE = """Balance: 1 is perfect, 0 is no better than before training. ± is a 95% interval over seeds.
Saturated: the share of examples that weigh less than a tenth of what they did at the start. Under flow
matching beta is a quarter. In other worlds all seeds share one pretrained model."""
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 0.5rem 1rem 3rem; }}
img {{ max-width: 100%; background: white; border-radius: 0.3rem; }}
div {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: 0.9rem; }}
th, td {{ padding: 0.2rem 0.6rem; text-align: right; border-bottom: 1px solid gray; white-space: nowrap; }}
th:first-child, td:first-child {{ text-align: left; }}
</style>
{body}
</html>
"""


def _table(header: list[str], lines: list[list[str]]) -> str:
    rows = [("th", header), *(("td", line) for line in lines)]
    cells = ["".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in line) for tag, line in rows]
    return "<div><table>" + "".join(f"<tr>{line}</tr>" for line in cells) + "</table></div>"


def _image(text: str, fig: plots.plt.Figure, caption: str = "") -> str:
    encoded = base64.b64encode(plots.png(fig)).decode()
    image = f'<img alt="{text}" src="data:image/png;base64,{encoded}">'
    return f"<h2>{text}</h2>{image}<p>{html.escape(caption)}</p>"


def write(out: Path, title: str, warnings: list[str], result: dict, world: World) -> list[Path]:
    """Print the verdict, and write out/try.html and out/try-report.json. `result` is trial.study's."""
    rows, betas = result["rows"], result["betas"]
    sentences, titles = trial.verdict(rows, betas), trial.titles(rows)
    print("\n".join(sentences))
    grid = [row["beta"] for row in result["choosing"] if row["name"] == "yours"]
    if betas["yours"] in (min(grid), max(grid)):
        warnings = [*warnings, f"the best beta, {betas['yours']:g}, is at the edge of those tried"]
    theirs = trial.dangers(rows, trial.OTHER)
    for danger, where in trial.dangers(rows).items():
        too = [f"{t} (Kahneman-Tversky's too)" if t in theirs.get(danger, ()) else t for t in where]
        warnings = [*warnings, f"{danger}: {', '.join(too)}"]

    def mean(setting: str, name: str, key: str = "balance") -> tuple[float, float]:
        return interval([r[key] for r in rows if (r["setting"], r["name"]) == (setting, name)])

    def number(pair: tuple[float, float], sign: str = "") -> str:
        return f"{pair[0]:{sign}.3f} ± {pair[1]:.3f}"

    main, summary, shares = [], [], {}
    for name in result["samples"]:
        label, balance = plots.style(name)[0], mean(titles[0], name)
        gap = "" if name == "yours" else number(trial.difference(rows, titles[0], name), "+")
        beta = f"{betas[name]:g}" if name in betas else ""
        saturated = f"{mean(titles[0], name, 'saturated')[0]:.0%}" if beta else ""
        main.append([label, beta, number(balance), gap, saturated])
        summary.append({"name": name, "balance": balance[0], "half_width": balance[1]})
        liked, disliked = (mean(titles[0], name, f"{un}desirable_rate")[0] for un in ("", "un"))
        shares[name] = f"liked {liked:.0%}, disliked {disliked:.1%}"
    elsewhere = [
        [t, *(number(mean(t, name)) for name in shares), number(trial.difference(rows, t, trial.OTHER), "+")]
        for t in titles
    ]
    figures = {
        "Samples of each, over what is liked and disliked, and their balance": plots.comparison(
            result["samples"], shares, summary, world, "dots of one seed"
        ),
        "Yours minus Kahneman-Tversky in every setting, with 95% intervals": differences(rows),
        "Your utility and its slope beside the paper's": plots.utilities(result["utilities"]),
        "How much the examples weigh at the end of training, from lost to won": weights(
            result["utilities"], result["x"]
        ),
    }
    body = [f"<h1>{html.escape(title)}</h1>", *(f"<p>{html.escape(s)}</p>" for s in sentences)]
    if warnings:
        body += ["<h2>Warnings</h2>", f"<ul>{''.join(f'<li>{html.escape(w)}</li>' for w in warnings)}</ul>"]
    body += [f"<h2>{titles[0]}, each at its own best beta</h2>"]
    body += [_table(["", "beta", "balance", "yours minus this", "saturated"], main), f"<p>{NOTE}</p>"]
    body += ["<h2>Elsewhere, at the same beta</h2>"]
    body += [_table(["", *(line[0] for line in main), "yours minus Kahneman-Tversky"], elsewhere)]
    body += [_image(text, fig) for text, fig in figures.items()]
    pushed = plots.paths({f"{titles[0]}, {STEPS} steps": result["paths"]}, "balance", columns=1)
    farthest = farther(result["paths"], "balance", "yours", "diffusion_dpo")
    body += [_image("Pushed farther and farther: how good it is, and how far it goes", pushed, farthest)]
    text = PAGE.format(title=html.escape(title), body="\n".join(body))
    content = {"utility": title, "verdict": sentences, "warnings": warnings, "betas": betas}
    content |= {"choosing": result["choosing"], "rows": rows, "paths": result["paths"]}
    return [
        save_atomically(out / "try.html", lambda temporary: temporary.write_text(text, "utf-8")),
        save_json(out / "try-report.json", content),
    ]
