"""kernels/signatures.py: what the archive's keys signed, and what they did not."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import support

pytest.importorskip("pysequoia")

from support.debian_mirror import Key, write_keyring

from kvmtest.errors import EnvironmentUnfit
from kvmtest.kernels import signatures as subject
from kvmtest.kernels.signatures import signed_text

NOW = datetime.now(UTC)
#: As the archive signed it, with the keys of two releases.
REAL = Path(support.__file__).with_name("bullseye-security.InRelease").read_bytes()


@pytest.fixture
def keyring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "keyring"
    monkeypatch.setattr(subject, "INSTALLED", (path,))
    return path


@pytest.fixture
def key(keyring: Path) -> Key:
    made = Key()
    write_keyring(keyring, made)
    return made


def test_what_the_archive_signs_is_known_without_an_installed_keyring(keyring: Path) -> None:
    assert not keyring.exists()
    text = signed_text(REAL, datetime(2026, 12, 1, tzinfo=UTC))
    assert text.startswith("Origin: Debian\nLabel: Debian-Security\nSuite: oldoldstable-security\n")


@pytest.mark.parametrize(
    "change",
    [
        lambda message: message.replace(b"amd64", b"amd46", 1),
        lambda message: message.replace(b"Version: 11\n", b""),
        lambda message: message[: len(message) // 2],
        lambda message: message[: message.index(b"-----BEGIN PGP SIGNATURE-----")],
        lambda message: b"Origin: Debian\n",
        lambda message: b"",
    ],
    ids=["changed", "a line less", "truncated", "no signature", "plain text", "empty"],
)
def test_what_it_did_not_sign_is_refused_in_one_line(change, keyring: Path) -> None:
    with pytest.raises(EnvironmentUnfit) as it:
        signed_text(change(REAL), datetime(2026, 12, 1, tzinfo=UTC))
    assert str(it.value).startswith("not signed by a known key of Debian's archive (")
    assert len(str(it.value)) < 250


def test_text_outside_of_the_signed_text_is_dropped(key: Key) -> None:
    message = b"Suite: before\n" + key.sign("Suite: sid\n- a dash\n") + b"Suite: after\n"
    assert signed_text(message, NOW).rstrip() == "Suite: sid\n- a dash"


def test_an_installed_key_is_one_more(key: Key) -> None:
    assert signed_text(key.sign("text\n"), NOW).rstrip() == "text"
    assert signed_text(REAL, datetime(2026, 12, 1, tzinfo=UTC))


def test_an_unknown_key_is_refused(key: Key) -> None:
    with pytest.raises(EnvironmentUnfit, match="install debian-archive-keyring or a later"):
        signed_text(Key().sign("text\n"), NOW)


def test_a_key_that_has_expired_is_refused(key: Key) -> None:
    message = key.sign("text\n")
    expiration = key.certificate.expiration
    assert signed_text(message, expiration - timedelta(days=1))
    with pytest.raises(EnvironmentUnfit, match="not signed by a known key"):
        signed_text(message, expiration)


def test_a_key_that_was_revoked_is_refused(key: Key, keyring: Path) -> None:
    message = key.sign("text\n")
    key.revoke()
    write_keyring(keyring, key)
    with pytest.raises(EnvironmentUnfit, match="not signed by a known key"):
        signed_text(message, NOW)


def test_an_installed_keyring_can_revoke_a_shipped_key(
    key: Key, keyring: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = tmp_path / "shipped"
    write_keyring(shipped, key)
    monkeypatch.setattr(subject, "SHIPPED", shipped)
    message = key.sign("text\n")
    assert signed_text(message, NOW)
    key.revoke()
    write_keyring(keyring, key)
    with pytest.raises(EnvironmentUnfit, match="not signed by a known key"):
        signed_text(message, NOW)


def test_a_keyring_that_is_none_is_told(keyring: Path) -> None:
    keyring.write_bytes(b"no keyring")
    with pytest.raises(EnvironmentUnfit, match=rf"^can't read the keys in {keyring} \(.*\); inst"):
        signed_text(REAL, NOW)
