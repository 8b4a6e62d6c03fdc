"""A callback that saves the evidence of verdicts on samples."""

from __future__ import annotations

from ectype.core.images import to_uint8
from ectype.data.preview import save_grid
from ectype.evaluation.monitor import Monitor
from ectype.evaluation.sample_monitor import SampleMonitor
from ectype.runs.json_files import write_json_file
from ectype.runs.run_dir import RunDir
from ectype.training.loop import Callback, Check
from ectype.training.trainer import Trainer

__all__ = ["SampleEvidence"]


class SampleEvidence(Callback):
    """Saves the reference values of real images with the run, and pictures of the evidence for bad verdicts.

    Args:
        samples: The monitor of the run's samples.
        run: The run's directory.
    """

    def __init__(self, samples: SampleMonitor, run: RunDir) -> None:
        self.samples, self.run = samples, run

    def started(self, trainer: Trainer, monitor: Monitor) -> None:
        write_json_file(self.run.monitor_file, self.samples.to_dict())

    def checked(self, trainer: Trainer, check: Check) -> None:
        if check.verdict is None or check.verdict.name in ("healthy", "learning", "undertrained"):
            return
        found = self.samples.evidence(trainer.model)
        self.run.samples.mkdir(exist_ok=True)
        for name, images in found._asdict().items():
            if images is not None:
                save_grid(to_uint8(images), self.run.samples / f"evidence-{check.step:08d}-{name}.png", owned=True)
