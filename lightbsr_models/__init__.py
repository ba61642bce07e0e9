"""BasicSR models, losses and network registrations: importing this package makes them known to BasicSR."""

from lightbsr_compat import require_basicsr

require_basicsr("training")

from .kdsr_models import KDSRGANModel, KDSRStudentModel, KDSRTeacherModel  # noqa: E402
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
