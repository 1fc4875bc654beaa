"""A fleet on the terminal
=======================

What a fleet stands at: a sentence with the exit status, a line for each host, those in trouble
first, why runs are not done, and what to do next.
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence

from rich.text import Text

from kvmtest.errors import printable
from kvmtest.evidence.counting import BROKEN, FAILED, PASSED, UNDECIDED
from kvmtest.fleet.course import Boot, Course, Ended, Ending, Restore, Run
from kvmtest.fleet.standing import Standing, exit_status
from kvmtest.fleet.tasks import Lane

from .sentence import number_of
from .wrapping import WIDTH, headed, wrapped

__all__ = ["course_words", "dry_run", "screen"]

#: The most lines about hosts, and about runs that are not done.
_HOSTS, _RUNS = 24, 8
_STYLES = {PASSED: "bold green", FAILED: "bold red", BROKEN: "bold magenta", UNDECIDED: "yellow"}
_WORDS = {PASSED: "pass", FAILED: "FAIL", UNDECIDED: "undecided"}


def screen(
    hosts: Sequence[Standing],
    folder: str,
    at_work: str = "",
    *,
    problems: Sequence[str] = (),
    width: int = WIDTH,
    now: float | None = None,
) -> list[Text]:
    """Return the lines; ``at_work`` is who works on ``folder``, "" if nobody does.

    ``problems`` went wrong besides runs and hosts; they were told elsewhere.
    """
    status = exit_status(hosts, problems)
    width = min(width, WIDTH)
    moment = time.time() if now is None else now
    sentence = _sentence(hosts, status, at_work, problems)
    lines = headed(sentence, status, width, _STYLES[status])
    if at_work:
        lines += wrapped(f"At work: {at_work}", width, hanging="  ")
    lines.append(Text())
    lines += _hosts(hosts, width, moment if at_work else None)
    gaps = list(_not_done(hosts))
    if gaps:
        lines += [Text(), Text("Given up:")]
        for line in gaps[:_RUNS]:
            lines += wrapped(line, width, hanging="  ")
        if len(gaps) > _RUNS:
            lines.append(Text(f"and {len(gaps) - _RUNS} more"))
    if not at_work:
        unfinished = any(host.not_done or not host.is_clean for host in hosts)
        lines += [Text(), Text(f"Next: kvmtest fleet resume {folder}")] * unfinished
    return lines


def _sentence(hosts: Sequence[Standing], status: int, at_work: str, problems: Sequence[str]) -> str:
    planned = sum(host.planned for host in hosts)
    counts = _counts(hosts)
    done = sum(counts.values())
    if at_work:
        return f"AT WORK: {done} of {number_of(planned, 'run')} done"
    if status == FAILED:
        return f"FAIL: {counts[FAILED]} of {number_of(planned, 'run')} FAIL"
    if status == BROKEN and done < planned:
        return f"ERROR: {planned - done} of {number_of(planned, 'run')} left no evidence"
    if status == BROKEN and not all(host.is_clean for host in hosts):
        return "ERROR: not every host is as it was"
    if status == BROKEN and (broke := done - counts[PASSED] - counts[UNDECIDED]):
        return f"ERROR: {broke} of {done} runs broke"
    if status == BROKEN:
        return f"ERROR: {problems[0]}"
    if status == UNDECIDED:
        return f"UNDECIDED: {number_of(done, 'run')} decided nothing"
    return f"PASS: {counts[PASSED]} of {number_of(planned, 'run')} pass" + (
        f", {counts[UNDECIDED]} decided nothing" if counts[UNDECIDED] else ""
    )


def _counts(hosts: Sequence[Standing]) -> Counter[int]:
    return Counter(status for host in hosts for status in host.statuses)


def _hosts(hosts: Sequence[Standing], width: int, now: float | None) -> Iterator[Text]:
    """Give a line for each host; ``now`` is None where nobody is at work."""
    ranked = sorted(hosts, key=_rank)
    shown, rest = ranked[:_HOSTS], ranked[_HOSTS:]
    names = max(len(host.name) for host in hosts)
    counts = max(len(_share(host)) for host in hosts)
    for host in shown:
        head = f"{host.name:{names}}  {_share(host):>{counts}}  "
        words = "; ".join(_said(host, now)) or "not begun"
        if len(head) > width // 2:
            yield Text(printable(head.rstrip()))
            head = "    "
        lines = wrapped(words, width - len(head))
        for number, line in enumerate(lines):
            yield Text(printable(head if number == 0 else " " * len(head))).append_text(line)
    if rest:
        runs = f"{sum(len(h.statuses) for h in rest)}/{sum(h.planned for h in rest)}"
        yield Text(f"and {number_of(len(rest), 'host')} more with {runs} runs done")


def _rank(host: Standing) -> int:
    """Return a host's place on the screen: those in trouble first."""
    marks = (
        bool(host.lost) or not host.is_clean,
        any(status not in (PASSED, UNDECIDED) for status in host.statuses),
        bool(host.given_up),
        bool(host.at_work),
        bool(host.not_done),
    )
    return next((place for place, is_so in enumerate(marks) if is_so), len(marks))


def _share(host: Standing) -> str:
    return f"{len(host.statuses)}/{host.planned}"


def _said(host: Standing, now: float | None) -> Iterator[str]:
    counts = Counter(_WORDS.get(status, "error") for status in host.statuses)
    if counts:
        yield ", ".join(
            f"{counts[w]} {w}" for w in ("FAIL", "error", "pass", "undecided") if counts[w]
        )
    if host.again:
        yield f"{host.again} tried again"
    if host.given_up:
        yield f"{len(host.given_up)} given up"
    if now is not None:
        for each in host.at_work[:2]:
            yield f"{_step(each.step)} ({_time(now - each.since)})"
    if host.lost:
        yield f"LOST: {host.lost}"
    elif not host.is_clean and now is None:
        yield "NOT put back yet"


def _step(step: Boot | Run | Restore) -> str:
    match step:
        case Boot(kernel):
            return f"boots {kernel}"
        case Run(kernel, number):
            return f"runs {kernel} {number}"
        case Restore():
            return "is put back"


def _time(seconds: float) -> str:
    minutes = int(max(seconds, 0)) // 60
    return f"{minutes} min" if minutes else f"{max(seconds, 0):.0f} s"


def _not_done(hosts: Sequence[Standing]) -> Iterator[str]:
    """Give a line for each kernel of a host that was given up, with all its runs."""
    for host in hosts:
        runs: dict[tuple[str, str], list[str]] = {}
        for each in host.given_up:
            if each.given_up:
                ended = each.given_up.ended
                what = "boot" if isinstance(each.given_up.step, Boot) else "run"
                why = f"{what} {ended.ending}: {ended.why}"
                runs.setdefault((each.task.kernel, why), []).append(str(each.task.number))
        for (kernel, why), numbers in runs.items():
            yield f"{host.name} {kernel} {','.join(numbers)}: {why}"


def course_words(course: Course) -> str:
    """Return in words how the course of a lane ended."""
    planned = len(course.tasks)
    words = [f"{len(course.done)} of {number_of(planned, 'run')} kept"]
    if course.failed:
        words.append(f"{len(course.failed)} given up")
    words.append(f"LOST: {course.lost}" if course.lost else "the host is as it was")
    return ", ".join(words)


def dry_run(lanes: Sequence[Lane]) -> Iterator[str]:
    """Give lines that say what would be done on each host, in its order."""
    for lane in lanes:
        yield f"{lane.name} ({lane.host.reach})"
        course = Course(lane.tasks)
        tasks = {task.key: task for task in lane.tasks}
        while step := course.next:
            match step:
                case Boot(kernel):
                    yield f"  boot {kernel}"
                case Run(kernel, number):
                    words = " ".join(tasks[kernel, number].words)
                    yield f"  run {kernel} {number}{f': {words}' if words else ''}"
                case Restore() if not lane.host.is_lab:
                    yield "  put back: its own kernel, nothing left there"
            course = course.begun(step).ended(Ended(Ending.DONE))
