#!/usr/bin/python3
"""The client of integrations/notebook against the running service.

    client.py SOURCE VRAMCAST      TAP; starts VRAMCAST on a free port
"""
import pathlib
import sys

import served

SOURCE, VRAMCAST = pathlib.Path(sys.argv[1]), sys.argv[2]
sys.path.insert(0, str(SOURCE / "integrations/notebook"))
sys.dont_write_bytecode = True
import vramcast

RUN = {"model": "llama-3.2-1b", "method": "lora"}


def refused(service):
    try:
        service.estimate(**RUN, lora={"rank": 0})
    except vramcast.Refused as fault:
        return fault.status == 422 and list(fault.faults) == ["/lora/rank"] and "/lora/rank" in str(fault)
    return False


def unanswered():
    try:
        vramcast.Service("http://127.0.0.1:1", timeout=1).presets()
    except OSError:
        return True
    return False


def cases(service):
    yield "an estimate judges the cards in their order", [
        row["gpu"] for row in service.estimate(**RUN, gpus=["t4", "h100"])["fits"]] == ["t4", "h100-sxm5-80gb"]
    rows = service.estimates([{**RUN, "gpus": "h100"}, {"model": "no-such-model"}])
    yield "many requests are rows, a wrong one with its error", [row["status"] for row in rows] == [200, 422] and (
        "/model" in rows[1]["error"])
    rows = service.sweep({**RUN, "gpus": "h100"}, {"lora.rank": [8, 64]}, sequence_length=[512, 1024])
    yield "a sweep is every combination", [(row["lora.rank"], row["sequence_length"]) for row in rows] == [
        (8, 512), (8, 1024), (64, 512), (64, 1024)]
    plan = service.plan(RUN, gpus=["h100"], max_gpus=2, limit=1)
    planned = service.estimate(**plan["plans"][0]["request"])
    yield "a plan is a request that fits", planned["fits"][0]["verdict"] == "fits"
    yield "presets are found by words", "llama-3.1-8b" in [row["id"] for row in service.presets("llama 8b")]
    yield "cards are found by words", "rtx-4090" in [row["id"] for row in service.gpus("4090")]
    yield "a refusal is raised with its pointers", refused(service)
    yield "silence is an OSError", unanswered()


def main():
    number, good = 0, True
    with served.service(SOURCE, VRAMCAST) as port:
        for number, (name, right) in enumerate(cases(vramcast.Service("http://127.0.0.1:%d" % port)), 1):
            good = good and right
            print("%sok %d - %s" % ("" if right else "not ", number, name))
    print("1..%d" % number)
    sys.exit(not good)


if __name__ == "__main__":
    main()
