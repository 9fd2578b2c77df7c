from . import calls as calls
from .process import main as main
