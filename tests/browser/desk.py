#!/usr/bin/env python3
"""The pages of a build at work and of captions to review, in a real browser:  desk.py URBANCROSS [--pictures DIR]

Makes a small world beside URBANCROSS's own folder of programs, and builds of it. Needs what atlas.py needs.
"""

import argparse
import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

from playwright.async_api import async_playwright, expect

from atlas import CHROMIUM, NARROW, WIDE, Server, Watch, no_sideways_scroll, without_findings

SPEC = """country = "finland"
[source]
kind = "skyscript"
url = "{folder}/{world}"
tables = ["dataframe/{table}.csv"]
tokens = ["FI"]
meta = {meta}
[work]
url = "{folder}/{work}"
shards = 4
[score]
clip = "none"
[model]
preset = "tiny"
image_size_px = 32
context_length = 24
vocabulary = 300
[pretrain]
epochs = {epochs}
batch = 4
checkpoint_every_steps = 4
"""


class Builds:
    """A world, and specs of builds of it."""

    def __init__(self, urbancross, folder):
        self.urbancross, self.folder = urbancross, folder
        sandbox = str(Path(urbancross).with_name("urbancross-sandbox"))
        self.sandbox = sandbox
        subprocess.run([sandbox, str(folder / "world"), "--tiles", "24"], check=True, capture_output=True)
        # a table that says nothing of its images
        tables = folder / "world" / "dataframe"
        lines = (tables / "SkyScript_sandbox.csv").read_text().splitlines()[1:]
        (tables / "blank.csv").write_text("filepath,title\n" + "".join(line.split(",")[0] + ",\n" for line in lines))
        # one whose tags are edited
        shutil.copytree(folder / "world", folder / "edited")
        # one whose map is
        shutil.copytree(folder / "world", folder / "mapped")

    def spec(self, name, world="world", table="SkyScript_sandbox", meta="true", epochs=6):
        path = self.folder / f"{name}.toml"
        path.write_text(SPEC.format(folder=self.folder, work=name, world=world, table=table, meta=meta, epochs=epochs))
        return path

    def call(self, *words, code=0):
        done = subprocess.run([self.urbancross, *map(str, words)], capture_output=True, text=True)
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def waiting(self, spec):
        return json.loads(self.call("review", spec, "--json"))


async def shown(page, text):
    await expect(page.locator("#status")).to_contain_text(text, timeout=20000)


async def review(page, url, builds, spec):
    """Edit by keys, reject by a button, skip and go back; what is done is in the store."""
    await page.goto(url + "/review")
    await shown(page, "failed")
    await expect(page.locator("#one")).to_be_visible()
    assert await page.locator("#picture").evaluate("i => i.decode().then(() => i.naturalWidth)") > 50
    assert await page.locator("#accept").is_disabled(), "there is nothing to accept"
    # nobody decides without a name
    await page.keyboard.press("r")
    await shown(page, "Say who you are")
    await page.get_by_label("your name").fill("Anne <b>")
    await page.get_by_label("your name").press("Enter")
    first = await page.locator("#id").inner_text()
    await page.locator("#reject").focus()
    await page.keyboard.press("ArrowRight")
    await expect(page.locator("#id")).not_to_have_text(first)
    await page.keyboard.press("ArrowLeft")
    await expect(page.locator("#id")).to_have_text(first)
    await page.keyboard.press("e")
    assert await page.evaluate("document.activeElement.id") == "text"
    await page.keyboard.type("a harbour with two piers")
    await page.keyboard.press("Control+Enter")
    await shown(page, "author's name cannot stand")
    await page.get_by_label("your name").fill("Anne")
    await page.get_by_label("your name").blur()
    await page.locator("#text").focus()
    await page.keyboard.press("Control+Enter")
    await shown(page, f"{first} is edited")
    second = await page.locator("#id").inner_text()
    assert second != first
    await page.get_by_role("button", name="Reject").click()
    await shown(page, f"{second} is rejected")
    listed = builds.waiting(spec)["tally"]
    assert (listed["decided"], listed["pending"], listed["waiting"]["failed"]) == (2, 2, 22), listed
    # the name is remembered
    await page.reload()
    await expect(page.get_by_label("your name")).to_have_value("Anne")
    # a run makes use of it
    builds.call("run", spec, "--until", "captions")
    said = builds.call("explain", spec, first)
    assert "edited by Anne" in said and "a harbour with two piers" in said, said


async def overtaken(context, url):
    """Of two who see the same, the second is shown what the first decided, and writes nothing over it."""
    one, other = await context.new_page(), await context.new_page()
    for page, name in ((one, "Anne"), (other, "Bo")):
        await page.goto(url + "/review")
        await expect(page.locator("#one")).to_be_visible()
        await page.get_by_label("your name").fill(name)
    image = await one.locator("#id").inner_text()
    assert await other.locator("#id").inner_text() == image
    await one.locator("#text").fill("a lake <script>")
    await one.get_by_role("button", name="Save the edit").click()
    await shown(one, "U+003C")
    await one.locator("#text").fill("a lake & a road")
    await one.get_by_role("button", name="Save the edit").click()
    await shown(one, "is edited")
    await other.get_by_role("button", name="Reject").click()
    await shown(other, "edited by Anne")
    await expect(other.locator("#text")).to_have_value("a lake & a road")
    # seen, and decided again
    await other.get_by_role("button", name="Accept").click()
    await shown(other, f"{image} is accepted")


async def again(page, url, first):
    """What somebody decided before the tags changed waits, with his words."""
    await page.goto(url + "/review")
    await page.get_by_label("what waits").select_option("review_again")
    await expect(page.locator("#id")).to_have_text(first)
    await expect(page.locator("#reason")).to_contain_text("its tags changed after it was edited by Kim")
    await expect(page.locator("#text")).to_have_value("words of Kim")
    await page.get_by_label("your name").fill("Anne")
    await page.get_by_label("your name").blur()
    await page.keyboard.press("a")
    await shown(page, "is accepted")


def no_other_site(url, country="finland"):
    """Nothing is taken from another site, nor from a form."""
    body = json.dumps({"country": country, "id": "x", "wish": "reject", "author": "Eve", "seen": "x"}).encode()

    def post(headers):
        request = urllib.request.Request(url + "/api/review", body, headers)
        try:
            return urllib.request.urlopen(request).status
        except urllib.error.HTTPError as error:
            return error.code

    kind = {"content-type": "application/json"}
    assert post(kind | {"origin": "https://evil.example"}) == 403
    assert post(kind | {"sec-fetch-site": "cross-site"}) == 403
    assert post({"content-type": "text/plain", "origin": url}) == 415
    assert post(kind | {"origin": url}) == 422, "there is no such image"
    try:
        urllib.request.urlopen(f"{url}/api/review?country={country}&id=x&wish=reject&author=Eve")
        raise AssertionError("an address decides nothing")
    except urllib.error.HTTPError as error:
        assert error.code == 400


async def live(page, url, builds, spec):
    """A build is followed from its beginning to its end, without a reload."""
    await page.goto(url + "/build")
    await shown(page, "Nobody works on it")
    running = subprocess.Popen([builds.urbancross, "run", str(spec)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    seen = set()
    for _ in range(600):
        seen.add(await page.locator("#status").inner_text())
        await page.wait_for_timeout(200)
        if running.poll() is not None:
            break
    said = running.communicate()[0]
    assert running.returncode == 0, said
    assert any("pretrain: runs" in text for text in seen), seen
    await shown(page, "Nobody works on it")
    rows = page.locator("#steps tr")
    await expect(rows.filter(has_text="captions").first).to_contain_text("done", timeout=20000)
    await expect(rows.filter(has_text="evaluate")).to_contain_text("done")
    await expect(page.locator("#curves figure").first).to_be_visible()
    await expect(page.locator("svg.flow g.step.done").first).to_be_visible()


async def edits(page, url):
    """The last refreshes, and what became of each: tags and captions before and after."""
    await page.goto(url + "/edit")
    rows = page.get_by_role("region", name="The last refreshes").locator("tbody tr")
    await expect(rows).to_have_count(2)
    await expect(rows.first).to_contain_text("diff 101")
    await expect(page.get_by_role("heading", name="What became of diff 101")).to_be_visible()
    captions = page.get_by_role("region", name="Rows by step").locator("tr").filter(has=page.get_by_role("rowheader", name="captions", exact=True))
    assert int(await captions.locator("td").first.inner_text()) > 0, "captions were made again"
    first = page.locator("ol.retagged > li").first
    await expect(first.locator("p del").first).to_be_visible()
    await expect(page.locator("ol.retagged p ins").first).to_be_visible()
    assert await page.locator("ol.retagged ul.tags ins").count() > 0
    assert await page.locator("ol.retagged img").first.evaluate("i => i.decode().then(() => i.naturalWidth)") > 50
    await rows.last.get_by_role("link").click()
    await expect(page.get_by_role("heading", name="What became of extract")).to_be_visible()
    await expect(page.locator("main")).to_contain_text("Until diff 101 was read")


async def many(browser, url):
    """Many open pages are told the same; too many are refused, and the pages say so."""
    context = await browser.new_context(viewport=WIDE)
    pages = [await context.new_page() for _ in range(5)]
    for page in pages:
        await page.goto(url + "/build")
    for page in pages:
        await shown(page, "Nobody works on it")
    await context.close()


async def every_page(browser, url, pages, pictures):
    for scheme in ("light", "dark"):
        for viewport in (WIDE, NARROW):
            context = await browser.new_context(color_scheme=scheme, viewport=viewport)
            watch = Watch(context, url)
            page = await context.new_page()
            for path, ready in pages:
                where = f"{path} in {scheme} at {viewport['width']} px"
                await page.goto(url + path)
                await expect(page.locator(ready)).to_be_visible(timeout=20000)
                await page.wait_for_timeout(500)
                await no_sideways_scroll(page, where)
                await without_findings(page, where)
                if pictures:
                    await page.screenshot(path=pictures / f"{path[1:]}-{scheme}-{viewport['width']}.png", full_page=True)
            assert not watch.faults, watch.faults
            await context.close()


async def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("urbancross")
    arguments.add_argument("--pictures", type=Path)
    given = arguments.parse_args()
    if given.pictures:
        given.pictures.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp())
    failed = []
    try:
        builds = Builds(given.urbancross, folder)
        # there are no words for these images: all of them wait
        without = builds.spec("without", table="blank", meta="false")
        builds.call("run", without, "--until", "captions", code=65)
        # decided about, and the tags of all images changed since
        moved = builds.spec("moved", world="edited")
        builds.call("run", moved, "--until", "captions")
        image = an_image(builds, moved)
        builds.call("review", moved, "--edit", image, "--text", "words of Kim", "--author", "Kim")
        subprocess.run([builds.sandbox, str(folder / "edited"), "--edit-tags", "1"], check=True, capture_output=True)
        builds.call("run", moved, "--until", "captions")
        # refreshed from an extract, and from a diff of an edited map
        retagged = builds.spec("retagged", world="mapped")
        builds.call("run", retagged, "--until", "captions")
        builds.call("tags", "refresh", retagged, "--osm", folder / "mapped" / "extract.osm.pbf")
        builds.call("run", retagged, "--until", "captions")
        subprocess.run([builds.sandbox, str(folder / "mapped"), "--edit-map", "0.9"], check=True, capture_output=True)
        builds.call("tags", "refresh", retagged, "--diffs", folder / "mapped" / "replication", "--accept-share", "1")
        builds.call("run", retagged, "--until", "captions")
        # long enough to be seen at work
        fresh = builds.spec("fresh", epochs=200)
        builds.call("run", fresh, "--until", "geotags")
        servers = {name: Server(given.urbancross, [spec], "--unfinished") for name, spec in (("without", without), ("moved", moved), ("retagged", retagged), ("fresh", fresh))}
        url = {name: server.url for name, server in servers.items()}
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])

            async def check(name, act, allowed=()):
                context = await browser.new_context(viewport=WIDE)
                context.set_default_timeout(15000)
                watch = Watch(context, act[0], allowed)
                try:
                    await act[1](context)
                    assert not watch.faults, watch.faults
                    print(f"{name}: holds")
                except Exception as error:
                    failed.append(name)
                    print(f"{name}: {type(error).__name__}: {error} {watch.faults}")
                await context.close()

            async def on_page(context, act):
                await act(await context.new_page())

            await check("review", (url["without"], lambda c: on_page(c, lambda p: review(p, url["without"], builds, without))), ("422",))
            await check("overtaken", (url["without"], lambda c: overtaken(c, url["without"])), ("422",))
            await check("review again", (url["moved"], lambda c: on_page(c, lambda p: again(p, url["moved"], image))))
            await check("live", (url["fresh"], lambda c: on_page(c, lambda p: live(p, url["fresh"], builds, fresh))))
            await check("edits", (url["retagged"], lambda c: on_page(c, lambda p: edits(p, url["retagged"]))))
            at_work = (("/build", "#build:not([hidden])"), ("/review", "#one:not([hidden])"))
            for name, act in (
                ("many pages", lambda: many(browser, url["fresh"])),
                ("every page", lambda: every_page(browser, url["without"], at_work, given.pictures)),
                ("every edit", lambda: every_page(browser, url["retagged"], (("/edit", "ol.retagged"),), given.pictures)),
                ("no edit", lambda: every_page(browser, url["fresh"], (("/edit", "code"),), None)),
            ):
                try:
                    await act()
                    print(f"{name}: holds")
                except Exception as error:
                    failed.append(name)
                    print(f"{name}: {type(error).__name__}: {error}")
            if given.pictures:
                page = await (await browser.new_context(viewport=WIDE)).new_page()
                await page.goto(url["fresh"] + "/build")
                await expect(page.locator("#build")).to_be_visible()
                await page.wait_for_timeout(500)
                await page.screenshot(path=given.pictures / "build-finished.png", full_page=True)
            await browser.close()
        try:
            no_other_site(url["without"])
            print("other sites: hold")
        except AssertionError as error:
            failed.append("other sites")
            print(f"other sites: {error}")
        for server in servers.values():
            server.stop()
    finally:
        shutil.rmtree(folder)
    if failed:
        sys.exit("does not hold: " + ", ".join(failed))


def an_image(builds, spec):
    """An image of a build: what `explain` names as an example."""
    done = subprocess.run([builds.urbancross, "explain", str(spec), "no-such-image"], capture_output=True, text=True)
    return done.stderr.split("such as ")[1].split(")")[0]


asyncio.run(main())
