"""BasicSR models, losses, and the registration of all networks and data sets: importing this makes them known."""

from lightbsr_compat import require_basicsr

require_basicsr("training")

import lightbsr_data.datasets  # noqa: E402, F401  registers the data sets

from .kdsr_model import KDSRGANModel, KDSRStudentModel, KDSRTeacherModel  # noqa: E402
from .lightbsr_student_model import LightBSRGANModel, LightBSRStudentModel  # noqa: E402
from .lightbsr_teacher_model import LightBSRTeacherModel  # noqa: E402
from .losses import ContrastiveLoss, KLDistillationLoss  # noqa: E402
from .networks import Bicubic  # noqa: E402

__all__ = [
    "Bicubic",
    "ContrastiveLoss",
    "KDSRGANModel",
    "KDSRStudentModel",
    "KDSRTeacherModel",
    "KLDistillationLoss",
    "LightBSRGANModel",
    "LightBSRStudentModel",
    "LightBSRTeacherModel",
]
