"""The command line of medssl-eval, put together from `commands`."""

from __future__ import annotations

import sys

from medssl_data.opening import open_datasets
from medssl_models.console import create_app, examples, run
from medssl_models.experiments.command import add_commands
from medssl_models.experiments.registry import experiments_of_others

from medssl_eval.commands.compare import compare
from medssl_eval.commands.demo import demo
from medssl_eval.commands.extract import extract
from medssl_eval.commands.matrix import matrix
from medssl_eval.commands.protocol import protocol_app
from medssl_eval.commands.rank import rank
from medssl_eval.commands.report import report
from medssl_eval.experiments.declarations import FEW_SHOT, FINETUNE, KNN, LINEAR

__all__ = ["app", "main"]

SHOW = ("few-shot -m random_r18 -m random_r50 -d folder:scans --shots 1,5,20", "demo")

app = create_app(
    "medssl-eval",
    "How well pretrained backbones separate the classes of your images.",
    epilog=examples(*(f"medssl-eval {line}" for line in SHOW)),
)
app.command(
    epilog=examples("medssl-eval extract -m random_r18 -d folder:scans --precision bf16"),
)(extract)
add_commands(app, (FEW_SHOT, LINEAR, FINETUNE, KNN), open_datasets)
app.command(
    epilog=examples(
        "medssl-eval compare moco-v2 supervised_r50 -d shenzhencxr --metric auroc",
        "medssl-eval compare --against best --plot ranks.png",
        "medssl-eval compare --published",
    ),
)(compare)
app.command(
    epilog=examples(
        "medssl-eval rank scans --budget 10m",
        "medssl-eval rank pneumoniamnist.npz -m moco-v2 -m random_r50 --budget none",
    ),
)(rank)
app.command(
    epilog=examples(
        "medssl-eval matrix plan.toml --dry-run",
        "medssl-eval matrix plan.toml --executor ray --address auto",
    ),
)(matrix)
app.add_typer(protocol_app, name="protocol")
app.command(
    epilog=examples(
        "medssl-eval report results.jsonl -o report.html",
        "medssl-eval report --published --format latex -o study.tex",
    ),
)(report)
app.command(epilog=examples("medssl-eval demo", "medssl-eval demo --output somewhere --seed 1"))(
    demo
)


# Experiments of other packages than ours are commands here, so that they need no command line.
_TAKEN = {command.name for command in app.registered_commands}
add_commands(app, [one for one in experiments_of_others() if one.name not in _TAKEN], open_datasets)


def main() -> None:
    """Run the command line; the entry point of the distribution."""
    sys.exit(run(app))


if __name__ == "__main__":
    main()
