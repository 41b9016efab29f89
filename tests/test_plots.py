"""Pictures: the same colour for the same objective, and nothing hidden."""

import matplotlib
import pytest
import torch

matplotlib.use("Agg")

from toy import plots
from toy.data import figure6, grid, liked_region
from toy.objectives import OBJECTIVES
from toy.utilities import UTILITIES


def test_every_objective_and_utility_has_a_style_of_its_own():
    names = {*OBJECTIVES, *UTILITIES} - {"diffusion_kto"}
    assert names <= set(plots.STYLES)
    drawn = [(colour, marker) for _, colour, marker, _ in plots.STYLES.values()]
    assert len(set(drawn)) == len(drawn)
    assert plots.style("my_own")[0] == "my_own"


def test_samples_outside_the_window_are_counted_in_words():
    world = figure6()
    points = torch.cat(
        [torch.full((60, 2), 0.5), torch.full((20, 2), 99.0), torch.full((20, 2), float("nan"))]
    )
    _, axes = plots.figure(1, 1, 3, 3)
    plots.draw_samples(axes[0], points, world, "sft")
    assert [text.get_text() for text in axes[0].texts] == ["40% of samples\noutside this picture"]
    assert len(axes[0].collections[-1].get_offsets()) == 60
    assert axes[0].get_title() == "SFT"


def test_axes_have_names_and_saving_makes_a_png(tmp_path):
    fig = plots.utilities(UTILITIES)
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in fig.axes)
    assert plots.save(fig, tmp_path / "u.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("world", [figure6(), liked_region("corner", grid(), lambda x: x[:, 0] > 0)])
def test_the_window_holds_the_world(world):
    left, right, bottom, top = plots.extent(world)
    x = world.base(1000, torch.Generator().manual_seed(0))
    inside = (x[:, 0] > left) & (x[:, 0] < right) & (x[:, 1] > bottom) & (x[:, 1] < top)
    assert inside.float().mean() > 0.98
