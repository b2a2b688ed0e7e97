"""`hcnn-fast info`: versions, backends, shipped models and data sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hcnn_fast import data, models
from hcnn_fast.backends import build_info
from hcnn_fast.cli.failures import one_line
from hcnn_fast.evaluation import Proportion
from hcnn_fast.models.registry import TRAINED


def info(
    data_root: Annotated[Path | None, typer.Option(help="Folder of the data sets.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Show versions, what was compiled, which backends can run, models and data sets."""
    found = {
        "build": build_info(),
        "models": {name: _card(name) for name in TRAINED},
        "datasets": {name: _splits(name, data_root) for name in data.NAMES},
        "data_root": str(data.data_root(data_root)),
    }
    if json_output:
        print(json.dumps(found, indent=2))
        return
    console = Console()
    for title, entries in _sections(found):
        table = Table(title=title, title_justify="left", show_header=False)
        for name, value in entries.items():
            table.add_row(Text(name), Text(value))
        console.print(table)


def _card(name: str) -> dict[str, Any]:
    try:
        return models.card(name)
    except (OSError, ValueError) as error:
        return {"missing": one_line(str(error))}


def _splits(name: str, root: Path | None) -> dict[str, Any]:
    """Number of images of each split, or why it cannot be read."""
    found: dict[str, Any] = {}
    for split in ("test",) if name.endswith("-sample") else ("train", "test"):
        try:
            found[split] = len(data.load(name, split, root))
        except (OSError, ValueError, ImportError) as error:
            found[split] = one_line(str(error))
    return found


def _sections(found: dict[str, Any]) -> list[tuple[str, dict[str, str]]]:
    build = dict(found["build"])
    sections = [("Backends", {k: str(v) for k, v in build.pop("backends").items()})]
    compiled, products = build.pop("compiled"), build.pop("cuda_float32_products")
    versions = {name: str(value) for name, value in build.items()}
    versions |= {f"CUDA float32: {name}": value for name, value in products.items()}
    versions |= {f"compiled: {name}": str(value) for name, value in compiled.items()}
    sections.insert(0, ("Versions", versions))
    for name, card in found["models"].items():
        sections.append((f"Model {name}", _card_lines(card)))
    splits = {
        f"{name}:{split}": f"{size} images" if isinstance(size, int) else size
        for name, sizes in found["datasets"].items()
        for split, size in sizes.items()
    }
    return [*sections, (f"Data sets in {found['data_root']}", splits)]


def _card_lines(card: dict[str, Any]) -> dict[str, str]:
    """What matters most on a card; --json shows all of it."""
    if "missing" in card:
        return {"missing": str(card["missing"])}
    recipe = card["recipe"]
    lines = {
        "architecture": f"{card['architecture']}, {card['parameters']:,} parameters",
        "input": f"{'x'.join(map(str, card['input_shape']))} in {card['bounds']}",
        "trained": f"{recipe['method']}, on {card['train_images']:,} images of {card['data']}",
    }
    if recipe["radius"] > 0:
        lines["trained"] += f", l_inf radius {recipe['radius']:g}"
    if "rejection" in card:
        rejection = card["rejection"]
        kept = f"{rejection['true_positive_rate']:.0%} of the right answers"
        lines["threshold"] = f"confidence {rejection['threshold']:.3f} keeps {kept}"
    test = card["test"]
    for key, name in (("clean", "clean"), ("pgd20", "PGD-20"), ("pgd50", "PGD-50")):
        if test is not None:
            attack = "" if key == "clean" else f" at radius {test['radius']:g}"
            rate = Proportion(test[key]["count"], test[key]["total"])
            lines[f"test accuracy, {name}{attack}"] = str(rate)
    return lines
