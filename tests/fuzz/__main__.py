"""The process that reads the files."""

import faulthandler
import random
import resource
import sys
import warnings

from tests.fuzz import npz, onnx

KINDS = {"npz": (npz, 2**28), "onnx": (onnx, 2**30)}
"""Word -> module, and the bytes that reading a file of a few kilobytes may take."""

SECONDS = 20
"""Of one case, which takes a hundredth of one."""


def limit(memory):
    """Let this process have no more memory than it has now, and this."""
    with open("/proc/self/statm") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + memory, resource.RLIM_INFINITY))


def complaint(kind, number):
    """What is wrong with the reading of this file, if anything, and whether the file was read."""
    data = kind.hostile(random.Random(number))
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    try:
        with warnings.catch_warnings(action="error"):
            kind.read(data)
    except ValueError as error:
        text = str(error)
        ours = type(error) is ValueError and text.isprintable() and 20 < len(text) < 10_000 + 9 * len(data)
        return None if ours else f"{type(error).__name__}: {text!r}", False
    except BaseException as error:
        place = error.__traceback__
        while place.tb_next is not None:
            place = place.tb_next
        code = place.tb_frame.f_code
        return f"{type(error).__name__}: {str(error)[:200]!r} at {code.co_filename}:{place.tb_lineno}", False
    finally:
        faulthandler.cancel_dump_traceback_later()
    return None, True


def main():
    (kind, memory), first, count = KINDS[sys.argv[1]], int(sys.argv[2]), int(sys.argv[3])
    for number in range(first, first + 9):
        complaint(kind, number)  # what is imported when it is used
    limit(memory)
    bad = accepted = 0
    for number in range(first, first + count):
        print(number, end="\r", file=sys.stderr, flush=True)  # the last one, should the process die
        said, read = complaint(kind, number)
        accepted += read
        if said is not None:
            bad += 1
            print(f"{number}: {said}")
    print(f"{count} files: {accepted} read, {count - accepted - bad} refused, {bad} wrong")
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
