"""`evertune keys`: who may call the prediction API, by which plan and how long."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from configs.load import ConfigError
from infra.output import JsonOption, Output

if TYPE_CHECKING:
    from configs.settings import Settings
    from tasks.stores.api_keys import ApiKey, ApiKeys

MAX_NAME = 200
app = typer.Typer(help="Make, list, change, rotate and revoke keys of the prediction API.", no_args_is_help=True)
KeyArgument = Annotated[str, typer.Argument(metavar="ID", help="The id, as `evertune keys list` shows it")]
PlanOption = Annotated[str | None, typer.Option(help="A plan of the plans file")]
UnlimitedOption = Annotated[bool, typer.Option("--unlimited", help="No plan: no limits, and no statement is written")]
ExpiresOption = Annotated[
    str | None, typer.Option(metavar="TIME", help="When it ends, such as 2027-01-31 or 2027-01-31T12:00+01:00; UTC")
]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is")],
    loop: Annotated[list[str] | None, typer.Option(help="Only for this loop; repeatable. Default: every loop")] = None,
    plan: PlanOption = None,
    unlimited: UnlimitedOption = False,
    expires: ExpiresOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key and show its secret, once; without --plan it gets the default plan of the plans file.

    evertune keys create web-shop --loop product-sentiment --plan pro --expires 2027-12-31
    """
    from configs.load import find_loop_file
    from infra.preflight import read_settings

    settings, now = read_settings(), datetime.now(UTC)
    for wanted in loop or []:
        find_loop_file(wanted, settings.loops_dir)
    chosen = _choose_plan(plan, unlimited, settings)
    key, secret = _open_keys(settings).create(
        _read_name(name), loop or None, now, plan=chosen, expires_at=_read_expiry(expires, now)
    )
    output = Output(as_json)
    output.say(f"{secret}\nkey {key.key_id} for {name}: keep it now, it cannot be shown again")
    output.say(describe_terms(key))
    output.finish({**vars(key), "secret": secret})


@app.command(name="list")
def list_keys(as_json: JsonOption = False) -> None:
    """Show every key, revoked ones too, without secrets.

    evertune keys list
    """
    found, now = _keys().list(), datetime.now(UTC)
    output = Output(as_json)
    for key in found:
        state = f"revoked {key.revoked_at:%Y-%m-%d %H:%M}" if key.revoked_at else key.state(now)
        loops = ", ".join(key.loops) if key.loops is not None else "every loop"
        made = f"made {key.created_at:%Y-%m-%d %H:%M}"
        output.say(f"{key.key_id}  {key.name:<20} {loops:<30} {made}  {state:<8} {describe_terms(key)}")
    output.finish([{**vars(key), "state": key.state(now)} for key in found])


@app.command()
def change(
    key_id: KeyArgument,
    plan: PlanOption = None,
    unlimited: UnlimitedOption = False,
    expires: ExpiresOption = None,
    never_expires: Annotated[bool, typer.Option("--never-expires", help="Take the end away")] = False,
    as_json: JsonOption = False,
) -> None:
    """Give a key another plan or end, within seconds; what is not named stays. A month is billed by its dearest plan.

    evertune keys change key_0123456789ab --plan business --never-expires
    """
    from infra.preflight import read_settings

    settings, now = read_settings(), datetime.now(UTC)
    if expires is not None and never_expires:
        raise ConfigError("give either --expires or --never-expires")
    keys = _open_keys(settings)
    known = keys.get(key_id)
    if known is None or known.revoked_at is not None:
        raise _no_such_key(key_id)
    keeps_plan = plan is None and not unlimited
    chosen = known.plan if keeps_plan else _choose_plan(plan, unlimited, settings)
    end = None if never_expires else known.expires_at if expires is None else _read_expiry(expires, now)
    keys.change(key_id, now, plan=chosen, expires_at=end)
    changed = keys.get(key_id)
    assert changed is not None
    output = Output(as_json)
    output.say(f"{key_id} ({changed.name}): {describe_terms(known)} -> {describe_terms(changed)}")
    output.finish({**vars(changed), "state": changed.state(now)})


@app.command()
def rotate(
    key_id: KeyArgument,
    grace_hours: Annotated[
        float, typer.Option(min=0, max=24 * 90, help="How long the secret before it still opens; 0: not at all")
    ] = 24.0,
    as_json: JsonOption = False,
) -> None:
    """Give a key a new secret and show it, once; the one before is good for a time of grace.

    evertune keys rotate key_0123456789ab --grace-hours 48
    """
    now = datetime.now(UTC)
    secret = _keys().rotate(key_id, now, timedelta(hours=grace_hours))
    if secret is None:
        raise _no_such_key(key_id)
    former_until = now + timedelta(hours=grace_hours)
    output = Output(as_json)
    output.say(f"{secret}\nkey {key_id}: keep it now, it cannot be shown again")
    until = f"until {former_until:%Y-%m-%d %H:%M} UTC" if grace_hours else "nothing any more"
    output.say(f"the secret before it opens {until}")
    output.finish({"key_id": key_id, "secret": secret, "former_until": former_until})


@app.command()
def revoke(key_id: KeyArgument) -> None:
    """End a key at once, with every secret it had.

    evertune keys revoke key_0123456789ab
    """
    if not _keys().revoke(key_id, datetime.now(UTC)):
        raise _no_such_key(key_id)
    print(f"{key_id} is revoked")


def describe_terms(key: "ApiKey") -> str:
    """Return plan and end of a key in words."""
    plan = "no plan, no limits" if key.plan is None else f"plan {key.plan}"
    return plan if key.expires_at is None else f"{plan}, until {key.expires_at:%Y-%m-%d %H:%M} UTC"


def _choose_plan(plan: str | None, unlimited: bool, settings: "Settings") -> str | None:
    from configs.plans import load_plans

    if unlimited and plan is not None:
        raise ConfigError("give either --plan or --unlimited")
    if unlimited:
        return None
    plans = load_plans(settings.plans_file)
    return plans.find(plan or plans.default_plan).name


def _read_name(name: str) -> str:
    if not 0 < len(name) <= MAX_NAME or not name.isprintable():  # it is shown on terminals, pages and statements
        raise ConfigError(f"NAME: not a name of a key; accepted: 1 to {MAX_NAME} printable characters")
    return name


def _read_expiry(text: str | None, now: datetime) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"--expires {text}: no date or time; accepted: 2027-01-31, 2027-01-31T12:00+01:00") from error
    if moment <= now:
        raise ConfigError(f"--expires {text}: is past; to end a key now: evertune keys revoke ID")
    return moment


def _no_such_key(key_id: str) -> ConfigError:
    return ConfigError(f"no valid key '{key_id}'; see: evertune keys list")


def _keys() -> "ApiKeys":
    from infra.preflight import read_settings

    return _open_keys(read_settings())


def _open_keys(settings: "Settings") -> "ApiKeys":
    from tasks.stores.api_keys import ApiKeys
    from tasks.stores.database import open_database

    return ApiKeys(open_database(settings.database))
