"""Files of the machine: kvmtest/host/tree.py."""

from pathlib import Path

import pytest

from kvmtest.host.tree import Tree


@pytest.mark.parametrize("name", ["/lib/modules/6\0/config", f"/lib/{'a' * 300}", "/file/below"])
def test_a_name_that_no_file_can_have_is_absent(tmp_path: Path, name: str) -> None:
    tree = Tree(tmp_path)
    tree.path("/file").write_text("")
    assert not tree.exists(name)
    assert tree.read(name) is None
    assert tree.read_bytes(name) is None
