"""Hypothesis profiles: the tests are the same on every run; `--hypothesis-profile=explore` looks further."""

from hypothesis import HealthCheck, settings

QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large]

settings.register_profile(
    "default", deadline=None, derandomize=True, database=None, max_examples=100, suppress_health_check=QUIET
)
settings.register_profile("explore", deadline=None, max_examples=1000, print_blob=True, suppress_health_check=QUIET)
settings.load_profile("default")
