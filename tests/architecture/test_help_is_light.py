import json
import subprocess
import sys

HEAVY = {"torch", "mlflow", "great_expectations", "dvc", "pandas", "prefect", "deltalake", "matplotlib", "timm"}


def modules_after(arguments: list[str]) -> set[str]:
    code = (
        "import json, sys\n"
        "from xadflow.cli.main import main\n"
        f"try: main({arguments!r})\n"
        "except SystemExit: pass\n"
        "print('\\n' + json.dumps(sorted({name.split('.')[0] for name in sys.modules})))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_help_loads_nothing_heavy() -> None:
    assert not HEAVY & modules_after(["--help"])


def test_help_of_each_command_loads_nothing_heavy() -> None:
    for command in ("demo", "retrain", "explain", "score", "models", "audit", "doctor"):
        assert not HEAVY & modules_after([command, "--help"]), command


def test_what_scores_an_image_loads_nothing_that_only_training_needs() -> None:
    """Each of these costs half a second to two seconds of processor time, in every `xadflow score`."""
    code = (
        "import sys\n"
        "import xadflow.cli.score, xadflow.detectors.scoring, xadflow.models.lookup\n"
        "from xadflow.detectors.base import _methods\n"
        "_methods()['fcdd'].load()\n"
        "from xadflow.networks.pretrained import Trunk\n"
        "Trunk('lite0')\n"
        "idle = {'mlflow', 'sqlalchemy', 'pandas', 'timm', 'torchvision', 'lightning_fabric', 'torch._dynamo'}\n"
        "idle |= {'scipy.optimize', 'scipy.stats', 'skimage', 'matplotlib', 'prefect', 'deltalake', 'pyarrow'}\n"
        "print(sorted(idle & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
