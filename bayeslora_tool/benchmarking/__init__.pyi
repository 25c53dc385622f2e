from .bench import run_bench as run_bench
from .scaling import cost_curves as cost_curves
from .timing import peak_mb as peak_mb
from .timing import ratio as ratio
from .timing import take_turns as take_turns
