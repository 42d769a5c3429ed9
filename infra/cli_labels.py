"""`evertune label export`, `import` and `sources`: texts to label as files, and whose labels are believed."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from infra.output import JsonOption, Output

app = typer.Typer(help="Labels: write what to label next to a file, take a file back, see whose labels are believed.")
LoopArgument = Annotated[str, typer.Argument(help="Name of a loop")]
MAX_CANDIDATES = 20_000  # newest texts among which the most useful are found


def add_to(application: typer.Typer) -> None:
    """Give an application the commands of this module."""
    application.add_typer(app, name="label", no_args_is_help=True)


@app.command("export")
def export_texts(
    loop: LoopArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A csv file, or json for Label Studio")],
    n: Annotated[int, typer.Option("--n", min=1, help="How many texts, the most useful first")] = 200,
    as_json: JsonOption = False,
) -> None:
    """Write the texts that a label would help most, in the order of the labelling page; a share is drawn by chance.

    evertune label export product-sentiment texts.csv

    evertune label export product-sentiment tasks.json --n 500
    """
    from configs.load import find_loop
    from infra.preflight import read_settings
    from tasks.core.labelling import order_queue
    from tasks.core.predictor import UNKNOWN
    from tasks.stores.database import open_database
    from tasks.stores.label_files import TextToLabel, labelling_config, write_label_file
    from tasks.stores.labels import Labels

    settings = read_settings()
    config = find_loop(loop, settings.loops_dir)
    rules = config.serving.labelling
    waiting = Labels(open_database(settings.database)).candidates(loop, "", rules, MAX_CANDIDATES)
    texts = {one.prediction_id: one.text for one in waiting.candidates}
    queue = order_queue(waiting.candidates, rules, waiting.known, config.data.feedback.review_share)[:n]
    chosen = [TextToLabel(one.prediction_id, texts[one.prediction_id], one.picked) for one in queue]
    is_studio = file.suffix == ".json"
    write_label_file(chosen, file, "label-studio" if is_studio else "csv")
    output = Output(as_json)
    output.say(f"{len(chosen)} texts of {len(texts)} that wait, written to {file}")
    if is_studio:
        labels = [*config.labels, *([UNKNOWN] if config.unknown else [])]
        output.say(f"Label Studio's labelling interface for them: {labelling_config(labels)}")
    output.say(f"when they are labelled: evertune label import {loop} FILE --by NAME")
    output.finish({"loop": loop, "exported": len(chosen), "waiting": len(texts), "file": str(file)})


@app.command("import")
def import_labels(
    loop: LoopArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The labelled csv, or an export of Label Studio")],
    by: Annotated[str, typer.Option("--by", metavar="NAME", help="Who labelled, where the file does not say")],
    as_json: JsonOption = False,
) -> None:
    """Take labels back as votes of people; where enough agree (serving.labelling), they join the next snapshot.

    evertune label import product-sentiment texts.csv --by ana
    """
    from configs.load import find_loop
    from infra.preflight import read_settings
    from tasks.core.errors import DataError
    from tasks.core.predictor import UNKNOWN
    from tasks.stores.database import open_database
    from tasks.stores.label_files import read_label_file
    from tasks.stores.labels import Labels

    settings = read_settings()
    config = find_loop(loop, settings.loops_dir)
    accepted = [*config.labels, *([UNKNOWN] if config.unknown else [])]
    filed, now = read_label_file(file, accepted), datetime.now(UTC)
    labels, output = Labels(open_database(settings.database)), Output(as_json)
    counts = {"agreed": 0, "open": 0, "disputed": 0, "unknown": 0}
    for one in filed:
        try:
            verdict = labels.add(loop, one.prediction_id, one.labeller or by, one.label, now, config.serving.labelling)
            counts[verdict.outcome] += 1
        except DataError:  # erased or purged since the export
            counts["unknown"] += 1
    output.say(f"{len(filed)} labels read from {file}: {counts['agreed']} on texts that now have their label, "
               f"{counts['open']} on texts that need more votes, {counts['disputed']} on disputed ones, "
               f"{counts['unknown']} of texts that are no longer kept")  # fmt: skip
    output.finish({"loop": loop, "file": str(file), "labels": len(filed), **counts})


@app.command("sources")
def list_sources(loop: LoopArgument, as_json: JsonOption = False) -> None:
    """Show whose labels are believed: keys, their labellers and people, with what reviewers found.

    evertune label sources product-sentiment
    """
    from configs.load import find_loop
    from infra.preflight import read_settings
    from tasks.feedback import judge_feedback
    from tasks.stores.database import open_database

    settings = read_settings()
    config = find_loop(loop, settings.loops_dir)
    trust = judge_feedback(open_database(settings.database), config).trust
    output = Output(as_json)
    ordered = sorted(trust.values(), key=lambda one: (one.standing != "held back", -one.num_labels, one.name))
    for one in ordered:
        output.say(f"{one.standing:10} {one.num_labels:7,} labels  {one.name}: {one.reason}")
    if not ordered:
        output.say(f"nobody has labelled a text of {loop} yet")
    output.finish({"loop": loop, "sources": [vars(one) for one in ordered]})
