import re

import pytest

from kvmtest.fleet.grub import custom, once, with_panic

#: As update-grub of Debian 12 writes it.
MENU = """\
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
   set next_entry=
   save_env next_entry
   set boot_once=true
else
   set default="0"
fi
menuentry 'Debian GNU/Linux' --class debian $menuentry_id_option 'gnulinux-simple-f317' {
	load_video
	insmod gzio
	if [ x$grub_platform = xxen ]; then insmod xzio; insmod lzopio; fi
	insmod ext2
	search --no-floppy --fs-uuid --set=root f317
	echo	'Loading Linux 6.1.0-50-amd64 ...'
	linux	/boot/vmlinuz-6.1.0-50-amd64 root=UUID=f317 ro quiet
	echo	'Loading initial ramdisk ...'
	initrd	/boot/intel-ucode.img /boot/initrd.img-6.1.0-50-amd64
}
submenu 'Advanced options for Debian GNU/Linux' $menuentry_id_option 'gnulinux-advanced-f317' {
	menuentry 'Debian, with Linux 6.1.0-47-amd64' --id 'gnulinux-6.1.0-47-amd64-advanced-f317' {
		linux	/boot/vmlinuz-6.1.0-47-amd64 root=UUID=f317 ro older
		initrd	/boot/initrd.img-6.1.0-47-amd64
	}
	menuentry 'Linux 6.1.0-5-amd64 (recovery mode)' --id 'gnulinux-6.1.0-5-amd64-recovery-f317' {
		linux	/boot/vmlinuz-6.1.0-5-amd64 root=UUID=f317 ro single
		initrd	/boot/initrd.img-6.1.0-5-amd64
	}
}
if [ -f  ${config_directory}/custom.cfg ]; then
  source ${config_directory}/custom.cfg
fi
"""
OWN = "6.1.0-50-amd64"
IMAGE, INITRAMFS = "kvmtest/6.12/vmlinuz", "kvmtest/6.12/initrd.img"


def entry(menu: str = MENU, own: str = OWN) -> str:
    made = once(menu, own, IMAGE, INITRAMFS)
    assert made is not None
    return made


def test_the_entry_is_that_of_the_own_kernel_with_other_files() -> None:
    lines = [line.strip() for line in entry().splitlines()]
    assert "linux\t/boot/kvmtest/6.12/vmlinuz root=UUID=f317 ro quiet panic=30" in lines
    assert "initrd\t/boot/intel-ucode.img /boot/kvmtest/6.12/initrd.img" in lines
    assert "search --no-floppy --fs-uuid --set=root f317" in lines
    assert OWN not in entry().replace(f"Loading Linux {OWN}", "")


def test_the_entry_of_the_kernel_that_is_asked_for_is_taken() -> None:
    assert " older panic=30\n" in entry(own="6.1.0-47-amd64")


def test_paths_are_relative_to_the_file_system_that_has_boot() -> None:
    menu = MENU.replace("\t/boot/", "\t/").replace(" /boot/", " /@/boot/")
    assert "\tlinux\t/kvmtest/6.12/vmlinuz root=" in entry(menu)
    assert " /@/boot/kvmtest/6.12/initrd.img\n" in entry(menu)


def test_a_kernel_that_can_t_be_loaded_has_another_booted_but_only_in_that_boot() -> None:
    assert '\nif [ "${boot_once}" ]; then set fallback=0; fi\n' in entry()


@pytest.mark.parametrize(
    ("menu", "own"),
    [
        (MENU, "6.1.0-5-amd64"),  # only for recovery
        (MENU, "6.1.0-5"),
        (MENU, "6.1.0-50"),
        (MENU.replace("custom.cfg", "others.cfg"), OWN),
        (MENU.replace("${next_entry}", "${saved_entry}"), OWN),
        ("", OWN),
    ],
)
def test_there_is_none_where_the_menu_has_no_such_entry_or_can_t_boot_once(
    menu: str, own: str
) -> None:
    assert once(menu, own, IMAGE, INITRAMFS) is None


@pytest.mark.parametrize("present", ["", "set timeout=3\n", "set timeout=3"])
def test_what_custom_cfg_has_stays(present: str) -> None:
    made = custom(present, entry())
    assert made.startswith(present)
    assert made.endswith(entry())
    assert re.search(r"^### BEGIN", made, re.MULTILINE)


def test_an_earlier_entry_is_replaced() -> None:
    first = custom("set timeout=3\n", entry(own="6.1.0-47-amd64"))
    assert custom(first + "set color=1\n", entry()) == f"set timeout=3\nset color=1\n{entry()}"


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ("ro quiet", "ro quiet panic=30"),
        ("ro panic=5 quiet", "ro panic=5 quiet"),
        ("panic=-1", "panic=-1"),
        ("ro kernel.panic=5", "ro kernel.panic=5 panic=30"),
    ],
)
def test_a_kernel_reboots_after_a_panic(given: str, made: str) -> None:
    assert with_panic(given) == made
