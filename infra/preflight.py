"""What must hold before a stack starts: every problem found at once, one line each."""

import json
import tomllib
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement
from pydantic import ValidationError

from configs.load import ConfigError, list_loop_files, load_all_loops
from configs.plans import load_plans
from configs.schema import Loop
from configs.settings import Settings
from infra.environment import ROOT
from infra.ports import find_port_problems
from infra.servers import Server, list_ports


def read_settings() -> Settings:
    """Return the settings; raises ConfigError with one line per wrong variable."""
    try:
        return Settings()
    except ValidationError as error:
        lines = [
            f"EVERTUNE_{str(problem['loc'][0]).upper()}: {problem['msg']} (got {problem['input']!r})"
            for problem in error.errors(include_url=False)
        ]
        raise ConfigError("\n".join(lines)) from None


def check(settings: Settings, servers: list[Server]) -> list[Loop]:
    """Return the loops; raises ConfigError naming every missing package, wrong YAML key and taken port."""
    problems = find_package_problems()
    loops: list[Loop] = []
    try:
        loops = load_all_loops(settings.loops_dir)
    except ConfigError as error:
        problems += str(error).splitlines()
    problems += find_label_problems(loops, settings)
    problems += find_plan_problems(settings)
    problems += find_port_problems(settings.host, list_ports(servers))
    if problems:
        raise ConfigError("\n".join(problems))
    return loops


def find_label_problems(loops: list[Loop], settings: Settings) -> list[str]:
    """Return one line for each loop whose champion answers other labels than its YAML now says: it could not serve.

    Reads what this home keeps of its champions, so that nothing needs to run; a champion that it never served is not
    judged.
    """
    from tasks.core.predictor import read_manifest  # imports the engine, which most commands do not need

    problems = []
    for loop in loops:
        folder = settings.root / "models" / loop.name
        try:
            served = json.loads((folder / "served.json").read_text(encoding="utf-8"))["version"]
            labels = read_manifest(folder / served / "bundle").labels
        except (OSError, ValueError, KeyError, TypeError):  # nothing was served here yet, or the cache was cleared
            continue
        if set(labels) != set(loop.labels):
            problems.append(
                f"{settings.loops_dir / loop.name}.yaml: labels: version {served}, which serves, answers "
                f"{list(labels)}; got {loop.labels}. Put them back, or give the loop with other labels a new name"
            )
    return problems


def find_plan_problems(settings: Settings) -> list[str]:
    """Return one line for each problem of the plans, and for each valid key whose plan is not one of them.

    Keys are looked at only where this home has their database: a check makes none, and needs no server.
    """
    try:
        plans = load_plans(settings.plans_file, [path.stem for path in list_loop_files(settings.loops_dir)])
    except ConfigError as error:
        return str(error).splitlines()
    if settings.database_url is not None or not settings.database_file.is_file():
        return []
    from tasks.stores.api_keys import ApiKeys
    from tasks.stores.database import open_database

    now, known = datetime.now(UTC), ", ".join(plans.plans)
    return [
        f"{settings.plans_file}: plans: no plan '{key.plan}', which {key.key_id} ({key.name}) has; there are: {known}. "
        f"Put it back, or: evertune keys change {key.key_id} --plan PLAN"
        for key in ApiKeys(open_database(settings.database)).list()
        if key.plan is not None and key.plan not in plans.plans and key.state(now) == "valid"
    ]


def find_package_problems() -> list[str]:
    """Return one line for each required package that is missing or of a version that does not work."""
    problems = []
    for line in _requirements():
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            problems.append(f"package {requirement} is not installed; run: make setup")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            problems.append(f"package {requirement.name} is {found}, but {requirement} is needed; run: make setup")
    return problems


def _requirements() -> list[str]:
    try:
        return requires("evertune") or []
    except PackageNotFoundError:  # a source checkout that was not installed
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
        return list(project["project"]["dependencies"])
