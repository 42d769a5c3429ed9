"""`evertune keys` and `evertune usage`: who may call the prediction API, and who called it how much."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from configs.load import ConfigError
from infra.output import JsonOption, Output

if TYPE_CHECKING:
    from tasks.stores.api_keys import ApiKeys

app = typer.Typer(help="Make, list and revoke keys of the prediction API.", no_args_is_help=True)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is")],
    loop: Annotated[list[str] | None, typer.Option(help="Only for this loop; repeatable. Default: every loop")] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key and show its secret, once.

    evertune keys create web-shop --loop product-sentiment
    """
    from configs.load import find_loop_file
    from infra.preflight import read_settings

    settings = read_settings()
    for wanted in loop or []:
        find_loop_file(wanted, settings.loops_dir)
    key, secret = _keys().create(name, loop or None, datetime.now(UTC))
    output = Output(as_json)
    output.say(f"{secret}\nkey {key.key_id} for {name}: keep it now, it cannot be shown again")
    output.finish({"key_id": key.key_id, "name": key.name, "loops": key.loops, "secret": secret})


@app.command(name="list")
def list_keys(as_json: JsonOption = False) -> None:
    """Show every key, revoked ones too, without secrets.

    evertune keys list
    """
    found = _keys().list()
    output = Output(as_json)
    for key in found:
        state = f"revoked {key.revoked_at:%Y-%m-%d %H:%M}" if key.revoked_at else "valid"
        loops = ", ".join(key.loops) if key.loops is not None else "every loop"
        output.say(f"{key.key_id}  {key.name:<20} {loops:<30} made {key.created_at:%Y-%m-%d %H:%M}  {state}")
    output.finish([vars(key) for key in found])


@app.command()
def revoke(key_id: Annotated[str, typer.Argument(help="The id, as `evertune keys list` shows it")]) -> None:
    """End a key at once.

    evertune keys revoke key_0123456789ab
    """
    if not _keys().revoke(key_id, datetime.now(UTC)):
        raise ConfigError(f"no valid key '{key_id}'; see: evertune keys list")
    print(f"{key_id} is revoked")


def usage(
    key: Annotated[str | None, typer.Option(help="Only this key's id")] = None,
    days: Annotated[int, typer.Option(min=1, max=3660, help="How many days back")] = 30,
    as_json: JsonOption = False,
) -> None:
    """Show requests and texts per key, loop and day.

    evertune usage --days 7
    """
    from infra.preflight import read_settings
    from tasks.stores.database import open_database
    from tasks.stores.prediction_log import PredictionLog

    now = datetime.now(UTC)
    log = PredictionLog(open_database(read_settings().database))
    rows = log.usage(key, now - timedelta(days=days), now).to_dict("records")
    output = Output(as_json)
    for row in rows:
        output.say("  ".join(str(value) for value in row.values()))
    if not rows:
        output.say(f"no request in the last {days} days")
    output.finish(rows)


def _keys() -> "ApiKeys":
    from infra.preflight import read_settings
    from tasks.stores.api_keys import ApiKeys
    from tasks.stores.database import open_database

    return ApiKeys(open_database(read_settings().database))
