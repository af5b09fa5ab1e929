"""Interchange with other packages, each behind its extra; the core imports none of these modules."""
