"""LightBSR and KDSR for BasicSR: importing this registers all networks, models, losses and datasets."""

from importlib import metadata

import lightbsr_data  # noqa: F401
from lightbsr_compat import has_basicsr

if has_basicsr():
    import lightbsr_models  # noqa: F401

__version__ = metadata.version("lightbsr")
__all__ = ["__version__"]
