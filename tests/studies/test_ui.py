"""The page in MLflow's own UI, in a real browser where there is one."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

import pytest
from mlflow import MlflowClient

from bitfront.spaces import StudyError
from bitfront.studies.mlflow_views import LEARNING_KEY, view_fragment
from bitfront.studies.palette import styles
from bitfront.studies.tracking import log_study
from bitfront.studies.ui import start_ui

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

CHROMIUM_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1500,950",
)
PAGE_TIMEOUT_S = 60

# The fill colours of the markers of the first chart that has any.
MARKER_COLOURS = """
const plot = [...document.querySelectorAll('.js-plotly-plot')]
    .find(plot => plot.querySelector('.scatterlayer path.point'));
return plot ? [...plot.querySelectorAll('.scatterlayer path.point')]
    .map(point => getComputedStyle(point).fill) : [];
"""
AXES = """
return [...document.querySelectorAll('.js-plotly-plot .xtitle, .js-plotly-plot .ytitle')]
    .map(title => title.textContent);
"""


@pytest.fixture(scope="module")
def tracked(synthetic_result, tmp_path_factory):
    folder = tmp_path_factory.mktemp("output") / synthetic_result.name
    uri = f"sqlite:///{folder.parent}/mlflow.db"
    return log_study(synthetic_result, uri=uri, experiment=None, folder=folder)


@pytest.fixture(scope="module")
def page(tracked):
    with start_ui(tracked.uri, tracked.experiment) as ui:
        yield ui.url


@pytest.fixture
def browser(tmp_path):
    """Headless Chromium; where it is missing the test is skipped, but not in CI."""
    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    if missing := [name for name, path in programs.items() if path is None]:
        reason = f"not installed: {', '.join(missing)}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = programs["chromium"]
    for flag in (*CHROMIUM_FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    driver = Chrome(options=options, service=ChromeService(programs["chromedriver"]))
    yield driver
    driver.quit()


@pytest.mark.slow
def test_page_opens_on_the_coloured_pareto_scatter(page, browser, synthetic_result, tmp_path):
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(page)
    finalists = len(synthetic_result.points)
    WebDriverWait(browser, PAGE_TIMEOUT_S).until(
        lambda driver: len(driver.execute_script(MARKER_COLOURS)) >= finalists
    )
    picture = tmp_path / "pareto.png"
    assert browser.save_screenshot(str(picture))
    drawn = Counter(hexadecimal(fill) for fill in browser.execute_script(MARKER_COLOURS))
    colours = styles(trial.strategy for trial in synthetic_result.trials)
    assert drawn == Counter(colours[p.strategy].colour for p in synthetic_result.points)
    assert browser.execute_script(AXES)[:2] == ["energy_vs_w8a8", "accuracy"]
    assert picture.stat().st_size > 10_000


# How many points each curve of each chart has.
CURVES = """
return [...document.querySelectorAll('.js-plotly-plot')]
    .map(plot => plot.data.map(curve => curve.x.length).filter(length => length > 1));
"""


@pytest.mark.slow
def test_pages_of_searches_show_their_curves(browser, learning_result, tmp_path):
    from selenium.webdriver.support.ui import WebDriverWait

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tracked = log_study(learning_result, uri=uri, experiment=None, folder=tmp_path / "learning")
    runs = MlflowClient(tracking_uri=uri).search_runs(
        [tracked.experiment_id], "tags.`bitfront.role` = 'trial'"
    )
    waiting = WebDriverWait(browser, PAGE_TIMEOUT_S)
    with start_ui(uri, tracked.experiment) as ui:
        server = ui.url.partition("#")[0]
        run = f"experiments/{tracked.experiment_id}/runs/{runs[0].info.run_id}"
        browser.get(f"{server}#/{run}/model-metrics")
        waiting.until(whole_curves)
        alone = whole_curves(browser)
        browser.get(f"{server}{view_fragment(tracked.experiment_id, LEARNING_KEY)}")
        waiting.until(lambda driver: whole_curves(driver) == len(runs) * alone)


def whole_curves(driver) -> int:
    """The most curves that a chart has, all of all 150 steps; MLflow may draw each in pale, too."""
    charts = [chart for chart in driver.execute_script(CURVES) if set(chart) == {150}]
    return max(map(len, charts), default=0)


def hexadecimal(fill: str) -> str:
    """``#rrggbb`` from the browser's ``rgb(r, g, b)``."""
    return "#" + "".join(f"{int(number):02x}" for number in re.findall(r"\d+", fill)[:3])


@pytest.mark.slow
def test_server_listens_on_loopback_and_refuses_foreign_names(page):
    address = page.split("#")[0]
    port = int(address.rstrip("/").rpartition(":")[2])
    assert address == f"http://127.0.0.1:{port}/"
    request = urllib.request.Request(
        f"{address}api/2.0/mlflow/experiments/search?max_results=1", headers={"Host": "evil.test"}
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=10)
    with refused.value as answer:
        assert answer.code == 403
    if sys.platform == "linux":  # where all of 127.0.0.0/8 is this machine
        with socket.socket() as elsewhere:
            elsewhere.bind(("127.0.0.2", port))  # free: the server took one address only


@pytest.mark.slow
def test_study_is_logged_to_a_server_and_shown_by_it(page, synthetic_result, tracked, tmp_path):
    server = page.split("#")[0].rstrip("/")
    folder = tmp_path / "s"
    remote = log_study(synthetic_result, uri=server, experiment="remote", folder=folder)
    assert remote.uri == server
    store = Path(tracked.uri.removeprefix("sqlite:///")).parent
    assert list(store.glob(f"mlflow-artifacts/*/{remote.study_run_id}/artifacts/result.json"))
    with start_ui(server, "remote") as ui:
        assert ui.url == f"{server}/{remote.fragment}"
        ui.wait()  # at once: the server is not ours
    urllib.request.urlopen(f"{server}/health", timeout=10).close()  # and goes on


@pytest.mark.slow
def test_leaving_stops_the_server(tracked):
    with start_ui(tracked.uri) as ui:
        address = ui.url.split("#")[0]
        urllib.request.urlopen(f"{address}health", timeout=10).close()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{address}health", timeout=10)


@pytest.mark.slow
def test_ctrl_c_ends_the_server_and_the_wait(tracked):
    code = (
        "import sys; from bitfront.studies.ui import start_ui\n"
        "with start_ui(sys.argv[1]) as ui:\n"
        "    print(ui.url, flush=True); ui.wait()\n"
        "print('ended')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, tracked.uri],
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,
    ) as process:
        address = process.stdout.readline().split("#")[0]
        time.sleep(1)  # until it waits
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to everyone
        assert process.communicate(timeout=30) == ("ended\n", None)
    assert process.returncode == 0
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{address}health", timeout=10)


def test_unknown_experiment_names_the_nearest(tracked):
    with pytest.raises(StudyError, match="did you mean 'synthetic'"):
        start_ui(tracked.uri, "synthetik")


def test_missing_store_says_what_to_run(tmp_path):
    with pytest.raises(StudyError, match="run a study first"):
        start_ui(f"sqlite:///{tmp_path}/mlflow.db")


@pytest.mark.parametrize("port", [99_999, -1])
def test_impossible_port_is_refused(tracked, port):
    with pytest.raises(StudyError, match=f"port {port} on 127.0.0.1 cannot be used"):
        start_ui(tracked.uri, tracked.experiment, port=port)


def test_port_in_use_is_refused(tracked):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(StudyError, match=f"port {port} on 127.0.0.1 cannot be used"):
            start_ui(tracked.uri, tracked.experiment, port=port)


def test_importing_is_light():
    heavy = "{'mlflow', 'matplotlib', 'plotly', 'torch', 'pandas'}"
    code = (
        "import sys, bitfront.studies.ui, bitfront.studies.tracking, bitfront.studies.figures;"
        f"print({heavy} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
