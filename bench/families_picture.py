"""The table and the picture of bench/families.py, from the facts that its parts left."""

import json
import math
from collections import defaultdict

from pronk.evals.plots import INKS, ON_LIGHT, STYLES, draw, dress

GROUPS = {
    "recurrent": ("rnn", "lstm", "gru", "gru with attention"),
    "attention to all": ("transformer 2017", "gpt", "gpt2", "llama", "llama, 2 kv heads", "phi", "qwen3"),
    "attention within 64 tokens": ("gpt-neo", "mistral"),
}


def gathered(folder, names):
    """One dict a family; losses and recalls of several seeds are averaged, with each seed's own beside them."""
    found = {}
    for name in names:
        parts = [json.loads(file.read_text()) for file in sorted(folder.glob(f"*-{name}-[0-9]*.json"))]
        losses = [part["loss"] for part in parts if part["part"] == "loss"]
        recalls = [part["recall"] for part in parts if part["part"] == "recall"]
        if not losses or not recalls:
            continue
        facts = {key: value for part in parts for key, value in part.items() if key not in ("seed", "part", "name")}
        facts |= {"loss": sum(losses) / len(losses), "losses": losses, "recalls": recalls}
        facts["recall"] = {d: sum(one[d] for one in recalls) / len(recalls) for d in recalls[0]}
        found[name] = facts
    return found


def table(found):
    head = f"{'':20} {'parameters':>11} {'loss':>7} {'tok/s':>10} {'decode':>9} {'MiB':>7} {'state KiB':>10}  recall"
    lines = [head]
    for name, f in found.items():
        speeds = [f.get(key, math.nan) for key in ("tokens_per_second", "decoded_per_second", "mib", "state_kib")]
        figures = "{:>10,.0f} {:>9,.0f} {:>7,.0f} {:>10,.1f}".format(*speeds)
        recall = " ".join(f"{distance}:{share:.2f}" for distance, share in f["recall"].items())
        lines.append(f"{name:20} {f['parameters']:>11,} {f['loss']:7.4f} {figures}  {recall}")
    return "\n".join(lines)


def show(folder, names):
    """Writes families.json beside the folder of parts, prints the table, and draws where matplotlib is installed."""
    found = gathered(folder, names)
    facts = json.loads((folder / "device.json").read_text()) | {"families": found}
    (folder.parent / "families.json").write_text(json.dumps(facts, indent=2) + "\n")
    print(facts["device"], "torch", facts["torch"])
    print(table(found))
    picture(found, folder.parent / "families.png")


def picture(found, path):
    """Above: loss, speeds and state of each family; below: recall against distance, a curve a family."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print(f"{path}: not drawn, matplotlib is not installed here (--part draw does it elsewhere)")
        return
    figure = Figure(figsize=(12, 8.4), dpi=130, layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1.0, 1.05))
    dots(above.subplots(1, 3, sharey=True), found)
    axes = below.subplots(1, 3, sharey=True)
    for one, (group, names) in zip(axes, GROUPS.items()):
        if there := [name for name in names if name in found]:
            curves(one, group, there, found)
    axes[0].set_ylabel("share of right answers", fontsize=9, color=INKS[False][0])
    figure.savefig(path)


def dots(axes, found):
    """Three rows of dots with the families' names at the left."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    names = list(found)[::-1]
    places = range(len(names))
    panels = defaultdict(dict)
    panels["validation loss, nats a token"] = {"": "loss"}
    panels["tokens a second"] = {"training": "tokens_per_second", "decoding, 64 at once": "decoded_per_second"}
    panels["kept of 4,096 tokens while decoding, KiB"] = {"": "state_kib"}
    for one, (title, keys) in zip(axes, panels.items()):
        dress(one, title, "", "", dark=False)
        one.grid(axis="x", color=INKS[False][1], linewidth=0.8)
        for number, (label, key) in enumerate(keys.items()):
            values = [found[name].get(key, math.nan) for name in names]
            one.plot(values, places, "os"[number], color=ON_LIGHT[number], label=label, markersize=6)
        one.margins(x=0.06)
        if "loss" in title:
            continue
        one.set_xscale("log")
        one.xaxis.set_major_locator(LogLocator(subs=(1, 3) if "KiB" in title else (1, 2, 5)))
        one.xaxis.set_major_formatter(FuncFormatter(short))
        one.xaxis.set_minor_formatter(NullFormatter())
        if len(keys) > 1:
            one.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=2)
    axes[0].set_yticks(list(places), names)


def short(number, _):
    return f"{number / 1e6:g}M" if number >= 1e6 else f"{number / 1e3:g}k" if number >= 1e3 else f"{number:g}"


def curves(axes, group, names, found):
    dress(axes, f"recall: {group}", "", "tokens since the fact was stated", dark=False)
    for number, name in enumerate(names):
        distances = [math.log2(int(distance)) for distance in found[name]["recall"]]
        draw(axes, name, distances, list(found[name]["recall"].values()), ON_LIGHT[number % 7], STYLES[number % 7])
    ticks = sorted({int(distance) for name in names for distance in found[name]["recall"]})
    axes.set_xticks([math.log2(tick) for tick in ticks], [f"{tick:,}" for tick in ticks])
    axes.axhline(1 / 8, color=INKS[False][0], linewidth=0.8, linestyle=":")
    axes.set_ylim(0, 1.04)
    axes.margins(x=0.03)
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3)
