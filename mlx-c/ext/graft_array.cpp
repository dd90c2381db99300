#include "graft_array.h"

#include "mlx/c/error.h"
#include "mlx/c/private/mlx.h"

extern "C" const void* graft_array_data(const mlx_array arr) {
  try {
    auto& a = mlx_array_get_(arr);
    if (!a.is_available()) {
      return nullptr;
    }
    return a.data<uint8_t>();
  } catch (std::exception& e) {
    mlx_error(e.what());
    return nullptr;
  }
}

extern "C" int graft_array_is_scheduled(bool* res, const mlx_array arr) {
  try {
    *res = mlx_array_get_(arr).status() != mlx::core::array::Status::unscheduled;
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
  return 0;
}

extern "C" int graft_array_is_tracer(bool* res, const mlx_array arr) {
  try {
    *res = mlx_array_get_(arr).is_tracer();
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
  return 0;
}

extern "C" int graft_array_id(uintptr_t* res, const mlx_array arr) {
  try {
    *res = mlx_array_get_(arr).id();
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
  return 0;
}
