"""Tensors of ComfyUI as pictures, and names of files as paths that never leave its input folder."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from tests.comfyui.comfy_fakes import FakeComfy, LoadImage


@pytest.fixture
def pictures(package: ModuleType) -> ModuleType:
    return package.pictures


def test_a_cut_out_comes_through_loadimage_unchanged(pictures: ModuleType, comfy: FakeComfy) -> None:
    image, mask = LoadImage().run("fox.png")
    (picture,) = pictures.pictures_of(image, mask)
    with Image.open(comfy.folder("input") / "fox.png") as file:
        assert picture.mode == file.mode == "RGBA"
        assert np.array_equal(np.asarray(picture), np.asarray(file))


def test_a_picture_without_alpha_stays_whole(pictures: ModuleType, comfy: FakeComfy) -> None:
    Image.new("RGB", (20, 10), (1, 2, 3)).save(comfy.folder("input") / "plain.png")
    (picture,) = pictures.pictures_of(*LoadImage().run("plain.png"))  # with a mask of 64 x 64 zeros
    assert (picture.mode, picture.size, picture.getpixel((0, 0))) == ("RGB", (20, 10), (1, 2, 3))


def test_what_a_mask_shows_can_be_turned_round(pictures: ModuleType) -> None:
    images = torch.rand(2, 4, 6, 3)
    mask = torch.zeros(4, 6)
    mask[1:3] = 1
    for shows, inside in (("the background", 0), ("the subject", 255)):
        cut = pictures.pictures_of(images, mask, shows)
        assert [picture.size for picture in cut] == [(6, 4), (6, 4)]
        assert {picture.getpixel((2, 2))[3] for picture in cut} == {inside}
        assert {picture.getpixel((0, 0))[3] for picture in cut} == {255 - inside}


@pytest.mark.parametrize(("shape", "words"), [((1, 5, 6), "1 of 6 x 5"), ((3, 4, 6), "3 of 6 x 4")])
def test_a_mask_of_another_size_is_refused(pictures: ModuleType, shape: tuple, words: str) -> None:
    mask = torch.zeros(shape)
    mask[0, 0, 0] = 1
    with pytest.raises(ValueError, match=f"masks are {words}, but the pictures 2 of 6 x 4"):
        pictures.pictures_of(torch.rand(2, 4, 6, 3), mask)


def test_a_mask_that_leaves_nothing_is_refused(pictures: ModuleType) -> None:
    with pytest.raises(ValueError, match="leaves nothing of the picture; choose the other"):
        pictures.pictures_of(torch.rand(1, 4, 6, 3), torch.zeros(1, 4, 6), "the subject")


@pytest.mark.parametrize("name", [
    "../secret.png", "a/../../secret.png", "/etc/passwd", "..", ".", "", " ", "a\0.png", "..\\secret.png",
    "C:/secret.png", "file:///etc/passwd", "https://example.org/fox.png", "link/secret.png", 3, None, ["fox.png"],
    {"path": "fox.png"}, "x/" * 5000,
])
def test_names_never_leave_the_folder(pictures: ModuleType, tmp_path: Path, name: object) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="is no file of ComfyUI's input folder; upload it"):
        pictures.path_of(name, folder)


@pytest.mark.parametrize("name", ["fox.png", "alchemint/fox (1).png", "a/../fox.png", "Füchse 狐.png"])
def test_names_within_the_folder_are_taken(pictures: ModuleType, tmp_path: Path, name: str) -> None:
    assert pictures.path_of(name, tmp_path) == (tmp_path / name).resolve()
