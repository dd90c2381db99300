#include "graft_print.h"

#include "mlx/c/error.h"
#include "mlx/utils.h"

extern "C" int graft_get_print_precision(int* res) {
  try {
    *res = mlx::core::get_global_formatter().format_options.precision;
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
  return 0;
}

extern "C" int graft_set_print_precision(int precision) {
  try {
    mlx::core::set_printoptions({precision});
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
  return 0;
}
