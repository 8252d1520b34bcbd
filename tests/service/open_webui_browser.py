"""A person at Open WebUI, in Debian's Chromium without a window."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support import expected_conditions
from selenium.webdriver.support.ui import WebDriverWait

from tests.service.open_webui_server import wait_until

WAIT_S = 180


class Person:
    """One browser at one Open WebUI."""

    def __init__(self, driver: webdriver.Chrome, url: str, pictures: Path) -> None:
        self.driver = driver
        self.url = url
        self.pictures = pictures

    def _see(self, selector: str) -> WebElement:
        found = expected_conditions.element_to_be_clickable((By.CSS_SELECTOR, selector))
        return WebDriverWait(self.driver, WAIT_S).until(found)

    def sign_in(self, email: str, password: str) -> None:
        """Through the sign-in page to an empty chat."""
        self.driver.get(f"{self.url}/auth")
        self._see("#email").send_keys(email)
        self.driver.find_element(By.CSS_SELECTOR, "input[type=password]").send_keys(password)
        self.picture("open-webui-sign-in")
        self.driver.find_element(By.CSS_SELECTOR, "button[type=submit]").click()
        self._see("#chat-input")

    def new_chat(self) -> None:
        """An empty chat."""
        self.driver.get(f"{self.url}/")
        self._see("#chat-input")

    def new_temporary_chat(self) -> None:
        """An empty chat that is not saved."""
        self.driver.get(f"{self.url}/?temporary-chat=true")
        self._see("#chat-input")

    def say(self, text: str, expect: str | tuple[str, ...]) -> str:
        """Send a message and wait until an answer on the page holds the expected words, or some of them."""
        box = self._see("#chat-input")
        box.click()
        box.send_keys(text)
        self._see("#send-message-button").click()
        return str(wait_until(f"an answer with {expect!r}", lambda: self._answer(expect), WAIT_S))

    def _answer(self, expect: str | tuple[str, ...]) -> str:
        words = (expect,) if isinstance(expect, str) else expect
        # In one script: elements that are fetched and then read may be replaced in between.
        texts = self.driver.execute_script(  # type: ignore[no-untyped-call]
            "return [...document.querySelectorAll('[id^=response-content-container]')].map(e => e.innerText)"
        )
        return next((text for text in texts if any(each in text for each in words)), "")

    def page_text(self) -> str:
        """Everything readable on the page."""
        return self.driver.find_element(By.TAG_NAME, "body").text

    def picture(self, name: str) -> Path:
        """Keep a screenshot."""
        self.pictures.mkdir(parents=True, exist_ok=True)
        path = self.pictures / f"{name}.png"
        assert self.driver.save_screenshot(str(path)), f"no screenshot at {path}"
        return path

    def leave(self) -> None:
        """Forget the session, as a second person at the same screen would want."""
        self.driver.delete_all_cookies()
        self.driver.execute_script("localStorage.clear(); sessionStorage.clear();")  # type: ignore[no-untyped-call]


def started(options: webdriver.ChromeOptions, chromedriver: str) -> webdriver.Chrome:
    """The browser. Its first start on a cold disk may take longer than its driver waits."""
    for _ in range(2):
        with suppress(WebDriverException):
            return webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))


@contextmanager
def person(
    url: str, pictures: Path, host_rules: str = "", ignore_certificates: bool = False
) -> Iterator[Person]:
    """A fresh browser.

    ``host_rules`` is Chromium's ``--host-resolver-rules``, such as ``MAP *.example.test 10.0.0.2``.
    """
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    assert chromium and chromedriver, "Chromium is missing; run: apt-get install chromium chromium-driver"
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--no-proxy-server",
        "--lang=en-US",
        "--window-size=1280,800",
    ):
        options.add_argument(argument)
    if host_rules:
        options.add_argument(f"--host-resolver-rules={host_rules}")
    options.accept_insecure_certs = ignore_certificates
    driver = started(options, chromedriver)
    try:
        yield Person(driver, url.rstrip("/"), pictures)
    except BaseException:
        driver.save_screenshot(str(pictures.with_name("open-webui-failure.png")))
        raise
    finally:
        driver.quit()
