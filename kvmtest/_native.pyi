from typing import Any

# Structures are the kernel's and known to the compiler alone: nothing for a type checker to see.
ffi: Any
lib: Any
