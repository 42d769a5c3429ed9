from pathlib import Path

from configs.settings import Settings
from infra.environment import build_environment, without_server, write_logging_config

LAUNCH = Path("/launched/here")


def build(**base: str) -> dict[str, str]:
    settings = Settings(home=Path("/stack/home"), loops_dir=Path("my/loops"), prefect_port=4321, mlflow_port=5432)
    return build_environment(settings, base, LAUNCH)


def test_children_get_absolute_places_and_addresses() -> None:
    environment = build()
    assert environment["EVERTUNE_HOME"] == "/stack/home"
    assert environment["EVERTUNE_LOOPS_DIR"] == "/launched/here/my/loops"
    assert environment["PREFECT_HOME"] == "/stack/home/prefect"
    assert environment["PREFECT_API_URL"] == "http://127.0.0.1:4321/api"
    assert environment["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5432"


def test_telemetry_is_off_whatever_the_shell_says() -> None:
    environment = build(DO_NOT_TRACK="0", MLFLOW_DISABLE_TELEMETRY="false")
    assert environment["DO_NOT_TRACK"] == environment["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert environment["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert environment["HF_HUB_OFFLINE"] == environment["HF_HUB_DISABLE_TELEMETRY"] == "1"


def test_what_a_person_set_for_prefect_is_kept() -> None:
    assert build(PREFECT_CLIENT_MAX_RETRIES="2")["PREFECT_CLIENT_MAX_RETRIES"] == "2"


def test_online_leaves_the_hub_reachable() -> None:
    environment = build_environment(Settings(online=True), {}, LAUNCH)
    assert "HF_HUB_OFFLINE" not in environment


def test_without_server_no_address_remains() -> None:
    alone = without_server(build(), Settings(home=Path("/stack/home")))
    assert "PREFECT_API_URL" not in alone
    assert alone["PREFECT_SERVER_EPHEMERAL_ENABLED"] == "true"
    assert alone["MLFLOW_TRACKING_URI"] == "sqlite:////stack/home/mlflow/mlflow.db"


def test_logging_config_lets_our_lines_through(tmp_path: Path) -> None:
    write_logging_config(tmp_path / "prefect")
    text = (tmp_path / "prefect" / "logging.yml").read_text(encoding="utf-8")
    assert "\nloggers:\n  tasks:\n    level: INFO\n" in text
    assert "prefect.flow_runs:" in text
