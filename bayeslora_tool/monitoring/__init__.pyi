from .betting import RiskMonitor as RiskMonitor
from .betting import ShiftMonitor as ShiftMonitor
from .monitor_file import Status as Status
from .watch import Monitor as Monitor
from .watch import TrippedError as TrippedError
