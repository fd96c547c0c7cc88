#!/usr/bin/python3
"""The page in a real Chromium, as a person uses it: with the mouse, by keys alone, in both themes, on a narrow screen.

    browser.py SOURCE VRAMCAST [--screenshots FOLDER]      TAP; starts VRAMCAST on a free port

With --screenshots the pictures of docs/dashboard.md are written.
"""
# needs: chromium chromium-driver python3-selenium python3-pil
import decimal
import io
import json
import pathlib
import re
import subprocess
import sys

from PIL import Image

SOURCE = pathlib.Path(sys.argv[1])
sys.path[:0] = [str(SOURCE / "tests"), str(SOURCE / "tests/integration")]
import chromium
import drift
import served

AUDIT = (SOURCE / "tests/integration/audit.js").read_text(encoding="utf-8")
EXAMPLE = "#model=llama-3.2-1b&method=lora&micro_batch_size=2&gpus=rtx-4090,a100-40gb"


UNITS = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (0, "B"))


def unless(right, told):
    return [] if right else [str(told)]


def equal(told, wanted):
    return unless(told == wanted, "%r instead of %r" % (told, wanted))


def size(count):
    """Bytes as the page writes them."""
    scale, unit = next((max(1, scale), unit) for scale, unit in UNITS if count >= scale)
    value = decimal.Decimal(count) / scale
    digits = 0 if value >= 100 or unit == "B" else 1 if value >= 10 else 2
    return "%s %s" % (value.quantize(decimal.Decimal(10) ** -digits, decimal.ROUND_HALF_UP), unit)


def sizes(rows):
    return {name[:-len("_bytes")]: size(count) for name, count in rows.items() if name.endswith("_bytes")}


class Page(chromium.Browser):
    """The dashboard: what a person reads on it."""

    def request(self):
        return json.loads(self.text("#text-JSON"))

    def needed(self):
        return self.text(".figure dd")

    def settled(self):
        """Waits until nothing is asked any more; the text of the status."""
        self.until("the answer", lambda: self.run(
            "return !document.querySelector('#results[aria-busy]') && "
            "!document.querySelector('#status').textContent.startsWith('Reading')"))
        return self.text("#status")

    def changed(self, act):
        """Does what changes the request, and waits for the answer to it."""
        before = self.request()
        act()
        self.until("another request", lambda: self.request() != before)
        self.run("return new Promise((done) => setTimeout(done, 300))")  # longer than a typist's pause
        return self.settled()

    def start(self, fragment=EXAMPLE):
        self.open(fragment)
        return self.settled()


class Service:
    """The service itself, to hold what the page shows against what it answers."""

    def __init__(self, port):
        self.port = port

    def estimate(self, request):
        return served.Answer(self.port, "POST", "/estimate", request).value


def shows(page, service):
    """What differs between what the page shows and what the service answers to the request that the page shows."""
    fit = service.estimate(page.request())["fits"][0]
    status = page.text("#status")
    return equal(page.needed(), size(fit["required_bytes"])) + \
        unless(fit["verdict"].replace("_", " ") in status, "%r does not tell %s" % (status, fit["verdict"]))


def search_cases(page, service):
    page.start("")
    yield "it opens with an example that is answered", shows(page, service)
    page.click("#preset")
    page.one("#preset").send_keys("llama 1b")
    found = page.until("models", lambda: [row.text for row in page.all("#preset-list .option-name")])
    yield "a search finds models by words", equal(found[0], "llama-3.2-1b")
    page.changed(lambda: page.keys("ARROW_DOWN", "ENTER"))
    yield "a model is taken by keys", equal(page.request()["model"], "llama-3.2-1b") + shows(page, service)
    yield "the list is closed then", equal(page.value("#preset", "aria-expanded"), "false")
    page.click("#preset")
    page.one("#preset").send_keys(page.ALL, "gpt2")
    page.until("several", lambda: len(page.all("#preset-list [role=option]")) > 1)
    page.changed(lambda: page.keys("ENTER"))
    yield "Enter means what was typed, when nothing was chosen", equal(page.request()["model"], "gpt2")


def change_cases(page, service):
    page.start()
    page.changed(lambda: page.click("[aria-label='Double Batch per GPU']"))
    yield "a button doubles the batch", equal(page.request()["micro_batch_size"], 4) + shows(page, service)
    page.changed(lambda: page.fill("[id='field-sequence_length']", "1024"))
    yield "a length is typed", equal(page.request()["sequence_length"], 1024) + shows(page, service)
    page.changed(lambda: page.choose("[id='field-gradient_checkpointing']", "full"))
    yield "a word is chosen", equal(page.request()["gradient_checkpointing"], "full") + shows(page, service)
    page.changed(lambda: page.choose("[id='field-method']", ""))
    told = page.run("return document.getElementById('field-method').selectedOptions[0].text")
    yield "the default is told where nothing is chosen", equal(told, "default: full") + shows(page, service)
    page.changed(lambda: page.driver.back())
    yield "the back button undoes a change", equal(page.request().get("method"), "lora") + shows(page, service)
    page.fill("[id='field-sequence_length']", "512")
    page.fill("[id='field-sequence_length']", "768")
    page.until("768", lambda: page.request().get("sequence_length") == 768)
    page.run("return new Promise((done) => setTimeout(done, 500))")
    page.settled()
    yield "the last of quick changes is what is shown", shows(page, service)


def bar_faults(page, fit, alone):
    """What the bar of a card lacks; alone: the answer for that card, told in words and by the widths of its parts."""
    bar = page.one("[data-gpu='%s'] svg" % fit["gpu"])
    parts = ["%s %s" % pair for pair in sizes(alone["peak"]["at_peak"]).items() if pair[1] != "0 B"]
    label, told = bar.get_attribute("aria-label"), parts + [size(fit["required_bytes"]), size(fit["usable_bytes"])]
    widths = page.run("""return [".capacity", ".part"].map((name) => [...arguments[0].querySelectorAll(name)]
        .reduce((sum, part) => sum + parseFloat(part.getAttribute("width")), 0))""", bar)
    off = abs(widths[1] / widths[0] - fit["required_bytes"] / fit["usable_bytes"])
    return [part for part in told if part not in label] + unless(off < 0.001, widths)


def picture_cases(page, service):
    page.start()
    answer = service.estimate(page.request())
    for fit in answer["fits"]:
        alone = service.estimate({**page.request(), "gpus": [fit["gpu"]]})
        yield "the bar of %s is the peak over what it can give" % fit["gpu"], bar_faults(page, fit, alone)
    full = served.Answer(service.port, "POST", "/estimate?timeline=full", page.request()).value["timeline"]
    yield "the timeline has every stretch of the step", equal(
        [page.value("path." + name, "d").count("L") for name in ("allocated", "reserved")],
        [2 * len(full) + 1] * 2) + equal(page.value("#stretch", "max"), str(len(full) - 1))
    top = max(range(len(full)), key=lambda i: full[i]["allocated_bytes"])
    yield "it points at the peak", equal(page.value("#stretch", "value"), str(top))
    page.run("document.getElementById('stretch').focus()")
    page.keys("HOME", "ARROW_RIGHT")
    told = page.text(".walk output")
    yield "keys walk through it", unless(size(full[1]["allocated_bytes"]) in told, told)
    rows = {row.find_element("css selector", "th").text: row.find_element("css selector", "td").text
            for row in page.all("#rows table:first-child tbody tr")}
    yield "the rows are the answer's", equal(rows, sizes(answer["per_gpu"]))
    limits = service.estimate({**page.request(), "include": ["limits"]})["fits"][0]
    longest = "[id='limit-rtx-4090-max_sequence_length']"
    page.until("limits", lambda: page.one(longest))
    page.changed(lambda: page.click(longest))
    yield "the longest sequence is found and taken by a click", shows(page, service) + \
        equal(page.request()["sequence_length"], limits["max_sequence_length"]) + \
        equal(page.text(".bars .verdict"), "✓ fits")


def advice_cases(page, service):
    page.start("#model=llama-3.1-8b&gpus=rtx-4090")
    item = page.until("advice", lambda: page.one(".advice li"))
    promised = re.search("then needs (.*)", item.text.split("\n")[0]) or re.search("then needs (.*)", item.text)
    first = service.estimate({**page.request(), "include": ["advice"]})["advice"][0]["change"]
    page.changed(lambda: page.click(".advice li button"))
    yield "an advice is applied", equal({key: page.request().get(key) for key in first}, first)
    yield "and it saves what it said", equal(page.needed(), promised.group(1).strip()) + shows(page, service)


def column(page, number):
    return page.run("""return [...document.querySelectorAll("#cards tbody tr")]
        .map((row) => row.cells[arguments[0]].textContent)""", number)


def card_cases(page, service):
    page.start()
    everyone = {**page.request(), "include": []}
    del everyone["gpus"]
    fits = {fit["name"]: fit for fit in service.estimate(everyone)["fits"]}
    yield "every card has its verdict", equal(
        dict(zip(column(page, 1), (text.split(" ", 1)[1].strip().replace(" ", "_") for text in column(page, 6)))),
        {name: fit["verdict"] for name, fit in fits.items()})
    page.click("#sort-required")
    ascending = [fits[name]["required_bytes"] for name in column(page, 1)]
    page.click("#sort-required")
    descending = [fits[name]["required_bytes"] for name in column(page, 1)]
    yield "a heading sorts both ways", unless(ascending == sorted(ascending), "not ascending") + \
        unless(descending == sorted(descending, reverse=True), "not descending") + \
        equal(page.value("th:has(#sort-required)", "aria-sort"), "descending")
    page.choose("#filter-vendor", "nvidia")
    page.choose("#filter-verdict", "fits")
    page.one("#find").send_keys("a100 80")
    names = column(page, 1)
    right = [name for name in names if "A100" in name and fits[name]["verdict"] == "fits"]
    yield "filters narrow the table", unless(right == names and 0 < len(names) < 20, names)
    yield "and say how many are left", equal(page.text("#card-count"), "%d of %d cards" % (len(names), len(fits)))
    page.changed(lambda: page.click("#cards tbody input"))
    yield "a card is taken from the table", equal([len(page.request()["gpus"]), len(page.all(".bars > li"))], [3, 3])


def share_cases(page, service):
    page.start()
    page.click("#sort-memory")
    page.one("#find").send_keys("rtx")
    page.changed(lambda: page.fill("[id='field-lora.rank']", "64"))
    link, request, names = page.text("#text-link"), page.request(), column(page, 1)
    yield "the link is the address", equal(link, page.driver.current_url)
    page.command("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    page.click("#copy-link")
    copied = page.until("the clipboard", lambda: page.run("return navigator.clipboard.readText()"))
    yield "the link is copied", equal(copied, link)
    page.driver.switch_to.new_window("tab")
    page.open(link.removeprefix(page.base))
    page.settled()
    told = [page.request(), column(page, 1)]
    yield "reopened, it shows the same", equal(told, [request, names]) + shows(page, service)
    page.driver.close()
    page.driver.switch_to.window(page.driver.window_handles[0])
    line = page.text("#text-curl").replace("curl ", "curl -s --noproxy '*' ", 1)
    fit = json.loads(subprocess.run(["bash", "-c", line], check=True, capture_output=True).stdout)["fits"][0]
    yield "the curl line is answered alike", equal(size(fit["required_bytes"]), page.needed())
    page.start("#" + page.driver.current_url.partition("#")[2].replace("lora.rank=64", "lora.rank=64&lose=1"))
    told = page.text("#problems")
    page.changed(lambda: page.click("#problems li button"))
    yield "what a link says wrongly is told, and left out", unless("/lose" in told, told) + shows(page, service)


def fault_cases(page, service):
    page.start()
    page.click("input[value=config]")
    page.one("#config").send_keys('{"model_type": "llama", ')
    page.until("the fault", lambda: "is not JSON" in page.text("#fault-model"))
    yield "a config.json that is no JSON is told at its box", equal(page.value("#config", "aria-invalid"), "true")
    page.fill("#config", '{"model_type": "llama", "hidden_size": 4096}')
    told = page.until("faults", lambda: "vocab_size" in page.text("#fault-model") and page.text("#fault-model"))
    wanted = ("vocab_size is required", "num_hidden_layers is required")
    yield "what it lacks is told there too", [line for line in wanted if line not in told]
    config = (SOURCE / "tests/hf_config/qwen3-8b.json").read_text(encoding="utf-8")
    page.run("document.getElementById('config').value = arguments[0]", json.dumps(json.loads(config)))
    page.changed(lambda: page.one("#config").send_keys(" ", page.TAB))
    yield "one that is right is answered", shows(page, service) + equal(page.all("[aria-invalid]"), []) + \
        equal(page.request()["model"]["model_type"], "qwen3")
    page.click("input[value=custom]")
    page.changed(lambda: page.fill("[id='field-model.parameters']", "1.5B"))
    yield "a parameter count alone is answered", equal(page.request()["model"], {"parameters": "1.5B"}) + \
        shows(page, service)
    page.start()
    page.fill("[id='field-sequence_length']", "0")
    told = page.until("the fault", lambda: page.text("[id='fault-sequence_length']"))
    described = page.value("[id='field-sequence_length']", "aria-describedby")
    yield "a fault stands at its field", unless("must be" in told, told) + \
        equal(page.value("[id='field-sequence_length']", "aria-invalid"), "true") + \
        unless("fault-sequence_length" in described, described)
    page.changed(lambda: page.click("[id='fault-sequence_length'] button"))
    yield "a click takes it back to the default", shows(page, service) + \
        equal(page.request().get("sequence_length"), None)
    page.changed(lambda: page.fill("[id='field-lora.rank']", "8"))
    page.choose("[id='field-method']", "full")
    told = page.until("the fault", lambda: page.text("[id='fault-lora.rank']"))
    yield "so does a contradiction between two", unless("method lora" in told, told)
    page.start("#model=llama-3.2-1b&method=lora&gpus=rtx-4090&lora.rang=8")
    told = page.text("details[data-pointer='/lora'] > .fault")
    page.changed(lambda: page.click("details[data-pointer='/lora'] > .fault button"))
    yield "a name that a group has not is told at the group", unless("rang is not a known field" in told, told) + \
        equal(page.request().get("lora"), None) + shows(page, service)
    page.offline(True)
    page.fill("[id='field-lora.rank']", "4")
    page.until("the loss", lambda: "reached" in page.text("#problems"))
    page.offline(False)
    page.click("#problems button")
    page.until("an answer", lambda: not page.one("#problems").is_displayed())
    page.settled()
    yield "a service that is gone is told, and tried again", shows(page, service)


def theme_cases(page, _):
    backgrounds = {}
    for theme in ("light", "dark"):
        page.prefer(theme)
        page.start()
        page.until("advice", lambda: page.one(".advice li"))
        page.run("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
        backgrounds[theme] = page.run("return getComputedStyle(document.body).backgroundColor")
        yield "every text and part stands out in the %s theme" % theme, page.run(AUDIT)
        yield "everything has a name for a screen reader in the %s theme" % theme, page.nameless()
    yield "the system's preference is followed", unless(backgrounds["light"] != backgrounds["dark"], backgrounds)
    page.prefer("light")
    page.choose("#theme", "dark")
    shown = lambda: page.run("return getComputedStyle(document.body).backgroundColor")
    yield "the switch goes before it", equal(shown(), backgrounds["dark"])
    page.start()
    yield "and is kept", equal(shown(), backgrounds["dark"]) + equal(page.value("#theme", "value"), "dark")
    page.choose("#theme", "system")


def noticed_cases(page, _):
    """That the checks of legibility notice what they are for."""
    page.start()
    for name, value in (("--muted", "#aaa"), ("--weights", "#cde")):
        page.run("document.documentElement.style.setProperty(arguments[0], arguments[1])", name, value)
        yield "noticed: a colour that is too faint, %s" % name, unless(page.run(AUDIT), "nothing")
        page.run("document.documentElement.style.removeProperty(arguments[0])", name)
    yield "and not when it is right again", page.run(AUDIT)
    page.run("document.body.append(Object.assign(document.createElement('p'), { id: 'status' }))")
    yield "noticed: an id that stands twice", equal(page.run(AUDIT), ["the id status stands twice"])
    page.run("document.querySelector('label[for=find]').remove()")
    yield "noticed: a control without a label", equal(page.nameless(), ["a searchbox has no name"])


def narrow_cases(page, service):
    page.size(360, 740)
    page.start()
    page.until("advice", lambda: page.one(".advice li"))
    page.run("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
    yield "nothing sticks out of 360 pixels", page.run(AUDIT) + shows(page, service)
    box = page.one("#status").rect
    yield "the answer stays in sight there", unless(box["y"] < 740 and page.one("#status").is_displayed(), box)
    page.size(1280, 900)


def focused(page):
    return page.run("""const at = document.activeElement;
        return at === document.body ? "" : at.id || at.getAttribute("aria-label") || at.textContent || at.tagName""")


def key_cases(page, service):
    page.start()
    page.until("advice", lambda: page.one(".advice li"))
    page.keys("TAB")
    first = focused(page)
    page.keys("ENTER")
    yield "keys skip to the results", equal([first, focused(page)], ["skip", "results-title"])
    page.start()
    page.until("advice", lambda: page.one(".advice li"))
    wanted = page.run("""const kinds = "a, button, input, select, textarea, summary, [tabindex='0']";
        return [...document.querySelectorAll(kinds)].filter((one) =>
            one.checkVisibility() && !one.matches("[type=radio]:not(:checked)")).length""")
    met, unseen = 0, []
    for _ in range(wanted + 5):
        page.keys("TAB")
        if not focused(page):
            break
        met += 1
        if page.run("return getComputedStyle(document.activeElement).outlineStyle") == "none":
            unseen.append("no outline: " + focused(page))
    yield "Tab meets every control and shows where it is", unseen + equal(met, wanted)
    page.start()
    page.run("document.getElementById('preset').focus()")
    page.keys("qwen2.5 7b")
    page.until("models", lambda: page.all("#preset-list [role=option]"))
    page.changed(lambda: page.keys("ARROW_DOWN", "ENTER"))
    model = page.request()["model"]
    while focused(page) != "field-method":
        page.keys("TAB")
    page.changed(lambda: page.keys("q"))
    page.until("advice", lambda: page.one(".advice li button"))
    page.run("document.querySelector('#advice button').focus()")
    page.changed(lambda: page.keys("ENTER"))
    yield "model, method and advice are done by keys alone", equal(model, "qwen2.5-7b") + shows(page, service) + \
        equal(focused(page), "results-title")


def stray_cases(page, _):
    """Over all that was done: nothing was asked elsewhere, refused by the policy, thrown or complained about."""
    meant = re.compile(r"/estimate - Failed to load resource: (.* a status of 422|net::ERR_INTERNET_DISCONNECTED)")
    yield "nothing is asked of another server", page.foreign()
    strays = [line for line in page.console() if not meant.search(line)]
    yield "no word on the console but of what was to be refused", strays


CASES = [search_cases, change_cases, picture_cases, advice_cases, card_cases, share_cases, fault_cases, theme_cases,
         noticed_cases, narrow_cases, key_cases]


def all_cases(page, service):
    page.size(1280, 900)
    for cases in CASES:
        try:
            yield from cases(page, service)
        except Exception as error:  # the other cases still tell something
            yield cases.__name__, ["%s: %s" % (type(error).__name__, str(error).split("\n")[0])]
        strays = page.run("return [...refused, ...thrown]")
        yield "the policy refused nothing and no script failed in " + cases.__name__, strays
    yield from stray_cases(page, service)


def picture(page, path, height):
    """A screenshot, of 256 colours so that it is small."""
    page.size(page.run("return innerWidth"), height)
    page.run("return new Promise((done) => setTimeout(done, 300))")
    image = Image.open(io.BytesIO(page.driver.get_screenshot_as_png())).convert("RGB")
    image.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(path, optimize=True)
    print("# %s: %d bytes" % (path, path.stat().st_size))


# name, theme, width, height, what is shown
PICTURES = [
    ("dashboard-light", "light", 1280, 1340, ""),
    ("dashboard-dark", "dark", 1280, 1340, "#model=llama-3.1-70b&gradient_checkpointing=full&parallelism.gpus=16"
     "&parallelism.strategy=zero3&gpus=a100-80gb,h100-sxm5-80gb,h200-sxm-141gb"),
    ("dashboard-narrow", "light", 360, 740, EXAMPLE),
]


def screenshots(page, folder):
    for name, theme, width, height, fragment in PICTURES:
        page.prefer(theme)
        page.size(width, height)
        page.start(fragment)
        page.until("advice", lambda: page.one(".advice li"))
        if width < 600:
            page.run("document.getElementById('figures').scrollIntoView()")
        picture(page, folder / (name + ".png"), height)


def main(source, vramcast, *options):
    with served.service(source, vramcast) as port:
        base = "http://127.0.0.1:%d/" % port
        with chromium.browser(base, Page) as page:
            if options[:1] == ("--screenshots",):
                screenshots(page, pathlib.Path(options[1]))
                return 0
            return 0 if drift.report(all_cases(page, Service(port))) else 1


if __name__ == "__main__":
    sys.exit(main(SOURCE, *sys.argv[2:]))
