"""What holds for all tests."""

from __future__ import annotations

import hypothesis

# Two shared, noisy cores: no test may depend on speed.
hypothesis.settings.register_profile(
    "architect",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("architect")
