from .arm import ARM as ARM
from .arm import Plan as Plan
from .errors import DistvizError as DistvizError
from .hooks import WatchResult as WatchResult
from .hooks import redistribute as redistribute
from .hooks import watch as watch
from .measure import run as run
from .results import Comparison as Comparison
from .results import Run as Run
from .results import Training as Training
from .stats import Sketch as Sketch
from .studies import compare as compare

__version__: str
