"""kvmtest/kernels/banner.py: version and date of a build, as each distribution writes them."""

import pytest

from kvmtest.kernels.banner import build_date, upstream_version

# A build as the distributions' kernels say it, and its date.
BUILDS = {
    "#1 SMP PREEMPT_DYNAMIC Debian 6.12.117-1 (2026-11-20)": "2026-11-20",
    "#1 SMP PREEMPT_DYNAMIC Debian 6.12.43-1~bpo12+1 (2025-09-06)": "2025-09-06",
    "#1 SMP PREEMPT_RT Debian 6.1.170-3 (2026-05-08)": "2026-05-08",
    "#1 SMP PREEMPT Debian 1:6.6.31-1+rpt1 (2024-05-29)": "2024-05-29",
    "#1 SMP PREEMPT_DYNAMIC Kali 6.11.2-1kali1 (2024-10-15)": "2024-10-15",
    "#1 SMP PREEMPT_DYNAMIC PMX 6.8.12-1 (2024-08-05T16:17Z)": "2024-08-05",
    "#1 SMP PVE 5.15.30-3 (Fri, 22 Apr 2022 18:08:27 +0200)": "Fri, 22 Apr 2022 18:08:27 +0200",
    "#31-Ubuntu SMP PREEMPT_DYNAMIC Sat Apr 20 00:40:06 UTC 2024": "Sat Apr 20 00:40:06 UTC 2024",
    "#202411220723 SMP PREEMPT_DYNAMIC Fri Nov 22 12:34:56 UTC 2024": (
        "Fri Nov 22 12:34:56 UTC 2024"
    ),
    "#1 SMP PREEMPT_DYNAMIC Thu Oct 24 12:00:00 UTC 2024 (4d9e7fe)": "Thu Oct 24 12:00:00 UTC 2024",
    "#1 SMP PREEMPT_DYNAMIC Wed Oct  2 05:43:48 EDT 2024": "Wed Oct  2 05:43:48 EDT 2024",
    "#2 SMP Tue Nov 5 01:02:03 2024": "Tue Nov 5 01:02:03 2024",
    "#1 SMP PREEMPT_DYNAMIC Mon Jun 3 10:00:00 +03 2024": "Mon Jun 3 10:00:00 +03 2024",
    "#1 SMP PREEMPT_DYNAMIC Fri, 08 Nov 2024 17:02:33 +0000": "Fri, 08 Nov 2024 17:02:33 +0000",
    "#1 SMP PREEMPT Fri, 8 Nov 2024 17:02:33 -0800": "Fri, 8 Nov 2024 17:02:33 -0800",
    "#1-Alpine SMP PREEMPT_DYNAMIC 2024-11-14 09:26:52": "2024-11-14",
    "#1-NixOS SMP PREEMPT_DYNAMIC Tue Jan  1 00:00:00 UTC 1980": "Tue Jan  1 00:00:00 UTC 1980",
    # kbuild cuts them at 64 characters: the year is lost, and no other is made of what is left.
    "#28~24.04.1-Ubuntu SMP PREEMPT_DYNAMIC Wed Jul  1 15:50:57 UTC 2": None,
    "#40~22.04.3-Ubuntu SMP PREEMPT_DYNAMIC Tue Jul 30 17:30:19 UTC 202": None,
    "#0~20241108.g1b28b3d SMP PREEMPT_DYNAMIC Fri Nov  8 17:22:22 UTC": None,
    "#1 SMP PREEMPT_DYNAMIC Debian 6.12.43-1~bpo12+1~longer (2025-09-0": None,
    "#1 SMP @0": None,
    "#1": None,
    "": None,
}


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize(
    "before",
    [
        "",
        "6.1.0 (me@host) ",
        "Linux version 6.1.0 (me@host) (gcc (GCC) 14.2.1 20240910, GNU ld 2.43) ",
        "Linux version 6.1.0 (me@host) (clang version 18.1.8 (tag 2024-01-01), LLD 18.1.8) ",
    ],
    ids=["uname -v", "bzImage", "gcc", "clang"],
)
def test_a_build_s_date_is_taken_as_each_distribution_writes_it(build: str, before: str) -> None:
    assert build_date(before + build) == BUILDS[build]


def test_an_epoch_is_no_part_of_the_version() -> None:
    banner = "6.6.31+rpt-rpi-v8 (me@host) #1 SMP PREEMPT Debian 1:6.6.31-1+rpt1 (2024-05-29)"
    assert upstream_version("6.6.0-rpt", banner) == (6, 6, 31)
