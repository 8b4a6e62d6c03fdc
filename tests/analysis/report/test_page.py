"""The report of runs that were really trained, read as HTML and opened in a browser."""

import base64
import io
import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from markupsafe import escape
from PIL import Image

from ectype.analysis.diagnose.check import check_view
from ectype.analysis.diagnose.finding import Advice, Finding
from ectype.analysis.headline import headline_figures, headline_sentence, short_number
from ectype.analysis.report.code_map import thumbnail_cells
from ectype.analysis.report.next_step import next_command
from ectype.analysis.report.page import write_report
from ectype.analysis.report.tiles import tiles
from ectype.analysis.run_view import RunView
from ectype.core.errors import RunError
from ectype.data.dataset import open_store
from ectype.data.loader import Loader
from ectype.data.prepare import prepare
from ectype.evaluation.evaluate import evaluate
from ectype.evaluation.figures import Figure, format_number
from ectype.models.flop import count_flops
from ectype.runs.load import load
from ectype.runs.run_dir import RunDir
from ectype.training.run import train

pytestmark = pytest.mark.trains

CPU = torch.device("cpu")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def trained(place: Path, preset: str, **changes: Any) -> RunView:
    """A run of a minute amount of training, and what a page shows of it."""
    settings = {"train.images": 640, "monitor.every": 320, "log_every": 0, "run.device": "cpu", **changes}
    run = train(preset, "digits", settings, out=place)
    recipe, model = run.recipe, load(run.path)
    store = open_store(prepare(recipe.data), recipe.data)
    feeds = [Loader(store.split(side), recipe.data, CPU, training=False) for side in ("train", "test")]
    found = evaluate(model, *feeds, recipe=recipe, device=CPU, likelihood_samples=4)
    return RunView(run, model, *feeds, found)


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunView]:
    root = tmp_path_factory.mktemp("runs")
    return {
        "ae": trained(root / "ae", "ae", net="conv", latent_dim=3, width=8),
        "vae": trained(root / "vae", "vae", latent_dim=5, width=8),
        "dae": trained(root / "dae", "dae", latent="[2, 4, 4]", width=8),
    }


class Page(HTMLParser):
    """Elements and visible text of a page."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._inside: list[str] = []
        self.specs: list[dict[str, Any]] = []
        self.feed(file.read_text(encoding="utf-8"))
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self.words.append(data)
        elif self.elements[-1] == ("script", {"type": "application/json"}):
            self.specs.append(json.loads(data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def sections(self, run: str = "run-1") -> list[str]:
        ids = [str(section.get("id")) for section in self.all("section")]
        return [name.removeprefix(f"{run}-") for name in ids if name.startswith(f"{run}-")]


@pytest.fixture(scope="module")
def pages(views: dict[str, RunView], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Page]:
    root = tmp_path_factory.mktemp("pages")
    made = {name: Page(write_report(root / f"{name}.html", [view])) for name, view in views.items()}
    made["all"] = Page(write_report(root / "all.html", list(views.values())))
    return made


def test_nothing_is_fetched_from_anywhere(pages):
    for page in pages.values():
        for _, attributes in page.elements:
            for name in ("src", "href", "srcset", "poster", "data", "action"):
                value = attributes.get(name)
                assert value is None or value.startswith(("data:", "#")), value
        style = [tag for tag, _ in page.elements if tag == "link"]
        assert len(style) == 1  # the icon, which a browser would otherwise ask for
        policy = next(m for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
        assert str(policy["content"]).startswith("default-src 'none'; img-src data: blob:;")


def test_sections_follow_from_what_a_model_can_do(pages):
    always = ["findings", "figures", "reconstructions", "samples", "interpolations", "traversals", "curves"]
    always += ["progress", "spectra", "latents", "map", "recipe"]
    assert pages["ae"].sections() == always
    assert set(pages["vae"].sections()) - {*always} == {"draws"}
    assert set(pages["dae"].sections()) - {*always} == {"denoising"}


def test_pictures_are_whole_and_described(pages):
    for page in pages.values():
        pictures = page.all("img")
        assert len(pictures) > 50
        for picture in pictures:
            assert picture["alt"]
            kind, _, held = str(picture["src"]).partition(";base64,")
            with Image.open(io.BytesIO(base64.b64decode(held))) as image:
                assert f"data:image/{str(image.format).lower()}" == kind
                assert image.size == (int(str(picture["width"])), int(str(picture["height"])))
                image.load()


def test_small_pictures_lose_nothing(views, pages):
    view = views["ae"]
    place = view.evaluation.cases["worst"][0]
    expected = (view.images([place])[0, 0] * 255).round().to(torch.uint8)
    alt = f"input, reconstruction: {view.label(place)}, {view.name(place)}"
    source = next(str(picture["src"]) for picture in pages["ae"].all("img") if picture["alt"] == alt)
    with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as image:
        pixels = torch.tensor(list(image.convert("L").crop((0, 0, 8, 8)).tobytes()), dtype=torch.uint8)
    assert torch.equal(pixels.view(8, 8), expected)


def test_the_sentence_comes_first_then_pictures_answers_figures_findings_and_the_rest_is_folded(views, pages, tmp_path):
    for name, view in views.items():
        text = write_report(tmp_path / f"{name}.html", [view]).read_text(encoding="utf-8")
        findings = check_view(view)
        sentence = str(escape(headline_sentence(view.evaluation, findings)))
        command = str(escape(next_command(view, findings)[1]))
        marks = [sentence, command, "<img", 'class="tile', 'class="figures headline"', 'id="run-1-findings"']
        marks.append("<summary><h2>All measurements</h2></summary>")
        assert [text.index(mark) for mark in marks] == sorted(text.index(mark) for mark in marks)
        headline = text.split('class="figures headline"')[1].split("</table>")[0]
        shown = headline_figures(view.evaluation)[:6]
        assert re.findall(r'<th scope="row">(.*?)</th>', headline) == [str(escape(figure.name)) for figure in shown]
        # Of what may be folded, only the worst finding and the map at the end are open.
        assert text.count("<details") > 8
        opened = ["finding"] * bool(findings) + ["part"]
        assert [found.split()[0] for found in re.findall(r'<details class="([\w ]+)" open>', text)] == opened
    overview = [
        str(picture["alt"]) for picture in pages["dae"].all("img") if str(picture["alt"]).endswith("(overview)")
    ]
    assert sum(alt.startswith("clean, corrupted, restored") for alt in overview) == 8
    assert sum(alt.startswith("sample ") for alt in overview) == 16


def test_the_first_screen_needs_no_script(pages):
    for page in (pages["ae"], pages["vae"], pages["dae"]):
        scripts = [place for place, (tag, _) in enumerate(page.elements) if tag == "script"]
        first = next(i for i, (_, attributes) in enumerate(page.elements) if attributes.get("id") == "run-1-findings")
        assert min(scripts) > first


def test_the_command_to_try_next_follows_the_first_advice(views):
    view = views["ae"]
    found = check_view(view)
    what, command = next_command(view, found)
    undertrained = next(finding for finding in found if finding.name == "undertrained")
    assert what == f"Try {undertrained.advice[0].title}"
    recipe = view.run.recipe_file
    assert re.fullmatch(rf"ectype train {re.escape(str(recipe))} digits (--images \d+|monitor\.patience=null)", command)
    fine = replace(view, evaluation=replace(view.evaluation, figures=[]))
    assert next_command(fine, [])[1].startswith("ectype score ")
    overrides = Advice("a larger code", "it is small", {"model.latent_dim": 32})
    finding = Finding("small code", "warning", "the code is small", [], [Advice("look", "no command", {}), overrides])
    assert next_command(view, [finding]) == (
        "Try a larger code",
        f"ectype train {recipe} digits model.latent_dim=32",
    )


def test_tiles_hold_the_figures_and_their_baselines(views):
    view = views["vae"]
    distance = Figure("fd_pixels", 12.0, "generation", better="lower", baselines={"real_images": 2.0})
    measured = replace(view.evaluation, figures=[*view.evaluation.figures, distance])
    quality, samples, training = tiles(replace(view, evaluation=measured))
    psnr = view.evaluation["psnr"]
    assert quality.title == "Quality against the linear baseline"
    assert quality.value == f"{short_number(psnr.value)} dB"
    pca = next(value for key, value in psnr.baselines.items() if key.startswith("pca"))
    assert quality.percent / quality.ticks[0].percent == pytest.approx(psnr.value / pca, abs=0.01)
    assert tiles(views["ae"])[0].standing == "bad", "so little training should not beat PCA"
    assert (samples.value, samples.standing) == ("12.0", "held")
    assert samples.percent / samples.ticks[0].percent == pytest.approx(6, rel=0.02)
    assert samples.text.startswith("6.00 times the distance between two sets of real images")
    assert training.text.startswith("No: ")
    bare = replace(view, evaluation=replace(view.evaluation, figures=[]))
    assert [tile.name for tile in tiles(bare)[:2]] == ["", ""], "what does not apply has no bar"


def test_thumbnails_lie_where_their_codes_do():
    points = torch.tensor([[0.0, 0.0], [0.1, 0.1], [1.0, 1.0], [0.0, 1.0]])
    chosen, cells = thumbnail_cells(points, 2, 2)
    # The second point is nearer to the middle of the cell that it shares with the first; cells count from the top left.
    assert dict(zip(chosen.tolist(), cells.tolist(), strict=True)) == {1: 2, 2: 1, 3: 0}


def test_figures_of_the_evaluation_are_in_the_text(views, pages):
    for name, view in views.items():
        for figure in view.evaluation.figures:
            assert figure.name in pages[name].text
            assert figure.interval in pages[name].text


def test_the_page_says_what_density_size_and_compression_a_model_has(pages):
    assert "Density: none." in pages["ae"].text
    assert "Density: explicit bound." in pages["vae"].text
    assert "64 ÷ 3 = 21.33" in pages["ae"].text


def test_the_page_says_what_a_model_costs(views, tmp_path):
    view = views["vae"]
    shutil.copytree(view.run.path, tmp_path / "run")
    copied = replace(view, run=RunDir(tmp_path / "run"))
    counted = count_flops(view.model)
    assert counted is not None
    for size, expected in ((1_234_567_890, ["Peak memory 1.23 GB in training"]), (None, [])):
        copied.run.update_summary({"peak_memory": size})
        said = Page(write_report(tmp_path / "page.html", [copied])).text
        assert f"GFLOP per image {format_number(counted[1] / 1e9)} (reconstruct; 2 per multiply-add)" in said
        assert re.findall(r"Peak memory [\d.]+ GB in training", said) == expected


def test_a_plain_autoencoder_shows_that_normal_codes_fail(pages):
    assert "the decoder gets codes it has never seen" in pages["ae"].text
    assert "the prior that the codes were trained towards" in pages["vae"].text
    alts = [str(picture["alt"]) for picture in pages["ae"].all("img")]
    for density in ("normal", "gaussian", "gmm"):
        assert sum(alt.endswith(f"of {density}") for alt in alts) == 24
    alts = [str(picture["alt"]) for picture in pages["vae"].all("img")]
    assert [sum(alt.endswith(f"of {density}") for alt in alts) for density in ("normal", "gaussian", "gmm")] == [
        24,
        0,
        24,
    ]


def test_points_of_a_code_of_three_numbers_are_the_codes(views, pages):
    deep = [spec for spec in pages["ae"].specs if spec["data"][0]["type"] == "scatter3d"]
    assert len(deep) == 1
    codes = views["ae"].codes
    assert codes is not None
    found = sorted(x for trace in deep[0]["data"] for x in trace["x"])
    assert found == pytest.approx(sorted(codes.code[:, 0].tolist()), rel=1e-4, abs=1e-6)
    assert {trace["name"] for trace in deep[0]["data"]} == {str(digit) for digit in range(10)}
    flat = next(spec for spec in pages["ae"].specs if spec["data"][0].get("mode") == "markers" and spec not in deep)
    assert flat["layout"]["xaxis"]["title"]["text"].startswith("PC 1 (")


def test_principal_coordinates_hold_the_share_that_is_said(views):
    codes = views["dae"].codes
    assert codes is not None
    total = codes.code.var(0).sum()
    torch.testing.assert_close(codes.project(2).var(0) / total, codes.share[:2], rtol=1e-3, atol=1e-5)


def test_curves_mark_the_best_check(views, pages):
    checks = [line for line in views["vae"].run.metrics() if line["kind"] == "check"]
    title = "−log p (Gaussian, optimal σ) + KL"
    best = min(checks, key=lambda line: line[title])
    marked = [trace for spec in pages["vae"].specs for trace in spec["data"] if trace.get("name") == "best"]
    assert [trace["x"] for trace in marked] == [[best["seen"]]]
    names = {trace["name"] for spec in pages["vae"].specs for trace in spec["data"] if "name" in trace}
    assert {"training", "held out"} <= names
    assert "KL" in pages["vae"].text


def test_the_recipe_and_the_command_are_there(views, pages):
    run = views["ae"].run
    assert f"ectype train {run.recipe_file} digits --out {run.path}-again" in pages["ae"].text
    assert "latent_dim: 3" in pages["ae"].text
    assert torch.__version__ in pages["ae"].text


def test_what_a_clock_chose_is_written_into_the_command(tmp_path):
    view = trained(tmp_path / "timed", "ae", latent_dim=2, width=8, **{"monitor.every": "auto", "train.images": 600})
    page = Page(write_report(tmp_path / "timed.html", [view]))
    assert re.search(r"digits train.images=600 monitor.every=\d+ --out", page.text)


def test_several_runs_stand_side_by_side(views, pages):
    page = pages["all"]
    assert [a["href"] for a in page.all("a")][:3] == ["#run-1", "#run-2", "#run-3"]
    assert "overview" in [section.get("id") for section in page.all("section")]
    assert "Side by side" in page.text
    ids = [str(attributes["id"]) for _, attributes in page.elements if attributes.get("id")]
    assert len(ids) == len(set(ids))


def test_names_cannot_break_the_page(views, tmp_path):
    class Names(list):
        pass

    view = views["ae"]
    images = view.test.images
    kept = images.names
    try:
        images.names = Names(f"</script><img src=x onerror=alert({i})>\udcff.png" for i in range(len(images)))
        fresh = RunView(view.run, view.model, view.train, view.test, view.evaluation)
        page = Page(write_report(tmp_path / "hostile.html", [fresh]))
    finally:
        images.names = kept
    assert not any("onerror" in attributes for _, attributes in page.elements)
    assert len(page.specs) == len([f for f in page.all("figure") if f.get("class") == "plot"])


def test_the_summary_says_when_pca_is_better(views, pages):
    gap = views["ae"].evaluation["psnr_above_pca"]
    assert gap.high is not None
    assert gap.high < 0, "so little training should not beat PCA"
    assert f"{abs(gap.value):.3f}" in pages["ae"].text
    assert "a linear method is better here" in pages["ae"].text


def test_pages_are_small_enough(views, tmp_path):
    assert write_report(tmp_path / "size.html", [views["vae"]]).stat().st_size < 8e6


def test_no_runs_or_no_place_are_refused(views, tmp_path):
    with pytest.raises(RunError, match="at least one run"):
        write_report(tmp_path / "none.html", [])
    with pytest.raises(RunError, match="cannot write"):
        write_report(tmp_path / "missing" / "page.html", [views["ae"]])


# ── In a browser ─────────────────────────────────────────────────────────────────────────────────────────────────────


def browse(page: Path, scratch: Path) -> tuple[str, list[str]]:
    """The document as a headless browser leaves it, and the addresses that it asked for."""
    quiet = "--disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-sync"
    quiet += " --disable-component-update --enable-unsafe-swiftshader --virtual-time-budget=20000"
    command = [str(CHROMIUM), "--headless", "--no-sandbox", *quiet.split(), "--window-size=1000,12000"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND"]
    scratch.mkdir()
    command += [f"--user-data-dir={scratch / 'profile'}", f"--log-net-log={scratch / 'net.json'}"]
    done = subprocess.run([*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    events = json.loads((scratch / "net.json").read_text())["events"]
    # Chromium asks things of its own accord, for which it notes no page as the initiator.
    starts = [event["params"] for event in events if "initiator" in event.get("params", {})]
    asked = {str(start["url"]) for start in starts if start["initiator"] != "not an origin"}
    return done.stdout, sorted(url for url in asked if not url.startswith(("file:", "data:", "blob:")))


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (apt-get install chromium)")
def test_a_browser_draws_every_chart_and_asks_nobody(views, tmp_path):
    page = write_report(tmp_path / "page.html", [views["vae"]])
    unfold = "<script>document.querySelectorAll('details').forEach((each) => { each.open = true; });</script></main>"
    page.write_text(page.read_text(encoding="utf-8").replace("</main>", unfold), encoding="utf-8")
    document, asked = browse(page, tmp_path / "report")
    planned = document.count('class="plot"')
    assert planned >= 8
    # Plotly puts this class on an element once it is drawn; the drawing in space may lack WebGL and then says so.
    drawn = document.count("js-plotly-plot") + document.count('class="missing"')
    assert drawn >= planned
    assert document.count('<path class="point') > 100
    assert asked == []
    # Had it asked, the log would say so.
    other = tmp_path / "other.html"
    other.write_text('<img src="http://127.0.0.1:9/asked.png">')
    assert browse(other, tmp_path / "other")[1] == ["http://127.0.0.1:9/asked.png"]


def test_a_model_gone_wrong_still_has_a_page(views, tmp_path):
    view = views["ae"]
    broken = view.evaluation.from_json(view.evaluation.to_json())
    broken.figures[0] = type(broken.figures[0])("mse", math.nan, "reconstruction")
    fresh = RunView(view.run, view.model, view.train, view.test, broken)
    assert "not a number" in Page(write_report(tmp_path / "nan.html", [fresh])).text


# ── Models that are only sampled ─────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunView, Page]:
    """A conditional GAN after a few steps, whose samples are judged at three checks."""
    from ectype.evaluation.features import PixelFeatures

    settings = {"train.images": 1920, "monitor.every": 640, "log_every": 0, "run.device": "cpu"}
    settings |= {"monitor.features": "pixels", "monitor.images": 100, "monitor.on_collapse": "warn"}
    run = train("cgan-mlp", "digits", settings, out=tmp_path_factory.mktemp("sampled") / "cgan")
    recipe, model = run.recipe, load(run.path)
    store = open_store(prepare(recipe.data), recipe.data)
    feeds = [Loader(store.split(side), recipe.data, CPU, training=False) for side in ("train", "test")]
    extractors = [PixelFeatures(feeds[0], store.info)]
    found = evaluate(model, *feeds, recipe=recipe, device=CPU, extractors=extractors)
    view = RunView(run, model, *feeds, found)
    return view, Page(write_report(run.report, [view]))


def test_sections_of_a_conditional_gan(sampled: tuple[RunView, Page]) -> None:
    _, page = sampled
    expected = ["figures", "samples", "classes", "neighbors", "monitoring", "evidence", "curves", "progress", "recipe"]
    perhaps = {"evidence", "findings"}  # as its few steps went
    assert [name for name in page.sections() if name not in perhaps] == [n for n in expected if n not in perhaps]


def test_a_gan_is_followed_with_floor_verdicts_and_reason(sampled: tuple[RunView, Page]) -> None:
    view, page = sampled
    real = json.loads(view.run.monitor_file.read_text())
    assert "Sample quality during training" in page.text
    assert "finished: the budget of 1,920 images was used" in page.text
    assert f"± {real['spread']:.3g}"[:5] in page.text
    distance = next(spec for spec in page.specs if {"samples", "real images"} <= {t["name"] for t in spec["data"]})
    lines = {trace["name"]: trace for trace in distance["data"]}
    checks = [line for line in view.run.metrics() if line["kind"] == "check"]
    assert lines["samples"]["x"] == [line["seen"] for line in checks]
    assert lines["samples"]["y"] == pytest.approx([line["fd_pixels"] for line in checks], rel=1e-4)
    assert lines["real images"]["y"] == pytest.approx([real["floor"]] * 2, rel=1e-4)
    assert "selected" in lines
    first = checks[0]
    assert f"{first['verdict']}: {first['evidence']}" in page.text.replace("  ", " ")


def test_every_class_has_its_samples_and_every_sample_its_neighbour(sampled: tuple[RunView, Page]) -> None:
    view, page = sampled
    alts = [str(picture["alt"]) for picture in page.all("img")]
    for name in view.info.classes:
        assert f"10 samples of {name}" in alts
    assert sum("above the training image nearest to it" in alt for alt in alts) == 12


def test_the_players_losses_are_not_called_what_is_minimised(sampled: tuple[RunView, Page]) -> None:
    _, page = sampled
    assert "what training minimises" not in page.text
    assert "critic/adversarial" in " ".join(page.text.split())
    assert "Density: implicit." in page.text
    assert "Samples have a FD-pixels of" in page.text


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (apt-get install chromium)")
def test_a_page_is_accessible_and_fits_a_phone(views, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = write_report(tmp_path / "page.html", [views["vae"]])
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            # Axe is a script, which the page's own policy would not let in.
            context = browser.new_context(viewport={"width": 400, "height": 900}, color_scheme=scheme, bypass_csp=True)
            tab = context.new_page()
            tab.goto(page.as_uri())
            assert tab.evaluate("document.documentElement.scrollWidth") <= 400
            first = tab.locator("img").first.bounding_box()
            assert first is not None
            assert first["y"] + first["height"] < 900, "pictures are on the first screen"
            tab.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
            tab.wait_for_timeout(1000)
            found = axe.Axe().run(tab)
            assert [each["id"] for each in found.response["violations"]] == []
        browser.close()
