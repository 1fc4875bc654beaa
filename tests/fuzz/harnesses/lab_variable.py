"""host/facts/lab.py: the environment variable that tells of a lab."""

from fuzz.harness import Harness
from kvmtest.errors import EnvironmentUnfit
from kvmtest.host.facts.lab import VARIABLE, LabFacts

SEED = (
    b'{"emulator": "Bochs", "model": "i7", "version": "3", "lacks": {"smi": "none"},'
    b' "details": {"cpus": 2}}'
)

HARNESS = Harness(
    parse=lambda data: LabFacts.of({VARIABLE: data.decode(errors="surrogateescape")}),
    seeds=(SEED, b'{"emulator": "a", "model": "b", "version": "c"}'),
    refusals=(EnvironmentUnfit,),
    longest=512,
)
