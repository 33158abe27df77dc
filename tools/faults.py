"""Run the fault matrix and write the page that shows it. Usage: tools/faults.py PAGE [LEVEL…] [N]

As root. Levels: scripted, agents, servers, guests; without any, all. N: one of so many rows. What was run on this
state of the code is not run again, and the page shows all that is known. Exit code 3 when a row has a defect.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests" / "fleet"
sys.path[:0] = [str(ROOT), str(TESTS)]
os.environ["PYTHONPATH"] = os.pathsep.join((str(ROOT), str(TESTS)))

if __name__ == "__main__":
    from fault_run import main  # lies with the tests

    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
