"""Results in Markdown tables laid out as in Li et al. 2024, with the paper's win rates beside ours."""

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
    """Tables of win rates against each model, mean scores, and win rates by style; 95% intervals."""
    scorers = sorted({row["scorer"]: 0 for row in rows}, key=lambda s: ORDER.index(s) if s in ORDER else 9)
    styles = [style for style in dict.fromkeys(row["style"] for row in rows) if style]
    by_key = {(row["scorer"], row["style"], row["model"]): row for row in rows}
    first, *others = dict.fromkeys(row["model"] for row in rows)

    def wins(title: str, style: str) -> str:
        table = {}
        for model in others:
            cells = []
            for scorer in scorers:
                row = by_key[scorer, style, model]
                rate, low, high, ties = (100 * row[k] for k in ("win_rate", "low", "high", "ties"))
                cell = f"{rate:.1f} [{low:.1f}, {high:.1f}]" + (f", {ties:.0f}% ties" if ties else "")
                if not style and model in PAPER and scorer in ORDER:
                    cell += f"; paper {PAPER[model][ORDER.index(scorer)]}"
                cells.append(cell)
            table[f"vs {model}"] = cells
        return _table(f"Win rate of {first} in percent{title}", scorers, table)

    count = {style: by_key[scorers[0], style, first]["prompts"] for style in ("", *styles)}
    means = {}
    for model in (first, *others):
        cells = [by_key[scorer, "", model] for scorer in scorers]
        means[model] = ["{mean:.4g} ± {half_width:.2g}".format(**cell) for cell in cells]
    tables = [_table(f"Mean score over {count['']} prompts", scorers, means)]
    if others:
        tables.insert(0, wins(f", by the median image of each of {count['']} prompts", ""))
        tables += [wins(f" on the {count[style]} prompts of style {style}", style) for style in styles]
    return "\n".join(tables)


def _table(title: str, columns: list[str], rows: dict[str, list[str]]) -> str:
    lines = [["", *columns], ["---"] * (len(columns) + 1)]
    lines += [[name, *cells] for name, cells in rows.items()]
    escaped = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    body = "\n".join("| " + " | ".join(line) + " |" for line in escaped)
    return f"{title}\n\n{body}\n"
