"""One harness under atheris: ``python -m fuzz.one NAME [LIBFUZZER OPTIONS] [CORPUS...]``."""

import importlib
import resource
import sys
from pathlib import Path

import atheris

# What steers the fuzzer: the parsers, and the libraries that read for them.
INSTRUMENTED = ["kvmtest", "elftools", "debian", "tarfile", "json"]
# Far above what is a finding: keeps the machine alive meanwhile.
MOST_MEMORY = 2 << 30


def main() -> None:
    _, name, *options = sys.argv
    with atheris.instrument_imports(include=INSTRUMENTED):
        importlib.import_module(f"fuzz.harnesses.{name}")
    from fuzz.harness import check, load

    harness = load(name)

    def one(data: bytes) -> None:
        check(harness, data)

    more = {}
    if mutate := harness.mutate:
        more["custom_mutator"] = mutate
    resource.setrlimit(resource.RLIMIT_AS, (_mapped() + MOST_MEMORY, resource.RLIM_INFINITY))
    atheris.Setup([sys.argv[0], f"-max_len={harness.longest}", *options], one, **more)
    atheris.Fuzz()


def _mapped() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main()
