"""LightBSR and KDSR for BasicSR: importing this registers all networks, models, losses and datasets."""

import sys
from importlib import metadata
from typing import TYPE_CHECKING, Any

if "lightbsr_cli" not in sys.modules:  # the command line imports what its command needs, and no more
    import lightbsr_data  # noqa: F401
    from lightbsr_compat import has_basicsr

    if has_basicsr():
        import lightbsr_models  # noqa: F401

if TYPE_CHECKING:
    from .training.pipelines import test_pipeline, train_pipeline
    from .upscaling.upscaler import Upscaler

__version__ = metadata.version("lightbsr")
__all__ = ["Upscaler", "__version__", "test_pipeline", "train_pipeline"]


def __getattr__(name: str) -> Any:
    if name == "Upscaler":  # imported when it is asked for
        from .upscaling.upscaler import Upscaler

        return Upscaler
    if name in ("test_pipeline", "train_pipeline"):
        from .training import pipelines

        return getattr(pipelines, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
