"""Every picture of the project: one house style, the same colour for the same objective.

The colours are Okabe and Ito's, told apart by colour-blind readers; markers and line styles repeat
what they say, for prints in grey.
"""

import io
import math
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from toy.data import World
from toy.files import save_atomically
from toy.seeds import generator
from toy.statistics import interval
from toy.utilities import Utility, slope

# name -> (label, colour, marker, line style); a user's own utility is drawn as "yours"
STYLES = {
    "pretrained": ("pretrained", "#777777", "o", "-"),
    "sft": ("SFT", "#56B4E9", "s", "-"),
    "csft": ("CSFT", "#999933", "P", "--"),
    "diffusion_dpo": ("Diffusion-DPO", "#E69F00", "D", "-."),
    "pairwise": ("any utility on pairs", "#5D3A9B", "p", (0, (3, 1))),
    "smpo": ("SmPO", "#882255", "X", ":"),
    "loss_averse": ("loss-averse", "#D55E00", "v", "--"),
    "risk_seeking": ("risk-seeking, as printed", "#CC79A7", "<", ":"),
    "risk_seeking_bounded": ("risk-seeking, bounded", "#009E73", "^", "-."),
    "kahneman_tversky": ("Kahneman-Tversky", "#0072B2", "o", "-"),
    "linear": ("linear", "#777777", "h", (0, (1, 1))),
    "prospect_theory": ("prospect theory 1992", "#B8860B", "*", (0, (5, 1))),
    "yours": ("yours", "#000000", "d", (0, (4, 1, 1, 1))),
}
LIKED, DISLIKED = ("#F0E442", "solid"), ("#AAAAAA", "dashed")  # fill and outline of the two areas


def style(name: str) -> tuple[str, str, str, object]:
    """Label, colour, marker and line style of an objective or a utility."""
    return STYLES[name] if name in STYLES else (name, *STYLES["yours"][1:])


def figure(rows: int, columns: int, width: float, height: float, **options):
    """A figure in the house style: (figure, flat array of axes); every panel width x height inches."""
    size = (columns * width, rows * height)
    fig, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False, **options)
    fig.get_layout_engine().set(h_pad=0.1, w_pad=0.06)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25, linewidth=0.5)
        ax.set_axisbelow(True)
    return fig, axes.flatten()


def png(fig: plt.Figure, dpi: int = 110) -> bytes:
    """A figure as a PNG of 256 colours, which takes a third of the space; closes the figure."""
    file, small = io.BytesIO(), io.BytesIO()
    fig.savefig(file, format="png", dpi=dpi)
    plt.close(fig)
    colours = {"method": Image.Quantize.FASTOCTREE, "dither": Image.Dither.NONE}  # it keeps rare ones
    Image.open(file).convert("RGB").quantize(256, **colours).save(small, "PNG", optimize=True)
    return small.getvalue()


def save(fig: plt.Figure, path: str | Path) -> Path:
    """Save a figure as PNG, whole or not at all, and close it."""
    content = png(fig)
    return save_atomically(Path(path), lambda temporary: temporary.write_bytes(content))


@lru_cache
def extent(world: World) -> tuple[float, float, float, float]:
    """(left, right, bottom, top) around what the world holds, with a margin, for every panel alike."""
    x = torch.cat(
        [draw(2000, generator("extent", 0)) for draw in (world.base, world.desirable, world.undesirable)]
    )
    low, high = x.quantile(0.002, dim=0), x.quantile(0.998, dim=0)
    margin = 0.12 * (high - low)
    (left, bottom), (right, top) = (low - margin).tolist(), (high + margin).tolist()
    return left, right, bottom, top


def shade(world: World, window: tuple[float, float, float, float]) -> Callable[[plt.Axes], None]:
    """A function that shades on any axes where the liked and the disliked points are: the darker area
    holds half of them, both areas together 95%. A dotted line bounds what is judged as disliked."""
    bins = [np.linspace(*window[:2], 61), np.linspace(*window[2:], 61)]
    x, y = ((edges[:-1] + edges[1:]) / 2 for edges in bins)
    areas = []
    for draw, (colour, line) in ((world.undesirable, DISLIKED), (world.desirable, LIKED)):
        density = np.histogram2d(*draw(40_000, generator("shade", 0)).numpy().T, bins=bins)[0]
        for axis in (0, 1) * 3:  # a binomial blur, so that the outlines are not ragged
            density = (np.roll(density, 1, axis) + 2 * density + np.roll(density, -1, axis)) / 4
        ordered = np.sort(density.ravel())[::-1]
        mass = np.cumsum(ordered) / ordered.sum()
        areas.append(
            (density.T, [ordered[np.searchsorted(mass, share)] for share in (0.95, 0.5)], colour, line)
        )

    across, up = torch.meshgrid(
        torch.linspace(*window[:2], 200), torch.linspace(*window[2:], 200), indexing="xy"
    )
    disliked = world.is_undesirable(torch.stack([across, up], -1).reshape(-1, 2)).view(200, 200).float()

    def draw_on(ax: plt.Axes) -> None:
        for density, levels, colour, line in areas:
            for level in levels:
                ax.contourf(x, y, density, [level, np.inf], colors=[colour], alpha=0.25)
            ax.contour(x, y, density, levels[:1], colors=["#444444"], linewidths=1.1, linestyles=line)
        ax.contour(across, up, disliked, [0.5], colors=["#444444"], linewidths=0.9, linestyles="dotted")

    return draw_on


def draw_samples(ax: plt.Axes, samples: Tensor, world: World, name: str, shading=None) -> None:
    """One panel: samples over the world's liked and disliked areas, and how many lie outside."""
    left, right, bottom, top = window = extent(world)
    label, colour, *_ = style(name)
    (shading or shade(world, window))(ax)
    x, y = samples.T
    inside = (x > left) & (x < right) & (y > bottom) & (y < top)  # nan is outside
    dots = ax.scatter(x[inside], y[inside], s=2.5, color=colour, alpha=0.35, linewidths=0)
    dots.set_in_layout(False)  # it cannot stick out, and measuring it is slow
    outside = 1 - inside.float().mean().item()
    if outside > 0.02:
        box = dict(facecolor="white", edgecolor=colour, boxstyle="round")
        text = f"{outside:.0%} of samples\noutside this picture"
        ax.text(0.5, 0.12, text, transform=ax.transAxes, ha="center", va="center", fontsize=9, bbox=box)
    ax.set(xlim=window[:2], ylim=window[2:], title=label)
    ax.set_aspect("equal")
    ax.grid(False)


def draw_balance(ax: plt.Axes, summary: list[dict], copy: float | None = None) -> None:
    """A dot with its 95% interval for each entry {name, balance, half_width}, best on top, and a line
    for the balance of a perfect copy of the liked points."""
    ordered = sorted(summary, key=lambda entry: entry["balance"])
    for place, entry in enumerate(ordered):
        label, colour, marker, _ = style(entry["name"])
        balance, half_width = entry["balance"], np.nan_to_num(entry["half_width"])
        ax.errorbar(balance, place, xerr=half_width, color=colour, marker=marker, markersize=7, capsize=3)
        align = {"ha": "right" if balance > 0.5 else "left", "fontsize": 8}
        ax.text(balance + (0.06 if balance > 0.5 else -0.02), place + 0.27, label, **align)
    ax.set(xlim=(-0.05, 1.05), ylim=(-0.5, len(ordered) - 0.2), yticks=[], title="balance")
    ax.set_xlabel("0: no better than pretrained, or worse", fontsize=9)
    if copy is not None:
        ax.axvline(copy, color="#444444", linestyle=":", linewidth=1.2)
        ax.set_xlabel(
            "0: no better than pretrained, or worse\ndotted: a perfect copy of what is liked", fontsize=9
        )


def comparison(
    samples: dict[str, Tensor],
    numbers: dict[str, str],
    summary: list[dict],
    world: World,
    note: str,
    copy: float | None = None,
) -> plt.Figure:
    """Panels of samples, one per name, each with its lines of numbers, and the balance of them all."""
    columns = math.ceil((len(samples) + 1) / 2)
    fig, axes = figure(2, columns, 3.0, 3.4)
    shading = shade(world, extent(world))
    for ax, (name, points) in zip(axes, samples.items(), strict=False):
        draw_samples(ax, points, world, name, shading)
        ax.set_xlabel(numbers[name], fontsize=9)
    for ax in axes[len(samples) + 1 :]:
        ax.set_visible(False)
    draw_balance(axes[len(samples)], summary, copy)
    fig.suptitle(note, fontsize=10)
    return fig


def utilities(named: dict[str, Utility]) -> plt.Figure:
    """U(x) - U(0) and the slope U'(x) of each utility: the paper's Figures 3 and 9. With the sign
    outside, a disliked example has the value -U(-x): a second curve, with markers on both."""
    x = torch.linspace(-6, 6, 481)
    fig, axes = figure(1, 2, 5.6, 4.4)
    for name, utility in named.items():
        label, colour, marker, line = style(name)
        curves = [(label, utility(x) - utility(torch.zeros(1)), slope(utility, x))]
        options = {"color": colour, "linestyle": line}
        if getattr(utility, "sign_outside", False):
            curves = [(f"{label}: liked", *curves[0][1:])]
            curves += [(f"{label}: disliked", utility(torch.zeros(1)) - utility(-x), slope(utility, -x))]
            options |= {"linestyle": "none", "marker": marker, "markevery": 24, "markersize": 4}
        for text, value, weight in curves:
            axes[0].plot(x, value, label=text, **options)
            axes[1].plot(x, weight, label=text, **options)
            options["fillstyle"] = "none"
    axes[0].set(title="utility, centred", xlabel="x", ylabel="U(x) - U(0)", ylim=(-6, 6))
    axes[1].set(title="slope: the weight of an example", xlabel="x", ylabel="U'(x)", ylim=(-0.1, 2.4))
    axes[0].legend(fontsize=9)
    for ax in axes:
        ax.axvline(0, color="black", linewidth=0.6)
    return fig


KNOBS = {"gamma": "gamma: share of liked examples", "beta": "beta", "flipped": "share of labels flipped"}


def sweep(
    curves: dict[str, dict[str, list[tuple[float, float, float]]]],
    bars: list[dict],
    note: str,
    copy: float | None = None,
) -> plt.Figure:
    """curves[knob][name] = [(value, balance, half width), ...] as lines with bands, and bars as dots."""
    fig, axes = figure(1, len(curves) + 1, 3.5, 3.8)
    for ax, (knob, lines) in zip(axes, curves.items(), strict=False):
        if knob == "beta":
            ax.set_xscale("log", base=2)
        for name, points in lines.items():
            label, colour, marker, line = style(name)
            value, mean, half_width = np.array(points).T
            ax.plot(value, mean, color=colour, linestyle=line, marker=marker, label=label)
            ax.fill_between(
                value, mean - half_width, mean + half_width, color=colour, alpha=0.15, linewidth=0
            )
        ax.set(xlabel=KNOBS[knob], ylabel="balance", ylim=(-0.03, 1.0))
        ax.set_xticks(value, [f"{v:g}" for v in value])
    handles = {text: h for ax in axes for h, text in zip(*ax.get_legend_handles_labels(), strict=True)}
    fig.legend(handles.values(), handles, loc="outside lower center", ncols=len(handles), fontsize=9)
    draw_balance(axes[-1], bars, copy)
    fig.suptitle(note, fontsize=10)
    return fig


def paths(panels: dict[str, list[dict]], score: str, columns: int) -> plt.Figure:
    """Score against how far the policy has moved, in a panel for each title, from rows as in toy/breaks.py:
    means over seeds at each step, with their 95% intervals. A column has the same names in all its panels."""
    fig, axes = figure(len(panels) // columns, columns, 4.2, 3.2, sharex=True, sharey=True)
    for ax, (title, rows) in zip(axes, panels.items(), strict=True):
        names = list(dict.fromkeys(row["name"] for row in rows))
        others = [name for name in names if name not in STYLES]  # which have colours of no objective
        shades = dict(zip(others, plt.get_cmap("viridis")(np.linspace(0, 0.85, len(others))), strict=True))
        for name in names:
            label, colour, marker, line = style(name)
            if name in shades:
                label, colour, marker = (
                    label.replace("_", " "),
                    shades[name],
                    "ovs^Dp<"[others.index(name) % 7],
                )
            mine = [row for row in rows if row["name"] == name and row["step"] > 0]
            steps = [[row for row in mine if row["step"] == s] for s in sorted({r["step"] for r in mine})]
            x = [math.exp(interval([math.log(row["moved"]) for row in step])[0]) for step in steps]
            mean, half_width = np.array([interval([row[score] for row in step]) for step in steps]).T
            ax.plot(x, mean, color=colour, linestyle=line, marker=marker, markersize=4, label=label)
            ax.fill_between(x, mean - half_width, mean + half_width, color=colour, alpha=0.15, linewidth=0)
        ax.set_title(title, fontsize=10)
    moved = [row["moved"] for rows in panels.values() for row in rows if row["step"] > 0]
    axes[0].set(
        xscale="log", ylim=(-0.03, 1.03), xlim=np.quantile(moved, (0.03, 0.95))
    )  # some go off to 10^4
    for ax in axes[-columns:]:
        ax.set_xlabel("how far the policy has moved")
        ax.legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    for ax in axes[::columns]:
        ax.set_ylabel(score)
    return fig
