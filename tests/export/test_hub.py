"""Models by name: put into a folder of the Hub's layout and loaded from it; what is asked of the Hub's library."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

import ectype
from ectype.core.errors import EctypeError, ModelError, RunError
from ectype.export import hub
from ectype.export.commands import export, push
from ectype.runs.load import recipe_of
from ectype.runs.locate import locate_run
from ectype.runs.run_dir import RunDir
from ectype.training.run import resolve, train
from tests.conformance.small import small

pytestmark = pytest.mark.trains

library = pytest.importorskip("huggingface_hub")
constants = pytest.importorskip("huggingface_hub.constants")
errors = pytest.importorskip("huggingface_hub.errors")

FAST = {"train.images": 640, "monitor.every": 320, "run.pictures": 0, "run.log_every": 1000, "monitor.images": 100}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return train(small("vae-fast", **FAST), out=tmp_path_factory.mktemp("hub") / "vae")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no network: what HF_HUB_CACHE and HF_HUB_OFFLINE=1 mean to a fresh process."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


def weights(place: Path) -> dict[str, torch.Tensor]:
    return load_file(place / "model.safetensors")


def test_what_is_pushed_is_loaded_by_name_bit_for_bit(run: RunDir, cache: Path) -> None:
    said = push(run.path, "some-one/digits_1.0", license="apache-2.0", local=cache)
    assert "some-one/digits_1.0 → " in said
    repository = cache / "models--some-one--digits_1.0"
    commit = (repository / "refs" / "main").read_text()
    snapshot = repository / "snapshots" / commit
    assert len(commit) == 40
    assert {file.resolve().parent for file in snapshot.iterdir()} == {repository / "blobs"}
    model = ectype.load("some-one/digits_1.0", device="cpu")
    for key, value in weights(run.model).items():
        assert torch.equal(model.state_dict()[key], value)
    assert set(model.densities) == set(ectype.load(run.path, device="cpu").densities)
    assert recipe_of("some-one/digits_1.0").data.resize == run.recipe.data.resize
    push(run.path, "some-one/digits_1.0", local=cache)  # again is no obstacle
    assert len(list((repository / "snapshots").iterdir())) == 2  # the card says nothing of a licence now


@pytest.mark.slow
def test_commands_take_names(run: RunDir, tmp_path: Path) -> None:
    Image.new("L", (16, 16), 80).save(tmp_path / "grey.png")
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}

    def call(*words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ectype.cli", *map(str, words)]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    assert call("push", run.path, "someone/vae", "--local", tmp_path / "cache").returncode == 0
    assert "4 samples" in call("sample", "someone/vae", "-n", 4, "--device", "cpu").stdout
    assert "1 images" in call("reconstruct", "someone/vae", tmp_path / "grey.png", "--device", "cpu").stdout
    missing = call("sample", "someone/other")
    assert missing.returncode == RunError.exit_code
    assert missing.stderr.startswith(
        "error: no run at 'someone/other', and no such model on the Hub or in its cache (HF_HUB_OFFLINE is set)"
    )
    assert "Traceback" not in missing.stderr
    assert len(missing.stderr.splitlines()) == 1


def test_a_place_that_is_there_goes_before_a_name(
    run: RunDir, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    push(run.path, "runs/mine", local=cache)
    assert (
        locate_run("runs/mine")
        == cache / "models--runs--mine" / "snapshots" / (cache / "models--runs--mine" / "refs" / "main").read_text()
    )
    (tmp_path / "runs").mkdir()
    # A mistyped run is looked for where it would lie, not on the Hub.
    assert locate_run("runs/mine") == Path("runs/mine")
    with pytest.raises(RunError, match=r"no run at 'runs/mine' \(it has no recipe\.yaml\)"):
        ectype.load("runs/mine")
    for plain in ("one", "a/b/c", "/absolute/place", "../up", "./here", "~/home"):
        assert locate_run(plain) == Path(plain)


def test_a_spoiled_snapshot_is_refused_as_any_directory_is(run: RunDir, cache: Path) -> None:
    push(run.path, "someone/vae", local=cache)
    place = locate_run("someone/vae")
    says = json.loads((place / "config.json").read_text())
    says["model"]["kind"] = "evil.module"
    (place / "config.json").unlink()
    (place / "config.json").write_text(json.dumps(says))
    with pytest.raises(EctypeError, match=r"no model of kind 'evil\.module'"):
        ectype.load("someone/vae")


def test_the_card_says_what_the_run_says(run: RunDir, tmp_path: Path) -> None:
    lines = export(run.path, "safetensors", tmp_path / "out", license="cc-by-4.0")
    assert "ectype.load" in lines[0]
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    _, header, body = text.split("---\n", 2)
    said = yaml.safe_load(header)
    assert said["license"] == "cc-by-4.0"
    assert said["library_name"] == "ectype"
    assert said["pipeline_tag"] == "unconditional-image-generation"
    assert "ectype" in said["tags"]
    evaluation = json.loads(run.evaluation_file.read_text())["evaluation"]
    psnr = next(figure for figure in evaluation["figures"] if figure["key"] == "psnr")
    named = {metric["name"]: metric["value"] for metric in said["model-index"][0]["results"][0]["metrics"]}
    assert named["PSNR"] == pytest.approx(psnr["value"], abs=1e-5)
    assert f"| PSNR | {psnr['value']:.2f} dB | {psnr['low']:.2f} to {psnr['high']:.2f} |" in body
    for file in ("reconstructions.png", "samples.png"):
        assert f"]({file})" in body
        with Image.open(tmp_path / "out" / file) as picture:
            assert picture.width > 100
    assert "ectype sample out -n 64" in body
    assert "latent_dim" in body
    assert resolve(str(tmp_path / "out" / "recipe.json"), "digits").model == run.recipe.model
    held = ectype.load(tmp_path / "out", device="cpu").state_dict()
    assert all(torch.equal(held[key], value) for key, value in weights(run.model).items())
    # Nobody is told where things lie on this machine.
    assert str(tmp_path.parent) not in "".join(
        file.read_text(encoding="utf-8") for file in (tmp_path / "out").iterdir() if file.suffix in (".json", ".md")
    )


def test_paths_of_this_machine_stay_here(tmp_path: Path) -> None:
    from ectype.export.card import without_local_paths

    photos = tmp_path / "holiday"
    photos.mkdir()
    plain = without_local_paths(resolve("vae", photos))
    assert plain["data"]["source"] == "holiday"
    assert str(tmp_path) not in json.dumps(plain)
    for name in ("hf:user/set", "torchvision:MNIST", "digits"):
        assert without_local_paths(resolve("vae", name))["data"]["source"] == name
    recipe = resolve("vae", "~/patients/photos", ["labels=clinic/meta.csv", r"split.group=(\d+)/scan"])
    plain = without_local_paths(recipe)["data"]
    assert (plain["source"], plain["labels"]) == ("photos", "meta.csv")
    assert plain["split"]["group"] == r"(\d+)/scan"
    assert without_local_paths(resolve("unet-segment", "a/b.zip", ["target=x/masks"]))["data"]["target"] == "masks"
    model = recipe.model.model_dump(mode="json", serialize_as_any=True)
    coded = resolve("flow", "digits", {"model.coder.run": "clinic/vae", "model.coder.model": model})
    assert without_local_paths(coded)["model"]["coder"]["run"] == "vae"


def test_other_files_are_not_written_over(run: RunDir, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ModelError, match="another --out"):
        export(run.path, "safetensors", tmp_path)
    with pytest.raises(ModelError, match=r"no export to 'onxn'; did you mean 'onnx'"):
        export(run.path, "onxn", tmp_path)


# ── What is asked of the Hub ────────────────────────────────────────────────────────────────────────────────────────


class Api:
    """The Hub's client, as far as it is used, with the signatures of the real one."""

    def __init__(self, wrong: Exception | None = None, *, private: bool = True) -> None:
        self.wrong, self.private, self.calls, self.files = wrong, private, [], {}

    def create_repo(self, repo_id: str, *, private: bool | None = None, exist_ok: bool = False) -> str:
        if self.wrong is not None:
            raise self.wrong
        self.calls.append(("create", repo_id, private, exist_ok))
        return f"https://hub/{repo_id}"

    def model_info(self, repo_id: str) -> SimpleNamespace:
        return SimpleNamespace(id=repo_id, private=self.private)

    def upload_folder(
        self, *, repo_id: str, folder_path: Path, commit_message: str, delete_patterns: list[str]
    ) -> None:
        self.calls.append(("upload", repo_id, commit_message))
        self.files = {file.name: file.read_bytes() for file in Path(folder_path).iterdir()}


def test_the_hub_is_asked_for_a_repository_and_given_all_files(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    import inspect

    for name in ("create_repo", "model_info", "upload_folder"):  # the real client takes what the stand-in is given
        ours = set(inspect.signature(getattr(Api, name)).parameters)
        assert ours <= set(inspect.signature(getattr(library.HfApi, name)).parameters)
    api = Api()
    monkeypatch.setattr(library, "HfApi", lambda **_: api)
    said = push(run.path, "someone/vae", private=True)
    assert said == "someone/vae → https://hub/someone/vae; load it with ectype.load('someone/vae')"
    assert next(call[:3] for call in api.calls) == ("create", "someone/vae", True)
    assert set(api.files) == {
        "README.md",
        "config.json",
        "density-gmm.safetensors",
        "evaluation.json",
        "manifest.json",
        "model.safetensors",
        "preprocessing.json",
        "recipe.json",
        "reconstructions.png",
        "samples.png",
    }
    assert b'ectype.load("someone/vae")' in api.files["README.md"]


def test_what_is_meant_to_be_private_is_not_put_where_everyone_sees_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = Api(private=False)
    monkeypatch.setattr(library, "HfApi", lambda **_: api)
    (tmp_path / "README.md").write_text("")
    with pytest.raises(RunError, match=r"^'someone/vae' is on the Hub already and public, so nothing was uploaded: "):
        hub.push(tmp_path, "someone/vae", private=True)
    assert not api.files
    hub.push(tmp_path, "someone/vae")
    assert api.files


def refused(code: int) -> Exception:
    error: Any = OSError("403 Client Error\n\nmore lines")
    error.response = SimpleNamespace(status_code=code)
    return error


WRONG = {
    "no token": (errors.LocalTokenNotFoundError("Token is required"), "hf auth login"),
    "a bad token": (refused(401), "hf auth login"),
    "no right": (refused(403), "no permission"),
    "offline": (errors.OfflineModeIsEnabled("offline"), "unset it"),
    "no network": (ConnectionError("Name or service not known"), "--local DIR"),
    "anything else": (refused(500), "403 Client Error"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_goes_wrong_is_one_line(run: RunDir, what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    error, hint = WRONG[what]
    monkeypatch.setattr(library, "HfApi", lambda **_: Api(error))
    (tmp_path / "README.md").write_text("")
    with pytest.raises(RunError) as caught:
        hub.push(tmp_path, "someone/vae")
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["vae", "some/one/vae", "some one/vae", "a--b/c", "a/b..c", "-a/b", "a/b.git", "a/" + "b" * 99]
)
def test_a_bad_name_is_refused_before_anything_is_measured(name: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a valid name on the Hub"):
        push(tmp_path / "no run", name, local=tmp_path)


def test_only_tensors_and_words_are_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: dict[str, Any] = {}

    def download(name: str, **keys: Any) -> str:
        asked.update(keys, name=name)
        return str(tmp_path)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(library, "snapshot_download", download)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert locate_run("someone/vae") == tmp_path
    assert asked["allow_patterns"] == ["*.json", "*.safetensors", "README.md"]
    assert asked["name"] == "someone/vae"
    # Without a network nothing is waited for.
    assert asked["local_files_only"]


def test_without_the_library_a_missing_run_is_still_a_missing_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(RunError, match=r"no run at 'someone/vae'; .* pip install 'ectype\[hub\]'"):
        ectype.load("someone/vae")
    with pytest.raises(ModelError, match=r"^the Hub needs huggingface-hub: pip install"):
        hub.push(tmp_path, "someone/vae")
