"""``make faults``: whatever is killed or broken, at every step of a container's life.

:mod:`.matrix` says what is tried and what may come of it; :mod:`.stage` and the modules below it
try it with the real keeper, runc and CRIU and with packets through real network namespaces;
:mod:`.cluster` tries what only a cluster has. :mod:`.leaks` compares what there was before
with what there is after. ``make soak`` is :mod:`.soak`.

Both stages use what the tests use (``tests/support``), from the same checkout.
"""

from __future__ import annotations

import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]

if (_tests := str(CHECKOUT / "tests")) not in sys.path:
    sys.path.append(_tests)
