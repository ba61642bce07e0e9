"""``import lightbsr`` and a training command leave BasicSR's modules, classes and registries unchanged."""

import subprocess
import sys

SNAPSHOT = """
import sys, types

def snapshot():
    # Every attribute of BasicSR's modules and classes by identity; registries by their first entries.
    found = {}
    for name, module in sorted(sys.modules.items()):
        if name.split(".")[0] == "basicsr":
            for key, value in vars(module).items():
                found[name, key] = value
                if isinstance(value, type) and value.__module__.startswith("basicsr"):
                    found.update({(name, key, attribute): v for attribute, v in vars(value).items()})
    return found

def changed(before, after):
    names = [name for name, value in before.items() if after.get(name) is not value]
    # The import system adds a submodule to its package.
    names += [name for name in after.keys() - before.keys() if not isinstance(after[name], types.ModuleType)
              and sys.modules.get(name[0]) is not None and name[0] in {n for n, *_ in before}]
    return [name for name in names if name[-1] not in ("__warningregistry__",)]
"""


def run(code, cwd=None):
    words = [sys.executable, "-W", "ignore", "-c", SNAPSHOT + code]
    done = subprocess.run(words, capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_import_changes_nothing_and_a_training_command_restores_everything():
    code = """
import lightbsr_compat  # lets BasicSR be imported at all
import basicsr, basicsr.train, basicsr.test
from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, LOSS_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY
registries = [ARCH_REGISTRY, DATASET_REGISTRY, LOSS_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY]
before, entries = snapshot(), [dict(iter(registry)) for registry in registries]
import lightbsr
assert len(before) > 1000 and changed(before, snapshot()) == [], changed(before, snapshot())
for registry, known in zip(registries, entries):
    assert all(dict(iter(registry))[name] is value for name, value in known.items())
assert "LightBSR" in ARCH_REGISTRY

from lightbsr.training.basicsr_fixes import fixed_basicsr
before = snapshot()
with fixed_basicsr():
    assert ("basicsr.train", "parse_options") in changed(before, snapshot())
assert changed(before, snapshot()) == []
try:
    with fixed_basicsr():
        raise KeyboardInterrupt
except KeyboardInterrupt:
    assert changed(before, snapshot()) == []
"""
    run(code)


def test_patches_and_registered_names_of_another_package_are_kept():
    """Our functional_tensor gives way to another one; our names that are taken get a suffix, with a warning."""
    code = """
import importlib.machinery, warnings
name = "torchvision.transforms.functional_tensor"
other = sys.modules[name] = types.ModuleType(name)
other.__spec__ = importlib.machinery.ModuleSpec(name, None)
other.rgb_to_grayscale = lambda image: image
import lightbsr_compat
import basicsr.data.degradations
assert sys.modules[name] is other and basicsr.data.degradations.rgb_to_grayscale is other.rgb_to_grayscale

from basicsr.utils.registry import ARCH_REGISTRY, LOSS_REGISTRY
@LOSS_REGISTRY.register()
class ContrastiveLoss: pass
@ARCH_REGISTRY.register()
class Bicubic: pass
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always", UserWarning)
    import lightbsr_models
assert LOSS_REGISTRY.get("ContrastiveLoss") is ContrastiveLoss and ARCH_REGISTRY.get("Bicubic") is Bicubic
assert LOSS_REGISTRY.get("ContrastiveLoss_lightbsr") is lightbsr_models.ContrastiveLoss
assert sum("_lightbsr" in str(w.message) for w in caught) == 2
"""
    run(code)


def test_the_usual_stand_in_for_the_torchvision_module_is_kept():
    """A bare module, without ``__spec__``, as it is recommended for BasicSR."""
    code = """
name = "torchvision.transforms.functional_tensor"
other = sys.modules[name] = types.ModuleType(name)
other.rgb_to_grayscale = lambda image: image
import lightbsr, basicsr.data.degradations
assert sys.modules[name] is other and basicsr.data.degradations.rgb_to_grayscale is other.rgb_to_grayscale
"""
    run(code)


def test_lightbsr_compat_imports_neither_torch_nor_basicsr():
    code = 'import lightbsr_compat; assert not {"torch", "torchvision", "basicsr", "numpy"} & sys.modules.keys()'
    run(code)


def test_the_torchvision_module_is_found_last_and_loaded_on_import():
    code = """
import importlib.util
import lightbsr_compat, lightbsr_compat.functional_tensor
lightbsr_compat.functional_tensor.install_functional_tensor()  # a second time changes nothing
name = "torchvision.transforms.functional_tensor"
assert [type(f).__module__ for f in sys.meta_path].count("lightbsr_compat.functional_tensor") == 1
assert type(sys.meta_path[-1]).__module__ == "lightbsr_compat.functional_tensor"
spec = importlib.util.find_spec(name)
assert name not in sys.modules and spec.loader is not None
import torchvision
import torchvision.transforms.functional_tensor as module
assert module.__spec__.name == name and module.__loader__ is module.__spec__.loader
assert module.rgb_to_grayscale is torchvision.transforms.functional.rgb_to_grayscale
"""
    run(code)


def test_a_folder_called_basicsr_does_not_stop_upscaling(tmp_path):
    (tmp_path / "basicsr" / "models").mkdir(parents=True)
    (tmp_path / "basicsr" / "__init__.py").write_text("raise ImportError('a fork')\n")
    run("import lightbsr.upscaling.command", cwd=tmp_path)
