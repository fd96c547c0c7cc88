"""Debian's Chromium, driven through chromedriver, with what a test of a page asks of it again and again."""
import contextlib
import json
import shutil
import tempfile
import time

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

# No service of Chromium's own is asked for anything, nothing moves, and the two programs are not looked for.
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--disable-quic",
         "--hide-scrollbars", "--force-prefers-reduced-motion", "--force-color-profile=srgb")
# In every page before its own scripts: what its policy refused, and what its scripts threw.
WATCH = """
  window.refused = []; window.thrown = [];
  addEventListener("securitypolicyviolation",
    (event) => refused.push(event.violatedDirective + " " + event.blockedURI));
  addEventListener("error", (event) => thrown.push(String(event.message)));
  addEventListener("unhandledrejection", (event) => thrown.push(String(event.reason)));
"""
NAMED = {"button", "textbox", "searchbox", "combobox", "listbox", "checkbox", "radio", "slider", "spinbutton", "link",
         "image", "img", "region", "form", "table", "option", "DisclosureTriangle"}


class Browser:
    """A window on one address. Its faults are collected: console, policy, foreign requests."""

    TAB, ALL = Keys.TAB, Keys.CONTROL + "a" + Keys.NULL

    def __init__(self, driver, base):
        self.driver, self.base = driver, base
        self.command("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
        self.command("Network.enable")

    def command(self, name, **arguments):
        return self.driver.execute_cdp_cmd(name, arguments)

    def size(self, width, height):
        self.command("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                     mobile=False)

    def prefer(self, theme):
        self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])

    def open(self, fragment=""):
        """A fresh load: another fragment alone would not be one."""
        self.driver.get("about:blank")
        self.driver.get(self.base + fragment)

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def one(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector):
        return self.one(selector).text

    def until(self, what, condition, seconds=20):
        """Waits for condition() to be true; what it returns."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(Exception):  # what is drawn anew is gone for a moment
                found = condition()
                if found:
                    return found
            time.sleep(0.05)
        raise AssertionError("waited for: " + what)

    def click(self, selector):
        self.run("arguments[0].scrollIntoView({block: 'center'})", self.one(selector))
        self.one(selector).click()

    def keys(self, *keys):
        """Presses keys, wherever the focus is."""
        for key in keys:
            ActionChains(self.driver).send_keys(getattr(Keys, key, key)).perform()

    def value(self, selector, attribute):
        return self.one(selector).get_attribute(attribute)

    def offline(self, gone):
        """Whether the network is gone."""
        speed = 0 if gone else -1
        self.command("Network.emulateNetworkConditions", offline=gone, latency=0, downloadThroughput=speed,
                     uploadThroughput=speed)

    def fill(self, selector, text):
        """Types text in place of what a control has, and leaves it."""
        self.click(selector)
        self.one(selector).send_keys(Keys.CONTROL, "a")
        self.one(selector).send_keys(text or Keys.DELETE, Keys.TAB)

    def choose(self, selector, value):
        self.run("arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('change', {bubbles: true}))",
                 self.one(selector), value)

    def console(self):
        """The lines of the console since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def foreign(self):
        """Addresses asked for since the last call that are not the service's."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        asked = [event["params"]["request"]["url"] for event in events
                 if event["method"] == "Network.requestWillBeSent"]
        return [url for url in asked if not url.startswith((self.base, "about:", "data:", "chrome:"))]

    def nameless(self):
        """What a screen reader would meet without a name, by Chromium's own accessibility tree."""
        nodes = self.command("Accessibility.getFullAXTree")["nodes"]
        told = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes
                if not node.get("ignored") and node["role"]["value"] in NAMED]
        return ["a %s has no name" % role for role, name in told if not name.strip()] or \
            ([] if len(told) > 40 else ["only %d nodes" % len(told)])


@contextlib.contextmanager
def browser(base, kind=Browser):
    """A Chromium of its own, with a fresh profile that goes with it; kind: Browser, or what is made of it."""
    profile = tempfile.mkdtemp(prefix="chromium-")
    options = Options()
    options.binary_location = "/usr/bin/chromium"
    for flag in FLAGS + ("--user-data-dir=" + profile,):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(service=Service("/usr/bin/chromedriver"), options=options)
    try:
        driver.set_page_load_timeout(30)
        yield kind(driver, base)
    finally:
        driver.quit()
        shutil.rmtree(profile, ignore_errors=True)
