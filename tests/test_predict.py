"""Laws of predictions from image files and from PIL images."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch import Tensor

from intervmerge.bundle import Bundle, load_bundle
from intervmerge.cli.main import main
from intervmerge.errors import ConfigError

BUNDLE = Path(__file__).parent / "fixtures/format_1/bundle"
TASK = "red"
FRAMEWORKS = ("ray", "optuna", "mlflow", "matplotlib")


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle(BUNDLE, "cpu")


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


PICTURES: dict[str, Callable[[], Image.Image]] = {
    "of the encoder's own size": lambda: Image.fromarray(noise(16, 16, 3)),
    "wide": lambda: Image.fromarray(noise(40, 97, 3, seed=1)),
    "tall": lambda: Image.fromarray(noise(61, 20, 3, seed=2)),
    "tiny": lambda: Image.fromarray(noise(3, 2, 3, seed=3)),
    "grey": lambda: Image.fromarray(noise(30, 30, seed=4)),
    "transparent": lambda: Image.fromarray(noise(30, 25, 4, seed=5), "RGBA"),
    "CMYK": lambda: Image.fromarray(noise(30, 25, 4, seed=6), "CMYK"),
    "palette": lambda: Image.fromarray(noise(30, 25, 3, seed=7)).quantize(8),
    "one bit": lambda: Image.fromarray(noise(30, 25, seed=8)).convert("1"),
}


def file_of(picture: str, folder: Path) -> Path:
    """The picture in a file of a kind that loses nothing of it."""
    image = PICTURES[picture]()
    path = folder / f"{picture}.{'tiff' if image.mode == 'CMYK' else 'png'}"
    image.save(path)
    return path


# ---- PIL images


@pytest.mark.parametrize("picture", PICTURES)
def test_a_pil_image_enters_the_encoder_as_open_clips_validation_transform_makes_it(
    picture: str, bundle: Bundle
) -> None:
    """Two routes: the bundle, and open_clip's transform with the bundle's normalisation before its encoder."""
    shape, normalization = bundle.file.architecture, bundle.file.normalization
    transform = open_clip.image_transform(
        shape.image_size, is_train=False, mean=normalization.mean, std=normalization.std
    )
    entered = transform(PICTURES[picture]())[None]
    pixels = entered * torch.tensor(normalization.std).view(3, 1, 1) + torch.tensor(normalization.mean).view(3, 1, 1)
    expected = bundle.features((255 * pixels).round().to(torch.uint8), TASK)
    torch.testing.assert_close(bundle.features(PICTURES[picture](), TASK), expected, atol=1e-6, rtol=1e-6)


def test_an_image_of_the_encoders_size_is_taken_as_it_is(bundle: Bundle) -> None:
    pixels = noise(5, 16, 16, 3, seed=9)
    tensors = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    assert torch.equal(bundle([Image.fromarray(image) for image in pixels], TASK), bundle(tensors, TASK))


def test_pil_images_take_a_task_each(bundle: Bundle) -> None:
    tasks = list(bundle.classes)[:2]
    images = [PICTURES["wide"](), PICTURES["grey"]()]
    together = bundle(images, tasks)
    for row, (image, task) in enumerate(zip(images, tasks, strict=True)):
        torch.testing.assert_close(together[row, : len(bundle.classes[task])], bundle(image, task)[0])
    assert bundle.predict(images, tasks) == [bundle.predict(i, t)[0] for i, t in zip(images, tasks, strict=True)]


def half_a_picture(folder: Path) -> Image.Image:
    """Its head is whole, so that Pillow opens it; the rest is not there."""
    path = file_of("wide", folder)
    path.write_bytes(path.read_bytes()[:2000])
    return Image.open(path)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ("a.jpg", "images: got str of str"),
        ([], "images: got list of nothing"),
        ([Image.new("RGB", (8, 8)), 3], "images: got list of Image, int"),
        (None, "images: got NoneType"),
        (np.zeros((2, 3, 16, 16), np.uint8), "images: got ndarray"),
    ],
)
def test_what_is_no_image_is_refused(images: object, said: str, bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match=said):
        bundle(images, TASK)  # type: ignore[arg-type]


def test_an_image_that_cannot_be_decoded_is_named_by_its_number(bundle: Bundle, tmp_path: Path) -> None:
    with half_a_picture(tmp_path) as half, pytest.raises(ConfigError, match="images, number 1: got"):
        bundle([Image.new("RGB", (8, 8)), half], TASK)


# ---- the command


def predicted(*arguments: object) -> int:
    return main(["predict", str(BUNDLE), "--task", TASK, "--device", "cpu", *map(str, arguments)])


def probabilities(bundle: Bundle, images: list[Image.Image]) -> Tensor:
    return bundle(images, TASK).softmax(-1)


def test_a_file_has_a_row_with_its_class_and_how_probable_it_is(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [file_of(picture, tmp_path) for picture in PICTURES]
    assert predicted(*paths) == 0
    rows = capsys.readouterr().out.splitlines()
    chances = probabilities(bundle, [make() for make in PICTURES.values()])
    for path, row, chance in zip(paths, rows, chances, strict=True):
        name = bundle.classes[TASK][int(chance.argmax())]
        assert row == f"{path}: {name} {100 * float(chance.max()):.1f} %"


def test_json_and_words_say_the_same_of_all_classes_in_order(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths, classes = [file_of(picture, tmp_path) for picture in ("wide", "grey")], bundle.classes[TASK]
    assert predicted(*paths, "--top", len(classes), "--json") == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert predicted(*paths, "--top", len(classes)) == 0
    rows = capsys.readouterr().out.splitlines()
    for one, path, row in zip(found, paths, rows, strict=True):
        chances = [entry["probability"] for entry in one["classes"]]
        assert (one["image"], one["task"]) == (str(path), TASK)
        assert {entry["class"] for entry in one["classes"]} == set(classes)
        assert chances == sorted(chances, reverse=True)
        assert sum(chances) == pytest.approx(1.0, abs=1e-6)
        words = ", ".join(f"{entry['class']} {100 * entry['probability']:.1f} %" for entry in one["classes"])
        assert row == f"{path}: {words}"


def test_every_unreadable_file_is_named_and_nothing_is_predicted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, text, cut = file_of("grey", tmp_path), tmp_path / "notes.txt", file_of("wide", tmp_path)
    text.write_text("no image")
    cut.write_bytes(cut.read_bytes()[:2000])
    assert predicted(good, text, cut, tmp_path, tmp_path / "absent.jpg") == 2
    said = capsys.readouterr()
    assert said.out == ""
    for path in (text, cut, tmp_path, tmp_path / "absent.jpg"):
        assert f"{path} (" in said.err
    assert f"{good} (" not in said.err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--task", "rde"], "red (did you mean it?)"),
        (["--top", "0"], "--top: got 0"),
        (["--top", "99"], "--top: got 99"),
        (["--device", "cuda:99"], "device"),
    ],
)
def test_flags_that_fit_nothing_are_refused(
    flags: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predicted(file_of("grey", tmp_path), *flags) == 2
    assert said in capsys.readouterr().err


def test_predicting_from_a_file_needs_no_framework(tmp_path: Path) -> None:
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({FRAMEWORKS}))\n"
        "from intervmerge.cli.main import main\n"
        f"sys.exit(main(['predict', {str(BUNDLE)!r}, {str(file_of('grey', tmp_path))!r}, '--task', {TASK!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.count("%") == 1, done.stderr
