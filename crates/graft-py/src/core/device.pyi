from mlx.core import Device, DeviceType

def default_device() -> Device:
    """The device on which operations run when nothing says otherwise."""

def set_default_device(device: Device | DeviceType) -> None:
    """Sets the device on which operations run when nothing says otherwise.

    Raises: `ValueError` if there is no such device.
    """

def is_available(device: Device | DeviceType) -> bool:
    """Whether a device exists on this machine."""

def device_count(device_type: DeviceType) -> int:
    """How many devices of a kind there are."""

def device_info(d: Device | DeviceType | None = None) -> dict[str, str | int]:
    """The properties of a device, the default one if none is given: names such as `device_name`,
    with texts and numbers. Empty for a device that does not exist."""
