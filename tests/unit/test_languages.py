"""The catalogues: the same keys in every language, and every key that a page uses is there."""

import re
import string
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from infra.serving.i18n.languages import LANGUAGES, Words, choose_language, read_catalogue

SERVING = Path("infra/serving")
TEMPLATES = "".join(path.read_text(encoding="utf-8") for path in sorted((SERVING / "templates").glob("*.html")))
CODE = "".join(path.read_text(encoding="utf-8") for path in sorted((SERVING / "pages").glob("*.py")))
BUILT = ("labelling.picked-", "keys.grace-", "loop.")  # keys that a template puts together


def fields(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def test_every_language_has_the_same_keys_and_fills_in_the_same_values() -> None:
    english = read_catalogue("en")
    assert len(english) > 200
    for language in LANGUAGES:
        other = read_catalogue(language)
        assert set(other) ^ set(english) == set(), language
        assert {key for key in english if fields(english[key]) != fields(other[key])} == set(), language
        assert [key for key, text in other.items() if not text.strip()] == []


def test_chinese_is_chinese() -> None:
    catalogue = read_catalogue("zh")
    latin = {key for key, text in catalogue.items() if not re.search(r"[\u4e00-\u9fff]", text)}
    assert latin <= {"nav.api", "labelling.kappa", "labelling.cohen", "keys.of", "nav.label"} - {"nav.label", "keys.of"}


def test_every_key_that_the_pages_use_exists() -> None:
    named = set(re.findall(r"""words\(\s*["']([a-z][a-z0-9._-]*)["']""", TEMPLATES + CODE)) - set(BUILT)
    counted = set(re.findall(r"""words\.count\(\s*["']([a-z][a-z0-9._-]*)["']""", TEMPLATES + CODE))
    known = set(read_catalogue("en"))
    assert len(named) > 120
    assert named - known == set()
    assert {f"{key}.{form}" for key in counted for form in ("one", "other")} - known == set()


def test_every_key_is_used() -> None:
    used = set(re.findall(r"""["']([a-z][a-z0-9_-]*(?:\.[a-z0-9_-]+)+)["']""", TEMPLATES + CODE))
    groups = set(re.findall(r"""words\.name\(\s*["']([a-z-]+)["']""", TEMPLATES + CODE))
    own = (SERVING / "i18n" / "languages.py").read_text(encoding="utf-8")
    used |= set(re.findall(r"""["']([a-z]+\.[a-z]+)["']""", own)) | {"ago.minute", "ago.hour", "ago.day"}
    unused = {
        key for key in read_catalogue("en")
        if key not in used and key.rsplit(".", 1)[0] not in used | groups and not key.startswith(BUILT)
    }  # fmt: skip
    assert unused == set()


@pytest.mark.parametrize(
    ("asked", "kept", "accepted", "chosen"),
    [
        (None, None, "", "en"),
        (None, None, "zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        (None, None, "de-DE, en;q=0.3, zh;q=0.7", "zh"),
        (None, None, "zh;q=0, en;q=0.1", "en"),
        (None, None, "zh;q=much", "en"),
        (None, "en", "zh", "en"),
        ("zh", "en", "en", "zh"),
        ("xx", "zh", "en", "zh"),
        (None, "../etc", "fr", "en"),
    ],
)
def test_the_language(asked: str | None, kept: str | None, accepted: str, chosen: str) -> None:
    assert choose_language(asked, kept, accepted) == chosen


def test_words_numbers_and_times() -> None:
    words, now = Words("en"), datetime(2026, 11, 24, 12, tzinfo=UTC)
    assert words.count("units.texts", 1) == "1 text"
    assert words.count("units.texts", 12_345) == "12,345 texts"
    assert words.percent(0.1234) == "12.3 %"
    assert words.name("verdict", "too few") == "too few texts"
    assert words.name("verdict", "odd") == "odd"
    assert [words.ago(now - timedelta(minutes=minutes), now) for minutes in (0, 1, 59, 120, 3000)] == [
        "just now", "1 minute ago", "59 minutes ago", "2 hours ago", "2 days ago",
    ]  # fmt: skip
    assert Words("zh").ago(now - timedelta(hours=3), now) == "3 小时前"
    assert (words.seconds(35.2), words.seconds(600)) == ("35 s", "10 min")
