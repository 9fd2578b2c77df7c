from .arm import ARM as ARM
from .arm import Plan as Plan
from .errors import DistvizError as DistvizError
from .functions import compare as compare
from .functions import export as export
from .functions import filler as filler
from .functions import generate as generate
from .functions import inspect as inspect
from .functions import report as report
from .functions import run as run
from .functions import sweep as sweep
from .functions import whatif as whatif
from .hooks import WatchResult as WatchResult
from .hooks import redistribute as redistribute
from .hooks import watch as watch
from .measure import Monitor as Monitor
from .results import Comparison as Comparison
from .results import Run as Run
from .results import Training as Training
from .stats import Sketch as Sketch

__version__: str
