"""A cron line with its time zone, as monitoring and retraining take one."""

import re
from datetime import datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError
from pydantic import field_validator

from configs.sections import Section


class Schedule(Section):
    """A cron line with its time zone."""

    cron: str  # minute, hour, day of month, month, day of week
    timezone: str = "UTC"  # a name of the IANA time zone database

    @field_validator("cron")
    @classmethod
    def _is_cron(cls, cron: str) -> str:
        problem = f"{len(cron.split())} fields, 5 are needed" if len(cron.split()) != 5 else None
        try:
            CronSim(cron, datetime(2024, 1, 1))  # any day: only the line is judged
        except CronSimError as error:
            problem = problem or str(error).lower()
        if problem is None and re.search(r"\dL|W", cron, re.IGNORECASE):  # CronSim knows them, Prefect does not
            problem = "L and W after a number are not known here"
        if problem is not None:
            raise ValueError(f"not a cron line ({problem}), for example '30 2 * * *' for half past two every night")
        return cron

    @field_validator("timezone")
    @classmethod
    def _is_timezone(cls, timezone: str) -> str:
        try:
            ZoneInfo(timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:  # OSError: the name of a folder of zones
            raise ValueError("not a time zone, for example 'Europe/Berlin' or 'UTC'") from error
        return timezone
