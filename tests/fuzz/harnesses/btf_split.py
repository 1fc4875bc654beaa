"""kernels/btf.py: split BTF over a base, which is sound."""

from support.btf_blob import Blob

from fuzz.harness import Harness
from fuzz.harnesses.btf import fill, look, whole
from kvmtest.kernels.btf import Btf, BtfError

_blob = Blob()
fill(_blob)
BASE = Btf(_blob.bytes())


def parse(data: bytes) -> None:
    look(Btf(data, BASE))
    look(Btf(data, BASE, own_first=True))


HARNESS = Harness(
    parse=parse,
    seeds=(whole(_blob), Blob(_blob).bytes()),
    refusals=(BtfError,),
)
