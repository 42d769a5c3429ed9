from pathlib import Path

import pytest
import yaml

from configs.load import PRESETS, ConfigError, find_loop, list_presets, load_all_loops, load_loop
from configs.schema import Schedule

LOOPS = Path("configs/loops")
YAML = LOOPS / "product-sentiment.yaml"


def line_of(text: str, path: Path = YAML) -> int:
    """Return the number of the first line that starts with a text, spaces aside."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return next(number for number, line in enumerate(lines, 1) if line.strip().startswith(text))


def write(folder: Path, old: str, new: str) -> Path:
    path = folder / "product-sentiment.yaml"
    text = YAML.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    return path


def test_every_shipped_loop_loads() -> None:
    files = [path for path in Path("configs").rglob("*.yaml") if path.parent == LOOPS and "cases" not in path.name]
    assert len(files) == 1
    assert [loop.name for loop in load_all_loops(LOOPS)] == [path.stem for path in files]


@pytest.mark.parametrize("name", list_presets())
def test_every_shipped_preset_fills_what_a_loop_leaves_out(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, "  preset: balanced", f"  preset: {name}\n  learning_rate: 3.0e-6")
    assert load_loop(path).training.learning_rate == 3e-6  # the loop's own key wins
    write(tmp_path, "  preset: balanced", f"  preset: {name}")
    preset = yaml.safe_load((PRESETS / f"{name}.yaml").read_text(encoding="utf-8"))
    training = load_loop(path).training
    assert {key: getattr(training, key) for key in preset} == preset


def test_a_wrong_preset_is_told_with_its_own_file_and_line(tmp_path: Path) -> None:
    path = write(tmp_path, "  preset: balanced", "  preset: swift")
    with pytest.raises(ConfigError, match=r"training\.preset: no preset 'swift'; there are: balanced"):
        load_loop(path)
    own = tmp_path / "presets" / "swift.yaml"
    own.parent.mkdir()
    own.write_text("# ours\nlabel_smoothing: 3\n", encoding="utf-8")
    with pytest.raises(ConfigError) as raised:
        load_loop(path)
    assert str(raised.value).startswith(f"{own}:2: training.label_smoothing: Input should be less than 1")


def test_behavioural_cases_stand_beside_the_loop(tmp_path: Path) -> None:
    path = write(tmp_path, "  preset: balanced", "  preset: balanced")
    cases = tmp_path / "product-sentiment.cases.yaml"
    cases.write_text("cases:\n  - {kind: must, text: Great., label: positive}\n", encoding="utf-8")
    assert load_loop(path).behaviour.cases[0].label == "positive"
    assert [loop.name for loop in load_all_loops(tmp_path)] == ["product-sentiment"]
    cases.write_text("cases:\n  - {kind: must, text: Great.}\n", encoding="utf-8")
    with pytest.raises(ConfigError) as raised:
        load_loop(path)
    assert str(raised.value) == f"{cases}:2: behaviour.cases.0: a case of kind must needs a label"


@pytest.mark.parametrize(
    ("old", "new", "at", "message"),
    [
        (
            "max_tokens: 128",
            "learning_rate: 2",
            "learning_rate: 2",
            "training.learning_rate: Input should be less",
        ),
        (
            "  max_tokens: 128",
            "  epoch: 3",
            "epoch: 3",
            "training.epoch: unknown key; accepted here: preset, base_model, from",
        ),
        ("max_tokens: 128", "method: lorra", "method: lorra", "Input should be 'full' or 'lora' (got 'lorra')"),
        ("  k: 2", "  k: 4", "monitoring:", "k must not exceed n (got k=4, n=3)"),
        ("kind: package", "kind: csw", "- name: amazon-reviews", "expected tags: 'csv', 'jsonl', 'parquet'"),
        ("      member:", "      membr:", "membr:", "data.sources.0.membr: unknown key"),
        ("thresholds: [-0.5, 0.5]", "thresholds: [0.5]", None, "needs 2 ascending numbers for 3 labels (got [0.5])"),
        ("label: null", "soft_labels: {positive: p}", None, "columns.soft_labels needs one column for each of ['neg"),
        ("validation: 0.1", "validation: 0.7", "splits:", "validation + test must stay below 0.8 (got 0.9)"),
        ("permutations: 999", "permutations: 199\n  alpha: 0.001", None, "key given twice"),
    ],
)
def test_a_problem_is_told_with_file_line_and_key(
    tmp_path: Path, old: str, new: str, at: str | None, message: str
) -> None:
    path = write(tmp_path, old, new)
    with pytest.raises(ConfigError) as raised:
        load_loop(path)
    assert message in str(raised.value)
    if at is not None:
        assert str(raised.value).splitlines()[0].startswith(f"{path}:{line_of(at, path)}: ") or any(
            line.startswith(f"{path}:{line_of(at, path)}: ") for line in str(raised.value).splitlines()
        )


NIGHTLY = "for example '30 2 * * *' for half past two every night"


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ("{cron: nightly}", f"cron: not a cron line (1 fields, 5 are needed), {NIGHTLY} (got 'nightly')"),
        ('{cron: "0 0 2 * * *"}', "cron: not a cron line (6 fields, 5 are needed)"),
        ('{cron: "61 * * * *"}', f"cron: not a cron line (bad minute), {NIGHTLY} (got '61 * * * *')"),
        ('{cron: "0 0 30 2 *"}', "cron: not a cron line (bad day-of-month)"),  # would never come
        ('{cron: "0 0 * * 5L"}', "cron: not a cron line (L and W after a number are not known here)"),
        ("{cron: 5}", "cron: Input should be a valid string (got 5)"),
        (
            '{cron: "0 2 * * *", timezone: Berlin}',
            "timezone: not a time zone, for example 'Europe/Berlin' or 'UTC' (got 'Berlin')",
        ),
        ('{cron: "0 2 * * *", timezone: Europe}', "timezone: not a time zone"),  # a folder of zones
        ('{cron: "0 2 * * *", timezone: ../../etc/passwd}', "timezone: not a time zone"),
        ('{cron: "0 2 * * *", timezone: ""}', "timezone: not a time zone"),
    ],
)
def test_a_schedule_that_would_never_run_is_told(tmp_path: Path, schedule: str, message: str) -> None:
    path = write(tmp_path, 'schedule: {cron: "*/30 * * * *", timezone: UTC}', f"schedule: {schedule}")
    with pytest.raises(ConfigError) as raised:
        load_loop(path)
    (line,) = str(raised.value).splitlines()
    assert line.startswith(f"{path}:{line_of('schedule: {', path)}: monitoring.schedule.{message}")


@pytest.mark.parametrize("cron", ["*/5 0-3 * jan-mar mon-fri", "0 0 L * *", "0 0 * * 5#2", "0 4 * * 7", "0 0 29 2 *"])
def test_usual_cron_lines_are_taken(cron: str) -> None:
    zone = "America/Argentina/Buenos_Aires"
    loop = load_loop(YAML, [f"retraining.schedule.cron='{cron}'", f"retraining.schedule.timezone={zone}"])
    assert loop.retraining.schedule == Schedule(cron=cron, timezone=zone)


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, "  seed: 13", "  seed: x\n  bogus: 1")
    with pytest.raises(ConfigError) as raised:
        load_loop(path, ["gate.min_macro_f1=7"])
    lines = str(raised.value).splitlines()
    assert len(lines) == 3
    assert all(line.startswith(f"{path}:") for line in lines)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [1", "not YAML"),
        ("- 1", "expected keys and values, found list"),
        ("", "expected keys and values, found NoneType"),
        ("name: x\nlabels: &x [*x]", r"x.yaml:2: not YAML: an anchor that contains itself"),
        ("a: &x\n  b: {c: *x}", r"x.yaml:1: not YAML: an anchor that contains itself"),
        ("a: " + "[" * 3000, "x.yaml: not YAML: nested too deeply"),
    ],
)
def test_what_is_no_loop_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_loop(path)


def test_a_file_that_is_not_utf8_or_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"name: caf\xe9")
    with pytest.raises(ConfigError, match=r"x\.yaml: not UTF-8 \(byte 9\)"):
        load_loop(tmp_path / "x.yaml")
    with pytest.raises(ConfigError, match=r"y\.yaml: cannot be read"):
        load_loop(tmp_path / "y.yaml")


def test_changes_take_effect_with_their_type() -> None:
    loop = load_loop(YAML, ["training.epochs=1", "training.learning_rate=1e-4", "data.sources.0.columns.group=null"])
    assert (loop.training.epochs, loop.training.learning_rate) == (1, 1e-4)
    assert loop.data.sources[0].columns.group is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("training.epochs", "expected key=value"),
        ("data.sources.7.name=x", "'7' is not a position in a list of 1"),
        ("name.x=1", "'x' stands below a plain value"),
        ("training.epochs=[", "the value is not YAML"),
    ],
)
def test_a_change_that_fits_nowhere_is_named(change: str, message: str) -> None:
    with pytest.raises(ConfigError, match="--set") as raised:
        load_loop(YAML, [change])
    assert message in str(raised.value)


def test_an_unknown_loop_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no loop 'nope'; there are: product-sentiment"):
        find_loop("nope", LOOPS)
    with pytest.raises(ConfigError, match="no loop found; set EVERTUNE_LOOPS_DIR"):
        load_all_loops(tmp_path)


def test_the_name_must_be_the_files(tmp_path: Path) -> None:
    write(tmp_path, "name: product-sentiment", "name: other-name")
    with pytest.raises(ConfigError, match="name: must equal the file's name 'product-sentiment'"):
        load_all_loops(tmp_path)
