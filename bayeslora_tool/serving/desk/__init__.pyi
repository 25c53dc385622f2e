from .app import desk_app as desk_app
from .binding import Binding as Binding
from .binding import Proxy as Proxy
from .running import serve_desk as serve_desk
from .setting import Similar as Similar
