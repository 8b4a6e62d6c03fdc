"""MLflow: the server that MLFLOW_TRACKING_URI names, else a database in the run's folder `mlflow`."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ectype.training.loggers.base import End, LoggedRun, Logger, Results, flat

__all__ = ["MlflowLogger"]

EXPERIMENT = "ectype"
MAX_PARAMS = 100
"""Parameters that MLflow takes at once."""
MAX_VALUE_CHARACTERS = 500
"""Length of a parameter that every server takes; `recipe.yaml` has it complete."""
PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
"""How long a server may take to answer, unless the user says otherwise. By default, training would wait for minutes."""
LETTERS = {"−": "-", "½": "1_2", "·": " ", "‖": "", "²": "2"}


class MlflowLogger(Logger):
    """Logs to an experiment of MLflow, `ectype` unless `MLFLOW_EXPERIMENT_NAME` names another."""

    name, library, module = "mlflow", "MLflow", "mlflow.tracking"

    def open(self, run: LoggedRun, identity: str | None) -> str:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        for key, value in PATIENCE.items():
            os.environ.setdefault(key, value)
        tracking = self.check()
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        uri, artifacts = os.environ.get("MLFLOW_TRACKING_URI"), None
        if not uri:
            place = (run.directory.path / "mlflow").resolve()
            place.mkdir(exist_ok=True)
            uri, artifacts = f"sqlite:///{place.as_posix()}/mlflow.db", (place / "artifacts").as_uri()
        self._client: Any = tracking.MlflowClient(tracking_uri=uri)
        if identity is not None:
            self._id = identity
            self._client.update_run(identity, status="RUNNING")
            return identity
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        found = self._client.get_experiment_by_name(name)
        experiment = self._client.create_experiment(name, artifacts) if found is None else found.experiment_id
        self._id = self._client.create_run(experiment, run_name=run.name).info.run_id
        entities = self._entities()
        params = [entities.Param(_key(key), str(v)[:MAX_VALUE_CHARACTERS]) for key, v in flat(run.recipe).items()]
        for start in range(0, len(params), MAX_PARAMS):
            self._client.log_batch(self._id, params=params[start : start + MAX_PARAMS])
        self._client.log_text(self._id, run.text, "recipe.yaml")
        return self._id

    @staticmethod
    def _entities() -> Any:
        import mlflow.entities

        return mlflow.entities

    def scalars(self, values: Mapping[str, float], seen: int) -> None:
        now, metric = int(1000 * time.time()), self._entities().Metric
        self._client.log_batch(self._id, metrics=[metric(_key(name), v, now, seen) for name, v in values.items()])

    def pictures(self, files: Mapping[str, Path], seen: int) -> None:
        for name, file in files.items():
            self._client.log_artifact(self._id, str(file), name)

    def model(self, folder: Path) -> None:
        self._client.log_artifacts(self._id, str(folder), "model")

    def results(self, results: Results, seen: int) -> None:
        self.scalars({f"test/{key}": value for key, value in results.figures.items()}, seen)
        self._client.log_text(self._id, results.text, "findings.txt")

    def close(self, end: End) -> None:
        self._client.set_terminated(self._id, "FINISHED" if end == "finished" else "KILLED")


def _key(name: str) -> str:
    """Return a name with the characters that MLflow allows.

    >>> _key("held-out/−log p (Gaussian, optimal σ) + KL")
    'held-out/-log p Gaussian optimal σ KL'
    """
    text = "".join(LETTERS.get(letter, letter) for letter in name)
    return re.sub(r"\s+", " ", re.sub(r"[^\w.\-/: ]", "", text)).strip()
