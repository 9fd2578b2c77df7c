from .export import export_folder as export_folder
from .export import write_folder as write_folder
from .html import page_of as page_of
from .html import report_folders as report_folders
from .html import write_page as write_page
from .notebook import ComparisonPlots as ComparisonPlots
from .notebook import RunPlots as RunPlots
from .notebook import result_html as result_html
