from typing import Any

import pytest
from pydantic import ValidationError

from configs.monitoring_schema import MinEffects, Monitoring
from tasks.core.drift import EFFECTS

OLD = {"schedule": {"cron": "0 * * * *"}, "window": {"max_rows": 500, "min_rows": 50}, "alpha": 0.01, "k": 2, "n": 3}


def test_a_section_of_yesterday_is_valid_today() -> None:
    rules = Monitoring.model_validate(OLD)
    assert (rules.window.by, rules.season_weeks) == ("count", 4)


def test_every_test_has_its_smallest_effect() -> None:
    assert list(MinEffects.model_fields) == list(EFFECTS)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"window": {"by": "time"}}, "by: time needs max_age_hours, how long the window is, for example 24"),
        ({"min_effects": {"outputs": 1.5}}, "less than or equal to 1"),
        ({"min_effects": {"mood": 0.1}}, "Extra inputs are not permitted"),
        ({"k": 4}, "k must not exceed n"),
        ({"permutations": 199, "alpha": 0.001}, "permutations must be at least 999 for alpha 0.001"),
    ],
)
def test_what_cannot_be_is_told(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Monitoring.model_validate(OLD | changed)
