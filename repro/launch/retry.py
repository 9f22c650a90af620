"""How often one command begins a run again that failed: counted on disk, over all launchers and machines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from repro.attempts import failures, read


class Retries:
    """The failures of runs since this command began, against the number that is allowed."""

    def __init__(self, directories: Iterable[Path], allowed: int) -> None:
        self.allowed = allowed
        self._before = {directory: failures(read(directory)) for directory in directories}
        self._seen: Counter[Path] = Counter()
        self._excused: Counter[Path] = Counter()

    def note(self, directory: Path) -> None:
        """Count a failure that this command saw; where none was written, a full disk has no say over the limit."""
        self._seen[directory] += 1

    def excuse(self, directory: Path) -> None:
        """Leave one failure uncounted: it was the launcher's doing."""
        self._excused[directory] += 1

    def used(self, directory: Path) -> int:
        """Count the failures since the command began, whoever trained the run."""
        on_disk = failures(read(directory)) - self._before[directory]
        return max(on_disk, self._seen[directory]) - self._excused[directory]

    def left(self, directory: Path) -> bool:
        """Whether the run may be begun again."""
        return self.used(directory) <= self.allowed
