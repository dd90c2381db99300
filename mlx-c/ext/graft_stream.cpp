#include "graft_stream.h"

#include "mlx/c/error.h"
#include "mlx/c/private/mlx.h"

extern "C" int graft_get_default_stream(mlx_stream* res) {
  try {
    mlx_stream_set_(*res, mlx::core::default_stream(mlx::core::default_device()));
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
  return 0;
}
