"""Sources of HR images: folder, folder with meta_info, LMDB."""

import os
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image

from lightbsr_compat import InputError
from lightbsr_data.images import HRImages


def write_meta_info(path, folder, sizes=True):
    lines = []
    for file in sorted(folder.iterdir(), reverse=True):
        height, width = cv2.imread(str(file)).shape[:2]
        lines.append(f"{file.name} ({height},{width},3)" if sizes else file.name)
    path.write_text("\n".join(lines) + "\n\n")
    return str(path)


def test_three_sources_give_the_same_images_in_the_same_order(tmp_path, image_folder, image_lmdb):
    folder = HRImages(str(image_folder))
    listed = HRImages(str(image_folder), meta_info_file=write_meta_info(tmp_path / "meta.txt", image_folder))
    packed = HRImages(str(image_lmdb), io_backend="lmdb")
    assert folder.names == listed.names == packed.names == [f"photo_{i}" for i in range(6)]
    assert len(folder) == 6
    for i in range(6):
        expected = cv2.imread(str(image_folder / f"photo_{i}.png"))[..., ::-1]  # RGB
        for source in (folder, listed, packed):
            assert np.array_equal(source.read(i), expected)


def test_sizes_come_from_the_meta_info(tmp_path, image_folder, image_lmdb):
    expected = [(48, 48), (52, 64), (70, 50), (49, 81), (64, 64), (57, 53)]
    listed = HRImages(str(image_folder), meta_info_file=write_meta_info(tmp_path / "meta.txt", image_folder))
    assert listed.sizes == expected
    assert HRImages(str(image_lmdb), io_backend="lmdb").sizes == expected
    assert HRImages(str(image_folder)).sizes == [None] * 6
    plain = write_meta_info(tmp_path / "plain.txt", image_folder, sizes=False)
    assert HRImages(str(image_folder), meta_info_file=plain).sizes == [None] * 6


def test_names_with_spaces_and_sub_folders(tmp_path, photo):
    (tmp_path / "sub").mkdir()
    cv2.imwrite(str(tmp_path / "sub" / "my holiday (2).png"), photo(0, 8, 9))
    (tmp_path / "meta.txt").write_text("sub/my holiday (2).png (8,9,3)\n")
    images = HRImages(str(tmp_path), meta_info_file=str(tmp_path / "meta.txt"))
    assert images.names == ["my holiday (2)"] and images.sizes == [(8, 9)]
    assert images.read(0).shape == (8, 9, 3)


def test_names_that_are_not_utf_8(tmp_path, photo):
    name = os.fsencode(tmp_path) + b"/\xff.png"
    with open(name, "wb") as file:
        file.write(cv2.imencode(".png", photo(0, 8, 9))[1].tobytes())
    (tmp_path / "meta.txt").write_bytes(b"\xef\xbb\xbf\xff.png (8,9,3)\n")  # behind a byte-order mark
    for meta_info in (None, str(tmp_path / "meta.txt")):
        images = HRImages(str(tmp_path), meta_info_file=meta_info)
        assert images.names == ["\udcff"] and images.read(0).shape == (8, 9, 3)


def test_transparent_colours_are_read_as_they_are(tmp_path, photo):
    picture = photo(0, 8, 9)
    alpha = np.full((8, 9), 3, np.uint8)
    for suffix in ("png", "tiff", "webp"):
        Image.fromarray(np.dstack([picture, alpha])).save(tmp_path / f"a.{suffix}", lossless=True)
    for i in range(3):
        assert np.array_equal(HRImages(str(tmp_path)).read(i), picture)


def test_only_images_are_taken_from_a_folder(tmp_path, photo):
    for name in ("b.JPG", "a.png", "c.bmp"):
        cv2.imwrite(str(tmp_path / name), photo(0, 8, 8))
    (tmp_path / "notes.txt").write_text("no image")
    assert HRImages(str(tmp_path)).names == ["a", "b", "c"]


def test_missing_and_empty_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"nowhere.*is no folder"):
        HRImages(str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="holds no image"):
        HRImages(str(tmp_path))
    (tmp_path / "meta.txt").write_text("\n")
    with pytest.raises(InputError, match="holds no image"):
        HRImages(str(tmp_path), meta_info_file=str(tmp_path / "meta.txt"))
    with pytest.raises(InputError, match=r"gone\.txt"):
        HRImages(str(tmp_path), meta_info_file=str(tmp_path / "gone.txt"))


def test_unknown_backends_are_refused(image_folder):
    with pytest.raises(InputError, match="'lmbd'; known: disk, lmdb"):
        HRImages(str(image_folder), io_backend="lmbd")


def test_a_path_that_is_no_lmdb_is_refused(tmp_path, image_folder, image_lmdb):
    with pytest.raises(InputError, match="is no LMDB"):
        HRImages(str(image_folder), io_backend="lmdb")
    with pytest.raises(InputError, match="meta_info_file"):
        HRImages(str(image_lmdb), io_backend="lmdb", meta_info_file="x.txt")
    copy = tmp_path / "copy.lmdb"
    shutil.copytree(image_lmdb, copy)
    (copy / "meta_info.txt").unlink()
    with pytest.raises(InputError, match="meta_info"):
        HRImages(str(copy), io_backend="lmdb")


@pytest.mark.parametrize("name", ["gone", "süß"])
def test_an_entry_that_the_lmdb_lacks_is_named(tmp_path, image_lmdb, name):
    copy = tmp_path / "copy.lmdb"
    shutil.copytree(image_lmdb, copy)
    (copy / "meta_info.txt").write_text(f"{name}.png (64,64,3) 1\n", encoding="utf-8")
    with pytest.raises(InputError, match=rf"copy\.lmdb/{name}' cannot be read"):
        HRImages(str(copy), io_backend="lmdb").read(0)


def test_a_listed_image_that_is_not_there_is_named(tmp_path):
    (tmp_path / "meta.txt").write_text("gone.png (64,64,3)\n")
    with pytest.raises(InputError, match=r"gone\.png.*cannot be read"):
        HRImages(str(tmp_path), meta_info_file=str(tmp_path / "meta.txt")).read(0)
