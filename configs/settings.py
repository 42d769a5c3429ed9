"""Places, ports and secrets: everything that changes where a thing is and never what comes out."""

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

RAY_LOCAL = "local"  # the ray_address of a cluster that lives as long as the run, on this machine
WORK_POOL = "local"  # the Prefect work pool of a stack, whose worker runs every flow


class Settings(BaseSettings):
    """What the EVERTUNE_ environment variables say, with the defaults of a stack on one machine."""

    model_config = SettingsConfigDict(env_prefix="EVERTUNE_", frozen=True)

    home: Path = Path(".evertune")  # all state of this stack
    loops_dir: Path = Path("configs/loops")
    plans_file: Path = Path(__file__).parent / "plans.yaml"  # what keys of the prediction API cost and may ask
    host: str = "127.0.0.1"  # where the servers listen
    prefect_port: int = Field(4200, ge=1, le=65535)
    mlflow_port: int = Field(5000, ge=1, le=65535)
    api_port: int = Field(8000, ge=1, le=65535)
    prefect_url: str | None = None  # servers that run elsewhere: the stack then starts none of its own
    mlflow_url: str | None = None
    api_url: str | None = None
    database_url: SecretStr | None = None  # prediction log; absent: SQLite under home
    snapshots_url: str | None = None  # any fsspec URL; absent: a folder under home
    operator_token: SecretStr | None = None  # absent: made once and kept, mode 600, under home
    online: bool = False  # whether base models may be fetched from the Hugging Face hub
    training_processes: int | None = Field(None, ge=1, le=4096)  # absent: one per CUDA device, one on a CPU
    ray_address: str | None = None  # train on this Ray cluster: `ray://HOST:PORT`, HOST:PORT, `auto`, or `local`
    ray_storage: Path | None = None  # a folder that all machines of the cluster share; absent: under home
    tuning_processes: int | None = Field(None, ge=1, le=256)  # trials at a time; absent: one per CUDA device, else one
    serving_threads: int = Field(2, ge=1, le=256)
    limits_url: SecretStr | None = None  # a Redis that replicas share for rate limits; absent: each counts alone
    alias_poll_seconds: float = Field(5.0, gt=0, le=3600)  # how soon the service sees an alias moved elsewhere

    @property
    def root(self) -> Path:
        """Return home as an absolute path."""
        return self.home.expanduser().absolute()

    @property
    def prefect_api(self) -> str:
        """Return the URL of Prefect's API."""
        return self.prefect_url or f"http://{self.host}:{self.prefect_port}/api"

    @property
    def mlflow(self) -> str:
        """Return the URL of the MLflow server."""
        return self.mlflow_url or f"http://{self.host}:{self.mlflow_port}"

    @property
    def mlflow_store(self) -> str:
        """Return the database that the local MLflow server keeps, usable without the server."""
        return f"sqlite:///{self.root / 'mlflow' / 'mlflow.db'}"

    @property
    def mlflow_artifacts(self) -> Path:
        """Return the folder of the local MLflow server's artefacts."""
        return self.root / "mlflow" / "artifacts"

    @property
    def api(self) -> str:
        """Return the URL of the prediction service."""
        return self.api_url or f"http://{self.host}:{self.api_port}"

    @property
    def database(self) -> str:
        """Return the SQLAlchemy URL of the prediction log."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.database_file}"

    @property
    def database_file(self) -> Path:
        """Return the SQLite file of the prediction log, used where no database URL is set."""
        return self.root / "evertune.db"

    @property
    def snapshots(self) -> str:
        """Return the fsspec URL under which snapshots are kept."""
        return self.snapshots_url or str(self.root / "snapshots")

    @property
    def token_file(self) -> Path:
        """Return where the operator token is kept when the environment names none."""
        return self.root / "operator.token"

    def read_operator_token(self) -> str:
        """Return the operator token; raises FileNotFoundError before the stack was first started."""
        if self.operator_token is not None:
            return self.operator_token.get_secret_value()
        return self.token_file.read_text(encoding="utf-8").strip()
