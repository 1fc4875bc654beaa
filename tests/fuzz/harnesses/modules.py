"""kernels/modules.py: a module's file, its .modinfo, and the signature behind it."""

from support.kernel_files import module, xz

from fuzz.harness import Harness
from kvmtest.errors import EnvironmentUnfit
from kvmtest.kernels.modules import module_name, parse_module

SIGNATURE = b"signature" + bytes(8) + (9).to_bytes(4, "big") + b"~Module signature appended~\n"


def parse(data: bytes) -> None:
    name = module_name(data[-64:].decode(errors="replace")) or "kvm"
    module, release = parse_module(name, data)
    assert release
    assert module.data.startswith(module.unsigned)


HARNESS = Harness(
    parse=parse,
    seeds=(
        module("kvm_intel", "kvm"),
        module("kvm", "irqbypass", "x") + SIGNATURE,
        xz(module("msr")),
    ),
    refusals=(EnvironmentUnfit,),
)
