"""Statements: once per key and month, from the log, as files that people and spreadsheets read."""

import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.plans import Plans
from infra.cli import main
from tasks.core.errors import DataError
from tasks.stores.api_keys import ApiKey, ApiKeys
from tasks.stores.database import open_database
from tasks.stores.prediction_log import PredictionLog
from tasks.stores.statements import Statements
from tasks.upkeep import write_statements
from tests.support.monitored import make_predictions, make_texts

SALES = {"requests_per_second": 10, "burst": 10}
PRO = {"texts_per_month": 10, "beyond": "bill", "monthly_price": 20, "price_per_1000_texts": 100}
FREE = {"texts_per_month": 10, "beyond": "refuse", "monthly_price": 0}
DOCUMENT: dict[str, Any] = {
    "currency": "EUR",
    "default_plan": "free",
    "plans": {"free": {**SALES, **FREE}, "pro": {**SALES, **PRO}},
}
PLANS = Plans.model_validate(DOCUMENT)
SOLD, END = datetime(2026, 8, 20, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC)


class Shop:
    """A home whose key `shop` used two loops in October, and whose key `guest` has no plan."""

    def __init__(self, home: Path) -> None:
        self.url = f"sqlite:///{home / 'evertune.db'}"
        engine = open_database(self.url)
        self.keys, self.log, self.statements = ApiKeys(engine), PredictionLog(engine), Statements(engine)
        self.shop = self.sell("shop", "pro")
        self.guest = self.sell("guest", None)
        self.use(self.shop, 13, "toy", END - timedelta(seconds=20))  # the last one 8 s before the month's end
        self.use(self.shop, 1, "other", END - timedelta(days=20))
        self.use(self.shop, 2, "toy", END)
        self.use(self.guest, 5, "toy", END - timedelta(days=3))

    def sell(self, name: str, plan: str | None) -> ApiKey:
        return self.keys.create(name, None, SOLD, plan=plan)[0]

    def use(self, key: ApiKey, texts: int, loop: str, start: datetime) -> None:
        rows = make_predictions(make_texts(texts), start=start, loop=loop, version=f"{key.name}-{loop}-{start:%m%d}")
        self.log.append([type(row)(**{**vars(row), "key_id": key.key_id}) for row in rows])


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    home = tmp_path / "home"
    plans = tmp_path / "plans.yaml"
    plans.write_text(yaml.safe_dump(DOCUMENT), encoding="utf-8")
    monkeypatch.setenv("EVERTUNE_HOME", str(home))
    monkeypatch.setenv("EVERTUNE_PLANS_FILE", str(plans))
    return Shop(home)


def test_a_month_is_billed_once_it_is_over_and_then_never_changes(shop: Shop) -> None:
    early = shop.statements.write_missing(PLANS, END + timedelta(minutes=59))
    assert [one.month for one in early] == ["2026-08", "2026-09"]
    (october,) = shop.statements.write_missing(PLANS, END + timedelta(hours=1))
    assert (october.month, october.texts, october.overage_texts) == ("2026-10", 14, 4)
    assert (october.overage_amount, october.amount) == (Decimal("0.40"), Decimal("20.40"))
    assert {one.loop: one.amount for one in october.loops} == {"other": Decimal("1.46"), "toy": Decimal("18.94")}
    dearer = Plans.model_validate(
        {**DOCUMENT, "plans": {**DOCUMENT["plans"], "pro": {**SALES, **PRO, "monthly_price": 99}}}
    )
    shop.log.erase(key_id=shop.shop.key_id)
    assert shop.statements.write_missing(dearer, END + timedelta(days=1)) == []
    assert shop.statements.read("2026-10") == [october]
    assert shop.statements.preview(date(2026, 10, 1), dearer) == [october]


def test_erased_and_purged_texts_are_still_billed(shop: Shop) -> None:
    shop.log.erase(key_id=shop.shop.key_id)
    shop.log.purge(END + timedelta(days=1))
    written = {one.month: one for one in shop.statements.write_missing(PLANS, END + timedelta(days=1))}
    assert (written["2026-10"].texts, written["2026-09"].texts) == (14, 0)
    assert written["2026-10"].loops[1].requests == 13


def test_a_plan_that_is_gone_stops_its_own_statements_only(shop: Shop) -> None:
    lost = shop.keys.create("lost", None, END - timedelta(days=1), plan="gold")[0]
    with pytest.raises(DataError, match=rf"{lost.key_id} \(lost\): plan 'gold', needed to bill 2026-10"):
        shop.statements.write_missing(PLANS, END + timedelta(days=1))
    assert [one.key_id for one in shop.statements.read("2026-10")] == [shop.shop.key_id]


def test_upkeep_keeps_statements_as_files_and_mends_what_is_missing(shop: Shop, tmp_path: Path) -> None:
    assert write_statements.fn() >= 3  # every month from the sale to the last one that is over
    folder = tmp_path / "home" / "statements" / "2026-10"
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(["index.html", "revenue.csv", f"{shop.shop.key_id}.csv", f"{shop.shop.key_id}.html"])
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert (folder / "revenue.csv").read_text() == (
        "month,loop,requests,texts,amount,currency\n"
        "2026-10,toy,13,13,18.94,EUR\n"
        "2026-10,other,1,1,1.46,EUR\n"
    )  # fmt: skip
    (folder / "index.html").unlink()
    (folder / f"{shop.shop.key_id}.csv").write_text("half a", encoding="utf-8")
    assert write_statements.fn() == 0
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["evertune", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(str(ended.value.code or 0))


def test_usage_shows_a_month_as_it_is_billed(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "usage", "--month", "2026-10") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "2026-10, so far"
    assert "shop" in lines[1]
    assert "14 of 10 texts, 4 beyond  EUR 20.40" in lines[1]
    assert lines[2].split()[1:4] == ["guest", "no", "plan"]
    assert lines[-2].split() == ["toy", "13", "texts", "18.94"]
    assert run(monkeypatch, "usage", "--month", "2026-10", "--key", shop.shop.key_id, "--json") == 0
    captured = capsys.readouterr()
    record = json.loads(captured.out)
    assert [one["key_id"] for one in record["statements"]] == [shop.shop.key_id]
    assert (record["statements"][0]["amount"], record["without_plan"], record["is_final"]) == ("20.40", [], False)
    assert "EUR 20.40" in captured.err
    write_statements.fn()
    assert run(monkeypatch, "usage", "--month", "2026-10") == 0
    assert capsys.readouterr().out.startswith("2026-10, as billed\n")
    shop.keys.create("late", None, END - timedelta(days=1), plan="free")  # no statement tells of this one
    assert run(monkeypatch, "usage", "--month", "2026-10") == 0
    assert capsys.readouterr().out.startswith("2026-10, so far\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["usage", "--month", "October"], "--month October: no month; accepted: 2026-11"),
        (["usage", "--month", "2999-01"], "--month 2999-01: has not begun"),
        (["usage", "--key", "key_x"], "no key 'key_x'; see: evertune keys list"),
        (["usage", "--month", "2026-10", "--days", "3"], "give either --month or --days"),
        (["keys", "create", "x", "--plan", "gold"], "no plan 'gold'; there are: free, pro"),
        (["keys", "create", "x", "--plan", "pro", "--unlimited"], "give either --plan or --unlimited"),
        (["keys", "create", "x", "--expires", "soon"], "--expires soon: no date or time; accepted: 2027-01-31"),
        (["keys", "create", "x", "--expires", "2020-01-01"], "--expires 2020-01-01: is past"),
        (["keys", "create", "x", "--expires", "9999-12-31T23:59-05:00"], "--expires 9999-12-31T23:59-05:00: no date"),
        (["keys", "create", ""], "NAME: not a name of a key; accepted: 1 to 200 printable characters"),
        (["keys", "create", "x\x1b[2J"], "NAME: not a name of a key"),
        (["keys", "rotate", "key_x"], "no valid key 'key_x'"),
        (["keys", "change", "key_x", "--plan", "pro"], "no valid key 'key_x'"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(
    shop: Shop, words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *words) == 2
    captured = capsys.readouterr()
    assert (message in captured.err, captured.out) == (True, "")


def test_keys_are_sold_changed_and_rotated_from_the_command_line(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*words: str) -> Any:
        assert run(monkeypatch, "keys", *words, "--json") == 0
        return json.loads(capsys.readouterr().out)

    made = said("create", "web", "--expires", "2999-01-31")
    assert (made["plan"], made["expires_at"]) == ("free", "2999-01-31 00:00:00+00:00")
    changed = said("change", made["key_id"], "--plan", "pro")
    assert (changed["plan"], changed["expires_at"]) == ("pro", "2999-01-31 00:00:00+00:00")
    assert said("change", made["key_id"], "--never-expires")["expires_at"] is None
    assert said("change", made["key_id"], "--unlimited")["plan"] is None
    rotated = said("rotate", made["key_id"], "--grace-hours", "1")
    now = datetime.now(UTC)
    for secret, later, opens in (
        (rotated["secret"], timedelta(0), True),
        (made["secret"], timedelta(0), True),
        (made["secret"], timedelta(hours=2), False),
        (rotated["secret"], timedelta(hours=2), True),
    ):
        assert (shop.keys.find(secret, now + later) is not None) is opens
    listed = {key["key_id"]: key for key in said("list")}
    assert listed[made["key_id"]]["state"] == "valid"
    assert len({key["name"] for key in listed.values()}) == 3


def test_check_names_keys_whose_plan_is_gone(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    less = {**DOCUMENT, "plans": {"free": DOCUMENT["plans"]["free"]}}
    (tmp_path / "plans.yaml").write_text(yaml.safe_dump(less), encoding="utf-8")
    assert run(monkeypatch, "check") == 2
    error = capsys.readouterr().err
    assert f"plans.yaml: plans: no plan 'pro', which {shop.shop.key_id} (shop) has; there are: free." in error
    assert f"evertune keys change {shop.shop.key_id} --plan PLAN" in error
