#include "graft_einsum.h"

#include "mlx/c/error.h"
#include "mlx/c/private/mlx.h"
#include "mlx/einsum.h"

extern "C" int graft_einsum_path(
    mlx_vector_int* positions,
    mlx_vector_int* counts,
    mlx_string* summary,
    const char* subscripts,
    const mlx_vector_array operands) {
  try {
    auto [path, text] = mlx::core::einsum_path(subscripts, mlx_vector_array_get_(operands));
    std::vector<int> flat;
    std::vector<int> sizes;
    for (auto& contraction : path) {
      flat.insert(flat.end(), contraction.begin(), contraction.end());
      sizes.push_back(contraction.size());
    }
    mlx_vector_int_set_(*positions, flat);
    mlx_vector_int_set_(*counts, sizes);
    mlx_string_set_(*summary, text);
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
  return 0;
}
