"""Only images/ turns a file's bytes into pixels; who asks it for a file that was admitted names its image_id.

Read from the syntax tree, so that an alias, a line break or a comment hides nothing.
"""

import ast
from pathlib import Path

import pytest

from tests.checkout import PROJECT

# Calls that open an image file or decode one from bytes, by the last part of their name, and what they are called on.
OPENERS = {
    ("Image", "open"),
    ("PIL.Image", "open"),
    ("ImageFile", "Parser"),
    ("image", "imread"),  # matplotlib
    ("plt", "imread"),
    ("io", "imread"),  # skimage
    ("cv2", "imread"),
    ("cv2", "imdecode"),
    ("imageio", "imread"),
    ("torchvision.io", "read_image"),
    ("torchvision.io", "decode_image"),
}
PACKAGES = {"cv2", "imageio", "tifffile", "torchvision.io", "skimage.io", "matplotlib.image", "PIL.ImageFile"}
NAMES = {"imread", "imdecode", "imread_collection", "read_image", "decode_jpeg", "decode_png_file"}
# Files of published packages, before anything is admitted; what they make of them goes through the border.
PUBLIC = {"src/xadflow/datasets/public/photo_crops.py", "src/xadflow/datasets/public/gtsrb.py"}
# Who decodes bytes that no image_id is known of yet, or that have none.
BEFORE_ADMISSION = {
    "src/xadflow/cli/score.py": "any file; prints the id of the bytes that it scored",
    "src/xadflow/datasets/adding.py": "looks at a folder that is to be added",
    "src/xadflow/datasets/border.py": "admits, and makes the image_id of the bytes that it decoded",
    "src/xadflow/datasets/loading.py": "`decoded`, the one place that loads admitted images, masks and maps of classes",
    "src/xadflow/datasets/shares.py": "looks at a folder that is to be added",
    "src/xadflow/datasets/sources/scenes.py": "class ids of a published set",
    "src/xadflow/datasets/sources/textures.py": "photographs of a package",
}
ROAD = {"decode_image", "decode_mask", "read_file", "read_offered", "deepest_value", "decode_here"}


def called(node: ast.Call) -> tuple[str, str]:
    """`a.b.c(...)` as ("a.b", "c"), `c(...)` as ("", "c")."""
    if isinstance(node.func, ast.Attribute):
        return ast.unparse(node.func.value), node.func.attr
    return "", node.func.id if isinstance(node.func, ast.Name) else ""


def opens_images(text: str) -> list[str]:
    """Lines of a module that open or decode an image file by themselves."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            of, name = called(node)
            if (of, name) in OPENERS or (name in NAMES and (of, name) != ("", "read_image")):
                found.append(f"{of}.{name}")
        elif isinstance(node, ast.Import):
            found += [one.name for one in node.names if one.name in PACKAGES]
            found += [f"{one.name} as {one.asname}" for one in node.names if one.name == "PIL.Image" and one.asname]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{one.name}" for one in node.names]
            renamed = [one.name for one in node.names if one.name == "Image" and one.asname]
            found += [node.module] if node.module in PACKAGES else []
            found += [one for one in names if one in PACKAGES or one.rpartition(".")[2] in NAMES]
            found += [f"{name} renamed" for name in renamed]
            found += ["PIL.Image.open"] if "PIL.Image.open" in names else []
    return found


def uses_the_road(text: str) -> set[str]:
    """Functions of images/ that a module calls or hands on without an image_id; `load_input` is one without it."""
    tree = ast.parse(text)
    found = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id in ROAD}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and called(node)[1] == "load_input":
            found |= set() if "image_id" in {one.arg for one in node.keywords} else {"load_input without image_id"}
    return found


def modules() -> list[Path]:
    every = [path for folder in ("src", "flows", "tasks") for path in sorted((PROJECT / folder).rglob("*.py"))]
    return [path for path in every if "xadflow/images" not in path.as_posix()]


def test_no_other_module_opens_an_image_file() -> None:
    found = {path.relative_to(PROJECT).as_posix() for path in modules() if opens_images(path.read_text())}
    assert found == PUBLIC


def test_who_asks_for_pixels_without_an_id_is_known() -> None:
    found = {path.relative_to(PROJECT).as_posix() for path in modules() if uses_the_road(path.read_text())}
    assert found == set(BEFORE_ADMISSION)


def test_loading_names_the_id_of_every_image() -> None:
    """In loading.py, pictures that are images are read with `row.image_id`; masks and maps of classes have none."""
    tree = ast.parse((PROJECT / "src/xadflow/datasets/loading.py").read_text())
    without: dict[str, int] = {}
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        for call in (node for node in ast.walk(function) if isinstance(node, ast.Call)):
            if called(call)[1] == "decoded" and "row.image_id" not in map(ast.unparse, call.args):
                without[function.name] = without.get(function.name, 0) + 1
    assert set(without) == {"load_masks", "load_labels", "load"}
    assert without["load_masks"] == 1
    assert without["load_labels"] == 2


@pytest.mark.parametrize(
    "text",
    [
        "from PIL import Image\nImage.open(path)",
        "import PIL.Image\nPIL.Image.open(path)",
        "from PIL import Image as Picture\nPicture.open(path)",
        "from PIL.Image import open as look",
        "import PIL.Image as P",
        "import cv2",
        "from skimage import io\nio.imread(path)",
        "from skimage.io import imread",
        "import matplotlib.pyplot as plt\nplt.imread(path)",
        "import imageio.v3 as iio\niio.imread(path)",
        "from torchvision.io import read_image",
        "import tifffile",
        "from PIL import ImageFile\nImageFile.Parser()",
    ],
)
def test_the_rule_can_be_broken(text: str) -> None:
    assert opens_images(text)


@pytest.mark.parametrize(
    "text",
    ["from PIL import Image\nImage.fromarray(x)", "open(path)", "path.open()", "# Image.open(x)", "'Image.open(x)'"],
)
def test_the_rule_lets_others_be(text: str) -> None:
    assert not opens_images(text)


@pytest.mark.parametrize(
    ("text", "uses"),
    [
        ("load_input(path, size, 3, limits)", True),
        ("images.load_input(path, size, 3, limits)", True),
        ("load_input(path, size, 3, limits, image_id=one)", False),
        ("pool.map(decode_image, contents)", True),
        ("read_file(path)", True),
        ("decode_png(stored)", False),
    ],
)
def test_a_road_without_an_id_is_seen(text: str, uses: bool) -> None:
    assert bool(uses_the_road(text)) == uses
