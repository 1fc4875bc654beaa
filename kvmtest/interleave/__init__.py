"""Other processes, stopped at exact points by ptrace(2)."""
