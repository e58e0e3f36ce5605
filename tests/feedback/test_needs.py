"""The room's needs: no torch, and no heavy library before it is used."""

import subprocess
import sys
from pathlib import Path

from pronk import feedback

NAMES = sorted(path.stem for path in Path(feedback.__file__).parent.glob("*.py") if path.stem != "__init__")


def test_feedback_needs_no_torch():
    blocked = "torch", "transformers", "matplotlib", "krippendorff"
    code = f"import sys; sys.modules |= dict.fromkeys({blocked!r}); from pronk.feedback import {', '.join(NAMES)}"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
