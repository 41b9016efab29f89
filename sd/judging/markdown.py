"""Results as Markdown tables, laid out like those of Li et al. 2024, with their win rates beside ours."""

ORDER = ("aesthetic", "pickscore", "imagereward", "clip", "hpsv2")  # the paper's columns; others follow
# win rate of Diffusion-KTO (SD v1-5) in percent, on the test prompts of Pick-a-Pic v2 (Tables 1 and 3)
PAPER = {
    "sd15": (86.0, 85.2, 87.2, 62.0, 62.0),
    "sft": (56.4, 72.8, 64.8, 64.8, 54.6),
    "csft": (50.6, 73.6, 65.2, 62.8, 60.4),
    "alignprop": (86.8, 96.6, 84.4, 96.2, 90.2),
    "d3po": (68.0, 73.6, 71.6, 56.8, 55.6),
    "dpo": (74.2, 61.8, 78.4, 53.2, 51.6),
}


def markdown(rows: list[dict]) -> str:
    """Win rates against each model, means of each, and win rates by style; intervals are 95% over prompts."""
    scorers = sorted({row["scorer"]: 0 for row in rows}, key=lambda s: ORDER.index(s) if s in ORDER else 9)
    styles = [style for style in dict.fromkeys(row["style"] for row in rows) if style]
    by_key = {(row["scorer"], row["style"], row["model"]): row for row in rows}
    first, *others = dict.fromkeys(row["model"] for row in rows)

    def wins(model: str, style: str, paper: bool) -> list[str]:
        cells = []
        for scorer in scorers:
            row = by_key[scorer, style, model]
            rate, low, high, ties = (100 * row[k] for k in ("win_rate", "low", "high", "ties"))
            cell = f"{rate:.1f} [{low:.1f}, {high:.1f}]" + (f", {ties:.0f}% ties" if ties else "")
            if paper and model in PAPER and scorer in ORDER:
                cell += f"; paper {PAPER[model][ORDER.index(scorer)]}"
            cells.append(cell)
        return cells

    def means(model: str) -> list[str]:
        return ["{mean:.4g} ± {half_width:.2g}".format(**by_key[scorer, "", model]) for scorer in scorers]

    prompts = by_key[scorers[0], "", first]["prompts"]
    parts = []
    if others:
        text = f"Win rate of {first} in percent, by the median image of each of {prompts} prompts"
        parts.append((text, [f"vs {m}" for m in others], [wins(m, "", True) for m in others]))
    parts.append(
        (f"Mean score over {prompts} prompts", [first, *others], [means(m) for m in (first, *others)])
    )
    for style in styles if others else []:
        count = by_key[scorers[0], style, first]["prompts"]
        text = f"Win rate of {first} in percent on the {count} prompts of style {style}"
        parts.append((text, [f"vs {m}" for m in others], [wins(m, style, False) for m in others]))
    return "\n".join(_table(text, scorers, names, cells) for text, names, cells in parts)


def _table(title: str, columns: list[str], names: list[str], cells: list[list[str]]) -> str:
    lines = [["", *columns], ["---"] * (len(columns) + 1)]
    lines += [[name, *row] for name, row in zip(names, cells, strict=True)]
    escaped = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    body = "\n".join("| " + " | ".join(line) + " |" for line in escaped)
    return f"{title}\n\n{body}\n"
