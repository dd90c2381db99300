#include "graft_distributed.h"

#include <memory>
#include <stdexcept>

#include "mlx/c/error.h"
#include "mlx/c/private/mlx.h"
#include "mlx/distributed/distributed.h"
#include "mlx/distributed/distributed_impl.h"

namespace distributed = mlx::core::distributed;

extern "C" int graft_distributed_stream(mlx_stream* res, const mlx_distributed_group group) {
  try {
    auto chosen = group.ctx ? mlx_distributed_group_get_(group) : distributed::init();
    mlx_stream_set_(*res, chosen.raw_group()->communication_stream());
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
  return 0;
}

extern "C" int graft_distributed_init_jaccl(
    mlx_distributed_group* res,
    bool strict,
    graft_distributed_all_gather all_gather,
    void* payload,
    void (*dtor)(void*)) {
  try {
    auto shared = std::shared_ptr<void>(payload, dtor);
    auto factory = [all_gather, shared](int rank, int size) {
      return distributed::AllGatherFn(
          [all_gather, shared, rank, size](const char* src, char* dst, size_t n_bytes) {
            if (all_gather(src, dst, n_bytes, rank, size, shared.get()) != 0) {
              throw std::runtime_error("[distributed] The all_gather of the caller failed.");
            }
          });
    };
    mlx_distributed_group_set_(*res, distributed::init(strict, "jaccl", factory));
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
  return 0;
}
