"""LightBSR and KDSR for BasicSR: importing this registers all networks, models, losses and datasets."""

from importlib import metadata

import lightbsr_data
from lightbsr_compat import has_basicsr

if has_basicsr():
    import lightbsr_models

__version__ = metadata.version("lightbsr")
__all__ = ["__version__"]
