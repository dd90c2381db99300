from types import TracebackType
from typing import final

from mlx.core import Device, DeviceType, Stream, ThreadLocalStream

def default_stream(device: Device | DeviceType) -> Stream:
    """The default stream of a device on this thread.

    Raises: `ValueError` if there is no such device.
    """

def set_default_stream(stream: Stream) -> None:
    """Makes a stream the default one of its device on this thread; the default device stays."""

def new_stream(device: Device | DeviceType) -> Stream:
    """A new stream on a device, for this thread only.

    Raises: `ValueError` if there is no such device.
    """

def new_thread_unsafe_stream(device: Device | DeviceType) -> Stream:
    """A new stream on a device for any thread.

    Nothing keeps two threads from evaluating on it at once, which is a race: that is the caller's
    to see to.
    """

def new_thread_local_stream(device: Device | DeviceType) -> ThreadLocalStream:
    """A new stream on a device that is another one on every thread."""

def clear_streams() -> None:
    """Ends all streams of this thread, and forgets its random state and what was compiled on it."""

def synchronize(stream: Stream | ThreadLocalStream | Device | DeviceType | None = None) -> None:
    """Waits until everything on a stream, or on the default stream of a device, is done; without
    one, on the default stream of the default device."""

def stream(s: Stream | ThreadLocalStream | Device | DeviceType) -> StreamContext:
    """A context manager in which a stream, or the default stream of a device, is the default one,
    and its device the default device."""

@final
class StreamContext:
    """A context manager that sets the default device and stream, made by `stream`."""

    def __new__(cls, s: Stream | ThreadLocalStream | Device | DeviceType) -> StreamContext: ...
    def __enter__(self) -> None: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None: ...
