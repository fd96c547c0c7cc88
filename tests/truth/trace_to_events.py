#!/usr/bin/python3
"""Makes a file of tests/truth/events/ from a trace of real PyTorch.

    trace_to_events.py DUMP REQUEST STACK >events/NAME.json

DUMP is the list of all allocations of a run of two or more optimizer steps, one a line:

    A id bytes allocated operators...     an allocation, and torch.cuda.memory_allocated() after it
    F id bytes                            a free
    ==== step                             the next step begins (what comes before the first is the load)

Other lines are passed over. REQUEST is the body of POST /estimate that describes the run, STACK the versions that ran, as
JSON: {"torch": "2.13.0", "transformers": "5.23.0"}. --threshold BYTES leaves out smaller allocations (20,000), --rank N says
which rank of a pipeline ran.

The result holds the last step: "events" is a list of [bytes, allocated after it], both in units of 512 bytes, which is what
PyTorch's allocator rounds to. test_events.c wants the replay to make the same ones in the same order.
"""
import argparse
import json

UNIT = 512
WIDTH = 118


def units(size):
    return (size + UNIT - 1) // UNIT


def last_step(lines, threshold):
    """[[units, units allocated]] of the allocations of threshold bytes and more since the last step began."""
    events, steps = [], 0
    for line in lines:
        words = line.split(None, 4)
        if line.startswith("==== step"):
            events, steps = [], steps + 1
        elif words and words[0] == "A" and int(words[2]) >= threshold:
            allocated = int(words[3])
            if allocated % UNIT:
                raise SystemExit(f"allocated is no multiple of {UNIT}: {line.strip()}")
            events.append([units(int(words[2])), allocated // UNIT])
    if steps < 2:
        raise SystemExit("a trace of two steps is needed: the first one makes the optimizer's states")
    return events


def packed(events):
    """As many events to a line as fit."""
    lines, line = [], ""
    for event in events:
        text = "[%d,%d]" % tuple(event)
        if len(line) + len(text) + 1 > WIDTH:
            lines.append(line)
            line = ""
        line += ("," if line else "") + text
    return ",\n".join(lines + [line])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dump", type=argparse.FileType("r", encoding="utf-8"))
    parser.add_argument("request", type=json.loads)
    parser.add_argument("stack", type=json.loads)
    parser.add_argument("--threshold", type=int, default=20000)
    parser.add_argument("--rank", type=int, help="of a pipeline")
    wanted = parser.parse_args()

    events = last_step(wanted.dump, wanted.threshold)
    print('{"request": %s,' % json.dumps(wanted.request))
    print('"stack": %s,' % json.dumps(wanted.stack))
    if wanted.rank is not None:
        print('"rank": %d,' % wanted.rank)
    print('"threshold_bytes": %d,\n"events": [' % wanted.threshold)
    print(packed(events) + "\n]}")


if __name__ == "__main__":
    main()
