// Compiled into the shared library only: a C or cffi program gets errors it can read instead of
// mlx-c's default, which prints and ends the process.
#include "graft_error.h"

namespace {
struct InstallAtLoad {
  InstallAtLoad() {
    graft_error_install();
  }
} install_at_load;
} // namespace
