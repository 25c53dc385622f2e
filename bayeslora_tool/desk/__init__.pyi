from .chain import Damage as Damage
from .desk import Desk as Desk
from .ledger import Ledger as Ledger
from .refusal import ReviewError as ReviewError
from .review import FiledReview as FiledReview
from .states import TRANSITIONS as TRANSITIONS
from .states import State as State
from .store import LedgerError as LedgerError
