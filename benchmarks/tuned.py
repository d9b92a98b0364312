"""The same trials with Ray Tune, as its guides show it: one trial a process, a grid, MLflow by its callback.

`python -m benchmarks.tuned FOLDER STEPS` trains every *.pickle of a folder, and writes tuned.json there. Each trial
reports loss and G at the steps that Stillpoint records, which are log-spaced, 16 per decade: the same curve. Tune's
other loggers are off, and its dashboard is.
"""

from __future__ import annotations

import json
import pickle
import sys
import time
from pathlib import Path
from typing import Any

KEPT = ("began", "ended", "loss_10", "loss")


def trainable(config: dict[str, Any]) -> None:
    """One trial; says when it began and when it had its last numbers."""
    began = time.time()
    import torch
    from ray import tune

    from benchmarks.pair import train
    from suite.training.records import record_steps

    torch.set_num_threads(1)
    steps = config["steps"]
    told = record_steps(steps, 16, ended=True)
    first: dict[str, float] = {"began": began}

    def report(step: int, loss: torch.Tensor, scaled: torch.Tensor) -> None:
        if step == 10:
            first["loss_10"] = float(loss)
        if step in told:
            figures = {"loss": float(loss), "scaled_grad_norm_sq": float(scaled), "step": step}
            tune.report({**first, **figures, "ended": time.time()})

    train(pickle.loads(Path(config["start"]).read_bytes()), steps, report=report)


def main() -> None:
    """Train the trials of a folder."""
    import ray
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    folder, steps = Path(sys.argv[1]), int(sys.argv[2])
    ray.init("local", include_dashboard=False, logging_level="error", log_to_driver=False)
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    callback = MLflowLoggerCallback(tracking_uri=uri, experiment_name="tuned", save_artifact=False)
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
        param_space={"start": tune.grid_search([str(p) for p in sorted(folder.glob("*.pickle"))]), "steps": steps},
        run_config=tune.RunConfig(name="tuned", storage_path=str(folder), callbacks=[callback], verbose=0),
    )
    results = tuner.fit()
    assert results.num_errors == 0, results.errors
    rows = {Path(r.config["start"]).stem: {name: r.metrics[name] for name in KEPT} for r in results}
    (folder / "tuned.json").write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
