"""host/observe/trace.py: lines of trace and trace_pipe."""

from fuzz.harness import Harness
from kvmtest.host.observe.trace import TracingError, parse_hits

LINES = """\
# tracer: nop
 kvmtest-1234    [001] d..2.  5678.123456: entry: (vmx_vcpu_run+0x0/0x10 [kvm_intel]) flags=0x4
CPU:1 [LOST 17 EVENTS]
 a b-c-99    (     12) [000]   1.000001: entry: (svm_vcpu_run+0x0/0x10) flags=0x0 vcpu=0xffff
 <idle>-0    [000] d..2.     1.000001: other: (do_exit+0x4/0x10)
"""

HARNESS = Harness(
    parse=lambda data: parse_hits(data.decode(errors="replace"), "entry"),
    seeds=(LINES.encode(), *(line.encode() for line in LINES.splitlines(keepends=True))),
    refusals=(TracingError,),
)
