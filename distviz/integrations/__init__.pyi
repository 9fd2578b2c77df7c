from .export import TOOLS as TOOLS
from .export import export_for as export_for
from .sinks import TensorBoardSink as TensorBoardSink
from .sinks import TrackioSink as TrackioSink
from .sinks import WandbSink as WandbSink
from .trainer import TrainerCallback as TrainerCallback
