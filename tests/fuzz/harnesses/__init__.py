"""A module for each harness; see fuzz.harness."""
