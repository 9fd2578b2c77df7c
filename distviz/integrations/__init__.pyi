from .export import TOOLS as TOOLS
from .export import export_for as export_for
from .trainer import TrainerCallback as TrainerCallback
