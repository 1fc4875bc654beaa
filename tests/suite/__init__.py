"""The hardware suite that ``kvmtest run`` runs; shipped in the wheel as kvmtest.suite."""
