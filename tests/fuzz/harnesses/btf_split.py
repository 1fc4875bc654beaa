"""host/btf.py: split BTF over a base, which is sound."""

from btf_blob import Blob

from fuzz.harness import Harness
from fuzz.harnesses.btf import fill, look, whole
from kvmtest.host.btf import Btf, BtfError

_blob = Blob()
fill(_blob)
BASE = Btf(_blob.bytes())

HARNESS = Harness(
    parse=lambda data: look(Btf(data, BASE)),
    seeds=(whole(_blob), Blob(_blob).bytes()),
    refusals=(BtfError,),
)
