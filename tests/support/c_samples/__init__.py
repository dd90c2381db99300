"""A sample of the functions of each concept, called from C and compared with Python."""

from support.c_samples import (
    arrays,
    closures,
    compiled,
    containers,
    exported,
    files,
    groups,
    kernels,
    machine,
    operations,
    profile,
    transforms,
)
from support.c_samples.sample import SAMPLES, Sample, in_c, in_python

__all__ = [
    "SAMPLES",
    "Sample",
    "arrays",
    "closures",
    "compiled",
    "containers",
    "exported",
    "files",
    "groups",
    "in_c",
    "in_python",
    "kernels",
    "machine",
    "operations",
    "profile",
    "transforms",
]
