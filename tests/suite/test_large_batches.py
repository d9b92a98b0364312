"""The exact full batch of 32,768 samples, all negatives, in a lane like any other and in bounded memory."""

import json
import subprocess
import sys

import pytest

from suite.reference import ROOT

SAMPLES, WIDTH = 32_768, 256
SCRIPT = f"""
import json, resource, torch
from suite.data.sphere import Sphere
from suite.experiment import Budget, Encoder, TrialSettings
from suite.training.loop import Job, Loop
torch.set_num_threads(1)
settings = TrialSettings(data=Sphere(samples={SAMPLES}), encoder=Encoder(width={WIDTH}, depth=2))
loop = Loop([Job(trial_id="t", settings=settings)], slots=1, budget=Budget(steps=1), stop_below=0)
while not loop.done:
    loop.run_chunk()
losses = [row["loss"] for row in loop.take()[1]]
print(json.dumps([losses, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024]))
"""


@pytest.mark.slow
def test_a_step_on_32768_samples_takes_less_than_four_gibibytes():
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=True)
    losses, peak = json.loads(done.stdout)
    assert len(losses) == 2
    assert losses[1] < losses[0]
    assert peak < 4 * 2**30
    print(f"peak {peak / 2**30:.2f} GiB")
