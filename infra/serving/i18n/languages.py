"""The words of the pages in English and Chinese, and how times and numbers are written."""

import functools
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

LANGUAGES = {"en": "English", "zh": "中文"}
DEFAULT = "en"
HERE = Path(__file__).parent


@functools.cache
def read_catalogue(language: str) -> dict[str, str]:
    """Return a language's strings by dotted key."""
    return dict(_flatten(yaml.safe_load((HERE / f"{language}.yaml").read_text(encoding="utf-8"))))


def choose_language(asked: str | None, kept: str | None, accepted: str) -> str:
    """Return the language asked for by a link, else the one kept in a cookie, else the best of an Accept-Language."""
    for wanted in (asked, kept):
        if wanted in LANGUAGES:
            return str(wanted)
    for wanted in _by_preference(accepted):
        if wanted in LANGUAGES:
            return wanted
    return DEFAULT


class Words:
    """One language's strings: `words("loops.title")`, with values for what stands in braces."""

    def __init__(self, language: str) -> None:
        self.language = language
        self._strings = read_catalogue(language)

    def __call__(self, key: str, **values: Any) -> str:
        """Return a string; raises KeyError for a key that is in no catalogue."""
        return self._strings[key].format(**values) if values else self._strings[key]

    def count(self, key: str, n: int, **values: Any) -> str:
        """Return a string that counts something: `key.one` or `key.other`, with {n}."""
        return self(f"{key}.{'one' if n == 1 else 'other'}", n=self.number(n), **values)

    def name(self, group: str, value: str) -> str:
        """Return a fixed value of the system in words, or as it is where the catalogue has none."""
        return self._strings.get(f"{group}.{value.replace(' ', '-')}", value)

    def number(self, value: float) -> str:
        """Return a count with its thousands apart."""
        return f"{value:,.0f}"

    def percent(self, value: float, digits: int = 1) -> str:
        """Return a share of one as a percentage."""
        return f"{100 * value:.{digits}f} %"

    def moment(self, at: datetime) -> str:
        """Return a UTC time to the minute."""
        return f"{at.astimezone(UTC):%Y-%m-%d %H:%M}"

    def ago(self, at: datetime, now: datetime) -> str:
        """Return how long ago a time was, in its largest unit."""
        passed = max(now - at, timedelta(0))
        for unit, seconds in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
            n = int(passed.total_seconds() // seconds)
            if n:
                return self.count(f"ago.{unit}", n)
        return self("ago.now")

    def seconds(self, value: float) -> str:
        """Return a duration."""
        return self("units.seconds", n=f"{value:.0f}") if value < 120 else self("units.minutes", n=f"{value / 60:.0f}")


def _flatten(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for key, value in tree.items():
        found += _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", str(value))]
    return found


def _by_preference(accepted: str) -> list[str]:
    """Return the primary languages of an Accept-Language header, the most wanted first."""
    weighted = []
    for place, part in enumerate(accepted.split(",")[:20]):
        tag, _, quality = part.partition(";")
        try:
            weight = float(quality.strip().removeprefix("q=")) if quality.strip() else 1.0
        except ValueError:
            weight = 0.0
        if weight > 0:
            weighted.append((-weight, place, tag.strip().partition("-")[0].lower()))
    return [tag for _, _, tag in sorted(weighted)]
