"""The quickstart with a tenth of its steps: its 40 trials, and all that is looked at, in a minute."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILE = ROOT / "experiments/quickstart.yaml"
STEPS = 300


def train(results: Path, *, home: Path) -> Path:
    """Run it as a user does; gives its results folder."""
    command = [str(Path(sys.executable).with_name("stillpoint")), "run", str(FILE), "--results", str(results)]
    command += ["--set", f"budget.steps={STEPS}"]
    environment = {**os.environ, "HOME": str(home)}
    ran = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return results / "quickstart"
