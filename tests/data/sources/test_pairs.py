"""Pairs of images and targets are found, decoded and split together."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ectype.config.schema import Augment, DataConfig, Target
from ectype.core.errors import DataError
from ectype.data.dataset import open_store
from ectype.data.loader import Loader, evaluation_batches
from ectype.data.prepare import prepare
from ectype.data.prepared import Prepared

RNG = np.random.default_rng(0)
NOT_SPLIT = {"split": {"val": 0, "test": 0}}


def picture(height: int = 12, width: int = 16, channels: int = 3) -> np.ndarray:
    shape = (height, width) if channels == 1 else (height, width, channels)
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def write(root: Path, files: dict[str, np.ndarray | Image.Image]) -> Path:
    for name, pixels in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(root / name)
    return root


def prepared(root: Path, **keys) -> Prepared:
    return prepare(DataConfig(source=str(root), **{"pairs": "masks", "size": "own", **NOT_SPLIT, **keys}), workers=1)


def targets(found: Prepared, root: Path, **keys) -> torch.Tensor:
    config = DataConfig(source=str(root), **{"pairs": "masks", "size": "own", **NOT_SPLIT, **keys})
    loader = Loader(open_store(found, config).split("train"), config, torch.device("cpu"), training=False)
    batch = loader(torch.arange(len(loader)), evaluation_batches(found.info, 0, torch.device("cpu"))[1](0, len(loader)))
    assert batch.target is not None
    return batch.target


def named(found: Prepared, root: Path, **keys) -> list[str]:
    return list(open_store(found, DataConfig(source=str(root), **NOT_SPLIT, **keys)).split("train").names)


MASKS = [np.kron(RNG.integers(0, 3, (3, 4), dtype=np.uint8), np.ones((4, 4), np.uint8)) for _ in range(4)]


def palette(mask: np.ndarray, colours: list[tuple[int, int, int]]) -> Image.Image:
    image = Image.fromarray(mask)
    image.putpalette([number for colour in colours for number in colour])
    return image


COLOURS = [(0, 0, 0), (200, 30, 30), (250, 250, 10)]
WRITTEN = {
    "indices": lambda mask: Image.fromarray(mask),
    "palette": lambda mask: palette(mask, COLOURS),
    "grey": lambda mask: Image.fromarray(np.array([0, 128, 255], np.uint8)[mask]),
    "sixteen bits": lambda mask: Image.fromarray(np.array([0, 1000, 40000], np.uint16)[mask]),
    "colours": lambda mask: Image.fromarray(np.array(COLOURS, np.uint8)[mask]),
    "colours with alpha": lambda mask: Image.fromarray(np.array(COLOURS, np.uint8)[mask]).convert("RGBA"),
}


@pytest.mark.parametrize("how", WRITTEN)
def test_masks_say_the_same_however_they_are_written(how: str, tmp_path: Path) -> None:
    files = {f"images/{i}.jpg": picture() for i in range(4)}
    files |= {f"masks/{i}.png": WRITTEN[how](mask) for i, mask in enumerate(MASKS)}
    root = write(tmp_path, files)
    found = prepared(root)
    assert torch.equal(targets(found, root), torch.from_numpy(np.stack(MASKS)).long())
    target = found.info.target
    assert isinstance(target, Target)
    assert len(target.classes) == 3
    assert target.shares == pytest.approx(np.bincount(np.stack(MASKS).ravel()) / np.stack(MASKS).size)
    if "colour" in how or how == "palette":
        assert target.colours == tuple(COLOURS)
    assert any("3 classes" in note for note in found.notes)


def test_palettes_that_disagree_are_read_by_their_colours(tmp_path: Path) -> None:
    turned = [COLOURS[0], COLOURS[2], COLOURS[1]]
    files: dict = {f"images/{i}.png": picture() for i in range(4)}
    for i, mask in enumerate(MASKS):
        swapped = np.array([0, 2, 1], np.uint8)[mask]
        files[f"masks/{i}.png"] = palette(swapped, turned) if i % 2 else palette(mask, COLOURS)
    root = write(tmp_path, files)
    assert torch.equal(targets(prepared(root), root), torch.from_numpy(np.stack(MASKS)).long())


def test_black_and_white_masks_of_a_lossy_format_are_cut_in_the_middle(tmp_path: Path) -> None:
    masks = [np.kron(RNG.integers(0, 2, (4, 4), dtype=np.uint8), np.ones((36, 36), np.uint8)) for _ in range(4)]
    files: dict = {f"images/{i}.png": picture(144, 144) for i in range(4)}
    root = write(tmp_path, files | {f"masks/{i}.jpg": 255 * mask for i, mask in enumerate(masks)})
    found = prepared(root)
    assert any("cut at 128" in note for note in found.notes)
    assert torch.equal(targets(found, root), torch.from_numpy(np.stack(masks)).long())


def test_a_file_for_each_class(tmp_path: Path) -> None:
    files: dict = {f"images/{i}.png": picture() for i in range(4)}
    for i, mask in enumerate(MASKS):
        for index, name in ((1, "bone"), (2, "vessel")):
            if i or index == 1:  # the first image has no vessels
                files[f"masks/{name}/{i}.png"] = 255 * (mask == index).astype(np.uint8)
    root = write(tmp_path, files)
    found = prepared(root)
    assert found.info.target is not None
    assert found.info.target.classes == ("background", "bone", "vessel")
    expected = torch.from_numpy(np.stack([np.where(MASKS[0] == 1, 1, 0), *MASKS[1:]])).long()
    assert torch.equal(targets(found, root), expected)


@pytest.mark.parametrize(
    "ignore, classes, void", [("auto", 3, True), (None, 4, False), (0, 3, True)], ids=["auto", "none", "given"]
)
def test_pixels_that_count_for_nothing(ignore: object, classes: int, void: bool, tmp_path: Path) -> None:
    with_border = [mask.copy() for mask in MASKS]
    for mask in with_border:
        mask[0] = 255
    files: dict = {f"images/{i}.png": picture() for i in range(4)}
    root = write(tmp_path, files | {f"masks/{i}.png": mask for i, mask in enumerate(with_border)})
    found = prepared(root, ignore=ignore)
    assert found.info.target is not None
    assert len(found.info.target.classes) == classes
    seen = targets(found, root, ignore=ignore)
    where = torch.from_numpy(np.stack(with_border)) == (0 if ignore == 0 else 255)
    assert ((seen == 255) == where).all() if void else not (seen == 255).any()


def test_classes_have_the_names_they_are_given(tmp_path: Path) -> None:
    files: dict = {f"images/{i}.png": picture() for i in range(4)}
    root = write(tmp_path, files | {f"masks/{i}.png": mask for i, mask in enumerate(MASKS)})
    found = prepared(root, class_names=("ground", "grey", "white"))
    assert found.info.target is not None
    assert found.info.target.classes == ("ground", "grey", "white")
    with pytest.raises(DataError, match="class_names has 2 names, but the masks have 3 classes"):
        prepared(root, class_names=("one", "two"))


LAYOUTS = {
    "splits above": ("train/images/{}.png", "train/masks/{}.png", "train/{}.png"),
    "splits below": ("images/train/{}.png", "masks/train/{}.png", "train/{}.png"),
    "pix2pix": ("trainA/{}.png", "trainB/{}.png", "train/{}.png"),
    "a word behind": ("{}.png", "{}_mask.png", "{}.png"),
    "a word behind, folders": ("imgs/{}.png", "annotations/{}-seg.png", "{}.png"),
    "folders of classes above": ("cats/image/{}.png", "cats/gt/{}.png", "cats/{}.png"),
    "words in front": ("img_{}.png", "mask_{}.png", "img_{}.png"),
    "a word in front": ("{}.png", "mask_{}.png", "{}.png"),
    "words in front, folders": ("images/img_{}.png", "masks/mask_{}.png", "img_{}.png"),
    "words behind": ("{}_sat.png", "{}_mask.png", "{}_sat.png"),
    "words behind, folders": ("images/{}_image.png", "masks/{}_label.png", "{}_image.png"),
    "a word in front and one behind": ("images/img_{}.png", "masks/img_{}_mask.png", "img_{}.png"),
    "splits in front": ("train_images/{}.png", "train_masks/{}_mask.png", "train/{}.png"),
    "nnU-Net": ("imagesTr/case_00{}_0000.png", "labelsTr/case_00{}.png", "train/case_00{}_0000.png"),
    "frames with numbers": ("images/f_000{}.png", "masks/f_000{}.png", "f_000{}.png"),
    "folders inside": ("images/a/b/{}.png", "masks/a/b/{}.png", "a/b/{}.png"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_partners_are_found_in_every_usual_layout(layout: str, tmp_path: Path) -> None:
    image, mask, name = LAYOUTS[layout]
    files: dict = {image.format(i): picture() for i in range(4)}
    root = write(tmp_path, files | {mask.format(i): found for i, found in enumerate(MASKS)})
    found = prepared(root)
    assert named(found, root) == [name.format(i) for i in range(4)]
    assert torch.equal(targets(found, root), torch.from_numpy(np.stack(MASKS)).long())


def test_what_has_no_fitting_partner_is_left_out_with_a_reason(tmp_path: Path) -> None:
    files: dict = {f"images/{i}.png": picture() for i in range(4)} | {"images/alone.png": picture()}
    files |= {f"masks/{i}.png": mask for i, mask in enumerate(MASKS)} | {"masks/extra.png": MASKS[0]}
    files |= {"images/small.png": picture(10, 10), "masks/small.png": MASKS[0]}
    files |= {"images/twice.png": picture(), "masks/twice.png": MASKS[0], "masks/twice.gif": Image.fromarray(MASKS[0])}
    root = write(tmp_path, files)
    (root / "images/broken.png").write_bytes(Path(root / "images/0.png").read_bytes())
    (root / "masks/broken.png").write_bytes(b"nothing")
    found = prepared(root, max_rejects=0.6)
    assert {reject.path: reject.reason for reject in found.rejects} == {
        "images/alone.png": "no target in masks/",
        "images/twice.png": "more than one target (masks/twice.gif, masks/twice.png)",
        "masks/extra.png": "a target without an image",
        "small.png": "target: 16×12, but its image is 10×10",
        "broken.png": "target: not an image",
    }
    assert len(found) == 4


def test_pictures_of_pictures_by_folders_that_are_named(tmp_path: Path) -> None:
    pictures = [picture() for _ in range(4)]
    files: dict = {f"outline/{i}.png": picture(channels=1) for i in range(4)}
    files |= {f"colour/{i}.png": each for i, each in enumerate(pictures)}
    files |= {f"other/{i}.png": picture() for i in range(4)}
    root = write(tmp_path, files)
    keys = {"pairs": "images", "input": "outline", "target": "colour"}
    found = prepared(root, **keys)
    assert found.info.shape == (1, 12, 16)
    assert found.info.target == Target("images", 3)
    expected = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
    assert torch.equal(targets(found, root, **keys), expected)
    assert not any("classes" in note for note in found.notes)


@pytest.mark.parametrize("half", ["left", "right", "top", "bottom"])
def test_halves_of_one_file(half: str, tmp_path: Path) -> None:
    pairs = [(picture(), picture()) for _ in range(4)]
    order = [pair if half in ("left", "top") else pair[::-1] for pair in pairs]
    axis = 1 if half in ("left", "right") else 0
    root = write(tmp_path, {f"{i}.png": np.concatenate(pair, axis) for i, pair in enumerate(order)})
    keys = {"pairs": "images", "input": half}
    found = prepared(root, **keys)
    assert found.info.size == (12, 16)
    expected = torch.from_numpy(np.stack([target for _, target in pairs])).permute(0, 3, 1, 2).float() / 255
    assert torch.equal(targets(found, root, **keys), expected)


def test_masks_are_resized_by_the_nearest_pixel_with_their_images(tmp_path: Path) -> None:
    mask = np.zeros((60, 80), np.uint8)
    mask[20:40, 30:60] = 7
    image = np.where(mask[..., None] > 0, 255, 0).astype(np.uint8).repeat(3, 2)
    files: dict = {f"images/{i}.png": image for i in range(3)} | {f"masks/{i}.png": mask for i in range(3)}
    root = write(tmp_path, files)
    for resize in ("crop", "pad", "squash"):
        keys = {"size": 32, "resize": resize, "background": "black"}
        found = prepared(root, **keys)
        config = DataConfig(source=str(root), pairs="masks", **NOT_SPLIT, **keys)
        loader = Loader(open_store(found, config).split("train"), config, torch.device("cpu"), training=False)
        batch = loader(torch.arange(1), evaluation_batches(found.info, 0, torch.device("cpu"))[1](0, 1))
        assert batch.target is not None
        inside = batch.target[0] != 255
        assert set(batch.target[0][inside].unique().tolist()) == {0, 1}
        agree = ((batch.image[0, 0] > 0.5).long() == batch.target[0])[inside].float().mean()
        assert agree > 0.97, resize
        assert inside.all() == (resize != "pad")  # padding has no class


def test_changes_of_place_are_the_partners_too_and_those_of_colour_are_not(tmp_path: Path) -> None:
    coloured = [np.array(COLOURS, np.uint8)[mask] for mask in MASKS]
    files: dict = {f"images/{i}.png": each for i, each in enumerate(coloured)}
    root = write(tmp_path, files | {f"masks/{i}.png": mask for i, mask in enumerate(MASKS)})
    found = prepared(root)
    moved = Augment(flip=True, turn=True, shift=0.2)
    for augment in (moved, moved.model_copy(update={"crop": 0.3}), moved.model_copy(update={"colour": 0.5})):
        config = DataConfig(source=str(root), pairs="masks", size="own", augment=augment, **NOT_SPLIT)
        loader = Loader(open_store(found, config).split("train"), config, torch.device("cpu"), training=True)
        context = evaluation_batches(found.info, 0, torch.device("cpu"))[1](0, 64)
        batch = loader(torch.arange(4).repeat(16), context)
        assert batch.target is not None
        assert batch.target.dtype == torch.int64
        painted = (torch.tensor(COLOURS) / 255)[batch.target].movedim(-1, 1)
        same = (painted - batch.image).abs().amax(1) < 0.02
        if augment.colour:
            assert same.float().mean() < 0.7
        else:
            assert same.float().mean() > (0.75 if augment.crop else 0.999)  # zooming interpolates pixels of the image
        assert not torch.equal(batch.target[0], batch.target[4])


@pytest.mark.parametrize(
    "files, keys, words",
    [
        ({"images/a.png": 1, "masks/b.png": 1}, {}, "no image .* has a target of the same name"),
        ({"x/a.png": 1, "y/a.png": 1}, {}, r"no folders whose names mean images and targets \(found x, y\)"),
        ({"images/a.png": 1, "masks/a.png": 1}, {"target": "mask"}, "data.target='mask': .* did you mean 'masks'"),
        ({"a.png": 1}, {"input": "left", "target": "top"}, "are not opposite halves"),
    ],
)
def test_what_are_no_pairs_is_said_in_one_line(files: dict, keys: dict, words: str, tmp_path: Path) -> None:
    root = write(tmp_path, {name: picture() for name in files})
    with pytest.raises(DataError, match=words) as error:
        prepared(root, **keys)
    assert "\n" not in str(error.value)


def test_pictures_are_no_masks(tmp_path: Path) -> None:
    files: dict = {f"images/{i}.png": picture() for i in range(4)} | {f"masks/{i}.png": picture() for i in range(4)}
    root = write(tmp_path, files)
    with pytest.raises(DataError, match=r"masks have 7\d\d colors, too many for classes"):
        prepared(root)
    for i in range(4):
        (root / f"masks/{i}.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match="no mask can be read"):
        prepared(root)
    for i in range(4):
        Image.fromarray(np.zeros((12, 16), np.uint8)).save(root / f"masks/{i}.png")
    with pytest.raises(DataError, match="masks have only one value"):
        prepared(root)


def test_what_is_prepared_depends_on_how_pairs_are_meant(tmp_path: Path) -> None:
    files: dict = {f"images/{i}.png": picture() for i in range(4)}
    root = write(tmp_path, files | {f"masks/{i}.png": mask for i, mask in enumerate(MASKS)})
    one, two = prepared(root), prepared(root, ignore=2)
    assert one.root != two.root
    assert one.fingerprint != two.fingerprint
    assert not prepared(root).built


def test_the_picture_of_the_data_shows_partners_in_their_colours(tmp_path: Path) -> None:
    from ectype.data.overview import save_overview

    files: dict = {f"images/{i}.png": picture(channels=1) for i in range(4)}
    root = write(tmp_path, files | {f"masks/{i}.png": palette(mask, COLOURS) for i, mask in enumerate(MASKS)})
    save_overview(prepared(root), tmp_path / "data.png")
    with Image.open(tmp_path / "data.png") as sheet:
        shown = {colour for _, colour in sheet.convert("RGB").getcolors(1 << 20) or []}
    assert set(COLOURS) <= shown
    assert len(shown) > 100


def test_source_beside_a_folder_is_the_folder_within(tmp_path: Path) -> None:
    from ectype.core.errors import RecipeError
    from ectype.training.run import resolve

    found = resolve("unet-translate", tmp_path, ["source=outline", "target=colour"])
    assert (found.data.source, found.data.input, found.data.target) == (str(tmp_path.resolve()), "outline", "colour")
    with pytest.raises(RecipeError, match="images named twice"):
        resolve("ae", tmp_path, ["source=outline"])


def test_classes_can_be_given_by_value_or_colour(tmp_path: Path) -> None:
    files: dict = {f"images/{i}.png": picture() for i in range(4)}
    root = write(tmp_path / "a", files | {f"masks/{i}.png": mask for i, mask in enumerate(MASKS)})
    turned = prepared(root, class_values=(2, 0, 1))
    expected = torch.tensor([1, 2, 0])[torch.from_numpy(np.stack(MASKS)).long()]
    assert torch.equal(targets(turned, root, class_values=(2, 0, 1)), expected)
    assert turned.info.target is not None
    assert turned.info.target.values == (2, 0, 1)
    with pytest.raises(DataError, match="2 is not a class of these masks"):
        prepared(root, class_values=(0, 1), max_rejects=1)
    files |= {f"masks/{i}.png": np.array(COLOURS, np.uint8)[mask] for i, mask in enumerate(MASKS)}
    root = write(tmp_path / "b", files)
    by_name = ("#fafa0a", "black", "#c81e1e")
    found = prepared(root, class_values=by_name)
    assert torch.equal(targets(found, root, class_values=by_name), expected)


def test_many_classes_of_which_an_image_has_few_stay_classes(tmp_path: Path) -> None:
    files: dict = {}
    for i in range(1, 41):
        files[f"images/{i}.png"] = picture()
        files[f"masks/{i}.png"] = np.where(np.arange(192).reshape(12, 16) < 90, 0, 5 * i).astype(np.uint8)
    root = write(tmp_path, files)
    found = prepared(root)
    assert found.info.target is not None
    assert len(found.info.target.classes) == 41


def test_grey_pictures_are_no_masks(tmp_path: Path) -> None:
    files: dict = {f"{folder}/{i}.png": picture(channels=1) for folder in ("images", "masks") for i in range(4)}
    root = write(tmp_path, files)
    with pytest.raises(DataError, match="gray values, which look like images"):
        prepared(root)


def test_folders_of_masks_without_images_are_no_classes_and_two_layouts_at_once_are_refused(tmp_path: Path) -> None:
    files: dict = {f"images/p1/{i}.png": picture() for i in range(4)}
    files |= {f"masks/p1/{i}.png": mask for i, mask in enumerate(MASKS)}
    root = write(tmp_path / "a", files | {"masks/p3/9.png": MASKS[0]})
    found = prepared(root, max_rejects=0.5)
    assert torch.equal(targets(found, root, max_rejects=0.5), torch.from_numpy(np.stack(MASKS)).long())
    both: dict = {f"images/{i}.png": picture() for i in range(4)}
    for i, mask in enumerate(MASKS):
        both |= {f"masks/{i}.png": mask, f"masks/preview/{i}.png": mask}
    with pytest.raises(DataError, match=r"and in its subfolders \(preview\): use one file for each image"):
        prepared(write(tmp_path / "b", both))
    styles = {f"{place}/{i}.png": picture() for place in ("photo", "style/x", "style/y") for i in range(4)}
    with pytest.raises(DataError, match="targets in several folders"):
        prepared(write(tmp_path / "c", styles), pairs="images", input="photo", target="style")


def test_an_ignored_value_is_no_class_where_classes_are_given(tmp_path: Path) -> None:
    masks = [np.where(mask == 2, 255, mask).astype(np.uint8) for mask in MASKS]
    files: dict = {f"images/{i}.png": picture() for i in range(4)}
    root = write(tmp_path, files | {f"masks/{i}.png": mask for i, mask in enumerate(masks)})
    keys = {"class_values": (0, 1, 2), "class_names": ("a", "b", "c")}
    assert torch.equal(targets(prepared(root, **keys), root, **keys), torch.from_numpy(np.stack(masks)).long())


def test_colours_name_the_classes_of_a_palette(tmp_path: Path) -> None:
    files: dict = {f"images/{i}.png": picture() for i in range(4)}
    root = write(tmp_path, files | {f"masks/{i}.png": palette(mask, COLOURS) for i, mask in enumerate(MASKS)})
    turned = prepared(root, class_values=("#000000", "#fafa0a", "#c81e1e"))
    expected = torch.tensor([0, 2, 1])[torch.from_numpy(np.stack(MASKS)).long()]
    assert torch.equal(targets(turned, root, class_values=("#000000", "#fafa0a", "#c81e1e")), expected)
    void = prepared(root, ignore="#fafa0a")
    assert void.info.target is not None
    assert len(void.info.target.classes) == 2


def test_a_colour_is_no_comment() -> None:
    from ectype.config.recipe import load_recipe

    assert load_recipe("unet-segment", ["ignore=#ffffff"]).data.ignore == "#ffffff"


def test_input_and_target_want_pairs() -> None:
    from ectype.config.recipe import load_recipe
    from ectype.core.errors import RecipeError

    with pytest.raises(RecipeError, match="set pairs=images or pairs=masks"):
        load_recipe("ae", ["data.target=masks"])


def test_both_unicode_forms_of_a_name_are_a_pair(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    files = {f"images/{composed}{i}.png": picture() for i in range(2)}
    files |= {f"{decomposed}/{decomposed}{i}.png": MASKS[i] for i in range(2)}
    found = prepared(write(tmp_path, files), input="images", target=composed)
    assert len(found) == 2
    assert not found.rejects


def test_pascal_voc(tmp_path: Path) -> None:
    masks = [np.where(mask == 2, 255, mask).astype(np.uint8) for mask in MASKS]
    colours = [*COLOURS[:2], *((9, 9, i) for i in range(2, 255)), (224, 224, 192)]
    files: dict = {f"VOC2012/JPEGImages/{i}.jpg": picture() for i in range(9)}
    files |= {f"VOC2012/SegmentationClass/{i}.png": palette(mask, colours) for i, mask in enumerate(masks)}
    files |= {f"VOC2012/SegmentationObject/{i}.png": palette(mask, colours) for i, mask in enumerate(masks)}
    root = write(tmp_path, files)
    lists = root / "VOC2012/ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("0\n2\n")
    (lists / "val.txt").write_text("1\n3\n")
    found = prepared(root)
    assert not found.rejects
    assert found.split_sizes == {"train": 2, "val": 2, "test": 0}
    assert torch.equal(targets(found, root), torch.from_numpy(np.stack(masks)[[0, 2]]).long())
    assert "splits: the lists in ImageSets/Segmentation; other images are left out" in found.notes
    (lists / "train.txt").write_text("0\n2\n3\n")
    (lists / "val.txt").write_text("1\n")
    assert prepared(root).split_sizes == {"train": 3, "val": 1, "test": 0}


@pytest.mark.parametrize("train_ids", [False, True])
def test_cityscapes(train_ids: bool, tmp_path: Path) -> None:
    files: dict = {}
    for i, mask in enumerate(MASKS):
        split, city = ("train", "ulm") if i < 3 else ("val", "bonn")
        files[f"leftImg8bit/{split}/{city}/{city}_{i}_leftImg8bit.png"] = picture()
        kinds = {"color": np.array(COLOURS, np.uint8)[mask], "instanceIds": 100 * mask, "labelIds": mask + 20}
        for kind, drawn in {**kinds, **({"labelTrainIds": mask} if train_ids else {})}.items():
            files[f"gtFine/{split}/{city}/{city}_{i}_gtFine_{kind}.png"] = drawn
    root = write(tmp_path, files)
    found = prepared(root)
    assert not found.rejects
    assert found.split_sizes == {"train": 3, "val": 1, "test": 0}
    assert torch.equal(targets(found, root), torch.from_numpy(np.stack(MASKS)[:3]).long())
    assert found.info.target is not None
    assert found.info.target.values == ((0, 1, 2) if train_ids else (20, 21, 22))


def test_the_error_without_pairs_names_the_file_to_rename(tmp_path: Path) -> None:
    files: dict = {f"images/{i}.png": picture() for i in range(3)}
    root = write(tmp_path, files | {f"masks/x{i}.png": MASKS[i] for i in range(3)})
    with pytest.raises(DataError, match=r"rename the target of 'images/0.png' to 'masks/0.png' \(.* 'masks/x0.png'\)"):
        prepared(root)
